//! Replays and redrives: a set of feeds, one for each endpoint that is concerned, with the same ask. Made by
//! [`super::replay_create`]; how far one has come is worked out by [`super::replay_progress`].

use chrono::{DateTime, Utc};
use serde_json::json;
use sqlx::{PgConnection, PgPool};

use super::audit::{self, Author};
use super::{change, topology};
use crate::ids::{EndpointId, ReplayId};

/// A replay or redrive as its table has it.
#[derive(Debug, Clone, sqlx::FromRow)]
pub struct Replay {
    pub id: ReplayId,
    /// `replay` or `redrive`.
    pub kind: String,
    /// `*` for all groups.
    pub group_name: String,
    pub endpoint_id: Option<EndpointId>,
    pub event_type: Option<String>,
    pub source: Option<String>,
    /// The fingerprint of the dead letters that are redriven.
    pub error: Option<String>,
    pub from_at: Option<DateTime<Utc>>,
    pub to_at: Option<DateTime<Utc>>,
    pub event_limit: Option<i64>,
    pub only_missing: bool,
    pub rate_per_second: Option<i32>,
    /// Events; of a redrive dead letters.
    pub matched: i64,
    /// Deliveries, over all endpoints.
    pub owed: i64,
    pub created_at: DateTime<Utc>,
    pub cancelled_at: Option<DateTime<Utc>>,
    pub finished_at: Option<DateTime<Utc>>,
    pub(super) ask: i64,
    pub(super) published_to: i64,
    pub(super) published: i64,
    pub(super) settled_to: i64,
    pub(super) settled: i64,
    pub(super) counted_to: i64,
    pub(super) delivered: i64,
    pub(super) dead: i64,
}

impl Replay {
    pub fn is_redrive(&self) -> bool {
        self.kind == "redrive"
    }
}

/// What has become of a replay as a whole.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Status {
    Running,
    /// Somebody has stopped it.
    Cancelled,
    /// All of it was sent; some may still be retried.
    Done,
}

impl Status {
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Running => "running",
            Self::Cancelled => "cancelled",
            Self::Done => "done",
        }
    }
}

/// One replay that the caller may see: `groups` are the caller's own, `None` for who sees all. Those of a
/// deleted group are not seen by whoever has its name now.
///
/// # Errors
/// PostgreSQL is away.
pub async fn get(pool: &PgPool, id: ReplayId, groups: Option<&[String]>) -> sqlx::Result<Option<Replay>> {
    sqlx::query_as(
        "select * from replay r where r.id = $1
           and ($2::text[] is null or exists (
                select from consumer_group g where g.name = r.group_name and g.name = any($2)
                  and g.deleted_at is null and g.created_at <= r.created_at))",
    )
    .bind(id)
    .bind(groups)
    .fetch_optional(pool)
    .await
}

/// What is looked for; `None` for all.
#[derive(Debug, Default)]
pub struct ReplayFilter<'a> {
    /// The caller's own groups; `None` for who sees all.
    pub groups: Option<&'a [String]>,
    /// A group's name, or `*`.
    pub group: Option<String>,
    pub kind: Option<&'static str>,
    pub status: Option<Status>,
    /// A page goes on below this replay.
    pub before: Option<ReplayId>,
}

/// Replays in pages, newest first.
///
/// # Errors
/// PostgreSQL is away.
pub async fn list(pool: &PgPool, filter: &ReplayFilter<'_>, limit: i64) -> sqlx::Result<Vec<Replay>> {
    sqlx::query_as(
        "select r.* from replay r
         where ($1::uuid is null or r.id < $1) and ($2::text is null or r.group_name = $2)
           and ($3::text is null or r.kind = $3)
           and ($4::text is null or $4 = case
                when exists (select from feed f where f.replay_id = r.id and f.status = 'active') then 'running'
                when r.cancelled_at is not null then 'cancelled'
                else 'done' end)
           and ($5::text[] is null or exists (
                select from consumer_group g where g.name = r.group_name and g.name = any($5)
                  and g.deleted_at is null and g.created_at <= r.created_at))
         order by r.id desc limit $6",
    )
    .bind(filter.before)
    .bind(&filter.group)
    .bind(filter.kind)
    .bind(filter.status.map(Status::as_str))
    .bind(filter.groups)
    .bind(limit)
    .fetch_all(pool)
    .await
}

/// Stops a replay: nothing more of it is sent, and what of it waits ends as dead with the error `cancelled`.
/// One that has ended is left as it is; to ask again does no harm.
///
/// # Errors
/// PostgreSQL is away.
pub async fn cancel(pool: &PgPool, author: &Author, id: ReplayId) -> sqlx::Result<()> {
    // Looked for before the lock is taken, for producers wait while it is held.
    let waits: bool = sqlx::query_scalar(
        "select exists (select from delivery where replay_id = $1 and status in ('pending', 'retrying'))",
    )
    .bind(id)
    .fetch_one(pool)
    .await?;
    let mut transaction = change::begin(pool).await?;
    let cancelled = sqlx::query(
        "with active as materialized (
             select id from feed where replay_id = $1 and status = 'active' order by id for update
         ), closed as (
             update feed f set status = 'closed', finished_at = now()
             from active a where f.id = a.id returning f.id
         )
         update replay set cancelled_at = now(), finished_at = coalesce(finished_at, now())
         where id = $1 and cancelled_at is null
           and ($2 or exists (select from closed))",
    )
    .bind(id)
    .bind(waits)
    .execute(&mut *transaction)
    .await?;
    if cancelled.rows_affected() > 0 {
        topology::raise_version(&mut transaction).await?;
        audit::write(&mut *transaction, author, &id.to_string(), json!({})).await?;
        transaction.commit().await?;
    } else {
        transaction.rollback().await?;
    }
    end_waiting(pool, id).await
}

/// Rows that end in one transaction.
const ROWS_AT_ONCE: i64 = 5_000;

/// Ends what waits of a cancelled replay, not under the log lock, in rounds and in the order of the keys.
async fn end_waiting(pool: &PgPool, id: ReplayId) -> sqlx::Result<()> {
    loop {
        let ended = sqlx::query(
            "with waiting as (
                 select d.event_id, d.endpoint_id from delivery d join replay r on r.id = d.replay_id
                 where d.replay_id = $1 and d.status in ('pending', 'retrying') and r.cancelled_at is not null
                 order by d.event_id, d.endpoint_id limit $2 for update of d
             )
             update delivery d set status = 'dead', next_attempt_at = null, last_error = 'cancelled',
                    updated_at = now()
             from waiting w where d.event_id = w.event_id and d.endpoint_id = w.endpoint_id",
        )
        .bind(id)
        .bind(ROWS_AT_ONCE)
        .execute(pool)
        .await?;
        if (ended.rows_affected() as i64) < ROWS_AT_ONCE {
            return Ok(());
        }
    }
}

/// Ends what attempts that were under way at a cancellation have left waiting. Answers how many.
///
/// # Errors
/// PostgreSQL is away.
pub async fn end_cancelled(connection: &mut PgConnection) -> sqlx::Result<u64> {
    let lately: Vec<ReplayId> =
        sqlx::query_scalar("select id from replay where cancelled_at > now() - interval '10 minutes'")
            .fetch_all(&mut *connection)
            .await?;
    if lately.is_empty() {
        return Ok(0);
    }
    let ended = sqlx::query(
        "with waiting as (
             select d.event_id, d.endpoint_id from delivery d
             where d.replay_id = any($1) and d.status in ('pending', 'retrying')
             order by d.event_id, d.endpoint_id limit $2 for update
         )
         update delivery d set status = 'dead', next_attempt_at = null, last_error = 'cancelled',
                updated_at = now()
         from waiting w where d.event_id = w.event_id and d.endpoint_id = w.endpoint_id",
    )
    .bind(lately)
    .bind(ROWS_AT_ONCE)
    .execute(connection)
    .await?;
    Ok(ended.rows_affected())
}

/// Replays and redrives of one group, or of all groups at once, that run side by side.
pub const MOST_RUNNING: i64 = 20;

/// Their feeds, over all groups.
pub const MOST_FEEDS: i64 = 5_000;

/// Under the log lock: whether another replay may run, with so many feeds. Without any it has ended at once.
pub(super) async fn has_room(
    change: &mut PgConnection,
    group_name: &str,
    feeds: usize,
) -> sqlx::Result<bool> {
    if feeds == 0 {
        return Ok(true);
    }
    let (running, active): (i64, i64) = sqlx::query_as(
        "select count(distinct r.id) filter (where r.group_name = $1), count(*)
         from feed f join replay r on r.id = f.replay_id where f.status = 'active'",
    )
    .bind(group_name)
    .fetch_one(change)
    .await?;
    Ok(running < MOST_RUNNING && active + feeds as i64 <= MOST_FEEDS)
}

/// A replay that is being made.
pub(super) struct NewReplay<'a> {
    pub(super) id: ReplayId,
    pub(super) kind: &'static str,
    pub(super) group_name: &'a str,
    pub(super) endpoint_id: Option<EndpointId>,
    pub(super) event_type: Option<&'a str>,
    pub(super) source: Option<&'a str>,
    pub(super) error: Option<&'a str>,
    pub(super) from_at: Option<DateTime<Utc>>,
    pub(super) to_at: Option<DateTime<Utc>>,
    pub(super) event_limit: Option<i64>,
    pub(super) only_missing: bool,
    pub(super) rate_per_second: Option<i32>,
    pub(super) matched: i64,
    pub(super) owed: i64,
    /// When that was counted, which is when the replay was asked for: what dies later is not part of a redrive.
    pub(super) measured_at: Option<DateTime<Utc>>,
}

/// A feed of it, after `from_position`.
pub(super) struct NewFeed {
    pub(super) group_id: i64,
    pub(super) endpoint_id: EndpointId,
    pub(super) from_position: i64,
}

/// Under the log lock: writes the replay with its feeds, which end at `to_position` or, without one, at the
/// replay's ask.
pub(super) async fn insert(
    change: &mut PgConnection,
    new: &NewReplay<'_>,
    feeds: &[NewFeed],
    to_position: Option<i64>,
) -> sqlx::Result<()> {
    let ask: i64 = sqlx::query_scalar("select draw_positions(1)").fetch_one(&mut *change).await?;
    let first = feeds.iter().map(|feed| feed.from_position).min().unwrap_or(0);
    sqlx::query(
        "insert into replay (id, kind, group_name, endpoint_id, event_type, source, error, from_at, to_at,
                event_limit, only_missing, rate_per_second, ask, matched, owed, published_to, settled_to,
                counted_to, finished_at, created_at)
         values ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12, $13, $14, $15, $16, $16, $16,
                 case when $17 then now() end, coalesce($18, now()))",
    )
    .bind(new.id)
    .bind(new.kind)
    .bind(new.group_name)
    .bind(new.endpoint_id)
    .bind(new.event_type)
    .bind(new.source)
    .bind(new.error)
    .bind(new.from_at)
    .bind(new.to_at)
    .bind(new.event_limit)
    .bind(new.only_missing)
    .bind(new.rate_per_second)
    .bind(ask)
    .bind(new.matched)
    .bind(new.owed)
    .bind(first)
    .bind(feeds.is_empty())
    .bind(new.measured_at)
    .execute(&mut *change)
    .await?;
    let resend = (new.kind == "replay" && !new.only_missing).then_some(new.id);
    sqlx::query(
        "insert into feed (group_id, kind, ask, as_of_position, endpoint_id, from_position, to_position,
                settled_position, scanned_position, replay_id, resend_id, only_missing)
         select f.group_id, $1, $2, $2, f.endpoint_id, f.position, coalesce($3, $2), f.position, f.position,
                $4, $5, $6
         from unnest($7::bigint[], $8::uuid[], $9::bigint[]) as f (group_id, endpoint_id, position)",
    )
    .bind(new.kind)
    .bind(ask)
    .bind(to_position)
    .bind(new.id)
    .bind(resend)
    .bind(new.only_missing)
    .bind(feeds.iter().map(|feed| feed.group_id).collect::<Vec<_>>())
    .bind(feeds.iter().map(|feed| feed.endpoint_id).collect::<Vec<_>>())
    .bind(feeds.iter().map(|feed| feed.from_position).collect::<Vec<_>>())
    .execute(&mut *change)
    .await?;
    topology::raise_version(change).await.map(drop)
}
