//! What the intake remembers of each stream and each group's retries.

use std::collections::HashSet;
use std::time::{Duration, Instant};

use eventrail_core::group::GroupName;
use eventrail_core::ids::EventId;
use eventrail_core::rail::entry::Read;
use eventrail_core::rail::intake::From;
use eventrail_core::rail::ready::FeedRef;

/// A stream that was not rung for this long is forgotten.
const FORGET_AFTER: Duration = Duration::from_secs(10);

pub(crate) struct FeedSlot {
    pub(crate) feed: FeedRef,
    /// A read is under way.
    pub(crate) reading: bool,
    /// Entries whose outcomes are being looked up.
    pub(crate) preparing: usize,
    /// Of which events entries were appended last, as far as this process knows.
    pub(crate) appended: Vec<EventId>,
    /// Counts hints, so that one that comes during a read is not lost.
    pub(crate) rung: u64,
    pub(crate) next_take_over: Instant,
    /// Consumers that were not there in the last round of taking over.
    pub(crate) missed: HashSet<String>,
    pub(crate) next_recover: Instant,
    ready: bool,
    rung_at: Instant,
    /// Own pending entries are to be read from here before any new one.
    own_from: Option<String>,
    own_not_before: Instant,
    not_before: Instant,
}

impl FeedSlot {
    pub(crate) fn new(feed: FeedRef, now: Instant) -> Self {
        Self {
            feed,
            reading: false,
            preparing: 0,
            appended: Vec::new(),
            rung: 0,
            next_take_over: now,
            missed: HashSet::new(),
            next_recover: now + Duration::from_secs(10),
            ready: true,
            rung_at: now,
            own_from: None,
            own_not_before: now,
            not_before: now,
        }
    }

    pub(crate) fn ring(&mut self, crowded: bool, appended: Vec<EventId>, now: Instant) {
        self.feed.crowded = crowded;
        self.appended = appended;
        self.rung += 1;
        self.rung_at = now;
        self.ready = true;
    }

    pub(crate) fn wants_reading(&self, now: Instant) -> bool {
        !self.reading && self.not_before <= now && (self.ready || self.wants_own(now))
    }

    fn wants_own(&self, now: Instant) -> bool {
        self.own_from.is_some() && self.own_not_before <= now
    }

    pub(crate) fn from(&self, now: Instant) -> From {
        self.own_from.clone().filter(|_| self.wants_own(now)).map_or(From::New, From::Own)
    }

    /// Own pending entries are to be read again, from this time on; new ones may be read before.
    pub(crate) fn recover(&mut self, at: Instant) {
        self.own_from = Some("0".into());
        self.own_not_before = at;
    }

    /// Something did not answer: nothing is read before this time, and then own pending entries first.
    pub(crate) fn back_off(&mut self, until: Instant) {
        self.recover(until);
        self.not_before = until;
    }

    /// Notes what a read of up to `count` entries answered; `rung` is the count of hints when it began.
    pub(crate) fn has_read(&mut self, from: &From, reads: &[Read], rung: u64, count: usize) {
        match from {
            From::Own(_) => {
                self.own_from = reads.last().filter(|_| reads.len() >= count).map(id_of);
            }
            From::New if reads.len() < count && rung == self.rung => self.ready = false,
            From::New => {}
        }
    }

    pub(crate) fn is_forgotten(&self, now: Instant) -> bool {
        !self.reading && self.preparing == 0 && now.duration_since(self.rung_at) > FORGET_AFTER
    }
}

fn id_of(read: &Read) -> String {
    match read {
        Read::Entry(entry) => entry.stream_id(),
        Read::Void { id } | Read::Foreign { id } => id.clone(),
    }
}

pub(crate) struct RetrySlot {
    pub(crate) group: GroupName,
    pub(crate) claiming: bool,
    due: Option<Instant>,
}

impl RetrySlot {
    pub(crate) fn new(group: GroupName) -> Self {
        Self { group, claiming: false, due: None }
    }

    pub(crate) fn due_by(&mut self, at: Instant) {
        self.due = Some(self.due.map_or(at, |due| due.min(at)));
    }

    pub(crate) fn is_due(&self, now: Instant) -> bool {
        !self.claiming && self.due.is_some_and(|due| due <= now)
    }

    pub(crate) fn begin_claim(&mut self) {
        self.claiming = true;
        self.due = None;
    }

    pub(crate) fn is_idle(&self) -> bool {
        !self.claiming && self.due.is_none()
    }
}
