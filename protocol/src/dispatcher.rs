//! A dispatcher: what it has in hand, and its steps, as `dispatcher::{intake, prepare, deliver, record}` take them.

use eventrail_core::db::delivery::Status;
use eventrail_core::protocol::{self, Cause, Claim, Follow};

use crate::postgres::{Kind, Postgres, Row};
use crate::redis::{Entry, Key, Owner, Redis};
use crate::work::{Answer, Held, Source, Stage, Work, commit, outcome_of};
use crate::world::{EndpointId, EventId, Position, Set, Setup, Variant, members};

#[derive(Debug, Clone, PartialEq, Eq, Hash, Default)]
pub struct Dispatcher {
    pub held: Vec<Held>,
    pub works: Vec<Work>,
    /// Only in a variant: the endpoints that it believes to be parked.
    pub parked: Set,
}

/// A step of a dispatcher. Entries and works are named by their places.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum DispatcherStep {
    Read(Key),
    TakeOver(Key),
    /// Reads an entry that is pending here and not in hand.
    ReadOwn(Key, Position),
    Prepare(usize),
    /// Settles an entry that owes nothing.
    Drop(usize),
    Claim {
        event: EventId,
        endpoint: EndpointId,
        is_due: bool,
    },
    PrepareRetry {
        index: usize,
        is_due: bool,
    },
    Try(usize, Answer),
    /// Commits a row for a target whose attempt is under way, due once the attempt must have ended.
    HandOver {
        index: usize,
        is_soon: bool,
    },
    /// Its endpoint is switched off: a retry waits for it as a row, an entry of its own feed is given back.
    PutOff(usize),
    Record(usize),
    Settle(usize, Reach),
    /// Only in a variant: reads who is parked, and parks an endpoint itself, from the stream's tail on.
    Believe,
    Park(EndpointId),
}

/// How far the commands get that settle Redis.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Reach {
    All,
    /// Only the first of them.
    Half,
    None,
}

impl Dispatcher {
    pub fn step(
        &mut self,
        me: u8,
        step: DispatcherStep,
        setup: &Setup,
        postgres: &mut Postgres,
        redis: &mut Redis,
    ) {
        match step {
            DispatcherStep::Read(key) => {
                let entry = redis.read_new(key, me);
                self.hold(key, entry, redis);
            }
            DispatcherStep::TakeOver(key) => {
                let entry = redis.take_over(key, me);
                self.hold(key, entry, redis);
            }
            DispatcherStep::ReadOwn(key, position) => {
                let entries = redis.stream(key).map(|stream| stream.entries.as_slice()).unwrap_or_default();
                let own = |entry: &&Entry| entry.position == position && entry.owner == Owner::Dispatcher(me);
                let entry = entries.iter().find(own).copied();
                self.hold(key, entry, redis);
            }
            DispatcherStep::Prepare(index) => self.prepare(index, setup, postgres),
            DispatcherStep::Drop(index) => {
                let held = self.held.remove(index);
                redis.settle(held.key(), held.position);
            }
            DispatcherStep::Claim { event, endpoint, is_due } => {
                redis.claim(event, endpoint, me);
                let (source, stage) = (Source::Retry, Stage::Claimed { is_due });
                self.add(Work { event, endpoint, ask: 0, attempts: 0, source, stage });
            }
            DispatcherStep::PrepareRetry { index, is_due } => {
                self.prepare_retry(me, index, is_due, postgres, redis);
            }
            DispatcherStep::Try(index, answer) => {
                let work = &mut self.works[index];
                let (status, is_attempt) = outcome_of(answer, work.attempts);
                work.stage = Stage::Tried { status, is_attempt };
            }
            DispatcherStep::HandOver { index, is_soon } => self.hand_over(index, is_soon, setup, postgres),
            DispatcherStep::PutOff(index) => {
                let work = self.works.remove(index);
                match work.source {
                    Source::Entry(key, position) => self.give_back(key, position),
                    Source::Retry | Source::HandedOver => redis.unschedule(work.event, work.endpoint),
                }
            }
            DispatcherStep::Record(index) => self.record(index, setup, postgres),
            DispatcherStep::Settle(index, reach) => self.settle(me, index, reach, setup, redis),
            DispatcherStep::Believe => {
                let open = postgres.parked.iter().filter(|one| one.to.is_none());
                self.parked = open.fold(0, |set, one| set | 1 << one.endpoint);
            }
            DispatcherStep::Park(endpoint) => {
                let live = *postgres.live();
                let tail =
                    redis.inspect((live.id, live.epoch)).map_or(live.settled, |standing| standing.tail);
                postgres.park(live.id, live.epoch, tail, endpoint);
                self.parked |= 1 << endpoint;
            }
        }
    }

    fn add(&mut self, work: Work) {
        let place = (work.event, work.endpoint);
        let at = self.works.partition_point(|other| (other.event, other.endpoint) < place);
        self.works.insert(at, work);
    }

    /// What was claimed is in hand once its row was read. What was handed over is, for sure, until its attempt ends.
    pub fn has_in_hand(&self, event: EventId, endpoint: EndpointId) -> bool {
        let is_it = |work: &Work| match work.stage {
            Stage::Claimed { .. } => false,
            Stage::Ready => true,
            _ => work.source != Source::HandedOver,
        };
        self.works.iter().any(|work| (work.event, work.endpoint) == (event, endpoint) && is_it(work))
    }

    pub fn holds(&self, key: Key, position: Position) -> bool {
        self.held.iter().any(|held| held.key() == key && held.position == position)
    }

    /// Takes an entry in hand, unless it is in hand already.
    fn hold(&mut self, key: Key, entry: Option<Entry>, redis: &Redis) {
        let (Some(entry), Some(stream)) = (entry, redis.stream(key)) else { return };
        if self.holds(key, entry.position) {
            return;
        }
        let held = Held {
            feed: stream.feed,
            position: entry.position,
            event: entry.event,
            targets: entry.targets,
            is_prepared: false,
            is_given_back: false,
        };
        let at = self.held.partition_point(|other| (other.key(), other.position) < (key, entry.position));
        self.held.insert(at, held);
    }

    /// `prepare::entries`, and `Intake::place` of what is owed: what is in hand already is given back.
    fn prepare(&mut self, index: usize, setup: &Setup, postgres: &Postgres) {
        let mut held = self.held[index];
        let (ask, leaves_out) = (held.feed.ask.into(), held.feed.leaves_out(held.position));
        let mut has_work = false;
        for endpoint in members(held.targets) {
            let row = postgres.row(held.event, endpoint);
            let owes = |row: &Row| protocol::is_owed(row.ask.into(), row.status, ask, leaves_out);
            let is_left_out =
                setup.variant == Variant::ParkingByDispatchers && self.parked & (1 << endpoint) != 0;
            if !row.is_none_or(owes) || is_left_out {
                continue;
            }
            if self.has_in_hand(held.event, endpoint) {
                held.is_given_back = true;
                continue;
            }
            has_work = true;
            self.add(Work {
                event: held.event,
                endpoint,
                ask: held.feed.ask,
                attempts: 0,
                source: Source::Entry(held.key(), held.position),
                stage: Stage::Ready,
            });
        }
        held.is_prepared = true;
        if held.is_given_back && !has_work {
            self.held.remove(index);
        } else {
            self.held[index] = held;
        }
    }

    /// Whether nothing of an entry is in hand: it owed nothing.
    pub fn owes_nothing(&self, held: &Held) -> bool {
        let source = Source::Entry(held.key(), held.position);
        held.is_prepared && !self.works.iter().any(|work| work.source == source)
    }

    /// `prepare::retries`: the row decides.
    fn prepare_retry(&mut self, me: u8, index: usize, is_due: bool, postgres: &Postgres, redis: &mut Redis) {
        let (event, endpoint) = (self.works[index].event, self.works[index].endpoint);
        if self.has_in_hand(event, endpoint) {
            self.works.remove(index);
            return redis.end_lease(event, endpoint, me);
        }
        let row = postgres.row(event, endpoint);
        match (protocol::claimed(row.map(|row| row.status), true, is_due), row) {
            (Claim::Attempt, Some(row)) if postgres.disabled & (1 << endpoint) == 0 => {
                let work = &mut self.works[index];
                (work.ask, work.attempts, work.stage) = (row.ask, row.attempts, Stage::Ready);
            }
            (Claim::PutBack, _) => {
                self.works.remove(index);
                redis.end_lease(event, endpoint, me);
            }
            _ => {
                self.works.remove(index);
                redis.unschedule(event, endpoint);
            }
        }
    }

    /// `intake::stragglers`: the attempt goes on, the entry is settled as if it were deferred.
    fn hand_over(&mut self, index: usize, is_soon: bool, setup: &Setup, postgres: &mut Postgres) {
        let work = self.works[index];
        self.works[index].source = Source::HandedOver;
        let status = Status::Pending;
        let row = match setup.variant {
            Variant::HandOverUnrecorded => (work.ask, status),
            _ => commit(&work, (status, false), setup, postgres),
        };
        self.works.insert(index, Work { stage: Stage::Recorded { status, row, is_soon }, ..work });
    }

    /// `record::commit`.
    fn record(&mut self, index: usize, setup: &Setup, postgres: &mut Postgres) {
        let work = self.works[index];
        let (Stage::Tried { status, is_attempt } | Stage::Settled { status, is_attempt }) = work.stage else {
            return;
        };
        let row = commit(&work, (status, is_attempt), setup, postgres);
        match work.stage {
            Stage::Settled { .. } => drop(self.works.remove(index)),
            _ => self.works[index].stage = Stage::Recorded { status, row, is_soon: true },
        }
    }

    /// `record::run_settler`.
    fn settle(&mut self, me: u8, index: usize, reach: Reach, setup: &Setup, redis: &mut Redis) {
        let work = self.works[index];
        let (status, row, is_soon) = match work.stage {
            Stage::Recorded { status, row, is_soon } => (status, row, is_soon),
            // Only in a variant.
            Stage::Tried { status, is_attempt } => {
                self.works[index].stage = Stage::Settled { status, is_attempt };
                (status, (work.ask, status), true)
            }
            _ => return,
        };
        if matches!(work.stage, Stage::Recorded { .. }) {
            self.works.remove(index);
        }
        if let Source::Entry(key, position) = work.source {
            self.target_done(work.source, key, position, reach, setup, redis);
        }
        let cause = match work.source {
            Source::Entry(..) => Cause::Entry,
            Source::Retry | Source::HandedOver => Cause::Retry,
        };
        let follow = match reach {
            Reach::All => {
                let row = Some((row.0.into(), row.1));
                protocol::follow((work.ask.into(), status), row, is_soon, cause)
            }
            Reach::Half | Reach::None => Follow::Leave,
        };
        match follow {
            Follow::Schedule => redis.schedule(work.event, work.endpoint),
            Follow::Unschedule => redis.unschedule(work.event, work.endpoint),
            Follow::Leave if cause == Cause::Retry => redis.end_lease(work.event, work.endpoint, me),
            Follow::Leave => {}
        }
    }

    /// `HeldEntry::target_done`: the last target settles the entry, unless one was given back.
    fn target_done(
        &mut self,
        source: Source,
        key: Key,
        position: Position,
        reach: Reach,
        setup: &Setup,
        redis: &mut Redis,
    ) {
        let is_open = |work: &Work| work.source == source && !matches!(work.stage, Stage::Settled { .. });
        if self.works.iter().any(is_open) {
            return;
        }
        let place = self.held.iter().position(|held| held.key() == key && held.position == position);
        let Some(held) = place.map(|place| self.held.remove(place)) else { return };
        if held.is_given_back {
            return;
        }
        match (reach, setup.variant) {
            (Reach::None, _) => {}
            (Reach::Half, Variant::AcknowledgeBeforeDelete) => redis.acknowledge(key, position),
            (Reach::Half | Reach::All, _) => redis.settle(key, position),
        }
    }

    /// An entry without an outcome is let go of: it stays pending, and is read again.
    fn give_back(&mut self, key: Key, position: Position) {
        let is_busy = self.works.iter().any(|work| work.source == Source::Entry(key, position));
        let place = self.held.iter().position(|held| held.key() == key && held.position == position);
        match place {
            Some(place) if is_busy => self.held[place].is_given_back = true,
            Some(place) => drop(self.held.remove(place)),
            None => {}
        }
    }

    /// Whether Redis has not heard yet that this was handed over.
    pub fn is_handing_over(&self, work: &Work) -> bool {
        let is_it = |other: &Work| {
            (other.event, other.endpoint, other.ask) == (work.event, work.endpoint, work.ask)
                && matches!((other.source, other.stage), (Source::Entry(..), Stage::Recorded { .. }))
        };
        work.source == Source::HandedOver && self.works.iter().any(is_it)
    }

    /// Of a live feed, whose work is deferred rather than given back.
    pub fn is_live(&self, work: &Work) -> bool {
        let Source::Entry(key, position) = work.source else { return false };
        let mut held = self.held.iter().filter(|held| held.key() == key && held.position == position);
        held.any(|held| held.feed.kind == Kind::Live)
    }
}
