//! What an earlier run left behind. A process counts as ours only if its command line names our directory:
//! process ids are reused, above all in containers.

use std::fs;
use std::path::Path;
use std::time::Duration;

use rustix::process::{Pid, Signal, kill_process, test_kill_process};

use super::ServerError;

/// Whether a process runs under the id in a pid file, and whose it is.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Holder {
    /// No pid file, or its process is gone.
    Nobody,
    /// The process works on our directory.
    Ours(i32),
    /// The id was given to another process since.
    Stranger,
}

/// The holder of a pid file whose first line is a process id.
pub(super) fn holder(pid_file: &Path, directory: &Path) -> Holder {
    let first_line =
        fs::read_to_string(pid_file).ok().and_then(|text| text.lines().next()?.trim().parse::<i32>().ok());
    let Some(pid) = first_line else { return Holder::Nobody };
    if !is_alive(pid) {
        return Holder::Nobody;
    }
    match command_line(pid) {
        Some(line) if line.contains(&*directory.to_string_lossy()) => Holder::Ours(pid),
        _ => Holder::Stranger,
    }
}

/// Stops a process that is not our child: `gently`, and after 30 s with SIGKILL.
pub(super) async fn stop(pid: i32, gently: Signal, directory: &Path) -> Result<(), ServerError> {
    tracing::info!(pid, directory = %directory.display(), "stopping a server that an earlier run left behind");
    for (signal, patience) in [(gently, 30), (Signal::KILL, 10)] {
        send(pid, signal);
        if gone(pid, Duration::from_secs(patience)).await {
            return Ok(());
        }
    }
    Err(ServerError::Orphan { pid, directory: directory.to_owned() })
}

/// Waits until the process is gone; `false` if it is still there after `patience`.
pub(super) async fn gone(pid: i32, patience: Duration) -> bool {
    let deadline = tokio::time::Instant::now() + patience;
    while is_alive(pid) {
        if tokio::time::Instant::now() > deadline {
            return false;
        }
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    true
}

/// The direct children of a process. Linux only; elsewhere none are found.
pub(super) fn children(parent: i32) -> Vec<i32> {
    let Ok(entries) = fs::read_dir("/proc") else { return Vec::new() };
    entries
        .flatten()
        .filter_map(|entry| entry.file_name().to_str()?.parse::<i32>().ok())
        .filter(|pid| stat_fields(*pid).is_some_and(|(_, of)| of == parent))
        .collect()
}

pub(super) fn send(pid: i32, signal: Signal) {
    if let Some(pid) = Pid::from_raw(pid) {
        // It may be gone already, which is what we want.
        let _ = kill_process(pid, signal);
    }
}

/// A zombie, which only waits for its parent to look, counts as gone.
pub(super) fn is_alive(pid: i32) -> bool {
    let exists = Pid::from_raw(pid).is_some_and(|pid| test_kill_process(pid) != Err(rustix::io::Errno::SRCH));
    exists && stat_fields(pid).is_none_or(|(state, _)| state != 'Z')
}

/// State and parent of a process, from `/proc/<pid>/stat`: `123 (name) S 1 …`.
fn stat_fields(pid: i32) -> Option<(char, i32)> {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    let (_, after_name) = stat.rsplit_once(") ")?;
    let mut fields = after_name.split(' ');
    Some((fields.next()?.chars().next()?, fields.next()?.parse().ok()?))
}

fn command_line(pid: i32) -> Option<String> {
    if let Ok(bytes) = fs::read(format!("/proc/{pid}/cmdline")) {
        return Some(String::from_utf8_lossy(&bytes).replace('\0', " "));
    }
    let output =
        std::process::Command::new("ps").args(["-o", "args=", "-p", &pid.to_string()]).output().ok()?;
    Some(String::from_utf8_lossy(&output.stdout).into_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_pid_file_is_believed_only_if_its_process_names_our_directory() {
        let directory = std::env::temp_dir().join(format!("eventrail-orphan-{}", uuid::Uuid::new_v4()));
        let pid_file = directory.join("server.pid");
        fs::create_dir(&directory).unwrap();
        assert_eq!(holder(&pid_file, &directory), Holder::Nobody);
        fs::write(&pid_file, format!("{}\n{}\n", std::process::id(), directory.display())).unwrap();
        assert_eq!(
            holder(&pid_file, &directory),
            Holder::Stranger,
            "this test process names no such directory"
        );
        let mut child = std::process::Command::new("tail").arg("-f").arg(&pid_file).spawn().unwrap();
        fs::write(&pid_file, child.id().to_string()).unwrap();
        // The child shows our own command line until it has become `tail`.
        let pid = i32::try_from(child.id()).unwrap();
        while !command_line(pid).is_some_and(|line| line.starts_with("tail")) {
            std::thread::yield_now();
        }
        assert_eq!(holder(&pid_file, &directory), Holder::Ours(pid));
        child.kill().unwrap();
        child.wait().unwrap();
        assert_eq!(holder(&pid_file, &directory), Holder::Nobody);
        fs::remove_dir_all(directory).unwrap();
    }
}
