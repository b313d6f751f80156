//! A relay: what it remembers, and its steps, as `dispatcher::relay` takes them. It may lead without knowing that
//! another does too.

use eventrail_core::protocol::{self, Believed};
use eventrail_core::rail::stream::Appended;

use crate::changes::Closed;
use crate::postgres::{Feed, Kind, Postgres, State, Topology};
use crate::redis::{Entry, Owner, Redis, Standing};
use crate::world::{EndpointId, EventId, Position, Set, Setup, Variant};

/// What a relay knows of a feed: `relay::feeds::FeedState`.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Tracked {
    pub feed: Feed,
    pub is_known: bool,
    pub scanned: Position,
    pub tail: Option<Position>,
    pub waiting: Vec<Entry>,
    pub settled: Position,
    pub is_dirty: bool,
}

impl Tracked {
    fn new(feed: Feed) -> Self {
        Self {
            is_known: false,
            scanned: feed.settled,
            tail: None,
            waiting: Vec::new(),
            settled: feed.settled,
            is_dirty: true,
            // Of no use here, and one state more for each of its values.
            feed: Feed { settled: 0, ..feed },
        }
    }

    fn is_live(&self) -> bool {
        self.feed.kind == Kind::Live
    }

    fn offer(&mut self, position: Position, event: EventId, targets: Set) {
        if position > self.scanned && targets != 0 {
            self.waiting.push(Entry { position, event, targets, owner: Owner::Nobody });
        }
    }

    fn stands_at(&self, head: Position) -> bool {
        self.is_known && self.waiting.is_empty() && self.scanned >= self.feed.until(head)
    }

    fn follows(&self, head: Position) -> bool {
        self.is_live() && protocol::follows_head(head.into(), self.feed.as_of.map(Into::into))
    }

    pub fn lags(&self, head: Position) -> bool {
        self.is_known && self.waiting.is_empty() && self.scanned < self.feed.until(head)
    }

    /// Whether all events up to its end were read, while the log goes no further.
    pub fn awaits_its_end(&self, head: Position) -> bool {
        self.stands_at(head) && self.feed.to.is_some_and(|end| self.scanned < end)
    }

    pub fn published(&self) -> Position {
        let first = self.waiting.first().map(|entry| entry.position.into());
        protocol::published(self.scanned.into(), first) as Position
    }

    fn believed(&self) -> Believed {
        Believed {
            tail: self.tail.map(Into::into),
            published: self.published().into(),
            settled: self.settled.into(),
        }
    }
}

/// What a relay has begun and not ended: between the two, others act, but not itself.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
pub enum Pending {
    #[default]
    Nothing,
    /// The stream was looked at; the record is to be read.
    Compare {
        feed: u8,
        standing: Option<Standing>,
    },
    /// This is to be written as settled.
    Store {
        feed: u8,
        position: Position,
        is_complete: bool,
    },
    /// A feed with an end is settled: its stream is to be deleted, then the feed is to be ended.
    Delete {
        feed: u8,
        epoch: u8,
    },
    Finish {
        feed: u8,
        epoch: u8,
    },
    /// A waiting delivery was read, and is to be put into the ZSET.
    Load {
        event: EventId,
        endpoint: EndpointId,
    },
    /// Only in a variant.
    CatchUp(Closed),
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, Default)]
pub struct Relay {
    pub leads: bool,
    pub head: Position,
    pub topology: Topology,
    pub feeds: Vec<Tracked>,
    /// It has looked since it changed the topology itself: production's relay does so before it reads the log.
    pub is_fresh: bool,
    pub pending: Pending,
}

/// A step of a relay: one transaction, script or command.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum RelayStep {
    /// Reads what is new at the head, and the topology if it has changed.
    Look,
    Append(u8),
    Inspect(u8),
    /// Reads for a feed that lags.
    Catch(u8),
    Settle(u8),
    /// Settles a feed in whose stream nothing has been since it was seen empty.
    SettleIdle(u8),
    Park(EndpointId),
    Unpark(EndpointId),
    Load(EventId, EndpointId),
    /// Deletes the stream of a feed that was ended by hand.
    Sweep(u8),
    /// Ends what is pending.
    Go,
}

impl Relay {
    pub fn tracked(&mut self, feed: u8) -> Option<&mut Tracked> {
        self.feeds.iter_mut().find(|tracked| tracked.feed.id == feed)
    }

    pub fn step(&mut self, step: RelayStep, setup: &Setup, postgres: &mut Postgres, redis: &mut Redis) {
        match step {
            RelayStep::Look => self.look(setup, postgres, redis),
            RelayStep::Append(feed) => self.append(feed, setup, redis),
            RelayStep::Inspect(feed) => self.inspect(feed, redis),
            RelayStep::Catch(feed) => self.catch(feed, setup, postgres),
            RelayStep::Settle(feed) => self.settle(feed, setup, redis),
            RelayStep::SettleIdle(feed) => self.settle_idle(feed),
            RelayStep::Park(endpoint) => self.park(endpoint, postgres),
            RelayStep::Unpark(endpoint) => {
                self.is_fresh = false;
                let Some(closed) = postgres.close_interval(endpoint) else { return };
                match setup.variant {
                    Variant::CatchUpApart => self.pending = Pending::CatchUp(closed),
                    _ => postgres.make_catch_up(closed),
                }
            }
            RelayStep::Load(event, endpoint) => self.pending = Pending::Load { event, endpoint },
            RelayStep::Sweep(feed) => {
                redis.delete((feed, postgres.feed(feed).epoch));
                postgres.feeds[usize::from(feed)].state = State::Done;
            }
            RelayStep::Go => self.go(setup, postgres, redis),
        }
    }

    /// `Relay::lead`, `follow_head` and `read_topology`: events, version and topology are of one snapshot.
    fn look(&mut self, setup: &Setup, postgres: &mut Postgres, redis: &mut Redis) {
        if !self.leads {
            *self = Self { leads: true, head: postgres.head(), ..Self::default() };
        }
        if self.topology.version != postgres.version {
            self.read_topology(setup, postgres, redis);
        }
        let events: Vec<_> = postgres.read(self.head, Position::MAX).take(setup.batch.into()).collect();
        let next = events.last().map_or(self.head, |event| event.position);
        for tracked in &mut self.feeds {
            let follows = match setup.variant {
                Variant::HistoryAtHead => tracked.is_live(),
                _ => tracked.follows(self.head),
            };
            let takes_part = events.is_empty() || follows;
            if !(takes_part && tracked.stands_at(self.head)) {
                continue;
            }
            // `Topology::live_targets`, of all groups at once.
            let here = Feed { as_of: None, owed_from: None, ..tracked.feed };
            for event in &events {
                let targets = self.topology.targets(&here, *event);
                tracked.offer(event.position, event.id, targets);
            }
            tracked.scanned = tracked.scanned.max(tracked.feed.to.unwrap_or(next));
        }
        self.head = next;
        self.is_fresh = true;
    }

    fn read_topology(&mut self, setup: &Setup, postgres: &Postgres, redis: &mut Redis) {
        self.topology = postgres.topology();
        if setup.variant == Variant::ParkingByDispatchers {
            self.topology.parked.clear();
        }
        let mut gone = std::mem::take(&mut self.feeds);
        for feed in postgres.feeds.iter().filter(|feed| feed.state == State::Active) {
            let same = gone.iter().position(|tracked| tracked.feed.id == feed.id).map(|at| gone.remove(at));
            let same = same.filter(|tracked| tracked.feed.epoch == feed.epoch);
            self.feeds.push(same.unwrap_or_else(|| Tracked::new(*feed)));
        }
        for tracked in gone {
            redis.delete((tracked.feed.id, tracked.feed.epoch));
        }
    }

    /// `append_all`.
    fn append(&mut self, feed: u8, setup: &Setup, redis: &mut Redis) {
        let Some(tracked) = self.tracked(feed) else { return };
        if setup.variant == Variant::AppendWithoutCompare {
            tracked.tail = redis.inspect((feed, tracked.feed.epoch)).map(|standing| standing.tail);
            // Redis itself refuses what is not beyond the tail.
            tracked.waiting.retain(|entry| Some(entry.position) > tracked.tail);
            if tracked.waiting.is_empty() {
                return;
            }
        }
        match redis.append(&tracked.feed, tracked.tail, setup.window, &tracked.waiting) {
            Appended::Full { .. } => {}
            Appended::Refused { .. } | Appended::Missing => {
                tracked.is_known = false;
                tracked.waiting.clear();
            }
            Appended::Done { .. } => {
                tracked.tail = tracked.waiting.last().map(|entry| entry.position);
                tracked.is_dirty = true;
                tracked.waiting.clear();
            }
        }
    }

    fn inspect(&mut self, feed: u8, redis: &Redis) {
        let Some(tracked) = self.tracked(feed) else { return };
        let standing = redis.inspect((feed, tracked.feed.epoch));
        self.pending = Pending::Compare { feed, standing };
    }

    /// The second half of `Relay::resync`.
    fn compare(&mut self, feed: u8, standing: Option<Standing>, postgres: &mut Postgres, redis: &mut Redis) {
        let Some(tracked) = self.tracked(feed) else { return };
        let epoch = tracked.feed.epoch;
        let Some((_, settled)) = postgres.cursor(feed).filter(|cursor| cursor.0 == epoch) else { return };
        if let Some(standing) = standing {
            let in_log = postgres.events.iter().find(|event| event.position == standing.tail);
            let in_log = in_log.map(|event| event.id);
            let tail = standing.tail.into();
            if !protocol::tail_fits(tail, Some(&standing.tail_event), in_log.as_ref(), settled.into()) {
                return postgres.begin_epoch(feed, epoch);
            }
        }
        tracked.is_known = true;
        tracked.settled = settled;
        tracked.tail = standing.map(|standing| standing.tail);
        let at = protocol::resume_at(tracked.tail.map(Into::into), settled.into());
        tracked.scanned = at as Position;
        tracked.waiting.clear();
        tracked.is_dirty = true;
        for old in 0..epoch {
            redis.delete((feed, old));
        }
    }

    /// `help_lagging` and `help_replays`.
    fn catch(&mut self, feed: u8, setup: &Setup, postgres: &Postgres) {
        let head = self.head;
        let Some(at) = self.feeds.iter().position(|tracked| tracked.feed.id == feed) else { return };
        let tracked = &mut self.feeds[at];
        let end = tracked.feed.until(head);
        let events: Vec<_> = postgres.read(tracked.scanned, end).take(setup.batch.into()).collect();
        for event in &events {
            let targets = self.topology.targets(&tracked.feed, *event);
            tracked.offer(event.position, event.id, targets);
        }
        tracked.scanned = match events.last() {
            Some(last) if events.len() == usize::from(setup.batch) => last.position,
            _ => end,
        };
        tracked.is_dirty = true;
    }

    /// `Relay::settle`, up to what it writes.
    fn settle(&mut self, feed: u8, setup: &Setup, redis: &Redis) {
        let Some(tracked) = self.tracked(feed) else { return };
        let standing = redis.inspect((feed, tracked.feed.epoch));
        let stands = standing.map(Standing::stands);
        let mut believed = tracked.believed();
        if setup.variant == Variant::SettleWithoutTailCheck {
            believed.tail = stands.map(|stands| stands.tail);
        }
        let Some(position) = protocol::settled_to(believed, stands) else {
            tracked.is_known = false;
            return;
        };
        let position = position as Position;
        let is_empty = standing.is_none_or(|standing| standing.length == 0);
        tracked.is_dirty = !is_empty || !tracked.waiting.is_empty() || !tracked.is_live();
        let is_complete = tracked.feed.to.is_some_and(|end| position >= end);
        let epoch = tracked.feed.epoch;
        if position > tracked.settled {
            self.pending = Pending::Store { feed, position, is_complete };
        } else if is_complete {
            self.pending = Pending::Delete { feed, epoch };
        }
    }

    fn settle_idle(&mut self, feed: u8) {
        let Some(tracked) = self.tracked(feed) else { return };
        self.pending = Pending::Store { feed, position: tracked.published(), is_complete: false };
    }

    /// `Relay::park`: from where the live feed was read to.
    fn park(&mut self, endpoint: EndpointId, postgres: &mut Postgres) {
        let Some(live) = self.feeds.iter().find(|tracked| tracked.is_live() && tracked.is_known) else {
            return;
        };
        postgres.park(live.feed.id, live.feed.epoch, live.scanned, endpoint);
        self.is_fresh = false;
    }

    fn go(&mut self, setup: &Setup, postgres: &mut Postgres, redis: &mut Redis) {
        match std::mem::take(&mut self.pending) {
            Pending::Nothing => {}
            Pending::Compare { feed, standing } => self.compare(feed, standing, postgres, redis),
            Pending::Store { feed, position, is_complete } => {
                let Some(tracked) = self.tracked(feed) else { return };
                let epoch = match setup.variant {
                    Variant::SettleAnyEpoch => postgres.feed(feed).epoch,
                    _ => tracked.feed.epoch,
                };
                postgres.settle(feed, epoch, position);
                tracked.settled = tracked.settled.max(position);
                if is_complete {
                    self.pending = Pending::Delete { feed, epoch };
                }
            }
            Pending::Delete { feed, epoch } => {
                redis.delete((feed, epoch));
                self.pending = Pending::Finish { feed, epoch };
            }
            Pending::Finish { feed, epoch } => {
                postgres.finish(feed, epoch);
                self.is_fresh = false;
            }
            Pending::Load { event, endpoint } => redis.load(event, endpoint),
            Pending::CatchUp(closed) => postgres.make_catch_up(closed),
        }
    }
}
