//! Where the operator of a test sits.

use std::process::Stdio;

use eventrail_core::testing::{Api, EventrailProcess, Receiver, Stack};
use serde_json::Value;
use tokio::process::Command;

pub(crate) const BINARY: &str = env!("CARGO_BIN_EXE_eventrail");

/// What a command wrote, and its exit code.
#[derive(Debug)]
pub(crate) struct Said {
    pub(crate) code: i32,
    pub(crate) out: String,
    pub(crate) err: String,
}

impl Said {
    /// Panics unless the exit code is this one.
    #[track_caller]
    pub(crate) fn expect(self, code: i32) -> Self {
        assert_eq!(self.code, code, "{self:#?}");
        self
    }

    /// Panics unless it succeeded and wrote these words.
    #[track_caller]
    pub(crate) fn shows(self, words: &[&str]) -> Self {
        let said = self.expect(0);
        for word in words {
            assert!(said.out.contains(word), "{word:?} is not in {said:#?}");
        }
        said
    }

    /// Panics unless it refused, with this code, in one line with these words.
    #[track_caller]
    pub(crate) fn refuses(self, code: i32, words: &[&str]) -> Self {
        let said = self.expect(code);
        assert_eq!(said.err.lines().count(), 1, "{said:#?}");
        for word in words {
            assert!(said.err.contains(word), "{word:?} is not in {said:#?}");
        }
        said
    }

    #[track_caller]
    pub(crate) fn json(&self) -> Value {
        serde_json::from_str(&self.out).unwrap_or_else(|error| panic!("{error}: {self:#?}"))
    }

    /// The lines of a table below its titles, each split into its columns.
    pub(crate) fn rows(&self) -> Vec<Vec<&str>> {
        let columns = |line| str::split(line, "  ").map(str::trim).filter(|cell| !cell.is_empty());
        self.out.lines().skip(1).map(|line| columns(line).collect()).collect()
    }
}

/// An API, its servers, a receiver, and a dispatcher where one is asked for.
pub(crate) struct Desk {
    pub(crate) api: Api,
    pub(crate) receiver: Receiver,
    _processes: Vec<EventrailProcess>,
    _stack: Stack,
}

impl Desk {
    pub(crate) async fn start() -> Self {
        Self::start_with(&[]).await
    }

    /// The API has these settings too.
    pub(crate) async fn start_with(environment: &[(&str, &str)]) -> Self {
        let stack = Stack::start().await;
        let process = EventrailProcess::api(BINARY, &stack, environment).await;
        Self {
            api: process.client(),
            receiver: Receiver::start().await,
            _processes: vec![process],
            _stack: stack,
        }
    }

    /// With a dispatcher, which tries each delivery once and once more soon after.
    pub(crate) async fn start_delivering() -> Self {
        let mut desk = Self::start().await;
        let settings = [("MAX_RETRIES", "1"), ("BASE_BACKOFF_MS", "20")];
        let dispatcher = EventrailProcess::dispatcher(BINARY, &desk._stack, &settings).await;
        desk._processes.push(dispatcher);
        desk
    }

    /// Runs `eventrail` with these words.
    pub(crate) async fn run(&self, words: &[&str]) -> Said {
        self.run_with(&[], words).await
    }

    /// The same with more in its environment.
    pub(crate) async fn run_with(&self, environment: &[(&str, &str)], words: &[&str]) -> Said {
        let mut all = vec![("EVENTRAIL_URL", self.api.base())];
        all.extend(environment);
        run(&all, words).await
    }
}

/// Runs `eventrail` with nothing in its environment but this.
pub(crate) async fn run(environment: &[(&str, &str)], words: &[&str]) -> Said {
    let mut command = Command::new(BINARY);
    command.args(words).env_clear().envs(environment.iter().copied()).stdin(Stdio::null());
    let output = command.kill_on_drop(true).output().await.unwrap();
    Said {
        code: output.status.code().unwrap_or(-1),
        out: String::from_utf8(output.stdout).unwrap(),
        err: String::from_utf8(output.stderr).unwrap(),
    }
}
