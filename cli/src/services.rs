//! `eventrail api`, `dispatcher` and `migrate`, and the pieces of them that `up` runs too.

use anyhow::Context as _;
use clap::Args;
use eventrail_core::config::{
    ApiConfig, DispatcherConfig, EgressConfig, StoreArgs, StoreConfig, secret_setting,
};
use eventrail_core::db;
use eventrail_core::egress::EgressPolicy;
use eventrail_core::metrics::{self, PrometheusHandle};
use eventrail_core::rail::{self, doorbell::Doorbell};
use sqlx::{Connection as _, PgPool};
use tokio::net::TcpListener;
use tokio_util::sync::CancellationToken;
use tokio_util::task::AbortOnDropHandle;

use crate::settings::IsSetting as _;

const API_CONNECTIONS: u32 = 20;

#[derive(Args)]
pub(crate) struct ApiArgs {
    #[command(flatten)]
    store: StoreArgs,
    #[command(flatten)]
    pub(crate) api: ApiConfig,
    #[command(flatten)]
    egress: EgressConfig,
}

#[derive(Args)]
pub(crate) struct DispatcherArgs {
    #[command(flatten)]
    store: StoreArgs,
    #[command(flatten)]
    dispatcher: DispatcherConfig,
    #[command(flatten)]
    egress: EgressConfig,
}

#[derive(Args)]
pub(crate) struct MigrateArgs {}

pub(crate) async fn api(args: ApiArgs, stop: CancellationToken) -> anyhow::Result<()> {
    let store = args.store.resolve().setting()?;
    let service = ApiService::new(&store, &args.api, args.egress.policy(), metrics::install()?)?;
    let listener = eventrail_api::bind(args.api.listen).await.setting()?;
    service.serve(listener, args.api, stop).await
}

pub(crate) async fn dispatcher(args: DispatcherArgs, stop: CancellationToken) -> anyhow::Result<()> {
    let store = args.store.resolve().setting()?;
    args.dispatcher.validate().setting()?;
    eventrail_dispatcher::run(store, args.dispatcher, args.egress.policy(), metrics::install()?, stop).await
}

pub(crate) async fn migrate(_: &MigrateArgs) -> anyhow::Result<()> {
    let url =
        secret_setting("DATABASE_URL").and_then(|url| url.context("DATABASE_URL is not set")).setting()?;
    apply_migrations(&url).await
}

/// Brings the schema up to date; safe when several do it at once.
pub(crate) async fn apply_migrations(database_url: &str) -> anyhow::Result<()> {
    let pool = connect(database_url, "eventrail-migrate", 1).setting()?;
    // A connection of its own first: the pool only says that it has waited.
    let probe = sqlx::PgConnection::connect_with(&pool.connect_options()).await;
    probe.map_err(|error| anyhow::anyhow!("PostgreSQL can't be used: {error}"))?.close().await?;
    let migrated = db::migrate::migrate(&pool).await;
    migrated.map_err(|error| anyhow::anyhow!("the schema could not be brought up to date: {error}"))?;
    pool.close().await;
    tracing::info!("the database's schema is up to date");
    Ok(())
}

/// The API with all it needs, before it listens.
pub(crate) struct ApiService {
    deps: eventrail_api::Deps,
    _doorbell: AbortOnDropHandle<()>,
}

impl ApiService {
    /// # Errors
    /// A URL or the token is unusable.
    pub(crate) fn new(
        store: &StoreConfig,
        config: &ApiConfig,
        egress: EgressPolicy,
        prometheus: PrometheusHandle,
    ) -> anyhow::Result<Self> {
        let pool = connect(&store.database_url, "eventrail-api", API_CONNECTIONS).setting()?;
        let redis = rail::client(&store.redis_url)
            .and_then(|client| rail::connection(&client))
            .context("REDIS_URL")
            .setting()?;
        let (doorbell, ringing) = Doorbell::new(redis.clone(), &store.redis_prefix);
        let ringing = AbortOnDropHandle::new(tokio::spawn(ringing));
        let admin_token = secret_setting("ADMIN_TOKEN").setting()?;
        eventrail_api::validate(config, admin_token.as_deref()).setting()?;
        let deps = eventrail_api::Deps { pool, redis, doorbell, egress, admin_token, prometheus };
        Ok(Self { deps, _doorbell: ringing })
    }

    pub(crate) async fn serve(
        self,
        listener: TcpListener,
        config: ApiConfig,
        stop: CancellationToken,
    ) -> anyhow::Result<()> {
        eventrail_api::serve_on(listener, config, self.deps, stop).await
    }
}

fn connect(database_url: &str, application: &str, connections: u32) -> anyhow::Result<PgPool> {
    Ok(db::pool(db::connect_options(database_url, application).context("DATABASE_URL")?, connections))
}
