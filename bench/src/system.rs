//! What is measured: PostgreSQL with durable settings, Redis, APIs and dispatchers (one of each, or more), each a
//! process.

use std::fs::{self, File};
use std::net::TcpListener;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::Duration;

use anyhow::Context as _;
use eventrail_core::ids::EventId;
use eventrail_core::servers::{Binaries, Postgres, PostgresOptions, Redis, RedisOptions};
use tokio::process::{Child, Command};

const PATIENCE: Duration = Duration::from_secs(30);

/// All of it stops, and its data goes, when this is dropped.
pub(crate) struct System {
    binary: PathBuf,
    // Before the directory, which is removed when nobody uses it any more.
    apis: Vec<Api>,
    dispatchers: Vec<Child>,
    postgres: Postgres,
    redis: Redis,
    directory: Directory,
    /// For our processes, beside what they need.
    environment: Vec<(&'static str, String)>,
}

struct Api {
    process: Child,
    address: String,
}

impl System {
    pub(crate) async fn start(binary: Option<&Path>, data_dir: Option<&Path>) -> anyhow::Result<Self> {
        Self::start_with(binary, data_dir, &[]).await
    }

    pub(crate) async fn start_with(
        binary: Option<&Path>,
        data_dir: Option<&Path>,
        environment: &[(&'static str, String)],
    ) -> anyhow::Result<Self> {
        let binary = match binary {
            Some(given) => given.to_owned(),
            None => std::env::current_exe()?.with_file_name("eventrail"),
        };
        anyhow::ensure!(
            binary.is_file(),
            "{} is missing: cargo build --release -p eventrail, or name it by --binary",
            binary.display()
        );
        let binaries = Binaries::find()?;
        let directory = Directory::create(data_dir.unwrap_or(&std::env::temp_dir()))?;
        let (postgres, redis) = tokio::try_join!(
            Postgres::start(&binaries, &directory.0, PostgresOptions::durable()),
            Redis::start(&binaries, &directory.0, RedisOptions::default())
        )?;
        let (apis, dispatchers, environment) = (Vec::new(), Vec::new(), environment.to_vec());
        let mut system = Self { binary, apis, dispatchers, postgres, redis, directory, environment };
        let migrated = system.command("migrate")?.status().await?;
        anyhow::ensure!(migrated.success(), "eventrail migrate failed\n{}", system.log_tails());
        system.start_api().await?;
        system.start_dispatcher().await?;
        Ok(system)
    }

    /// One more.
    pub(crate) async fn start_api(&mut self) -> anyhow::Result<()> {
        let address = free_address()?;
        let process = self.command("api")?.env("LISTEN", &address).spawn()?;
        self.apis.push(Api { process, address: address.clone() });
        self.until_ready(&address, "api").await
    }

    /// One more.
    pub(crate) async fn start_dispatcher(&mut self) -> anyhow::Result<()> {
        let address = free_address()?;
        let dispatcher = self.command("dispatcher")?.env("DISPATCHER_LISTEN", &address).spawn()?;
        self.dispatchers.push(dispatcher);
        self.until_ready(&address, "dispatcher").await
    }

    /// Kills the dispatchers, empties Redis, and starts another dispatcher.
    pub(crate) async fn strike(&mut self) -> anyhow::Result<()> {
        for mut dispatcher in self.dispatchers.drain(..) {
            dispatcher.kill().await?;
        }
        let mut redis = redis::Client::open(self.redis.url())?.get_multiplexed_async_connection().await?;
        redis::cmd("FLUSHALL").exec_async(&mut redis).await?;
        self.start_dispatcher().await
    }

    /// All of them, in order, as an operator would.
    pub(crate) async fn stop_dispatcher(&mut self) -> anyhow::Result<()> {
        let mut dispatchers = std::mem::take(&mut self.dispatchers);
        for id in dispatchers.iter().filter_map(Child::id) {
            Command::new("kill").arg("-TERM").arg(id.to_string()).status().await?;
        }
        for dispatcher in &mut dispatchers {
            let ended = tokio::time::timeout(PATIENCE, dispatcher.wait()).await;
            ended.with_context(|| format!("a dispatcher does not stop\n{}", self.log_tails()))??;
        }
        Ok(())
    }

    /// Makes an endpoint in the default group that wants everything. Answers its id.
    pub(crate) async fn register(&self, url: &str) -> anyhow::Result<String> {
        let client = reqwest::Client::builder().no_proxy().build()?;
        let request = client.post(format!("{}/consumer-groups/default/endpoints", self.api_url()));
        let answer = request.json(&serde_json::json!({ "url": url })).send().await?;
        let (status, text) = (answer.status(), answer.text().await?);
        anyhow::ensure!(status.is_success(), "the endpoint was refused with {status}: {text}");
        let made: serde_json::Value = serde_json::from_str(&text)?;
        Ok(made["id"].as_str().unwrap_or_default().to_owned())
    }

    /// Of the first API.
    pub(crate) fn api_url(&self) -> String {
        self.apis.first().map(|api| format!("http://{}", api.address)).unwrap_or_default()
    }

    /// Host and port of each API.
    pub(crate) fn api_addresses(&self) -> Vec<String> {
        self.apis.iter().map(|api| api.address.clone()).collect()
    }

    pub(crate) fn database_url(&self) -> String {
        self.postgres.url()
    }

    pub(crate) fn redis_url(&self) -> String {
        self.redis.url()
    }

    /// Process ids.
    pub(crate) fn api_ids(&self) -> Vec<u32> {
        self.apis.iter().filter_map(|api| api.process.id()).collect()
    }

    /// Process ids.
    pub(crate) fn dispatcher_ids(&self) -> Vec<u32> {
        self.dispatchers.iter().filter_map(Child::id).collect()
    }

    pub(crate) fn postgres_id(&self) -> Option<u32> {
        first_line(&self.postgres.directory().join("postmaster.pid"))
    }

    pub(crate) fn redis_id(&self) -> Option<u32> {
        first_line(&self.redis.directory().join("redis.pid"))
    }

    /// The last lines that our processes have logged.
    pub(crate) fn log_tails(&self) -> String {
        let mut tails = String::new();
        for name in ["migrate", "api", "dispatcher"] {
            let text = fs::read_to_string(self.log(name)).unwrap_or_default();
            let lines: Vec<&str> = text.lines().rev().take(5).collect();
            for line in lines.into_iter().rev() {
                tails += &format!("  {name}: {line}\n");
            }
        }
        tails
    }

    fn command(&self, name: &str) -> anyhow::Result<Command> {
        let log = File::options().create(true).append(true).open(self.log(name))?;
        let mut command = Command::new(&self.binary);
        command
            .arg(name)
            .env_clear()
            .env("DATABASE_URL", self.postgres.url())
            .env("REDIS_URL", self.redis.url())
            .envs(self.environment.iter().cloned())
            .env("EGRESS_ALLOW", "127.0.0.0/8")
            .env("SECRETS_KEY", "AAECAwQFBgcICQoLDA0ODxAREhMUFRYXGBkaGxwdHh8=")
            .env("RUST_LOG", "warn")
            .stdin(Stdio::null())
            .stdout(log.try_clone()?)
            .stderr(log)
            .kill_on_drop(true);
        Ok(command)
    }

    fn log(&self, name: &str) -> PathBuf {
        self.directory.0.join(format!("{name}.log"))
    }

    async fn until_ready(&self, address: &str, name: &str) -> anyhow::Result<()> {
        let client = reqwest::Client::builder().no_proxy().build()?;
        let ready = async {
            loop {
                let answer = client.get(format!("http://{address}/readyz")).send().await;
                if answer.is_ok_and(|answer| answer.status().is_success()) {
                    return;
                }
                tokio::time::sleep(Duration::from_millis(20)).await;
            }
        };
        let waited = tokio::time::timeout(PATIENCE, ready).await;
        waited.with_context(|| format!("the {name} is not ready after {PATIENCE:?}\n{}", self.log_tails()))
    }
}

/// A directory of our own, removed at the end.
struct Directory(PathBuf);

impl Directory {
    fn create(parent: &Path) -> anyhow::Result<Self> {
        let path = parent.join(format!("eventrail-bench-{}", EventId::generate()));
        fs::create_dir_all(&path).with_context(|| format!("can't make {}", path.display()))?;
        Ok(Self(path))
    }
}

impl Drop for Directory {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.0);
    }
}

fn free_address() -> anyhow::Result<String> {
    let listener = TcpListener::bind("127.0.0.1:0").context("no free port")?;
    Ok(listener.local_addr()?.to_string())
}

fn first_line(path: &Path) -> Option<u32> {
    fs::read_to_string(path).ok()?.lines().next()?.trim().parse().ok()
}
