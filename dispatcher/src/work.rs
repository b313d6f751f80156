//! One event owed to one endpoint, on its way through this process.

use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, OnceLock};
use std::time::{Duration, Instant};

use eventrail_core::feed::FeedKind;
use eventrail_core::group::GroupName;
use eventrail_core::ids::{EndpointId, ReplayId};
use eventrail_core::rail::schedule::Member;

use crate::event::Event;

/// A stream entry that this process holds. It is settled once all its targets have outcomes.
#[derive(Debug)]
pub(crate) struct HeldEntry {
    pub(crate) stream: Arc<str>,
    pub(crate) position: i64,
    owed: AtomicUsize,
    given_back: AtomicBool,
    /// Half of all its targets, and when no more than that were owed.
    half: usize,
    half_done_at: OnceLock<Instant>,
}

/// What follows when one target of an entry is done with.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum TargetDone {
    OthersRemain,
    /// All targets have outcomes: the entry can be deleted.
    Settle,
    /// Nothing of it is in hand any more, but not all has an outcome: it stays pending, to be read again.
    Release,
}

impl HeldEntry {
    /// An entry for `targets` endpoints, of which `owed` have no outcome yet.
    pub(crate) fn new(stream: Arc<str>, position: i64, targets: usize, owed: usize) -> Arc<Self> {
        let entry = Self {
            stream,
            position,
            owed: AtomicUsize::new(owed),
            given_back: AtomicBool::new(false),
            half: targets / 2,
            half_done_at: OnceLock::new(),
        };
        entry.note_half_done(owed);
        Arc::new(entry)
    }

    fn note_half_done(&self, owed: usize) {
        if owed <= self.half {
            self.half_done_at.get_or_init(Instant::now);
        }
    }

    /// Whether it is so long ago that at least half of its targets were done: what is left of it lags behind.
    pub(crate) fn is_half_done_for(&self, time: Duration, now: Instant) -> bool {
        self.half_done_at.get().is_some_and(|at| now.duration_since(*at) >= time)
    }

    /// One target has its outcome recorded, or is given back without one.
    pub(crate) fn target_done(&self, has_outcome: bool) -> TargetDone {
        if !has_outcome {
            self.given_back.store(true, Ordering::Release);
        }
        let before = self.owed.fetch_sub(1, Ordering::AcqRel);
        self.note_half_done(before - 1);
        if before > 1 {
            TargetDone::OthersRemain
        } else if self.given_back.load(Ordering::Acquire) {
            TargetDone::Release
        } else {
            TargetDone::Settle
        }
    }
}

/// Where the work came from, and so what is settled after it.
#[derive(Debug, Clone)]
pub(crate) enum Origin {
    /// An entry of a group's live feed: it may be deferred.
    Live(Arc<HeldEntry>),
    /// An entry of a feed with a single endpoint, which is in no hurry: it waits.
    Single(FeedKind, Arc<HeldEntry>),
    /// A member of the retry ZSET.
    Retry,
}

#[derive(Debug, Clone)]
pub(crate) struct Work {
    pub(crate) event: Arc<Event>,
    pub(crate) endpoint_id: EndpointId,
    pub(crate) group_id: i64,
    pub(crate) group: GroupName,
    pub(crate) feed_id: i64,
    /// The replay or redrive whose feed that is.
    pub(crate) replay_id: Option<ReplayId>,
    /// What the receiver is told if it may have had the event before, and gets it again on purpose.
    pub(crate) resend: Option<ReplayId>,
    pub(crate) ask: i64,
    /// Attempts of this ask that were made before.
    pub(crate) attempts_done: i32,
    pub(crate) origin: Origin,
    pub(crate) taken_at: Instant,
}

impl Work {
    pub(crate) fn member(&self) -> Member {
        Member { event_id: self.event.id, endpoint_id: self.endpoint_id }
    }

    /// Of a feed with a single endpoint, or a replay's retry: what is live, and what is due of it, comes first.
    pub(crate) fn is_background(&self) -> bool {
        self.replay_id.is_some() || matches!(self.origin, Origin::Single(..))
    }

    pub(crate) fn trigger(&self) -> &'static str {
        match self.origin {
            Origin::Live(_) => "feed",
            Origin::Single(kind, _) => kind.as_str(),
            Origin::Retry => "retry",
        }
    }
}
