//! Record, then settle. Outcomes are written to PostgreSQL in batches (while one commits, the next gathers),
//! and only after the commit are stream entries deleted, retries scheduled and dead letters shown in Redis.
//! A crash between any two steps repeats work and loses nothing: the outcome is looked up again.

use std::collections::{HashMap, HashSet};
use std::sync::Arc;
use std::time::{Duration, Instant};

use chrono::{DateTime, Utc};
use eventrail_core::db::delivery::{self, Record, Recorded, Status};
use eventrail_core::db::operational;
use eventrail_core::db::recipient::{self, State};
use eventrail_core::db::{self, answered, answered_within};
use eventrail_core::group::GroupName;
use eventrail_core::ids::EndpointId;
use eventrail_core::metrics as names;
use eventrail_core::rail::schedule::Member;
use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;

use crate::listening::Listening;
use crate::prepare::Context;
use crate::work::Origin;

mod settle;

/// Outcomes in one commit.
const BATCH: usize = 500;
/// Outcomes that are worth a commit of their own, and for how long after the last one fewer are held back.
const WORTHWHILE: usize = 64;
const GATHER_FOR: Duration = Duration::from_millis(5);
/// How long a commit is waited for at first: an answer that was lost on its way never comes, and meanwhile nothing is
/// recorded. Where commits take long, three times as long as the last one took.
const PATIENCE: Duration = Duration::from_secs(2);
/// Batches that may wait for Redis while the next one commits.
const SETTLE_QUEUE: usize = 4;

/// What the intake hands over.
pub(crate) enum Item {
    /// An outcome: record it, then settle what it came from.
    Record { record: Box<Record>, group: GroupName, origin: Origin, gone: bool },
    /// A due retry that found no room: it comes back at this time. Its row stays as it is.
    Later { member: Member, group_id: i64, group: GroupName, at: DateTime<Utc> },
    /// A member of the retry ZSET that must not be tried for now.
    Unschedule { member: Member, group: GroupName },
    /// A target of an entry that can't be tried here and now: the entry is read again later.
    GiveBack { member: Option<Member>, origin: Origin },
}

/// What the intake hears back.
pub(crate) enum Settled {
    Released {
        members: Vec<Member>,
        entries: Vec<(Arc<str>, i64)>,
    },
    /// The group has a retry that is due at this time.
    Scheduled {
        group_id: i64,
        group: GroupName,
        due: DateTime<Utc>,
    },
}

/// An item whose outcome is committed, with the row as it is now.
struct Committed {
    item: Item,
    row: Option<Recorded>,
}

/// What the recorder remembers from one batch to the next.
struct Memory {
    listening: Listening,
    patience: Duration,
}

/// Records until all senders of `items` are gone, or `give_up` is cancelled while PostgreSQL is away.
pub(crate) async fn run_recorder(
    context: Arc<Context>,
    mut items: mpsc::UnboundedReceiver<Item>,
    settled: mpsc::UnboundedSender<Settled>,
    give_up: CancellationToken,
) {
    let (to_settle, settling) = mpsc::channel(SETTLE_QUEUE);
    let record = async {
        let mut batch = Vec::with_capacity(BATCH);
        let mut rest = Vec::new();
        let mut memory = Memory { listening: Listening::default(), patience: PATIENCE };
        let mut began = Instant::now();
        loop {
            batch.append(&mut rest);
            if batch.is_empty() && items.recv_many(&mut batch, BATCH).await == 0 {
                break;
            }
            gather(&mut items, &mut batch, began + GATHER_FOR).await;
            began = Instant::now();
            rest = split_repeated(&mut batch);
            let taken = std::mem::take(&mut batch);
            context.footing.begin_to_write(began);
            let Some(committed) = commit(&context, &mut memory, taken, &give_up).await else { break };
            context.footing.has_written();
            if to_settle.send(committed).await.is_err() {
                break;
            }
        }
        drop(to_settle);
    };
    tokio::join!(record, settle::run_settler(&context, settling, settled));
}

/// Small commits cost most: one that follows another closely waits a little for company. Nobody is kept waiting
/// by it but the stream's entry and the next retry.
async fn gather(items: &mut mpsc::UnboundedReceiver<Item>, batch: &mut Vec<Item>, until: Instant) {
    while batch.len() < WORTHWHILE {
        let room = BATCH - batch.len();
        match tokio::time::timeout_at(until.into(), items.recv_many(batch, room)).await {
            Ok(more) if more > 0 => {}
            _ => return,
        }
    }
}

/// Leaves in the batch at most one record for each delivery; answers the others.
fn split_repeated(batch: &mut Vec<Item>) -> Vec<Item> {
    let mut seen = HashSet::with_capacity(batch.len());
    let (first, repeated) = std::mem::take(batch).into_iter().partition(|item| match item {
        Item::Record { record, .. } => seen.insert((record.event_id, record.endpoint_id)),
        _ => true,
    });
    *batch = first;
    repeated
}

/// Commits a batch, however often PostgreSQL must be asked; `None` once told to give up.
async fn commit(
    context: &Context,
    memory: &mut Memory,
    items: Vec<Item>,
    give_up: &CancellationToken,
) -> Option<Vec<Committed>> {
    let records: Vec<Record> = items
        .iter()
        .filter_map(|item| match item {
            Item::Record { record, .. } => Some(Record::clone(record)),
            _ => None,
        })
        .collect();
    let recorded = match records.is_empty() {
        true => Vec::new(),
        false => write(context, memory, records, give_up).await?,
    };
    let mut rows: HashMap<Member, Recorded> = recorded
        .into_iter()
        .map(|row| (Member { event_id: row.event_id, endpoint_id: row.endpoint_id }, row))
        .collect();
    let mut committed = Vec::with_capacity(items.len());
    let mut all_gone = HashSet::new();
    for item in items {
        let item = match item {
            // Not recorded, so not settled either: it stays pending, and is tried again by whoever reads it.
            Item::Record { record, origin, .. } if !rows.contains_key(&member_of(&record)) => {
                Item::GiveBack { member: Some(member_of(&record)), origin }
            }
            item => item,
        };
        let row = match &item {
            Item::Record { record, gone, .. } => {
                metrics::counter!(names::DELIVERIES, "status" => record.status.as_str()).increment(1);
                if record.attempt.is_some() {
                    context.health.note(record.endpoint_id, record.status == Status::Delivered);
                }
                if *gone {
                    all_gone.insert(record.endpoint_id);
                }
                rows.remove(&Member { event_id: record.event_id, endpoint_id: record.endpoint_id })
            }
            _ => None,
        };
        committed.push(Committed { item, row });
    }
    disable(context, all_gone).await;
    Some(committed)
}

/// Writes outcomes until they are committed; `None` once told to give up.
async fn write(
    context: &Context,
    memory: &mut Memory,
    mut records: Vec<Record>,
    give_up: &CancellationToken,
) -> Option<Vec<Recorded>> {
    metrics::histogram!(names::RECORD_BATCH_OUTCOMES).record(records.len() as f64);
    let mut recorded = Vec::with_capacity(records.len());
    let mut pause = Duration::from_millis(50);
    loop {
        let started = Instant::now();
        let writing = write_once(context, &mut memory.listening, &mut records, &mut recorded);
        match answered_within(memory.patience, writing).await {
            Ok(()) => {
                memory.patience = (started.elapsed() * 3).clamp(PATIENCE, db::ANSWER_WITHIN);
                metrics::histogram!(names::RECORD_COMMIT_SECONDS).record(started.elapsed().as_secs_f64());
                return Some(recorded);
            }
            Err(error) if is_refused(&error) => {
                tracing::error!(%error, "PostgreSQL refuses an outcome; each is recorded by itself");
                recorded.extend(one_by_one(context, &records).await);
                return Some(recorded);
            }
            Err(error) => {
                tracing::warn!(outcomes = records.len(), %error, "outcomes not recorded yet; trying again");
                let told = give_up.run_until_cancelled(tokio::time::sleep(pause)).await;
                told?;
                pause = (pause * 2).min(Duration::from_secs(2));
                memory.patience = (memory.patience * 2).min(db::ANSWER_WITHIN);
            }
        }
    }
}

/// Dead letters that somebody wants to hear of go into a transaction of their own, which holds the log lock.
/// What is committed moves from `records` to `recorded`.
async fn write_once(
    context: &Context,
    listening: &mut Listening,
    records: &mut Vec<Record>,
    recorded: &mut Vec<Recorded>,
) -> sqlx::Result<()> {
    let dead: HashSet<i64> =
        records.iter().filter(|record| record.status == Status::Dead).map(|record| record.group_id).collect();
    listening.look_up(&context.pool, dead).await?;
    let is_told = |record: &Record| record.status == Status::Dead && listening.is_told(record.group_id);
    records.sort_by_key(is_told);
    let untold = records.partition_point(|record| !is_told(record));
    if untold > 0 {
        let mut line = context.recorder.take().await?;
        recorded.extend(delivery::record(&mut *line, &mut records[..untold]).await?);
        line.give_back();
        records.drain(..untold);
    }
    if !records.is_empty() {
        recorded.extend(operational::record_dead(&context.pool, records).await?);
        records.clear();
    }
    Ok(())
}

fn member_of(record: &Record) -> Member {
    Member { event_id: record.event_id, endpoint_id: record.endpoint_id }
}

/// Whether PostgreSQL refuses the data itself (classes 22, 23 and 54), so that asking again is of no use.
fn is_refused(error: &anyhow::Error) -> bool {
    let database = error.downcast_ref::<sqlx::Error>().and_then(sqlx::Error::as_database_error);
    let code = database.and_then(sqlx::error::DatabaseError::code);
    code.is_some_and(|code| ["22", "23", "54"].iter().any(|class| code.starts_with(class)))
}

/// Records what can be recorded: a refused outcome without what its receiver had a hand in, if need be.
async fn one_by_one(context: &Context, records: &[Record]) -> Vec<Recorded> {
    let mut recorded = Vec::with_capacity(records.len());
    for record in records {
        let mut plain = record.clone();
        if let Some(attempt) = &mut plain.attempt {
            (attempt.error_detail, attempt.response_body) = (None, None);
        }
        for candidate in [record.clone(), plain] {
            match answered(delivery::record(&context.pool, &mut [candidate])).await {
                Ok(rows) => {
                    recorded.extend(rows);
                    break;
                }
                Err(error) => {
                    tracing::error!(event.id = %record.event_id, delivery.endpoint_id = %record.endpoint_id,
                        %error, "outcome not recorded");
                }
            }
        }
    }
    recorded
}

/// These endpoints answered 410. If this fails, their next deliveries are answered 410 as well. Many requests
/// may have been on their way: of an endpoint that is known to be disabled nothing is asked.
async fn disable(context: &Context, mut gone: HashSet<EndpointId>) {
    let known = |id: &EndpointId| context.recipients.get(*id).map(|target| target.state);
    gone.retain(|id| !matches!(known(id), Some(State::Disabled | State::Deleted)));
    if gone.is_empty() {
        return;
    }
    let gone: Vec<EndpointId> = gone.into_iter().collect();
    match answered(recipient::disable_gone(&context.pool, &gone)).await {
        Ok(disabled) => {
            for id in disabled {
                tracing::warn!(endpoint.id = %id, "endpoint disabled: it answered 410 Gone");
            }
        }
        Err(error) => tracing::warn!(endpoints = gone.len(), %error, "gone endpoints not disabled yet"),
    }
    if let Err(error) = answered(context.recipients.refresh()).await {
        tracing::debug!(%error, "endpoints not refreshed yet");
    }
}
