//! Endpoints of a group, and their secrets.

use axum::extract::{Path, State};
use axum::http::{StatusCode, header};
use axum::response::{IntoResponse as _, Response};
use chrono::{DateTime, Utc};
use eventrail_core::db::endpoint::{self, Created, Deleted, Endpoint, NewEndpoint};
use eventrail_core::db::{endpoint_change, group};
use eventrail_core::endpoint::{CustomHeaders, EndpointUrl};
use eventrail_core::event::Source;
use eventrail_core::group::GroupName;
use eventrail_core::ids::EndpointId;
use eventrail_core::matching::{Filter, Pattern};
use eventrail_core::retry::RetryOverride;
use eventrail_core::secret::Secret;
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use super::events::{json, micros};
use super::{Page, description, reachable};
use crate::Api;
use crate::body::{Json, Object};
use crate::caller::Member;
use crate::extract::{NoQuery, PageQuery, Query, endpoint_id, no_such_endpoint, no_such_group};
use crate::openapi::params::{EndpointPath, GroupPath};
use crate::openapi::schema;
use crate::problem::{FieldError, Kind, Problem};

const MAX_PATTERNS: usize = 100;

#[derive(Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct EndpointBody {
    #[schema(value_type = schema::EndpointUrl)]
    url: Option<EndpointUrl>,
    #[schema(value_type = Option<schema::Description>)]
    description: Option<String>,
    /// Which events it is sent; all by default.
    #[schema(value_type = Option<Vec<schema::Pattern>>, max_items = 100)]
    event_types: Option<Vec<Pattern>>,
    /// Whose events it is sent; everybody's by default.
    #[schema(value_type = Option<Vec<schema::Source>>, max_items = 100)]
    sources: Option<Vec<Source>>,
    #[schema(value_type = Option<schema::CustomHeaders>)]
    headers: Option<CustomHeaders>,
    /// How long a delivery may take.
    #[schema(minimum = 100, maximum = 60_000)]
    timeout_ms: Option<i64>,
    /// How many deliveries may be under way at once.
    #[schema(minimum = 1, maximum = 10_000)]
    max_in_flight: Option<i64>,
    #[schema(value_type = Option<schema::RetryOverride>)]
    retry: Option<Object<RetryOverride>>,
    /// Made by EventRail by default.
    #[schema(value_type = Option<schema::Secret>)]
    secret: Option<Secret>,
}

impl EndpointBody {
    fn into_new(self) -> Result<NewEndpoint, Problem> {
        let mut errors = Vec::new();
        let mut within = |name: &str, value: Option<i64>, low: i64, high: i64| {
            let value = value?;
            if (low..=high).contains(&value) {
                return i32::try_from(value).ok();
            }
            errors.push(FieldError::new(format!("/{name}"), format!("must be {low} to {high}")));
            None
        };
        let timeout_ms = within("timeout_ms", self.timeout_ms, 100, 60_000);
        let max_in_flight = within("max_in_flight", self.max_in_flight, 1, 10_000);
        let filter = Filter {
            event_types: self.event_types.unwrap_or_default(),
            sources: self.sources.unwrap_or_default(),
        };
        for (name, count) in [("event_types", filter.event_types.len()), ("sources", filter.sources.len())] {
            if count > MAX_PATTERNS {
                let detail = format!("must hold at most {MAX_PATTERNS} entries");
                errors.push(FieldError::new(format!("/{name}"), detail));
            }
        }
        let Some(url) = self.url else {
            errors.push(FieldError::new("/url", "is required"));
            return Err(Problem::fields(errors));
        };
        if !errors.is_empty() {
            return Err(Problem::fields(errors));
        }
        Ok(NewEndpoint {
            url,
            description: description(self.description)?,
            filter,
            headers: self.headers.unwrap_or_default(),
            timeout_ms,
            max_in_flight,
            retry: self.retry.map(|Object(retry)| retry),
            secret: self.secret.unwrap_or_else(Secret::generate),
        })
    }
}

#[derive(Serialize, ToSchema)]
struct EndpointView<'a> {
    #[schema(value_type = schema::EndpointId)]
    id: EndpointId,
    #[schema(value_type = schema::GroupName)]
    group: &'a GroupName,
    url: String,
    description: String,
    #[schema(value_type = Vec<schema::Pattern>)]
    event_types: Vec<String>,
    #[schema(value_type = Vec<schema::Source>)]
    sources: Vec<String>,
    #[schema(value_type = schema::CustomHeaders)]
    headers: CustomHeaders,
    timeout_ms: Option<i32>,
    max_in_flight: Option<i32>,
    #[schema(value_type = Option<schema::RetryOverride>)]
    retry: Option<RetryOverride>,
    #[schema(value_type = schema::EndpointStatus)]
    status: String,
    #[schema(value_type = Option<schema::DisabledReason>)]
    disabled_reason: Option<String>,
    #[serde(serialize_with = "micros")]
    created_at: DateTime<Utc>,
    #[serde(serialize_with = "micros")]
    updated_at: DateTime<Utc>,
    /// Shown when it was just made; later under `…/secret`.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(value_type = schema::Secret, required = false)]
    secret: Option<String>,
}

impl<'a> EndpointView<'a> {
    fn new(group: &'a GroupName, endpoint: Endpoint) -> Self {
        Self {
            id: endpoint.id,
            group,
            url: endpoint.url,
            description: endpoint.description,
            event_types: endpoint.event_types,
            sources: endpoint.sources,
            headers: endpoint.headers.0,
            timeout_ms: endpoint.timeout_ms,
            max_in_flight: endpoint.max_in_flight,
            retry: endpoint.retry.map(|json| json.0),
            status: endpoint.status,
            disabled_reason: endpoint.disabled_reason,
            created_at: endpoint.created_at,
            updated_at: endpoint.updated_at,
            secret: None,
        }
    }
}

/// Create an endpoint
///
/// It is sent the events that are posted from now on. The answer holds its signing secret.
#[utoipa::path(
    post,
    path = "/consumer-groups/{group}/endpoints",
    tag = "endpoints",
    params(GroupPath),
    request_body = EndpointBody,
    responses(
        (status = 201, description = "Created", body = EndpointView<'_>, headers(("location" = String, description = "Its path"))),
        (status = 409, description = "url-taken, too-many-endpoints"),
    )
)]
pub(super) async fn create_endpoint(
    Member { caller, group }: Member,
    State(api): State<Api>,
    _: NoQuery,
    Json(body): Json<EndpointBody>,
) -> Result<Response, Problem> {
    let new = body.into_new()?;
    reachable(&api.egress, &new.url).await?;
    match endpoint::create(&api.pool, &api.vault, &caller.author("create_endpoint"), &group, &new).await? {
        Created::Created(made) => {
            api.doorbell.ring();
            let location = format!("/consumer-groups/{group}/endpoints/{}", made.id);
            let secret = Some(new.secret.to_text());
            let view = EndpointView { secret, ..EndpointView::new(&group, *made) };
            Ok((StatusCode::CREATED, [(header::LOCATION, location)], json(&view)).into_response())
        }
        Created::NoSuchGroup => Err(no_such_group()),
        Created::TooMany => {
            let detail = format!("A group has at most {} endpoints", endpoint::MOST_ENDPOINTS);
            Err(Problem::new(Kind::TooManyEndpoints, detail))
        }
        Created::UrlTaken { by } => {
            Err(Problem::new(Kind::UrlTaken, format!("The group {group} has this URL already, as {by}"))
                .existing("endpoint_id", by.to_string()))
        }
    }
}

/// List a group's endpoints
///
/// The newest first.
#[utoipa::path(
    get,
    path = "/consumer-groups/{group}/endpoints",
    tag = "endpoints",
    params(GroupPath, PageQuery),
    responses((status = 200, description = "A page of endpoints", body = Page<EndpointView<'_>>))
)]
pub(super) async fn list_endpoints(
    Member { group: name, .. }: Member,
    State(api): State<Api>,
    Query(page): Query<PageQuery>,
) -> Result<Response, Problem> {
    let limit = page.limit()?;
    let before = page.after(|cursor| cursor.parse().ok())?;
    let group = group::get(&api.pool, &name).await?.ok_or_else(no_such_group)?;
    let endpoints = endpoint::list(&api.pool, group.id, before, limit + 1).await?;
    let page = Page::new(endpoints, limit, |endpoint| endpoint.id.to_string());
    Ok(json(&page.map(|endpoint| EndpointView::new(&name, endpoint))))
}

/// Read an endpoint
#[utoipa::path(
    get,
    path = "/consumer-groups/{group}/endpoints/{id}",
    tag = "endpoints",
    params(EndpointPath),
    responses((status = 200, description = "The endpoint", body = EndpointView<'_>))
)]
pub(super) async fn get_endpoint(
    Member { group, .. }: Member,
    State(api): State<Api>,
    Path((_, id)): Path<(String, String)>,
    _: NoQuery,
) -> Result<Response, Problem> {
    let found = endpoint::get(&api.pool, &group, endpoint_id(&id)?).await?;
    Ok(json(&EndpointView::new(&group, found.ok_or_else(no_such_endpoint)?)))
}

/// Delete an endpoint
///
/// Deliveries to it that are still to be made are given up.
#[utoipa::path(
    delete,
    path = "/consumer-groups/{group}/endpoints/{id}",
    tag = "endpoints",
    params(EndpointPath),
    responses((status = 204, description = "Deleted"))
)]
pub(super) async fn delete_endpoint(
    Member { caller, group }: Member,
    State(api): State<Api>,
    Path((_, id)): Path<(String, String)>,
    _: NoQuery,
) -> Result<StatusCode, Problem> {
    match endpoint::delete(&api.pool, &caller.author("delete_endpoint"), &group, endpoint_id(&id)?).await? {
        Deleted::Deleted => {
            api.doorbell.ring();
            Ok(StatusCode::NO_CONTENT)
        }
        Deleted::NotFound => Err(no_such_endpoint()),
    }
}

#[derive(Serialize, ToSchema)]
struct SecretsView {
    /// Deliveries are signed with each of them.
    secrets: Vec<SecretView>,
}

#[derive(Serialize, ToSchema)]
struct SecretView {
    #[schema(value_type = schema::Secret)]
    secret: String,
    #[schema(format = DateTime)]
    expires_at: Option<String>,
}

/// Read an endpoint's signing secrets
#[utoipa::path(
    get,
    path = "/consumer-groups/{group}/endpoints/{id}/secret",
    tag = "endpoints",
    params(EndpointPath),
    responses((status = 200, description = "The secrets, not to be stored by caches", body = SecretsView))
)]
pub(super) async fn get_endpoint_secret(
    Member { caller, group }: Member,
    State(api): State<Api>,
    Path((_, id)): Path<(String, String)>,
    _: NoQuery,
) -> Result<Response, Problem> {
    let id = endpoint_id(&id)?;
    let secrets = endpoint::secrets(&api.pool, &api.vault, &group, id).await?;
    if secrets.is_empty() {
        return Err(no_such_endpoint());
    }
    let author = caller.author("get_endpoint_secret");
    endpoint_change::note(&api.pool, &author, &group, id, serde_json::json!({})).await?;
    let view = |one: &endpoint::SecretOf| SecretView {
        secret: one.secret.to_text(),
        expires_at: one.expires_at.map(|at| at.to_rfc3339_opts(chrono::SecondsFormat::Micros, true)),
    };
    let answer = json(&SecretsView { secrets: secrets.iter().map(view).collect() });
    Ok(([(header::CACHE_CONTROL, "no-store")], answer).into_response())
}
