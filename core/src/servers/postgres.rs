//! A private PostgreSQL: made once with `initdb`, started, stopped, killed and started again.

use std::fs;
use std::path::{Path, PathBuf};
use std::time::Duration;

use rustix::process::Signal;
use sqlx::migrate::MigrateDatabase;

use super::account::Account;
use super::child::{self, Child};
use super::orphan::{self, Holder};
use super::{Binaries, ServerError, home, port};

const USER: &str = "eventrail";
const DATABASE: &str = "eventrail";
/// Crash recovery replays up to `max_wal_size` of log first.
const PATIENCE: Duration = Duration::from_secs(180);
/// The longest path of a unix socket is 107 bytes (Linux) or 103 (macOS), of which `/.s.PGSQL.12345` is 15.
const LONGEST_SOCKET_DIRECTORY: usize = 103 - 15;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Durability {
    /// A commit survives the loss of power.
    Full,
    /// A commit survives the death of PostgreSQL, not of the machine: for tests.
    ProcessOnly,
}

#[derive(Debug, Clone)]
pub struct PostgresOptions {
    pub durability: Durability,
    /// A password of its own, remembered in the data directory; without it everybody on this machine who
    /// can reach loopback is the superuser.
    pub password: bool,
    /// A directory that `initdb` has made (and no server runs on): copied in place of running `initdb`.
    pub template: Option<PathBuf>,
    /// Further settings, such as `("log_statement", "all")`.
    pub settings: Vec<(String, String)>,
}

impl PostgresOptions {
    /// What `eventrail up` uses.
    pub fn durable() -> Self {
        Self { durability: Durability::Full, password: true, template: None, settings: Vec::new() }
    }

    /// Fast, for directories that nobody needs tomorrow.
    pub fn for_tests() -> Self {
        Self { durability: Durability::ProcessOnly, password: false, template: None, settings: Vec::new() }
    }
}

/// A running (or stopped) private PostgreSQL with one database, `eventrail`.
pub struct Postgres {
    program: PathBuf,
    directory: PathBuf,
    log: PathBuf,
    port: u16,
    password: Option<String>,
    options: PostgresOptions,
    account: Option<Account>,
    child: Option<Child>,
}

impl Postgres {
    /// Starts it on `data_dir/postgres`, which is made if need be; answers when it accepts connections.
    /// Its output goes to `data_dir/postgres.log`.
    ///
    /// # Errors
    /// With the last lines of its log.
    pub async fn start(
        binaries: &Binaries,
        data_dir: &Path,
        options: PostgresOptions,
    ) -> Result<Self, ServerError> {
        let account = Account::for_servers()?;
        let directory = home::server_directory(data_dir, "postgres", account)?;
        let log = data_dir.join("postgres.log");
        let password = if options.password {
            Some(home::remembered_password(&data_dir.join("postgres.password"))?)
        } else {
            None
        };
        stop_orphan(&directory).await?;
        if !directory.join("PG_VERSION").exists() {
            initialise(binaries, &directory, &log, account, &options, password.as_deref()).await?;
        }
        let port_file = data_dir.join("postgres.port");
        let mut postgres = Self {
            program: binaries.postgres_bin.join("postgres"),
            directory,
            log,
            port: port::remembered(&port_file)?,
            password,
            options,
            account,
            child: None,
        };
        if postgres.launch().await.is_err() {
            // Perhaps somebody took the port in between, or backends of a killed server were still ending.
            postgres.port = port::fresh(&port_file)?;
            postgres.launch().await?;
        }
        postgres.create_database().await?;
        Ok(postgres)
    }

    /// `postgres://…@127.0.0.1:<port>/eventrail`; the same as long as the data directory lives and nobody
    /// else takes the port.
    pub fn url(&self) -> String {
        let password = self.password.as_ref().map(|password| format!(":{password}")).unwrap_or_default();
        format!("postgres://{USER}{password}@127.0.0.1:{}/{DATABASE}", self.port)
    }

    pub fn port(&self) -> u16 {
        self.port
    }

    /// Its data directory, in which its unix socket is too.
    pub fn directory(&self) -> &Path {
        &self.directory
    }

    /// A fast shutdown: sessions are ended, everything is written.
    pub async fn stop(&mut self) {
        if let Some(child) = self.child.take() {
            child
                .stop(&[(Signal::INT, Duration::from_secs(30)), (Signal::QUIT, Duration::from_secs(5))])
                .await;
        }
    }

    /// SIGKILL to the postmaster and its children, as if the machine had run out of memory.
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
    /// directory and port.
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
        let on_our_death = match self.options.durability {
            Durability::Full => Signal::INT,
            Durability::ProcessOnly => Signal::QUIT,
        };
        let mut child = Child::spawn(
            "PostgreSQL",
            &self.program,
            &self.arguments(),
            self.account,
            &self.log,
            on_our_death,
        )?;
        let pid_file = self.directory.join("postmaster.pid");
        let pid = child.id().to_string();
        child.until_ready(PATIENCE, async || reports_ready(&pid_file, &pid)).await?;
        self.child = Some(child);
        Ok(())
    }

    fn arguments(&self) -> Vec<String> {
        let directory = self.directory.display().to_string();
        let socket = if directory.len() <= LONGEST_SOCKET_DIRECTORY { directory.as_str() } else { "" };
        let mut settings: Vec<(&str, &str)> = vec![
            ("listen_addresses", "127.0.0.1"),
            ("unix_socket_directories", socket),
            ("unix_socket_permissions", "0700"),
            ("max_connections", "200"),
            ("shared_buffers", "128MB"),
            ("wal_compression", "on"),
            ("max_wal_size", "2GB"),
            ("checkpoint_timeout", "15min"),
            ("jit", "off"),
            ("synchronous_commit", "on"),
            ("tcp_keepalives_idle", "30"),
            ("tcp_keepalives_interval", "10"),
            ("tcp_keepalives_count", "3"),
            ("idle_in_transaction_session_timeout", "30s"),
            ("timezone", "UTC"),
            ("log_timezone", "UTC"),
            ("log_destination", "stderr"),
            ("logging_collector", "off"),
        ];
        if cfg!(target_os = "linux") {
            settings.push(("client_connection_check_interval", "10s"));
        }
        match self.options.durability {
            Durability::Full => settings.extend([("fsync", "on"), ("full_page_writes", "on")]),
            Durability::ProcessOnly => settings.extend([("fsync", "off"), ("full_page_writes", "off")]),
        }
        let own = self.options.settings.iter().map(|(name, value)| (name.as_str(), value.as_str()));
        let mut arguments = vec!["-D".to_owned(), directory.clone(), "-p".to_owned(), self.port.to_string()];
        for (name, value) in settings.into_iter().chain(own) {
            arguments.extend(["-c".to_owned(), format!("{name}={value}")]);
        }
        arguments
    }

    async fn create_database(&self) -> Result<(), ServerError> {
        let url = self.url();
        if !sqlx::Postgres::database_exists(&url).await.map_err(ServerError::CreateDatabase)? {
            sqlx::Postgres::create_database(&url).await.map_err(ServerError::CreateDatabase)?;
        }
        Ok(())
    }
}

impl Drop for Postgres {
    fn drop(&mut self) {
        self.kill_now();
    }
}

async fn initialise(
    binaries: &Binaries,
    directory: &Path,
    log: &Path,
    account: Option<Account>,
    options: &PostgresOptions,
    password: Option<&str>,
) -> Result<(), ServerError> {
    if let Some(template) = &options.template {
        let args = ["-a".to_owned(), format!("{}/.", template.display()), directory.display().to_string()];
        // As ourselves: the template may lie where only we can read it, and keeps its owner.
        return child::run("cp", Path::new("/bin/cp"), &args, None, log).await;
    }
    // What an `initdb` that was interrupted has left would be refused.
    for entry in fs::read_dir(directory).map_err(ServerError::file("read", directory))?.flatten() {
        let path = entry.path();
        let removed = if path.is_dir() { fs::remove_dir_all(&path) } else { fs::remove_file(&path) };
        removed.map_err(ServerError::file("clear", path))?;
    }
    let mut args: Vec<String> =
        ["--encoding=UTF8", "--locale=C", "--username=eventrail"].map(str::to_owned).into();
    args.push(format!("--pgdata={}", directory.display()));
    if options.durability == Durability::ProcessOnly {
        args.push("--no-sync".into());
    }
    let password_file = directory.with_file_name("postgres.initial-password");
    match password {
        Some(password) => {
            home::write_private(&password_file, password)?;
            if let Some(account) = account {
                account.own(&password_file)?;
            }
            args.push("--auth=scram-sha-256".into());
            args.push(format!("--pwfile={}", password_file.display()));
        }
        None => args.push("--auth=trust".into()),
    }
    let made = child::run("initdb", &binaries.postgres_bin.join("initdb"), &args, account, log).await;
    if password.is_some() {
        let _ = fs::remove_file(&password_file);
    }
    made
}

/// A server that survived an earlier run is stopped; a pid file whose id belongs to somebody else by now,
/// which PostgreSQL would take for a running server, is removed. That of a dead process stays: PostgreSQL
/// checks with it that none of its backends is left.
async fn stop_orphan(directory: &Path) -> Result<(), ServerError> {
    let pid_file = directory.join("postmaster.pid");
    match orphan::holder(&pid_file, directory) {
        Holder::Nobody => Ok(()),
        Holder::Ours(pid) => {
            let children = orphan::children(pid);
            orphan::stop(pid, Signal::INT, directory).await?;
            for child in children {
                orphan::gone(child, Duration::from_secs(10)).await;
            }
            Ok(())
        }
        Holder::Stranger => fs::remove_file(&pid_file).map_err(ServerError::file("remove", &pid_file)),
    }
}

/// Whether `postmaster.pid` is of this process and says `ready` (its first and eighth lines; `pg_ctl -w`
/// looks there too).
fn reports_ready(pid_file: &Path, pid: &str) -> bool {
    let Ok(text) = fs::read_to_string(pid_file) else { return false };
    let lines: Vec<&str> = text.lines().map(str::trim).collect();
    lines.first() == Some(&pid) && lines.get(7) == Some(&"ready")
}
