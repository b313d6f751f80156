//! Consumer groups.

use axum::extract::{Path, State};
use axum::http::{StatusCode, header};
use axum::response::{IntoResponse as _, Response};
use chrono::{DateTime, Utc};
use eventrail_core::db::group::{self, Created, Deleted, Group};
use eventrail_core::group::GroupName;
use eventrail_core::retry::RetryOverride;
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use super::events::{json, micros};
use super::{Page, description};
use crate::Api;
use crate::body::{Json, Object};
use crate::caller::{Insider, Member, Operator};
use crate::extract::{NoQuery, PageQuery, Query, group_name, no_such_group};
use crate::openapi::params::GroupPath;
use crate::openapi::schema;
use crate::problem::{Kind, Problem};

#[derive(Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct GroupBody {
    #[schema(value_type = schema::GroupName)]
    name: Option<GroupName>,
    #[schema(value_type = Option<schema::Description>)]
    description: Option<String>,
    /// For the endpoints that say nothing else.
    #[schema(value_type = Option<schema::RetryOverride>)]
    retry: Option<Object<RetryOverride>>,
}

#[derive(Serialize, ToSchema)]
struct GroupView {
    #[schema(value_type = schema::GroupName)]
    name: String,
    description: String,
    #[schema(value_type = Option<schema::RetryOverride>)]
    retry: Option<RetryOverride>,
    paused: bool,
    #[serde(serialize_with = "micros")]
    created_at: DateTime<Utc>,
}

impl From<Group> for GroupView {
    fn from(group: Group) -> Self {
        Self {
            name: group.name,
            description: group.description,
            retry: group.retry.map(|json| json.0),
            paused: group.paused_at.is_some(),
            created_at: group.created_at,
        }
    }
}

/// Create a group
#[utoipa::path(
    post,
    path = "/consumer-groups",
    tag = "groups",
    request_body = GroupBody,
    responses(
        (status = 201, description = "Created", body = GroupView, headers(("location" = String, description = "Its path"))),
        (status = 409, description = "name-taken"),
    )
)]
pub(super) async fn create_group(
    Operator(caller): Operator,
    State(api): State<Api>,
    _: NoQuery,
    Json(body): Json<GroupBody>,
) -> Result<Response, Problem> {
    let name = body.name.ok_or_else(|| Problem::field("/name", "is required"))?;
    let description = description(body.description)?;
    let (author, retry) = (caller.author("create_group"), body.retry.map(|Object(retry)| retry));
    match group::create(&api.pool, &author, &name, &description, retry.as_ref()).await? {
        Created::Created(group) => {
            api.doorbell.ring();
            let location = format!("/consumer-groups/{name}");
            Ok((StatusCode::CREATED, [(header::LOCATION, location)], json(&GroupView::from(group)))
                .into_response())
        }
        Created::NameTaken => {
            Err(Problem::new(Kind::NameTaken, format!("There is a group with the name {name} already")))
        }
    }
}

/// List groups
///
/// The newest first.
#[utoipa::path(
    get,
    path = "/consumer-groups",
    tag = "groups",
    params(PageQuery),
    responses((status = 200, description = "A page of groups", body = Page<GroupView>))
)]
pub(super) async fn list_groups(
    Insider(caller): Insider,
    State(api): State<Api>,
    Query(page): Query<PageQuery>,
) -> Result<Response, Problem> {
    let limit = page.limit()?;
    let before = page.after(|cursor| cursor.strip_prefix('g')?.parse().ok())?;
    let groups = group::list(&api.pool, caller.groups(), before, limit + 1).await?;
    let page = Page::new(groups, limit, |group| format!("g{}", group.id));
    Ok(json(&page.map(GroupView::from)))
}

/// Read a group
#[utoipa::path(
    get,
    path = "/consumer-groups/{group}",
    tag = "groups",
    params(GroupPath),
    responses((status = 200, description = "The group", body = GroupView))
)]
pub(super) async fn get_group(
    Member { group: name, .. }: Member,
    State(api): State<Api>,
    _: NoQuery,
) -> Result<Response, Problem> {
    let group = group::get(&api.pool, &name).await?.ok_or_else(no_such_group)?;
    Ok(json(&GroupView::from(group)))
}

/// Delete a group
///
/// Its endpoints go with it, and so do deliveries that are still to be made.
#[utoipa::path(
    delete,
    path = "/consumer-groups/{group}",
    tag = "groups",
    params(GroupPath),
    responses((status = 204, description = "Deleted"), (status = 409, description = "default-group"))
)]
pub(super) async fn delete_group(
    Operator(caller): Operator,
    State(api): State<Api>,
    Path(name): Path<String>,
    _: NoQuery,
) -> Result<StatusCode, Problem> {
    match group::delete(&api.pool, &caller.author("delete_group"), &group_name(&name)?).await? {
        Deleted::Deleted => {
            api.doorbell.ring();
            Ok(StatusCode::NO_CONTENT)
        }
        Deleted::NotFound => Err(no_such_group()),
        Deleted::IsDefault => Err(Problem::new(Kind::DefaultGroup, "The group `default` can't be deleted")),
    }
}
