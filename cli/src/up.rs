//! `eventrail up`: everything in one process, with private servers where no others are given.

use std::io::Write as _;
use std::path::Path;
use std::sync::Arc;

use clap::Args;
use eventrail_core::config::{
    self, ApiConfig, DispatcherConfig, EgressConfig, StoreArgs, StoreConfig, UpConfig, secret_setting,
};
use eventrail_core::metrics;
use eventrail_core::servers::{
    Binaries, DataDir, Postgres, PostgresOptions, Redis, RedisOptions, ServerError,
};
use eventrail_core::vault::Vault;
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;

use crate::services::{self, ApiService};
use crate::settings::IsSetting as _;

#[derive(Args)]
pub(crate) struct UpArgs {
    #[command(flatten)]
    up: UpConfig,
    #[command(flatten)]
    store: StoreArgs,
    #[command(flatten)]
    api: ApiConfig,
    #[command(flatten)]
    dispatcher: DispatcherConfig,
    #[command(flatten)]
    egress: EgressConfig,
}

/// Starts everything, runs until `stop`, and stops in order: first who uses, then what is used.
pub(crate) async fn run(mut args: UpArgs, stop: CancellationToken) -> anyhow::Result<()> {
    args.dispatcher.validate().setting()?;
    eventrail_api::validate(&args.api, secret_setting("ADMIN_TOKEN").setting()?.as_deref()).setting()?;
    if args.egress.egress_allow.is_empty() {
        // Who tries it out listens on this machine.
        args.egress.egress_allow = vec!["127.0.0.0/8".parse()?, "::1/128".parse()?];
    }
    let listener = eventrail_api::bind(args.api.listen).await.setting()?;
    let mut servers = Servers::start(&args).await?;
    services::apply_migrations(&servers.store.database_url).await?;

    let prometheus = metrics::install()?;
    let vault = Arc::new(vault(&args.up.data_dir).setting()?);
    let api = ApiService::new(
        &servers.store,
        &args.api,
        &args.dispatcher,
        args.egress.policy(),
        Arc::clone(&vault),
        prometheus.clone(),
    )?;
    let (address, data_dir) = (listener.local_addr()?, args.up.data_dir.clone());
    let mut dispatcher = Part::spawn(|stop| {
        let store = servers.store.clone();
        eventrail_dispatcher::run(store, args.dispatcher, args.egress.policy(), vault, prometheus, stop)
    });
    let mut api = Part::spawn(|stop| api.serve(listener, args.api, stop));
    say_what_to_try(&format!("http://{address}"), &data_dir);

    let outcome = tokio::select! {
        () = stop.cancelled() => Ok(()),
        ended = dispatcher.ended() => ended.and(Err(anyhow::anyhow!("the dispatcher ended by itself"))),
        ended = api.ended() => ended.and(Err(anyhow::anyhow!("the API ended by itself"))),
        failed = servers.keep_running() => Err(failed.into()),
    };
    let stopped = dispatcher.stop().await.and(api.stop().await);
    servers.stop().await;
    outcome.and(stopped)
}

/// The key that secrets are sealed with: `SECRETS_KEY`, or one of our own, made once under the data directory.
fn vault(data_dir: &Path) -> anyhow::Result<Vault> {
    if secret_setting("SECRETS_KEY")?.is_some() {
        return config::vault();
    }
    let path = data_dir.join("secrets.key");
    config::vault_with(&config::key_file(&path)?)
}

/// A service as a task, with a stop of its own.
struct Part {
    task: JoinHandle<anyhow::Result<()>>,
    stop: CancellationToken,
    has_ended: bool,
}

impl Part {
    fn spawn<F>(service: impl FnOnce(CancellationToken) -> F) -> Self
    where
        F: Future<Output = anyhow::Result<()>> + Send + 'static,
    {
        let stop = CancellationToken::new();
        Self { task: tokio::spawn(service(stop.clone())), stop, has_ended: false }
    }

    async fn ended(&mut self) -> anyhow::Result<()> {
        let ended = (&mut self.task).await;
        self.has_ended = true;
        ended?
    }

    async fn stop(mut self) -> anyhow::Result<()> {
        self.stop.cancel();
        if self.has_ended { Ok(()) } else { self.ended().await }
    }
}

/// The private servers that this process runs, if any, and how all are reached.
struct Servers {
    store: StoreConfig,
    postgres: Option<Postgres>,
    redis: Option<Redis>,
    _data_dir: Option<DataDir>,
}

impl Servers {
    async fn start(args: &UpArgs) -> anyhow::Result<Self> {
        let database_url = secret_setting("DATABASE_URL").setting()?;
        let redis_url = secret_setting("REDIS_URL").setting()?;
        let (mut data_dir, mut postgres, mut redis) = (None, None, None);
        if database_url.is_none() || redis_url.is_none() {
            let home = DataDir::acquire(&args.up.data_dir).map_err(anyhow::Error::from).setting()?;
            let binaries = Binaries::find_for(home.path())?;
            tracing::info!("starting private servers in {}", args.up.data_dir.display());
            if database_url.is_none() {
                postgres = Some(Postgres::start(&binaries, home.path(), PostgresOptions::durable()).await?);
            }
            if redis_url.is_none() {
                let options = RedisOptions { password: true, ..RedisOptions::default() };
                redis = Some(Redis::start(&binaries, home.path(), options).await?);
            }
            data_dir = Some(home);
        }
        let store = StoreConfig {
            database_url: database_url.or_else(|| postgres.as_ref().map(Postgres::url)).unwrap_or_default(),
            redis_url: redis_url.or_else(|| redis.as_ref().map(Redis::url)).unwrap_or_default(),
            redis_prefix: args.store.redis_prefix.clone(),
        };
        Ok(Self { store, postgres, redis, _data_dir: data_dir })
    }

    /// Starts again what ends by itself; returns only if that fails.
    async fn keep_running(&mut self) -> ServerError {
        loop {
            let restarted = tokio::select! {
                () = ended(self.postgres.as_mut().map(Postgres::ended)) => {
                    tracing::error!("the private PostgreSQL has ended; starting it again");
                    match &mut self.postgres { Some(postgres) => postgres.restart().await, None => Ok(()) }
                }
                () = ended(self.redis.as_mut().map(Redis::ended)) => {
                    tracing::error!("the private Redis has ended; starting it again");
                    match &mut self.redis { Some(redis) => redis.restart().await, None => Ok(()) }
                }
            };
            if let Err(error) = restarted {
                return error;
            }
        }
    }

    async fn stop(mut self) {
        if let Some(redis) = &mut self.redis {
            redis.stop().await;
        }
        if let Some(postgres) = &mut self.postgres {
            postgres.stop().await;
        }
    }
}

/// Pending for ever where there is no server of ours.
async fn ended(server: Option<impl Future<Output = ()>>) {
    match server {
        Some(end) => end.await,
        None => std::future::pending().await,
    }
}

fn say_what_to_try(base: &str, data_dir: &Path) {
    let program = std::env::args().next().unwrap_or_else(|| "eventrail".into());
    let text = format!(
        r#"
EventRail is up at {base} (data in {data_dir}; Ctrl-C stops everything).

Try it in a second terminal. Create an endpoint, and keep its secret:

  SECRET=$(curl -s {base}/consumer-groups/default/endpoints \
    -H 'content-type: application/json' \
    -d '{{"url":"http://127.0.0.1:9000/hooks"}}' | sed 's/.*"secret":"\([^"]*\)".*/\1/')

Listen there, and verify what comes:

  {program} receiver --listen 127.0.0.1:9000 --secret "$SECRET"

Post an event, in a third terminal:

  curl -i {base}/events \
    -H 'content-type: application/json' -H 'idempotency-key: order-1' \
    -d '{{"event_type":"order.created","source":"shop","payload":{{"total":42}}}}'

"#,
        data_dir = data_dir.display()
    );
    // Whoever started it may have closed standard output.
    let _ = std::io::stdout().write_all(text.as_bytes());
}
