//! `eventrail api`, `dispatcher` and `migrate`, and the pieces of them that `up` runs too.

use std::sync::Arc;

use anyhow::Context as _;
use clap::Args;
use eventrail_core::config::{
    ApiConfig, DispatcherConfig, EgressConfig, StoreArgs, StoreConfig, environment, key_file, secret_setting,
    vault,
};
use eventrail_core::db;
use eventrail_core::egress::EgressPolicy;
use eventrail_core::metrics::{self, PrometheusHandle};
use eventrail_core::rail::{self, doorbell::Doorbell, keys::Keys, probe::Probe};
use eventrail_core::vault::Vault;
use eventrail_dispatcher::Pings;
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
    // Endpoints are tried out as they are delivered to.
    #[command(flatten)]
    dispatcher: DispatcherConfig,
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

#[derive(Args)]
pub(crate) struct RekeyArgs {}

pub(crate) async fn api(args: ApiArgs, stop: CancellationToken) -> anyhow::Result<()> {
    let store = args.store.resolve().setting()?;
    let vault = Arc::new(vault().setting()?);
    let service = ApiService::new(
        &store,
        &args.api,
        &args.dispatcher,
        args.egress.policy(),
        vault,
        metrics::install()?,
    )?;
    let listener = eventrail_api::bind(args.api.listen).await.setting()?;
    service.serve(listener, args.api, stop).await
}

pub(crate) async fn dispatcher(args: DispatcherArgs, stop: CancellationToken) -> anyhow::Result<()> {
    let store = args.store.resolve().setting()?;
    args.dispatcher.validate().setting()?;
    let vault = Arc::new(vault().setting()?);
    let metrics = metrics::install()?;
    eventrail_dispatcher::run(store, args.dispatcher, args.egress.policy(), vault, metrics, stop).await
}

pub(crate) async fn migrate(_: &MigrateArgs) -> anyhow::Result<()> {
    let url =
        secret_setting("DATABASE_URL").and_then(|url| url.context("DATABASE_URL is not set")).setting()?;
    apply_migrations(&url).await?;
    // Where the key's file does not exist yet, this is who makes it: it runs once, before all others.
    if let Some(path) = environment("SECRETS_KEY_FILE") {
        key_file(path.as_ref()).setting()?;
    }
    Ok(())
}

pub(crate) async fn rekey(_: &RekeyArgs) -> anyhow::Result<()> {
    let url =
        secret_setting("DATABASE_URL").and_then(|url| url.context("DATABASE_URL is not set")).setting()?;
    let vault = vault().setting()?;
    let pool = connect(&url, "eventrail-rekey", 2).setting()?;
    let sealed = db::rekey::rekey(&pool, &vault).await?;
    pool.close().await;
    tracing::info!(sealed, "secrets that were sealed with an older key are sealed with SECRETS_KEY now");
    Ok(())
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
        dispatcher: &DispatcherConfig,
        egress: EgressPolicy,
        vault: Arc<Vault>,
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
        let (of_pings, key) = (pool.clone(), Arc::clone(&vault));
        let pinger = Arc::new(Pings::new(of_pings, key, egress.clone(), dispatcher.clone())?);
        let redis = Probe::new(redis, &Keys::new(&store.redis_prefix));
        let deps =
            eventrail_api::Deps { pool, redis, doorbell, egress, admin_token, prometheus, vault, pinger };
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
