//! One event owed to one endpoint, on its way through this process.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Instant;

use eventrail_core::group::GroupName;
use eventrail_core::ids::EndpointId;
use eventrail_core::rail::schedule::Member;

use crate::event::Event;

/// A stream entry that this process holds. It is settled once all its targets have outcomes.
#[derive(Debug)]
pub(crate) struct HeldEntry {
    pub(crate) stream: Arc<str>,
    pub(crate) position: i64,
    owed: AtomicUsize,
}

impl HeldEntry {
    pub(crate) fn new(stream: Arc<str>, position: i64, owed: usize) -> Arc<Self> {
        Arc::new(Self { stream, position, owed: AtomicUsize::new(owed) })
    }

    /// One target has its outcome recorded; true when it was the last.
    pub(crate) fn one_done(&self) -> bool {
        self.owed.fetch_sub(1, Ordering::AcqRel) == 1
    }
}

/// Where the work came from, and so what is settled after it.
#[derive(Debug, Clone)]
pub(crate) enum Origin {
    /// An entry of a group's live feed: it may be deferred.
    Live(Arc<HeldEntry>),
    /// An entry of a feed with a single endpoint: it waits.
    CatchUp(Arc<HeldEntry>),
    /// A member of the retry ZSET.
    Retry,
}

#[derive(Debug)]
pub(crate) struct Work {
    pub(crate) event: Arc<Event>,
    pub(crate) endpoint_id: EndpointId,
    pub(crate) group_id: i64,
    pub(crate) group: GroupName,
    pub(crate) feed_id: i64,
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

    pub(crate) fn trigger(&self) -> &'static str {
        match self.origin {
            Origin::Live(_) => "feed",
            Origin::CatchUp(_) => "catch_up",
            Origin::Retry => "retry",
        }
    }
}
