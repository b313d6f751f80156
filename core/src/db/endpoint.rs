//! Endpoints, their secrets, and the intervals of the log in which they are subscribed. Each change holds
//! the log lock, takes a position of the log, and raises the topology's version, in one transaction: an
//! event is before the change or after it, for every reader.

use chrono::{DateTime, Utc};
use serde_json::json;
use sqlx::types::Json;
use sqlx::{PgConnection, PgPool};
use uuid::Uuid;

use super::audit::{self, Author};
use super::endpoint_change::subject;
use crate::credentials::Credentials;
use crate::endpoint::{CustomHeaders, EndpointUrl};
use crate::group::GroupName;
use crate::ids::EndpointId;
use crate::matching::Filter;
use crate::retry::RetryOverride;
use crate::secret::Secret;
use crate::start::Start;
use crate::vault::Vault;

/// An endpoint that is to be made.
#[derive(Debug)]
pub struct NewEndpoint {
    pub url: EndpointUrl,
    pub description: String,
    pub filter: Filter,
    pub headers: CustomHeaders,
    pub timeout_ms: Option<i32>,
    pub max_in_flight: Option<i32>,
    pub rate_per_second: Option<i32>,
    pub retry: Option<RetryOverride>,
    pub auth: Option<Credentials>,
    pub secret: Secret,
    pub start: Start,
}

/// An endpoint with the filter of its open subscription.
#[derive(Debug, Clone, sqlx::FromRow)]
pub struct Endpoint {
    pub id: EndpointId,
    pub url: String,
    pub description: String,
    pub event_types: Vec<String>,
    pub sources: Vec<String>,
    pub headers: Json<CustomHeaders>,
    pub timeout_ms: Option<i32>,
    pub max_in_flight: Option<i32>,
    pub rate_per_second: Option<i32>,
    pub retry: Option<Json<RetryOverride>>,
    /// Sealed credentials.
    pub auth: Option<Vec<u8>>,
    pub status: String,
    pub disabled_reason: Option<String>,
    /// Since when it is left out of its group's live feed.
    pub parked_at: Option<DateTime<Utc>>,
    /// Some dispatcher leaves it alone for now, because it keeps failing.
    pub breaker_is_open: bool,
    /// Raised by every change.
    pub version: i64,
    pub created_at: DateTime<Utc>,
    pub updated_at: DateTime<Utc>,
}

#[derive(Debug)]
pub enum Created {
    Created(Box<Endpoint>),
    NoSuchGroup,
    /// The group has an endpoint with this URL.
    UrlTaken {
        by: EndpointId,
    },
    /// The group has [`MOST_ENDPOINTS`].
    TooMany,
}

/// A group has no more endpoints than this.
pub const MOST_ENDPOINTS: i64 = 1000;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Deleted {
    Deleted,
    NotFound,
}

/// Creates an endpoint that is owed the events from its start on.
///
/// # Errors
/// PostgreSQL is away.
pub async fn create(
    pool: &PgPool,
    vault: &Vault,
    author: &Author,
    group: &GroupName,
    new: &NewEndpoint,
) -> sqlx::Result<Created> {
    let id = EndpointId::generate();
    let mut change = super::change::begin(pool).await?;
    let seal = |bytes: &[u8]| vault.seal(bytes, id.0.as_bytes());
    let secret = seal(new.secret.expose());
    let auth = new.auth.as_ref().map(|auth| seal(auth.expose().as_bytes()));
    match insert(&mut change, group, id, new, &secret, auth).await {
        Ok(0) => return Ok(Created::NoSuchGroup),
        Ok(_) if count(&mut change, group).await? > MOST_ENDPOINTS => return Ok(Created::TooMany),
        Ok(_) => {
            begin_at(&mut change, id, new.start).await?;
            let detail = json!({ "host": new.url.url().host_str(), "event_types": new.filter.event_types });
            audit::write(&mut *change, author, &subject(group, id), detail).await?;
            change.commit().await?;
        }
        Err(error) if super::change::violates(&error, "endpoint_url_key") => {
            change.rollback().await?;
            return url_taken(pool, group, &new.url).await?.ok_or(error);
        }
        Err(error) => return Err(error),
    }
    let made = get(pool, group, id).await?.ok_or(sqlx::Error::RowNotFound)?;
    Ok(Created::Created(Box::new(made)))
}

/// Gives a new endpoint history: as if it had been subscribed since `start` and parked until here, it gets a
/// catch-up feed over what it missed.
async fn begin_at(change: &mut PgConnection, id: EndpointId, start: Start) -> sqlx::Result<()> {
    let from: i64 = match start {
        Start::Latest => return Ok(()),
        Start::Earliest => 0,
        Start::Position(position) => position.saturating_sub(1),
        Start::At(at) => {
            sqlx::query_scalar(
                "select coalesce((select position - 1 from event where id >= id_floor($1::timestamptz)
                                  order by id limit 1), 9223372036854775807)",
            )
            .bind(at.max(DateTime::UNIX_EPOCH))
            .fetch_one(&mut *change)
            .await?
        }
    };
    sqlx::query(
        "with begun as (
             update subscription s set from_position = $2
             from (select id, from_position as here from subscription where endpoint_id = $1) old
             where s.id = old.id and $2 < old.here
             returning old.here
         ), feed_of as (
             select f.id, f.group_id, f.ask, b.here from begun b, endpoint e
             join feed f on f.group_id = e.group_id and f.kind = 'live' and f.status = 'active' where e.id = $1
         ), parked_till_here as (
             insert into parked (feed_id, endpoint_id, from_position, to_position, reason, closed_at)
             select id, $1, $2, here, 'start', now() from feed_of
         )
         insert into feed (group_id, kind, ask, endpoint_id, from_position, to_position, settled_position)
         select group_id, 'catch_up', ask, $1, $2, here, $2 from feed_of",
    )
    .bind(id)
    .bind(from)
    .execute(change)
    .await
    .map(drop)
}

async fn count(change: &mut PgConnection, group: &GroupName) -> sqlx::Result<i64> {
    sqlx::query_scalar(
        "select count(*) from endpoint e join consumer_group g on g.id = e.group_id
         where g.name = $1 and g.deleted_at is null and e.status <> 'deleted'",
    )
    .bind(group.as_ref())
    .fetch_one(change)
    .await
}

async fn insert(
    change: &mut PgConnection,
    group: &GroupName,
    id: EndpointId,
    new: &NewEndpoint,
    secret: &[u8],
    auth: Option<Vec<u8>>,
) -> sqlx::Result<u64> {
    let event_types: Vec<String> = new.filter.event_types.iter().map(ToString::to_string).collect();
    let sources: Vec<&str> = new.filter.sources.iter().map(AsRef::as_ref).collect();
    let made = sqlx::query(
        "with in_group as (select id from consumer_group where name = $1 and deleted_at is null),
         now_at as materialized (
             select g.id as group_id, draw_positions(1) as here, raise_topology_version() as version
             from in_group g
         ), made as (
             insert into endpoint
                 (id, group_id, url, description, headers, timeout_ms, max_in_flight, retry, version,
                  rate_per_second, auth)
             select $2, group_id, $3, $4, $5, $6, $7, $8, version, $12, $13 from now_at returning id
         ), with_secret as (
             insert into endpoint_secret (endpoint_id, secret) select id, $9 from made
         )
         insert into subscription (endpoint_id, from_position, event_types, sources)
         select made.id, here, $10, $11 from made, now_at",
    )
    .bind(group.as_ref())
    .bind(id)
    .bind(new.url.as_str())
    .bind(&new.description)
    .bind(Json(&new.headers))
    .bind(new.timeout_ms)
    .bind(new.max_in_flight)
    .bind(new.retry.as_ref().map(Json))
    .bind(secret)
    .bind(event_types)
    .bind(sources)
    .bind(new.rate_per_second)
    .bind(auth)
    .execute(change)
    .await?;
    Ok(made.rows_affected())
}

async fn url_taken(pool: &PgPool, group: &GroupName, url: &EndpointUrl) -> sqlx::Result<Option<Created>> {
    Ok(with_url(pool, group, url).await?.map(|by| Created::UrlTaken { by }))
}

/// The group's endpoint with this URL.
///
/// # Errors
/// PostgreSQL is away.
pub async fn with_url(
    pool: &PgPool,
    group: &GroupName,
    url: &EndpointUrl,
) -> sqlx::Result<Option<EndpointId>> {
    sqlx::query_scalar(
        "select e.id from endpoint e join consumer_group g on g.id = e.group_id
         where g.name = $1 and g.deleted_at is null and e.url = $2 and e.status <> 'deleted'",
    )
    .bind(group.as_ref())
    .bind(url.as_str())
    .fetch_optional(pool)
    .await
}

/// # Errors
/// PostgreSQL is away.
pub async fn get(pool: &PgPool, group: &GroupName, id: EndpointId) -> sqlx::Result<Option<Endpoint>> {
    sqlx::query_as(
        "select e.id, e.url, e.description, s.event_types, s.sources, e.headers, e.timeout_ms,
                e.max_in_flight, e.rate_per_second, e.retry, e.auth, e.status, e.disabled_reason, e.version,
                (select p.created_at from parked p where p.endpoint_id = e.id and p.to_position is null)
                    as parked_at,
                exists (select from dispatcher d where d.seen_at > now() - interval '6 seconds'
                        and e.id = any(d.open_breakers)) as breaker_is_open, e.created_at, e.updated_at
         from endpoint e
         join consumer_group g on g.id = e.group_id
         join subscription s on s.endpoint_id = e.id and s.to_position is null
         where e.id = $2 and g.name = $1 and g.deleted_at is null and e.status <> 'deleted'",
    )
    .bind(group.as_ref())
    .bind(id)
    .fetch_optional(pool)
    .await
}

/// The group of an endpoint that is not deleted.
///
/// # Errors
/// PostgreSQL is away.
pub async fn group_of(pool: &PgPool, id: EndpointId) -> sqlx::Result<Option<String>> {
    sqlx::query_scalar(
        "select g.name from endpoint e join consumer_group g on g.id = e.group_id
         where e.id = $1 and e.status <> 'deleted' and g.deleted_at is null",
    )
    .bind(id)
    .fetch_optional(pool)
    .await
}

/// A group's endpoints in pages, newest first: those made before the endpoint `before`.
///
/// # Errors
/// PostgreSQL is away.
pub async fn list(
    pool: &PgPool,
    group_id: i64,
    before: Option<EndpointId>,
    limit: i64,
) -> sqlx::Result<Vec<Endpoint>> {
    sqlx::query_as(
        "select e.id, e.url, e.description, s.event_types, s.sources, e.headers, e.timeout_ms,
                e.max_in_flight, e.rate_per_second, e.retry, e.auth, e.status, e.disabled_reason, e.version,
                (select p.created_at from parked p where p.endpoint_id = e.id and p.to_position is null)
                    as parked_at,
                exists (select from dispatcher d where d.seen_at > now() - interval '6 seconds'
                        and e.id = any(d.open_breakers)) as breaker_is_open, e.created_at, e.updated_at
         from endpoint e join subscription s on s.endpoint_id = e.id and s.to_position is null
         where e.group_id = $1 and e.status <> 'deleted' and e.id < $2
         order by e.id desc limit $3",
    )
    .bind(group_id)
    .bind(before.map_or(Uuid::max(), |id| id.0))
    .bind(limit)
    .fetch_all(pool)
    .await
}

/// Deletes an endpoint: it is owed nothing from here on, and its secrets are gone. What was recorded of
/// it stays as long as the events do.
///
/// # Errors
/// PostgreSQL is away.
pub async fn delete(
    pool: &PgPool,
    author: &Author,
    group: &GroupName,
    id: EndpointId,
) -> sqlx::Result<Deleted> {
    let mut change = super::change::begin(pool).await?;
    let deleted = sqlx::query(
        "with found as (
             select e.id from endpoint e join consumer_group g on g.id = e.group_id
             where e.id = $2 and g.name = $1 and g.deleted_at is null and e.status <> 'deleted'
         ), now_at as materialized (
             select f.id, draw_positions(1) as here, raise_topology_version() as version from found f
         ), unsubscribed as (
             update subscription s set to_position = n.here
             from now_at n where s.endpoint_id = n.id and s.to_position is null
         ), unparked as (
             update parked p set to_position = n.here, closed_at = now()
             from now_at n where p.endpoint_id = n.id and p.to_position is null
         ), forgotten as (
             delete from endpoint_secret s using now_at n where s.endpoint_id = n.id
         )
         update endpoint e set status = 'deleted', disabled_reason = null, version = n.version,
                updated_at = now()
         from now_at n where e.id = n.id",
    )
    .bind(group.as_ref())
    .bind(id)
    .execute(&mut *change)
    .await?;
    if deleted.rows_affected() == 0 {
        return Ok(Deleted::NotFound);
    }
    audit::write(&mut *change, author, &subject(group, id), json!({})).await?;
    change.commit().await?;
    Ok(Deleted::Deleted)
}

/// A secret and until when it signs; without an end it is the current one.
#[derive(Debug)]
pub struct SecretOf {
    pub secret: Secret,
    pub expires_at: Option<DateTime<Utc>>,
}

/// The secrets that sign for an endpoint now, newest first; none if there is no such endpoint.
///
/// # Errors
/// PostgreSQL is away, or a stored secret does not open.
pub async fn secrets(
    pool: &PgPool,
    vault: &Vault,
    group: &GroupName,
    id: EndpointId,
) -> sqlx::Result<Vec<SecretOf>> {
    let rows: Vec<(Vec<u8>, Option<DateTime<Utc>>)> = sqlx::query_as(
        "select s.secret, s.expires_at
         from endpoint_secret s
         join endpoint e on e.id = s.endpoint_id
         join consumer_group g on g.id = e.group_id
         where e.id = $2 and g.name = $1 and g.deleted_at is null and e.status <> 'deleted'
           and (s.expires_at is null or s.expires_at > now())
         order by s.id desc",
    )
    .bind(group.as_ref())
    .bind(id)
    .fetch_all(pool)
    .await?;
    rows.into_iter()
        .map(|(bytes, expires_at)| {
            let secret = open_secret(vault, id, &bytes)?;
            Ok(SecretOf { secret, expires_at })
        })
        .collect()
}

/// A secret from its envelope, which is bound to the endpoint's id.
pub(super) fn open_secret(vault: &Vault, id: EndpointId, envelope: &[u8]) -> sqlx::Result<Secret> {
    let unreadable =
        |error: &dyn std::fmt::Display| sqlx::Error::Decode(format!("secret of {id}: {error}").into());
    let bytes = vault.open(envelope, id.0.as_bytes()).map_err(|error| unreadable(&error))?;
    Secret::from_bytes(bytes).map_err(|error| unreadable(&error))
}
