//! "Where is my webhook?": for one event, each endpoint that it is owed to, tried or not. Worked out from the
//! subscriptions, because there are no rows for what has not been tried.

use chrono::{DateTime, Utc};
use sqlx::PgPool;

use crate::event::Source;
use crate::ids::{EndpointId, EventId};
use crate::matching::{Filter, Pattern};

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
    event_type: String,
    source: String,
    event_types: Option<Vec<String>>,
    sources: Option<Vec<String>>,
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

    /// A subscription covers the event's position; this is whether it also wants the event.
    fn is_owed(&self) -> bool {
        let (Some(event_types), Some(sources)) = (&self.event_types, &self.sources) else { return false };
        let event_types = event_types.iter().map(|text| text.parse::<Pattern>()).collect::<Result<_, _>>();
        let sources = sources.iter().map(|text| text.parse::<Source>()).collect::<Result<_, _>>();
        let (Ok(event_types), Ok(sources)) = (event_types, sources) else { return false };
        Filter { event_types, sources }.matches(&self.event_type, &self.source)
    }
}

/// The targets of an event, by endpoint id; of one endpoint only, if that is given.
///
/// # Errors
/// PostgreSQL is away.
pub async fn targets(pool: &PgPool, id: EventId, only: Option<EndpointId>) -> sqlx::Result<Vec<Target>> {
    let mut targets: Vec<Target> = sqlx::query_as(
        "select e.id as endpoint_id, g.name as \"group\", g.deleted_at is not null as group_is_deleted, g.paused_at is not null as paused,
                exists (select from parked p where p.endpoint_id = e.id
                        and p.from_position < v.position and p.to_position is null) as parked,
                exists (select from parked p where p.endpoint_id = e.id and p.skipped
                        and p.from_position < v.position and p.to_position >= v.position) as skipped,
                d.status, d.attempt_total, d.next_attempt_at, d.last_status_code, d.last_error, d.updated_at,
                v.event_type, v.source, s.event_types, s.sources
         from event v
         cross join endpoint e
         join consumer_group g on g.id = e.group_id
         left join subscription s on s.endpoint_id = e.id and s.from_position < v.position
              and (s.to_position is null or s.to_position >= v.position)
         left join delivery d on d.event_id = $1 and d.endpoint_id = e.id
         where v.id = $1 and ($2::uuid is null or e.id = $2)
           and (v.group_id is null or v.group_id = e.group_id)
           and (d.event_id is not null or s.id is not null and e.status <> 'deleted')
         order by e.id",
    )
    .bind(id)
    .bind(only)
    .fetch_all(pool)
    .await?;
    targets.retain(|target| target.status.is_some() || target.is_owed());
    Ok(targets)
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
