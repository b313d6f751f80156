//! Deliveries: what has become of an event at each of its endpoints.

use axum::extract::{Path, State};
use axum::http::StatusCode;
use axum::response::{IntoResponse as _, Response};
use chrono::{DateTime, Utc};
use eventrail_core::db::delivery_list::{self, Retried};
use eventrail_core::db::event_list;
use eventrail_core::db::whereabouts::{self, Attempt, Target};
use eventrail_core::ids::{EndpointId, EventId};
use serde::Serialize;
use utoipa::ToSchema;

use super::Page;
use super::events::{json, micros, micros_or_null};
use crate::Api;
use crate::caller::{Caller, Insider};
use crate::extract::{NoQuery, endpoint_id, event_id, no_such_event};
use crate::openapi::params::{DeliveryPath, EventPath};
use crate::openapi::schema;
use crate::problem::{Kind, Problem};

#[derive(Serialize, ToSchema)]
struct DeliveryView {
    #[schema(value_type = schema::EventId)]
    event_id: EventId,
    #[schema(value_type = schema::EndpointId)]
    endpoint_id: EndpointId,
    #[schema(value_type = schema::GroupName)]
    group: String,
    #[schema(value_type = schema::DeliveryStatus)]
    status: String,
    /// What it waits for: `queued`, `deferred`, `retrying`, `group_paused`, `parked`, or null.
    #[schema(value_type = Option<schema::DeliveryReason>)]
    reason: Option<&'static str>,
    attempts: i32,
    #[serde(serialize_with = "micros_or_null")]
    next_attempt_at: Option<DateTime<Utc>>,
    last_status_code: Option<i32>,
    /// Why the last attempt failed; `skipped` if it was given up by hand.
    last_error: Option<String>,
    #[serde(serialize_with = "micros_or_null")]
    updated_at: Option<DateTime<Utc>>,
}

impl DeliveryView {
    fn new(event_id: EventId, target: Target) -> Self {
        Self {
            event_id,
            endpoint_id: target.endpoint_id,
            status: target.status().to_owned(),
            reason: target.reason(),
            last_error: target.last_error().map(str::to_owned),
            group: target.group,
            attempts: target.attempt_total.unwrap_or(0),
            next_attempt_at: target.next_attempt_at,
            last_status_code: target.last_status_code,
            updated_at: target.updated_at,
        }
    }
}

#[derive(Serialize, ToSchema)]
struct AttemptView {
    /// Counted from 1 over all attempts of the delivery.
    number: i32,
    #[serde(serialize_with = "micros")]
    started_at: DateTime<Utc>,
    duration_ms: i32,
    status_code: Option<i32>,
    /// Why it failed; `status` where the answer was not a 2xx.
    #[schema(value_type = Option<schema::FailureKind>)]
    error: Option<String>,
    error_detail: Option<String>,
    /// The beginning of the answer.
    response_body: Option<String>,
    /// What made it: `feed`, `retry` or `catch_up`.
    trigger: String,
}

impl From<Attempt> for AttemptView {
    fn from(attempt: Attempt) -> Self {
        let text = |bytes: Vec<u8>| String::from_utf8_lossy(&bytes).into_owned();
        Self {
            number: attempt.number,
            started_at: attempt.started_at,
            duration_ms: attempt.duration_ms,
            status_code: attempt.status_code,
            error: attempt.error,
            error_detail: attempt.error_detail,
            response_body: attempt.response_body.map(text),
            trigger: attempt.trigger,
        }
    }
}

#[derive(Serialize, ToSchema)]
struct OneDelivery {
    #[serde(flatten)]
    delivery: DeliveryView,
    attempt_log: Vec<AttemptView>,
}

/// Where is my webhook?
///
/// One delivery for each endpoint that the event is owed to, tried or not.
#[utoipa::path(
    get,
    path = "/events/{id}/deliveries",
    tag = "deliveries",
    params(EventPath),
    responses((status = 200, description = "The event's deliveries", body = Page<DeliveryView>))
)]
pub(super) async fn list_event_deliveries(
    Insider(caller): Insider,
    State(api): State<Api>,
    Path(id): Path<String>,
    _: NoQuery,
) -> Result<Response, Problem> {
    let id = event_id(&id)?;
    let mut targets = whereabouts::targets(&api.reads, id, None).await?;
    targets.retain(|target| may_see(&caller, target));
    if targets.is_empty() && !event_list::is_visible(&api.reads, &caller.scope()?, id).await? {
        return Err(no_such_event());
    }
    let data = targets.into_iter().map(|target| DeliveryView::new(id, target)).collect();
    Ok(json(&Page { data, next_cursor: None }))
}

/// Try a delivery again
///
/// Now, whatever has become of it, with all of its retries. While its endpoint is disabled or its group
/// paused, it waits.
#[utoipa::path(
    post,
    path = "/deliveries/{event_id}/{endpoint_id}/retry",
    tag = "deliveries",
    params(DeliveryPath),
    responses(
        (status = 202, description = "It will be tried", body = DeliveryView),
        (status = 409, description = "not-tried, endpoint-deleted"),
    )
)]
pub(super) async fn retry_delivery(
    Insider(caller): Insider,
    State(api): State<Api>,
    Path((event, endpoint)): Path<(String, String)>,
    _: NoQuery,
) -> Result<Response, Problem> {
    let (event, endpoint, _) = find(&api, &caller, &event, &endpoint).await?;
    let author = caller.author("retry_delivery");
    match delivery_list::retry(&api.pool, &author, event, endpoint).await? {
        Retried::Retrying => {
            api.doorbell.ring();
            let target = whereabouts::targets(&api.pool, event, Some(endpoint)).await?.pop();
            let view = DeliveryView::new(event, target.ok_or_else(not_owed)?);
            Ok((StatusCode::ACCEPTED, json(&view)).into_response())
        }
        Retried::NotTried => {
            Err(Problem::new(Kind::NotTried, "The delivery is on its way, and has not been tried yet"))
        }
        Retried::EndpointDeleted => {
            Err(Problem::new(Kind::EndpointDeleted, "The endpoint of this delivery was deleted"))
        }
    }
}

/// A deleted group's past is the operators': its name may be another team's now.
fn may_see(caller: &Caller, target: &Target) -> bool {
    caller.may_enter(&target.group).is_ok() && (caller.groups().is_none() || !target.group_is_deleted)
}

fn not_owed() -> Problem {
    Problem::not_found("This event is not owed to this endpoint, or one of them is unknown")
}

/// A delivery to a group of the caller's, tried or not.
async fn find(
    api: &Api,
    caller: &Caller,
    event: &str,
    endpoint: &str,
) -> Result<(EventId, EndpointId, Target), Problem> {
    let event = event_id(event).map_err(|_| not_owed())?;
    let endpoint = endpoint_id(endpoint).map_err(|_| not_owed())?;
    let target = whereabouts::targets(&api.reads, event, Some(endpoint)).await?.pop().ok_or_else(not_owed)?;
    if !may_see(caller, &target) {
        return Err(not_owed());
    }
    Ok((event, endpoint, target))
}

/// Read a delivery with its attempts
#[utoipa::path(
    get,
    path = "/deliveries/{event_id}/{endpoint_id}",
    tag = "deliveries",
    params(DeliveryPath),
    responses((status = 200, description = "The delivery", body = OneDelivery))
)]
pub(super) async fn get_delivery(
    Insider(caller): Insider,
    State(api): State<Api>,
    Path((event, endpoint)): Path<(String, String)>,
    _: NoQuery,
) -> Result<Response, Problem> {
    let (event, endpoint, target) = find(&api, &caller, &event, &endpoint).await?;
    let attempts = whereabouts::attempts(&api.reads, event, endpoint).await?;
    Ok(json(&OneDelivery {
        delivery: DeliveryView::new(event, target),
        attempt_log: attempts.into_iter().map(AttemptView::from).collect(),
    }))
}
