//! What becomes of work in hand: into its endpoint's lane, started, or put aside until it can be.

use std::sync::Arc;
use std::time::{Duration, Instant};

use chrono::{DateTime, TimeDelta, Utc};
use eventrail_core::db::delivery::{Record, Status};
use eventrail_core::db::recipient::State;
use eventrail_core::rail::rate;
use eventrail_core::rail::schedule::{self, Member};
use eventrail_core::verdict::Verdict;

use super::stragglers::LAG;
use super::{Done, Intake, Leased};
use crate::clock;
use crate::deliver::{self, Outcome};
use crate::footing::Ground;
use crate::lanes::{Class, Ended, Put};
use crate::recipients::Target;
use crate::record::Item;
use crate::work::{Origin, Work};

/// How long work that is given back is left alone at least.
const PAUSE: Duration = Duration::from_secs(1);

impl Intake {
    /// Puts work into its endpoint's lane, or aside.
    pub(super) fn place(&mut self, work: Work, now: Instant) {
        if self.lost_at.is_some_and(|lost_at| work.taken_at <= lost_at) {
            return self.leave_entry(work.origin, None, PAUSE);
        }
        if !self.held.take(work.member(), Class::of(&work)) {
            return self.leave_entry(work.origin, None, PAUSE);
        }
        if matches!(work.origin, Origin::Retry) {
            let leased = Leased { group_id: work.group_id, group: work.group.clone(), handed_on: false };
            self.leased.insert(work.member(), leased);
        }
        if work.is_background() && self.context.recipients.is_ended(work.feed_id) {
            return self.drop_work(work);
        }
        let Some(target) = self.context.recipients.get(work.endpoint_id) else {
            return self.put_off(work, now);
        };
        if target.paused {
            return self.put_back_paused(work);
        }
        match target.state {
            State::Deleted => return self.end_orphan(work),
            State::Disabled | State::Sealed => return self.put_off_disabled(work, now),
            State::Active => {}
        }
        if self.would_lag(&work, now) {
            return self.put_off(work, now + PAUSE);
        }
        match self.lanes.put(work, &target.limits(), now) {
            Put::Waits => {}
            Put::Refused(work, at) => self.put_off(work, at),
        }
    }

    /// Drops what waits here of feeds that were ended by hand.
    pub(super) fn drop_ended(&mut self) {
        let recipients = &self.context.recipients;
        let dropped = self.lanes.drop_background(|work| recipients.is_ended(work.feed_id));
        if dropped.is_empty() {
            return;
        }
        tracing::info!(
            deliveries = dropped.len(),
            "dropped what is left of a replay or catch-up that was ended"
        );
        for work in dropped {
            self.drop_work(work);
        }
    }

    /// The stream that it came from is being deleted: nothing is to be settled, nor read again.
    fn drop_work(&mut self, work: Work) {
        let member = work.member();
        self.send(Item::GiveBack { member: Some(member), origin: work.origin });
    }

    /// Others may have taken over what waits here. Entries that are still ours are read again; retries come back when
    /// their leases end, with which nothing is done here: they may be another's too.
    fn let_go(&mut self, now: Instant) {
        self.lost_at = Some(now);
        let left = self.lanes.clear();
        if left.is_empty() {
            return;
        }
        tracing::warn!(
            deliveries = left.len(),
            "Redis has not heard of this consumer for long: what waits here is left"
        );
        for work in left {
            let member = work.member();
            self.leave_entry(work.origin, Some(member), PAUSE);
        }
    }

    /// Starts all work that may start now.
    pub(super) fn start_work(&mut self) {
        let now = Instant::now();
        match self.context.footing.look(now) {
            Ground::Firm => {}
            Ground::Unsure => return,
            Ground::Lost => return self.let_go(now),
        }
        self.take_turns(now);
        while let Some(work) = self.lanes.start_next(now) {
            let target = self.context.recipients.get(work.endpoint_id);
            let ended = work.is_background() && self.context.recipients.is_ended(work.feed_id);
            let usable = |target: &Arc<Target>| target.state == State::Active && !target.paused && !ended;
            let Some(target) = target.filter(usable) else {
                // Something has changed since it was put into its lane: place it anew.
                self.lanes.ended((work.endpoint_id, Class::of(&work)), Ended::Untried, now);
                self.held.release(&work.member());
                self.place(work, now);
                continue;
            };
            if matches!(work.origin, Origin::Live(_)) {
                let delay = (clock::now() - work.event.created_at).to_std().unwrap_or_default();
                self.lanes.live_started(delay, now);
            }
            self.attempts.started(&work, now + target.timeout);
            let context = Arc::clone(&self.context);
            self.tasks.spawn(async move {
                Done::Attempted(Box::new(deliver::deliver(&context.courier, &target, work).await))
            });
        }
    }

    /// Asks for turns of the rates that all dispatchers share, for the lanes that wait for them.
    pub(super) fn take_turns(&mut self, now: Instant) {
        for (endpoint, want) in self.lanes.want_turns(now) {
            let target = self.context.recipients.get(endpoint);
            let Some((target, rate)) =
                target.and_then(|target| target.rate_per_second.map(|rate| (target, rate)))
            else {
                self.lanes.grant(endpoint, want, now);
                continue;
            };
            let context = Arc::clone(&self.context);
            self.tasks.spawn(async move {
                let mut redis = context.redis.connection();
                let want = u32::try_from(want).unwrap_or(u32::MAX);
                let answer =
                    rate::take_turns(&mut redis, &context.keys, &target.group, endpoint, rate, want).await;
                Done::Turns { endpoint, answer }
            });
        }
    }

    pub(super) fn on_attempted(&mut self, outcome: Outcome) {
        let now = Instant::now();
        let Outcome { mut work, record, verdict } = outcome;
        if self.attempts.ended(&work.member()) {
            work.origin = Origin::Retry;
        }
        let duration = record.attempt.as_ref().map_or(0, |attempt| attempt.duration_ms);
        if u128::try_from(duration).unwrap_or(0) >= LAG.as_millis() && self.lanes.lags(work.endpoint_id, now)
        {
            self.lanes.note_lag(work.endpoint_id, now);
        }
        let ended = match verdict {
            Verdict::Delivered => Ended::Well,
            Verdict::Retry { after, slow_down: true } => Ended::SlowDown(now + after),
            Verdict::Retry { .. } | Verdict::Dead | Verdict::Gone => Ended::Badly,
        };
        for (work, at) in self.lanes.ended((work.endpoint_id, Class::of(&work)), ended, now) {
            self.put_off(work, at);
        }
        let gone = verdict == Verdict::Gone;
        self.send(Item::Record { record: Box::new(record), group: work.group, origin: work.origin, gone });
    }

    /// The endpoint can't be tried now. Work of a live feed is deferred, with a row, so that its entry does
    /// not hold up the others; a retry is put back; work of a catch-up is given back to its stream.
    pub(super) fn put_off(&mut self, work: Work, at: Instant) {
        let spread = Duration::from_millis(rand::random_range(0..1000));
        let wait = at.saturating_duration_since(Instant::now()) + spread;
        let at = clock::now() + TimeDelta::from_std(wait).unwrap_or(TimeDelta::days(1));
        match &work.origin {
            Origin::Live(_) => self.defer(work, at),
            Origin::Retry => {
                let member = work.member();
                self.send(Item::Later { member, group_id: work.group_id, group: work.group, at });
            }
            Origin::Single(..) => self.leave_entry(work.origin.clone(), Some(work.member()), wait),
        }
    }

    /// Writes a row for an entry's target that is to be tried at `at`, as a retry.
    pub(super) fn defer(&mut self, work: Work, at: DateTime<Utc>) {
        self.record_untried(work, Status::Pending, Some(at), None);
    }

    fn record_untried(
        &mut self,
        work: Work,
        status: Status,
        next_attempt_at: Option<DateTime<Utc>>,
        last_error: Option<&'static str>,
    ) {
        let record = Record {
            event_id: work.event.id,
            endpoint_id: work.endpoint_id,
            group_id: work.group_id,
            feed_id: work.feed_id,
            replay_id: work.replay_id,
            ask: work.ask,
            status,
            next_attempt_at,
            last_error,
            attempt: None,
        };
        let (group, origin) = (work.group, work.origin);
        self.send(Item::Record { record: Box::new(record), group, origin, gone: false });
    }

    /// Leaves an entry's target without an outcome: once nothing of the entry is in hand any more, it is read
    /// again. (Were it settled instead, what is in hand under another entry or ask could be lost with us.)
    pub(super) fn leave_entry(&mut self, origin: Origin, member: Option<Member>, wait: Duration) {
        if let Origin::Live(entry) | Origin::Single(_, entry) = &origin
            && let Some(slot) = self.feeds.get_mut(&entry.stream)
        {
            slot.recover(Instant::now() + wait.max(PAUSE));
        }
        self.send(Item::GiveBack { member, origin });
    }

    /// A paused group's work stays where it is: entries in their stream, retries as rows.
    pub(super) fn put_back_paused(&mut self, work: Work) {
        let member = work.member();
        match work.origin {
            Origin::Retry => self.send(Item::Unschedule { member, group: work.group }),
            origin => self.leave_entry(origin, Some(member), PAUSE),
        }
    }

    /// A disabled endpoint's deliveries wait for it as rows; nothing tries them before it is enabled.
    pub(super) fn put_off_disabled(&mut self, work: Work, now: Instant) {
        if matches!(work.origin, Origin::Retry) {
            let member = work.member();
            return self.send(Item::Unschedule { member, group: work.group });
        }
        // Beyond the horizon: it does not stand in the ZSET, so that enabling the endpoint finds it there at once.
        self.put_off(work, now + schedule::HORIZON + Duration::from_secs(30));
    }

    /// The endpoint was deleted: nothing is owed to it. A row that waits for it ends.
    pub(super) fn end_orphan(&mut self, work: Work) {
        self.record_untried(work, Status::Dead, None, Some("endpoint_deleted"));
    }
}
