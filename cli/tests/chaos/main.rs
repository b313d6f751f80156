//! The nemesis: real processes and servers under load while faults drawn from a seed break them, one or two at a
//! time, and a checker that compares what producers were told with what receivers got. Nothing may be lost,
//! every byte and signature be right, the invariants of DESIGN, section 8, hold all the while, and in the end
//! nothing be left to do.
//!
//! `make test` runs it for 90 seconds; `make chaos` for longer (see `scripts/chaos`). A failure prints the seed
//! and the faults, and leaves the logs.

#![allow(clippy::unwrap_used, clippy::print_stderr, reason = "in a test a panic is the report")]

mod checker;
mod cluster;
mod faults;
mod ledger;
mod load;
mod plan;
mod report;
mod settings;
mod watch;

use std::sync::Arc;
use std::time::Duration;

use crate::cluster::Cluster;
use crate::faults::Journal;
use crate::ledger::Ledger;
use crate::load::Load;
use crate::plan::Kind;
use crate::report::Figures;
use crate::settings::Settings;
use crate::watch::Watch;

const TELL_EVERY: Duration = Duration::from_secs(10);

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn whatever_breaks_nothing_acknowledged_is_lost() {
    let settings = Settings::read();
    let ledger = Arc::new(Ledger::begin(settings.seed, &settings.directory));
    let cluster = Arc::new(Cluster::start(ledger, &settings).await);
    let plan = plan::draw(settings.seed, settings.length, &kinds(&cluster, &settings));
    let journal = Journal::default();
    let load = Load::start(&cluster.ledger, cluster.apis(), settings.rate);
    let watch = Watch::start(&cluster, settings.patience).await;

    let began = cluster.ledger.now();
    let ended = || !cluster.ledger.problems().is_empty();
    let told = tell(&cluster, &journal, settings.seed);
    tokio::select! {
        () = faults::carry_out(&cluster, plan, settings.length, &journal, ended) => {}
        () = told => {}
    }
    let seconds = (cluster.ledger.now() - began).as_secs();
    if !load.stop(settings.patience).await {
        cluster.ledger.problem("producers are not answered though nothing breaks any more");
    }
    checker::wait_until_settled(&cluster, settings.patience).await;
    checker::calm(&cluster, settings.patience).await;
    if let Err(error) = checker::compare_log(&cluster).await {
        cluster.ledger.problem(format!("the log can't be read: {error:#}"));
    }

    let journal = journal.lock().unwrap().clone();
    let mut figures = Figures {
        seeds: vec![settings.seed],
        seconds,
        watched: watch.rounds(),
        problems: cluster.ledger.problems(),
        ..checker::figures(&cluster.ledger.record(), &journal)
    };
    figures.problems.extend(checker::implausible(&figures));
    eprintln!("{figures}");
    settings.keep(&figures);
    cluster.ledger.record().flush();
    cluster.keep_logs().await;
    if figures.lost > 0 || !figures.problems.is_empty() {
        eprintln!("\nThe faults of seed {}:", settings.seed);
        for struck in &journal {
            let healed =
                struck.healed.map_or("not healed".to_owned(), |at| format!("{:.1} s", at.as_secs_f64()));
            eprintln!("{:.1} s to {healed}: {}", struck.began.as_secs_f64(), struck.fault);
        }
        panic!(
            "seed {}: lost {}, problems: {:#?}\nlogs are in {}",
            settings.seed,
            figures.lost,
            figures.problems,
            settings.directory.display()
        );
    }
    drop(watch);
    drop(cluster);
    settings.clean_up();
}

/// Shows what a seed would break, with `CHAOS_SEED` and `CHAOS_SECONDS`.
#[test]
#[ignore = "shows a plan: scripts/chaos --plan"]
fn the_plan_of_a_seed() {
    let settings = Settings::read();
    for fault in plan::draw(settings.seed, settings.length, Kind::ALL) {
        eprintln!("{fault}");
    }
    settings.clean_up();
}

/// Adds up the runs whose figures are in `CHAOS_RESULTS`.
#[test]
#[ignore = "sums up results: scripts/chaos does it"]
fn the_table_of_all_runs() {
    let settings = Settings::read();
    let mut sum = Figures::default();
    settings.results().into_iter().for_each(|figures| sum.add(figures));
    eprintln!("{sum}");
    settings.clean_up();
}

/// The kinds of fault that this machine allows and that are wanted.
fn kinds(cluster: &Cluster, settings: &Settings) -> Vec<Kind> {
    let possible = |kind: &Kind| match kind {
        Kind::ClockForward | Kind::ClockBack => cluster.has_clocks,
        Kind::DiskFull => cluster.has_disk,
        _ => true,
    };
    for kind in Kind::ALL.iter().filter(|kind| !possible(kind)) {
        assert!(!settings.strict, "this machine has no libfaketime or no tmpfs for: {}", kind.name());
        eprintln!("not drawn, since this machine has no libfaketime or no tmpfs: {}", kind.name());
    }
    Kind::ALL.iter().copied().filter(possible).filter(|kind| settings.wants(*kind)).collect()
}

/// One line now and then, for ever.
async fn tell(cluster: &Cluster, journal: &Journal, seed: u64) {
    loop {
        // A line now and then.
        tokio::time::sleep(TELL_EVERY).await;
        let faults = journal.lock().unwrap().len();
        let (open, oldest) = cluster.ledger.open();
        let (events, requests) = {
            let record = cluster.ledger.record();
            (record.acknowledged.len(), record.arrivals.len())
        };
        let (now, oldest) = (cluster.ledger.now().as_secs(), oldest.as_secs_f64());
        eprintln!(
            "seed {seed}, {now} s: {faults} faults, {events} events acknowledged, {requests} requests, {open} owed, \
             the oldest for {oldest:.1} s"
        );
    }
}
