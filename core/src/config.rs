//! Settings: each is an environment variable and the flag of the same name, read once, validated before
//! anything starts. One struct for each concern; tests write literals.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::str::FromStr;
use std::time::Duration;

use clap::{Args, ValueEnum};
use ipnet::IpNet;

use crate::egress::EgressPolicy;
use crate::retry::RetryPolicy;
use crate::vault::{SecretsKey, Vault};

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum LogFormat {
    Text,
    Json,
}

#[derive(Debug, Clone, Args)]
pub struct TelemetryConfig {
    /// How log lines look
    #[arg(
        long,
        global = true,
        help_heading = "Logging",
        env = "LOG_FORMAT",
        value_enum,
        default_value = "text"
    )]
    pub log_format: LogFormat,
    /// Which log lines are written, as `tracing` filters
    #[arg(
        long,
        global = true,
        help_heading = "Logging",
        env = "RUST_LOG",
        default_value = "info,sqlx::postgres::notice=warn"
    )]
    pub rust_log: String,
}

/// Where PostgreSQL and Redis are. URLs may hold passwords, so they are never flags.
#[derive(Debug, Clone)]
pub struct StoreConfig {
    pub database_url: String,
    pub redis_url: String,
    pub redis_prefix: String,
}

#[derive(Clone, Args)]
pub struct StoreArgs {
    /// First part of each Redis key
    #[arg(long, env = "REDIS_PREFIX", default_value = "eventrail", value_parser = redis_prefix)]
    pub redis_prefix: String,
}

impl StoreArgs {
    /// Joins the flags with `DATABASE_URL` and `REDIS_URL`.
    ///
    /// # Errors
    /// One line that names the setting that is missing or unusable.
    pub fn resolve(&self) -> anyhow::Result<StoreConfig> {
        let database_url = secret_setting("DATABASE_URL")?.ok_or_else(|| {
            anyhow::anyhow!("DATABASE_URL is not set (such as postgres://user@host/eventrail)")
        })?;
        let redis_url = secret_setting("REDIS_URL")?
            .ok_or_else(|| anyhow::anyhow!("REDIS_URL is not set (such as redis://host:6379)"))?;
        Ok(StoreConfig { database_url, redis_url, redis_prefix: self.redis_prefix.clone() })
    }
}

/// A setting that holds a secret: from the variable `name`, or from the file that `{name}_FILE` names.
///
/// # Errors
/// Both are set, or the file cannot be read.
pub fn secret_setting(name: &str) -> anyhow::Result<Option<String>> {
    let direct = environment(name);
    let Some(file) = environment(&format!("{name}_FILE")) else { return Ok(direct) };
    anyhow::ensure!(direct.is_none(), "{name} and {name}_FILE are both set: set one");
    let text =
        std::fs::read_to_string(&file).map_err(|error| anyhow::anyhow!("{name}_FILE: {file}: {error}"))?;
    Ok(Some(text.trim().to_owned()))
}

/// The keys that secrets are sealed with, from `SECRETS_KEY` and, while they are changed, `SECRETS_KEYS_OLD`.
///
/// # Errors
/// One line that names the setting that is missing or unusable.
pub fn vault() -> anyhow::Result<Vault> {
    let current = secret_setting("SECRETS_KEY")?
        .ok_or_else(|| anyhow::anyhow!("SECRETS_KEY is not set (make one with: openssl rand -base64 32)"))?;
    vault_with(&current)
}

/// The text of a key file, which is made, readable by its owner only, if it does not exist.
///
/// # Errors
/// The file can be neither read nor made.
pub fn key_file(path: &std::path::Path) -> anyhow::Result<String> {
    use std::io::Write as _;
    use std::os::unix::fs::OpenOptionsExt as _;
    let made = std::fs::OpenOptions::new().write(true).create_new(true).mode(0o600).open(path);
    match made {
        Ok(mut file) => {
            let key = SecretsKey::generate().to_text();
            file.write_all(key.as_bytes()).and_then(|()| file.sync_all())?;
            Ok(key)
        }
        Err(error) if error.kind() == std::io::ErrorKind::AlreadyExists => Ok(std::fs::read_to_string(path)?),
        Err(error) => Err(anyhow::anyhow!("SECRETS_KEY: {} can't be made: {error}", path.display())),
    }
}

/// The same with a current key that was found elsewhere.
///
/// # Errors
/// One line that names the setting that is unusable.
pub fn vault_with(current: &str) -> anyhow::Result<Vault> {
    let parse = |name: &str, text: &str| {
        text.parse::<SecretsKey>().map_err(|error| anyhow::anyhow!("{name} {error}"))
    };
    let old = secret_setting("SECRETS_KEYS_OLD")?.unwrap_or_default();
    let old = old
        .split(',')
        .filter(|text| !text.trim().is_empty())
        .map(|text| parse("SECRETS_KEYS_OLD", text))
        .collect::<anyhow::Result<Vec<_>>>()?;
    Ok(Vault::new(&parse("SECRETS_KEY", current)?, &old))
}

/// A variable of the environment; an empty one counts as unset.
#[expect(clippy::disallowed_methods, reason = "this is the one place")]
pub fn environment(name: &str) -> Option<String> {
    std::env::var(name).ok().filter(|value| !value.is_empty())
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum Auth {
    /// Keys are needed wherever ADMIN_TOKEN is set
    On,
    /// Anybody who reaches the address may do anything
    Off,
}

#[derive(Debug, Clone, Args)]
pub struct ApiConfig {
    /// Address of the API
    #[arg(long, env = "LISTEN", default_value = "127.0.0.1:8080")]
    pub listen: SocketAddr,
    /// `off` lets the API listen beyond loopback without ADMIN_TOKEN
    #[arg(long, env = "AUTH", value_enum, default_value = "on")]
    pub auth: Auth,
    /// Largest body of POST /events, in bytes
    #[arg(long, env = "MAX_EVENT_BYTES", default_value_t = 256 * 1024, value_parser = clap::value_parser!(u64).range(1024..=64 << 20))]
    pub max_event_bytes: u64,
    /// Largest body of POST /events/batch, in bytes
    #[arg(long, env = "MAX_BATCH_BYTES", default_value_t = 8 << 20, value_parser = clap::value_parser!(u64).range(1024..=256 << 20))]
    pub max_batch_bytes: u64,
    /// Connections to the API at once; for one more, whoever has kept us waiting for longest is cut
    #[arg(long, env = "MAX_CONNECTIONS", default_value_t = 10_000, value_parser = clap::value_parser!(u32).range(16..=1_000_000))]
    pub max_connections: u32,
}

/// The egress policy is needed twice: when an endpoint is registered, and when it is connected to.
#[derive(Debug, Clone, Args)]
pub struct EgressConfig {
    /// Private networks that endpoints may be in, as CIDRs separated by commas
    // By its full path, so that clap takes the list for one value, which may be empty.
    #[arg(long, env = "EGRESS_ALLOW", default_value = "", hide_default_value = true, value_parser = networks)]
    pub egress_allow: std::vec::Vec<IpNet>,
}

impl EgressConfig {
    pub fn policy(&self) -> EgressPolicy {
        EgressPolicy::new(self.egress_allow.clone())
    }
}

/// A span of time, such as `5d`, `12h`, `30m` or `90s`; none for `off` and `0`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Span(pub Option<Duration>);

impl FromStr for Span {
    type Err = &'static str;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        const GRAMMAR: &str = "is a number with s, m, h or d behind it (up to 3650d), or off";
        if text == "off" || text == "0" {
            return Ok(Self(None));
        }
        let unit = match text.chars().next_back() {
            Some('s') => 1,
            Some('m') => 60,
            Some('h') => 3_600,
            Some('d') => 86_400,
            _ => return Err(GRAMMAR),
        };
        let number: u64 = text[..text.len() - 1].parse().map_err(|_| GRAMMAR)?;
        let seconds = number.checked_mul(unit).filter(|seconds| *seconds <= 3_650 * 86_400).ok_or(GRAMMAR)?;
        Ok(Self((seconds > 0).then(|| Duration::from_secs(seconds))))
    }
}

#[derive(Debug, Clone, Args)]
pub struct DispatcherConfig {
    /// First part of this process's consumer name; host and process id follow
    #[arg(long, env = "CONSUMER_NAME", default_value = "api-1")]
    pub consumer_name: String,
    /// Address of the dispatcher's own probes and metrics; off unless set
    #[arg(long, env = "DISPATCHER_LISTEN")]
    pub dispatcher_listen: Option<SocketAddr>,
    /// Retries after the first attempt
    #[arg(long, env = "MAX_RETRIES", default_value_t = 5, value_parser = clap::value_parser!(u32).range(0..=50))]
    pub max_retries: u32,
    /// Delay before the first retry; each further one doubles it
    #[arg(long, env = "BASE_BACKOFF_MS", default_value_t = 500, value_parser = clap::value_parser!(u64).range(1..=86_400_000))]
    pub base_backoff_ms: u64,
    /// Longest delay before a retry, Retry-After included
    #[arg(long, env = "MAX_BACKOFF_MS", default_value_t = 3_600_000, value_parser = clap::value_parser!(u64).range(1..=2_592_000_000))]
    pub max_backoff_ms: u64,
    /// Time for one attempt, from connecting to the end of the answer
    #[arg(long, env = "ATTEMPT_TIMEOUT_MS", default_value_t = 15_000, value_parser = clap::value_parser!(u64).range(100..=60_000))]
    pub attempt_timeout_ms: u64,
    /// Attempts under way at once in this process
    #[arg(long, env = "MAX_IN_FLIGHT", default_value_t = 512, value_parser = clap::value_parser!(u32).range(1..=100_000))]
    pub max_in_flight: u32,
    /// Deliveries of one group that its stream in Redis may hold; the rest of a backlog stays in PostgreSQL
    #[arg(long, env = "STREAM_WINDOW", default_value_t = 10_000, value_parser = clap::value_parser!(u32).range(100..=1_000_000))]
    pub stream_window: u32,
    /// How long an endpoint may only fail before it is disabled, such as 5d or 12h; off for ever
    #[arg(long, env = "AUTO_DISABLE_AFTER", default_value = "5d")]
    pub auto_disable_after: Span,
    /// Days that events are kept, with their deliveries, unless they are still owed to somebody; 0 for ever
    #[arg(long, env = "RETENTION_DAYS", default_value_t = 30, value_parser = clap::value_parser!(u32).range(0..=36_500))]
    pub retention_days: u32,
    /// Days after which events are dropped even if they are still owed to somebody
    #[arg(long, env = "RETENTION_HARD_DAYS", default_value_t = 90, value_parser = clap::value_parser!(u32).range(1..=36_500))]
    pub retention_hard_days: u32,
}

impl DispatcherConfig {
    pub fn retry_policy(&self) -> RetryPolicy {
        RetryPolicy::exponential(
            self.max_retries,
            Duration::from_millis(self.base_backoff_ms),
            Duration::from_millis(self.max_backoff_ms),
        )
    }

    pub fn attempt_timeout(&self) -> Duration {
        Duration::from_millis(self.attempt_timeout_ms)
    }

    /// # Errors
    /// One line that names the settings that do not go together.
    pub fn validate(&self) -> anyhow::Result<()> {
        anyhow::ensure!(
            self.base_backoff_ms <= self.max_backoff_ms,
            "BASE_BACKOFF_MS ({}) is above MAX_BACKOFF_MS ({})",
            self.base_backoff_ms,
            self.max_backoff_ms
        );
        anyhow::ensure!(
            self.retention_hard_days >= self.retention_days,
            "RETENTION_HARD_DAYS ({}) is below RETENTION_DAYS ({})",
            self.retention_hard_days,
            self.retention_days
        );
        let name = &self.consumer_name;
        anyhow::ensure!(
            !name.is_empty() && name.len() <= 64 && name.bytes().all(|byte| byte.is_ascii_graphic()),
            "CONSUMER_NAME must be 1 to 64 visible ASCII characters"
        );
        Ok(())
    }
}

#[derive(Debug, Clone, Args)]
pub struct UpConfig {
    /// Where the private servers keep their data
    #[arg(long, env = "DATA_DIR", default_value = ".eventrail")]
    pub data_dir: PathBuf,
}

fn redis_prefix(text: &str) -> Result<String, String> {
    let usable = !text.is_empty()
        && text.len() <= 64
        && text.bytes().all(|byte| byte.is_ascii_graphic() && byte != b'{' && byte != b'}');
    usable.then(|| text.to_owned()).ok_or_else(|| "1 to 64 visible ASCII characters without braces".into())
}

fn networks(text: &str) -> Result<Vec<IpNet>, String> {
    let names = text.split(',').map(str::trim).filter(|name| !name.is_empty());
    names.map(|name| name.parse().map_err(|_| format!("{name} is not a CIDR such as 10.0.0.0/8"))).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn spans_are_numbers_with_a_unit_or_off() {
        for (text, seconds) in [
            ("5d", Some(432_000)),
            ("12h", Some(43_200)),
            ("30m", Some(1_800)),
            ("90s", Some(90)),
            ("0", None),
            ("0d", None),
            ("off", None),
        ] {
            assert_eq!(text.parse(), Ok(Span(seconds.map(Duration::from_secs))), "{text}");
        }
        for text in ["", "5", "d", "-1d", "1.5h", "5 d", "5w", "3651d", "99999999999999999999d", "\u{e9}"] {
            assert!(text.parse::<Span>().is_err(), "{text:?}");
        }
    }
}
