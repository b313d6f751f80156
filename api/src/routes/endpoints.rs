//! Endpoints of a group: made, read, changed, deleted. What else is done with them is in
//! [`super::endpoint_actions`].

use axum::extract::{Path, State};
use axum::http::{StatusCode, header};
use axum::response::{IntoResponse as _, Response};
use eventrail_core::db::endpoint::{self, Created, Deleted};
use eventrail_core::db::endpoint_change::{self, Changed};
use eventrail_core::db::group;

use super::endpoint_body::{Checked, EndpointBody, EndpointPatch, EndpointView, document};
use super::events::json;
use super::{Page, reachable};
use crate::Api;
use crate::body::{Json, MergePatch};
use crate::caller::Member;
use crate::extract::{NoQuery, PageQuery, Query, endpoint_id, no_such_endpoint, no_such_group};
use crate::openapi::params::{EndpointPath, GroupPath};
use crate::problem::{Kind, Problem};

/// How often a change is tried that another one overtakes.
const MOST_ROUNDS: usize = 10;

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
    let new = body.check()?.into_new();
    reachable(&api.egress, &new.url).await?;
    match endpoint::create(&api.pool, &api.vault, &caller.author("create_endpoint"), &group, &new).await? {
        Created::Created(made) => {
            api.doorbell.ring();
            let location = format!("/consumer-groups/{group}/endpoints/{}", made.id);
            let view = EndpointView::new(&api.vault, &group, *made).with_secret(&new.secret);
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
    let group = group::get(&api.reads, &name).await?.ok_or_else(no_such_group)?;
    let endpoints = endpoint::list(&api.reads, group.id, before, limit + 1).await?;
    let page = Page::new(endpoints, limit, |endpoint| endpoint.id.to_string());
    Ok(json(&page.map(|endpoint| EndpointView::new(&api.vault, &name, endpoint))))
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
    let found = endpoint::get(&api.reads, &group, endpoint_id(&id)?).await?;
    Ok(json(&EndpointView::new(&api.vault, &group, found.ok_or_else(no_such_endpoint)?)))
}

/// Change an endpoint
///
/// A JSON merge patch (RFC 7396): members that are not named stay as they are, null takes one back to its
/// default. Another filter holds for events that are posted from now on. `auth` is replaced as a whole; secrets
/// are rotated instead.
#[utoipa::path(
    patch,
    path = "/consumer-groups/{group}/endpoints/{id}",
    tag = "endpoints",
    params(EndpointPath),
    request_body(content = EndpointPatch, content_type = "application/merge-patch+json"),
    responses(
        (status = 200, description = "The endpoint as it is now", body = EndpointView<'_>),
        (status = 409, description = "url-taken"),
    )
)]
pub(super) async fn update_endpoint(
    Member { caller, group }: Member,
    State(api): State<Api>,
    Path((_, id)): Path<(String, String)>,
    _: NoQuery,
    patch: MergePatch,
) -> Result<Response, Problem> {
    let id = endpoint_id(&id)?;
    if patch.names("secret") {
        return Err(Problem::field("/secret", "can't be changed here: rotate it"));
    }
    if patch.names("start") {
        return Err(Problem::field("/start", "can't be changed: it holds for a new endpoint only"));
    }
    let author = caller.author("update_endpoint");
    let named: Vec<&str> = patch.0.keys().map(String::as_str).collect();
    for _ in 0..MOST_ROUNDS {
        let current = endpoint::get(&api.pool, &group, id).await?.ok_or_else(no_such_endpoint)?;
        let whole: Checked = patch.apply::<EndpointBody>(document(&current))?.check()?;
        if whole.url.as_str() != current.url {
            reachable(&api.egress, &whole.url).await?;
        }
        if current.auth.is_some() && !patch.names("auth") && whole.sets_authorization() {
            return Err(Problem::field("/headers", "must not set `authorization` beside `auth`"));
        }
        let url = whole.url.clone();
        let new = whole.into_replacement(&api.vault, id, patch.names("auth"));
        match endpoint_change::replace(&api.pool, &author, (&group, id), current.version, &new, &named)
            .await?
        {
            Changed::Changed => {
                api.doorbell.ring();
                let changed = endpoint::get(&api.pool, &group, id).await?.ok_or_else(no_such_endpoint)?;
                return Ok(json(&EndpointView::new(&api.vault, &group, changed)));
            }
            Changed::NotFound => return Err(no_such_endpoint()),
            Changed::UrlTaken => {
                let by = endpoint::with_url(&api.pool, &group, &url).await?;
                let problem = Problem::new(Kind::UrlTaken, format!("The group {group} has this URL already"));
                return Err(match by {
                    Some(by) => problem.existing("endpoint_id", by.to_string()),
                    None => problem,
                });
            }
            Changed::Outdated => {}
        }
    }
    Err(Problem::new(Kind::Overloaded, "Others change this endpoint at the same time; nothing was changed"))
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
