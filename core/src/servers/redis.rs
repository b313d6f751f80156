//! A private Redis (or Valkey). Without persistence, as EventRail needs none: PostgreSQL is the record.

use std::fmt::Write;
use std::path::{Path, PathBuf};
use std::time::Duration;

use rustix::process::Signal;

use super::account::Account;
use super::child::Child;
use super::orphan::{self, Holder};
use super::{Binaries, ServerError, home, port};

const PATIENCE: Duration = Duration::from_secs(60);

#[derive(Debug, Clone, Default)]
pub struct RedisOptions {
    /// An append-only file that survives restarts.
    pub persistence: bool,
    /// A password of its own, remembered in the data directory; without it everybody on this machine who
    /// can reach loopback may use it.
    pub password: bool,
    /// Further arguments, such as `["--maxmemory", "64mb"]`.
    pub arguments: Vec<String>,
}

/// A running (or stopped) private Redis.
pub struct Redis {
    program: PathBuf,
    directory: PathBuf,
    log: PathBuf,
    port: u16,
    password: Option<String>,
    options: RedisOptions,
    account: Option<Account>,
    child: Option<Child>,
}

impl Redis {
    /// Starts it on `data_dir/redis`; answers when it accepts commands. Its output goes to
    /// `data_dir/redis.log`.
    ///
    /// # Errors
    /// With the last lines of its log.
    pub async fn start(
        binaries: &Binaries,
        data_dir: &Path,
        options: RedisOptions,
    ) -> Result<Self, ServerError> {
        let account = Account::for_servers()?;
        let directory = home::server_directory(data_dir, "redis", account)?;
        if let Holder::Ours(pid) = orphan::holder(&directory.join("redis.pid"), &directory) {
            orphan::stop(pid, Signal::TERM, &directory).await?;
        }
        let password = if options.password {
            Some(home::remembered_password(&data_dir.join("redis.password"))?)
        } else {
            None
        };
        let port_file = data_dir.join("redis.port");
        let mut redis = Self {
            program: binaries.redis.clone(),
            directory,
            log: data_dir.join("redis.log"),
            port: port::remembered(&port_file)?,
            password,
            options,
            account,
            child: None,
        };
        if redis.launch().await.is_err() {
            // Perhaps somebody took the port in between.
            redis.port = port::fresh(&port_file)?;
            redis.launch().await?;
        }
        Ok(redis)
    }

    /// `redis://…127.0.0.1:<port>`; the same as long as the data directory lives and nobody else takes the
    /// port.
    pub fn url(&self) -> String {
        let password = self.password.as_ref().map(|password| format!(":{password}@")).unwrap_or_default();
        format!("redis://{password}127.0.0.1:{}", self.port)
    }

    pub fn port(&self) -> u16 {
        self.port
    }

    /// Where it keeps its files: `dump.rdb`, if a test asks it to `SAVE`, is loaded by the next start.
    pub fn directory(&self) -> &Path {
        &self.directory
    }

    pub async fn stop(&mut self) {
        if let Some(child) = self.child.take() {
            child.stop(&[(Signal::TERM, Duration::from_secs(30))]).await;
        }
    }

    pub async fn kill(&mut self) {
        if let Some(child) = self.child.take() {
            child.kill().await;
        }
    }

    /// [`Self::kill`] where nothing can be awaited.
    pub(crate) fn kill_now(&mut self) {
        if let Some(mut child) = self.child.take() {
            child.kill_now();
        }
    }

    /// Holds all of its processes, as a machine that is paused.
    #[cfg(feature = "testing")]
    pub fn freeze(&self) {
        if let Some(child) = &self.child {
            child.signal(Signal::STOP);
        }
    }

    /// Lets them go on.
    #[cfg(feature = "testing")]
    pub fn thaw(&self) {
        if let Some(child) = &self.child {
            child.signal(Signal::CONT);
        }
    }

    /// Whether it runs; it may have ended by itself.
    #[cfg(feature = "testing")]
    pub fn is_running(&mut self) -> bool {
        self.child.as_mut().is_some_and(Child::is_running)
    }

    /// Starts it again after [`Self::stop`] or [`Self::kill`] (a running one is stopped first), on the same
    /// port. Without persistence it comes back empty.
    ///
    /// # Errors
    /// With the last lines of its log.
    pub async fn restart(&mut self) -> Result<(), ServerError> {
        self.stop().await;
        self.launch().await
    }

    /// Waits until it ends by itself, which it should not; pending for ever once it was stopped.
    pub async fn ended(&mut self) {
        match &mut self.child {
            Some(child) => {
                let _ = child.ended().await;
            }
            None => std::future::pending().await,
        }
    }

    async fn launch(&mut self) -> Result<(), ServerError> {
        let config = self.write_config()?;
        let mut arguments = vec![config.display().to_string()];
        arguments.extend(self.options.arguments.iter().cloned());
        let mut child =
            Child::spawn("Redis", &self.program, &arguments, self.account, &self.log, Signal::TERM)?;
        let client = redis::Client::open(self.url()).ok();
        child.until_ready(PATIENCE, async || answers(client.as_ref()).await).await?;
        self.child = Some(child);
        Ok(())
    }

    /// The file's path stays in the process title, by which a later run recognises the process as ours.
    fn write_config(&self) -> Result<PathBuf, ServerError> {
        let file = self.directory.join("redis.conf");
        let directory = self.directory.display().to_string().replace('\\', "\\\\").replace('"', "\\\"");
        let appendonly = if self.options.persistence { "yes" } else { "no" };
        let mut text = String::from("# Written by EventRail at each start.\n");
        let _ = write!(
            text,
            "bind 127.0.0.1\nport {}\ndir \"{directory}\"\npidfile \"{directory}/redis.pid\"\n\
             proc-title-template \"{{title}} {{config-file}}\"\n\
             maxmemory-policy noeviction\nsave \"\"\nappendonly {appendonly}\n",
            self.port
        );
        if let Some(password) = &self.password {
            let _ = writeln!(text, "requirepass {password}");
        }
        home::write_private(&file, &text)?;
        if let Some(account) = self.account {
            account.own(&file)?;
        }
        Ok(file)
    }
}

impl Drop for Redis {
    fn drop(&mut self) {
        self.kill_now();
    }
}

async fn answers(client: Option<&redis::Client>) -> bool {
    let Some(client) = client else { return false };
    let Ok(mut connection) = client.get_multiplexed_async_connection().await else { return false };
    redis::cmd("PING").query_async::<()>(&mut connection).await.is_ok()
}
