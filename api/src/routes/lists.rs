//! Lists of events and of a group's deliveries, with their filters.

use axum::extract::State;
use axum::response::Response;
use chrono::{DateTime, Utc};
use eventrail_core::db::delivery::Status;
use eventrail_core::db::delivery_list::{self, DeliveryFilter, ListedDelivery};
use eventrail_core::db::event_list::{self, EventFilter, ListedEvent};
use eventrail_core::db::group;
use eventrail_core::event::Source;
use eventrail_core::ids::{EndpointId, EventId};
use eventrail_core::matching::Pattern;
use serde::{Deserialize, Serialize};
use utoipa::{IntoParams, ToSchema};

use super::Page;
use super::events::{json, micros, micros_or_null};
use crate::Api;
use crate::caller::{Member, Reader};
use crate::extract::{PageQuery, Query, Time, no_such_group};
use crate::openapi::params::GroupPath;
use crate::openapi::schema;
use crate::problem::Problem;

#[derive(Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub(super) struct EventsQuery {
    /// An event type, or a pattern such as `invoice.*`.
    #[param(value_type = schema::Pattern, required = false)]
    event_type: Option<Pattern>,
    #[param(value_type = schema::Source, required = false)]
    source: Option<Source>,
    /// Created at this time or later.
    #[param(value_type = String, format = DateTime, required = false)]
    from: Option<Time>,
    /// Created before this time.
    #[param(value_type = String, format = DateTime, required = false)]
    to: Option<Time>,
    /// So many at most; 50 by default.
    #[param(value_type = i64, required = false, minimum = 1, maximum = 500)]
    limit: Option<i64>,
    /// The `next_cursor` of the page before.
    #[param(value_type = String, required = false)]
    cursor: Option<String>,
}

#[derive(Serialize, ToSchema)]
pub(super) struct ListedEventView {
    #[schema(value_type = schema::EventId)]
    id: EventId,
    position: i64,
    #[schema(value_type = schema::EventType)]
    event_type: String,
    #[schema(value_type = schema::Source)]
    source: String,
    #[serde(serialize_with = "micros")]
    created_at: DateTime<Utc>,
}

impl From<ListedEvent> for ListedEventView {
    fn from(event: ListedEvent) -> Self {
        Self {
            id: event.id,
            position: event.position,
            event_type: event.event_type,
            source: event.source,
            created_at: event.created_at,
        }
    }
}

/// List events
///
/// The newest first, without payloads. Producers see those of their sources, subscribers those that are owed to
/// endpoints of their groups.
#[utoipa::path(
    get,
    path = "/events",
    tag = "events",
    params(EventsQuery),
    responses((status = 200, description = "A page of events", body = Page<ListedEventView>))
)]
pub(super) async fn list_events(
    Reader(scope): Reader,
    State(api): State<Api>,
    Query(query): Query<EventsQuery>,
) -> Result<Response, Problem> {
    let page = PageQuery::new(query.limit, query.cursor);
    let limit = page.limit()?;
    let filter = EventFilter {
        event_type: query.event_type.map(|pattern| pattern.to_string()),
        source: query.source.map(|source| source.to_string()),
        from: query.from.map(|time| time.0),
        to: query.to.map(|time| time.0),
        before: page.after(|cursor| cursor.parse().ok())?,
    };
    let events = event_list::list(&api.reads, &scope, &filter, limit + 1).await?;
    let page = Page::of_stretch(events, limit, |event| event.id.to_string(), |id| id.to_string());
    Ok(json(&page.map(ListedEventView::from)))
}

/// What has become of a delivery.
#[derive(Clone, Copy, Deserialize)]
#[serde(rename_all = "snake_case")]
enum StatusName {
    Pending,
    Retrying,
    Delivered,
    Dead,
}

impl From<StatusName> for Status {
    fn from(name: StatusName) -> Self {
        match name {
            StatusName::Pending => Self::Pending,
            StatusName::Retrying => Self::Retrying,
            StatusName::Delivered => Self::Delivered,
            StatusName::Dead => Self::Dead,
        }
    }
}

#[derive(Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub(super) struct DeliveriesQuery {
    #[param(value_type = schema::DeliveryStatus, required = false)]
    status: Option<StatusName>,
    #[param(value_type = schema::EndpointId, required = false)]
    endpoint_id: Option<EndpointId>,
    /// An event type, or a pattern such as `invoice.*`.
    #[param(value_type = schema::Pattern, required = false)]
    event_type: Option<Pattern>,
    /// Of events created at this time or later.
    #[param(value_type = String, format = DateTime, required = false)]
    from: Option<Time>,
    /// Of events created before this time.
    #[param(value_type = String, format = DateTime, required = false)]
    to: Option<Time>,
    /// So many at most; 50 by default.
    #[param(value_type = i64, required = false, minimum = 1, maximum = 500)]
    limit: Option<i64>,
    /// The `next_cursor` of the page before.
    #[param(value_type = String, required = false)]
    cursor: Option<String>,
}

#[derive(Serialize, ToSchema)]
struct ListedDeliveryView {
    #[schema(value_type = schema::EventId)]
    event_id: EventId,
    #[schema(value_type = schema::EndpointId)]
    endpoint_id: EndpointId,
    #[schema(value_type = schema::EventType)]
    event_type: String,
    #[schema(value_type = schema::DeliveryStatus)]
    status: String,
    attempts: i32,
    #[serde(serialize_with = "micros_or_null")]
    next_attempt_at: Option<DateTime<Utc>>,
    last_status_code: Option<i32>,
    /// Why the last attempt failed; `skipped` if it was given up by hand.
    last_error: Option<String>,
    #[serde(serialize_with = "micros")]
    updated_at: DateTime<Utc>,
}

impl From<ListedDelivery> for ListedDeliveryView {
    fn from(delivery: ListedDelivery) -> Self {
        Self {
            event_id: delivery.event_id,
            endpoint_id: delivery.endpoint_id,
            event_type: delivery.event_type,
            status: delivery.status,
            attempts: delivery.attempt_total,
            next_attempt_at: delivery.next_attempt_at,
            last_status_code: delivery.last_status_code,
            last_error: delivery.last_error,
            updated_at: delivery.updated_at,
        }
    }
}

/// List a group's deliveries
///
/// Those that were tried or deferred, of the newest events first. What was not tried yet has no row: ask for the
/// event's deliveries.
#[utoipa::path(
    get,
    path = "/consumer-groups/{group}/deliveries",
    tag = "deliveries",
    params(GroupPath, DeliveriesQuery),
    responses((status = 200, description = "A page of deliveries", body = Page<ListedDeliveryView>))
)]
pub(super) async fn list_deliveries(
    Member { group: name, .. }: Member,
    State(api): State<Api>,
    Query(query): Query<DeliveriesQuery>,
) -> Result<Response, Problem> {
    let page = PageQuery::new(query.limit, query.cursor);
    let limit = page.limit()?;
    let filter = DeliveryFilter {
        status: query.status.map(Status::from),
        endpoint_id: query.endpoint_id,
        event_type: query.event_type.map(|pattern| pattern.to_string()),
        from: query.from.map(|time| time.0),
        to: query.to.map(|time| time.0),
        before: page.after(|cursor| {
            let (event, endpoint) = cursor.split_once('.')?;
            Some((event.parse().ok()?, endpoint.parse().ok()?))
        })?,
    };
    let group = group::get(&api.reads, &name).await?.ok_or_else(no_such_group)?;
    let deliveries = delivery_list::of_group(&api.reads, group.id, &filter, limit + 1).await?;
    let cursor = |event: EventId, endpoint: EndpointId| format!("{event}.{endpoint}");
    let page = Page::of_stretch(
        deliveries,
        limit,
        |one: &ListedDelivery| cursor(one.event_id, one.endpoint_id),
        |(event, endpoint)| cursor(event, endpoint),
    );
    Ok(json(&page.map(ListedDeliveryView::from)))
}
