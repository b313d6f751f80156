//! Endpoints as the dispatcher needs them: where to send, how to sign, and within which limits.

use std::time::Duration;

use chrono::{DateTime, Utc};
use sqlx::{PgExecutor, PgPool};

use super::{change, endpoint, operational, topology};
use crate::endpoint::{CustomHeaders, EndpointUrl};
use crate::group::GroupName;
use crate::ids::EndpointId;
use crate::retry::RetryOverride;
use crate::secret::Secret;
use crate::vault::{Vault, VaultError};

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum State {
    Active,
    Disabled,
    /// Its secrets can't be opened with the keys that we have: nothing can be signed for it.
    Sealed,
    Deleted,
}

/// An endpoint to send to.
#[derive(Debug, Clone)]
pub struct Recipient {
    pub id: EndpointId,
    pub group_id: i64,
    pub group: GroupName,
    pub url: EndpointUrl,
    pub headers: CustomHeaders,
    pub timeout: Option<Duration>,
    pub max_in_flight: Option<u32>,
    pub retry: Option<RetryOverride>,
    pub group_retry: Option<RetryOverride>,
    pub state: State,
    /// Newest first, each with until when it signs.
    pub secrets: Vec<(Secret, Option<DateTime<Utc>>)>,
    /// Value of the `authorization` header that the receiver wants.
    pub authorization: Option<String>,
    pub rate_per_second: Option<u32>,
    /// The whole group is paused.
    pub paused: bool,
}

#[derive(sqlx::FromRow)]
struct Row {
    id: EndpointId,
    group_id: i64,
    group_name: String,
    url: String,
    headers: sqlx::types::Json<CustomHeaders>,
    timeout_ms: Option<i32>,
    max_in_flight: Option<i32>,
    retry: Option<sqlx::types::Json<RetryOverride>>,
    group_retry: Option<sqlx::types::Json<RetryOverride>>,
    status: String,
    secrets: Vec<Vec<u8>>,
    expiries: Vec<Option<DateTime<Utc>>>,
    auth: Option<Vec<u8>>,
    rate_per_second: Option<i32>,
    paused: bool,
}

/// Endpoints that have changed since topology version `since`, deleted ones included.
///
/// # Errors
/// PostgreSQL is away, or a row cannot be read by this version.
pub async fn changed_since(
    executor: impl PgExecutor<'_>,
    vault: &Vault,
    since: i64,
) -> sqlx::Result<Vec<Recipient>> {
    select(executor, vault, since, None).await
}

/// One endpoint, deleted or not.
///
/// # Errors
/// As [`changed_since`].
pub async fn get(
    executor: impl PgExecutor<'_>,
    vault: &Vault,
    id: EndpointId,
) -> sqlx::Result<Option<Recipient>> {
    Ok(select(executor, vault, -1, Some(id)).await?.pop())
}

async fn select(
    executor: impl PgExecutor<'_>,
    vault: &Vault,
    since: i64,
    only: Option<EndpointId>,
) -> sqlx::Result<Vec<Recipient>> {
    let rows: Vec<Row> = sqlx::query_as(
        "select e.id, e.group_id, g.name as group_name, e.url, e.headers, e.timeout_ms, e.max_in_flight, e.retry,
                g.retry as group_retry, e.status,
                e.auth, e.rate_per_second, g.paused_at is not null as paused,
                array(select s.secret from endpoint_secret s where s.endpoint_id = e.id order by s.id desc) as secrets,
                array(select s.expires_at from endpoint_secret s where s.endpoint_id = e.id order by s.id desc)
                    as expiries
         from endpoint e join consumer_group g on g.id = e.group_id
         where e.version > $1 and ($2::uuid is null or e.id = $2)",
    )
    .bind(since)
    .bind(only)
    .fetch_all(executor)
    .await?;
    let readable = |row: Row| {
        let id = row.id;
        row.into_recipient(vault)
            .inspect_err(|error| tracing::error!(endpoint.id = %id, %error, "endpoint can't be read"))
            .ok()
    };
    Ok(rows.into_iter().filter_map(readable).collect())
}

impl Row {
    fn into_recipient(self, vault: &Vault) -> sqlx::Result<Recipient> {
        let unreadable = |what: &str| sqlx::Error::Decode(format!("{}: {what}", self.id).into());
        let opened = self.open(vault);
        if let Err(error) = &opened {
            tracing::error!(endpoint.id = %self.id, %error, "secrets can't be opened: check SECRETS_KEY");
        }
        let is_open = opened.is_ok();
        let (secrets, authorization) = opened.unwrap_or_default();
        Ok(Recipient {
            id: self.id,
            group_id: self.group_id,
            group: self.group_name.parse().map_err(|_| unreadable("group"))?,
            url: self.url.parse().map_err(|_| unreadable("url"))?,
            headers: self.headers.0.clone(),
            timeout: self.timeout_ms.and_then(|ms| u64::try_from(ms).ok()).map(Duration::from_millis),
            max_in_flight: self.max_in_flight.and_then(|most| u32::try_from(most).ok()),
            retry: self.retry.as_ref().map(|json| json.0.clone()),
            group_retry: self.group_retry.as_ref().map(|json| json.0.clone()),
            state: match self.status.as_str() {
                "active" if is_open => State::Active,
                "active" => State::Sealed,
                "disabled" => State::Disabled,
                _ => State::Deleted,
            },
            secrets,
            authorization,
            rate_per_second: self.rate_per_second.and_then(|rate| u32::try_from(rate).ok()),
            paused: self.paused,
        })
    }
}

type Opened = (Vec<(Secret, Option<DateTime<Utc>>)>, Option<String>);

impl Row {
    /// The secrets and the `authorization` header.
    fn open(&self, vault: &Vault) -> sqlx::Result<Opened> {
        let secrets = self
            .secrets
            .iter()
            .zip(&self.expiries)
            .map(|(envelope, expires_at)| Ok((endpoint::open_secret(vault, self.id, envelope)?, *expires_at)))
            .collect::<sqlx::Result<_>>()?;
        let authorization =
            self.auth.as_ref().map(|envelope| open_auth(vault, self.id, envelope)).transpose();
        Ok((secrets, authorization.map_err(|error| sqlx::Error::Decode(error.into()))?))
    }
}

/// The `authorization` header that an endpoint's sealed credentials stand for: what is sealed is its value.
fn open_auth(vault: &Vault, id: EndpointId, envelope: &[u8]) -> Result<String, VaultError> {
    let value = vault.open(envelope, id.0.as_bytes())?;
    String::from_utf8(value).map_err(|_| VaultError::Damaged)
}

/// Disables those of these endpoints, which answered 410 Gone, that are active, and answers them. Their
/// subscriptions stay; the relay parks them.
///
/// # Errors
/// PostgreSQL is away.
pub async fn disable_gone(pool: &PgPool, endpoints: &[EndpointId]) -> sqlx::Result<Vec<EndpointId>> {
    let mut transaction = change::begin(pool).await?;
    let active: Vec<EndpointId> = sqlx::query_scalar(
        "select id from endpoint where id = any($1) and status = 'active' order by id for update",
    )
    .bind(endpoints)
    .fetch_all(&mut *transaction)
    .await?;
    if active.is_empty() {
        return Ok(active);
    }
    let version = topology::raise_version(&mut transaction).await?;
    sqlx::query(
        "update endpoint set status = 'disabled', disabled_reason = 'gone', version = $2, updated_at = now()
         where id = any($1)",
    )
    .bind(&active)
    .bind(version)
    .execute(&mut *transaction)
    .await?;
    operational::endpoints_disabled(&mut transaction, &active).await?;
    transaction.commit().await?;
    Ok(active)
}
