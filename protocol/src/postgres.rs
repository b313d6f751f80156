//! The record. Each function is one transaction of `core::db`, under whose name it is found here.

use eventrail_core::db::delivery::Status;
use eventrail_core::protocol::{Addressed, covers};

use crate::world::{EndpointId, EventId, Position, Set};

#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Event {
    pub position: Position,
    pub id: EventId,
    pub kind: u8,
}

/// An interval of the log in which an endpoint wants events of these kinds.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Subscription {
    pub endpoint: EndpointId,
    pub from: Position,
    pub to: Option<Position>,
    pub kinds: Set,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Parked {
    pub endpoint: EndpointId,
    pub from: Position,
    pub to: Option<Position>,
    pub owed_from: Option<Position>,
    pub skipped: bool,
}

impl Parked {
    /// Whether the endpoint is never to get what is at this position.
    pub fn skips(&self, endpoint: EndpointId, position: Position) -> bool {
        self.skipped && self.endpoint == endpoint && within(self.from, self.to, position.into())
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Kind {
    Live,
    CatchUp,
    Replay,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum State {
    Active,
    Done,
    /// Ended by hand: its stream wants deleting.
    Closed,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Feed {
    pub id: u8,
    pub kind: Kind,
    pub epoch: u8,
    pub ask: Position,
    pub endpoint: Option<EndpointId>,
    pub as_of: Option<Position>,
    pub owed_from: Option<Position>,
    pub only_missing: bool,
    pub from: Position,
    pub to: Option<Position>,
    pub settled: Position,
    pub state: State,
}

impl Feed {
    /// Whether it leaves out what was delivered, at this position.
    pub fn leaves_out(&self, position: Position) -> bool {
        self.only_missing && self.as_of.is_some_and(|as_of| position <= as_of)
    }

    /// `db::topology::Feed::addressed`.
    fn addressed(&self) -> Addressed {
        Addressed { as_of: self.as_of.map(Into::into), owed_from: self.owed_from.map(Into::into) }
    }

    /// Where it ends, if that is before `position`.
    pub fn until(&self, position: Position) -> Position {
        self.to.map_or(position, |end| end.min(position))
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Row {
    pub event: EventId,
    pub endpoint: EndpointId,
    pub ask: Position,
    pub status: Status,
    pub attempts: u8,
}

/// The rows of `attempt`, counted by event, endpoint and ask.
pub type Attempts = ((EventId, EndpointId, Position), u8);

/// What is recorded of one delivery.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Outcome {
    pub event: EventId,
    pub endpoint: EndpointId,
    pub ask: Position,
    pub status: Status,
    pub is_attempt: bool,
}

/// What decides who is owed an event, as it was read in one snapshot.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Default)]
pub struct Topology {
    pub version: u8,
    pub subscriptions: Vec<Subscription>,
    pub parked: Vec<Parked>,
}

impl Topology {
    /// The endpoints that a feed owes this event to.
    pub fn targets(&self, feed: &Feed, event: Event) -> Set {
        let (addressed, position) = (feed.addressed(), event.position.into());
        let mut targets = 0;
        for one in &self.subscriptions {
            let is_wanted = match feed.endpoint {
                Some(only) => one.endpoint == only,
                None => !is_parked(&self.parked, one.endpoint, event.position),
            };
            if is_wanted
                && one.kinds & (1 << event.kind) != 0
                && addressed.covers(one.from.into(), one.to.map(Into::into), position)
            {
                targets |= 1 << one.endpoint;
            }
        }
        targets
    }
}

fn within(from: Position, to: Option<Position>, position: i64) -> bool {
    covers(from.into(), to.map(Into::into), position)
}

pub fn is_parked(parked: &[Parked], endpoint: EndpointId, position: Position) -> bool {
    parked.iter().any(|one| one.endpoint == endpoint && within(one.from, one.to, position.into()))
}

#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Postgres {
    pub next_position: Position,
    pub version: u8,
    /// The log, in the order of positions.
    pub events: Vec<Event>,
    /// Drawn, and not committed yet. Whoever draws holds the log lock, but in a variant.
    pub open: Vec<Event>,
    pub subscriptions: Vec<Subscription>,
    /// Endpoints that are switched off.
    pub disabled: Set,
    pub feeds: Vec<Feed>,
    pub parked: Vec<Parked>,
    pub rows: Vec<Row>,
    pub attempts: Vec<Attempts>,
    /// What a crash would leave of both, where they are committed asynchronously.
    pub flushed: Option<(Vec<Row>, Vec<Attempts>)>,
}

pub const LIVE: u8 = 0;
pub const ALL_KINDS: Set = 0b11;

impl Postgres {
    pub fn new(endpoints: u8) -> Self {
        let live = Feed {
            id: LIVE,
            kind: Kind::Live,
            epoch: 0,
            ask: 1,
            endpoint: None,
            as_of: None,
            owed_from: None,
            only_missing: false,
            from: 1,
            to: None,
            settled: 1,
            state: State::Active,
        };
        let subscribed = |endpoint| Subscription { endpoint, from: 1, to: None, kinds: ALL_KINDS };
        Self {
            next_position: 2,
            version: 1,
            events: Vec::new(),
            open: Vec::new(),
            subscriptions: (0..endpoints).map(subscribed).collect(),
            disabled: 0,
            feeds: vec![live],
            parked: Vec::new(),
            rows: Vec::new(),
            attempts: Vec::new(),
            flushed: None,
        }
    }

    /// `draw_positions(1)`, under the log lock.
    pub fn draw(&mut self) -> Position {
        self.next_position += 1;
        self.next_position - 1
    }

    /// `append_events` up to its commit.
    pub fn begin_event(&mut self, kind: u8) {
        let position = self.draw();
        self.open.push(Event { position, id: position, kind });
    }

    /// Its commit: from here on the event is visible.
    pub fn commit_event(&mut self, index: usize) {
        let event = self.open.remove(index);
        let at = self.events.partition_point(|one| one.position < event.position);
        self.events.insert(at, event);
    }

    /// The end of the log.
    pub fn head(&self) -> Position {
        self.events.last().map_or(0, |event| event.position)
    }

    /// Events in `(after, to]`.
    pub fn read(&self, after: Position, to: Position) -> impl Iterator<Item = Event> + '_ {
        self.events.iter().copied().filter(move |event| event.position > after && event.position <= to)
    }

    /// `db::topology::read`: closed intervals matter as long as a feed may still come by.
    pub fn topology(&self) -> Topology {
        let active = self.feeds.iter().filter(|feed| feed.state == State::Active);
        let lowest = active.map(|feed| feed.settled).min().unwrap_or(0);
        let live = self.live().settled;
        Topology {
            version: self.version,
            subscriptions: self
                .subscriptions
                .iter()
                .copied()
                .filter(|one| one.to.is_none_or(|to| to > lowest))
                .collect(),
            parked: self.parked.iter().copied().filter(|one| one.to.is_none_or(|to| to > live)).collect(),
        }
    }

    pub fn live(&self) -> &Feed {
        &self.feeds[usize::from(LIVE)]
    }

    pub fn feed(&self, id: u8) -> &Feed {
        &self.feeds[usize::from(id)]
    }

    /// Where an active feed stands: epoch and settled position (`db::feed::cursors`).
    pub fn cursor(&self, id: u8) -> Option<(u8, Position)> {
        let feed = self.feed(id);
        (feed.state == State::Active).then_some((feed.epoch, feed.settled))
    }

    pub fn row(&self, event: EventId, endpoint: EndpointId) -> Option<&Row> {
        self.rows.iter().find(|row| (row.event, row.endpoint) == (event, endpoint))
    }

    /// `db::delivery::record`: an outcome of a lower ask adds its attempt and leaves the row, and so does one
    /// that comes after a final status. Answers the row after it.
    pub fn record(&mut self, outcome: Outcome) -> Row {
        let attempts = u8::from(outcome.is_attempt);
        if outcome.is_attempt {
            self.count_attempt((outcome.event, outcome.endpoint, outcome.ask));
        }
        let fresh = Row {
            event: outcome.event,
            endpoint: outcome.endpoint,
            ask: outcome.ask,
            status: outcome.status,
            attempts,
        };
        let key = (outcome.event, outcome.endpoint);
        let at = self.rows.partition_point(|row| (row.event, row.endpoint) < key);
        let Some(row) = self.rows.get_mut(at).filter(|row| (row.event, row.endpoint) == key) else {
            self.rows.insert(at, fresh);
            return fresh;
        };
        if outcome.ask > row.ask {
            *row = fresh;
        } else if outcome.ask == row.ask {
            let stays_retrying = outcome.status == Status::Pending && row.status == Status::Retrying;
            if row.status.waits() && !stays_retrying {
                row.status = outcome.status;
            }
            row.attempts += attempts;
        }
        *row
    }

    fn count_attempt(&mut self, key: (EventId, EndpointId, Position)) {
        let at = self.attempts.partition_point(|(other, _)| *other < key);
        match self.attempts.get_mut(at).filter(|(other, _)| *other == key) {
            Some((_, count)) => *count += 1,
            None => self.attempts.insert(at, (key, 1)),
        }
    }

    pub fn attempts_of(&self, key: (EventId, EndpointId, Position)) -> u8 {
        self.attempts.iter().find(|(other, _)| *other == key).map_or(0, |(_, count)| *count)
    }

    /// `db::waiting::falling_due`, of one delivery.
    pub fn falls_due(&self, event: EventId, endpoint: EndpointId) -> bool {
        self.disabled & (1 << endpoint) == 0
            && self.row(event, endpoint).is_some_and(|row| row.status.waits())
    }
}
