//! The suite: bounded scenarios, each on servers of its own, beside a bare loop of the same run; one table at the
//! end, the same as JSON, and beside an earlier run.
//!
//! [`scenarios`] is what is measured, [`stage`] what it plays on. [`closed_loop`] and [`open_loop`] post,
//! [`sink`] receives and counts, both over [`wire`]. [`outcome`] is what was found, [`table`] and [`compare`]
//! show it, [`progress`] says meanwhile what goes on.

mod closed_loop;
mod compare;
mod open_loop;
mod outcome;
mod progress;
mod scenarios;
mod sink;
mod stage;
mod table;
mod wire;

use std::io::Write as _;
use std::path::PathBuf;
use std::time::{Duration, Instant};

use anyhow::Context as _;
use clap::Args;

use self::outcome::{Bare, Document, FORMAT, Outcome};
use self::progress::Progress;
use self::scenarios::{SCENARIOS, Scenario};
use self::sink::Sink;
use self::stage::Stage;
use crate::{bare_loop, cpu};

/// Sizes with `--quick`.
const QUICK: f64 = 0.25;
const IN_FLIGHT: u32 = 64;

#[derive(Debug, Clone, Args)]
pub(crate) struct SuiteArgs {
    /// Fewer scenarios, each smaller: at most two minutes
    #[arg(long)]
    quick: bool,
    /// Only these scenarios
    #[arg(long, value_delimiter = ',', value_name = "NAME")]
    only: Vec<String>,
    /// Show which scenarios there are
    #[arg(long)]
    list: bool,
    /// Write the figures there as JSON too
    #[arg(long, value_name = "FILE")]
    json: Option<PathBuf>,
    /// Show them beside those of an earlier run
    #[arg(long, value_name = "OLD.json")]
    compare: Option<PathBuf>,
    /// The sizes of the goal where those take long: a backlog of 2,000,000 events, 10,000,000 rows
    #[arg(long)]
    full: bool,
    /// Multiplies all sizes [default: 1, with --quick 0.25]
    #[arg(long, value_parser = scale)]
    scale: Option<f64>,
    /// Stop each scenario after this long [default: 180, with --full 1800]
    #[arg(long)]
    timeout_s: Option<u64>,
    /// Where the `eventrail` binary is [default: beside this one]
    #[arg(long)]
    binary: Option<PathBuf>,
    /// Where the private servers keep their data meanwhile [default: the directory for temporary files]
    #[arg(long)]
    data_dir: Option<PathBuf>,
}

fn scale(text: &str) -> Result<f64, String> {
    let number: f64 = text.parse().map_err(|_| "not a number".to_owned())?;
    (0.001..=10.0).contains(&number).then_some(number).ok_or_else(|| "between 0.001 and 10".to_owned())
}

/// What all scenarios are told.
struct Context<'a> {
    args: &'a SuiteArgs,
    progress: &'a Progress,
}

impl Context<'_> {
    fn scale(&self) -> f64 {
        self.args.scale.unwrap_or(if self.args.quick { QUICK } else { 1.0 })
    }

    /// A size, multiplied.
    fn sized(&self, whole: u32) -> u32 {
        (f64::from(whole) * self.scale()) as u32
    }

    /// The same for one that is larger with `--full`.
    fn sized_or_full(&self, whole: u32, full: u32) -> u32 {
        self.sized(if self.args.full { full } else { whole })
    }

    fn say(&self, text: &str) {
        self.progress.say(text.to_owned());
    }

    async fn stage(&self) -> anyhow::Result<Stage<'_>> {
        let warm_up = self.sized(4000).clamp(50, 1000);
        let (binary, data_dir) = (self.args.binary.as_deref(), self.args.data_dir.as_deref());
        Stage::set(binary, data_dir, self.progress, warm_up).await
    }
}

/// # Errors
/// Something did not start, a delivery is missing, or a scenario did not end. A target that is not met is none.
pub(crate) async fn run(args: &SuiteArgs) -> anyhow::Result<()> {
    if args.list {
        show(&scenarios::list());
        return Ok(());
    }
    let old = args.compare.as_deref().map(Document::read).transpose()?;
    let chosen = choose(args)?;
    let _ = rustls::crypto::ring::default_provider().install_default();
    let progress = Progress::new(chosen.len());
    let context = Context { args, progress: &progress };
    let mut document = Document {
        format: FORMAT,
        revision: revision().await,
        taken_at: chrono::Utc::now().to_rfc3339_opts(chrono::SecondsFormat::Secs, true),
        cores: std::thread::available_parallelism().map_or(1, usize::from),
        scale: context.scale(),
        bare: Bare::default(),
        scenarios: Vec::new(),
    };
    bare(&context, &mut document.bare).await?;
    for scenario in chosen {
        document.scenarios.push(play(&context, scenario).await);
    }
    bare(&context, &mut document.bare).await?;
    drop(progress);
    document.judge();
    show(&table::text(&document));
    if let Some(old) = &old {
        show(&compare::text(old, &document));
    }
    if let Some(path) = &args.json {
        document.write(path)?;
    }
    verdict(&document)
}

fn choose(args: &SuiteArgs) -> anyhow::Result<Vec<&'static Scenario>> {
    for name in &args.only {
        anyhow::ensure!(
            SCENARIOS.iter().any(|scenario| scenario.name == name),
            "there is no scenario {name}\n{}",
            scenarios::list()
        );
    }
    let wanted = |scenario: &&Scenario| match args.only.as_slice() {
        [] => (scenario.is_quick || !args.quick) && (!scenario.is_full || args.full),
        names => names.iter().any(|name| name == scenario.name),
    };
    Ok(SCENARIOS.iter().filter(wanted).collect())
}

async fn play(context: &Context<'_>, scenario: &Scenario) -> Outcome {
    let limit = context.args.timeout_s.unwrap_or(if context.args.full { 1800 } else { 180 });
    context.progress.begin(scenario.name);
    let begun = Instant::now();
    let playing = Box::pin(scenario.play(context));
    let ended = tokio::time::timeout(Duration::from_secs(limit), playing).await;
    let ended = ended.with_context(|| format!("the time ({limit} s) is up")).and_then(|ended| ended);
    let mut outcome = match ended {
        Ok(outcome) => outcome,
        Err(error) => Outcome { error: Some(format!("{error:#}")), ..Outcome::default() },
    };
    outcome.name = scenario.name.to_owned();
    outcome.seconds = begun.elapsed().as_secs_f64();
    let text = match (&outcome.error, outcome.figures.first()) {
        (Some(error), _) => error.clone(),
        (None, Some(figure)) => format!("{} {}", table::amount(figure.value, &figure.unit), figure.name),
        (None, None) => "nothing to tell".to_owned(),
    };
    context.progress.end(scenario.name, outcome.seconds, &text);
    outcome
}

/// Signed POSTs without a rail, to a receiver like that of the scenarios.
async fn bare(context: &Context<'_>, bare: &mut Bare) -> anyhow::Result<()> {
    context.progress.begin("bare loop");
    let posts = context.sized(100_000).max(200);
    let patience = Duration::from_secs(60);
    let sink = Sink::start()?;
    let url = sink.url(0);
    // Opens the connections.
    bare_loop::run(&url, posts.min(1000), closed_loop::PAYLOAD_BYTES, IN_FLIGHT, patience).await?;
    let before = cpu::snapshot_of_ours();
    let posted = bare_loop::run(&url, posts, closed_loop::PAYLOAD_BYTES, IN_FLIGHT, patience).await?;
    bare.cpu_us = cpu::snapshot_of_ours().since(&before).total() * 1e6 / f64::from(posts);
    let arrivals = sink.ledger.arrivals(&[0], &posted.ids);
    let last = arrivals.times.last().copied().context("the bare loop has posted nothing")?;
    bare.per_second.push(f64::from(posts) / (last - posted.started).as_secs_f64());
    Ok(())
}

/// Such as `1a2b3c4`, with `+` behind it if files were changed since.
async fn revision() -> Option<String> {
    let git = async |arguments: &[&str]| {
        let output = tokio::process::Command::new("git").args(arguments).output().await.ok()?;
        output.status.success().then(|| String::from_utf8_lossy(&output.stdout).trim().to_owned())
    };
    let commit = git(&["rev-parse", "--short", "HEAD"]).await?;
    let changes = git(&["status", "--porcelain", "--untracked-files=no"]).await?;
    Some(if changes.is_empty() { commit } else { commit + "+" })
}

/// Whether all was delivered and every scenario came to its end.
fn verdict(document: &Document) -> anyhow::Result<()> {
    let mut complaints = Vec::new();
    for outcome in &document.scenarios {
        if outcome.missing > 0 {
            complaints.push(format!("{}: {} of {} missing", outcome.name, outcome.missing, outcome.counted));
        }
        if let Some(error) = &outcome.error {
            complaints.push(format!("{}: {error}", outcome.name));
        }
    }
    anyhow::ensure!(complaints.is_empty(), "{}", complaints.join("\n"));
    Ok(())
}

/// Nobody may be reading; there is nothing to be done about it.
fn show(text: &str) {
    let _ = std::io::stdout().write_all(text.as_bytes());
}

#[cfg(test)]
mod tests {
    use super::*;

    fn document(missing: u64, error: Option<&str>) -> Document {
        let mut outcome = Outcome::new(String::new());
        outcome.name = "ingest".into();
        (outcome.counted, outcome.missing, outcome.error) = (10, missing, error.map(str::to_owned));
        Document {
            format: FORMAT,
            revision: None,
            taken_at: String::new(),
            cores: 1,
            scale: 1.0,
            bare: Bare::default(),
            scenarios: vec![outcome],
        }
    }

    #[test]
    fn a_run_fails_for_what_is_missing_and_for_what_did_not_end() {
        assert!(verdict(&document(0, None)).is_ok());
        assert_eq!(verdict(&document(2, None)).unwrap_err().to_string(), "ingest: 2 of 10 missing");
        assert_eq!(verdict(&document(0, Some("late"))).unwrap_err().to_string(), "ingest: late");
    }

    #[test]
    fn every_scenario_has_a_name_of_its_own() {
        let mut names: Vec<&str> = SCENARIOS.iter().map(|scenario| scenario.name).collect();
        names.sort_unstable();
        names.dedup();
        assert_eq!(names.len(), SCENARIOS.len());
    }
}
