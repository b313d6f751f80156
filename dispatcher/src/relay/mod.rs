//! The relay copies the log into the groups' streams. One process leads at a time, by a lease; two at once
//! are harmless, since an append goes through only if the stream's tail is the one that its relay expects.
//!
//! [`Relay::step`] is called by the supervisor in a loop. It relies on nothing that it remembers: whatever
//! Redis or PostgreSQL refuses makes it compare the stream with the record again ([`Relay::resync`]).

use std::collections::HashMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

use eventrail_core::db::{feed, lease, tail, topology};
use eventrail_core::metrics as names;
use eventrail_core::rail::keys::Keys;
use eventrail_core::rail::link::Link;
use eventrail_core::rail::ready::{self, Hint};
use eventrail_core::rail::stream::{self, Appended};
use futures_util::future::join_all;
use redis::aio::ConnectionManager;
use sqlx::PgPool;
use tokio::sync::mpsc;

use crate::event::{Event, EventCache};
use feeds::FeedState;
use loader::Loader;
use targets::Topology;

mod feeds;
mod loader;
mod passes;
mod targets;

const LEASE: Duration = Duration::from_secs(6);
const RENEW_EVERY: Duration = Duration::from_secs(2);
/// Events in one read of the log.
const BATCH: usize = 500;
/// Entries in one append; a script holds up Redis while it runs.
const APPEND_BATCH: usize = 500;
/// How long a feed whose stream is full is left alone.
const FULL_PAUSE: Duration = Duration::from_millis(10);
/// Reads for lagging feeds in one step, so that the head is never kept waiting for long.
const LAG_READS: usize = 4;

/// What a step did.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Step {
    Worked,
    /// Nothing to do for this long, unless the doorbell rings.
    Idle(Duration),
}

/// What the relay needs from outside.
pub struct RelayConfig {
    /// Names this process in the lease.
    pub holder: String,
    /// Deliveries of one group that its stream may hold.
    pub window: u32,
    pub keys: Keys,
}

pub struct Relay {
    pool: PgPool,
    link: Link,
    /// Taken anew for each step.
    redis: ConnectionManager,
    config: RelayConfig,
    /// Hints for this process's own intake; the others hear them through Redis.
    hints: mpsc::UnboundedSender<Hint>,
    cache: Arc<EventCache>,
    leads: bool,
    renew_at: Instant,
    /// The server that all of this was read from.
    incarnation: lease::Incarnation,
    topology: Topology,
    feeds: HashMap<i64, FeedState>,
    /// Up to here the log was read for the feeds that keep up.
    head: tail::Place,
    next_pass: Instant,
    next_idle_settle: Instant,
    turn: usize,
    loader: Loader,
    /// Endpoints may have been deleted long ago, while no relay ran.
    orphans_unknown: bool,
}

impl Relay {
    pub(crate) fn new(
        pool: PgPool,
        link: Link,
        config: RelayConfig,
        hints: mpsc::UnboundedSender<Hint>,
        cache: Arc<EventCache>,
    ) -> Self {
        let now = Instant::now();
        Self {
            pool,
            redis: link.connection(),
            link,
            config,
            hints,
            cache,
            leads: false,
            renew_at: now,
            incarnation: lease::Incarnation::default(),
            topology: Topology::default(),
            feeds: HashMap::new(),
            head: tail::Place::unpruned(0),
            next_pass: now,
            next_idle_settle: now,
            turn: 0,
            loader: Loader::default(),
            orphans_unknown: true,
        }
    }

    /// One round: renew the lease, read the head, append, help those that lag, and once a second the passes.
    ///
    /// # Errors
    /// PostgreSQL or Redis is away. The caller waits a little and calls [`Relay::forget`] before the next step.
    pub async fn step(&mut self) -> anyhow::Result<Step> {
        self.redis = self.link.connection();
        if !self.lead().await? {
            return Ok(Step::Idle(Duration::from_secs(1)));
        }
        let served = self.serve().await;
        // Also when nothing could be appended: Redis may be full, and the passes are what empties it.
        if Instant::now() >= self.next_pass {
            self.next_pass = Instant::now() + Duration::from_secs(1);
            self.passes().await?;
        }
        if served? {
            return Ok(Step::Worked);
        }
        let full = self.feeds.values().any(|feed| feed.full_until.is_some());
        Ok(Step::Idle(if full { FULL_PAUSE } else { Duration::from_millis(250) }))
    }

    async fn serve(&mut self) -> anyhow::Result<bool> {
        let read = self.follow_head().await?;
        self.resync().await?;
        let helped = self.help_lagging().await?;
        self.append_waiting().await?;
        Ok(read > 0 || helped)
    }

    /// Forgets all that was believed of log and streams: after an error, everything is compared again.
    pub fn forget(&mut self) {
        self.leads = false;
        self.renew_at = Instant::now();
    }

    /// Gives the lease up.
    pub async fn resign(&mut self) {
        self.leads = false;
        metrics::gauge!(names::RELAY_LEADER).set(0.0);
        if let Err(error) = lease::give_up(&self.pool, &self.config.holder).await {
            tracing::debug!(%error, "relay lease not given up; it runs out by itself");
        }
    }

    async fn lead(&mut self) -> anyhow::Result<bool> {
        if Instant::now() < self.renew_at {
            return Ok(self.leads);
        }
        let incarnation = lease::take(&self.pool, &self.config.holder, LEASE).await?;
        let ours = incarnation.is_some();
        self.renew_at = Instant::now() + if ours { RENEW_EVERY } else { Duration::from_secs(1) };
        if let Some(incarnation) = incarnation.filter(|now| !self.leads || *now != self.incarnation) {
            tracing::info!(holder = %self.config.holder, "relay leads");
            self.incarnation = incarnation;
            self.feeds.clear();
            self.topology = Topology::default();
            self.head = tail::Place::unpruned(tail::head(&self.pool).await?);
            self.loader = Loader::default();
            self.orphans_unknown = true;
        } else if !ours && self.leads {
            tracing::warn!(holder = %self.config.holder, "relay lost its lease");
        }
        self.leads = ours;
        metrics::gauge!(names::RELAY_LEADER).set(if ours { 1.0 } else { 0.0 });
        Ok(ours)
    }

    /// Reads what is new at the head, once for all feeds that stand there, and offers it to them.
    async fn follow_head(&mut self) -> anyhow::Result<usize> {
        let (mut version, mut events) = tail::read_head(&self.pool, self.head, BATCH as i64).await?;
        if version != self.topology.version || self.topology.version == 0 {
            (version, events) = self.read_topology().await?;
        }
        debug_assert_eq!(version, self.topology.version);
        let next = events.last().map_or(self.head, tail::Place::of);
        let at_head: Vec<i64> = self
            .feeds
            .values()
            .filter(|feed| {
                feed.known && feed.waiting.is_empty() && feed.scanned >= feed.until(self.head.position)
            })
            .map(|feed| feed.feed.id)
            .collect();
        let live_of_group: HashMap<i64, i64> = at_head
            .iter()
            .filter_map(|id| self.feeds.get(id))
            .filter(|state| state.feed.live)
            .map(|state| (state.feed.group_id, state.feed.id))
            .collect();
        for event in &events {
            let targets = self.topology.live_targets(event);
            if targets.is_empty() {
                continue;
            }
            if let Some(event) = Event::new(event) {
                self.cache.insert(&Arc::new(event));
            }
            for (group, targets) in targets {
                if let Some(state) = live_of_group.get(&group).and_then(|id| self.feeds.get_mut(id)) {
                    state.offer(event, targets);
                }
            }
        }
        for id in &at_head {
            if let Some(state) = self.feeds.get_mut(id) {
                // A feed's end was drawn under the log lock before this snapshot: with no more events to
                // read, there is none up to that end either, though it is no event's position.
                let end = state.feed.to_position.filter(|_| events.len() < BATCH).unwrap_or(0);
                state.scanned_to(tail::Place { position: next.position.max(end), ..next });
            }
        }
        self.head = next;
        if events.is_empty() {
            return Ok(0);
        }
        metrics::counter!(names::RELAY_EVENTS).increment(events.len() as u64);
        self.append_waiting().await?;
        Ok(events.len())
    }

    /// Reads topology and head in one snapshot, and takes over what has changed.
    async fn read_topology(&mut self) -> anyhow::Result<(i64, Vec<tail::LoggedEvent>)> {
        let mut transaction = self.pool.begin_with("begin isolation level repeatable read read only").await?;
        let snapshot = topology::read(&mut transaction).await?;
        let (version, events) = tail::read_head(&mut *transaction, self.head, BATCH as i64).await?;
        transaction.commit().await?;
        self.topology = Topology::new(&snapshot);
        let mut gone = std::mem::take(&mut self.feeds);
        for row in snapshot.feeds {
            let state = match gone.remove(&row.id) {
                Some(state) if state.feed.epoch == row.epoch => state,
                _ => FeedState::new(row, &self.config.keys),
            };
            self.feeds.insert(state.feed.id, state);
        }
        self.delete_streams(gone.into_values().collect()).await?;
        Ok((version, events))
    }

    /// Compares each feed that is not known with its stream and its record, and checks that the stream's
    /// tail is the log's: if a backup was restored, or positions were given again, the feed gets a new epoch.
    async fn resync(&mut self) -> anyhow::Result<()> {
        let unknown: Vec<i64> =
            self.feeds.values().filter(|feed| !feed.known).map(|feed| feed.feed.id).take(200).collect();
        if unknown.is_empty() {
            return Ok(());
        }
        let redis = &self.redis;
        let inspections = unknown.iter().filter_map(|id| self.feeds.get(id)).map(|state| {
            let (mut redis, stream) = (redis.clone(), state.stream.clone());
            async move { stream::inspect(&mut redis, &stream).await }
        });
        // The record is read after the stream: what settles in between only moves it forward.
        let standings = join_all(inspections).await.into_iter().collect::<Result<Vec<_>, _>>()?;
        let cursors: HashMap<i64, feed::Cursor> = feed::cursors(&self.pool, &unknown)
            .await?
            .into_iter()
            .map(|cursor| (cursor.id, cursor))
            .collect();
        let tails: Vec<i64> = standings.iter().flatten().map(|standing| standing.tail).collect();
        let log: HashMap<i64, _> = tail::ids_at(&self.pool, &tails).await?.into_iter().collect();
        for (id, standing) in unknown.iter().zip(&standings) {
            let (Some(state), Some(cursor)) = (self.feeds.get_mut(id), cursors.get(id)) else { continue };
            if cursor.epoch != state.feed.epoch {
                continue;
            }
            if let Some(standing) = standing {
                let fits = standing.tail == 0
                    || standing.tail_event.is_some()
                        && standing.tail_event.as_ref() == log.get(&standing.tail)
                    || standing.tail <= cursor.settled_position && !log.contains_key(&standing.tail);
                if !fits {
                    tracing::warn!(feed.id = id, feed.group = %state.feed.group, tail = standing.tail,
                        "the stream's tail is not the log's: new epoch");
                    feed::begin_epoch(&self.pool, *id, state.feed.epoch).await?;
                    continue;
                }
            } else {
                self.loader.reload();
            }
            state.resume(cursor.settled_position, standing.as_ref());
            if state.feed.epoch > 0 {
                let old = passes::previous_stream(&self.config.keys, &state.feed);
                stream::delete(&mut self.redis, &[old]).await?;
            }
        }
        Ok(())
    }

    /// Reads the log for feeds that have fallen behind, a batch at a time and each in turn. Feeds that lag
    /// within the same batch share it.
    async fn help_lagging(&mut self) -> anyhow::Result<bool> {
        let mut helped = false;
        for _ in 0..LAG_READS {
            let head = self.head.position;
            let mut lagging: Vec<(i64, i64)> = self
                .feeds
                .values()
                .filter(|feed| feed.lags(head))
                .map(|feed| (feed.feed.id, feed.scanned))
                .collect();
            if lagging.is_empty() {
                break;
            }
            lagging.sort_unstable();
            self.turn = self.turn.wrapping_add(1);
            let (first, start) = lagging[self.turn % lagging.len()];
            let Some((place, end)) = self.feeds.get(&first).map(|state| (state.place(), state.until(head)))
            else {
                break;
            };
            let events = tail::read_range(&self.pool, place, end, BATCH as i64).await?;
            let reached = match events.last() {
                Some(last) if events.len() == BATCH => tail::Place::of(last),
                last => tail::Place { position: end, floor: last.map_or(place.floor, |last| last.id.0) },
            };
            for (id, scanned) in lagging {
                let Some(state) = self.feeds.get_mut(&id) else { continue };
                if scanned < start || scanned >= reached.position {
                    continue;
                }
                for event in &events {
                    if event.position > scanned {
                        let targets = self.topology.targets(&state.feed, event);
                        state.offer(event, targets);
                    }
                }
                let reached = tail::Place { position: state.until(reached.position), ..reached };
                state.scanned_to(reached);
                state.dirty = true;
            }
            self.append_waiting().await?;
            helped = true;
        }
        Ok(helped)
    }

    /// Appends what the feeds have waiting, to all streams at once, and tells the dispatchers.
    async fn append_waiting(&mut self) -> anyhow::Result<()> {
        let now = Instant::now();
        let due = |feed: &&mut FeedState| {
            feed.known && !feed.waiting.is_empty() && feed.full_until.is_none_or(|until| until <= now)
        };
        let (redis, topology, window) = (&self.redis, &self.topology, self.config.window as usize);
        let appends = self.feeds.values_mut().filter(due).map(|state| {
            let mut redis = redis.clone();
            let room = (window / topology.widest_entry(state.feed.group_id)).max(10) as u64;
            async move {
                let outcome = append_all(&mut redis, state, room).await;
                (state, outcome)
            }
        });
        let mut hints = Vec::new();
        let mut failed = None;
        for (state, outcome) in join_all(appends).await {
            match outcome {
                Ok(appended) if appended > 0 => hints.push(state.hint()),
                Ok(_) => {}
                Err(error) => failed = Some(error),
            }
        }
        for hint in &hints {
            let _ = self.hints.send(hint.clone());
        }
        ready::publish(&mut self.redis, &self.config.keys.ready(), &hints).await?;
        failed.map_or(Ok(()), |error| Err(error.into()))
    }
}

/// Appends a feed's waiting entries as far as its stream has room; answers how many. A refused append makes
/// the feed unknown: it is compared again.
async fn append_all(
    redis: &mut ConnectionManager,
    state: &mut FeedState,
    room: u64,
) -> redis::RedisResult<usize> {
    let mut appended = 0;
    state.full_until = None;
    while appended < state.waiting.len() {
        let end = state.waiting.len().min(appended + APPEND_BATCH);
        let batch = &state.waiting[appended..end];
        let outcome = stream::append(redis, &state.stream, state.tail, room, batch).await;
        match outcome {
            Ok(Appended::Done { .. }) => {
                state.tail = batch.last().map(|entry| entry.position);
                state.dirty = true;
                appended = end;
            }
            Ok(Appended::Full { .. }) => {
                state.full_until = Some(Instant::now() + FULL_PAUSE);
                break;
            }
            Ok(refused @ (Appended::Refused { .. } | Appended::Missing)) => {
                tracing::info!(feed.id = state.feed.id, feed.group = %state.feed.group, ?refused, expected = state.tail,
                    "append refused: the stream is compared with the record again");
                metrics::counter!(names::RELAY_APPENDS_REFUSED).increment(1);
                state.known = false;
                state.waiting.clear();
                return Ok(appended);
            }
            Err(error) => {
                state.known = false;
                state.waiting.clear();
                return Err(error);
            }
        }
    }
    state.waiting.drain(..appended);
    metrics::counter!(names::RELAY_ENTRIES_APPENDED).increment(appended as u64);
    Ok(appended)
}
