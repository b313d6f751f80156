//! Event types and sources that were seen together, with the last time: for people who choose what to listen
//! to. Best effort; the log is the record.

use chrono::{DateTime, Utc};
use sqlx::PgPool;

use super::Stretch;
use super::event_list::Scope;

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

/// Pairs that one page of a filtered list looks at.
const LOOKED_AT: i64 = 1_000;

/// Pairs in pages, by type and source: those after the pair `after`. Who is bound to groups sees what their
/// endpoints are subscribed to now.
///
/// # Errors
/// PostgreSQL is away, or slow.
pub async fn list(
    pool: &PgPool,
    scope: &Scope,
    after: Option<(String, String)>,
    limit: i64,
) -> sqlx::Result<Stretch<EventKind, EventKind>> {
    let (sources, groups) = scope.columns();
    let (after_type, after_source) = after.unwrap_or_default();
    let last: Option<EventKind> = sqlx::query_as(
        "select event_type, source, last_at from event_kind where (event_type, source) > ($1, $2)
         order by event_type, source offset $3 limit 1",
    )
    .bind(&after_type)
    .bind(&after_source)
    .bind(if *scope == Scope::All { limit } else { LOOKED_AT } - 1)
    .fetch_optional(pool)
    .await?;
    let rows = sqlx::query_as(
        "with filter as materialized (
             select distinct s.event_types, s.sources from consumer_group g
             join endpoint e on e.group_id = g.id and e.status <> 'deleted'
             join subscription s on s.endpoint_id = e.id and s.to_position is null
             where g.name = any($6) and g.deleted_at is null
         )
         select event_type, source, last_at from event_kind k
         where (event_type, source) > ($1, $2) and ($3::text is null or (event_type, source) <= ($3, $4))
           and ($5::text[] is null or source = any($5))
           and ($6::text[] is null or exists (
                select from filter f where filter_matches(f.event_types, f.sources, k.event_type, k.source)))
         order by event_type, source limit $7",
    )
    .bind(after_type)
    .bind(after_source)
    .bind(last.as_ref().map(|kind| &kind.event_type))
    .bind(last.as_ref().map(|kind| &kind.source))
    .bind(sources)
    .bind(groups)
    .bind(limit)
    .fetch_all(pool)
    .await?;
    Ok(Stretch { rows, left_at: last })
}
