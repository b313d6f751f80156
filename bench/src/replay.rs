//! What live traffic feels of a replay at full speed: in rounds, without and with one, in one run.

use std::path::PathBuf;
use std::time::Duration;

use anyhow::Context as _;
use chrono::{TimeDelta, Utc};
use clap::Args;
use eventrail_core::ids::EventId;
use serde_json::{Value, json};
use tokio::task::JoinSet;
use tokio::time::Instant;

use crate::cpu::{self, Usage};
use crate::generator::{self, Load};
use crate::receiver::{Ledger, Receiver};
use crate::system::System;

#[derive(Debug, Clone, Args)]
pub(crate) struct ReplayArgs {
    /// Events in the window that is replayed
    #[arg(long, default_value_t = 100_000, value_parser = clap::value_parser!(u32).range(1000..=1_000_000))]
    events: u32,
    /// Live events posted in a second, one by one
    #[arg(long, default_value_t = 500, value_parser = clap::value_parser!(u32).range(1..=5000))]
    rate: u32,
    /// Times that both are measured, one after the other
    #[arg(long, default_value_t = 2, value_parser = clap::value_parser!(u32).range(1..=20))]
    rounds: u32,
    /// Seconds without a replay; with one it lasts as long as that takes
    #[arg(long, default_value_t = 15, value_parser = clap::value_parser!(u32).range(1..=600))]
    seconds: u32,
    /// Stop after this long
    #[arg(long, default_value_t = 600)]
    timeout_s: u64,
    /// Where the `eventrail` binary is [default: beside this one]
    #[arg(long)]
    binary: Option<PathBuf>,
    /// Where the private servers keep their data meanwhile [default: the directory for temporary files]
    #[arg(long)]
    data_dir: Option<PathBuf>,
}

struct Bench {
    system: System,
    receiver: Receiver,
    client: reqwest::Client,
    rate: u32,
}

/// # Errors
/// Something did not start, a delivery is missing, or the time is up.
pub(crate) async fn run(args: &ReplayArgs) -> anyhow::Result<()> {
    let _ = rustls::crypto::ring::default_provider().install_default();
    let receiver = Receiver::start()?;
    let system = System::start(args.binary.as_deref(), args.data_dir.as_deref()).await?;
    let bench =
        Bench { system, receiver, client: reqwest::Client::builder().no_proxy().build()?, rate: args.rate };
    let measured = tokio::time::timeout(Duration::from_secs(args.timeout_s), bench.measure(args)).await;
    measured.with_context(|| format!("the time is up\n{}", bench.system.log_tails()))?
}

impl Bench {
    #[expect(clippy::print_stdout, reason = "the report")]
    async fn measure(&self, args: &ReplayArgs) -> anyhow::Result<()> {
        self.system.register(&self.receiver.rail_url()).await?;
        let replayed = self.system.register(&self.receiver.bare_url()).await?;
        let load = Load {
            api: self.system.api_url(),
            events: args.events,
            payload_bytes: 1024,
            connections: 4,
            batch: Some(500),
        };
        let from = Utc::now() - TimeDelta::minutes(1);
        let old = generator::post(&load, Instant::now() + Duration::from_secs(args.timeout_s)).await?.ids;
        self.receiver.rail.received_all(&old).await;
        self.receiver.bare.received_all(&old).await;
        let window = json!({ "from": from, "to": Utc::now(), "endpoint_id": replayed });
        println!(
            "{:<28}{:>12}{:>12}{:>12}{:>12}",
            "live, from commit to receipt", "p50 µs", "p99 µs", "p99.9 µs", "events"
        );
        for round in 1..=args.rounds {
            let before = (Instant::now(), cpu::snapshot(&self.system));
            let alone = self.live_for(Duration::from_secs(u64::from(args.seconds))).await?;
            self.show(&format!("{round}: alone"), &alone).await;
            self.show_cpu(before);
            let before = (Instant::now(), cpu::snapshot(&self.system));
            let begun = before.0;
            let id = self.ask("/replay", &window).await?["id"].as_str().unwrap_or_default().to_owned();
            let (live, progress) = self.live_until_done(&id).await?;
            let took = begun.elapsed();
            self.show(&format!("{round}: beside a replay"), &live).await;
            self.show_cpu(before);
            println!(
                "   replay: {} of {} delivered, {} skipped, {:.1} s, {:.0}/s",
                progress["delivered"],
                progress["matched"],
                progress["skipped"],
                took.as_secs_f64(),
                f64::from(args.events) / took.as_secs_f64()
            );
        }
        Ok(())
    }

    async fn ask(&self, path: &str, body: &Value) -> anyhow::Result<Value> {
        let url = format!("{}{path}", self.system.api_url());
        let answer = self.client.post(url).json(body).send().await?;
        let (status, text) = (answer.status(), answer.text().await?);
        anyhow::ensure!(status.is_success(), "POST {path} was answered with {status}: {text}");
        Ok(serde_json::from_str(&text)?)
    }

    /// Posts events at the rate, each at its time, whatever becomes of those before it.
    async fn live_for(&self, time: Duration) -> anyhow::Result<Vec<EventId>> {
        let mut posts = Posts::new(self);
        let end = Instant::now() + time;
        while Instant::now() < end {
            posts.next().await;
        }
        posts.ids().await
    }

    /// The same until a replay is done.
    async fn live_until_done(&self, id: &str) -> anyhow::Result<(Vec<EventId>, Value)> {
        let url = format!("{}/replays/{id}", self.system.api_url());
        let mut posts = Posts::new(self);
        loop {
            for _ in 0..self.rate {
                posts.next().await;
            }
            let progress: Value = self.client.get(&url).send().await?.json().await?;
            if progress["status"] == "done" {
                return Ok((posts.ids().await?, progress));
            }
        }
    }

    /// Percent of one core.
    #[expect(clippy::print_stdout, reason = "the report")]
    fn show_cpu(&self, (since, before): (Instant, Usage)) {
        let seconds = since.elapsed().as_secs_f64();
        let used = cpu::snapshot(&self.system).since(&before);
        let parts: Vec<String> =
            used.parts().map(|(part, used)| format!("{part} {:.0} %", 100.0 * used / seconds)).collect();
        println!("   processor: {}", parts.join(", "));
    }

    #[expect(clippy::print_stdout, reason = "the report")]
    async fn show(&self, what: &str, ids: &[EventId]) {
        for (name, ledger) in [("other endpoint", &self.receiver.rail), ("the same", &self.receiver.bare)] {
            ledger.received_all(ids).await;
            let [p50, p99, p999] = quantiles(ledger, ids);
            let label = format!("{what}, {name}");
            println!("{label:<28}{p50:>12}{p99:>12}{p999:>12}{:>12}", ids.len());
        }
    }
}

fn quantiles(ledger: &Ledger, ids: &[EventId]) -> [u128; 3] {
    let mut micros: Vec<u128> = ledger.receipts(ids).latencies.iter().map(Duration::as_micros).collect();
    micros.sort_unstable();
    let at = |share: f64| micros.get((micros.len() as f64 * share) as usize).copied().unwrap_or_default();
    [at(0.5), at(0.99), at(0.999)]
}

/// Posts under way.
struct Posts<'a> {
    bench: &'a Bench,
    interval: tokio::time::Interval,
    tasks: JoinSet<anyhow::Result<EventId>>,
}

impl<'a> Posts<'a> {
    fn new(bench: &'a Bench) -> Self {
        let interval = tokio::time::interval(Duration::from_secs(1) / bench.rate);
        Self { bench, interval, tasks: JoinSet::new() }
    }

    async fn next(&mut self) {
        self.interval.tick().await;
        let (client, url) = (self.bench.client.clone(), format!("{}/events", self.bench.system.api_url()));
        let number = u32::try_from(self.tasks.len()).unwrap_or_default();
        let payload = generator::payload(number, 1024);
        let body = format!(r#"{{"event_type":"bench.live","source":"bench","payload":{payload}}}"#);
        self.tasks.spawn(async move {
            let answer =
                client.post(url).header("content-type", "application/json").body(body).send().await?;
            let status = answer.status();
            anyhow::ensure!(status.is_success(), "POST /events was answered with {status}");
            let answer: Value = answer.json().await?;
            Ok(answer["id"].as_str().unwrap_or_default().parse()?)
        });
    }

    async fn ids(mut self) -> anyhow::Result<Vec<EventId>> {
        let mut ids = Vec::with_capacity(self.tasks.len());
        while let Some(posted) = self.tasks.join_next().await {
            ids.push(posted.context("a post panicked")??);
        }
        Ok(ids)
    }
}
