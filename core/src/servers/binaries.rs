//! Finds the servers' binaries: what the environment names, what is on `PATH`, where Debian and Homebrew
//! put them, and the private virtualenv that `scripts/ensure-servers` makes where there is no package.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use crate::config::environment;

const OLDEST_POSTGRES: u32 = 15;
const OLDEST_REDIS: u32 = 7;

/// Where the binaries are.
#[derive(Debug, Clone)]
pub struct Binaries {
    /// The directory with `initdb` and `postgres`.
    pub postgres_bin: PathBuf,
    /// `redis-server` or `valkey-server`.
    pub redis: PathBuf,
}

/// One line that says what is missing and what to do.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
#[error(
    "not found: {what}. Run scripts/ensure-servers (or `make up`, which does), \
     set EVENTRAIL_PG_BIN and EVENTRAIL_REDIS_BIN, or give DATABASE_URL and REDIS_URL"
)]
pub struct MissingBinaries {
    what: String,
}

impl Binaries {
    /// Looks in the usual places, in `.eventrail/venv` here and in the directories above, and in root's
    /// `/var/lib/eventrail/venv`.
    ///
    /// # Errors
    /// One of them is missing or too old.
    pub fn find() -> Result<Self, MissingBinaries> {
        let here = std::env::current_dir().unwrap_or_default();
        let above = here.ancestors().map(|directory| directory.join(".eventrail"));
        Self::find_with(above.chain([PathBuf::from("/var/lib/eventrail")]).collect())
    }

    /// As [`Self::find`], and also in the virtualenv under `data_dir`.
    ///
    /// # Errors
    /// One of them is missing or too old.
    pub fn find_for(data_dir: &Path) -> Result<Self, MissingBinaries> {
        Self::find_with(vec![data_dir.to_owned()]).or_else(|_| Self::find())
    }

    fn find_with(data_dirs: Vec<PathBuf>) -> Result<Self, MissingBinaries> {
        let venvs: Vec<PathBuf> = data_dirs.into_iter().map(|directory| directory.join("venv")).collect();
        let postgres_bin = postgres_candidates(&venvs).into_iter().find(|bin| is_usable_postgres(bin));
        let redis = redis_candidates(&venvs).into_iter().find(|binary| is_usable_redis(binary));
        let missing = |what: String| MissingBinaries { what };
        match (postgres_bin, redis) {
            (Some(postgres_bin), Some(redis)) => Ok(Self { postgres_bin, redis }),
            (None, Some(_)) => Err(missing(format!("PostgreSQL {OLDEST_POSTGRES} or newer"))),
            (Some(_), None) => Err(missing(format!("Redis {OLDEST_REDIS} or newer"))),
            (None, None) => {
                Err(missing(format!("PostgreSQL {OLDEST_POSTGRES} and Redis {OLDEST_REDIS} or newer")))
            }
        }
    }
}

fn postgres_candidates(venvs: &[PathBuf]) -> Vec<PathBuf> {
    let mut candidates = Vec::new();
    candidates.extend(environment("EVENTRAIL_PG_BIN").map(PathBuf::from));
    // Often a symbolic link: PostgreSQL's other files are found from where the real binary is.
    let on_path =
        on_path("initdb").and_then(|initdb| Some(fs::canonicalize(initdb).ok()?.parent()?.to_owned()));
    candidates.extend(on_path);
    candidates.extend(newest_first("/usr/lib/postgresql", "").into_iter().map(|home| home.join("bin")));
    for brew in ["/opt/homebrew/opt", "/usr/local/opt", "/home/linuxbrew/.linuxbrew/opt"] {
        candidates.extend(newest_first(brew, "postgresql@").into_iter().map(|home| home.join("bin")));
    }
    let in_venvs = venvs.iter().filter_map(|venv| below(venv, "initdb", 7)?.parent().map(Path::to_owned));
    candidates.extend(in_venvs);
    candidates
}

fn redis_candidates(venvs: &[PathBuf]) -> Vec<PathBuf> {
    let names = ["redis-server", "valkey-server"];
    let mut candidates = Vec::new();
    candidates.extend(environment("EVENTRAIL_REDIS_BIN").map(PathBuf::from));
    candidates.extend(names.into_iter().filter_map(on_path));
    for brew in ["/opt/homebrew/opt", "/usr/local/opt", "/home/linuxbrew/.linuxbrew/opt"] {
        candidates.push(Path::new(brew).join("redis/bin/redis-server"));
        candidates.push(Path::new(brew).join("valkey/bin/valkey-server"));
    }
    candidates.extend(venvs.iter().filter_map(|venv| below(venv, "valkey-server", 7)));
    candidates
}

fn on_path(name: &str) -> Option<PathBuf> {
    let path = environment("PATH")?;
    std::env::split_paths(&path).map(|directory| directory.join(name)).find(|candidate| candidate.is_file())
}

/// The directories `{parent}/{prefix}{number}`, highest number first.
fn newest_first(parent: &str, prefix: &str) -> Vec<PathBuf> {
    let Ok(entries) = fs::read_dir(parent) else { return Vec::new() };
    let mut found: Vec<(u32, PathBuf)> = entries
        .flatten()
        .filter_map(|entry| {
            let number = entry.file_name().to_str()?.strip_prefix(prefix)?.parse().ok()?;
            Some((number, entry.path()))
        })
        .collect();
    found.sort_by_key(|(number, _)| std::cmp::Reverse(*number));
    found.into_iter().map(|(_, path)| path).collect()
}

/// The file `name` somewhere below `directory`, at most `depth` levels down.
fn below(directory: &Path, name: &str, depth: u32) -> Option<PathBuf> {
    let mut deeper = Vec::new();
    for entry in fs::read_dir(directory).ok()?.flatten() {
        let kind = entry.file_type().ok()?;
        if kind.is_file() && entry.file_name() == name {
            return Some(entry.path());
        }
        if kind.is_dir() && depth > 0 {
            deeper.push(entry.path());
        }
    }
    deeper.iter().find_map(|directory| below(directory, name, depth - 1))
}

fn is_usable_postgres(bin: &Path) -> bool {
    bin.join("initdb").is_file()
        && version_line(&bin.join("postgres"))
            .and_then(|line| major(&line, "(PostgreSQL) "))
            .is_some_and(|version| version >= OLDEST_POSTGRES)
}

fn is_usable_redis(binary: &Path) -> bool {
    version_line(binary).and_then(|line| major(&line, "v=")).is_some_and(|version| version >= OLDEST_REDIS)
}

fn version_line(binary: &Path) -> Option<String> {
    let output = Command::new(binary).arg("--version").output().ok()?;
    String::from_utf8(output.stdout).ok()
}

/// The number that follows `mark`: 15 in `postgres (PostgreSQL) 15.14`, 7 in `Redis server v=7.0.15`.
fn major(line: &str, mark: &str) -> Option<u32> {
    let (_, version) = line.split_once(mark)?;
    version.split(|next: char| !next.is_ascii_digit()).next()?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_major_version_is_read_from_what_the_binaries_print() {
        assert_eq!(major("postgres (PostgreSQL) 15.14 (Debian 15.14-0+deb12u1)", "(PostgreSQL) "), Some(15));
        assert_eq!(major("postgres (PostgreSQL) 19devel", "(PostgreSQL) "), Some(19));
        assert_eq!(major("Redis server v=7.0.15 sha=00000000:0 malloc=jemalloc-5.2.1", "v="), Some(7));
        assert_eq!(major("Valkey server v=9.1.2 sha=0", "v="), Some(9));
        assert_eq!(major("something else", "v="), None);
    }

    #[test]
    fn missing_binaries_are_one_line() {
        let line = MissingBinaries { what: "Redis 7 or newer".into() }.to_string();
        assert!(line.starts_with("not found: Redis 7 or newer. Run"), "{line}");
        assert!(!line.contains('\n'));
    }
}
