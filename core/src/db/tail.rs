//! Reading the log from a position on, for the relay; and events by id, for dispatchers.

use chrono::{DateTime, Utc};
use sqlx::{PgConnection, PgExecutor};
use uuid::Uuid;

use super::lease::Incarnation;
use super::redrive::is_redriven;
use crate::feed::Selection;
use crate::ids::{EndpointId, EventId};

/// An event as the relay sees it. `payload` is read only where it is likely to be sent soon.
#[derive(Debug, Clone, sqlx::FromRow)]
pub struct LoggedEvent {
    pub position: i64,
    pub id: EventId,
    pub event_type: String,
    pub source: String,
    pub payload: Option<Vec<u8>>,
    pub created_at: DateTime<Utc>,
    /// Whom an operational event concerns: it is owed to nobody else.
    pub group_id: Option<i64>,
}

/// Where a reader of the log stands: after this position. `floor` is an id that no later event is below
/// (the nil UUID is always right); it prunes the partitions.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Place {
    pub position: i64,
    pub floor: Uuid,
}

impl Place {
    pub fn unpruned(position: i64) -> Self {
        Self { position, floor: Uuid::nil() }
    }

    pub fn of(event: &LoggedEvent) -> Self {
        Self { position: event.position, floor: event.id.0 }
    }
}

/// What is new at the head, with the topology's version, both of one snapshot, and the server that has shown it.
#[derive(Debug, Clone)]
pub struct Head {
    pub incarnation: Incarnation,
    pub version: i64,
    pub events: Vec<LoggedEvent>,
}

#[derive(sqlx::FromRow)]
struct HeadRow {
    incarnation: Incarnation,
    version: i64,
    position: Option<i64>,
    id: Option<EventId>,
    event_type: Option<String>,
    source: Option<String>,
    payload: Option<Vec<u8>>,
    created_at: Option<DateTime<Utc>>,
    group_id: Option<i64>,
}

/// The next events after `place`, with their payloads (but large ones).
///
/// # Errors
/// PostgreSQL is away.
pub async fn read_head(executor: impl PgExecutor<'_>, place: Place, limit: i64) -> sqlx::Result<Head> {
    let rows: Vec<HeadRow> = sqlx::query_as(
        "select pg_postmaster_start_time() as incarnation, t.version, e.position, e.id, e.event_type, e.source, e.created_at, e.group_id,
                case when length(e.payload) <= 16384 then e.payload end as payload
         from topology t
         left join lateral (
             select * from event where position > $1 and id >= $2 order by position limit $3
         ) e on true
         order by e.position",
    )
    .bind(place.position)
    .bind(place.floor)
    .bind(limit)
    .fetch_all(executor)
    .await?;
    let first = rows.first().ok_or(sqlx::Error::RowNotFound)?;
    let (incarnation, version) = (first.incarnation, first.version);
    let events = rows
        .into_iter()
        .filter_map(|row| {
            Some(LoggedEvent {
                position: row.position?,
                id: row.id?,
                event_type: row.event_type?,
                source: row.source?,
                payload: row.payload,
                created_at: row.created_at?,
                group_id: row.group_id,
            })
        })
        .collect();
    Ok(Head { incarnation, version, events })
}

/// An event that was read for a feed of its own.
#[derive(Debug, Clone, sqlx::FromRow)]
pub struct Candidate {
    #[sqlx(flatten)]
    pub event: LoggedEvent,
    /// Whether a redrive picks it out.
    pub is_wanted: bool,
    /// The server that has shown it.
    pub incarnation: Incarnation,
}

/// Events after `place` up to `to` (inclusive), without payloads, for feeds that lag.
///
/// # Errors
/// PostgreSQL is away.
pub async fn read_range(
    executor: impl PgExecutor<'_>,
    place: Place,
    to: i64,
    limit: i64,
) -> sqlx::Result<Vec<Candidate>> {
    sqlx::query_as(
        "select position, id, event_type, source, null::bytea as payload, created_at, group_id,
                true as is_wanted, pg_postmaster_start_time() as incarnation
         from event where position > $1 and id >= $2 and position <= $3 order by position limit $4",
    )
    .bind(place.position)
    .bind(place.floor)
    .bind(to)
    .bind(limit)
    .fetch_all(executor)
    .await
}

/// An endpoint's next dead letters after `place`, by position, and which of them a redrive of this ask picks
/// out. What the redrive has tried already has its ask, and is not wanted again. The limit is on the rows that are
/// looked at: where few are wanted, a limit on those would have all rows read at once.
///
/// # Errors
/// PostgreSQL is away.
pub async fn read_dead(
    executor: impl PgExecutor<'_>,
    (endpoint, ask): (EndpointId, i64),
    selection: &Selection,
    place: Place,
    limit: i64,
) -> sqlx::Result<Vec<Candidate>> {
    sqlx::query_as(concat!(
        "with dead as materialized (
             select event_id, ask, updated_at, last_error, last_status_code from delivery
             where endpoint_id = $1 and status = 'dead' and purged_at is null
               and event_id >= (select id from event where position > $4 and id >= $3 order by position limit 1)
             order by event_id limit $6
         )
         select e.position, e.id, e.event_type, e.source, null::bytea as payload, e.created_at, e.group_id,
                d.ask < $2 and d.updated_at <= r.created_at
                and ",
        is_redriven!("r.error", "d"),
        "
                and (r.event_type is null
                     or filter_matches(array[r.event_type], '{}', e.event_type, e.source)) as is_wanted,
                pg_postmaster_start_time() as incarnation
         from replay r
         cross join dead d
         cross join lateral (select * from event where id = d.event_id and id >= $3 limit 1) e
         where r.id = $5
         order by d.event_id",
    ))
    .bind(endpoint)
    .bind(ask)
    .bind(place.floor)
    .bind(place.position)
    .bind(selection.replay_id)
    .bind(limit)
    .fetch_all(executor)
    .await
}

/// The highest position that this snapshot shows; 0 for an empty log.
///
/// # Errors
/// PostgreSQL is away.
pub async fn head(executor: impl PgExecutor<'_>) -> sqlx::Result<i64> {
    sqlx::query_scalar("select coalesce((select position from event order by position desc limit 1), 0)")
        .fetch_one(executor)
        .await
}

/// The event at each of these positions, where there is one.
///
/// # Errors
/// PostgreSQL is away.
pub async fn ids_at(executor: impl PgExecutor<'_>, positions: &[i64]) -> sqlx::Result<Vec<(i64, EventId)>> {
    sqlx::query_as("select position, id from event where position = any($1)")
        .bind(positions)
        .fetch_all(executor)
        .await
}

/// Events by id, with their payloads. `ids` must not be empty.
///
/// # Errors
/// PostgreSQL is away.
pub async fn fetch(executor: impl PgExecutor<'_>, ids: &[EventId]) -> sqlx::Result<Vec<LoggedEvent>> {
    let (lowest, highest) = (ids.iter().min(), ids.iter().max());
    sqlx::query_as(
        "select position, id, event_type, source, payload, created_at, group_id
         from event where id = any($1) and id between $2 and $3",
    )
    .bind(ids)
    .bind(lowest)
    .bind(highest)
    .fetch_all(executor)
    .await
}

/// Makes the daily partitions up to a week ahead; answers how many were missing.
///
/// # Errors
/// PostgreSQL is away.
pub async fn make_partitions(connection: &mut PgConnection) -> sqlx::Result<i32> {
    sqlx::query_scalar("select make_partitions(7)").fetch_one(connection).await
}

/// Ends sessions that hold the log lock but have been silent for five seconds: a client that died without
/// closing its connection must not stop the log. Answers how many.
///
/// # Errors
/// PostgreSQL is away, or does not let this role end sessions.
pub async fn end_stuck_writers(executor: impl PgExecutor<'_>) -> sqlx::Result<i64> {
    sqlx::query_scalar(
        "select count(pg_terminate_backend(a.pid)) from pg_stat_activity a
         join pg_locks l on l.pid = a.pid and l.locktype = 'advisory' and l.granted
         where l.database = (select oid from pg_database where datname = current_database())
           and (l.classid::bigint << 32) | l.objid::bigint = 5495127463921472
           and a.state like 'idle in transaction%' and a.wait_event = 'ClientRead'
           and a.state_change < clock_timestamp() - interval '5 seconds'",
    )
    .fetch_one(executor)
    .await
}
