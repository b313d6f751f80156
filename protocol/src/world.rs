//! All of the state, and what a setup allows to happen.

use crate::dispatcher::Dispatcher;
use crate::ghost::Ghost;
use crate::postgres::Postgres;
use crate::redis::Redis;
use crate::relay::Relay;
use crate::work::{Source, Stage, Work};

/// A place in the log. Asks are drawn from the same sequence.
pub type Position = u8;
pub type EventId = u8;
pub type EndpointId = u8;
/// A set of endpoints, or of kinds of events: one bit each.
pub type Set = u8;

/// The protocol as it is, or with a mistake that the explorer must find.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Variant {
    Good,
    /// Positions are drawn without the log lock: one may become visible after a later one was read.
    NaiveTail,
    /// Redis is settled before the outcome is recorded.
    AcknowledgeBeforeRecord,
    /// Outcomes are committed with `synchronous_commit = off`: a crash of PostgreSQL may lose the last ones.
    AsynchronousOutcomes,
    /// The settled position is concluded from a stream that may not be as the relay left it.
    SettleWithoutTailCheck,
    /// Dispatchers leave out endpoints that they believe to be parked, instead of the relay.
    ParkingByDispatchers,
    /// A relay appends whatever the stream's tail is.
    AppendWithoutCompare,
    /// Settled positions are written whatever the epoch.
    SettleAnyEpoch,
    /// The last outcome counts, whatever its ask.
    AsksIgnored,
    /// Nobody puts back the retries that Redis lost.
    LostLoader,
    /// Entries are acknowledged first and deleted then.
    AcknowledgeBeforeDelete,
    /// Catch-ups are made outside the transaction that closes their interval.
    CatchUpApart,
    /// A feed on its way through history takes what is new at the head as its own position says.
    HistoryAtHead,
    /// A cursor that is moved back forgets what was still owed, but for what is owed as of now.
    OwedForgotten,
    /// The entry of an attempt that is handed over is settled without a row.
    HandOverUnrecorded,
    /// What is handed over may be due before its attempt has ended.
    HandOverDueAtOnce,
    /// Redis may hear that an attempt was handed over after it has heard of its outcome.
    SettledInAnyOrder,
}

/// What may still happen, beside the steps of relays and dispatchers.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
pub struct Left {
    /// Events that producers still send.
    pub events: u8,
    /// Attempts that fail.
    pub failures: u8,
    /// Deliveries that are deferred.
    pub deferrals: u8,
    /// Attempts that take so long that they are handed over.
    pub handovers: u8,
    /// Changes of an endpoint's filter.
    pub filters: u8,
    /// Endpoints that are switched off. They may be switched on again.
    pub disables: u8,
    pub replays: u8,
    /// Cursors that are moved back.
    pub resets: u8,
    /// Cursors that are moved to the end.
    pub skips: u8,
    /// Processes that die and start again, of either kind.
    pub crashes: u8,
    /// Redis loses everything.
    pub flushes: u8,
    /// Redis goes back to what it was at some moment.
    pub rollbacks: u8,
    /// Redis does not get, or does only half of, what follows from an outcome.
    pub lost_settles: u8,
    /// PostgreSQL crashes and starts again.
    pub outages: u8,
}

/// What is explored.
#[derive(Debug, Clone, Copy)]
pub struct Setup {
    pub name: &'static str,
    pub variant: Variant,
    pub endpoints: u8,
    pub relays: u8,
    pub dispatchers: u8,
    /// Most entries that a stream may hold when one is appended.
    pub window: u8,
    /// Most events that a relay reads at once.
    pub batch: u8,
    /// Producers draw and commit in two steps.
    pub slow_commits: bool,
    /// Replays and moved cursors bring only what is missing.
    pub only_missing: bool,
    pub left: Left,
}

impl Setup {
    pub const SMALL: Self = Self {
        name: "small",
        variant: Variant::Good,
        endpoints: 1,
        relays: 1,
        dispatchers: 2,
        window: 10,
        batch: 10,
        slow_commits: false,
        only_missing: false,
        left: Left {
            events: 2,
            failures: 0,
            deferrals: 0,
            handovers: 0,
            filters: 0,
            disables: 0,
            replays: 0,
            resets: 0,
            skips: 0,
            crashes: 0,
            flushes: 0,
            rollbacks: 0,
            lost_settles: 0,
            outages: 0,
        },
    };

    pub fn with(self, variant: Variant) -> Self {
        Self { variant, ..self }
    }
}

#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct World {
    pub postgres: Postgres,
    pub redis: Redis,
    pub relays: Vec<Relay>,
    pub dispatchers: Vec<Dispatcher>,
    pub left: Left,
    pub ghost: Ghost,
    /// What Redis may go back to.
    pub snapshot: Option<Box<Redis>>,
}

impl World {
    pub fn new(setup: &Setup) -> Self {
        Self {
            postgres: Postgres::new(setup.endpoints),
            redis: Redis::default(),
            relays: vec![Relay::default(); setup.relays.into()],
            dispatchers: vec![Dispatcher::default(); setup.dispatchers.into()],
            left: setup.left,
            // Two relays at once are harmless, but that an interval may be parked twice.
            ghost: Ghost { is_faulty: setup.relays > 1, ..Ghost::default() },
            snapshot: None,
        }
    }

    /// Whether a delivery may be due, by its row. Not while its attempt is handed over, nor before Redis has heard of
    /// an outcome: only once something has gone wrong does that take longer than a delivery waits.
    pub fn may_be_due(&self, setup: &Setup, event: EventId, endpoint: EndpointId) -> bool {
        if self.ghost.is_faulty {
            return true;
        }
        let ask = self.postgres.row(event, endpoint).map(|row| row.ask);
        let is_soon_over = |work: &Work| match work.stage {
            Stage::Recorded { .. } => true,
            _ if setup.variant == Variant::HandOverDueAtOnce => false,
            _ => work.source == Source::HandedOver && Some(work.ask) == ask,
        };
        let mut works = self.dispatchers.iter().flat_map(|one| &one.works);
        !works.any(|work| (work.event, work.endpoint) == (event, endpoint) && is_soon_over(work))
    }
}

/// The endpoints of a set.
pub fn members(set: Set) -> impl Iterator<Item = EndpointId> {
    (0..8).filter(move |id| set & (1 << id) != 0)
}
