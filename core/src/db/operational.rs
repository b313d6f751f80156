//! EventRail's own events, on the log like any other: source `eventrail`, each concerning one group, owed only
//! to those of its endpoints that name them. Appended in the transaction of what they tell, which holds the
//! log lock.

use std::collections::HashMap;

use chrono::{DateTime, NaiveDate, Utc};
use serde_json::{Value, json};
use sqlx::{PgConnection, PgExecutor, PgPool};

use super::change;
use super::delivery::{self, Record, Recorded, Status};
use crate::event::is_operational;
use crate::ids::{EndpointId, EventId};

pub const ENDPOINT_DISABLED: &str = "eventrail.endpoint.disabled";
pub const ENDPOINT_RECOVERED: &str = "eventrail.endpoint.recovered";
pub const DELIVERY_DEAD: &str = "eventrail.delivery.dead";
pub const RETENTION_HELD: &str = "eventrail.retention.held";

/// What is to be told to a group.
struct Notice {
    event_type: &'static str,
    group_id: i64,
    payload: Value,
}

async fn append(change: &mut PgConnection, notices: &[Notice]) -> sqlx::Result<()> {
    let event_types: Vec<&str> = notices.iter().map(|notice| notice.event_type).collect();
    let groups: Vec<i64> = notices.iter().map(|notice| notice.group_id).collect();
    let payloads: Vec<String> = notices.iter().map(|notice| notice.payload.to_string()).collect();
    sqlx::query("select append_operational($1, $2, $3)")
        .bind(event_types)
        .bind(groups)
        .bind(payloads)
        .execute(change)
        .await
        .map(drop)
}

/// [`endpoints_disabled`] of one.
pub(super) async fn endpoint_disabled(change: &mut PgConnection, endpoint: EndpointId) -> sqlx::Result<()> {
    endpoints_disabled(change, &[endpoint]).await
}

type DisabledRow = (EndpointId, i64, String, Option<String>, Option<DateTime<Utc>>);

/// Tells that endpoints were disabled, with the reasons that their rows now have.
pub(super) async fn endpoints_disabled(
    change: &mut PgConnection,
    endpoints: &[EndpointId],
) -> sqlx::Result<()> {
    let rows: Vec<DisabledRow> = sqlx::query_as(
        "select e.id, e.group_id, g.name, e.disabled_reason, h.failing_since
         from endpoint e join consumer_group g on g.id = e.group_id
         left join endpoint_health h on h.endpoint_id = e.id
         where e.id = any($1) order by e.id",
    )
    .bind(endpoints)
    .fetch_all(&mut *change)
    .await?;
    let notices = rows.into_iter().map(|(endpoint, group_id, group, reason, failing_since)| {
        let mut payload = json!({ "endpoint_id": endpoint, "group": group, "reason": reason });
        if reason.as_deref() == Some("failing") {
            payload["failing_since"] = json!(failing_since);
        }
        Notice { event_type: ENDPOINT_DISABLED, group_id, payload }
    });
    append(change, &notices.collect::<Vec<_>>()).await
}

/// Tells of those of these parked intervals that this transaction has closed.
pub(super) async fn endpoints_recovered(change: &mut PgConnection, parked: &[i64]) -> sqlx::Result<()> {
    let rows: Vec<(i64, String, EndpointId, String, DateTime<Utc>)> = sqlx::query_as(
        "select e.group_id, g.name, e.id, p.reason, p.created_at
         from parked p join endpoint e on e.id = p.endpoint_id join consumer_group g on g.id = e.group_id
         where p.id = any($1) and p.closed_at = now() and p.reason in ('deferred', 'disabled')
         order by p.id",
    )
    .bind(parked)
    .fetch_all(&mut *change)
    .await?;
    let notices = rows.into_iter().map(|(group_id, group, endpoint, reason, parked_at)| Notice {
        event_type: ENDPOINT_RECOVERED,
        group_id,
        payload: json!({
            "endpoint_id": endpoint, "group": group, "parked_because": reason, "parked_at": parked_at
        }),
    });
    append(change, &notices.collect::<Vec<_>>()).await
}

/// Tells a group that days of the log are kept for it past their time; the oldest will be dropped all the same
/// on `until`.
pub(super) async fn retention_held(
    change: &mut PgConnection,
    (group_id, group): (i64, &str),
    days: i64,
    oldest: NaiveDate,
    until: NaiveDate,
) -> sqlx::Result<()> {
    let payload = json!({ "group": group, "days": days, "oldest_day": oldest, "dropped_on": until });
    append(change, &[Notice { event_type: RETENTION_HELD, group_id, payload }]).await
}

/// Those of these groups that have an active endpoint that wants to hear of dead letters: for the others none
/// is told of, so that a flood of dead letters floods no log that nobody reads.
///
/// # Errors
/// PostgreSQL is away.
pub async fn listening_for_dead(executor: impl PgExecutor<'_>, groups: &[i64]) -> sqlx::Result<Vec<i64>> {
    sqlx::query_scalar(
        "select distinct e.group_id from endpoint e join subscription s on s.endpoint_id = e.id
         where e.group_id = any($1) and e.status = 'active' and s.to_position is null
           and filter_matches(s.event_types, s.sources, $2, 'eventrail')",
    )
    .bind(groups)
    .bind(DELIVERY_DEAD)
    .fetch_all(executor)
    .await
}

/// [`delivery::record`] for dead letters of groups that listen: tells of each that its row has taken, in the same
/// transaction. Those of operational events are not told of.
///
/// # Errors
/// As [`delivery::record`].
pub async fn record_dead(pool: &PgPool, records: &mut [Record]) -> sqlx::Result<Vec<Recorded>> {
    let mut transaction = change::begin(pool).await?;
    let rows = delivery::record(&mut *transaction, records).await?;
    let names = names(&mut transaction, records).await?;
    let taken: HashMap<(EventId, EndpointId), &Recorded> =
        rows.iter().map(|row| ((row.event_id, row.endpoint_id), row)).collect();
    let notices = records.iter().zip(names).filter_map(|(record, (group, event_type))| {
        let row = taken.get(&(record.event_id, record.endpoint_id))?;
        let told = row.status == Status::Dead && row.ask == record.ask && !is_operational(&event_type);
        told.then(|| Notice {
            event_type: DELIVERY_DEAD,
            group_id: record.group_id,
            payload: json!({
                "event_id": record.event_id,
                "event_type": event_type,
                "endpoint_id": record.endpoint_id,
                "group": group,
                "error": record.last_error,
                "status_code": record.attempt.as_ref().and_then(|attempt| attempt.status_code),
                "attempts": row.attempt_count,
            }),
        })
    });
    append(&mut transaction, &notices.collect::<Vec<_>>()).await?;
    transaction.commit().await?;
    Ok(rows)
}

/// The group's name and the event's type, for each record in order.
async fn names(change: &mut PgConnection, records: &[Record]) -> sqlx::Result<Vec<(String, String)>> {
    let events: Vec<EventId> = records.iter().map(|record| record.event_id).collect();
    let groups: Vec<i64> = records.iter().map(|record| record.group_id).collect();
    sqlx::query_as(
        "select coalesce(g.name, ''), coalesce(v.event_type, 'eventrail')
         from unnest($1::uuid[], $2::bigint[]) with ordinality as i (event_id, group_id, n)
         left join consumer_group g on g.id = i.group_id
         left join event v on v.id = i.event_id and v.id between $3 and $4
         order by i.n",
    )
    .bind(&events)
    .bind(groups)
    .bind(events.iter().min())
    .bind(events.iter().max())
    .fetch_all(change)
    .await
}
