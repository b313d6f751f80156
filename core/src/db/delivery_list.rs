//! Lists of deliveries, and a delivery tried again by hand.

use chrono::{DateTime, Utc};
use serde_json::json;
use sqlx::PgPool;
use uuid::Uuid;

use super::Stretch;
use super::audit::{self, Author};
use super::change;
use super::delivery::Status;
use crate::ids::{EndpointId, EventId};

/// A delivery that was tried, or deferred.
#[derive(Debug, Clone, sqlx::FromRow)]
pub struct ListedDelivery {
    pub event_id: EventId,
    pub endpoint_id: EndpointId,
    pub event_type: String,
    pub status: String,
    pub attempt_total: i32,
    pub next_attempt_at: Option<DateTime<Utc>>,
    pub last_status_code: Option<i32>,
    pub last_error: Option<String>,
    pub updated_at: DateTime<Utc>,
}

/// What is looked for; `None` for all. `from` (inclusive) and `to` (exclusive) are about the event.
#[derive(Debug, Default)]
pub struct DeliveryFilter {
    pub status: Option<Status>,
    pub endpoint_id: Option<EndpointId>,
    /// An event type, or a pattern.
    pub event_type: Option<String>,
    pub from: Option<DateTime<Utc>>,
    pub to: Option<DateTime<Utc>>,
    /// A page goes on below this delivery.
    pub before: Option<(EventId, EndpointId)>,
}

/// Deliveries that one page looks at.
const LOOKED_AT: i64 = 10_000;

/// The statements for one page: where it ends, at most, and what it holds.
struct Statements {
    last: &'static str,
    page: &'static str,
}

/// `$status` is written out, so that the index of the few rows that have it can be used.
macro_rules! statements {
    ($status:literal) => {
        Statements {
            last: concat!(
                "select event_id, endpoint_id from delivery d
                 where group_id = $1 and (event_id, endpoint_id) < ($2, $3) and event_id <= $2
                   and event_id >= id_floor($4) and event_id < id_floor($5) and ",
                $status,
                " order by event_id desc, endpoint_id desc offset $6 limit 1"
            ),
            page: concat!(
                "select d.event_id, d.endpoint_id, v.event_type, d.status, d.attempt_total, d.next_attempt_at,
                        d.last_status_code, d.last_error, d.updated_at
                 from delivery d join event v on v.id = d.event_id
                 where d.group_id = $1 and (d.event_id, d.endpoint_id) < ($2, $3) and d.event_id <= $2
                   and d.event_id >= id_floor($4) and d.event_id < id_floor($5)
                   and v.id >= id_floor($4) and v.id < id_floor($5)
                   and (d.event_id, d.endpoint_id) >= ($6, $7) and d.event_id >= $6
                   and ($8::text is null or d.status = $8)
                   and ($9::uuid is null or d.endpoint_id = $9)
                   and ($10::text is null or filter_matches(array[$10], '{}', v.event_type, '')) and ",
                $status,
                " order by d.event_id desc, d.endpoint_id desc limit $11"
            ),
        }
    };
}

const OF_ANY_STATUS: Statements = statements!("true");
const PENDING: Statements = statements!("d.status = 'pending'");
const RETRYING: Statements = statements!("d.status = 'retrying'");
const DEAD: Statements = statements!("d.status = 'dead' and d.purged_at is null");

/// A group's deliveries in pages, those of the newest events first. Dead letters that were put away are listed
/// only among all.
///
/// # Errors
/// PostgreSQL is away, or slow.
pub async fn of_group(
    pool: &PgPool,
    group_id: i64,
    filter: &DeliveryFilter,
    limit: i64,
) -> sqlx::Result<Stretch<ListedDelivery, (EventId, EndpointId)>> {
    let statements = match filter.status {
        Some(Status::Pending) => PENDING,
        Some(Status::Retrying) => RETRYING,
        Some(Status::Dead) => DEAD,
        Some(Status::Delivered) | None => OF_ANY_STATUS,
    };
    let (event, endpoint) =
        filter.before.map_or((Uuid::max(), Uuid::max()), |(event, endpoint)| (event.0, endpoint.0));
    let from = filter.from.unwrap_or(DateTime::UNIX_EPOCH);
    let to = filter.to.unwrap_or_else(super::event_list::far_future);
    let last: Option<(EventId, EndpointId)> = sqlx::query_as(statements.last)
        .bind(group_id)
        .bind(event)
        .bind(endpoint)
        .bind(from)
        .bind(to)
        .bind(LOOKED_AT - 1)
        .fetch_optional(pool)
        .await?;
    let (last_event, last_endpoint) =
        last.map_or((Uuid::nil(), Uuid::nil()), |(event, endpoint)| (event.0, endpoint.0));
    let rows = sqlx::query_as(statements.page)
        .bind(group_id)
        .bind(event)
        .bind(endpoint)
        .bind(from)
        .bind(to)
        .bind(last_event)
        .bind(last_endpoint)
        .bind(filter.status.map(Status::as_str))
        .bind(filter.endpoint_id)
        .bind(&filter.event_type)
        .bind(limit)
        .fetch_all(pool)
        .await?;
    Ok(Stretch { rows, left_at: last })
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Retried {
    Retrying,
    /// There is no row: the event is on its way, or not owed to this endpoint.
    NotTried,
    EndpointDeleted,
}

/// Tries a delivery again, whatever has become of it: a new ask, whose attempts are counted from the start.
/// Loaders pick it up; while its endpoint is disabled or its group paused, it waits.
///
/// # Errors
/// PostgreSQL is away.
pub async fn retry(
    pool: &PgPool,
    author: &Author,
    event: EventId,
    endpoint: EndpointId,
) -> sqlx::Result<Retried> {
    let mut transaction = change::begin(pool).await?;
    let endpoint_status: Option<String> = sqlx::query_scalar(
        "select e.status from delivery d join endpoint e on e.id = d.endpoint_id
         where d.event_id = $1 and d.endpoint_id = $2",
    )
    .bind(event)
    .bind(endpoint)
    .fetch_optional(&mut *transaction)
    .await?;
    match endpoint_status.as_deref() {
        None => return Ok(Retried::NotTried),
        Some("deleted") => return Ok(Retried::EndpointDeleted),
        Some(_) => {}
    }
    sqlx::query(
        "update delivery set ask = draw_positions(1), status = 'retrying', attempt_count = 0,
                next_attempt_at = now(), updated_at = now(), replay_id = null, purged_at = null
         where event_id = $1 and endpoint_id = $2",
    )
    .bind(event)
    .bind(endpoint)
    .execute(&mut *transaction)
    .await?;
    audit::write(&mut *transaction, author, &format!("{event}/{endpoint}"), json!({})).await?;
    transaction.commit().await?;
    Ok(Retried::Retrying)
}
