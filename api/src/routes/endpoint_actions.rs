//! What is done with an endpoint: on, off, tried out, its secrets read and rotated.

use axum::extract::{Path, State};
use axum::http::header;
use axum::response::{IntoResponse as _, Response};
use chrono::{DateTime, Utc};
use eventrail_core::db::delivery::Attempt;
use eventrail_core::db::endpoint;
use eventrail_core::db::endpoint_change::{self, Backlog, Changed, MOST_SECRETS, Rotated};
use eventrail_core::group::GroupName;
use eventrail_core::ids::{EndpointId, EventId};
use eventrail_core::secret::Secret;
use eventrail_core::verdict::Failure;
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use super::endpoint_body::EndpointView;
use super::events::{json, micros, micros_or_null};
use crate::Api;
use crate::body::Json;
use crate::caller::Member;
use crate::extract::{NoQuery, endpoint_id, no_such_endpoint};
use crate::openapi::params::EndpointPath;
use crate::openapi::schema;
use crate::problem::{Kind, Problem};

const LONGEST_GRACE: i64 = 604_800;

/// What becomes of the events that were missed.
#[derive(Clone, Copy, Default, Deserialize, ToSchema)]
#[serde(rename_all = "snake_case")]
enum BacklogName {
    #[default]
    Deliver,
    /// Deliveries that wait end as dead, and what was not tried yet is given up as well.
    Skip,
}

#[derive(Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct EnableBody {
    /// `deliver` by default.
    #[serde(default)]
    backlog: BacklogName,
}

/// Switch an endpoint on
///
/// What it has missed meanwhile is delivered, or skipped.
#[utoipa::path(
    post,
    path = "/consumer-groups/{group}/endpoints/{id}/enable",
    tag = "endpoints",
    params(EndpointPath),
    request_body = EnableBody,
    responses((status = 200, description = "On, also if it was before", body = EndpointView<'_>))
)]
pub(super) async fn enable_endpoint(
    Member { caller, group }: Member,
    State(api): State<Api>,
    Path((_, id)): Path<(String, String)>,
    _: NoQuery,
    Json(body): Json<EnableBody>,
) -> Result<Response, Problem> {
    let backlog = match body.backlog {
        BacklogName::Deliver => Backlog::Deliver,
        BacklogName::Skip => Backlog::Skip,
    };
    let (id, author) = (endpoint_id(&id)?, caller.author("enable_endpoint"));
    let changed = endpoint_change::enable(&api.pool, &author, &group, id, backlog).await?;
    answer(&api, &group, id, changed).await
}

/// Switch an endpoint off
///
/// What it misses from now on is kept in the log.
#[utoipa::path(
    post,
    path = "/consumer-groups/{group}/endpoints/{id}/disable",
    tag = "endpoints",
    params(EndpointPath),
    responses((status = 200, description = "Off, also if it was before", body = EndpointView<'_>))
)]
pub(super) async fn disable_endpoint(
    Member { caller, group }: Member,
    State(api): State<Api>,
    Path((_, id)): Path<(String, String)>,
    _: NoQuery,
) -> Result<Response, Problem> {
    let (id, author) = (endpoint_id(&id)?, caller.author("disable_endpoint"));
    let changed = endpoint_change::disable(&api.pool, &author, &group, id).await?;
    answer(&api, &group, id, changed).await
}

/// The endpoint as it is after a change.
async fn answer(api: &Api, group: &GroupName, id: EndpointId, changed: Changed) -> Result<Response, Problem> {
    if changed != Changed::Changed {
        return Err(no_such_endpoint());
    }
    api.doorbell.ring();
    let endpoint = endpoint::get(&api.pool, group, id).await?.ok_or_else(no_such_endpoint)?;
    Ok(json(&EndpointView::new(&api.vault, group, endpoint)))
}

/// A request that was made to try an endpoint out.
#[derive(Serialize, ToSchema)]
struct TestView {
    /// The `webhook-id` of the request.
    #[schema(value_type = schema::EventId)]
    event_id: EventId,
    /// Whether a delivery with this answer would count as delivered.
    delivered: bool,
    #[serde(serialize_with = "micros")]
    started_at: DateTime<Utc>,
    duration_ms: i32,
    status_code: Option<u16>,
    #[schema(value_type = Option<schema::FailureKind>)]
    error: Option<&'static str>,
    error_detail: Option<String>,
    /// The beginning of the answer.
    response_body: Option<String>,
}

impl TestView {
    fn new(event_id: EventId, attempt: Attempt) -> Self {
        Self {
            event_id,
            delivered: attempt.error.is_none(),
            started_at: attempt.started_at,
            duration_ms: attempt.duration_ms,
            status_code: attempt.status_code,
            error: attempt.error.map(Failure::as_str),
            error_detail: attempt.error_detail,
            response_body: attempt.response_body.map(|bytes| String::from_utf8_lossy(&bytes).into_owned()),
        }
    }
}

/// Try an endpoint out
///
/// Sends a signed `eventrail.ping` now, also while the endpoint is disabled. It is not on the log and not
/// retried. The answer is 200 whatever the receiver answers.
#[utoipa::path(
    post,
    path = "/consumer-groups/{group}/endpoints/{id}/test",
    tag = "endpoints",
    params(EndpointPath),
    responses((status = 200, description = "What came of it", body = TestView))
)]
pub(super) async fn test_endpoint(
    Member { caller, group }: Member,
    State(api): State<Api>,
    Path((_, id)): Path<(String, String)>,
    _: NoQuery,
) -> Result<Response, Problem> {
    let id = endpoint_id(&id)?;
    endpoint::get(&api.pool, &group, id).await?.ok_or_else(no_such_endpoint)?;
    let author = caller.author("test_endpoint");
    endpoint_change::note(&api.pool, &author, &group, id, serde_json::json!({})).await?;
    let pinged = api.pinger.ping(id).await.map_err(|error| match error.downcast::<sqlx::Error>() {
        Ok(error) => Problem::from(error),
        Err(error) => {
            tracing::error!(error = format!("{error:#}"), "an endpoint could not be tried out");
            Problem::new(Kind::Internal, "Nothing was sent; the log has the reason under this request_id")
        }
    })?;
    let (event_id, attempt) = pinged.ok_or_else(no_such_endpoint)?;
    Ok(json(&TestView::new(event_id, attempt)))
}

#[derive(Serialize, ToSchema)]
struct SecretsView {
    /// Deliveries are signed with each of them, the newest first.
    secrets: Vec<SecretView>,
}

#[derive(Serialize, ToSchema)]
struct SecretView {
    #[schema(value_type = schema::Secret)]
    secret: String,
    #[serde(serialize_with = "micros_or_null")]
    expires_at: Option<DateTime<Utc>>,
}

async fn secrets(api: &Api, group: &GroupName, id: EndpointId) -> Result<Response, Problem> {
    let secrets = endpoint::secrets(&api.pool, &api.vault, group, id).await?;
    if secrets.is_empty() {
        return Err(no_such_endpoint());
    }
    let view =
        |one: &endpoint::SecretOf| SecretView { secret: one.secret.to_text(), expires_at: one.expires_at };
    let answer = json(&SecretsView { secrets: secrets.iter().map(view).collect() });
    Ok(([(header::CACHE_CONTROL, "no-store")], answer).into_response())
}

/// Read an endpoint's signing secrets
///
/// The audit log notes who does.
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
    let answer = secrets(&api, &group, id).await?;
    let author = caller.author("get_endpoint_secret");
    endpoint_change::note(&api.pool, &author, &group, id, serde_json::json!({})).await?;
    Ok(answer)
}

#[derive(Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct RotateBody {
    /// How long the secrets so far go on signing beside the new one; a day by default.
    #[schema(minimum = 0, maximum = 604_800)]
    grace_seconds: Option<i64>,
    /// Made by EventRail by default.
    #[schema(value_type = Option<schema::Secret>)]
    secret: Option<Secret>,
}

/// Rotate an endpoint's signing secret
///
/// Deliveries are signed with the old and the new one until the grace is over, with at most five at once.
#[utoipa::path(
    post,
    path = "/consumer-groups/{group}/endpoints/{id}/secret/rotate",
    tag = "endpoints",
    params(EndpointPath),
    request_body = RotateBody,
    responses(
        (status = 200, description = "The secrets, not to be stored by caches", body = SecretsView),
        (status = 409, description = "too-many-secrets"),
    )
)]
pub(super) async fn rotate_endpoint_secret(
    Member { caller, group }: Member,
    State(api): State<Api>,
    Path((_, id)): Path<(String, String)>,
    _: NoQuery,
    Json(body): Json<RotateBody>,
) -> Result<Response, Problem> {
    let id = endpoint_id(&id)?;
    let grace = body.grace_seconds.unwrap_or(86_400);
    if !(0..=LONGEST_GRACE).contains(&grace) {
        return Err(Problem::field("/grace_seconds", format!("must be 0 to {LONGEST_GRACE}")));
    }
    let secret = body.secret.unwrap_or_else(Secret::generate);
    let sealed = api.vault.seal(secret.expose(), id.0.as_bytes());
    let author = caller.author("rotate_endpoint_secret");
    match endpoint_change::rotate_secret(&api.pool, &author, &group, id, &sealed, grace).await? {
        Rotated::Rotated => {
            api.doorbell.ring();
            secrets(&api, &group, id).await
        }
        Rotated::NotFound => Err(no_such_endpoint()),
        Rotated::TooMany => {
            let detail = format!(
                "{MOST_SECRETS} secrets sign already: wait until one has ended, or end them with `grace_seconds` 0"
            );
            Err(Problem::new(Kind::TooManySecrets, detail))
        }
    }
}
