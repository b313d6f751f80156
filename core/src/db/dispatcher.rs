//! Dispatchers that run, for those who look at the figures: each writes its row every two seconds, with the
//! endpoints whose breaker is open there. The rail itself does not rely on it.

use sqlx::PgExecutor;

use crate::ids::EndpointId;

/// # Errors
/// PostgreSQL is away.
pub async fn announce(
    executor: impl PgExecutor<'_>,
    name: &str,
    open_breakers: &[EndpointId],
) -> sqlx::Result<()> {
    // Rows of those that died are swept by those that live.
    sqlx::query(
        "with swept as (delete from dispatcher where seen_at < now() - interval '1 hour' and name <> $1)
         insert into dispatcher (name, seen_at, open_breakers) values ($1, now(), $2)
         on conflict (name) do update set seen_at = excluded.seen_at, open_breakers = excluded.open_breakers",
    )
    .bind(name)
    .bind(open_breakers)
    .execute(executor)
    .await
    .map(drop)
}

/// How many have been seen in the last six seconds.
///
/// # Errors
/// PostgreSQL is away.
pub async fn alive(executor: impl PgExecutor<'_>) -> sqlx::Result<i64> {
    sqlx::query_scalar("select count(*) from dispatcher where seen_at > now() - interval '6 seconds'")
        .fetch_one(executor)
        .await
}

/// Signs a dispatcher off that stops.
///
/// # Errors
/// PostgreSQL is away.
pub async fn forget(executor: impl PgExecutor<'_>, name: &str) -> sqlx::Result<()> {
    sqlx::query("delete from dispatcher where name = $1").bind(name).execute(executor).await.map(drop)
}
