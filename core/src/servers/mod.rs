//! Private PostgreSQL and Redis servers: `eventrail up`, the tests and the benchmark run their own, under
//! a data directory, on loopback ports of our choice, and stop them when they are done.
//!
//! A server is a child of this process and dies with it (on Linux even after `kill -9`, by its parent
//! death signal). Where one survived all the same, the next start on its directory stops it first.
//! Nothing here knows EventRail's schema or keys.

mod account;
mod binaries;
mod child;
mod home;
mod orphan;
mod port;
mod postgres;
mod redis;

pub use binaries::{Binaries, MissingBinaries};
pub use home::{DataDir, DataDirError};
pub use postgres::{Durability, Postgres, PostgresOptions};
pub use redis::{Redis, RedisOptions};

#[cfg(feature = "testing")]
pub(crate) use child::die_with_us;

use std::path::PathBuf;

/// Why a private server did not start or stop.
#[derive(Debug, thiserror::Error)]
pub enum ServerError {
    #[error("{action} {}", path.display())]
    File { action: &'static str, path: PathBuf, source: std::io::Error },
    #[error("could not run {}", program.display())]
    Spawn { program: PathBuf, source: std::io::Error },
    #[error("{name} did not start: {reason}; the last lines of {}:\n{tail}", log.display())]
    Start { name: &'static str, reason: String, log: PathBuf, tail: String },
    #[error("process {pid} still runs on {} and could not be stopped", directory.display())]
    Orphan { pid: i32, directory: PathBuf },
    #[error(
        "PostgreSQL refuses to run as root, and this machine has neither a `postgres` nor a `nobody` account"
    )]
    NoAccount,
    #[error("could not create the database")]
    CreateDatabase(#[source] sqlx::Error),
}

impl ServerError {
    fn file(action: &'static str, path: impl Into<PathBuf>) -> impl FnOnce(std::io::Error) -> Self {
        let path = path.into();
        move |source| Self::File { action, path, source }
    }
}

/// A loopback port that nobody listens on; another process may still take it first.
///
/// # Errors
/// There is none.
#[cfg(feature = "testing")]
pub fn free_port() -> std::io::Result<u16> {
    port::choose()
}
