//! The data directory: who holds it, and where in it the servers live.

use std::fs::{self, File, TryLockError};
use std::io::{Read, Seek, Write};
use std::os::unix::fs::{DirBuilderExt, MetadataExt, OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};

use rand::RngCore;

use super::ServerError;
use super::account::Account;

/// A data directory that this process alone uses; given back when it is dropped or the process dies.
#[derive(Debug)]
pub struct DataDir {
    path: PathBuf,
    _lock: File,
}

#[derive(Debug, thiserror::Error)]
pub enum DataDirError {
    #[error("{} is in use by another EventRail (process {holder}): stop it, or set DATA_DIR to another directory", path.display())]
    InUse { path: PathBuf, holder: String },
    #[error("cannot use {} as DATA_DIR: {source}", path.display())]
    Unusable { path: PathBuf, source: std::io::Error },
}

impl DataDir {
    /// Makes the directory if need be, and takes its lock.
    ///
    /// # Errors
    /// Another process holds it, or it cannot be made.
    pub fn acquire(path: &Path) -> Result<Self, DataDirError> {
        let unusable = |source| DataDirError::Unusable { path: path.to_owned(), source };
        fs::create_dir_all(path).map_err(unusable)?;
        let path = fs::canonicalize(path).map_err(unusable)?;
        let unusable = |source| DataDirError::Unusable { path: path.clone(), source };
        let mut lock = File::options()
            .read(true)
            .write(true)
            .create(true)
            .truncate(false)
            .open(path.join("lock"))
            .map_err(unusable)?;
        match lock.try_lock() {
            Ok(()) => {}
            Err(TryLockError::WouldBlock) => {
                let mut holder = String::new();
                lock.read_to_string(&mut holder).map_err(unusable)?;
                return Err(DataDirError::InUse { path: path.clone(), holder: holder.trim().to_owned() });
            }
            Err(TryLockError::Error(source)) => return Err(unusable(source)),
        }
        lock.set_len(0)
            .and_then(|()| lock.rewind())
            .and_then(|()| write!(lock, "{}", std::process::id()))
            .map_err(unusable)?;
        Ok(Self { path, _lock: lock })
    }

    pub fn path(&self) -> &Path {
        &self.path
    }
}

/// Makes the directory `name` of a server under `data_dir`, private to the servers' account, and answers
/// its absolute path.
///
/// Root may keep its clone where no other account can reach it (`/root`, mode 0700). The server's
/// directory is then made under `/var/lib`, and `data_dir` holds a symbolic link to it.
pub(super) fn server_directory(
    data_dir: &Path,
    name: &str,
    account: Option<Account>,
) -> Result<PathBuf, ServerError> {
    fs::create_dir_all(data_dir).map_err(ServerError::file("create", data_dir))?;
    let data_dir = fs::canonicalize(data_dir).map_err(ServerError::file("resolve", data_dir))?;
    let wanted = data_dir.join(name);
    if let Some(account) = account
        && !wanted.exists()
        && !is_reachable(&data_dir, account)
    {
        let elsewhere = PathBuf::from(format!("/var/lib/eventrail-{}/{name}", uuid::Uuid::new_v4().simple()));
        let parent = elsewhere.parent().unwrap_or(&elsewhere);
        fs::create_dir_all(parent).map_err(ServerError::file("create", parent))?;
        make_private(&elsewhere)?;
        std::os::unix::fs::symlink(&elsewhere, &wanted).map_err(ServerError::file("link", &wanted))?;
        tracing::info!(
            directory = %elsewhere.display(),
            "{} is out of reach of the servers' account: they keep their data elsewhere", data_dir.display()
        );
    }
    if !wanted.exists() {
        make_private(&wanted)?;
    }
    let directory = fs::canonicalize(&wanted).map_err(ServerError::file("resolve", &wanted))?;
    if let Some(account) = account {
        account.own(&directory)?;
    }
    Ok(directory)
}

/// The password kept in `file`, which is made on the first call.
pub(super) fn remembered_password(file: &Path) -> Result<String, ServerError> {
    if let Ok(known) = fs::read_to_string(file) {
        return Ok(known);
    }
    let mut random = [0; 16];
    rand::rng().fill_bytes(&mut random);
    let password: String = random.iter().map(|byte| format!("{byte:02x}")).collect();
    write_private(file, &password)?;
    Ok(password)
}

/// Writes a file that only its owner may read, whole or not at all.
pub(super) fn write_private(file: &Path, text: &str) -> Result<(), ServerError> {
    let unfinished = file.with_extension("new");
    let written = File::options()
        .write(true)
        .create(true)
        .truncate(true)
        .mode(0o600)
        .open(&unfinished)
        .and_then(|mut opened| opened.write_all(text.as_bytes()))
        .and_then(|()| fs::rename(&unfinished, file));
    written.map_err(ServerError::file("write", file))
}

fn make_private(directory: &Path) -> Result<(), ServerError> {
    fs::DirBuilder::new().mode(0o700).create(directory).map_err(ServerError::file("create", directory))
}

/// Whether the account may pass through `directory` and all that is above it.
fn is_reachable(directory: &Path, account: Account) -> bool {
    directory.ancestors().all(|part| {
        fs::metadata(part).is_ok_and(|meta| {
            let needed = if meta.uid() == account.uid {
                0o100
            } else if meta.gid() == account.gid {
                0o010
            } else {
                0o001
            };
            meta.permissions().mode() & needed != 0
        })
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_data_directory_is_held_once() {
        let path = std::env::temp_dir().join(format!("eventrail-home-{}", uuid::Uuid::new_v4()));
        let held = DataDir::acquire(&path).unwrap();
        let refused = DataDir::acquire(&path).unwrap_err();
        assert!(
            matches!(&refused, DataDirError::InUse { holder, .. } if *holder == std::process::id().to_string())
        );
        assert!(!refused.to_string().contains('\n'));
        drop(held);
        DataDir::acquire(&path).unwrap();
        fs::remove_dir_all(path).unwrap();
    }
}
