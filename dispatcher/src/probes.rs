//! The dispatcher's own probes and metrics, where `DISPATCHER_LISTEN` asks for them.

use std::net::SocketAddr;

use anyhow::Context as _;
use axum::Router;
use axum::http::StatusCode;
use axum::routing::get;
use eventrail_core::db::migrate::{self, Readiness};
use metrics_exporter_prometheus::PrometheusHandle;
use sqlx::PgPool;
use tokio::net::TcpListener;
use tokio_util::sync::CancellationToken;

/// Serves `/livez`, `/readyz` and `/metrics` until `stop`.
///
/// # Errors
/// The address is taken.
pub(crate) async fn serve(
    listen: SocketAddr,
    pool: PgPool,
    metrics: PrometheusHandle,
    stop: CancellationToken,
) -> anyhow::Result<()> {
    let listener = TcpListener::bind(listen)
        .await
        .with_context(|| format!("DISPATCHER_LISTEN: {listen} can't be listened on"))?;
    let ready = move || {
        let pool = pool.clone();
        async move {
            let reason = match migrate::readiness(&pool).await {
                Ok(Readiness::Ready) => return (StatusCode::OK, "ready\n"),
                Ok(Readiness::OldSchema) => "the schema is not current: run `eventrail migrate`\n",
                Ok(Readiness::ReadOnly) => "PostgreSQL takes no writes: DATABASE_URL leads to a standby\n",
                Err(_) => "PostgreSQL is away\n",
            };
            (StatusCode::SERVICE_UNAVAILABLE, reason)
        }
    };
    let router = Router::new()
        .route("/livez", get(async || "alive\n"))
        .route("/readyz", get(ready))
        .route("/metrics", get(async move || metrics.render()));
    axum::serve(listener, router).with_graceful_shutdown(stop.cancelled_owned()).await?;
    Ok(())
}
