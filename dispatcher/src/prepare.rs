//! From what was read to what is to be done: looks up the outcomes that are known, drops what is not owed,
//! and brings the events. Each function is one batch, run beside the intake loop.

use std::collections::{HashMap, HashSet};
use std::sync::Arc;
use std::time::{Duration, Instant};

use chrono::TimeDelta;
use eventrail_core::db::delivery::{self, Due, Known};
use eventrail_core::db::lines::Lines;
use eventrail_core::db::{answered, recipient, tail, waiting};
use eventrail_core::feed::{FeedKind, GoesBack};
use eventrail_core::group::GroupName;
use eventrail_core::ids::{EndpointId, EventId, ReplayId};
use eventrail_core::metrics as names;
use eventrail_core::protocol::{self, Claim};
use eventrail_core::rail::entry::{Entry, Read};
use eventrail_core::rail::intake;
use eventrail_core::rail::keys::Keys;
use eventrail_core::rail::link::Link;
use eventrail_core::rail::ready::FeedRef;
use eventrail_core::rail::schedule::{self, Change, Member};
use sqlx::PgPool;
use tokio::sync::watch;

use crate::clock;
use crate::deliver::Courier;
use crate::event::{Event, EventCache};
use crate::footing::Footing;
use crate::maintenance::health::Health;
use crate::recipients::Recipients;
use crate::work::{HeldEntry, Origin, Work};

/// Events that are looked up while their entries are read; of more at once the time is not felt.
const FEW: usize = 16;
/// A claimed retry is given back by itself after this, unless the lease is renewed: so a dispatcher that died
/// delays a retry by no more.
const RETRY_LEASE: Duration = Duration::from_secs(12);
pub(crate) const RENEW_LEASES_EVERY: Duration = Duration::from_secs(3);

/// What all parts of the dispatcher share.
pub(crate) struct Context {
    pub(crate) pool: PgPool,
    /// For what is asked before each delivery, and for what is written after it.
    pub(crate) lines: Lines,
    pub(crate) recorder: Lines,
    pub(crate) redis: Link,
    pub(crate) keys: Keys,
    pub(crate) consumer: String,
    pub(crate) recipients: Recipients,
    pub(crate) cache: Arc<EventCache>,
    pub(crate) courier: Courier,
    pub(crate) health: Health,
    pub(crate) footing: Footing,
    /// The endpoints whose breaker is open here: set by the intake, written to this dispatcher's row.
    pub(crate) open_breakers: watch::Sender<Vec<EndpointId>>,
}

/// Turns stream entries into work. Entries that owe nothing any more are settled here.
///
/// # Errors
/// PostgreSQL or Redis is away: the entries stay pending, and are read again.
pub(crate) async fn entries(
    context: &Context,
    feed: &FeedRef,
    stream: &Arc<str>,
    reads: Vec<Read>,
    looked: Looked,
) -> anyhow::Result<Vec<Work>> {
    let taken_at = Instant::now();
    let (mut settled, mut entries) = (Vec::new(), Vec::with_capacity(reads.len()));
    for read in reads {
        match read {
            Read::Entry(entry) => entries.push(entry),
            Read::Void { id } => settled.push(id),
            Read::Foreign { id } => {
                tracing::error!(%stream, id, "an entry that is not understood stays pending");
            }
        }
    }
    let mut works = Vec::new();
    if !entries.is_empty() {
        know_targets(context, &entries).await?;
        let ids: Vec<EventId> = entries.iter().map(|entry| entry.event_id).collect();
        let (known, events) = tokio::try_join!(looked.or_known_of(context, &ids), bring(context, &ids))?;
        let known: HashMap<Member, Known> = known.into_iter().map(|row| (member_of(&row), row)).collect();
        for entry in entries {
            let owed: Vec<EndpointId> = entry
                .targets
                .iter()
                .copied()
                .filter(|target| {
                    let row = known.get(&Member { event_id: entry.event_id, endpoint_id: *target });
                    row.is_none_or(|row| is_owed(row, feed, entry.position))
                })
                .filter(|target| {
                    let target = context.recipients.get(*target);
                    target.is_none_or(|target| target.state != recipient::State::Deleted)
                })
                .collect();
            match events.get(&entry.event_id) {
                Some(event) if !owed.is_empty() => {
                    let held =
                        HeldEntry::new(Arc::clone(stream), entry.position, entry.targets.len(), owed.len());
                    works.extend(owed.into_iter().map(|endpoint_id| Work {
                        event: Arc::clone(event),
                        endpoint_id,
                        group_id: feed.group_id,
                        group: feed.group.clone(),
                        feed_id: feed.feed_id,
                        replay_id: feed.replay_id,
                        resend: resend(feed.goes_back, entry.position),
                        ask: feed.ask,
                        attempts_done: 0,
                        origin: match feed.kind {
                            FeedKind::Live => Origin::Live(Arc::clone(&held)),
                            single => Origin::Single(single, Arc::clone(&held)),
                        },
                        taken_at,
                    }));
                }
                _ => settled.push(entry.stream_id()),
            }
        }
    }
    if !settled.is_empty() {
        let mut pipeline = redis::pipe();
        intake::queue_settle(&mut pipeline, stream, &settled);
        pipeline.exec_async(&mut context.redis.connection()).await?;
    }
    Ok(works)
}

/// What was known of some events while their entries were being read.
#[derive(Default)]
pub(crate) struct Looked {
    events: Vec<EventId>,
    known: Vec<Known>,
}

impl Looked {
    async fn or_known_of(self, context: &Context, events: &[EventId]) -> anyhow::Result<Vec<Known>> {
        match events.iter().all(|event| self.events.contains(event)) {
            true => Ok(self.known),
            false => known_of(context, events).await,
        }
    }
}

/// Looks up what is known of these events, if they are few; nothing if PostgreSQL is away. For entries that nobody
/// has read yet: what becomes of them while they are read could only have been done under another incarnation of their
/// stream.
pub(crate) async fn look_up(context: &Context, events: Vec<EventId>) -> Looked {
    if events.is_empty() || events.len() > FEW {
        return Looked::default();
    }
    match answered(known_of(context, &events)).await {
        Ok(known) => Looked { events, known },
        Err(_) => Looked::default(),
    }
}

async fn known_of(context: &Context, events: &[EventId]) -> anyhow::Result<Vec<Known>> {
    let mut line = context.lines.take().await?;
    let known = delivery::of_events(&mut *line, events).await?;
    line.give_back();
    Ok(known)
}

async fn due_of(context: &Context, keys: &[(EventId, EndpointId)]) -> anyhow::Result<Vec<Due>> {
    let mut line = context.lines.take().await?;
    let due = delivery::of_keys(&mut *line, keys).await?;
    line.give_back();
    Ok(due)
}

/// Whether a feed's entry still owes what this row is about.
fn is_owed(row: &Known, feed: &FeedRef, position: i64) -> bool {
    let only_missing = feed.goes_back.is_some_and(|back| back.only_missing && position <= back.as_of);
    protocol::is_owed(row.ask, row.status, feed.ask, only_missing)
}

fn resend(goes_back: Option<GoesBack>, position: i64) -> Option<ReplayId> {
    goes_back.filter(|back| position <= back.as_of && !back.only_missing)?.resend
}

fn member_of(row: &Known) -> Member {
    Member { event_id: row.event_id, endpoint_id: row.endpoint_id }
}

/// What a claim of due retries brought.
pub(crate) struct Claimed {
    pub(crate) works: Vec<Work>,
    /// As many as were asked for: there may be more.
    pub(crate) full: bool,
    pub(crate) next: Option<Duration>,
}

/// Claims due retries of a group and turns them into work. The row decides: members whose row no longer waits
/// are removed, those that wait longer are put back. What waits for an event that is gone ends here.
///
/// # Errors
/// PostgreSQL or Redis is away: the claimed come back when their lease ends.
pub(crate) async fn retries(
    context: &Context,
    group_id: i64,
    group: &GroupName,
    most: usize,
) -> anyhow::Result<Claimed> {
    let taken_at = Instant::now();
    let mut redis = context.redis.connection();
    let due = schedule::claim_due(&mut redis, &context.keys, group, most, RETRY_LEASE, clock::now()).await?;
    let full = due.members.len() >= most;
    if due.members.is_empty() {
        return Ok(Claimed { works: Vec::new(), full, next: due.next });
    }
    metrics::counter!(names::RETRIES_CLAIMED).increment(due.members.len() as u64);
    let keys: Vec<(EventId, EndpointId)> =
        due.members.iter().map(|member| (member.event_id, member.endpoint_id)).collect();
    let ids: HashSet<EventId> = keys.iter().map(|(event, _)| *event).collect();
    let ids: Vec<EventId> = ids.into_iter().collect();
    let (rows, events) = tokio::try_join!(due_of(context, &keys), bring(context, &ids))?;
    let rows: HashMap<Member, Due> = rows.into_iter().map(|row| (member_of(&row.known), row)).collect();
    if keys.iter().any(|(_, endpoint)| context.recipients.get(*endpoint).is_none()) {
        context.recipients.refresh().await?;
    }
    let soon = clock::now() + TimeDelta::seconds(1);
    let (mut works, mut changes, mut gone) = (Vec::new(), Vec::new(), Vec::new());
    for member in due.members {
        let (row, event) = (rows.get(&member), events.get(&member.event_id));
        let later = row.and_then(|row| row.known.next_attempt_at).filter(|at| *at > soon);
        let claim = protocol::claimed(row.map(|row| row.known.status), event.is_some(), later.is_none());
        match (claim, row, event) {
            (Claim::Attempt, Some(Due { known, goes_back }), Some(event)) => works.push(Work {
                event: Arc::clone(event),
                endpoint_id: member.endpoint_id,
                group_id,
                group: group.clone(),
                feed_id: known.feed_id,
                replay_id: known.replay_id,
                resend: resend(*goes_back, event.position),
                ask: known.ask,
                attempts_done: known.attempt_count,
                origin: Origin::Retry,
                taken_at,
            }),
            (Claim::PutBack, ..) => changes.extend(later.map(|at| Change::Set(member, at))),
            (Claim::End, ..) => {
                gone.push((member.event_id, member.endpoint_id));
                changes.push(Change::Remove(member));
            }
            (Claim::Attempt | Claim::Remove, ..) => changes.push(Change::Remove(member)),
        }
    }
    if !gone.is_empty() {
        let ended = waiting::end_gone(&context.pool, &gone).await?;
        tracing::error!(%group, ended, "retries of events that are not on the log any more end as dead");
    }
    if !changes.is_empty() {
        let mut pipeline = redis::pipe();
        schedule::queue(&mut pipeline, &context.keys, group, &changes);
        pipeline.exec_async(&mut redis).await?;
    }
    Ok(Claimed { works, full, next: due.next })
}

/// Renews the leases of retries that are in hand.
///
/// # Errors
/// Redis is away. The leases end, and another may try what is in hand here: a duplicate, as rare as that.
pub(crate) async fn renew(context: &Context, in_hand: Vec<(GroupName, Member)>) -> redis::RedisResult<()> {
    let until = clock::now() + RETRY_LEASE;
    let mut pipeline = redis::pipe();
    for (group, member) in in_hand {
        schedule::queue(&mut pipeline, &context.keys, &group, &[Change::Renew(member, until)]);
    }
    pipeline.exec_async(&mut context.redis.connection()).await
}

/// Makes sure that every endpoint that entries name is known, reading the record once if one is new.
async fn know_targets(context: &Context, entries: &[Entry]) -> anyhow::Result<()> {
    let unknown = |id: &EndpointId| context.recipients.get(*id).is_none();
    if entries.iter().any(|entry| entry.targets.iter().any(unknown)) {
        context.recipients.refresh().await?;
    }
    Ok(())
}

/// The events of these ids, from the cache or the log; those that are gone are left out.
async fn bring(context: &Context, ids: &[EventId]) -> anyhow::Result<HashMap<EventId, Arc<Event>>> {
    let mut events = HashMap::with_capacity(ids.len());
    let mut missing = Vec::new();
    for id in ids {
        match context.cache.get(*id) {
            Some(event) => {
                events.insert(*id, event);
            }
            None => missing.push(*id),
        }
    }
    if !missing.is_empty() {
        let mut line = context.lines.take().await?;
        let rows = tail::fetch(&mut *line, &missing).await?;
        line.give_back();
        for row in rows {
            if let Some(event) = Event::new(&row).map(Arc::new) {
                context.cache.insert(&event);
                events.insert(event.id, event);
            }
        }
    }
    Ok(events)
}
