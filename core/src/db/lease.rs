//! The relay's lease, by PostgreSQL's clock. The election is an optimisation: two relays at once are harmless.

use std::time::Duration;

use chrono::{DateTime, Utc};
use sqlx::PgExecutor;

/// Tells one run of a PostgreSQL server from another: after a failover or a restored backup the log may
/// differ from what was read before.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, sqlx::Type)]
#[sqlx(transparent)]
pub struct Incarnation(pub(super) DateTime<Utc>);

/// Takes or renews the lease; answers `None` if another holds it.
///
/// # Errors
/// PostgreSQL is away.
pub async fn take(
    executor: impl PgExecutor<'_>,
    holder: &str,
    ttl: Duration,
) -> sqlx::Result<Option<Incarnation>> {
    let started: Option<DateTime<Utc>> = sqlx::query_scalar(
        "insert into relay_lease as l (holder, expires_at)
         values ($1, clock_timestamp() + $2 * interval '1 millisecond')
         on conflict (only_row) do update set holder = excluded.holder, expires_at = excluded.expires_at
         where l.holder = excluded.holder or l.expires_at < clock_timestamp()
         returning pg_postmaster_start_time()",
    )
    .bind(holder)
    .bind(ttl.as_millis() as f64)
    .fetch_optional(executor)
    .await?;
    Ok(started.map(Incarnation))
}

/// Gives the lease up, so that another need not wait for its end.
///
/// # Errors
/// PostgreSQL is away; the lease runs out by itself.
pub async fn give_up(executor: impl PgExecutor<'_>, holder: &str) -> sqlx::Result<()> {
    sqlx::query("delete from relay_lease where holder = $1").bind(holder).execute(executor).await.map(drop)
}
