//! Lists of events, without payloads, and who may see an event.

use chrono::{DateTime, Utc};
use sqlx::PgPool;
use uuid::Uuid;

use super::Stretch;
use crate::ids::EventId;

/// Which events a caller may see.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Scope {
    All,
    /// Those of these sources.
    Sources(Vec<String>),
    /// Those that are owed to an endpoint of these groups.
    TargetedAt(Vec<String>),
}

impl Scope {
    /// For SQL: sources and groups, each null where it does not bind.
    pub(super) fn columns(&self) -> (Option<&[String]>, Option<&[String]>) {
        match self {
            Self::All => (None, None),
            Self::Sources(sources) => (Some(sources), None),
            Self::TargetedAt(groups) => (None, Some(groups)),
        }
    }
}

/// An event without its payload.
#[derive(Debug, Clone, sqlx::FromRow)]
pub struct ListedEvent {
    pub id: EventId,
    pub position: i64,
    pub event_type: String,
    pub source: String,
    pub created_at: DateTime<Utc>,
}

/// What is looked for; `None` for all. `from` is inclusive, `to` exclusive.
#[derive(Debug, Default)]
pub struct EventFilter {
    /// An event type, or a pattern.
    pub event_type: Option<String>,
    pub source: Option<String>,
    pub from: Option<DateTime<Utc>>,
    pub to: Option<DateTime<Utc>>,
    /// A page goes on below this event.
    pub before: Option<EventId>,
}

/// Events that one page of a filtered list looks at.
const LOOKED_AT: i64 = 10_000;

/// Events in pages, newest first.
///
/// # Errors
/// PostgreSQL is away, or slow.
pub async fn list(
    pool: &PgPool,
    scope: &Scope,
    filter: &EventFilter,
    limit: i64,
) -> sqlx::Result<Stretch<ListedEvent, EventId>> {
    let (sources, groups) = scope.columns();
    let takes_all = *scope == Scope::All && filter.event_type.is_none() && filter.source.is_none();
    let before = filter.before.map_or(Uuid::max(), |id| id.0);
    let from = filter.from.unwrap_or(DateTime::UNIX_EPOCH);
    let to = filter.to.unwrap_or_else(far_future);
    let last: Option<EventId> = sqlx::query_scalar(
        "select id from event where id < $1 and id >= id_floor($2) and id < id_floor($3)
         order by id desc offset $4 limit 1",
    )
    .bind(before)
    .bind(from)
    .bind(to)
    .bind(if takes_all { limit } else { LOOKED_AT } - 1)
    .fetch_optional(pool)
    .await?;
    // Each filter is held against each type and source once, however many endpoints and events have them.
    let rows = sqlx::query_as(
        "with looked_at as materialized (
             select id, position, event_type, source, group_id, created_at from event
             where id < $1 and id >= id_floor($2) and id < id_floor($3) and id >= $4
         ), kind as materialized (
             select event_type, source from (select distinct event_type, source from looked_at) k
             where ($5::text is null or filter_matches(array[$5], '{}', event_type, ''))
               and ($6::text is null or source = $6)
               and ($7::text[] is null or source = any($7))
         ), subscribed as materialized (
             select e.group_id, s.from_position, s.to_position, s.event_types, s.sources
             from consumer_group g
             join endpoint e on e.group_id = g.id
             join subscription s on s.endpoint_id = e.id
             where g.name = any($8) and g.deleted_at is null
         ), matching as materialized (
             select k.event_type, k.source, f.event_types, f.sources
             from kind k, (select distinct event_types, sources from subscribed) f
             where filter_matches(f.event_types, f.sources, k.event_type, k.source)
         ), owed as materialized (
             select distinct m.event_type, m.source, s.group_id, s.from_position, s.to_position
             from matching m join subscribed s on s.event_types = m.event_types and s.sources = m.sources
         )
         select l.id, l.position, l.event_type, l.source, l.created_at
         from looked_at l join kind k on k.event_type = l.event_type and k.source = l.source
         where $8::text[] is null or exists (
             select from owed o where o.event_type = l.event_type and o.source = l.source
               and o.from_position < l.position and (o.to_position is null or o.to_position >= l.position)
               and (l.group_id is null or l.group_id = o.group_id))
         order by l.id desc limit $9",
    )
    .bind(before)
    .bind(from)
    .bind(to)
    .bind(last.map_or(Uuid::nil(), |id| id.0))
    .bind(&filter.event_type)
    .bind(&filter.source)
    .bind(sources)
    .bind(groups)
    .bind(limit)
    .fetch_all(pool)
    .await?;
    Ok(Stretch { rows, left_at: last })
}

/// Whether the caller may see this event; false if there is none.
///
/// # Errors
/// PostgreSQL is away.
pub async fn is_visible(pool: &PgPool, scope: &Scope, id: EventId) -> sqlx::Result<bool> {
    let (sources, groups) = scope.columns();
    sqlx::query_scalar(
        "select exists (select from event v
             where v.id = $1 and ($2::text[] is null or v.source = any($2))
               and ($3::text[] is null or exists (
                    select from consumer_group g
                    join endpoint e on e.group_id = g.id
                    join subscription s on s.endpoint_id = e.id
                    where g.name = any($3) and g.deleted_at is null and s.from_position < v.position
                      and (s.to_position is null or s.to_position >= v.position)
                      and (v.group_id is null or v.group_id = g.id)
                      and filter_matches(s.event_types, s.sources, v.event_type, v.source))))",
    )
    .bind(id)
    .bind(sources)
    .bind(groups)
    .fetch_one(pool)
    .await
}

/// The end of the range that `id_floor` can write.
pub(super) fn far_future() -> DateTime<Utc> {
    DateTime::from_timestamp(253_402_300_799, 0).unwrap_or(DateTime::<Utc>::MAX_UTC)
}
