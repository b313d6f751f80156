//! Endpoints as the dispatcher needs them: where to send, how to sign, and within which limits.

use std::time::Duration;

use sqlx::{PgExecutor, PgPool};

use super::{change, topology};
use crate::endpoint::{CustomHeaders, EndpointUrl};
use crate::group::GroupName;
use crate::ids::EndpointId;
use crate::retry::RetryOverride;
use crate::secret::Secret;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum State {
    Active,
    Disabled,
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
    pub secrets: Vec<Secret>,
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
}

/// Endpoints that have changed since topology version `since`, deleted ones included.
///
/// # Errors
/// PostgreSQL is away, or a row cannot be read by this version.
pub async fn changed_since(executor: impl PgExecutor<'_>, since: i64) -> sqlx::Result<Vec<Recipient>> {
    let rows: Vec<Row> = sqlx::query_as(
        "select e.id, e.group_id, g.name as group_name, e.url, e.headers, e.timeout_ms, e.max_in_flight, e.retry,
                g.retry as group_retry, e.status,
                array(select s.secret from endpoint_secret s where s.endpoint_id = e.id
                      and (s.expires_at is null or s.expires_at > now()) order by s.id desc) as secrets
         from endpoint e join consumer_group g on g.id = e.group_id where e.version > $1",
    )
    .bind(since)
    .fetch_all(executor)
    .await?;
    rows.into_iter().map(Row::into_recipient).collect()
}

impl Row {
    fn into_recipient(self) -> sqlx::Result<Recipient> {
        let unreadable = |what: &str| sqlx::Error::Decode(format!("{}: {what}", self.id).into());
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
                "active" => State::Active,
                "disabled" => State::Disabled,
                _ => State::Deleted,
            },
            secrets: self
                .secrets
                .iter()
                .map(|bytes| Secret::from_bytes(bytes.clone()).map_err(|_| unreadable("secret")))
                .collect::<Result<_, _>>()?,
        })
    }
}

/// Disables an endpoint that answered 410 Gone. Its subscription stays; the relay parks it.
///
/// # Errors
/// PostgreSQL is away.
pub async fn disable_gone(pool: &PgPool, endpoint: EndpointId) -> sqlx::Result<bool> {
    let mut transaction = change::begin(pool).await?;
    let version = topology::raise_version(&mut transaction).await?;
    let changed = sqlx::query(
        "update endpoint set status = 'disabled', disabled_reason = 'gone', version = $2, updated_at = now()
         where id = $1 and status = 'active'",
    )
    .bind(endpoint)
    .bind(version)
    .execute(&mut *transaction)
    .await?
    .rows_affected();
    transaction.commit().await?;
    Ok(changed > 0)
}
