//! File descriptors: one for each connection, and systems give a process few of them unless it asks for more.

use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};

/// Asks for as many as the system allows, and answers how many there are; `None`: as many as one likes.
pub fn raise() -> Option<u64> {
    let given = getrlimit(Resource::Nofile);
    match setrlimit(Resource::Nofile, Rlimit { current: given.maximum, ..given }) {
        Ok(()) => given.maximum,
        Err(error) => {
            tracing::warn!(%error, "no more file descriptors than {:?} can be had", given.current);
            given.current
        }
    }
}
