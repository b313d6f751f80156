//! The relay copies the log into the groups' streams. One process leads at a time, by a lease; two at once
//! are harmless, since an append goes through only if the stream's tail is the one that its relay expects.
//!
//! [`Relay::step`] is called by the supervisor in a loop. It relies on nothing that it remembers: whatever
//! Redis or PostgreSQL refuses makes it compare the stream with the record again ([`Relay::resync`]).

use std::collections::HashMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

use eventrail_core::db::lines::Lines;
use eventrail_core::db::{answered, lease, tail};
use eventrail_core::ids::ReplayId;
use eventrail_core::metrics as names;
use eventrail_core::rail::keys::Keys;
use eventrail_core::rail::link::Link;
use redis::aio::ConnectionManager;
use sqlx::PgPool;
use tokio::sync::mpsc;

use crate::event::{Event, EventCache};
use crate::told::Told;
use feeds::FeedState;
use loader::Loader;
use pace::Pace;
use targets::Topology;

mod append;
mod feeds;
mod loader;
mod pace;
mod passes;
mod replays;
mod resync;
mod targets;
#[cfg(test)]
mod tests;

const LEASE: Duration = Duration::from_secs(6);
const RENEW_EVERY: Duration = Duration::from_secs(2);
/// Events in one read of the log.
const BATCH: usize = 500;
/// Entries in one append; a script holds up Redis while it runs.
const APPEND_BATCH: usize = 500;
/// The shortest rest between two looks at the log. Passes are due more often than the log need be looked at when
/// nobody rings.
const SHORTEST_IDLE: Duration = Duration::from_millis(1);
/// How often a replay with a rate is looked after.
const PACED_PAUSE: Duration = Duration::from_millis(25);
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
    /// For reading the log.
    lines: Lines,
    link: Link,
    /// Taken anew for each step.
    redis: ConnectionManager,
    config: RelayConfig,
    /// Hints for this process's own intake; the others hear them through Redis.
    hints: mpsc::UnboundedSender<Told>,
    cache: Arc<EventCache>,
    leads: bool,
    /// All that was read is to be read again.
    stale: bool,
    renew_at: Instant,
    /// The server that all of this was read from.
    incarnation: lease::Incarnation,
    topology: Topology,
    feeds: HashMap<i64, FeedState>,
    /// Up to here the log was read for the feeds that keep up.
    head: tail::Place,
    /// When each of the passes is due.
    passes: [Instant; passes::COUNT],
    next_idle_settle: Instant,
    turn: usize,
    /// The replay's feed that was read last.
    replay_turn: i64,
    /// Of the replays that have a rate.
    paces: HashMap<ReplayId, Pace>,
    loader: Loader,
    /// Endpoints may have been deleted long ago, while no relay ran.
    orphans_unknown: bool,
}

impl Relay {
    pub(crate) fn new(
        pool: PgPool,
        link: Link,
        config: RelayConfig,
        hints: mpsc::UnboundedSender<Told>,
        cache: Arc<EventCache>,
    ) -> Self {
        let now = Instant::now();
        Self {
            lines: Lines::beside(&pool, 1),
            pool,
            redis: link.connection(),
            link,
            config,
            hints,
            cache,
            leads: false,
            stale: false,
            renew_at: now,
            incarnation: lease::Incarnation::default(),
            topology: Topology::default(),
            feeds: HashMap::new(),
            head: tail::Place::unpruned(0),
            passes: [now; passes::COUNT],
            next_idle_settle: now,
            turn: 0,
            replay_turn: 0,
            paces: HashMap::new(),
            loader: Loader::default(),
            orphans_unknown: true,
        }
    }

    /// One round: renew the lease, read the head, append, help those that lag, and make a pass if one is due.
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
        self.make_passes().await;
        if served? {
            return Ok(Step::Worked);
        }
        let now = Instant::now();
        let again = self.feeds.values().filter_map(|feed| feed.full_until).min();
        let until = again.into_iter().chain(self.passes).min().unwrap_or(now);
        let pause = until.saturating_duration_since(now).max(SHORTEST_IDLE);
        Ok(Step::Idle(if self.paces.is_empty() { pause } else { pause.min(PACED_PAUSE) }))
    }

    async fn serve(&mut self) -> anyhow::Result<bool> {
        let read = self.follow_head().await?;
        self.resync().await?;
        let helped = self.help_lagging().await?;
        self.append_waiting().await?;
        let replayed = self.help_replays().await?;
        // Where the end of the log was read, what is committed from now on rings. A feed whose stream has just had room
        // for what waited has more to read, though nothing is new.
        let is_more = read == BATCH || self.feeds.values().any(|feed| feed.needs(self.head.position));
        Ok(is_more || helped || replayed)
    }

    /// Forgets all that was believed of log and streams: after an error, everything is compared again.
    pub fn forget(&mut self) {
        self.stale = true;
        self.renew_at = Instant::now();
    }

    /// Gives the lease up.
    pub async fn resign(&mut self) {
        self.leads = false;
        metrics::gauge!(names::RELAY_LEADER).set(0.0);
        if let Err(error) = answered(lease::give_up(&self.pool, &self.config.holder)).await {
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
        if let Some(incarnation) =
            incarnation.filter(|now| !self.leads || self.stale || *now != self.incarnation)
        {
            tracing::info!(holder = %self.config.holder, "relay leads");
            self.orphans_unknown |= !self.leads || incarnation != self.incarnation;
            self.incarnation = incarnation;
            self.feeds.clear();
            self.topology = Topology::default();
            self.head = tail::Place::unpruned(tail::head(&self.pool).await?);
            self.loader = Loader::default();
            self.stale = false;
        } else if !ours && self.leads {
            tracing::warn!(holder = %self.config.holder, "relay lost its lease");
        }
        self.leads = ours;
        metrics::gauge!(names::RELAY_LEADER).set(if ours { 1.0 } else { 0.0 });
        Ok(ours)
    }

    /// Reads what is new at the head, once for all feeds that stand there, and offers it to them.
    async fn follow_head(&mut self) -> anyhow::Result<usize> {
        let mut line = self.lines.take().await?;
        let mut head = tail::read_head(&mut *line, self.head, BATCH as i64).await?;
        line.give_back();
        self.is_where_it_leads(head.incarnation)?;
        if head.version != self.topology.version || self.topology.version == 0 {
            head = self.read_topology().await?;
        }
        debug_assert_eq!(head.version, self.topology.version);
        let events = head.events;
        let next = events.last().map_or(self.head, tail::Place::of);
        let at_head: Vec<i64> = self
            .feeds
            .values()
            .filter(|feed| {
                feed.known && feed.waiting.is_empty() && feed.scanned >= feed.until(self.head.position)
            })
            // One with an end, or on its way through history, reads for itself, unless this shows that there is
            // nothing.
            .filter(|feed| events.is_empty() || feed.follows(self.head.position))
            .map(|feed| feed.feed.id)
            .collect();
        let live_of_group: HashMap<i64, i64> = at_head
            .iter()
            .filter_map(|id| self.feeds.get(id))
            .filter(|state| state.is_live())
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
                // read, there is none up to that end either, though it is no event's position. It goes no
                // further: what it was read for is what its progress is told by.
                let position = state.feed.to_position.unwrap_or(next.position);
                state.scanned_to(tail::Place { position, ..next });
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

    async fn read_range(
        &self,
        place: tail::Place,
        end: i64,
        most: usize,
    ) -> anyhow::Result<Vec<tail::Candidate>> {
        let mut line = self.lines.take().await?;
        let read = tail::read_range(&mut *line, place, end, most as i64).await?;
        line.give_back();
        self.are_where_it_leads(&read)?;
        Ok(read)
    }

    /// An error unless what was read is of the server that this relay leads on. After a failover that lost the last
    /// commits, their positions may have been given again: what was read before tells nothing of the log then, and
    /// a stream to which later events were appended would fit it in spite of the hole.
    fn is_where_it_leads(&self, seen: lease::Incarnation) -> anyhow::Result<()> {
        anyhow::ensure!(
            seen == self.incarnation,
            "another server has the log now, or this one was restarted"
        );
        Ok(())
    }

    /// The same of events. Where there are none, nothing is appended, and what is settled is written only on the
    /// server on which it was seen.
    fn are_where_it_leads(&self, read: &[tail::Candidate]) -> anyhow::Result<()> {
        read.iter().try_for_each(|one| self.is_where_it_leads(one.incarnation))
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
            let read = self.read_range(place, end, BATCH).await?;
            let events = || read.iter().map(|one| &one.event);
            let reached = match events().next_back() {
                Some(last) if read.len() == BATCH => tail::Place::of(last),
                last => tail::Place { position: end, floor: last.map_or(place.floor, |last| last.id.0) },
            };
            for (id, scanned) in lagging {
                let Some(state) = self.feeds.get_mut(&id) else { continue };
                if scanned < start || scanned >= reached.position {
                    continue;
                }
                for event in events() {
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
}
