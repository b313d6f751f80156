//! Deliveries and their attempts: what happened to an event that is owed to an endpoint. A row belongs to
//! the highest ask that has touched it; `delivered` and `dead` are final until a higher one.

use chrono::{DateTime, Utc};
use sqlx::PgExecutor;

use crate::feed::GoesBack;
use crate::ids::{EndpointId, EventId, ReplayId};
use crate::verdict::Failure;

#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Status {
    /// Deferred: waits without having been attempted.
    Pending,
    Retrying,
    Delivered,
    Dead,
}

impl Status {
    pub const ALL: [Self; 4] = [Self::Pending, Self::Retrying, Self::Delivered, Self::Dead];

    pub fn as_str(self) -> &'static str {
        match self {
            Self::Pending => "pending",
            Self::Retrying => "retrying",
            Self::Delivered => "delivered",
            Self::Dead => "dead",
        }
    }

    pub fn waits(self) -> bool {
        matches!(self, Self::Pending | Self::Retrying)
    }

    fn parse(text: &str) -> Self {
        match text {
            "pending" => Self::Pending,
            "retrying" => Self::Retrying,
            "delivered" => Self::Delivered,
            _ => Self::Dead,
        }
    }
}

/// One HTTP request that was made.
#[derive(Debug, Clone)]
pub struct Attempt {
    pub started_at: DateTime<Utc>,
    pub duration_ms: i32,
    pub status_code: Option<u16>,
    pub error: Option<Failure>,
    pub error_detail: Option<String>,
    pub response_body: Option<Vec<u8>>,
    /// `retry`, or what brought the delivery: `feed`, `catch_up`, `replay` or `redrive`.
    pub trigger: &'static str,
}

/// What the recorder writes for one delivery: a new status, with an attempt unless it was only deferred.
#[derive(Debug, Clone)]
pub struct Record {
    pub event_id: EventId,
    pub endpoint_id: EndpointId,
    pub group_id: i64,
    pub feed_id: i64,
    /// The replay or redrive whose feed that is.
    pub replay_id: Option<ReplayId>,
    pub ask: i64,
    pub status: Status,
    pub next_attempt_at: Option<DateTime<Utc>>,
    /// Why there is no attempt, or why the attempt failed, in a word.
    pub last_error: Option<&'static str>,
    pub attempt: Option<Attempt>,
}

/// What the row is after the record.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Recorded {
    pub event_id: EventId,
    pub endpoint_id: EndpointId,
    pub ask: i64,
    pub status: Status,
    pub attempt_count: i32,
}

type RecordedRow = (EventId, EndpointId, i64, String, i32);

/// Writes a batch of outcomes in one statement and commits it synchronously; answers the rows as they are
/// after it, in no particular order. No two records may name the same delivery. An outcome of a lower ask
/// than the row's adds its attempt and leaves the row; so does one that comes after a final status.
///
/// Rows are touched in the order of their keys, so that concurrent batches cannot deadlock.
///
/// # Errors
/// PostgreSQL is away. Whether the batch was committed is then unknown; recording it again adds at most
/// attempts twice.
pub async fn record(executor: impl PgExecutor<'_>, records: &mut [Record]) -> sqlx::Result<Vec<Recorded>> {
    records.sort_unstable_by_key(|record| (record.event_id, record.endpoint_id));
    let mut columns = Columns::with_capacity(records.len());
    for record in records.iter() {
        columns.push(record);
    }
    let rows: Vec<RecordedRow> = sqlx::query_as(RECORD)
        .bind(columns.event_id)
        .bind(columns.endpoint_id)
        .bind(columns.group_id)
        .bind(columns.feed_id)
        .bind(columns.ask)
        .bind(columns.status)
        .bind(columns.next_attempt_at)
        .bind(columns.last_error)
        .bind(columns.started_at)
        .bind(columns.duration_ms)
        .bind(columns.status_code)
        .bind(columns.error_detail)
        .bind(columns.response_body)
        .bind(columns.trigger)
        .bind(columns.attempt_error)
        .bind(columns.replay_id)
        .fetch_all(executor)
        .await?;
    Ok(rows
        .into_iter()
        .map(|(event_id, endpoint_id, ask, status, attempt_count)| Recorded {
            event_id,
            endpoint_id,
            ask,
            status: Status::parse(&status),
            attempt_count,
        })
        .collect())
}

/// Lists that stand in the select list are not written to a table first, as those in `from` are.
const RECORD: &str = "
with input as (
    select unnest($1::uuid[]) as event_id, unnest($2::uuid[]) as endpoint_id, unnest($3::bigint[]) as group_id,
        unnest($4::bigint[]) as feed_id, unnest($5::bigint[]) as ask, unnest($6::text[]) as status,
        unnest($7::timestamptz[]) as next_attempt_at, unnest($8::text[]) as last_error,
        unnest($9::timestamptz[]) as started_at, unnest($10::int[]) as duration_ms, unnest($11::int[]) as status_code,
        unnest($12::text[]) as error_detail, unnest($13::bytea[]) as response_body, unnest($14::text[]) as trigger,
        unnest($15::text[]) as attempt_error, unnest($16::uuid[]) as replay_id
), row as (
    insert into delivery as d (event_id, endpoint_id, group_id, feed_id, ask, status, attempt_count,
        attempt_total, next_attempt_at, last_status_code, last_error, replay_id)
    select event_id, endpoint_id, group_id, feed_id, ask, status, (started_at is not null)::int,
        (started_at is not null)::int, next_attempt_at, status_code, last_error, replay_id
    from input
    on conflict (event_id, endpoint_id) do update set
        attempt_total = d.attempt_total + excluded.attempt_total,
        attempt_count = case when excluded.ask > d.ask then excluded.attempt_count
                             when excluded.ask = d.ask then d.attempt_count + excluded.attempt_count
                             else d.attempt_count end,
        status = case when excluded.ask > d.ask or excluded.ask = d.ask and d.status in ('pending', 'retrying')
                          and not (excluded.status = 'pending' and d.status = 'retrying')
                      then excluded.status else d.status end,
        next_attempt_at = case when excluded.ask > d.ask or excluded.ask = d.ask and d.status in ('pending', 'retrying')
                          and not (excluded.status = 'pending' and d.status = 'retrying')
                      then excluded.next_attempt_at else d.next_attempt_at end,
        last_status_code = case when excluded.attempt_count = 1 and (excluded.ask > d.ask
                          or excluded.ask = d.ask and d.status in ('pending', 'retrying'))
                      then excluded.last_status_code else d.last_status_code end,
        last_error = case when excluded.ask > d.ask
                          or excluded.ask = d.ask and d.status in ('pending', 'retrying')
                      then excluded.last_error else d.last_error end,
        feed_id = case when excluded.ask > d.ask then excluded.feed_id else d.feed_id end,
        replay_id = case when excluded.ask > d.ask then excluded.replay_id else d.replay_id end,
        purged_at = case when excluded.ask > d.ask then null else d.purged_at end,
        ask = greatest(d.ask, excluded.ask),
        updated_at = case when excluded.ask > d.ask
                          or excluded.ask = d.ask and d.status in ('pending', 'retrying')
                      then now() else d.updated_at end
    returning event_id, endpoint_id, ask, status, attempt_count, attempt_total
), made as (
    insert into attempt (event_id, endpoint_id, number, ask, started_at, duration_ms, status_code, error,
        error_detail, response_body, trigger)
    select i.event_id, i.endpoint_id, r.attempt_total, i.ask, i.started_at, i.duration_ms, i.status_code,
        i.attempt_error, i.error_detail, i.response_body, i.trigger
    from input i join row r on r.event_id = i.event_id and r.endpoint_id = i.endpoint_id
    where i.started_at is not null
)
select event_id, endpoint_id, ask, status, attempt_count from row";

#[derive(Default)]
struct Columns<'a> {
    event_id: Vec<EventId>,
    endpoint_id: Vec<EndpointId>,
    group_id: Vec<i64>,
    feed_id: Vec<i64>,
    ask: Vec<i64>,
    status: Vec<&'static str>,
    next_attempt_at: Vec<Option<DateTime<Utc>>>,
    last_error: Vec<Option<&'static str>>,
    started_at: Vec<Option<DateTime<Utc>>>,
    duration_ms: Vec<Option<i32>>,
    status_code: Vec<Option<i32>>,
    error_detail: Vec<Option<&'a str>>,
    response_body: Vec<Option<&'a [u8]>>,
    trigger: Vec<Option<&'static str>>,
    attempt_error: Vec<Option<&'static str>>,
    replay_id: Vec<Option<ReplayId>>,
}

impl<'a> Columns<'a> {
    fn with_capacity(rows: usize) -> Self {
        Self { event_id: Vec::with_capacity(rows), endpoint_id: Vec::with_capacity(rows), ..Self::default() }
    }

    fn push(&mut self, record: &'a Record) {
        let attempt = record.attempt.as_ref();
        self.event_id.push(record.event_id);
        self.endpoint_id.push(record.endpoint_id);
        self.group_id.push(record.group_id);
        self.feed_id.push(record.feed_id);
        self.ask.push(record.ask);
        self.status.push(record.status.as_str());
        self.next_attempt_at.push(record.next_attempt_at);
        self.last_error.push(record.last_error);
        self.started_at.push(attempt.map(|attempt| attempt.started_at));
        self.duration_ms.push(attempt.map(|attempt| attempt.duration_ms));
        self.status_code.push(attempt.and_then(|attempt| attempt.status_code).map(i32::from));
        self.error_detail.push(attempt.and_then(|attempt| attempt.error_detail.as_deref()));
        self.response_body.push(attempt.and_then(|attempt| attempt.response_body.as_deref()));
        self.trigger.push(attempt.map(|attempt| attempt.trigger));
        self.replay_id.push(record.replay_id);
        self.attempt_error.push(attempt.and_then(|attempt| attempt.error).map(Failure::as_str));
    }
}

/// Ends deliveries that still wait for endpoints that were deleted, of which nothing is tried any more:
/// those deleted lately, or `all`. Answers how many.
///
/// # Errors
/// PostgreSQL is away.
pub async fn end_orphans(executor: impl PgExecutor<'_>, all: bool) -> sqlx::Result<u64> {
    sqlx::query(
        "with orphan as (
             select d.event_id, d.endpoint_id from delivery d join endpoint e on e.id = d.endpoint_id
             where d.status in ('pending', 'retrying') and e.status = 'deleted'
               and ($1 or e.updated_at > now() - interval '10 minutes')
             order by d.event_id, d.endpoint_id limit 5000 for update of d
         )
         update delivery d set status = 'dead', next_attempt_at = null, last_error = 'endpoint_deleted',
                updated_at = now()
         from orphan o where d.event_id = o.event_id and d.endpoint_id = o.endpoint_id",
    )
    .bind(all)
    .execute(executor)
    .await
    .map(|done| done.rows_affected())
}

/// What is known of a delivery before it is tried.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Known {
    pub event_id: EventId,
    pub endpoint_id: EndpointId,
    pub feed_id: i64,
    pub ask: i64,
    pub status: Status,
    pub attempt_count: i32,
    pub next_attempt_at: Option<DateTime<Utc>>,
    pub replay_id: Option<ReplayId>,
}

#[derive(sqlx::FromRow)]
struct KnownRow {
    event_id: EventId,
    endpoint_id: EndpointId,
    feed_id: i64,
    ask: i64,
    status: String,
    attempt_count: i32,
    next_attempt_at: Option<DateTime<Utc>>,
    replay_id: Option<ReplayId>,
}

impl From<KnownRow> for Known {
    fn from(row: KnownRow) -> Self {
        Self {
            event_id: row.event_id,
            endpoint_id: row.endpoint_id,
            feed_id: row.feed_id,
            ask: row.ask,
            status: Status::parse(&row.status),
            attempt_count: row.attempt_count,
            next_attempt_at: row.next_attempt_at,
            replay_id: row.replay_id,
        }
    }
}

/// All rows of these events. `events` must not be empty.
///
/// # Errors
/// PostgreSQL is away.
pub async fn of_events(executor: impl PgExecutor<'_>, events: &[EventId]) -> sqlx::Result<Vec<Known>> {
    let rows: Vec<KnownRow> = sqlx::query_as(
        "select event_id, endpoint_id, feed_id, ask, status, attempt_count, next_attempt_at, replay_id
         from delivery where event_id = any($1) and event_id between $2 and $3",
    )
    .bind(events)
    .bind(events.iter().min())
    .bind(events.iter().max())
    .fetch_all(executor)
    .await?;
    Ok(rows.into_iter().map(Known::from).collect())
}

/// A delivery of which a retry is due.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Due {
    pub known: Known,
    /// What its feed does to events up to a position, if the row still belongs to the feed's intention.
    pub goes_back: Option<GoesBack>,
}

#[derive(sqlx::FromRow)]
struct DueRow {
    #[sqlx(flatten)]
    known: KnownRow,
    as_of_position: Option<i64>,
    only_missing: bool,
    resend_id: Option<ReplayId>,
}

impl From<DueRow> for Due {
    fn from(row: DueRow) -> Self {
        let goes_back = row.as_of_position.map(|as_of| GoesBack {
            as_of,
            only_missing: row.only_missing,
            resend: row.resend_id,
        });
        Self { known: row.known.into(), goes_back }
    }
}

/// The rows of exactly these deliveries. `keys` must not be empty.
///
/// # Errors
/// PostgreSQL is away.
pub async fn of_keys(
    executor: impl PgExecutor<'_>,
    keys: &[(EventId, EndpointId)],
) -> sqlx::Result<Vec<Due>> {
    let events: Vec<EventId> = keys.iter().map(|(event, _)| *event).collect();
    let endpoints: Vec<EndpointId> = keys.iter().map(|(_, endpoint)| *endpoint).collect();
    let rows: Vec<DueRow> = sqlx::query_as(
        "select d.event_id, d.endpoint_id, d.feed_id, d.ask, d.status, d.attempt_count, d.next_attempt_at,
                d.replay_id, f.as_of_position, coalesce(f.only_missing, false) as only_missing, f.resend_id
         from unnest($1::uuid[], $2::uuid[]) as k (event_id, endpoint_id)
         join delivery d on d.event_id = k.event_id and d.endpoint_id = k.endpoint_id
         left join feed f on f.id = d.feed_id and f.ask = d.ask
         where d.event_id between $3 and $4",
    )
    .bind(&events)
    .bind(endpoints)
    .bind(events.iter().min())
    .bind(events.iter().max())
    .fetch_all(executor)
    .await?;
    Ok(rows.into_iter().map(Due::from).collect())
}
