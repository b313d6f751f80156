//! Probes and metrics.

use std::time::Duration;

use axum::extract::State;
use axum::http::{StatusCode, header};
use axum::response::{IntoResponse as _, Response};
use eventrail_core::db::migrate::{self, Readiness};
use serde::Serialize;
use utoipa::ToSchema;

use super::events::json;
use crate::Api;
use crate::caller::Operator;
use crate::openapi::SERVICE;
use crate::problem::{Kind, Problem};

const PROBE_DEADLINE: Duration = Duration::from_secs(2);

#[derive(Serialize, ToSchema)]
struct Health {
    /// `ok` or `degraded`.
    status: &'static str,
    /// `ok` or `unavailable`.
    postgres: &'static str,
    /// `ok` or `unavailable`.
    redis: &'static str,
}

#[derive(Serialize, ToSchema)]
struct Up {
    /// `ok`
    status: &'static str,
}

/// How all parts are
///
/// Events are accepted without Redis, too: `/readyz` tells whether they are.
#[utoipa::path(
    get,
    path = "/health",
    tag = SERVICE,
    responses(
        (status = 200, description = "All parts are well", body = Health),
        (status = 503, description = "One is away", body = Health),
    )
)]
pub(super) async fn health(State(api): State<Api>) -> Response {
    let postgres = tokio::time::timeout(PROBE_DEADLINE, migrate::readiness(&api.pool));
    let redis = tokio::time::timeout(PROBE_DEADLINE, api.redis.ask());
    let (postgres, redis) = tokio::join!(postgres, redis);
    let word = |is_ok: bool| if is_ok { "ok" } else { "unavailable" };
    let (postgres, redis) = (matches!(postgres, Ok(Ok(Readiness::Ready))), matches!(redis, Ok(Ok(()))));
    let (status, summary) = if postgres && redis {
        (StatusCode::OK, "ok")
    } else {
        (StatusCode::SERVICE_UNAVAILABLE, "degraded")
    };
    (status, json(&Health { status: summary, postgres: word(postgres), redis: word(redis) })).into_response()
}

/// Whether the process answers
#[utoipa::path(get, path = "/livez", tag = SERVICE, responses((status = 200, description = "It does", body = Up)))]
pub(super) async fn livez() -> Response {
    json(&Up { status: "ok" })
}

/// Whether events can be stored
///
/// That needs PostgreSQL with the schema of this version, and no standby.
#[utoipa::path(
    get,
    path = "/readyz",
    tag = SERVICE,
    responses((status = 200, description = "They can", body = Up), (status = 503, description = "unavailable"))
)]
pub(super) async fn readyz(State(api): State<Api>) -> Result<Response, Problem> {
    let detail = match tokio::time::timeout(PROBE_DEADLINE, migrate::readiness(&api.pool)).await {
        Ok(Ok(Readiness::Ready)) => return Ok(json(&Up { status: "ok" })),
        Ok(Ok(Readiness::OldSchema)) => "The schema is older than this version: run `eventrail migrate`",
        Ok(Ok(Readiness::ReadOnly)) => "PostgreSQL takes no writes: DATABASE_URL leads to a standby",
        _ => "PostgreSQL can't be reached",
    };
    Err(Problem::new(Kind::Unavailable, detail))
}

/// Metrics for Prometheus
#[utoipa::path(
    get,
    path = "/metrics",
    tag = SERVICE,
    responses((status = 200, description = "Its text format", body = String, content_type = "text/plain"))
)]
pub(super) async fn metrics(_: Operator, State(api): State<Api>) -> Response {
    ([(header::CONTENT_TYPE, "text/plain; version=0.0.4")], api.prometheus.render()).into_response()
}
