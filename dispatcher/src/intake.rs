//! The intake: reads the streams that have entries and the retries that are due, as far as there is room,
//! and starts attempts. One task owns all of this state; what takes time runs beside it and answers.
//!
//! It relies on hints for speed and on nothing for safety: the relay rings every stream that holds entries
//! each second, entries that this process drops or loses stay pending in Redis and are read again, and
//! those of a process that died are taken over.

use std::collections::{HashMap, HashSet};
use std::sync::Arc;
use std::time::{Duration, Instant};

use chrono::{TimeDelta, Utc};
use eventrail_core::db::answered;
use eventrail_core::db::delivery::{Record, Status};
use eventrail_core::db::recipient::State;
use eventrail_core::group::GroupName;
use eventrail_core::ids::EndpointId;
use eventrail_core::metrics as names;
use eventrail_core::rail::entry::Read;
use eventrail_core::rail::intake::{self, From};
use eventrail_core::rail::rate::{self, Turns};
use eventrail_core::rail::ready::Hint;
use eventrail_core::rail::schedule::{self, Member};
use eventrail_core::verdict::Verdict;
use tokio::sync::mpsc;
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

use crate::deliver::{self, Outcome};
use crate::lanes::{Ended, HARD_LIMIT, Lanes, Put, SOFT_LIMIT};
use crate::prepare::{self, Claimed, Context};
use crate::record::{Item, Settled};
use crate::slots::{FeedSlot, RetrySlot};
use crate::work::{Origin, Work};

/// Entries in one read.
const READ_COUNT: usize = 256;
const OWN_COUNT: usize = 1024;
/// Work that waits longer than this for its endpoint is deferred: an entry is held no longer than this and
/// one attempt.
const HOLD: Duration = Duration::from_secs(5);
/// The same where deferring would not help, since the endpoint is the feed's only one: given back then.
const HOLD_SINGLE: Duration = Duration::from_secs(60);
/// The longest that an entry is held: that, and the longest timeout of an attempt.
pub(crate) const LONGEST_HOLD: Duration = Duration::from_secs(60 + 60);
/// Entries that a live consumer has held longer than this are taken over all the same. At least three times
/// the longest hold and attempt.
pub(crate) const CLAIM_AFTER: Duration = Duration::from_secs(6 * 60);
/// Entries of a consumer that no longer announces itself are taken over once they were idle this long.
const SETTLE_IN: Duration = Duration::from_secs(1);
const TAKE_OVER_EVERY: Duration = Duration::from_secs(2);
const RECOVER_EVERY: Duration = Duration::from_secs(15);
/// How long work that is given back is left alone at least.
const PAUSE: Duration = Duration::from_secs(1);
const BACKOFF: Duration = Duration::from_millis(500);
const SWEEP_EVERY: Duration = Duration::from_millis(100);
const TICK: Duration = Duration::from_millis(10);
/// Completed attempts after which reading is considered again.
const READ_EVERY: usize = 16;

/// What runs beside the intake, and what it answers.
enum Done {
    Read { stream: Arc<str>, from: From, rung: u64, count: usize, answer: redis::RedisResult<Vec<Read>> },
    TakenOver { stream: Arc<str>, answer: redis::RedisResult<Vec<Read>> },
    Prepared { stream: Arc<str>, positions: Vec<i64>, answer: anyhow::Result<Vec<Work>> },
    Claimed { group_id: i64, answer: anyhow::Result<Claimed> },
    Turns { endpoint: EndpointId, answer: redis::RedisResult<Turns> },
    Attempted(Box<Outcome>),
    Renewed(redis::RedisResult<()>),
}

/// A retry in hand: leased until its outcome is settled.
struct Leased {
    group_id: i64,
    group: GroupName,
    /// The recorder has it, and settles it.
    handed_on: bool,
}

pub(crate) struct Intake {
    context: Arc<Context>,
    lanes: Lanes,
    feeds: HashMap<Arc<str>, FeedSlot>,
    retries: HashMap<i64, RetrySlot>,
    /// Deliveries in hand: from being taken until their outcome is settled.
    held: HashSet<Member>,
    /// Those of them that are leased from a retry ZSET.
    leased: HashMap<Member, Leased>,
    next_renewal: Instant,
    /// Entries in hand.
    entries: HashSet<(Arc<str>, i64)>,
    most_held: usize,
    tasks: JoinSet<Done>,
    recorder: mpsc::UnboundedSender<Item>,
    completed: usize,
    next_sweep: Instant,
}

impl Intake {
    pub(crate) fn new(
        context: Arc<Context>,
        max_in_flight: usize,
        recorder: mpsc::UnboundedSender<Item>,
    ) -> Self {
        Self {
            context,
            lanes: Lanes::new(max_in_flight),
            feeds: HashMap::new(),
            retries: HashMap::new(),
            held: HashSet::new(),
            leased: HashMap::new(),
            next_renewal: Instant::now(),
            entries: HashSet::new(),
            most_held: (max_in_flight * 8).max(2 * HARD_LIMIT),
            tasks: JoinSet::new(),
            recorder,
            completed: 0,
            next_sweep: Instant::now(),
        }
    }

    /// Works until `stop`; then starts nothing more and waits for the attempts under way, at most `drain`.
    /// Attempts that are cut then count for nothing: their entries stay pending for others.
    pub(crate) async fn run(
        mut self,
        mut hints: mpsc::UnboundedReceiver<Hint>,
        mut settled: mpsc::UnboundedReceiver<Settled>,
        stop: CancellationToken,
        drain: Duration,
    ) {
        let mut tick = tokio::time::interval(TICK);
        tick.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        loop {
            tokio::select! {
                () = stop.cancelled() => break,
                Some(done) = self.tasks.join_next(), if !self.tasks.is_empty() => {
                    self.on_done(done);
                    while let Some(done) = self.tasks.try_join_next() {
                        self.on_done(done);
                    }
                }
                Some(hint) = hints.recv() => self.on_hint(hint),
                Some(news) = settled.recv() => self.on_settled(news),
                _ = tick.tick() => self.on_tick(),
            }
            self.start_work();
        }
        self.drain(settled, drain).await;
    }

    async fn drain(mut self, mut settled: mpsc::UnboundedReceiver<Settled>, drain: Duration) {
        for work in self.lanes.clear() {
            if matches!(work.origin, Origin::Retry) {
                self.give_back(work.member());
            }
        }
        tracing::info!(
            in_flight = self.lanes.in_flight(),
            "dispatcher stops: waiting for attempts under way"
        );
        let deadline = tokio::time::sleep(drain);
        tokio::pin!(deadline);
        let mut renewal = tokio::time::interval(prepare::RENEW_LEASES_EVERY);
        while self.lanes.in_flight() > 0 {
            tokio::select! {
                () = &mut deadline => {
                    tracing::warn!(in_flight = self.lanes.in_flight(), "attempts cut by the stop; they don't count");
                    break;
                }
                Some(done) = self.tasks.join_next() => {
                    if let Ok(Done::Attempted(outcome)) = done {
                        self.on_attempted(*outcome);
                    }
                }
                Some(_) = settled.recv() => {}
                _ = renewal.tick() => self.renew_leases(),
            }
        }
        self.tasks.abort_all();
        for member in self.leased.keys().copied().collect::<Vec<_>>() {
            self.give_back(member);
        }
    }

    /// A retry that this process will not try any more is due for others at once.
    fn give_back(&mut self, member: Member) {
        let Some(leased) = self.leased.get(&member).filter(|leased| !leased.handed_on) else { return };
        let (group_id, group) = (leased.group_id, leased.group.clone());
        self.send(Item::Later { member, group_id, group, at: Utc::now() });
    }

    fn renew_leases(&mut self) {
        if self.leased.is_empty() {
            return;
        }
        let in_hand = self.leased.iter().map(|(member, leased)| (leased.group.clone(), *member)).collect();
        let context = Arc::clone(&self.context);
        self.tasks.spawn(async move { Done::Renewed(prepare::renew(&context, in_hand).await) });
    }

    fn on_hint(&mut self, hint: Hint) {
        let now = Instant::now();
        match hint {
            Hint::Entries(feed) => {
                let stream: Arc<str> = feed.stream.as_str().into();
                let slot = self.feeds.entry(Arc::clone(&stream)).or_insert_with(|| FeedSlot::new(feed, now));
                slot.ring(now);
                self.read(&stream, now);
            }
            Hint::Retries { group_id, group } => {
                self.retries.entry(group_id).or_insert_with(|| RetrySlot::new(group)).due_by(now);
                self.claim(group_id, now);
            }
        }
    }

    fn on_settled(&mut self, news: Settled) {
        match news {
            Settled::Released { members, entries } => {
                for member in members {
                    self.held.remove(&member);
                    self.leased.remove(&member);
                }
                for entry in entries {
                    self.entries.remove(&entry);
                }
            }
            Settled::Scheduled { group_id, group, due } => {
                let wait = (due - Utc::now()).to_std().unwrap_or_default();
                let slot = self.retries.entry(group_id).or_insert_with(|| RetrySlot::new(group));
                slot.due_by(Instant::now() + wait);
            }
        }
    }

    fn on_tick(&mut self) {
        let now = Instant::now();
        self.read_all(now);
        self.claim_all(now);
        if self.next_sweep > now {
            return;
        }
        self.next_sweep = now + SWEEP_EVERY;
        let context = Arc::clone(&self.context);
        // Deferring helps the other endpoints of a group; where there is no other, the entry just waits.
        let too_long = |work: &Work| {
            let single = match work.origin {
                Origin::CatchUp(_) => true,
                Origin::Live(_) => context.recipients.active_in_group(work.group_id) <= 1,
                Origin::Retry => false,
            };
            !single || now.duration_since(work.taken_at) > HOLD_SINGLE
        };
        let away = match now.checked_sub(HOLD) {
            Some(cutoff) => self.lanes.sweep(cutoff, now, too_long),
            None => Vec::new(),
        };
        for (work, at) in away {
            self.put_off(work, at);
        }
        metrics::gauge!(names::IN_FLIGHT).set(self.lanes.in_flight() as f64);
        metrics::gauge!(names::BREAKERS_OPEN).set(self.lanes.open_breakers() as f64);
        if self.next_renewal <= now {
            self.next_renewal = now + prepare::RENEW_LEASES_EVERY;
            self.renew_leases();
        }
        self.feeds.retain(|_, slot| !slot.is_forgotten(now));
        self.look_after(now);
    }

    fn on_done(&mut self, done: Result<Done, tokio::task::JoinError>) {
        let now = Instant::now();
        match done {
            Ok(Done::Attempted(outcome)) => {
                self.on_attempted(*outcome);
                self.completed += 1;
                if self.completed.is_multiple_of(READ_EVERY) {
                    self.read_all(now);
                }
            }
            Ok(Done::Read { stream, from, rung, count, answer }) => {
                self.on_read(&stream, &from, rung, count, answer);
            }
            Ok(Done::TakenOver { stream, answer }) => match answer {
                Ok(reads) => {
                    if !reads.is_empty() {
                        tracing::info!(%stream, entries = reads.len(), "took over entries that were left behind");
                        metrics::counter!(names::ENTRIES_CLAIMED).increment(reads.len() as u64);
                    }
                    self.prepare(&stream, reads);
                }
                Err(error) => tracing::debug!(%stream, %error, "nothing taken over"),
            },
            Ok(Done::Prepared { stream, positions, answer }) => self.on_prepared(&stream, &positions, answer),
            Ok(Done::Claimed { group_id, answer }) => self.on_claimed(group_id, answer),
            Ok(Done::Turns { endpoint, answer: Ok(turns) }) => {
                self.lanes.grant(endpoint, turns.granted as usize, now + turns.more_in);
            }
            Ok(Done::Turns { endpoint, answer: Err(error) }) => {
                tracing::debug!(endpoint.id = %endpoint, %error, "no turns of the shared rate");
                self.lanes.grant(endpoint, 0, now + BACKOFF);
            }
            Ok(Done::Renewed(Ok(()))) => {}
            Ok(Done::Renewed(Err(error))) => tracing::debug!(%error, "leases of retries not renewed"),
            Err(error) if error.is_cancelled() => {}
            Err(error) => tracing::error!(%error, "a task of the intake panicked"),
        }
    }

    fn on_attempted(&mut self, outcome: Outcome) {
        let now = Instant::now();
        let Outcome { work, record, verdict } = outcome;
        let ended = match verdict {
            Verdict::Delivered => Ended::Well,
            Verdict::Retry { after, slow_down: true } => Ended::SlowDown(now + after),
            Verdict::Retry { .. } | Verdict::Dead | Verdict::Gone => Ended::Badly,
        };
        for (work, at) in self.lanes.ended(work.endpoint_id, ended, now) {
            self.put_off(work, at);
        }
        let gone = verdict == Verdict::Gone;
        self.send(Item::Record { record: Box::new(record), group: work.group, origin: work.origin, gone });
    }

    fn on_read(
        &mut self,
        stream: &Arc<str>,
        from: &From,
        rung: u64,
        count: usize,
        answer: redis::RedisResult<Vec<Read>>,
    ) {
        let Some(slot) = self.feeds.get_mut(stream) else { return };
        slot.reading = false;
        match answer {
            Ok(reads) => {
                slot.has_read(from, &reads, rung, count);
                self.prepare(stream, reads);
            }
            Err(error) => {
                tracing::debug!(%stream, %error, "stream not read");
                slot.recover(Instant::now() + BACKOFF);
            }
        }
    }

    /// Looks up what is owed of these entries, beside the intake; those in hand already are passed over.
    fn prepare(&mut self, stream: &Arc<str>, mut reads: Vec<Read>) {
        let Some(slot) = self.feeds.get_mut(stream) else { return };
        let entries = &mut self.entries;
        reads.retain(|read| match read {
            Read::Entry(entry) => entries.insert((Arc::clone(stream), entry.position)),
            Read::Void { .. } => true,
        });
        if reads.is_empty() {
            return;
        }
        let position = |read: &Read| match read {
            Read::Entry(entry) => Some(entry.position),
            Read::Void { .. } => None,
        };
        let positions: Vec<i64> = reads.iter().filter_map(position).collect();
        slot.preparing += positions.len();
        let (context, feed, stream) = (Arc::clone(&self.context), slot.feed.clone(), Arc::clone(stream));
        self.tasks.spawn(async move {
            let answer = answered(prepare::entries(&context, &feed, &stream, reads)).await;
            Done::Prepared { stream, positions, answer }
        });
    }

    fn on_prepared(&mut self, stream: &Arc<str>, positions: &[i64], answer: anyhow::Result<Vec<Work>>) {
        let now = Instant::now();
        if let Some(slot) = self.feeds.get_mut(stream) {
            slot.preparing = slot.preparing.saturating_sub(positions.len());
        }
        let mut not_held: HashSet<i64> = positions.iter().copied().collect();
        match answer {
            Ok(works) => {
                for work in works {
                    if let Origin::Live(entry) | Origin::CatchUp(entry) = &work.origin {
                        not_held.remove(&entry.position);
                    }
                    self.place(work, now);
                }
            }
            Err(error) => {
                tracing::warn!(%stream, error = format!("{error:#}"), "entries not prepared; they are read again");
                if let Some(slot) = self.feeds.get_mut(stream) {
                    slot.recover(now + BACKOFF);
                }
            }
        }
        for position in not_held {
            self.entries.remove(&(Arc::clone(stream), position));
        }
        self.read(stream, now);
    }

    fn on_claimed(&mut self, group_id: i64, answer: anyhow::Result<Claimed>) {
        let now = Instant::now();
        let Some(slot) = self.retries.get_mut(&group_id) else { return };
        slot.claiming = false;
        match answer {
            Ok(claimed) => {
                match claimed.next {
                    _ if claimed.full => slot.due_by(now),
                    Some(wait) => slot.due_by(now + wait.max(Duration::from_millis(5))),
                    None => {}
                }
                for work in claimed.works {
                    self.place(work, now);
                }
            }
            Err(error) => {
                tracing::warn!(group.id = group_id, error = format!("{error:#}"), "due retries not claimed");
                slot.due_by(now + BACKOFF);
            }
        }
    }

    /// Puts work into its endpoint's lane, or aside.
    fn place(&mut self, work: Work, now: Instant) {
        if !self.held.insert(work.member()) {
            return self.leave_entry(work.origin, None, PAUSE);
        }
        if matches!(work.origin, Origin::Retry) {
            let leased = Leased { group_id: work.group_id, group: work.group.clone(), handed_on: false };
            self.leased.insert(work.member(), leased);
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
        match self.lanes.put(work, &target.limits(), now) {
            Put::Waits => {}
            Put::Refused(work, at) => self.put_off(work, at),
        }
    }

    /// Starts all work that may start now.
    fn start_work(&mut self) {
        let now = Instant::now();
        self.take_turns(now);
        while let Some(work) = self.lanes.start_next(now) {
            let target = self.context.recipients.get(work.endpoint_id);
            let Some(target) = target.filter(|target| target.state == State::Active && !target.paused) else {
                // Something has changed since it was put into its lane: place it anew.
                self.lanes.ended(work.endpoint_id, Ended::Untried, now);
                self.held.remove(&work.member());
                self.place(work, now);
                continue;
            };
            let context = Arc::clone(&self.context);
            self.tasks.spawn(async move {
                Done::Attempted(Box::new(deliver::deliver(&context.courier, &target, work).await))
            });
        }
    }

    /// Asks for turns of the rates that all dispatchers share, for the lanes that wait for them.
    fn take_turns(&mut self, now: Instant) {
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

    /// The endpoint can't be tried now. Work of a live feed is deferred, with a row, so that its entry does
    /// not hold up the others; a retry is put back; work of a catch-up is given back to its stream.
    fn put_off(&mut self, work: Work, at: Instant) {
        let spread = Duration::from_millis(rand::random_range(0..1000));
        let wait = at.saturating_duration_since(Instant::now()) + spread;
        let at = Utc::now() + TimeDelta::from_std(wait).unwrap_or(TimeDelta::days(1));
        match &work.origin {
            Origin::Live(_) => {
                let record = Record {
                    event_id: work.event.id,
                    endpoint_id: work.endpoint_id,
                    group_id: work.group_id,
                    feed_id: work.feed_id,
                    ask: work.ask,
                    status: Status::Pending,
                    next_attempt_at: Some(at),
                    last_error: None,
                    attempt: None,
                };
                let (group, origin) = (work.group, work.origin);
                self.send(Item::Record { record: Box::new(record), group, origin, gone: false });
            }
            Origin::Retry => {
                let member = work.member();
                self.send(Item::Later { member, group_id: work.group_id, group: work.group, at });
            }
            Origin::CatchUp(_) => self.leave_entry(work.origin.clone(), Some(work.member()), wait),
        }
    }

    /// Leaves an entry's target without an outcome: once nothing of the entry is in hand any more, it is read
    /// again. (Were it settled instead, what is in hand under another entry or ask could be lost with us.)
    fn leave_entry(&mut self, origin: Origin, member: Option<Member>, wait: Duration) {
        if let Origin::Live(entry) | Origin::CatchUp(entry) = &origin
            && let Some(slot) = self.feeds.get_mut(&entry.stream)
        {
            slot.recover(Instant::now() + wait.max(PAUSE));
        }
        self.send(Item::GiveBack { member, origin });
    }

    /// A paused group's work stays where it is: entries in their stream, retries as rows.
    fn put_back_paused(&mut self, work: Work) {
        let member = work.member();
        match work.origin {
            Origin::Retry => self.send(Item::Unschedule { member, group: work.group }),
            origin => self.leave_entry(origin, Some(member), PAUSE),
        }
    }

    /// A disabled endpoint's deliveries wait for it as rows; nothing tries them before it is enabled.
    fn put_off_disabled(&mut self, work: Work, now: Instant) {
        if matches!(work.origin, Origin::Retry) {
            let member = work.member();
            return self.send(Item::Unschedule { member, group: work.group });
        }
        // Beyond the horizon: it does not stand in the ZSET, so that enabling the endpoint finds it there at once.
        self.put_off(work, now + schedule::HORIZON + Duration::from_secs(30));
    }

    /// The endpoint was deleted: nothing is owed to it. A row that waits for it ends.
    fn end_orphan(&mut self, work: Work) {
        let record = Record {
            event_id: work.event.id,
            endpoint_id: work.endpoint_id,
            group_id: work.group_id,
            feed_id: work.feed_id,
            ask: work.ask,
            status: Status::Dead,
            next_attempt_at: None,
            last_error: Some("endpoint_deleted"),
            attempt: None,
        };
        let (group, origin) = (work.group, work.origin);
        self.send(Item::Record { record: Box::new(record), group, origin, gone: false });
    }

    fn read_all(&mut self, now: Instant) {
        let ready: Vec<Arc<str>> = self
            .feeds
            .iter()
            .filter(|(_, slot)| slot.wants_reading(now))
            .map(|(stream, _)| Arc::clone(stream))
            .collect();
        for stream in ready {
            self.read(&stream, now);
        }
    }

    /// Reads a stream if it has entries and there is room for them.
    fn read(&mut self, stream: &Arc<str>, now: Instant) {
        let Some(slot) = self.feeds.get(stream).filter(|slot| slot.wants_reading(now)) else { return };
        if self.context.recipients.is_paused(slot.feed.group_id) {
            return;
        }
        let count = match slot.from() {
            From::New => self.quota(slot, now),
            // Most of what is pending here is in hand, and takes no room.
            From::Own(_) => OWN_COUNT,
        };
        if count == 0 {
            return;
        }
        let Some(slot) = self.feeds.get_mut(stream) else { return };
        slot.reading = true;
        let (from, rung) = (slot.from(), slot.rung);
        let (context, stream) = (Arc::clone(&self.context), Arc::clone(stream));
        self.tasks.spawn(async move {
            let mut redis = context.redis.connection();
            let answer = intake::read(&mut redis, &stream, &context.consumer, &from, count).await;
            Done::Read { stream, from, rung, count, answer }
        });
    }

    /// How many entries of a feed may be read now. An endpoint that can't be tried does not hold up a live
    /// feed, whose work for it is deferred; a catch-up, whose only endpoint it is, rests.
    fn quota(&self, slot: &FeedSlot, now: Instant) -> usize {
        let room = match slot.feed.endpoint_id {
            Some(only) => match self.context.recipients.get(only).map(|target| target.state) {
                Some(State::Disabled | State::Sealed) => 0,
                _ => self.lanes.room(only, now).unwrap_or(0),
            },
            None => {
                let (mut most, mut any) = (0, false);
                self.context.recipients.each_of_group(slot.feed.group_id, |endpoint| {
                    any = true;
                    most = most.max(self.lanes.room(*endpoint, now).unwrap_or(SOFT_LIMIT));
                    most < READ_COUNT
                });
                if any { most } else { READ_COUNT }
            }
        };
        let width = self.context.recipients.active_in_group(slot.feed.group_id).max(1);
        let memory = self.most_held.saturating_sub(self.held.len()) / width;
        room.saturating_sub(slot.preparing).min(READ_COUNT).min(memory)
    }

    fn claim_all(&mut self, now: Instant) {
        let due: Vec<i64> =
            self.retries.iter().filter(|(_, slot)| slot.is_due(now)).map(|(group_id, _)| *group_id).collect();
        for group_id in due {
            self.claim(group_id, now);
        }
        self.retries.retain(|_, slot| !slot.is_idle());
    }

    fn claim(&mut self, group_id: i64, now: Instant) {
        let most = self.most_held.saturating_sub(self.held.len() + self.lanes.waiting()).min(READ_COUNT);
        let Some(slot) = self.retries.get_mut(&group_id).filter(|slot| slot.is_due(now)) else { return };
        if most == 0 {
            return;
        }
        slot.begin_claim();
        let (context, group) = (Arc::clone(&self.context), slot.group.clone());
        self.tasks.spawn(async move {
            let answer = answered(prepare::retries(&context, group_id, &group, most)).await;
            Done::Claimed { group_id, answer }
        });
    }

    /// Takes over what others left behind, and looks again at what is pending here, stream by stream.
    fn look_after(&mut self, now: Instant) {
        for (stream, slot) in &mut self.feeds {
            if slot.next_recover <= now {
                slot.next_recover = now + RECOVER_EVERY;
                slot.recover(now);
            }
            if slot.next_take_over > now {
                continue;
            }
            slot.next_take_over = now + TAKE_OVER_EVERY;
            let (context, stream) = (Arc::clone(&self.context), Arc::clone(stream));
            self.tasks.spawn(async move {
                let mut redis = context.redis.connection();
                let (keys, me) = (&context.keys, context.consumer.as_str());
                let answer =
                    intake::take_over(&mut redis, keys, &stream, me, SETTLE_IN, CLAIM_AFTER, READ_COUNT)
                        .await;
                if answer.is_ok() {
                    let _ = intake::forget_dead_consumers(&mut redis, keys, &stream).await;
                }
                Done::TakenOver { stream, answer }
            });
        }
    }

    fn send(&mut self, item: Item) {
        let member = match &item {
            Item::Record { record, .. } => {
                Some(Member { event_id: record.event_id, endpoint_id: record.endpoint_id })
            }
            Item::Later { member, .. } | Item::Unschedule { member, .. } => Some(*member),
            Item::GiveBack { .. } => None,
        };
        if let Some(leased) = member.and_then(|member| self.leased.get_mut(&member)) {
            leased.handed_on = true;
        }
        // The recorder outlives the intake; it is gone only when the process is about to be.
        let _ = self.recorder.send(item);
    }
}
