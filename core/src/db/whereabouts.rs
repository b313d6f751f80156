//! "Where is my webhook?": for one event, each endpoint that it is owed to, tried or not. Worked out from the
//! subscriptions, because there are no rows for what has not been tried.

use chrono::{DateTime, Utc};
use sqlx::PgPool;

use crate::ids::{EndpointId, EventId};

/// An event owed to an endpoint, with what has come of it.
#[derive(Debug, Clone, sqlx::FromRow)]
pub struct Target {
    pub endpoint_id: EndpointId,
    pub group: String,
    /// The group was deleted: another may have its name now.
    pub group_is_deleted: bool,
    /// The group is paused.
    pub paused: bool,
    /// The live feed leaves this endpoint out at this event; a catch-up will bring it.
    pub parked: bool,
    /// It lies in an interval that somebody chose to do without.
    skipped: bool,
    /// From here on only where it was tried, or deferred.
    pub status: Option<String>,
    pub attempt_total: Option<i32>,
    pub next_attempt_at: Option<DateTime<Utc>>,
    pub last_status_code: Option<i32>,
    last_error: Option<String>,
    pub updated_at: Option<DateTime<Utc>>,
}

impl Target {
    /// The status that it has, or would have had the relay come to it: `pending`, or `dead` where it is skipped.
    pub fn status(&self) -> &str {
        self.status.as_deref().unwrap_or(if self.skipped { "dead" } else { "pending" })
    }

    pub fn last_error(&self) -> Option<&str> {
        match (&self.status, &self.last_error) {
            (None, _) if self.skipped => Some("skipped"),
            (_, error) => error.as_deref(),
        }
    }

    /// What it waits for; nothing if it is settled.
    pub fn reason(&self) -> Option<&'static str> {
        match self.status() {
            "delivered" | "dead" => None,
            _ if self.paused => Some("group_paused"),
            "retrying" => Some("retrying"),
            _ if self.status.is_some() => Some("deferred"),
            _ if self.parked => Some("parked"),
            _ => Some("queued"),
        }
    }
}

/// The targets of an event, by endpoint id; of one endpoint only, if that is given.
///
/// # Errors
/// PostgreSQL is away.
pub async fn targets(pool: &PgPool, id: EventId, only: Option<EndpointId>) -> sqlx::Result<Vec<Target>> {
    sqlx::query_as(
        "with v as materialized (
             select position, event_type, source, group_id from event where id = $1
         ), concerned as (
             select e.id from v
             join subscription s on s.from_position < v.position
                  and (s.to_position is null or s.to_position >= v.position)
             join endpoint e on e.id = s.endpoint_id and e.status <> 'deleted'
             where ($2::uuid is null or s.endpoint_id = $2) and (v.group_id is null or v.group_id = e.group_id)
               and filter_matches(s.event_types, s.sources, v.event_type, v.source)
             union
             select endpoint_id from delivery where event_id = $1 and ($2::uuid is null or endpoint_id = $2)
         )
         select e.id as endpoint_id, g.name as \"group\", g.deleted_at is not null as group_is_deleted,
                g.paused_at is not null as paused,
                exists (select from parked p where p.endpoint_id = e.id
                        and p.from_position < v.position and p.to_position is null) as parked,
                exists (select from parked p where p.endpoint_id = e.id and p.skipped
                        and p.from_position < v.position and p.to_position >= v.position) as skipped,
                d.status, d.attempt_total, d.next_attempt_at, d.last_status_code, d.last_error, d.updated_at
         from v cross join concerned c
         join endpoint e on e.id = c.id
         join consumer_group g on g.id = e.group_id
         left join delivery d on d.event_id = $1 and d.endpoint_id = e.id
         order by e.id",
    )
    .bind(id)
    .bind(only)
    .fetch_all(pool)
    .await
}

/// One HTTP request that was made for a delivery.
#[derive(Debug, Clone, sqlx::FromRow)]
pub struct Attempt {
    pub number: i32,
    pub started_at: DateTime<Utc>,
    pub duration_ms: i32,
    pub status_code: Option<i32>,
    pub error: Option<String>,
    pub error_detail: Option<String>,
    pub response_body: Option<Vec<u8>>,
    pub trigger: String,
}

/// The attempts of one delivery, first to last; at most the last 500.
///
/// # Errors
/// PostgreSQL is away.
pub async fn attempts(pool: &PgPool, event: EventId, endpoint: EndpointId) -> sqlx::Result<Vec<Attempt>> {
    let mut attempts: Vec<Attempt> = sqlx::query_as(
        "select number, started_at, duration_ms, status_code, error, error_detail, response_body, trigger
         from attempt where event_id = $1 and endpoint_id = $2 order by number desc limit 500",
    )
    .bind(event)
    .bind(endpoint)
    .fetch_all(pool)
    .await?;
    attempts.reverse();
    Ok(attempts)
}
