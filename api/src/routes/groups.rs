//! Consumer groups.

use std::time::Duration;

use axum::extract::{Path, State};
use axum::http::{StatusCode, header};
use axum::response::{IntoResponse as _, Response};
use chrono::{DateTime, Utc};
use eventrail_core::db::audit::Author;
use eventrail_core::db::figures::{self, Figures};
use eventrail_core::db::group::{self, Created, Deleted, Group};
use eventrail_core::group::GroupName;
use eventrail_core::retry::RetryOverride;
use serde::{Deserialize, Serialize};
use serde_json::{Map, json};
use utoipa::ToSchema;

use super::events::{self as view, micros, micros_or_null};
use super::{Page, description};
use crate::Api;
use crate::body::{Json, MergePatch, Object};
use crate::caller::{Insider, Member, Operator};
use crate::extract::{NoQuery, PageQuery, Query, group_name, no_such_group};
use crate::openapi::params::GroupPath;
use crate::openapi::schema;
use crate::problem::{Kind, Problem};

const PROBE_DEADLINE: Duration = Duration::from_millis(500);

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

/// What a patch may change.
#[derive(Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct GroupPatch {
    #[schema(value_type = Option<schema::Description>)]
    description: Option<String>,
    #[schema(value_type = Option<schema::RetryOverride>)]
    retry: Option<Object<RetryOverride>>,
}

#[derive(Serialize, ToSchema)]
struct GroupDetail {
    #[serde(flatten)]
    group: GroupView,
    /// Position of the last event of the log.
    head: i64,
    /// Up to here all is settled, but for retries, which have left the stream.
    settled: i64,
    /// Events after it, whether the group wants them or not; a million at most.
    lag: i64,
    #[serde(serialize_with = "micros_or_null")]
    oldest_unsettled_at: Option<DateTime<Utc>>,
    /// When something was delivered last, of the group's newest 10,000 deliveries.
    #[serde(serialize_with = "micros_or_null")]
    last_delivered_at: Option<DateTime<Utc>>,
    /// Deliveries that were deferred and not tried yet; like those below a million at most.
    pending: i64,
    retrying: i64,
    dead: i64,
    /// Endpoints that are left out until they have recovered; their backlog stays in the log.
    parked: i64,
    /// Deliveries that were still owed when retention dropped their events, RETENTION_HARD_DAYS old.
    expired: i64,
    dispatchers_alive: i64,
    /// Null while nothing waits or all goes on.
    #[schema(value_type = Option<schema::StallReason>)]
    stalled_because: Option<&'static str>,
}

impl GroupDetail {
    fn new(group: Group, figures: &Figures, stalled_because: Option<&'static str>) -> Self {
        Self {
            group: group.into(),
            head: figures.head,
            settled: figures.settled,
            lag: figures.lag,
            oldest_unsettled_at: figures.oldest_unsettled_at,
            last_delivered_at: figures.last_delivered_at,
            pending: figures.pending,
            retrying: figures.retrying,
            dead: figures.dead,
            parked: figures.parked,
            expired: figures.expired,
            dispatchers_alive: figures.dispatchers_alive,
            stalled_because,
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
            Ok((StatusCode::CREATED, [(header::LOCATION, location)], view::json(&GroupView::from(group)))
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
    let groups = group::list(&api.reads, caller.groups(), before, limit + 1).await?;
    let page = Page::new(groups, limit, |group| format!("g{}", group.id));
    Ok(view::json(&page.map(GroupView::from)))
}

/// Read a group
///
/// With its live figures.
#[utoipa::path(
    get,
    path = "/consumer-groups/{group}",
    tag = "groups",
    params(GroupPath),
    responses((status = 200, description = "The group", body = GroupDetail))
)]
pub(super) async fn get_group(
    Member { group: name, .. }: Member,
    State(api): State<Api>,
    _: NoQuery,
) -> Result<Response, Problem> {
    let group = group::get(&api.reads, &name).await?.ok_or_else(no_such_group)?;
    let figures = figures::of_group(&api.reads, group.id).await?;
    let redis_asked = tokio::time::timeout(PROBE_DEADLINE, api.redis.ask()).await;
    let stalled_because = stalled_because(&group, &figures, matches!(redis_asked, Ok(Ok(()))));
    Ok(view::json(&GroupDetail::new(group, &figures, stalled_because)))
}

/// Why nothing moves although something waits. The first reason that holds.
fn stalled_because(group: &Group, figures: &Figures, redis_answers: bool) -> Option<&'static str> {
    match () {
        () if group.paused_at.is_some() => Some("paused"),
        () if !figures.waits() => None,
        () if figures.dispatchers_alive == 0 => Some("no_dispatcher"),
        () if !figures.relay_leads => Some("no_relay"),
        () if !redis_answers => Some("redis"),
        () if figures.endpoints > 0 && figures.available == 0 => Some("endpoints_unavailable"),
        () => None,
    }
}

/// Change a group
///
/// A JSON merge patch (RFC 7396): members that are not named stay as they are, null takes one back to its
/// default.
#[utoipa::path(
    patch,
    path = "/consumer-groups/{group}",
    tag = "groups",
    params(GroupPath),
    request_body(content = GroupPatch, content_type = "application/merge-patch+json"),
    responses((status = 200, description = "The group as it is now", body = GroupView))
)]
pub(super) async fn update_group(
    Member { caller, group: name }: Member,
    State(api): State<Api>,
    _: NoQuery,
    patch: MergePatch,
) -> Result<Response, Problem> {
    let current = group::get(&api.pool, &name).await?.ok_or_else(no_such_group)?;
    let mut document = Map::new();
    document.insert("description".into(), current.description.into());
    if let Some(retry) = current.retry {
        document.insert("retry".into(), json!(retry.0));
    }
    let whole: GroupPatch = patch.apply(document)?;
    let description = description(whole.description)?;
    let retry = whole.retry.map(|Object(retry)| retry);
    let changes = group::Patch {
        description: patch.names("description").then_some(description),
        retry: patch.names("retry").then_some(retry),
    };
    let author = caller.author("update_group");
    let group = group::update(&api.pool, &author, &name, &changes).await?.ok_or_else(no_such_group)?;
    api.doorbell.ring();
    Ok(view::json(&GroupView::from(group)))
}

/// Pause a group
///
/// Its deliveries and retries stop; what comes meanwhile is kept.
#[utoipa::path(
    post,
    path = "/consumer-groups/{group}/pause",
    tag = "groups",
    params(GroupPath),
    responses((status = 200, description = "Paused, also if it was before", body = GroupView))
)]
pub(super) async fn pause_group(
    Member { caller, group }: Member,
    State(api): State<Api>,
    _: NoQuery,
) -> Result<Response, Problem> {
    set_paused(&api, &caller.author("pause_group"), &group, true).await
}

/// Resume a group
#[utoipa::path(
    post,
    path = "/consumer-groups/{group}/resume",
    tag = "groups",
    params(GroupPath),
    responses((status = 200, description = "Goes on, also if it was not paused", body = GroupView))
)]
pub(super) async fn resume_group(
    Member { caller, group }: Member,
    State(api): State<Api>,
    _: NoQuery,
) -> Result<Response, Problem> {
    set_paused(&api, &caller.author("resume_group"), &group, false).await
}

async fn set_paused(api: &Api, author: &Author, name: &GroupName, paused: bool) -> Result<Response, Problem> {
    let group = group::set_paused(&api.pool, author, name, paused).await?.ok_or_else(no_such_group)?;
    api.doorbell.ring();
    Ok(view::json(&GroupView::from(group)))
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
