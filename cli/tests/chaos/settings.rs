//! What a run is told by its environment.

use std::io::Write as _;
use std::path::PathBuf;
use std::str::FromStr;
use std::time::Duration;

use eventrail_core::config::environment;

use crate::plan::Kind;
use crate::report::Figures;

#[derive(Debug)]
pub(crate) struct Settings {
    pub(crate) seed: u64,
    pub(crate) length: Duration,
    /// Events a second.
    pub(crate) rate: u32,
    /// How long an event may be owed, and a retry due, before that is a finding. On a machine that is busy with
    /// other things all takes its time.
    pub(crate) patience: Duration,
    /// The program under test; that of this build unless another is named.
    pub(crate) binary: PathBuf,
    /// Where the logs are written.
    pub(crate) directory: PathBuf,
    /// After a run that found nothing too.
    keeps_logs: bool,
    /// A file to which figures are appended, one line of JSON for each run.
    results: Option<PathBuf>,
    /// A kind of fault that this machine does not allow is a failure.
    pub(crate) strict: bool,
    /// Only kinds of fault whose name contains this.
    only: Option<String>,
}

impl Settings {
    /// `CHAOS_SEED`, `CHAOS_SECONDS`, `CHAOS_RATE`, `CHAOS_PATIENCE` (seconds), `CHAOS_BINARY`,
    /// `CHAOS_DIRECTORY`, `CHAOS_RESULTS`, `CHAOS_STRICT` and `CHAOS_ONLY`.
    pub(crate) fn read() -> Self {
        let seed = number("CHAOS_SEED", 1);
        let run = uuid();
        let home = environment("CHAOS_DIRECTORY").map(PathBuf::from);
        let keeps_logs = home.is_some();
        let directory = home.unwrap_or_else(std::env::temp_dir).join(format!("eventrail-chaos-{seed}-{run}"));
        std::fs::create_dir_all(&directory).unwrap();
        Self {
            seed,
            length: Duration::from_secs(number("CHAOS_SECONDS", 90)),
            rate: number("CHAOS_RATE", 40),
            patience: Duration::from_secs(number("CHAOS_PATIENCE", 90)),
            binary: environment("CHAOS_BINARY")
                .unwrap_or_else(|| env!("CARGO_BIN_EXE_eventrail").into())
                .into(),
            directory,
            keeps_logs,
            results: environment("CHAOS_RESULTS").map(PathBuf::from),
            strict: environment("CHAOS_STRICT").is_some(),
            only: environment("CHAOS_ONLY"),
        }
    }

    pub(crate) fn wants(&self, kind: Kind) -> bool {
        self.only.as_ref().is_none_or(|part| kind.name().contains(part.as_str()))
    }

    pub(crate) fn keep(&self, figures: &Figures) {
        let Some(results) = &self.results else { return };
        let mut file = std::fs::File::options().append(true).create(true).open(results).unwrap();
        let line = serde_json::to_string(figures).unwrap();
        writeln!(file, "{line}").unwrap();
    }

    pub(crate) fn results(&self) -> Vec<Figures> {
        let text = std::fs::read_to_string(self.results.as_ref().expect("CHAOS_RESULTS is set")).unwrap();
        text.lines().map(|line| serde_json::from_str(line).unwrap()).collect()
    }

    pub(crate) fn clean_up(&self) {
        if self.keeps_logs {
            return;
        }
        let _ = std::fs::remove_dir_all(&self.directory);
    }
}

fn number<T: FromStr>(name: &str, default: T) -> T {
    let set = environment(name).map(|text| text.parse());
    set.map_or(default, |parsed| parsed.unwrap_or_else(|_| panic!("{name} is not a number")))
}

fn uuid() -> String {
    format!("{}-{:08x}", std::process::id(), rand::random::<u32>())
}
