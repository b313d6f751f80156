//! Changes of an endpoint that exists: what it is, whether it is on, and its secrets. Like all changes of the
//! topology they hold the log lock, so that an event is before the change or after it, for every reader.

use serde_json::{Value, json};
use sqlx::types::Json;
use sqlx::{PgConnection, PgPool};

use super::audit::{self, Author};
use super::{change, operational};
use crate::endpoint::{CustomHeaders, EndpointUrl};
use crate::group::GroupName;
use crate::ids::EndpointId;
use crate::matching::Filter;
use crate::retry::RetryOverride;

/// What an endpoint is to be.
#[derive(Debug)]
pub struct Replacement {
    pub url: EndpointUrl,
    pub description: String,
    pub filter: Filter,
    pub headers: CustomHeaders,
    pub timeout_ms: Option<i32>,
    pub max_in_flight: Option<i32>,
    pub rate_per_second: Option<i32>,
    pub retry: Option<RetryOverride>,
    /// Sealed credentials, or none; `None` leaves them.
    pub auth: Option<Option<Vec<u8>>>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Changed {
    Changed,
    NotFound,
    /// Somebody else has changed it since it was read.
    Outdated,
    UrlTaken,
}

/// Replaces the endpoint that was read in `version`. A changed filter closes the old interval of the log and
/// opens the new one, at a position that is drawn here: events accepted before it are owed as they were.
/// `changed` names the members that were given, for the audit log.
///
/// # Errors
/// PostgreSQL is away.
pub async fn replace(
    pool: &PgPool,
    author: &Author,
    (group, id): (&GroupName, EndpointId),
    version: i64,
    new: &Replacement,
    changed: &[&str],
) -> sqlx::Result<Changed> {
    let mut transaction = change::begin(pool).await?;
    match version_of(&mut transaction, group, id).await? {
        None => return Ok(Changed::NotFound),
        Some(current) if current != version => return Ok(Changed::Outdated),
        Some(_) => {}
    }
    let written = sqlx::query(
        "update endpoint set url = $2, description = $3, headers = $4, timeout_ms = $5, max_in_flight = $6,
                rate_per_second = $7, retry = $8, auth = case when $9 then $10 else auth end,
                version = raise_topology_version(), updated_at = now()
         where id = $1",
    )
    .bind(id)
    .bind(new.url.as_str())
    .bind(&new.description)
    .bind(Json(&new.headers))
    .bind(new.timeout_ms)
    .bind(new.max_in_flight)
    .bind(new.rate_per_second)
    .bind(new.retry.as_ref().map(Json))
    .bind(new.auth.is_some())
    .bind(new.auth.as_ref().and_then(Option::as_ref))
    .execute(&mut *transaction)
    .await;
    match written {
        Err(error) if change::violates(&error, "endpoint_url_key") => return Ok(Changed::UrlTaken),
        written => written?,
    };
    subscribe(&mut transaction, id, &new.filter).await?;
    audit::write(&mut *transaction, author, &subject(group, id), json!({ "changed": changed })).await?;
    transaction.commit().await?;
    Ok(Changed::Changed)
}

/// Closes the open interval and opens another, if the filter is another.
async fn subscribe(change: &mut PgConnection, id: EndpointId, filter: &Filter) -> sqlx::Result<()> {
    let event_types: Vec<String> = filter.event_types.iter().map(ToString::to_string).collect();
    let sources: Vec<&str> = filter.sources.iter().map(AsRef::as_ref).collect();
    let here: Option<i64> = sqlx::query_scalar(
        "with other as materialized (
             select s.id, draw_positions(1) as here from subscription s
             where s.endpoint_id = $1 and s.to_position is null and (s.event_types, s.sources) <> ($2, $3)
         )
         update subscription s set to_position = o.here from other o where s.id = o.id returning o.here",
    )
    .bind(id)
    .bind(&event_types)
    .bind(&sources)
    .fetch_optional(&mut *change)
    .await?;
    let Some(here) = here else { return Ok(()) };
    sqlx::query(
        "insert into subscription (endpoint_id, from_position, event_types, sources) values ($1, $2, $3, $4)",
    )
    .bind(id)
    .bind(here)
    .bind(event_types)
    .bind(sources)
    .execute(change)
    .await
    .map(drop)
}

/// Switches an endpoint off; the relay parks it, and its backlog stays in the log.
///
/// # Errors
/// PostgreSQL is away.
pub async fn disable(
    pool: &PgPool,
    author: &Author,
    group: &GroupName,
    id: EndpointId,
) -> sqlx::Result<Changed> {
    let mut transaction = change::begin(pool).await?;
    if version_of(&mut transaction, group, id).await?.is_none() {
        return Ok(Changed::NotFound);
    }
    let disabled = sqlx::query(
        "update endpoint set status = 'disabled', disabled_reason = 'manual',
                version = raise_topology_version(), updated_at = now()
         where id = $1 and status = 'active'",
    )
    .bind(id)
    .execute(&mut *transaction)
    .await?;
    if disabled.rows_affected() > 0 {
        operational::endpoint_disabled(&mut transaction, id).await?;
    }
    audit::write(&mut *transaction, author, &subject(group, id), json!({})).await?;
    transaction.commit().await?;
    Ok(Changed::Changed)
}

/// What becomes of the events that an endpoint has missed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Backlog {
    /// The relay brings it back, with a catch-up.
    Deliver,
    /// They are given up: deliveries that wait end as dead, what was not tried is not caught up.
    Skip,
}

/// Rows that end in one transaction.
const ROWS_AT_ONCE: i64 = 5_000;

/// Switches an endpoint on.
///
/// # Errors
/// PostgreSQL is away.
pub async fn enable(
    pool: &PgPool,
    author: &Author,
    group: &GroupName,
    id: EndpointId,
    backlog: Backlog,
) -> sqlx::Result<Changed> {
    if backlog == Backlog::Skip {
        let mut connection = pool.acquire().await?;
        if version_of(&mut connection, group, id).await?.is_none() {
            return Ok(Changed::NotFound);
        }
        // Most of them before the lock is taken, for producers wait while it is held.
        skip_waiting(&mut connection, id).await?;
    }
    let mut transaction = change::begin(pool).await?;
    if version_of(&mut transaction, group, id).await?.is_none() {
        return Ok(Changed::NotFound);
    }
    if backlog == Backlog::Skip {
        skip_intervals(&mut transaction, id).await?;
    }
    sqlx::query("delete from endpoint_health where endpoint_id = $1")
        .bind(id)
        .execute(&mut *transaction)
        .await?;
    sqlx::query(
        "update endpoint set status = 'active', disabled_reason = null,
                version = raise_topology_version(), updated_at = now()
         where id = $1",
    )
    .bind(id)
    .execute(&mut *transaction)
    .await?;
    let detail = json!({ "backlog": if backlog == Backlog::Skip { "skip" } else { "deliver" } });
    audit::write(&mut *transaction, author, &subject(group, id), detail).await?;
    if backlog == Backlog::Skip {
        skip_waiting(&mut transaction, id).await?;
    }
    transaction.commit().await?;
    if backlog == Backlog::Deliver {
        // Not under the log lock. If it fails, what waits is due a little later by itself.
        if let Err(error) = make_due(pool, id).await {
            tracing::warn!(endpoint.id = %id, %error, "what waits for an enabled endpoint is not hastened");
        }
    }
    Ok(Changed::Changed)
}

/// What was deferred while the endpoint was disabled is due now. In rounds, and in the order of the keys, like
/// all who change several rows.
async fn make_due(pool: &PgPool, id: EndpointId) -> sqlx::Result<()> {
    loop {
        let made_due = sqlx::query(
            "with waiting as (
                 select event_id, endpoint_id from delivery
                 where endpoint_id = $1 and status = 'pending' and next_attempt_at > now()
                 order by event_id limit $2 for update
             )
             update delivery d set next_attempt_at = now(), updated_at = now()
             from waiting w where d.event_id = w.event_id and d.endpoint_id = w.endpoint_id",
        )
        .bind(id)
        .bind(ROWS_AT_ONCE)
        .execute(pool)
        .await?;
        if (made_due.rows_affected() as i64) < ROWS_AT_ONCE {
            return Ok(());
        }
    }
}

/// Under the log lock: what is parked or being caught up stays undelivered.
async fn skip_intervals(change: &mut PgConnection, id: EndpointId) -> sqlx::Result<()> {
    sqlx::query(
        "with active as materialized (
             select id from feed where endpoint_id = $1 and kind = 'catch_up' and status = 'active'
             order by id for update
         ), closed as (
             update feed f set status = 'closed', finished_at = now()
             from active a where f.id = a.id
             returning f.from_position, f.to_position
         ), given_up as (
             update parked p set skipped = true from closed c
             where p.endpoint_id = $1 and p.from_position = c.from_position and p.to_position = c.to_position
         ), here as materialized (
             select id, draw_positions(1) as position from parked where endpoint_id = $1 and to_position is null
         )
         update parked p set to_position = greatest(h.position, p.from_position), closed_at = now(),
                skipped = true
         from here h where p.id = h.id",
    )
    .bind(id)
    .execute(change)
    .await
    .map(drop)
}

/// In rounds, so that no statement grows without bound.
async fn skip_waiting(change: &mut PgConnection, id: EndpointId) -> sqlx::Result<()> {
    loop {
        let skipped = sqlx::query(
            "with waiting as (
                 select event_id, endpoint_id from delivery
                 where endpoint_id = $1 and status in ('pending', 'retrying')
                 order by event_id limit $2 for update
             )
             update delivery d set status = 'dead', next_attempt_at = null, last_error = 'skipped',
                    updated_at = now()
             from waiting w where d.event_id = w.event_id and d.endpoint_id = w.endpoint_id",
        )
        .bind(id)
        .bind(ROWS_AT_ONCE)
        .execute(&mut *change)
        .await?;
        if (skipped.rows_affected() as i64) < ROWS_AT_ONCE {
            return Ok(());
        }
    }
}

/// An endpoint signs with no more secrets than this at once.
pub const MOST_SECRETS: i64 = 5;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Rotated {
    Rotated,
    NotFound,
    /// [`MOST_SECRETS`] sign already, and all of them were to go on.
    TooMany,
}

/// Adds a new secret; those that sign now go on for so long.
///
/// # Errors
/// PostgreSQL is away.
pub async fn rotate_secret(
    pool: &PgPool,
    author: &Author,
    group: &GroupName,
    id: EndpointId,
    sealed: &[u8],
    grace_seconds: i64,
) -> sqlx::Result<Rotated> {
    let mut transaction = change::begin(pool).await?;
    if version_of(&mut transaction, group, id).await?.is_none() {
        return Ok(Rotated::NotFound);
    }
    let signing: i64 = sqlx::query_scalar(
        "with ended as (
             delete from endpoint_secret where endpoint_id = $1 and ($2 = 0 or expires_at <= now())
         )
         select count(*) from endpoint_secret
         where endpoint_id = $1 and $2 > 0 and (expires_at is null or expires_at > now())",
    )
    .bind(id)
    .bind(grace_seconds)
    .fetch_one(&mut *transaction)
    .await?;
    if signing >= MOST_SECRETS {
        return Ok(Rotated::TooMany);
    }
    sqlx::query(
        "with old as (
             update endpoint_secret set expires_at = least(expires_at, now() + $3 * interval '1 second')
             where endpoint_id = $1
         ), new as (
             insert into endpoint_secret (endpoint_id, secret) values ($1, $2)
         )
         update endpoint set version = raise_topology_version(), updated_at = now() where id = $1",
    )
    .bind(id)
    .bind(sealed)
    .bind(grace_seconds as f64)
    .execute(&mut *transaction)
    .await?;
    let detail = json!({ "grace_seconds": grace_seconds });
    audit::write(&mut *transaction, author, &subject(group, id), detail).await?;
    transaction.commit().await?;
    Ok(Rotated::Rotated)
}

/// Notes that somebody has read an endpoint's secrets.
///
/// # Errors
/// PostgreSQL is away.
pub async fn note(
    pool: &PgPool,
    author: &Author,
    group: &GroupName,
    id: EndpointId,
    detail: Value,
) -> sqlx::Result<()> {
    audit::write(pool, author, &subject(group, id), detail).await
}

/// An endpoint, for the audit log.
pub(super) fn subject(group: &GroupName, id: EndpointId) -> String {
    format!("{group}/{id}")
}

async fn version_of(
    connection: &mut PgConnection,
    group: &GroupName,
    id: EndpointId,
) -> sqlx::Result<Option<i64>> {
    sqlx::query_scalar(
        "select e.version from endpoint e join consumer_group g on g.id = e.group_id
         where e.id = $2 and g.name = $1 and g.deleted_at is null and e.status <> 'deleted'",
    )
    .bind(group.as_ref())
    .bind(id)
    .fetch_optional(connection)
    .await
}
