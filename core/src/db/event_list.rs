//! Lists of events, without payloads, and who may see an event.

use chrono::{DateTime, Utc};
use sqlx::PgPool;
use uuid::Uuid;

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
    fn columns(&self) -> (Option<&[String]>, Option<&[String]>) {
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

/// Events in pages, newest first.
///
/// # Errors
/// PostgreSQL is away.
pub async fn list(
    pool: &PgPool,
    scope: &Scope,
    filter: &EventFilter,
    limit: i64,
) -> sqlx::Result<Vec<ListedEvent>> {
    let (sources, groups) = scope.columns();
    sqlx::query_as(
        "select v.id, v.position, v.event_type, v.source, v.created_at from event v
         where v.id < $1 and v.id >= id_floor($2) and v.id < id_floor($3)
           and ($4::text is null or filter_matches(array[$4], '{}', v.event_type, ''))
           and ($5::text is null or v.source = $5)
           and ($6::text[] is null or v.source = any($6))
           and ($7::text[] is null or exists (
                select from consumer_group g
                join endpoint e on e.group_id = g.id
                join subscription s on s.endpoint_id = e.id
                where g.name = any($7) and g.deleted_at is null and s.from_position < v.position
                  and (s.to_position is null or s.to_position >= v.position)
                  and filter_matches(s.event_types, s.sources, v.event_type, v.source)))
         order by v.id desc limit $8",
    )
    .bind(filter.before.map_or(Uuid::max(), |id| id.0))
    .bind(filter.from.unwrap_or(DateTime::UNIX_EPOCH))
    .bind(filter.to.unwrap_or_else(far_future))
    .bind(&filter.event_type)
    .bind(&filter.source)
    .bind(sources)
    .bind(groups)
    .bind(limit)
    .fetch_all(pool)
    .await
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
