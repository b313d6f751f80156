//! Whether memory, descriptors, connections and tables level off: mixed traffic for minutes or hours, with a look
//! at all of them every few seconds.
//!
//! [`traffic`] posts and does what operators do now and then, [`guests`] receive, each in its own manner,
//! [`samples`] reads what is used, [`series`] says whether it grows.

mod guests;
mod samples;
mod series;
mod traffic;

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use clap::Args;
use tokio::time::{Instant, MissedTickBehavior, interval, sleep, timeout};

use self::guests::Guests;
use self::samples::{Sampler, TableSize};
use self::series::Series;
use self::traffic::Traffic;
use crate::system::System;

/// After the load: what is still owed must have arrived by then.
const DRAIN: Duration = Duration::from_secs(300);

#[derive(Debug, Clone, Args)]
pub(crate) struct SoakArgs {
    /// How long the load lasts; the caches fill in the first minutes
    #[arg(long, default_value_t = 10, value_parser = clap::value_parser!(u64).range(5..=10_080))]
    minutes: u64,
    /// Events posted in a second, one by one
    #[arg(long, default_value_t = 200, value_parser = clap::value_parser!(u32).range(1..=5000))]
    rate: u32,
    /// Seconds between two looks
    #[arg(long, default_value_t = 5, value_parser = clap::value_parser!(u64).range(1..=600))]
    sample_s: u64,
    /// Where the `eventrail` binary is [default: beside this one]
    #[arg(long)]
    binary: Option<PathBuf>,
    /// Where the private servers keep their data meanwhile [default: the directory for temporary files]
    #[arg(long)]
    data_dir: Option<PathBuf>,
}

/// # Errors
/// Something did not start, a delivery is missing, or something grows.
#[expect(clippy::print_stdout, reason = "the report")]
pub(crate) async fn run(args: &SoakArgs) -> anyhow::Result<()> {
    let _ = rustls::crypto::ring::default_provider().install_default();
    let guests = Guests::welcome()?;
    let system = System::start(args.binary.as_deref(), args.data_dir.as_deref()).await?;
    let mut sampler = Sampler::connect(&system).await?;
    let traffic = Traffic::prepare(&system, Arc::clone(&guests)).await?;
    let time = Duration::from_secs(args.minutes * 60);
    println!("{} minutes, {} events a second, a look every {} s", args.minutes, args.rate, args.sample_s);

    let begun = Instant::now();
    let end = begun + time;
    let (posted, visits, replays, (series, tables)) = tokio::try_join!(
        traffic.post(args.rate, end),
        traffic.visits(end),
        traffic.replays(end),
        watch(&mut sampler, &traffic, Duration::from_secs(args.sample_s), begun, end),
    )?;
    let drained = timeout(DRAIN, guests.settled()).await;

    println!("\n{}", series::table(&series));
    println!("{}", sizes(&tables, &sampler.tables().await?));
    println!("{posted} events, {visits} endpoints made and deleted, {replays} replays");
    println!("{}", guests.report());
    anyhow::ensure!(drained.is_ok(), "deliveries are missing\n{}", system.log_tails());
    let growing: Vec<&str> = series.iter().filter(|series| series.grows()).map(Series::name).collect();
    anyhow::ensure!(growing.is_empty(), "these do not level off: {}", growing.join(", "));
    println!("all of it levels off; missing 0");
    Ok(())
}

/// Looks again and again until the end. Answers what was seen, and the tables at half-time.
async fn watch(
    sampler: &mut Sampler,
    traffic: &Traffic,
    every: Duration,
    begun: Instant,
    end: Instant,
) -> anyhow::Result<(Vec<Series>, Vec<TableSize>)> {
    let mut series = samples::FIGURES.map(|(name, bound)| Series::new(name, bound));
    let mut at_half = Vec::new();
    let mut ticks = interval(every);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Skip);
    // Before the first event there is nothing to divide by.
    sleep(every.min(Duration::from_secs(5))).await;
    while Instant::now() < end {
        ticks.tick().await;
        let values = sampler.look(traffic.posted()).await?;
        for (series, value) in series.iter_mut().zip(values) {
            series.push(begun.elapsed(), value);
        }
        if at_half.is_empty() && begun.elapsed() * 2 > end - begun {
            at_half = sampler.tables().await?;
        }
    }
    Ok((series.into(), at_half))
}

/// The tables that changed or matter, at half-time and at the end.
fn sizes(at_half: &[TableSize], at_end: &[TableSize]) -> String {
    use std::fmt::Write as _;
    // Writing to a String can't fail.
    let mut text = format!(
        "{:<20}{:>12}{:>12}{:>12}{:>12}{:>10}\n",
        "table", "half, KiB", "end, KiB", "indexes", "rows", "dead"
    );
    for table in at_end.iter().filter(|table| table.live + table.dead > 0) {
        let before = at_half.iter().find(|one| one.name == table.name).map_or(0, TableSize::bytes);
        let _ = writeln!(
            text,
            "{:<20}{:>12}{:>12}{:>12}{:>12}{:>10}",
            table.name,
            before / 1024,
            table.bytes() / 1024,
            table.indexes / 1024,
            table.live,
            table.dead
        );
    }
    text
}
