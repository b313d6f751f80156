//! Replays: a window of the log sent again. Redrives are listed, watched and stopped here as well.

use axum::extract::{Path, State};
use axum::http::{StatusCode, header};
use axum::response::{IntoResponse as _, Response};
use chrono::DateTime;
use eventrail_core::db::replay::{self, MOST_FEEDS, MOST_RUNNING, Replay, ReplayFilter, Status};
use eventrail_core::db::replay_create::{self, Created, MOST_ENDPOINTS};
use eventrail_core::db::replay_progress;
use eventrail_core::db::replay_window::{self, Draft};
use eventrail_core::event::Source;
use eventrail_core::group::GroupName;
use eventrail_core::ids::EndpointId;
use eventrail_core::matching::Pattern;
use serde::Deserialize;
use utoipa::{IntoParams, ToSchema};

use super::Page;
use super::events::json;
use super::lists::ListedEventView;
use super::reach::{self, Reach};
use super::replay_view::{ReplayPreview, ReplayView};
use crate::Api;
use crate::body::Json;
use crate::caller::{Caller, Insider};
use crate::extract::{NoQuery, PageQuery, Query, Time, no_such_group, no_such_replay, replay_id};
use crate::openapi::params::ReplayPath;
use crate::openapi::schema;
use crate::problem::{FieldError, Kind, Problem};

/// What a preview shows.
pub(super) const SAMPLE: i64 = 10;
const MOST_EVENTS: i64 = 1_000_000_000;

#[derive(Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct ReplayBody {
    /// Events created at this time or later.
    #[schema(value_type = String, format = DateTime)]
    from: Option<Time>,
    /// Events created before this time, and before now.
    #[schema(value_type = String, format = DateTime)]
    to: Option<Time>,
    /// No more events than this, the earliest first.
    #[schema(minimum = 1, maximum = 1_000_000_000)]
    limit: Option<i64>,
    /// `*` for all groups. That of the endpoint by default, or else `default`.
    #[schema(value_type = Option<schema::GroupOrAll>)]
    group: Option<Reach>,
    #[schema(value_type = Option<schema::EndpointId>)]
    endpoint_id: Option<EndpointId>,
    /// An event type, or a pattern such as `invoice.*`.
    #[schema(value_type = Option<schema::Pattern>)]
    event_type: Option<Pattern>,
    #[schema(value_type = Option<schema::Source>)]
    source: Option<Source>,
    /// Only what was not delivered before.
    #[serde(default)]
    only_missing: bool,
    /// So many deliveries a second at most, over all endpoints.
    #[schema(minimum = 1, maximum = 100_000)]
    rate_per_second: Option<i32>,
    /// Only say what it would bring.
    #[serde(default)]
    dry_run: bool,
}

impl ReplayBody {
    /// All but the group.
    fn draft(&self) -> Result<Draft, Problem> {
        let mut errors = Vec::new();
        for (name, is_missing) in [("/from", self.from.is_none()), ("/to", self.to.is_none())] {
            if is_missing {
                errors.push(FieldError::new(name, "is required"));
            }
        }
        let from = self.from.as_ref().map_or(DateTime::UNIX_EPOCH, |time| time.0);
        let to = self.to.as_ref().map_or(DateTime::UNIX_EPOCH, |time| time.0);
        if errors.is_empty() && from >= to {
            errors.push(FieldError::new("/to", "must be later than `from`"));
        }
        if self.limit.is_some_and(|limit| !(1..=MOST_EVENTS).contains(&limit)) {
            errors.push(FieldError::new("/limit", format!("must be 1 to {MOST_EVENTS}")));
        }
        errors.extend(wrong_rate(self.rate_per_second));
        if !errors.is_empty() {
            return Err(Problem::fields(errors));
        }
        Ok(Draft {
            group: None,
            endpoint_id: self.endpoint_id,
            event_type: self.event_type.clone(),
            source: self.source.clone(),
            from,
            to,
            limit: self.limit,
            only_missing: self.only_missing,
            rate_per_second: self.rate_per_second,
        })
    }
}

pub(super) fn wrong_rate(rate: Option<i32>) -> Option<FieldError> {
    let is_wrong = rate.is_some_and(|rate| !(1..=100_000).contains(&rate));
    is_wrong.then(|| FieldError::new("/rate_per_second", "must be 1 to 100000"))
}

/// Replay a window
///
/// Sends its events again to the endpoints that are subscribed now, with the header `eventrail-replay` unless
/// `only_missing` leaves out what was delivered before. The window is counted first, and ends at the last event
/// that there was then: what comes while it is being asked for is not part of it.
#[utoipa::path(
    post,
    path = "/replay",
    tag = "replays",
    request_body = ReplayBody,
    responses(
        (status = 202, description = "It begins", body = ReplayView, headers(("location" = String, description = "Its path"))),
        (status = 200, description = "What it would bring (`dry_run`)", body = ReplayPreview),
        (status = 404, description = "not-found"),
        (status = 409, description = "too-many-replays"),
    )
)]
pub(super) async fn create_replay(
    Insider(caller): Insider,
    State(api): State<Api>,
    _: NoQuery,
    Json(body): Json<ReplayBody>,
) -> Result<Response, Problem> {
    let draft = body.draft()?;
    let otherwise = |_: &Caller| Ok(Reach::Group(GroupName::default_group()));
    let reach = reach::of_body(&api, &caller, body.group, body.endpoint_id, otherwise).await?;
    let draft = Draft { group: reach.group(), ..draft };
    if body.dry_run {
        let measured = replay_window::measure(&api.pool, &draft).await?;
        let sample = replay_window::sample(&api.pool, &draft, &measured, SAMPLE).await?;
        return Ok(json(&ReplayPreview {
            matched: measured.tally.matched,
            owed: measured.tally.owed,
            endpoints: measured.endpoints(),
            sample: sample.into_iter().map(ListedEventView::from).collect(),
        }));
    }
    let created = replay_create::create(&api.pool, &caller.author("create_replay"), &draft).await?;
    answer(&api, created).await
}

/// The replay that was made, or why there is none.
pub(super) async fn answer(api: &Api, created: Created) -> Result<Response, Problem> {
    let id = match created {
        Created::Created(id) => id,
        Created::NotFound => return Err(no_such_group()),
        Created::TooManyEndpoints(endpoints) => {
            let detail = format!(
                "would concern {endpoints} endpoints, and may at most {MOST_ENDPOINTS}: name a group"
            );
            return Err(Problem::field("/group", detail));
        }
        Created::TooManyReplays => {
            let detail = format!(
                "{MOST_RUNNING} of the group may run at once, with {MOST_FEEDS} endpoints over all groups: \
                 wait until one has ended, or cancel it"
            );
            return Err(Problem::new(Kind::TooManyReplays, detail));
        }
    };
    api.doorbell.ring();
    let view = view(api, replay::get(&api.pool, id, None).await?.ok_or_else(no_such_replay)?).await?;
    Ok((StatusCode::ACCEPTED, [(header::LOCATION, format!("/replays/{id}"))], json(&view)).into_response())
}

async fn view(api: &Api, replay: Replay) -> Result<ReplayView, Problem> {
    let progress = replay_progress::of(&api.pool, &replay).await?;
    Ok(ReplayView::new(replay, &progress))
}

#[derive(Clone, Copy, Deserialize)]
#[serde(rename_all = "snake_case")]
enum KindName {
    Replay,
    Redrive,
}

#[derive(Clone, Copy, Deserialize)]
#[serde(rename_all = "snake_case")]
enum StatusName {
    Running,
    Cancelled,
    Done,
}

#[derive(Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub(super) struct ReplaysQuery {
    /// Those of one group; `*` for those of all groups at once.
    #[param(value_type = schema::GroupOrAll, required = false)]
    group: Option<Reach>,
    #[param(value_type = schema::ReplayKind, required = false)]
    kind: Option<KindName>,
    #[param(value_type = schema::ReplayStatus, required = false)]
    status: Option<StatusName>,
    /// So many at most; 50 by default.
    #[param(value_type = i64, required = false, minimum = 1, maximum = 500)]
    limit: Option<i64>,
    /// The `next_cursor` of the page before.
    #[param(value_type = String, required = false)]
    cursor: Option<String>,
}

/// List replays and redrives
///
/// The newest first, with their progress. Subscribers see those of their groups.
#[utoipa::path(
    get,
    path = "/replays",
    tag = "replays",
    params(ReplaysQuery),
    responses((status = 200, description = "A page of replays", body = Page<ReplayView>))
)]
pub(super) async fn list_replays(
    Insider(caller): Insider,
    State(api): State<Api>,
    Query(query): Query<ReplaysQuery>,
) -> Result<Response, Problem> {
    let page = PageQuery::new(query.limit, query.cursor);
    let limit = page.limit()?;
    let group = match query.group {
        Some(Reach::All) => {
            caller.may_operate()?;
            Some("*".to_owned())
        }
        Some(Reach::Group(name)) => {
            caller.may_enter(name.as_str())?;
            Some(name.to_string())
        }
        None => None,
    };
    let filter = ReplayFilter {
        groups: caller.groups(),
        group,
        kind: query.kind.map(|kind| match kind {
            KindName::Replay => "replay",
            KindName::Redrive => "redrive",
        }),
        status: query.status.map(|status| match status {
            StatusName::Running => Status::Running,
            StatusName::Cancelled => Status::Cancelled,
            StatusName::Done => Status::Done,
        }),
        before: page.after(|cursor| cursor.parse().ok())?,
    };
    let replays = replay::list(&api.reads, &filter, limit + 1).await?;
    let page = Page::new(replays, limit, |replay| replay.id.to_string());
    let mut data = Vec::with_capacity(page.data.len());
    for replay in page.data {
        data.push(view(&api, replay).await?);
    }
    Ok(json(&Page { data, next_cursor: page.next_cursor }))
}

/// Read a replay or redrive
///
/// With its progress, worked out now.
#[utoipa::path(
    get,
    path = "/replays/{id}",
    tag = "replays",
    params(ReplayPath),
    responses((status = 200, description = "The replay", body = ReplayView))
)]
pub(super) async fn get_replay(
    Insider(caller): Insider,
    State(api): State<Api>,
    Path(id): Path<String>,
    _: NoQuery,
) -> Result<Response, Problem> {
    Ok(json(&view(&api, find(&api, &caller, &id).await?).await?))
}

/// Stop a replay or redrive
///
/// Nothing more of it is sent. What was to be tried again ends as dead, with the error `cancelled`. One that has
/// ended stays as it is.
#[utoipa::path(
    post,
    path = "/replays/{id}/cancel",
    tag = "replays",
    params(ReplayPath),
    responses((status = 200, description = "Stopped, also if it was before", body = ReplayView))
)]
pub(super) async fn cancel_replay(
    Insider(caller): Insider,
    State(api): State<Api>,
    Path(id): Path<String>,
    _: NoQuery,
) -> Result<Response, Problem> {
    let replay = find(&api, &caller, &id).await?;
    replay::cancel(&api.pool, &caller.author("cancel_replay"), replay.id).await?;
    api.doorbell.ring();
    Ok(json(&view(&api, find(&api, &caller, &id).await?).await?))
}

async fn find(api: &Api, caller: &Caller, id: &str) -> Result<Replay, Problem> {
    replay::get(&api.reads, replay_id(id)?, caller.groups()).await?.ok_or_else(no_such_replay)
}
