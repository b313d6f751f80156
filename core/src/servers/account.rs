//! Whom the servers run as: PostgreSQL refuses root, so root lends them another account.

use std::fs;
use std::path::Path;

use super::ServerError;

/// An account without privileges.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Account {
    pub(super) uid: u32,
    pub(super) gid: u32,
}

impl Account {
    /// The account to drop to; `None` where we are not root and the servers run as ourselves.
    pub(super) fn for_servers() -> Result<Option<Self>, ServerError> {
        if !rustix::process::geteuid().is_root() {
            return Ok(None);
        }
        let accounts = fs::read_to_string("/etc/passwd").map_err(ServerError::file("read", "/etc/passwd"))?;
        let found = ["postgres", "nobody"].into_iter().find_map(|name| Self::parse(&accounts, name));
        found.map(Some).ok_or(ServerError::NoAccount)
    }

    fn parse(accounts: &str, name: &str) -> Option<Self> {
        let line = accounts.lines().find(|line| line.split(':').next() == Some(name))?;
        let mut ids = line.split(':').skip(2);
        let account = Self { uid: ids.next()?.parse().ok()?, gid: ids.next()?.parse().ok()? };
        (account.uid != 0).then_some(account)
    }

    /// Gives it this one file or directory.
    pub(super) fn own(self, path: &Path) -> Result<(), ServerError> {
        std::os::unix::fs::chown(path, Some(self.uid), Some(self.gid))
            .map_err(ServerError::file("give away", path))
    }
}

#[cfg(test)]
mod tests {
    use super::Account;

    #[test]
    fn an_account_is_read_from_its_line() {
        let accounts =
            "root:x:0:0:root:/root:/bin/sh\npostgres:x:101:104:,,,:/var/lib/postgresql:/bin/bash\n";
        assert_eq!(Account::parse(accounts, "postgres"), Some(Account { uid: 101, gid: 104 }));
        assert_eq!(Account::parse(accounts, "nobody"), None);
        assert_eq!(Account::parse(accounts, "root"), None, "root is what we get away from");
    }
}
