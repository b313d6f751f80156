//! EventRail's HTTP API.
//!
//! [`serve`] runs it. A request passes [`observe`] (id, deadline, metrics, problems), [`auth`] (who asks, by
//! the [`keyring`]), then one handler of [`routes`], which states its role by what it extracts ([`caller`]),
//! calls `eventrail_core::db`, and answers. Events go through [`ingest`], the group commit, beside which
//! [`kinds`] notes their types. All refusals are [`problem`]s.

use std::sync::Arc;

use axum::Router;
use eventrail_core::config::{ApiConfig, Auth};
use eventrail_core::db;
use eventrail_core::egress::EgressPolicy;
use eventrail_core::ping::Pinger;
use eventrail_core::rail::doorbell::Doorbell;
use eventrail_core::rail::probe::Probe;
use eventrail_core::vault::Vault;
use metrics_exporter_prometheus::PrometheusHandle;
use sqlx::PgPool;
use tokio::net::TcpListener;
use tokio_util::sync::CancellationToken;
use tower_http::catch_panic::CatchPanicLayer;

use crate::auth::Access;
use crate::ingest::{Ingest, Writer};
use crate::keyring::Keyring;

mod auth;
mod body;
mod caller;
#[doc(hidden)]
pub mod doors;
mod extract;
mod ingest;
mod keyring;
mod kinds;
mod observe;
pub mod openapi;
pub mod problem;
mod routes;
mod server;

pub use server::bind;

/// Connections for reads, and for the look-up of keys apart from them: slow reads lock nobody out.
const READERS: u32 = 8;
const KEY_READERS: u32 = 2;

/// What the API is given by the process that runs it.
pub struct Deps {
    pub pool: PgPool,
    /// It may be away.
    pub redis: Probe,
    pub doorbell: Doorbell,
    pub egress: EgressPolicy,
    pub admin_token: Option<String>,
    pub prometheus: PrometheusHandle,
    pub vault: Arc<Vault>,
    pub pinger: Arc<dyn Pinger>,
}

/// What handlers share. Cheap to clone.
#[derive(Clone)]
pub(crate) struct Api(Arc<Shared>);

pub(crate) struct Shared {
    pub(crate) config: ApiConfig,
    /// For changes, and the probes.
    pub(crate) pool: PgPool,
    /// For answers that only read.
    pub(crate) reads: PgPool,
    pub(crate) vault: Arc<Vault>,
    pub(crate) pinger: Arc<dyn Pinger>,
    pub(crate) redis: Probe,
    pub(crate) doorbell: Doorbell,
    pub(crate) egress: EgressPolicy,
    pub(crate) access: Access,
    pub(crate) keyring: Keyring,
    pub(crate) prometheus: PrometheusHandle,
    pub(crate) ingest: Ingest,
}

impl std::ops::Deref for Api {
    type Target = Shared;

    fn deref(&self) -> &Shared {
        &self.0
    }
}

impl Api {
    fn new(config: ApiConfig, deps: Deps) -> anyhow::Result<(Self, Writer)> {
        let access = Access::decide(&config, deps.admin_token.as_deref())?;
        if config.auth == Auth::Off {
            tracing::warn!("AUTH=off: whoever reaches {} may do anything", config.listen);
        }
        let options = deps.pool.connect_options().as_ref().clone();
        let (ingest, writer) = Ingest::new(options, deps.doorbell.clone());
        let shared = Shared {
            config,
            reads: db::pool_of_readers(&deps.pool, READERS),
            keyring: Keyring::new(db::pool_of_readers(&deps.pool, KEY_READERS)),
            pool: deps.pool,
            redis: deps.redis,
            doorbell: deps.doorbell,
            egress: deps.egress,
            access,
            prometheus: deps.prometheus,
            vault: deps.vault,
            pinger: deps.pinger,
            ingest,
        };
        Ok((Self(Arc::new(shared)), writer))
    }
}

/// Whether the API may listen as it is configured, for whoever wants to know before anything starts.
///
/// # Errors
/// One line that names the setting to change.
pub fn validate(config: &ApiConfig, admin_token: Option<&str>) -> anyhow::Result<()> {
    Access::decide(config, admin_token).map(|_| ())
}

/// Listens on `config.listen` and serves until `shutdown`.
///
/// # Errors
/// One line for whoever starts it: the address is taken, or open to a network without a key.
pub async fn serve(config: ApiConfig, deps: Deps, shutdown: CancellationToken) -> anyhow::Result<()> {
    let listener = bind(config.listen).await?;
    serve_on(listener, config, deps, shutdown).await
}

/// Serves on a listener that exists already. Returns when all requests are answered, and what they had
/// handed in is committed.
///
/// # Errors
/// As [`serve`].
pub async fn serve_on(
    listener: TcpListener,
    config: ApiConfig,
    deps: Deps,
    shutdown: CancellationToken,
) -> anyhow::Result<()> {
    let pool = deps.pool.clone();
    let (api, writer) = Api::new(config.clone(), deps)?;
    let written = CancellationToken::new();
    let noting = tokio::spawn(writer.kinds().run(pool, written.clone()));
    let writer = tokio::spawn(writer.run());
    // The writer ends by itself when the last handler's end is dropped, with this router.
    server::run(listener, &config, router(api), &shutdown).await?;
    writer.await?;
    written.cancel();
    noting.await?;
    Ok(())
}

/// All routes with all layers; the outermost is the last.
fn router(api: Api) -> Router {
    routes::router()
        .layer(CatchPanicLayer::custom(observe::panicked))
        .layer(axum::middleware::from_fn_with_state(api.clone(), auth::authenticate))
        .layer(axum::middleware::from_fn(observe::observe))
        .with_state(api)
}
