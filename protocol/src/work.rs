//! What a dispatcher has in hand: entries, and work, which is one event owed to one endpoint on its way.

use std::time::Duration;

use eventrail_core::db::delivery::Status;
use eventrail_core::retry::RetryPolicy;
use eventrail_core::verdict::{AttemptResult, Verdict, verdict};

use crate::postgres::{Feed, Outcome, Postgres};
use crate::redis::Key;
use crate::world::{EndpointId, EventId, Position, Set, Setup, Variant};

/// An entry in hand: `work::HeldEntry`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Held {
    pub feed: Feed,
    pub position: Position,
    pub event: EventId,
    pub targets: Set,
    /// Its outcomes were looked up: what it owes is work in hand.
    pub is_prepared: bool,
    /// Some target of it was given back without an outcome: it stays pending, to be read again.
    pub is_given_back: bool,
}

impl Held {
    pub fn key(&self) -> Key {
        (self.feed.id, self.feed.epoch)
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Source {
    Entry(Key, Position),
    Retry,
    /// An attempt under way whose entry is settled without it: its outcome is recorded as a retry's.
    HandedOver,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Stage {
    /// Claimed from the ZSET; its row is to be read. What Redis has may be due before the row is.
    Claimed {
        is_due: bool,
    },
    Ready,
    Tried {
        status: Status,
        is_attempt: bool,
    },
    /// Committed; the row is this now. Soon is what the ZSET reaches.
    Recorded {
        status: Status,
        row: (Position, Status),
        is_soon: bool,
    },
    /// Only in a variant: settled without having been recorded.
    Settled {
        status: Status,
        is_attempt: bool,
    },
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Work {
    pub event: EventId,
    pub endpoint: EndpointId,
    pub ask: Position,
    pub attempts: u8,
    pub source: Source,
    pub stage: Stage,
}

/// How an attempt ends.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Answer {
    Taken,
    Failed,
    /// There was none: it is put off.
    Deferred,
}

/// One retry, then dead.
const MOST_RETRIES: u32 = 1;
const A_SECOND: Duration = Duration::from_secs(1);

/// `deliver::deliver`: what follows from an attempt.
pub fn outcome_of(answer: Answer, attempts: u8) -> (Status, bool) {
    let code = match answer {
        Answer::Deferred => return (Status::Pending, false),
        Answer::Taken => 200,
        Answer::Failed => 503,
    };
    let result = AttemptResult { status_code: Some(code), ..AttemptResult::default() };
    let policy = RetryPolicy::exponential(MOST_RETRIES, A_SECOND, A_SECOND);
    match verdict(&result, attempts.into(), &policy, A_SECOND, 0.5) {
        Verdict::Delivered => (Status::Delivered, true),
        Verdict::Retry { .. } => (Status::Retrying, true),
        Verdict::Dead | Verdict::Gone => (Status::Dead, true),
    }
}

/// Commits an outcome; answers the row after it.
pub fn commit(
    work: &Work,
    (status, is_attempt): (Status, bool),
    setup: &Setup,
    postgres: &mut Postgres,
) -> (Position, Status) {
    let ask = match setup.variant {
        Variant::AsksIgnored => postgres.row(work.event, work.endpoint).map_or(0, |row| row.ask),
        _ => 0,
    };
    if setup.variant == Variant::AsynchronousOutcomes && postgres.flushed.is_none() {
        postgres.flushed = Some((postgres.rows.clone(), postgres.attempts.clone()));
    }
    let ask = work.ask.max(ask);
    let Work { event, endpoint, .. } = *work;
    let row = postgres.record(Outcome { event, endpoint, ask, status, is_attempt });
    (row.ask, row.status)
}
