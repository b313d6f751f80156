//! The real binary as a process, to be killed, stopped and held.

use std::ffi::OsStr;
use std::fs::File;
use std::path::Path;
use std::process::{ExitStatus, Stdio};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use rustix::process::{Pid, Signal, kill_process};
use tokio::io::{AsyncBufReadExt, AsyncRead, BufReader};

use super::{Api, PATIENCE, Stack, eventually};
use crate::servers;

/// A running `eventrail`; killed when it is dropped.
pub struct EventrailProcess {
    name: String,
    process: tokio::process::Child,
    pid: Pid,
    lines: Arc<Mutex<Vec<String>>>,
    /// Where its probes answer, for `api`, `dispatcher` and `up`.
    base: String,
}

impl EventrailProcess {
    /// `eventrail api` on a free port, ready to answer. `binary` is `env!("CARGO_BIN_EXE_eventrail")`;
    /// `environment` comes after the stack's and wins.
    pub async fn api(binary: impl AsRef<OsStr>, stack: &Stack, environment: &[(&str, &str)]) -> Self {
        let listen = free_address();
        let mut all = stack.environment();
        all.extend([
            ("LISTEN".into(), listen.clone()),
            ("EGRESS_ALLOW".into(), "127.0.0.0/8,::1/128".into()),
        ]);
        Self::spawn(binary, &["api"], &with(all, environment), &listen).until_ready().await
    }

    /// `eventrail dispatcher` with probes on a free port, ready.
    pub async fn dispatcher(binary: impl AsRef<OsStr>, stack: &Stack, environment: &[(&str, &str)]) -> Self {
        let listen = free_address();
        let mut all = stack.environment();
        all.extend([
            ("DISPATCHER_LISTEN".into(), listen.clone()),
            ("EGRESS_ALLOW".into(), "127.0.0.0/8,::1/128".into()),
        ]);
        Self::spawn(binary, &["dispatcher"], &with(all, environment), &listen).until_ready().await
    }

    /// Any command, with nothing in its environment but what is given. `listen` is the address of its
    /// probes, if it has some.
    pub fn spawn(
        binary: impl AsRef<OsStr>,
        arguments: &[&str],
        environment: &[(String, String)],
        listen: &str,
    ) -> Self {
        let mut command = tokio::process::Command::new(binary);
        command.args(arguments).env_clear().envs(environment.iter().cloned());
        command.stdout(Stdio::piped()).stderr(Stdio::piped());
        let mut this = Self::launch(command, arguments.first().copied().unwrap_or("eventrail"), listen);
        let (stdout, stderr) = (this.process.stdout.take().unwrap(), this.process.stderr.take().unwrap());
        tokio::spawn(collect(stdout, this.name.clone(), Arc::clone(&this.lines)));
        tokio::spawn(collect(stderr, this.name.clone(), Arc::clone(&this.lines)));
        this
    }

    /// The same with all that it says appended to a file, for processes that say much: [`Self::log`] stays empty.
    pub fn spawn_logging_to(
        binary: impl AsRef<OsStr>,
        arguments: &[&str],
        environment: &[(String, String)],
        listen: &str,
        log: &Path,
    ) -> Self {
        let out = File::options().append(true).create(true).open(log).unwrap();
        let mut command = tokio::process::Command::new(binary);
        command.args(arguments).env_clear().envs(environment.iter().cloned());
        command.stderr(out.try_clone().unwrap()).stdout(out);
        Self::launch(command, arguments.first().copied().unwrap_or("eventrail"), listen)
    }

    fn launch(mut command: tokio::process::Command, name: &str, listen: &str) -> Self {
        command.stdin(Stdio::null()).kill_on_drop(true);
        servers::die_with_us(&mut command, Signal::KILL);
        let process = command.spawn().unwrap();
        let pid = Pid::from_raw(i32::try_from(process.id().unwrap()).unwrap()).unwrap();
        Self { name: name.to_owned(), process, pid, lines: Arc::default(), base: format!("http://{listen}") }
    }

    /// Waits until `/readyz` answers 200; panics with the log if the process ends, or after a while.
    pub async fn until_ready(mut self) -> Self {
        let api = Api::new(&self.base);
        let deadline = tokio::time::Instant::now() + PATIENCE;
        loop {
            let answer = Api::send(api.request("GET", "/readyz")).await;
            if answer.is_ok_and(|reply| reply.status == 200) {
                return self;
            }
            if let Some(status) = self.process.try_wait().unwrap() {
                panic!("{} ended with {status}:\n{}", self.name, self.log());
            }
            assert!(tokio::time::Instant::now() < deadline, "{} is not ready:\n{}", self.name, self.log());
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    }

    /// Its status, if it has ended.
    pub fn ended(&mut self) -> Option<ExitStatus> {
        self.process.try_wait().unwrap()
    }

    /// A client of the API that this process serves.
    pub fn client(&self) -> Api {
        Api::new(&self.base)
    }

    /// What `/metrics` says.
    pub async fn metrics(&self) -> String {
        self.client().get("/metrics").await.text
    }

    /// All lines of standard output and standard error so far.
    pub fn log(&self) -> String {
        self.lines.lock().unwrap().join("\n")
    }

    pub fn id(&self) -> i32 {
        self.pid.as_raw_nonzero().get()
    }

    /// `kill -9`, and waits until it is gone.
    pub async fn kill9(mut self) {
        self.process.kill().await.unwrap();
    }

    /// SIGTERM, and waits for its end; panics with the log if that takes longer than it should.
    pub async fn sigterm(self) -> ExitStatus {
        self.send_sigterm();
        self.exit().await
    }

    /// SIGTERM alone.
    pub fn send_sigterm(&self) {
        self.signal(Signal::TERM);
    }

    /// Waits until its log contains these words.
    pub async fn until_says(&self, words: &str) {
        eventually(async || self.log().contains(words).then_some(()).ok_or_else(|| self.log())).await;
    }

    /// Ctrl-C, as a terminal would send it.
    pub fn sigint(&self) {
        self.signal(Signal::INT);
    }

    /// Holds the process, as a virtual machine that is paused.
    pub fn sigstop(&self) {
        self.signal(Signal::STOP);
    }

    pub fn sigcont(&self) {
        self.signal(Signal::CONT);
    }

    /// Waits for its end.
    pub async fn exit(mut self) -> ExitStatus {
        match self.exit_within(PATIENCE).await {
            Some(status) => status,
            None => panic!("{} still runs:\n{}", self.name, self.log()),
        }
    }

    /// The same; `None` if it still runs after `patience`.
    pub async fn exit_within(&mut self, patience: Duration) -> Option<ExitStatus> {
        tokio::time::timeout(patience, self.process.wait()).await.ok().map(Result::unwrap)
    }

    fn signal(&self, signal: Signal) {
        kill_process(self.pid, signal).unwrap();
    }
}

fn with(mut all: Vec<(String, String)>, more: &[(&str, &str)]) -> Vec<(String, String)> {
    all.extend(more.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())));
    all
}

fn free_address() -> String {
    format!("127.0.0.1:{}", servers::free_port().expect("a free port"))
}

/// Keeps the lines, and repeats them where the test runner captures them.
async fn collect(output: impl AsyncRead + Unpin, name: String, lines: Arc<Mutex<Vec<String>>>) {
    let mut read = BufReader::new(output).lines();
    while let Ok(Some(line)) = read.next_line().await {
        eprintln!("[{name}] {line}");
        lines.lock().unwrap().push(line);
    }
}
