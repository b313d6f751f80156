//! What has been in hand for too long. Each target that is still owed keeps its whole entry in the stream, and with
//! that a place that other events may need.
//!
//! While a stream has room, targets just take their time. Where it is crowded, stragglers (owed, although half of their
//! entry's targets have long been done) are moved to rows, and come back as retries: what waits is deferred, and an
//! attempt under way is handed over. That is: a row says that the delivery is due once the attempt must have ended, the
//! entry is settled without it, and the attempt's outcome is recorded as that of a retry. If this process dies
//! meanwhile, the row is tried again when it is due.

use std::collections::{HashMap, HashSet};
use std::time::{Duration, Instant};

use chrono::TimeDelta;
use eventrail_core::rail::schedule::Member;

use super::Intake;
use crate::clock;
use crate::work::{HeldEntry, Origin, Work};

/// Work that waits longer than this for its endpoint is deferred in any case.
const HOLD: Duration = Duration::from_secs(5);
/// The same where deferring would not help, since the endpoint is the feed's only one: given back then.
const HOLD_SINGLE: Duration = Duration::from_secs(60);
/// A target that is owed for so long after half of its entry was done is a straggler; an endpoint that lags goes on to
/// lag while its attempts take so long.
pub(super) const LAG: Duration = Duration::from_millis(250);
/// Between the latest end of an attempt and the time that its row is due, for its outcome to be recorded.
const MARGIN: Duration = Duration::from_secs(10);

/// Attempts under way that began from an entry of a live feed.
#[derive(Default)]
pub(super) struct Attempts {
    /// Those whose entry waits for them, with the time by which they end.
    awaited: HashMap<Member, (Work, Instant)>,
    handed_over: HashSet<Member>,
}

impl Attempts {
    pub(super) fn started(&mut self, work: &Work, ends_by: Instant) {
        if matches!(work.origin, Origin::Live(_)) {
            self.awaited.insert(work.member(), (work.clone(), ends_by));
        }
    }

    /// An attempt has ended. Answers whether it was handed over.
    pub(super) fn ended(&mut self, member: &Member) -> bool {
        self.awaited.remove(member);
        self.handed_over.remove(member)
    }

    pub(super) fn is_handed_over(&self, member: &Member) -> bool {
        self.handed_over.contains(member)
    }

    fn hand_over(&mut self, which: impl Fn(&Work) -> bool) -> Vec<(Work, Instant)> {
        let away: Vec<(Work, Instant)> =
            self.awaited.extract_if(|_, (work, _)| which(work)).map(|(_, attempt)| attempt).collect();
        self.handed_over.extend(away.iter().map(|(work, _)| work.member()));
        away
    }
}

impl Intake {
    /// Moves to rows what has been in hand for too long.
    pub(super) fn put_off_stragglers(&mut self, now: Instant) {
        let (feeds, recipients) = (&self.feeds, &self.context.recipients);
        let is_straggler = |entry: &HeldEntry| {
            entry.is_half_done_for(LAG, now) && feeds.get(&entry.stream).is_some_and(|slot| slot.feed.crowded)
        };
        let is_held_up = |work: &Work| {
            let held_for = now.duration_since(work.taken_at);
            match &work.origin {
                Origin::Retry => held_for > HOLD,
                // Deferring helps the other endpoints of a group; where there is no other, the entry just waits.
                Origin::Live(_) if held_for > HOLD && recipients.active_in_group(work.group_id) > 1 => true,
                Origin::Live(entry) => held_for > HOLD_SINGLE || is_straggler(entry),
                Origin::Single(..) => held_for > HOLD_SINGLE,
            }
        };
        let waited = self.lanes.sweep(now, is_held_up);
        let under_way = self.attempts.hand_over(|work| match &work.origin {
            Origin::Live(entry) => is_straggler(entry),
            Origin::Single(..) | Origin::Retry => false,
        });
        for (work, at) in waited {
            if matches!(work.origin, Origin::Live(_)) {
                self.lanes.note_lag(work.endpoint_id, now);
            }
            self.put_off(work, at);
        }
        for (work, ends_by) in under_way {
            self.lanes.note_lag(work.endpoint_id, now);
            let wait = ends_by.saturating_duration_since(now) + MARGIN;
            self.defer(work, clock::now() + TimeDelta::from_std(wait).unwrap_or(TimeDelta::days(1)));
        }
    }

    /// Whether this would be one more straggler: its endpoint lags, and its entry's stream is crowded.
    pub(super) fn would_lag(&self, work: &Work, now: Instant) -> bool {
        let Origin::Live(entry) = &work.origin else { return false };
        self.feeds.get(&entry.stream).is_some_and(|slot| slot.feed.crowded)
            && self.lanes.lags(work.endpoint_id, now)
            && self.context.recipients.active_in_group(work.group_id) > 1
    }
}
