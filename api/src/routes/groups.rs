//! Consumer groups.

use axum::extract::{Path, State};
use axum::http::{StatusCode, header};
use axum::response::{IntoResponse as _, Response};
use chrono::{DateTime, Utc};
use eventrail_core::db::group::{self, Created, Deleted, Group};
use eventrail_core::group::GroupName;
use eventrail_core::retry::RetryOverride;
use serde::{Deserialize, Serialize};

use super::events::{json, micros};
use super::{Page, description};
use crate::Api;
use crate::body::{Json, Object};
use crate::extract::{NoQuery, PageQuery, Query, group_name, no_such_group};
use crate::problem::{Kind, Problem};

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct GroupBody {
    name: Option<GroupName>,
    description: Option<String>,
    retry: Option<Object<RetryOverride>>,
}

#[derive(Serialize)]
struct GroupView {
    name: String,
    description: String,
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

/// `POST /consumer-groups`
pub(super) async fn create_group(
    State(api): State<Api>,
    _: NoQuery,
    Json(body): Json<GroupBody>,
) -> Result<Response, Problem> {
    let name = body.name.ok_or_else(|| Problem::field("/name", "is required"))?;
    let description = description(body.description)?;
    match group::create(&api.pool, &name, &description, body.retry.as_ref().map(|retry| &retry.0)).await? {
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

/// `GET /consumer-groups`
pub(super) async fn list_groups(
    State(api): State<Api>,
    Query(page): Query<PageQuery>,
) -> Result<Response, Problem> {
    let limit = page.limit()?;
    let before = page.after(|cursor| cursor.strip_prefix('g')?.parse().ok())?;
    let groups = group::list(&api.pool, before, limit + 1).await?;
    let page = Page::new(groups, limit, |group| format!("g{}", group.id));
    Ok(json(&page.map(GroupView::from)))
}

/// `GET /consumer-groups/{group}`
pub(super) async fn get_group(
    State(api): State<Api>,
    Path(name): Path<String>,
    _: NoQuery,
) -> Result<Response, Problem> {
    let group = group::get(&api.pool, &group_name(&name)?).await?.ok_or_else(no_such_group)?;
    Ok(json(&GroupView::from(group)))
}

/// `DELETE /consumer-groups/{group}`
pub(super) async fn delete_group(
    State(api): State<Api>,
    Path(name): Path<String>,
    _: NoQuery,
) -> Result<StatusCode, Problem> {
    match group::delete(&api.pool, &group_name(&name)?).await? {
        Deleted::Deleted => {
            api.doorbell.ring();
            Ok(StatusCode::NO_CONTENT)
        }
        Deleted::NotFound => Err(no_such_group()),
        Deleted::IsDefault => Err(Problem::new(Kind::DefaultGroup, "The group `default` can't be deleted")),
    }
}
