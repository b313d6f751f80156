//! The intake: reads the streams that have entries and the retries that are due, as far as there is room,
//! and starts attempts. One task owns all of this state; what takes time runs beside it and answers.
//!
//! It relies on hints for speed and on nothing for safety: the relay rings every stream that holds entries
//! each second, entries that this process drops or loses stay pending in Redis and are read again, and
//! those of a process that died are taken over.

use std::collections::{HashMap, HashSet};
use std::sync::Arc;
use std::time::{Duration, Instant};

use eventrail_core::group::GroupName;
use eventrail_core::ids::EndpointId;
use eventrail_core::metrics as names;
use eventrail_core::rail::entry::Read;
use eventrail_core::rail::intake::{From, TakenOver};
use eventrail_core::rail::rate::Turns;
use eventrail_core::rail::ready::Hint;
use eventrail_core::rail::schedule::Member;
use tokio::sync::mpsc;
use tokio::task::{JoinError, JoinSet};
use tokio_util::sync::CancellationToken;

use crate::deliver::Outcome;
use crate::lane::HARD_LIMIT;
use crate::lanes::Lanes;
use crate::prepare::{self, Claimed, Context, Looked};
use crate::record::{Item, Settled};
use crate::slots::{FeedSlot, RetrySlot};
use crate::told::Told;
use crate::work::{Origin, Work};
use crate::{background, clock};
use held::Held;
use stragglers::Attempts;

mod held;
mod placing;
mod retries;
mod stragglers;
mod streams;

/// Entries in one read.
const READ_COUNT: usize = 256;
/// The longest that an entry is held: the longest wait for an endpoint, and the longest timeout of an attempt.
pub(crate) const LONGEST_HOLD: Duration = Duration::from_secs(60 + 60);
/// Entries that a live consumer has held longer than this are taken over all the same. At least three times
/// the longest hold and attempt.
pub(crate) const CLAIM_AFTER: Duration = Duration::from_secs(6 * 60);
const BACKOFF: Duration = Duration::from_millis(500);
const SWEEP_EVERY: Duration = Duration::from_millis(100);
const TICK: Duration = Duration::from_millis(10);
/// Completed attempts after which reading is considered again.
const READ_EVERY: usize = 16;

/// What runs beside the intake, and what it answers.
enum Done {
    Read {
        stream: Arc<str>,
        from: From,
        rung: u64,
        count: usize,
        answer: redis::RedisResult<Vec<Read>>,
        known: Looked,
    },
    TakenOver {
        stream: Arc<str>,
        answer: redis::RedisResult<TakenOver>,
    },
    Prepared {
        stream: Arc<str>,
        positions: Vec<i64>,
        answer: anyhow::Result<Vec<Work>>,
    },
    Claimed {
        group_id: i64,
        answer: anyhow::Result<Claimed>,
    },
    Turns {
        endpoint: EndpointId,
        answer: redis::RedisResult<Turns>,
    },
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
    held: Held,
    /// Those of them that are leased from a retry ZSET.
    leased: HashMap<Member, Leased>,
    next_renewal: Instant,
    /// Of live entries.
    attempts: Attempts,
    /// Entries in hand.
    entries: HashSet<(Arc<str>, i64)>,
    most_held: usize,
    tasks: JoinSet<Done>,
    recorder: mpsc::UnboundedSender<Item>,
    completed: usize,
    next_sweep: Instant,
    /// What was taken before then may be another's by now.
    lost_at: Option<Instant>,
    panicked: Option<JoinError>,
}

impl Intake {
    pub(crate) fn new(
        context: Arc<Context>,
        max_in_flight: usize,
        recorder: mpsc::UnboundedSender<Item>,
    ) -> Self {
        let round = background::round_began(Instant::now(), clock::now());
        Self {
            context,
            lanes: Lanes::new(max_in_flight, round),
            feeds: HashMap::new(),
            retries: HashMap::new(),
            held: Held::default(),
            leased: HashMap::new(),
            next_renewal: Instant::now(),
            attempts: Attempts::default(),
            entries: HashSet::new(),
            most_held: (max_in_flight * 8).max(2 * HARD_LIMIT),
            tasks: JoinSet::new(),
            recorder,
            completed: 0,
            next_sweep: Instant::now(),
            lost_at: None,
            panicked: None,
        }
    }

    /// Works until `stop`; then starts nothing more and waits for the attempts under way, at most `drain`.
    /// Attempts that are cut then count for nothing: their entries stay pending for others.
    ///
    /// # Errors
    /// A task has panicked: the process had better start anew.
    pub(crate) async fn run(
        mut self,
        mut hints: mpsc::UnboundedReceiver<Told>,
        mut settled: mpsc::UnboundedReceiver<Settled>,
        stop: CancellationToken,
        drain: Duration,
    ) -> Result<(), JoinError> {
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
                Some(told) = hints.recv() => self.on_told(told),
                Some(news) = settled.recv() => self.on_settled(news),
                _ = tick.tick() => self.on_tick(),
            }
            if self.panicked.is_some() {
                break;
            }
            self.start_work();
        }
        let panicked = self.panicked.take();
        self.drain(settled, drain).await;
        panicked.map_or(Ok(()), Err)
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

    fn on_told(&mut self, Told { hint, appended }: Told) {
        let now = Instant::now();
        match hint {
            Hint::Entries(feed) => {
                let stream: Arc<str> = feed.stream.as_str().into();
                let crowded = feed.crowded;
                let slot = self.feeds.entry(Arc::clone(&stream)).or_insert_with(|| FeedSlot::new(feed, now));
                slot.ring(crowded, appended, now);
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
                    if self.attempts.is_handed_over(&member) {
                        continue;
                    }
                    self.held.release(&member);
                    self.leased.remove(&member);
                }
                for entry in entries {
                    self.entries.remove(&entry);
                }
            }
            Settled::Scheduled { group_id, group, due } => {
                let wait = (due - clock::now()).to_std().unwrap_or_default();
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
        self.put_off_stragglers(now);
        self.drop_ended();
        metrics::gauge!(names::IN_FLIGHT).set(self.lanes.in_flight() as f64);
        metrics::gauge!(names::BREAKERS_OPEN).set(self.lanes.open_breakers() as f64);
        self.context.open_breakers.send_replace(self.lanes.shown_open(now));
        if self.next_renewal <= now {
            self.next_renewal = now + prepare::RENEW_LEASES_EVERY;
            self.renew_leases();
        }
        self.context.courier.client.sweep(now);
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
            Ok(Done::Read { stream, from, rung, count, answer, known }) => {
                self.on_read(&stream, &from, rung, count, answer, known);
            }
            Ok(Done::TakenOver { stream, answer }) => self.on_taken_over(&stream, answer),
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
            // What it had in hand is unknown here now. Whoever starts next finds all of it pending.
            Err(error) => self.panicked = Some(error),
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
