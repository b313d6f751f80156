//! Dead letters sent again.

use axum::extract::State;
use axum::response::Response;
use eventrail_core::db::dead_letter::{self, DeadFilter, DeadLetter};
use eventrail_core::db::redrive::{self, Redrive};
use eventrail_core::ids::EndpointId;
use eventrail_core::matching::Pattern;
use eventrail_core::verdict::Fingerprint;
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use super::dead_letters::DeadLetterView;
use super::events::json;
use super::reach::{self, Reach};
use super::replay_view::ReplayView;
use super::replays::{self, SAMPLE, wrong_rate};
use crate::Api;
use crate::body::Json;
use crate::caller::{Caller, Insider};
use crate::extract::{NoQuery, no_such_group};
use crate::openapi::schema;
use crate::problem::Problem;

#[derive(Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct RedriveBody {
    /// `*` for all groups. That of the endpoint by default, or else all that you may see, if that is one or you are
    /// an operator.
    #[schema(value_type = Option<schema::GroupOrAll>)]
    group: Option<Reach>,
    #[schema(value_type = Option<schema::EndpointId>)]
    endpoint_id: Option<EndpointId>,
    /// An event type, or a pattern such as `invoice.*`.
    #[schema(value_type = Option<schema::Pattern>)]
    event_type: Option<Pattern>,
    /// A status code or a kind of error.
    #[schema(value_type = Option<schema::Fingerprint>)]
    error: Option<Fingerprint>,
    /// So many deliveries a second at most, over all endpoints.
    #[schema(minimum = 1, maximum = 100_000)]
    rate_per_second: Option<i32>,
    /// Only say what it would bring.
    #[serde(default)]
    dry_run: bool,
}

/// What a redrive would bring.
#[derive(Serialize, ToSchema)]
struct RedrivePreview {
    /// Dead letters.
    matched: i64,
    endpoints: usize,
    /// Those of the newest events.
    sample: Vec<DeadLetterView>,
}

/// Send dead letters again
///
/// Each with all of its retries, as a replay of kind `redrive`, which is watched and stopped like any other. What
/// dies meanwhile is not part of it, nor is what is owed to deleted endpoints; nor, unless `error` is `cancelled`,
/// what a cancelled replay has ended, which may have been delivered before.
#[utoipa::path(
    post,
    path = "/dead-letters/redrive",
    tag = "dead letters",
    request_body = RedriveBody,
    responses(
        (status = 202, description = "It begins", body = ReplayView, headers(("location" = String, description = "Its path"))),
        (status = 200, description = "What it would bring (`dry_run`)", body = RedrivePreview),
        (status = 404, description = "not-found"),
        (status = 409, description = "too-many-replays"),
    )
)]
pub(super) async fn redrive_dead_letters(
    Insider(caller): Insider,
    State(api): State<Api>,
    _: NoQuery,
    Json(body): Json<RedriveBody>,
) -> Result<Response, Problem> {
    if let Some(error) = wrong_rate(body.rate_per_second) {
        return Err(Problem::fields(vec![error]));
    }
    let group =
        reach::of_body(&api, &caller, body.group, body.endpoint_id, all_of_the_callers).await?.group();
    let groups = dead_letter::groups(&api.reads, group.as_ref(), None).await?;
    let filter =
        DeadFilter { groups, endpoint_id: body.endpoint_id, event_type: body.event_type, error: body.error };
    if body.dry_run {
        let (matched, endpoints) = redrive::measure(&api.pool, &filter).await?;
        let sample = dead_letter::list(&api.reads, &filter, None, SAMPLE, false).await?.rows;
        let is_meant = |letter: &DeadLetter| filter.error.is_some() || letter.error != "cancelled";
        let sample = sample.into_iter().filter(is_meant).map(DeadLetterView::from).collect();
        return Ok(json(&RedrivePreview { matched, endpoints, sample }));
    }
    let redrive = Redrive { group, filter, rate_per_second: body.rate_per_second };
    let created = redrive::create(&api.pool, &caller.author("redrive_dead_letters"), &redrive).await?;
    replays::answer(&api, created).await
}

/// Without a name: all groups for operators; a subscriber's, if there is one only.
fn all_of_the_callers(caller: &Caller) -> Result<Reach, Problem> {
    match caller.groups() {
        None => Ok(Reach::All),
        Some([only]) => only.parse().map(Reach::Group).map_err(|_| no_such_group()),
        Some(_) => Err(Problem::field("/group", "is required: your key has several groups")),
    }
}
