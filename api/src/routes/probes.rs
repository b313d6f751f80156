//! Probes, metrics, and the page that explains problems.

use std::time::Duration;

use axum::extract::State;
use axum::http::{StatusCode, header};
use axum::response::{IntoResponse as _, Response};
use eventrail_core::db::migrate;
use eventrail_core::rail::probe;
use serde::Serialize;

use super::events::json;
use crate::Api;
use crate::problem::{Kind, Problem};

const PROBE_DEADLINE: Duration = Duration::from_secs(2);

#[derive(Serialize)]
struct Health {
    status: &'static str,
    postgres: &'static str,
    redis: &'static str,
}

/// `GET /health`: all parts, 503 if one is away. Events are accepted without Redis, too: see [`readyz`].
pub(super) async fn health(State(api): State<Api>) -> Response {
    let postgres = tokio::time::timeout(PROBE_DEADLINE, migrate::is_current(&api.pool));
    let redis = tokio::time::timeout(PROBE_DEADLINE, probe::ping(&api.redis));
    let (postgres, redis) = tokio::join!(postgres, redis);
    let word = |is_ok: bool| if is_ok { "ok" } else { "unavailable" };
    let (postgres, redis) = (matches!(postgres, Ok(Ok(true))), matches!(redis, Ok(Ok(()))));
    let (status, summary) = if postgres && redis {
        (StatusCode::OK, "ok")
    } else {
        (StatusCode::SERVICE_UNAVAILABLE, "degraded")
    };
    (status, json(&Health { status: summary, postgres: word(postgres), redis: word(redis) })).into_response()
}

/// `GET /livez`: the process answers.
pub(super) async fn livez() -> Response {
    json(&serde_json::json!({ "status": "ok" }))
}

/// `GET /readyz`: events can be stored, which needs PostgreSQL with the schema of this version.
pub(super) async fn readyz(State(api): State<Api>) -> Result<Response, Problem> {
    match tokio::time::timeout(PROBE_DEADLINE, migrate::is_current(&api.pool)).await {
        Ok(Ok(true)) => Ok(json(&serde_json::json!({ "status": "ok" }))),
        Ok(Ok(false)) => Err(Problem::new(
            Kind::Unavailable,
            "The schema is older than this version: run `eventrail migrate`",
        )),
        _ => Err(Problem::new(Kind::Unavailable, "PostgreSQL can't be reached")),
    }
}

/// `GET /metrics`: Prometheus text.
pub(super) async fn metrics(State(api): State<Api>) -> Response {
    ([(header::CONTENT_TYPE, "text/plain; version=0.0.4")], api.prometheus.render()).into_response()
}

/// `GET /problems`: what the `type` of each problem points to.
pub(super) async fn problems() -> Response {
    let page = include_str!("../../../docs/PROBLEMS.md");
    ([(header::CONTENT_TYPE, "text/markdown; charset=utf-8")], page).into_response()
}
