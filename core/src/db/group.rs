//! Consumer groups. Creating or deleting one is a change of the topology: it holds the log lock, takes a
//! position of the log, and raises the topology's version, in one transaction.

use chrono::{DateTime, Utc};
use serde_json::json;
use sqlx::types::Json;
use sqlx::{PgConnection, PgPool};

use super::audit::{self, Author};
use crate::group::GroupName;
use crate::retry::RetryOverride;

/// A group as its table has it.
#[derive(Debug, Clone, sqlx::FromRow)]
pub struct Group {
    pub id: i64,
    pub name: String,
    pub description: String,
    pub retry: Option<Json<RetryOverride>>,
    pub paused_at: Option<DateTime<Utc>>,
    pub created_at: DateTime<Utc>,
}

#[derive(Debug)]
pub enum Created {
    Created(Group),
    NameTaken,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Deleted {
    Deleted,
    NotFound,
    /// `default` is there from the start and stays.
    IsDefault,
}

/// Creates a group whose live feed begins at the end of the log.
///
/// # Errors
/// PostgreSQL is away.
pub async fn create(
    pool: &PgPool,
    author: &Author,
    name: &GroupName,
    description: &str,
    retry: Option<&RetryOverride>,
) -> sqlx::Result<Created> {
    let mut change = super::change::begin(pool).await?;
    let made: sqlx::Result<i64> = sqlx::query_scalar("select create_group($1, $2, $3)")
        .bind(name.as_ref())
        .bind(description)
        .bind(retry.map(Json))
        .fetch_one(&mut *change)
        .await;
    match made {
        Err(error) if super::change::violates(&error, "consumer_group_name_key") => {
            return Ok(Created::NameTaken);
        }
        made => made?,
    };
    audit::write(&mut *change, author, name.as_ref(), json!({})).await?;
    change.commit().await?;
    get(pool, name).await?.map(Created::Created).ok_or(sqlx::Error::RowNotFound)
}

/// What is to be changed of a group; `None` leaves it.
#[derive(Debug, Default)]
pub struct Patch {
    pub description: Option<String>,
    pub retry: Option<Option<RetryOverride>>,
}

/// Changes a group; `None` if there is none of this name.
///
/// # Errors
/// PostgreSQL is away.
pub async fn update(
    pool: &PgPool,
    author: &Author,
    name: &GroupName,
    patch: &Patch,
) -> sqlx::Result<Option<Group>> {
    let mut change = super::change::begin(pool).await?;
    let Some(group_id) = raise(&mut change, name).await? else { return Ok(None) };
    sqlx::query(
        "update consumer_group set description = coalesce($2, description),
                retry = case when $3 then $4 else retry end
         where id = $1",
    )
    .bind(group_id)
    .bind(&patch.description)
    .bind(patch.retry.is_some())
    .bind(patch.retry.as_ref().and_then(Option::as_ref).map(Json))
    .execute(&mut *change)
    .await?;
    let detail = json!({ "description": patch.description, "retry": patch.retry });
    audit::write(&mut *change, author, name.as_ref(), detail).await?;
    change.commit().await?;
    get(pool, name).await
}

/// Pauses a group, or lets it go on; `None` if there is none of this name.
///
/// # Errors
/// PostgreSQL is away.
pub async fn set_paused(
    pool: &PgPool,
    author: &Author,
    name: &GroupName,
    paused: bool,
) -> sqlx::Result<Option<Group>> {
    let mut change = super::change::begin(pool).await?;
    let Some(group_id) = raise(&mut change, name).await? else { return Ok(None) };
    sqlx::query(
        "update consumer_group set paused_at = case when $2 then coalesce(paused_at, now()) end where id = $1",
    )
    .bind(group_id)
    .bind(paused)
    .execute(&mut *change)
    .await?;
    audit::write(&mut *change, author, name.as_ref(), json!({})).await?;
    change.commit().await?;
    get(pool, name).await
}

/// Raises the version of a group's endpoints, so that dispatchers read them again; answers the group's id.
async fn raise(change: &mut PgConnection, name: &GroupName) -> sqlx::Result<Option<i64>> {
    sqlx::query_scalar(
        "with raised as materialized (
             select id, raise_topology_version() as version from consumer_group
             where name = $1 and deleted_at is null
         ), touched as (
             update endpoint e set version = r.version from raised r
             where e.group_id = r.id and e.status <> 'deleted'
         )
         select id from raised",
    )
    .bind(name.as_ref())
    .fetch_optional(change)
    .await
}

/// # Errors
/// PostgreSQL is away.
pub async fn get(pool: &PgPool, name: &GroupName) -> sqlx::Result<Option<Group>> {
    sqlx::query_as(
        "select id, name, description, retry, paused_at, created_at from consumer_group
         where name = $1 and deleted_at is null",
    )
    .bind(name.as_ref())
    .fetch_optional(pool)
    .await
}

/// Groups in pages, newest first: those made before the group `before`; of these names only, if
/// any are given.
///
/// # Errors
/// PostgreSQL is away.
pub async fn list(
    pool: &PgPool,
    only: Option<&[String]>,
    before: Option<i64>,
    limit: i64,
) -> sqlx::Result<Vec<Group>> {
    sqlx::query_as(
        "select id, name, description, retry, paused_at, created_at from consumer_group
         where deleted_at is null and id < coalesce($1, 9223372036854775807)
           and ($3::text[] is null or name = any($3))
         order by id desc limit $2",
    )
    .bind(before)
    .bind(limit)
    .bind(only)
    .fetch_all(pool)
    .await
}

/// Deletes a group with all its endpoints: from this position of the log on nothing is owed to them, and
/// its feeds are closed. What was recorded of it stays as long as the events do.
///
/// # Errors
/// PostgreSQL is away.
pub async fn delete(pool: &PgPool, author: &Author, name: &GroupName) -> sqlx::Result<Deleted> {
    if name.is_default() {
        return Ok(Deleted::IsDefault);
    }
    let mut change = super::change::begin(pool).await?;
    let found: Option<i64> =
        sqlx::query_scalar("select id from consumer_group where name = $1 and deleted_at is null")
            .bind(name.as_ref())
            .fetch_optional(&mut *change)
            .await?;
    let Some(group_id) = found else { return Ok(Deleted::NotFound) };
    close(&mut change, group_id).await?;
    lock_out(&mut change, name).await?;
    audit::write(&mut *change, author, name.as_ref(), json!({})).await?;
    change.commit().await?;
    Ok(Deleted::Deleted)
}

/// Keys of a deleted group open no later group of its name; those that opened nothing else are revoked.
async fn lock_out(change: &mut PgConnection, name: &GroupName) -> sqlx::Result<()> {
    sqlx::query(
        "update api_key set
             revoked_at = case when cardinality(groups) = 1 then coalesce(revoked_at, now()) else revoked_at end,
             groups = case when cardinality(groups) = 1 then groups else array_remove(groups, $1) end
         where $1 = any (groups)",
    )
    .bind(name.as_ref())
    .execute(change)
    .await
    .map(drop)
}

/// Under the log lock: ends all that the group has open, at one position.
async fn close(change: &mut PgConnection, group_id: i64) -> sqlx::Result<()> {
    sqlx::query(
        "with now_at as materialized (select draw_positions(1) as here, raise_topology_version() as version),
         gone as (
             update endpoint e set status = 'deleted', disabled_reason = null, version = n.version,
                    updated_at = now()
             from now_at n where e.group_id = $1 and e.status <> 'deleted' returning e.id
         ), unsubscribed as (
             update subscription s set to_position = n.here
             from now_at n, gone g where s.endpoint_id = g.id and s.to_position is null
         ), unparked as (
             update parked p set to_position = n.here, closed_at = now()
             from now_at n, gone g where p.endpoint_id = g.id and p.to_position is null
         ), active as materialized (
             select id from feed where group_id = $1 and status = 'active' order by id for update
         ), feeds as (
             update feed f set status = 'closed', finished_at = now() from active a where f.id = a.id
         )
         update consumer_group set deleted_at = now() from now_at where id = $1",
    )
    .bind(group_id)
    .execute(&mut *change)
    .await?;
    sqlx::query(
        "delete from endpoint_secret s using endpoint e where e.id = s.endpoint_id and e.group_id = $1",
    )
    .bind(group_id)
    .execute(change)
    .await?;
    Ok(())
}
