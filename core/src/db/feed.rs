//! Feeds: cursors over the log. Their settled position is the only cursor that must be durable.

use sqlx::{PgExecutor, PgPool};

use super::lease::Incarnation;
use super::{change, topology};
use crate::feed::FeedKind;
use crate::group::GroupName;

/// Where a feed stands in the record.
#[derive(Debug, Clone, Copy, PartialEq, Eq, sqlx::FromRow)]
pub struct Cursor {
    pub id: i64,
    pub epoch: i64,
    pub settled_position: i64,
}

/// How far a feed was seen to be: settled, and read.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Progress {
    pub cursor: Cursor,
    /// Only for feeds that somebody watches; else 0.
    pub scanned_position: i64,
}

/// # Errors
/// PostgreSQL is away.
pub async fn cursors(executor: impl PgExecutor<'_>, ids: &[i64]) -> sqlx::Result<Vec<Cursor>> {
    sqlx::query_as("select id, epoch, settled_position from feed where id = any($1) and status = 'active'")
        .bind(ids)
        .fetch_all(executor)
        .await
}

/// Moves settled positions forward, never back, and only those of the epoch, and on the server, that they
/// were seen in.
///
/// # Errors
/// PostgreSQL is away.
pub async fn settle(
    executor: impl PgExecutor<'_>,
    incarnation: Incarnation,
    seen: &[Progress],
) -> sqlx::Result<()> {
    if seen.is_empty() {
        return Ok(());
    }
    let ids: Vec<i64> = seen.iter().map(|seen| seen.cursor.id).collect();
    let epochs: Vec<i64> = seen.iter().map(|seen| seen.cursor.epoch).collect();
    let positions: Vec<i64> = seen.iter().map(|seen| seen.cursor.settled_position).collect();
    let scanned: Vec<i64> = seen.iter().map(|seen| seen.scanned_position).collect();
    sqlx::query(
        "with seen as (
             select * from unnest($1::bigint[], $2::bigint[], $3::bigint[], $5::bigint[])
                  as s (id, epoch, position, scanned)
         ), locked as (
             select f.id from feed f join seen s on s.id = f.id and s.epoch = f.epoch
             where (f.settled_position < s.position or f.scanned_position < s.scanned) and f.status = 'active'
               and pg_postmaster_start_time() = $4
             order by f.id for update of f
         )
         update feed f set settled_position = greatest(f.settled_position, s.position),
                scanned_position = greatest(f.scanned_position, s.scanned)
         from seen s, locked l where l.id = f.id and s.id = f.id and s.epoch = f.epoch",
    )
    .bind(ids)
    .bind(epochs)
    .bind(positions)
    .bind(incarnation)
    .bind(scanned)
    .execute(executor)
    .await
    .map(drop)
}

/// Begins a new epoch of a feed whose stream no longer fits the log: a new stream, the same cursor and ask,
/// so that what has an outcome is recognised. `None` if somebody else did, or the feed is gone.
///
/// # Errors
/// PostgreSQL is away.
pub async fn begin_epoch(pool: &PgPool, feed_id: i64, old_epoch: i64) -> sqlx::Result<Option<i64>> {
    let mut transaction = change::begin(pool).await?;
    let epoch: Option<i64> = sqlx::query_scalar(
        "update feed set epoch = epoch + 1 where id = $1 and epoch = $2 and status = 'active' returning epoch",
    )
    .bind(feed_id)
    .bind(old_epoch)
    .fetch_optional(&mut *transaction)
    .await?;
    topology::raise_version(&mut transaction).await?;
    transaction.commit().await?;
    Ok(epoch)
}

/// Ends feeds, given with their epochs, that were seen on this server to have delivered all up to their end, and
/// the replays of which they were the last.
///
/// # Errors
/// PostgreSQL is away.
pub async fn finish(pool: &PgPool, incarnation: Incarnation, complete: &[(i64, i64)]) -> sqlx::Result<()> {
    if complete.is_empty() {
        return Ok(());
    }
    let (ids, epochs): (Vec<i64>, Vec<i64>) = complete.iter().copied().unzip();
    let mut transaction = change::begin(pool).await?;
    sqlx::query(
        "with complete as materialized (
             select f.id from feed f
             join unnest($1::bigint[], $2::bigint[]) as c (id, epoch) on c.id = f.id and c.epoch = f.epoch
             where f.status = 'active' and f.to_position is not null and pg_postmaster_start_time() = $3
             order by f.id for update of f
         )
         update feed f set status = 'done', finished_at = now(), settled_position = f.to_position,
                scanned_position = f.to_position
         from complete c where f.id = c.id",
    )
    .bind(&ids)
    .bind(epochs)
    .bind(incarnation)
    .execute(&mut *transaction)
    .await?;
    sqlx::query(
        "update replay r set finished_at = now()
         where r.id in (select replay_id from feed where id = any($1)) and r.finished_at is null
           and not exists (select from feed other where other.replay_id = r.id and other.status = 'active')",
    )
    .bind(&ids)
    .execute(&mut *transaction)
    .await?;
    topology::raise_version(&mut transaction).await?;
    transaction.commit().await
}

/// Feeds that were ended by hand, or with their group, and whose streams still want deleting.
#[derive(Debug, Clone)]
pub struct ClosedFeed {
    pub id: i64,
    pub group: GroupName,
    pub kind: FeedKind,
    pub epoch: i64,
}

/// # Errors
/// PostgreSQL is away.
pub async fn closed(executor: impl PgExecutor<'_>) -> sqlx::Result<Vec<ClosedFeed>> {
    let rows: Vec<(i64, String, String, i64)> = sqlx::query_as(
        "select f.id, g.name, f.kind, f.epoch from feed f join consumer_group g on g.id = f.group_id
         where f.status = 'closed'",
    )
    .fetch_all(executor)
    .await?;
    Ok(rows
        .into_iter()
        .filter_map(|(id, group, kind, epoch)| {
            Some(ClosedFeed { id, group: group.parse().ok()?, kind: FeedKind::parse(&kind)?, epoch })
        })
        .collect())
}

/// Marks closed feeds whose streams are deleted.
///
/// # Errors
/// PostgreSQL is away.
pub async fn mark_deleted(executor: impl PgExecutor<'_>, ids: &[i64]) -> sqlx::Result<()> {
    sqlx::query("update feed set status = 'done' where id = any($1) and status = 'closed'")
        .bind(ids)
        .execute(executor)
        .await
        .map(drop)
}

/// Feeds that were ended by hand lately: dispatchers drop what they hold of them.
///
/// # Errors
/// PostgreSQL is away.
pub async fn ended_lately(executor: impl PgExecutor<'_>) -> sqlx::Result<Vec<i64>> {
    sqlx::query_scalar(
        "select id from feed where finished_at > now() - interval '10 minutes' and to_position > settled_position",
    )
    .fetch_all(executor)
    .await
}
