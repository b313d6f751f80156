//! Event types and sources that were seen together, with the last time: for people who choose what to listen
//! to. Best effort; the log is the record.

use chrono::{DateTime, Utc};
use sqlx::PgPool;

/// A type from a source.
#[derive(Debug, Clone, PartialEq, Eq, sqlx::FromRow)]
pub struct EventKind {
    pub event_type: String,
    pub source: String,
    pub last_at: DateTime<Utc>,
}

/// Notes that these were seen. `seen` names each pair once.
///
/// # Errors
/// PostgreSQL is away.
pub async fn touch(pool: &PgPool, seen: &[EventKind]) -> sqlx::Result<()> {
    // In the order of their keys, so that two processes can't block each other.
    let mut seen: Vec<&EventKind> = seen.iter().collect();
    seen.sort_unstable_by_key(|kind| (&kind.event_type, &kind.source));
    let event_types: Vec<&str> = seen.iter().map(|kind| kind.event_type.as_str()).collect();
    let sources: Vec<&str> = seen.iter().map(|kind| kind.source.as_str()).collect();
    let times: Vec<DateTime<Utc>> = seen.iter().map(|kind| kind.last_at).collect();
    sqlx::query(
        "insert into event_kind as k (event_type, source, last_at)
         select * from unnest($1::text[], $2::text[], $3::timestamptz[])
         on conflict (event_type, source) do update set last_at = greatest(k.last_at, excluded.last_at)",
    )
    .bind(event_types)
    .bind(sources)
    .bind(times)
    .execute(pool)
    .await
    .map(drop)
}

/// Pairs in pages, by type and source: those after the pair `after`; of these sources only, if any are given.
///
/// # Errors
/// PostgreSQL is away.
pub async fn list(
    pool: &PgPool,
    sources: &[String],
    after: Option<(String, String)>,
    limit: i64,
) -> sqlx::Result<Vec<EventKind>> {
    let (after_type, after_source) = after.unwrap_or_default();
    sqlx::query_as(
        "select event_type, source, last_at from event_kind
         where (event_type, source) > ($1, $2) and (cardinality($3::text[]) = 0 or source = any($3))
         order by event_type, source limit $4",
    )
    .bind(after_type)
    .bind(after_source)
    .bind(sources)
    .bind(limit)
    .fetch_all(pool)
    .await
}
