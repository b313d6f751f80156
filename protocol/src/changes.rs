//! Changes of the topology: transactions that hold the log lock from their first statement on, and settled
//! positions.

use eventrail_core::db::delivery::Status;

use crate::postgres::{ALL_KINDS, Feed, Kind, LIVE, Parked, Postgres, State, Subscription};
use crate::world::{EndpointId, Position, Set};

/// Kinds of events that an endpoint wants whose filter was changed.
const FEWER_KINDS: Set = 0b01;

/// An interval that was closed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Closed {
    pub endpoint: EndpointId,
    pub from: Position,
    pub to: Position,
    pub owed_from: Position,
}

impl Postgres {
    /// Whether the log lock is free.
    pub fn is_unlocked(&self) -> bool {
        self.open.is_empty()
    }

    /// `db::feed::settle`: forward, and only in the epoch in which it was seen.
    pub fn settle(&mut self, feed: u8, epoch: u8, position: Position) {
        let feed = &mut self.feeds[usize::from(feed)];
        if feed.epoch == epoch && feed.state == State::Active {
            feed.settled = feed.settled.max(position);
        }
    }

    /// `db::feed::finish`.
    pub fn finish(&mut self, feed: u8, epoch: u8) {
        let feed = &mut self.feeds[usize::from(feed)];
        if let (true, Some(end)) = (feed.epoch == epoch && feed.state == State::Active, feed.to) {
            feed.state = State::Done;
            feed.settled = end;
        }
        self.version = self.version.wrapping_add(1);
    }

    /// `db::feed::begin_epoch`.
    pub fn begin_epoch(&mut self, feed: u8, epoch: u8) {
        let feed = &mut self.feeds[usize::from(feed)];
        if feed.epoch == epoch && feed.state == State::Active {
            feed.epoch += 1;
        }
        self.version = self.version.wrapping_add(1);
    }

    /// Deferred deliveries of an endpoint.
    fn deferred(&self, endpoint: EndpointId) -> usize {
        self.rows.iter().filter(|row| row.endpoint == endpoint && row.status == Status::Pending).count()
    }

    fn open_interval(&mut self, endpoint: EndpointId) -> Option<&mut Parked> {
        self.parked.iter_mut().find(|one| one.endpoint == endpoint && one.to.is_none())
    }

    /// `db::parking::to_park`, where more than no deferred delivery is too many.
    pub fn wants_parking(&self, endpoint: EndpointId) -> bool {
        let is_parked = self.parked.iter().any(|one| one.endpoint == endpoint && one.to.is_none());
        !is_parked && (self.disabled & (1 << endpoint) != 0 || self.deferred(endpoint) > 0)
    }

    /// `db::parking::park`.
    pub fn park(&mut self, feed: u8, epoch: u8, from: Position, endpoint: EndpointId) {
        let feed = *self.feed(feed);
        let fits = feed.epoch == epoch && feed.state == State::Active;
        if fits && self.open_interval(endpoint).is_none() {
            let owed_from = feed.owed_from;
            self.parked.push(Parked { endpoint, from, to: None, owed_from, skipped: false });
        }
        self.version = self.version.wrapping_add(1);
    }

    /// `db::parking::unpark` asks this before it takes the lock.
    pub fn may_unpark(&self, endpoint: EndpointId) -> bool {
        self.parked.iter().any(|one| one.endpoint == endpoint && one.to.is_none())
            && self.disabled & (1 << endpoint) == 0
            && self.deferred(endpoint) == 0
    }

    /// The first half of `db::parking::unpark`: the interval is closed here and now.
    pub fn close_interval(&mut self, endpoint: EndpointId) -> Option<Closed> {
        let here = self.draw();
        self.version = self.version.wrapping_add(1);
        let open = self.open_interval(endpoint)?;
        let to = here.max(open.from);
        open.to = Some(to);
        let owed_from = open.owed_from.map_or(open.from, |owed| owed.max(open.from));
        Some(Closed { endpoint, from: open.from, to, owed_from })
    }

    /// The second half, in the same transaction: the catch-up feed over it.
    pub fn make_catch_up(&mut self, closed: Closed) {
        let live = *self.live();
        self.feeds.push(Feed {
            id: self.feeds.len() as u8,
            kind: Kind::CatchUp,
            epoch: 0,
            endpoint: Some(closed.endpoint),
            from: closed.from,
            to: Some(closed.to),
            owed_from: Some(closed.owed_from),
            settled: closed.from,
            ..live
        });
        self.version = self.version.wrapping_add(1);
    }

    /// `db::endpoint_change::replace` with another filter.
    pub fn change_filter(&mut self, endpoint: EndpointId) {
        let here = self.draw();
        let open = self.subscriptions.iter_mut().find(|one| one.endpoint == endpoint && one.to.is_none());
        let Some(open) = open else { return };
        open.to = Some(here);
        let kinds = if open.kinds == ALL_KINDS { FEWER_KINDS } else { ALL_KINDS };
        self.subscriptions.push(Subscription { endpoint, from: here, to: None, kinds });
        self.version = self.version.wrapping_add(1);
    }

    /// `db::endpoint_change::disable` and `enable`.
    pub fn switch(&mut self, endpoint: EndpointId) {
        self.disabled ^= 1 << endpoint;
        self.version = self.version.wrapping_add(1);
    }

    /// `db::replay_create::create`, of all that the log holds; answers its feed, unless there is nothing to bring.
    pub fn create_replay(&mut self, endpoint: EndpointId, only_missing: bool) -> Option<Feed> {
        let ask = self.draw();
        self.version = self.version.wrapping_add(1);
        let open = self.subscriptions.iter().find(|one| one.endpoint == endpoint && one.to.is_none())?;
        self.events.iter().find(|event| open.kinds & (1 << event.kind) != 0)?;
        let from = self.events.first()?.position - 1;
        let feed = Feed {
            id: self.feeds.len() as u8,
            kind: Kind::Replay,
            epoch: 0,
            ask,
            endpoint: Some(endpoint),
            as_of: Some(ask),
            owed_from: None,
            only_missing,
            from,
            to: Some(self.head()),
            settled: from,
            state: State::Active,
        };
        self.feeds.push(feed);
        Some(feed)
    }

    /// `db::cursor::set` to a position before the settled one; answers the new ask.
    pub fn move_back(&mut self, position: Position, only_missing: bool) -> Position {
        let here = self.draw();
        for feed in self.feeds.iter_mut().filter(|feed| feed.state == State::Active) {
            let is_live = feed.id == LIVE;
            if !is_live && (feed.kind != Kind::CatchUp || feed.to <= Some(position)) {
                continue;
            }
            feed.epoch += 1;
            feed.ask = here;
            feed.as_of = Some(here);
            feed.owed_from = feed.owed_from.max(Some(feed.settled));
            feed.only_missing = only_missing;
            if is_live {
                feed.from = position;
                feed.settled = position;
            } else {
                feed.settled = feed.settled.min(feed.from.max(position));
            }
        }
        let owed_from = self.live().owed_from;
        let (feeds, parked) = (&self.feeds, &mut self.parked);
        let is_caught_up = |one: &Parked| {
            feeds.iter().any(|feed| {
                feed.kind == Kind::CatchUp
                    && feed.state == State::Active
                    && (feed.endpoint, feed.from, feed.to) == (Some(one.endpoint), one.from, one.to)
            })
        };
        let ended = |one: &Parked| one.to.is_some_and(|to| to > position) && !is_caught_up(one);
        parked.retain(|one| !(ended(one) && one.from >= position));
        for one in parked {
            if ended(one) {
                one.to = Some(position);
            } else if one.to.is_none() && one.from > position {
                one.owed_from = owed_from.min(one.owed_from.max(Some(one.from)));
                one.from = position;
            }
        }
        self.version = self.version.wrapping_add(1);
        here
    }

    /// `db::cursor::set` to the end: all that is not settled, parked or being caught up is given up.
    pub fn move_to_end(&mut self) {
        let here = self.draw();
        let live = &mut self.feeds[usize::from(LIVE)];
        let settled = live.settled;
        live.only_missing &= live.as_of.is_some_and(|as_of| settled < as_of);
        live.epoch += 1;
        (live.from, live.settled) = (here, here);
        for feed in self
            .feeds
            .iter_mut()
            .filter(|feed| feed.kind == Kind::CatchUp && feed.state == State::Active && feed.from < here)
        {
            // The end of a catch-up was drawn before this.
            feed.state = State::Closed;
            let (Some(endpoint), Some(to)) = (feed.endpoint, feed.to) else { continue };
            for one in &mut self.parked {
                if (one.endpoint, one.from, one.to) == (endpoint, feed.from, feed.to) {
                    one.from = to;
                }
            }
            let from = feed.from;
            self.parked.push(Parked { endpoint, from, to: Some(to), owed_from: None, skipped: true });
        }
        self.give_up(settled, here);
        self.version = self.version.wrapping_add(1);
    }

    /// Only in a variant: what was owed before a cursor was moved back is forgotten.
    pub fn forget_owed(&mut self) {
        self.feeds.iter_mut().for_each(|feed| feed.owed_from = None);
    }

    fn give_up(&mut self, settled: Position, here: Position) {
        let mut endpoints: Vec<EndpointId> = self.subscriptions.iter().map(|one| one.endpoint).collect();
        endpoints.sort_unstable();
        endpoints.dedup();
        for endpoint in endpoints {
            let open = self.open_interval(endpoint).map(|open| {
                let from = open.from;
                open.from = here.max(from);
                from
            });
            let from = open.map_or(settled, |from| from.min(settled));
            if settled < here {
                self.parked.push(Parked { endpoint, from, to: Some(here), owed_from: None, skipped: true });
            }
        }
    }
}
