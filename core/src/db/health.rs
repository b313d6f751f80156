//! Endpoints that only fail, as far as dispatchers have noted, and what is done about those that have for days.
//! Written rarely: a dispatcher notes a change, and confirms what it sees at most once in each of its periods.

use std::time::Duration;

use sqlx::{PgExecutor, PgPool};

use super::{change, operational};
use crate::ids::EndpointId;

/// An endpoint is not taken for failing before it was noted so often: a failure long ago and one today, with
/// nothing sent in between, are no days of failure.
const LEAST_NOTED: i32 = 5;

/// Notes that endpoints have taken something: their failing is over.
///
/// # Errors
/// PostgreSQL is away.
pub async fn note_healthy(executor: impl PgExecutor<'_>, endpoints: &[EndpointId]) -> sqlx::Result<()> {
    sqlx::query(
        "delete from endpoint_health where endpoint_id in (
             select endpoint_id from endpoint_health where endpoint_id = any($1)
             order by endpoint_id for update)",
    )
    .bind(endpoints)
    .execute(executor)
    .await
    .map(drop)
}

/// Notes that active endpoints have only failed; answers those that have for `after` and longer.
///
/// # Errors
/// PostgreSQL is away.
pub async fn note_failing(
    executor: impl PgExecutor<'_>,
    endpoints: &[EndpointId],
    after: Duration,
) -> sqlx::Result<Vec<EndpointId>> {
    let noted: Vec<(EndpointId, bool)> = sqlx::query_as(
        "insert into endpoint_health as h (endpoint_id, failing_since, last_failure_at)
         select e.id, now(), now() from endpoint e
         where e.id = any($1) and e.status = 'active' order by e.id
         on conflict (endpoint_id) do update set last_failure_at = now(), noted = h.noted + 1
         returning endpoint_id,
             noted >= $3 and last_failure_at - failing_since >= $2 * interval '1 second'",
    )
    .bind(endpoints)
    .bind(after.as_secs_f64())
    .bind(LEAST_NOTED)
    .fetch_all(executor)
    .await?;
    Ok(noted.into_iter().filter_map(|(endpoint, for_long)| for_long.then_some(endpoint)).collect())
}

/// Disables an endpoint that has only failed for `after`, unless that was noted to be over meanwhile. Its
/// subscription stays; the relay parks it.
///
/// # Errors
/// PostgreSQL is away.
pub async fn disable_failing(pool: &PgPool, endpoint: EndpointId, after: Duration) -> sqlx::Result<bool> {
    let mut transaction = change::begin(pool).await?;
    let disabled = sqlx::query(
        "update endpoint e set status = 'disabled', disabled_reason = 'failing',
                version = raise_topology_version(), updated_at = now()
         from endpoint_health h
         where e.id = $1 and e.status = 'active' and h.endpoint_id = e.id
           and h.noted >= $3 and h.last_failure_at - h.failing_since >= $2 * interval '1 second'",
    )
    .bind(endpoint)
    .bind(after.as_secs_f64())
    .bind(LEAST_NOTED)
    .execute(&mut *transaction)
    .await?
    .rows_affected();
    if disabled > 0 {
        operational::endpoint_disabled(&mut transaction, endpoint).await?;
    }
    transaction.commit().await?;
    Ok(disabled > 0)
}
