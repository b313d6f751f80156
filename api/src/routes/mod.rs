//! The routes, one file for each thing. Handlers are named by their operation.

use std::net::IpAddr;
use std::time::Duration;

use axum::Router;
use axum::extract::{Request, State};
use axum::http::Method;
use axum::response::{IntoResponse as _, Response};
use eventrail_core::db::Stretch;
use eventrail_core::egress::{Denied, EgressPolicy};
use eventrail_core::endpoint::EndpointUrl;
use serde::Serialize;
use tower::ServiceExt as _;
use utoipa::ToSchema;
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;

use crate::Api;
use crate::openapi;
use crate::problem::{Kind, Problem};

mod api_keys;
mod audit_log;
pub(crate) mod batch;
pub(crate) mod cursor;
pub(crate) mod dead_letters;
mod deliveries;
mod documents;
mod endpoint_actions;
mod endpoint_body;
mod endpoints;
pub(crate) mod event_types;
pub(crate) mod events;
mod groups;
mod lists;
mod probes;
mod reach;
mod redrive;
mod replay_view;
mod replays;

const RESOLVE_DEADLINE: Duration = Duration::from_secs(2);

pub(crate) fn router() -> Router<Api> {
    let router: Router<Api> = routes().into();
    router
        .fallback(async || Problem::not_found("There is no such path"))
        .method_not_allowed_fallback(no_such_method)
}

/// A path of an operation that may be the path of a group as well.
const SET_CURSOR: &str = "/consumer-groups/set-cursor";

/// Where an operation is called like a group may be, the other methods are the group's.
async fn no_such_method(State(api): State<Api>, request: Request) -> Response {
    let is_of_group =
        matches!(*request.method(), Method::GET | Method::HEAD | Method::PATCH | Method::DELETE);
    if request.uri().path() != SET_CURSOR || !is_of_group {
        let detail = "The `Allow` header names the methods of this path";
        return Problem::new(Kind::MethodNotAllowed, detail).into_response();
    }
    let group = routes!(groups::get_group, groups::update_group, groups::delete_group);
    let group: Router<Api> = OpenApiRouter::new().routes(group).into();
    group.with_state(api).oneshot(request).await.into_response()
}

/// All routes, with what [`openapi`] says of them.
pub(crate) fn routes() -> OpenApiRouter<Api> {
    OpenApiRouter::with_openapi(openapi::base())
        .routes(routes!(events::create_event, lists::list_events))
        .routes(routes!(batch::create_events))
        .routes(routes!(events::get_event))
        .routes(routes!(event_types::list_event_types))
        .routes(routes!(deliveries::list_event_deliveries))
        .routes(routes!(lists::list_deliveries))
        .routes(routes!(deliveries::get_delivery))
        .routes(routes!(deliveries::retry_delivery))
        .routes(routes!(groups::create_group, groups::list_groups))
        .routes(routes!(groups::get_group, groups::update_group, groups::delete_group))
        .routes(routes!(groups::pause_group))
        .routes(routes!(groups::resume_group))
        .routes(routes!(endpoints::create_endpoint, endpoints::list_endpoints))
        .routes(routes!(endpoints::get_endpoint, endpoints::update_endpoint, endpoints::delete_endpoint))
        .routes(routes!(endpoint_actions::enable_endpoint))
        .routes(routes!(endpoint_actions::disable_endpoint))
        .routes(routes!(endpoint_actions::test_endpoint))
        .routes(routes!(endpoint_actions::get_endpoint_secret))
        .routes(routes!(endpoint_actions::rotate_endpoint_secret))
        .routes(routes!(replays::create_replay))
        .routes(routes!(replays::list_replays))
        .routes(routes!(replays::get_replay))
        .routes(routes!(replays::cancel_replay))
        .routes(routes!(cursor::set_cursor))
        .routes(routes!(dead_letters::list_dead_letters, dead_letters::purge_dead_letters))
        .routes(routes!(redrive::redrive_dead_letters))
        .routes(routes!(api_keys::create_api_key, api_keys::list_api_keys))
        .routes(routes!(api_keys::delete_api_key))
        .routes(routes!(audit_log::list_audit_log))
        .routes(routes!(probes::health))
        .routes(routes!(probes::livez))
        .routes(routes!(probes::readyz))
        .routes(routes!(probes::metrics))
        .routes(routes!(documents::problems))
        .routes(routes!(documents::openapi_json))
        .routes(routes!(documents::docs))
        .routes(routes!(documents::docs_file))
}

/// One page of a list, and where the next begins.
#[derive(Serialize, ToSchema)]
struct Page<T> {
    data: Vec<T>,
    /// The `cursor` of the next page; null on the last. A page before the last may hold fewer than `limit`, even
    /// nothing, where a filter matches little: follow this until it is null.
    #[schema(required)]
    next_cursor: Option<String>,
}

impl<T> Page<T> {
    /// From up to `limit + 1` rows: the last one only tells that there is more.
    fn new(mut rows: Vec<T>, limit: i64, cursor: impl Fn(&T) -> String) -> Self {
        let limit = usize::try_from(limit).unwrap_or(0);
        let has_more = rows.len() > limit;
        rows.truncate(limit);
        let next_cursor = if has_more { rows.last().map(cursor) } else { None };
        Self { data: rows, next_cursor }
    }

    /// The same, of rows that were looked for in a stretch of the table only.
    fn of_stretch<C>(
        stretch: Stretch<T, C>,
        limit: i64,
        cursor: impl Fn(&T) -> String,
        left_at: impl Fn(C) -> String,
    ) -> Self {
        let page = Self::new(stretch.rows, limit, cursor);
        Self { next_cursor: page.next_cursor.or(stretch.left_at.map(left_at)), ..page }
    }

    fn map<U>(self, view: impl Fn(T) -> U) -> Page<U> {
        Page { data: self.data.into_iter().map(view).collect(), next_cursor: self.next_cursor }
    }
}

/// A description is up to 1024 characters of text.
fn description(given: Option<String>) -> Result<String, Problem> {
    let text = given.unwrap_or_default();
    if text.chars().count() > 1024 || text.contains('\0') {
        return Err(Problem::field("/description", "must be at most 1024 characters, none of them NUL"));
    }
    Ok(text)
}

/// Refuses a URL that points into a private network, now as far as that can be told: dispatchers check the
/// address again whenever they connect. A name that does not resolve yet is let through.
async fn reachable(policy: &EgressPolicy, url: &EndpointUrl) -> Result<(), Problem> {
    let forbidden = |denied: Denied| {
        Problem::field("/url", format!("must not lead into a private network: {denied} (see EGRESS_ALLOW)"))
    };
    policy.check_host(url.url()).map_err(forbidden)?;
    let (Some(host), Some(port)) = (url.url().domain(), url.url().port_or_known_default()) else {
        return Ok(());
    };
    let resolved = tokio::time::timeout(RESOLVE_DEADLINE, tokio::net::lookup_host((host, port))).await;
    let Ok(Ok(addresses)) = resolved else { return Ok(()) };
    let addresses: Vec<IpAddr> = addresses.map(|address| address.ip()).collect();
    policy.check_all(&addresses).map_err(forbidden)
}
