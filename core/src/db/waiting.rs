//! Deliveries that wait for their next attempt: which fall due when, and what ends those that wait for nothing.

use chrono::{DateTime, Utc};
use sqlx::PgExecutor;
use uuid::Uuid;

use crate::group::GroupName;
use crate::ids::{EndpointId, EventId};

/// A delivery that waits, for the loader.
#[derive(Debug, Clone)]
pub struct Waiting {
    pub event_id: EventId,
    pub endpoint_id: EndpointId,
    pub group_id: i64,
    pub group: GroupName,
    pub next_attempt_at: DateTime<Utc>,
}

/// Where reading goes on: after a delivery, in the order of their times and, of one instant, of their keys.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Place {
    pub at: DateTime<Utc>,
    event_id: Uuid,
    endpoint_id: Uuid,
}

impl Place {
    /// Before all that falls due at this instant.
    pub fn before(at: DateTime<Utc>) -> Self {
        Self { at, event_id: Uuid::nil(), endpoint_id: Uuid::nil() }
    }

    /// After this delivery.
    pub fn after(delivery: &Waiting) -> Self {
        Self {
            at: delivery.next_attempt_at,
            event_id: delivery.event_id.0,
            endpoint_id: delivery.endpoint_id.0,
        }
    }
}

/// Deliveries after `from` that somebody made due by hand (a retry, an endpoint enabled) before `to`: those whose
/// time is that of their last change. Others of endpoints and groups as in [`falling_due`].
///
/// # Errors
/// PostgreSQL is away.
pub async fn made_due(
    executor: impl PgExecutor<'_>,
    from: Place,
    to: DateTime<Utc>,
    limit: i64,
) -> sqlx::Result<Vec<Waiting>> {
    due(executor, from, to, true, limit).await
}

/// Deliveries after `from` that fall due before `to`, the earliest first; those of disabled endpoints and paused
/// groups stay where they are.
///
/// # Errors
/// PostgreSQL is away.
pub async fn falling_due(
    executor: impl PgExecutor<'_>,
    from: Place,
    to: DateTime<Utc>,
    limit: i64,
) -> sqlx::Result<Vec<Waiting>> {
    due(executor, from, to, false, limit).await
}

async fn due(
    executor: impl PgExecutor<'_>,
    from: Place,
    to: DateTime<Utc>,
    by_hand: bool,
    limit: i64,
) -> sqlx::Result<Vec<Waiting>> {
    let rows: Vec<(EventId, EndpointId, i64, String, DateTime<Utc>)> = sqlx::query_as(
        "select d.event_id, d.endpoint_id, d.group_id, g.name, d.next_attempt_at
         from delivery d join endpoint e on e.id = d.endpoint_id join consumer_group g on g.id = d.group_id
         where d.status in ('pending', 'retrying') and d.next_attempt_at < $2
           and (d.next_attempt_at, d.event_id, d.endpoint_id) > ($1, $5, $6)
           and (not $3 or d.next_attempt_at = d.updated_at)
           and e.status <> 'disabled' and g.deleted_at is null and g.paused_at is null
         order by d.next_attempt_at, d.event_id, d.endpoint_id limit $4",
    )
    .bind(from.at)
    .bind(to)
    .bind(by_hand)
    .bind(limit)
    .bind(from.event_id)
    .bind(from.endpoint_id)
    .fetch_all(executor)
    .await?;
    let waiting = |(event_id, endpoint_id, group_id, group, next_attempt_at): (_, _, _, String, _)| {
        Some(Waiting { event_id, endpoint_id, group_id, group: group.parse().ok()?, next_attempt_at })
    };
    Ok(rows.into_iter().filter_map(waiting).collect())
}

/// Ends deliveries whose event is gone from the log: there is nothing to send any more.
///
/// # Errors
/// PostgreSQL is away.
pub async fn end_gone(executor: impl PgExecutor<'_>, keys: &[(EventId, EndpointId)]) -> sqlx::Result<u64> {
    let events: Vec<EventId> = keys.iter().map(|(event, _)| *event).collect();
    let endpoints: Vec<EndpointId> = keys.iter().map(|(_, endpoint)| *endpoint).collect();
    sqlx::query(
        "with gone as (
             select d.event_id, d.endpoint_id from unnest($1::uuid[], $2::uuid[]) as k (event_id, endpoint_id)
             join delivery d on d.event_id = k.event_id and d.endpoint_id = k.endpoint_id
             where d.status in ('pending', 'retrying')
               and not exists (select from event v where v.id = d.event_id)
             order by d.event_id, d.endpoint_id for update of d
         )
         update delivery d set status = 'dead', next_attempt_at = null, last_error = 'event_gone',
                updated_at = now()
         from gone g where d.event_id = g.event_id and d.endpoint_id = g.endpoint_id",
    )
    .bind(events)
    .bind(endpoints)
    .execute(executor)
    .await
    .map(|done| done.rows_affected())
}
