//! One server as a child process: its output in a log file, its end with ours.

use std::fs::{self, File};
use std::io::{Read, Seek, SeekFrom};
use std::path::{Path, PathBuf};
use std::process::{ExitStatus, Stdio};
use std::time::{Duration, Instant};

use rustix::process::Signal;
use tokio::process::Command;

use super::account::Account;
use super::orphan;
use super::{ServerError, orphan::send};

/// A log beyond this is put aside at the next start.
const LARGEST_LOG: u64 = 16 << 20;
const TAIL_LINES: usize = 12;

pub(super) struct Child {
    name: &'static str,
    process: tokio::process::Child,
    pid: i32,
    log: PathBuf,
}

impl Child {
    /// Starts `program` in a process group of its own (Ctrl-C in a terminal goes to the whole foreground
    /// group, and we stop in an order), as `account` where one is given. `on_our_death` reaches it when
    /// this process dies, on Linux.
    pub(super) fn spawn(
        name: &'static str,
        program: &Path,
        args: &[String],
        account: Option<Account>,
        log: &Path,
        on_our_death: Signal,
    ) -> Result<Self, ServerError> {
        let mut command = command(program, account, log)?;
        command.args(args).process_group(0).kill_on_drop(true);
        die_with_us(&mut command, on_our_death);
        let spawn_error = |source| ServerError::Spawn { program: program.to_owned(), source };
        let process = command.spawn().map_err(spawn_error)?;
        let pid = process.id().and_then(|id| i32::try_from(id).ok()).unwrap_or_default();
        Ok(Self { name, process, pid, log: log.to_owned() })
    }

    pub(super) fn id(&self) -> i32 {
        self.pid
    }

    /// Polls `is_ready` until it holds.
    ///
    /// # Errors
    /// The process ended, or the deadline passed: with the last lines of its log.
    pub(super) async fn until_ready(
        &mut self,
        patience: Duration,
        is_ready: impl AsyncFn() -> bool,
    ) -> Result<(), ServerError> {
        let deadline = tokio::time::Instant::now() + patience;
        loop {
            if let Ok(Some(status)) = self.process.try_wait() {
                return Err(start_error(self.name, status.to_string(), &self.log));
            }
            if is_ready().await {
                return Ok(());
            }
            if tokio::time::Instant::now() > deadline {
                let reason = format!("not ready after {} s", patience.as_secs());
                return Err(start_error(self.name, reason, &self.log));
            }
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    }

    /// Sends each signal in turn and waits its time, and SIGKILL in the end.
    pub(super) async fn stop(mut self, signals: &[(Signal, Duration)]) {
        for (signal, patience) in signals {
            send(self.pid, *signal);
            if tokio::time::timeout(*patience, self.process.wait()).await.is_ok() {
                return;
            }
            tracing::warn!(server = self.name, ?signal, "still running after {} s", patience.as_secs());
        }
        self.kill().await;
    }

    /// SIGKILL to it and its children, and waits until they are gone.
    pub(super) async fn kill(mut self) {
        let processes = self.send_kill();
        let _ = self.process.wait().await;
        for pid in processes {
            orphan::gone(pid, Duration::from_secs(10)).await;
        }
    }

    /// The same for `Drop`, where nothing can be awaited: a thread is held for the moment that it takes.
    pub(super) fn kill_now(&mut self) {
        let processes = self.send_kill();
        let deadline = Instant::now() + Duration::from_secs(2);
        while processes.iter().any(|pid| orphan::is_alive(*pid)) && Instant::now() < deadline {
            std::thread::yield_now();
        }
    }

    /// Sends a signal to it and then to its children.
    #[cfg(feature = "testing")]
    pub(super) fn signal(&self, signal: Signal) {
        send(self.pid, signal);
        for child in orphan::children(self.pid) {
            send(child, signal);
        }
    }

    /// Whether it has not ended.
    #[cfg(feature = "testing")]
    pub(super) fn is_running(&mut self) -> bool {
        matches!(self.process.try_wait(), Ok(None))
    }

    /// The parent goes first, so that it can't react to the end of its children.
    fn send_kill(&mut self) -> Vec<i32> {
        let mut processes = vec![self.pid];
        processes.extend(orphan::children(self.pid));
        let _ = self.process.start_kill();
        for child in &processes[1..] {
            send(*child, Signal::KILL);
        }
        processes
    }

    /// Waits for it to end by itself.
    pub(super) async fn ended(&mut self) -> std::io::Result<ExitStatus> {
        self.process.wait().await
    }
}

/// Runs a program to its end, with its output in the log.
pub(super) async fn run(
    name: &'static str,
    program: &Path,
    args: &[String],
    account: Option<Account>,
    log: &Path,
) -> Result<(), ServerError> {
    let spawn_error = |source| ServerError::Spawn { program: program.to_owned(), source };
    let status = command(program, account, log)?.args(args).status().await.map_err(spawn_error)?;
    if status.success() { Ok(()) } else { Err(start_error(name, status.to_string(), log)) }
}

fn command(program: &Path, account: Option<Account>, log: &Path) -> Result<Command, ServerError> {
    if fs::metadata(log).is_ok_and(|meta| meta.len() > LARGEST_LOG) {
        fs::rename(log, log.with_extension("log.old")).map_err(ServerError::file("put aside", log))?;
    }
    let out = File::options().append(true).create(true).open(log).map_err(ServerError::file("open", log))?;
    let err = out.try_clone().map_err(ServerError::file("open", log))?;
    let mut command = Command::new(program);
    // Our own locale and PG* variables are nobody's business; LC_ALL=C also keeps messages in English.
    command.env_clear().env("LC_ALL", "C").env("PATH", "/usr/bin:/bin").current_dir("/");
    command.stdin(Stdio::null()).stdout(out).stderr(err);
    if let Some(account) = account {
        command.gid(account.gid).uid(account.uid);
    }
    Ok(command)
}

/// Asks Linux to signal the child when we die, even by SIGKILL. The signal comes when the thread that
/// spawned it ends, so servers are started from a thread that lives as long as they should.
#[cfg(target_os = "linux")]
pub(crate) fn die_with_us(command: &mut Command, signal: Signal) {
    let us = rustix::process::getpid();
    let before_exec = move || {
        rustix::process::set_parent_process_death_signal(Some(signal))?;
        if rustix::process::getppid() == Some(us) {
            Ok(())
        } else {
            Err(std::io::Error::other("the parent is gone"))
        }
    };
    // SAFETY: between fork and exec only two system calls are made; nothing allocates but the error of a
    // parent that has died, when nobody is left to be harmed.
    #[expect(unsafe_code, reason = "std has no safe way to set the parent death signal")]
    unsafe {
        command.pre_exec(before_exec);
    }
}

#[cfg(not(target_os = "linux"))]
pub(crate) fn die_with_us(_: &mut Command, _: Signal) {}

fn start_error(name: &'static str, reason: String, log: &Path) -> ServerError {
    ServerError::Start { name, reason, log: log.to_owned(), tail: tail(log) }
}

fn tail(log: &Path) -> String {
    let mut text = Vec::new();
    let read = File::open(log).and_then(|mut file| {
        let length = file.metadata()?.len();
        file.seek(SeekFrom::Start(length.saturating_sub(8192)))?;
        file.read_to_end(&mut text)
    });
    if let Err(error) = read {
        return error.to_string();
    }
    let text = String::from_utf8_lossy(&text);
    let lines: Vec<&str> = text.lines().collect();
    lines[lines.len().saturating_sub(TAIL_LINES)..].join("\n")
}
