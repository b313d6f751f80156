//! What live traffic feels of a replay at full speed: in rounds, without and with one, in one run. Then how soon
//! a cancel stops one, and whether one survives faults.

use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use anyhow::Context as _;
use chrono::{TimeDelta, Utc};
use clap::Args;
use eventrail_core::ids::EventId;
use serde_json::{Value, json};
use tokio::task::{JoinHandle, JoinSet};
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
    /// Deliveries of the replay in a second, at most [default: as many as live traffic does not feel]
    #[arg(long, value_parser = clap::value_parser!(u32).range(1..=100_000))]
    replay_rate: Option<u32>,
    /// Seconds without a replay; with one it lasts as long as that takes
    #[arg(long, default_value_t = 15, value_parser = clap::value_parser!(u32).range(1..=600))]
    seconds: u32,
    /// Kill the dispatcher and empty Redis in the middle of one more replay
    #[arg(long)]
    faults: bool,
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
    /// The events that are replayed.
    old: Vec<EventId>,
    window: Value,
}

/// # Errors
/// Something did not start, a delivery is missing, or the time is up.
pub(crate) async fn run(args: &ReplayArgs) -> anyhow::Result<()> {
    let _ = rustls::crypto::ring::default_provider().install_default();
    let receiver = Receiver::start()?;
    let system = System::start(args.binary.as_deref(), args.data_dir.as_deref()).await?;
    let client = reqwest::Client::builder().no_proxy().build()?;
    let (old, window) = (Vec::new(), Value::Null);
    let mut bench = Bench { system, receiver, client, rate: args.rate, old, window };
    let measured = tokio::time::timeout(Duration::from_secs(args.timeout_s), bench.measure(args)).await;
    measured.with_context(|| format!("the time is up\n{}", bench.system.log_tails()))?
}

impl Bench {
    #[expect(clippy::print_stdout, reason = "the report")]
    async fn measure(&mut self, args: &ReplayArgs) -> anyhow::Result<()> {
        self.prepare(args).await?;
        println!(
            "{:<28}{:>12}{:>12}{:>12}{:>12}",
            "live, from commit to receipt", "p50 µs", "p99 µs", "p99.9 µs", "events"
        );
        let mut ratios = Vec::new();
        for round in 1..=args.rounds {
            let (before, live) = (self.note(), Live::start(self));
            tokio::time::sleep(Duration::from_secs(u64::from(args.seconds))).await;
            let alone = self.show(&format!("{round}: alone"), &live.stop().await?).await;
            self.show_processor(before);
            let (before, live) = (self.note(), Live::start(self));
            let id = self.begin().await?;
            let progress = self.until_done(&id).await?;
            let took = before.0.elapsed();
            let beside = self.show(&format!("{round}: beside a replay"), &live.stop().await?).await;
            self.show_processor(before);
            println!(
                "   replay: {}, {:.1} s, {:.0}/s",
                counts(&progress),
                took.as_secs_f64(),
                f64::from(args.events) / took.as_secs_f64()
            );
            ratios.push(beside as f64 / (alone as f64).max(1.0));
        }
        ratios.sort_unstable_by(f64::total_cmp);
        let middle = ratios.get(ratios.len() / 2).copied().unwrap_or_default();
        println!("p99 beside a replay to p99 alone: {middle:.2} in the middle of {} rounds", ratios.len());
        self.cancel(args.events).await?;
        if args.faults {
            self.survive(args.events).await?;
        }
        Ok(())
    }

    /// Two endpoints, and events that both have received.
    async fn prepare(&mut self, args: &ReplayArgs) -> anyhow::Result<()> {
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
        self.old = generator::post(&load, Instant::now() + Duration::from_secs(args.timeout_s)).await?.ids;
        self.receiver.rail.received_all(&self.old).await;
        self.receiver.bare.received_all(&self.old).await;
        self.window = json!({ "from": from, "to": Utc::now(), "endpoint_id": replayed,
            "rate_per_second": args.replay_rate });
        Ok(())
    }

    async fn ask(&self, path: &str, body: &Value) -> anyhow::Result<Value> {
        let url = format!("{}{path}", self.system.api_url());
        let answer = self.client.post(url).json(body).send().await?;
        let (status, text) = (answer.status(), answer.text().await?);
        anyhow::ensure!(status.is_success(), "POST {path} was answered with {status}: {text}");
        Ok(serde_json::from_str(&text)?)
    }

    async fn begin(&self) -> anyhow::Result<String> {
        Ok(self.ask("/replay", &self.window).await?["id"].as_str().unwrap_or_default().to_owned())
    }

    async fn progress(&self, id: &str) -> anyhow::Result<Value> {
        let url = format!("{}/replays/{id}", self.system.api_url());
        Ok(self.client.get(&url).send().await?.json().await?)
    }

    async fn until_done(&self, id: &str) -> anyhow::Result<Value> {
        loop {
            let progress = self.progress(id).await?;
            if progress["status"] == "done" {
                return Ok(progress);
            }
            tokio::time::sleep(Duration::from_millis(500)).await;
        }
    }

    async fn until_delivered(&self, id: &str, least: u32) -> anyhow::Result<()> {
        while self.progress(id).await?["delivered"].as_u64().unwrap_or_default() < u64::from(least) {
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
        Ok(())
    }

    /// How long after the answer to a cancel the last delivery of a replay still came, beside live traffic.
    #[expect(clippy::print_stdout, reason = "the report")]
    async fn cancel(&self, events: u32) -> anyhow::Result<()> {
        let live = Live::start(self);
        let id = self.begin().await?;
        self.until_delivered(&id, events / 10).await?;
        self.ask(&format!("/replays/{id}/cancel"), &json!({})).await?;
        let cancelled = std::time::Instant::now();
        tokio::time::sleep(Duration::from_secs(3)).await;
        let last = self.receiver.bare.receipts(&self.old).repeated_at;
        live.stop().await?;
        println!(
            "cancel: {} when it was asked for; the last delivery came {} ms after the answer",
            counts(&self.progress(&id).await?),
            last.saturating_duration_since(cancelled).as_millis()
        );
        Ok(())
    }

    /// A replay with the dispatcher killed and Redis emptied once a third of it is delivered, beside live traffic.
    #[expect(clippy::print_stdout, reason = "the report")]
    async fn survive(&mut self, events: u32) -> anyhow::Result<()> {
        let live = Live::start(self);
        let before = self.receiver.bare.receipts(&self.old).duplicates;
        let id = self.begin().await?;
        self.until_delivered(&id, events / 3).await?;
        self.system.strike().await?;
        let progress = self.until_done(&id).await?;
        let live = live.stop().await?;
        self.receiver.rail.received_all(&live).await;
        self.receiver.bare.received_all(&live).await;
        let sent = self.receiver.bare.receipts(&self.old).duplicates - before;
        println!(
            "faults: {} with the dispatcher killed and Redis emptied at a third; {sent} requests; \
             {} live events all received",
            counts(&progress),
            live.len()
        );
        Ok(())
    }

    fn note(&self) -> (Instant, Usage) {
        (Instant::now(), cpu::snapshot(&self.system))
    }

    /// Percent of one core.
    #[expect(clippy::print_stdout, reason = "the report")]
    fn show_processor(&self, (since, before): (Instant, Usage)) {
        let seconds = since.elapsed().as_secs_f64();
        let used = cpu::snapshot(&self.system).since(&before);
        let parts: Vec<String> =
            used.parts().map(|(part, used)| format!("{part} {:.0} %", 100.0 * used / seconds)).collect();
        println!("   processor: {}", parts.join(", "));
    }

    /// Answers the worse p99 of both endpoints.
    #[expect(clippy::print_stdout, reason = "the report")]
    async fn show(&self, what: &str, ids: &[EventId]) -> u128 {
        let mut worst = 0;
        for (name, ledger) in [("other endpoint", &self.receiver.rail), ("the same", &self.receiver.bare)] {
            ledger.received_all(ids).await;
            let [p50, p99, p999] = quantiles(ledger, ids);
            let label = format!("{what}, {name}");
            println!("{label:<28}{p50:>12}{p99:>12}{p999:>12}{:>12}", ids.len());
            worst = worst.max(p99);
        }
        worst
    }
}

fn counts(progress: &Value) -> String {
    let count = |member: &str| progress[member].as_u64().unwrap_or_default();
    format!("{} of {} delivered, {} skipped", count("delivered"), count("matched"), count("skipped"))
}

fn quantiles(ledger: &Ledger, ids: &[EventId]) -> [u128; 3] {
    let mut micros: Vec<u128> = ledger.receipts(ids).latencies.iter().map(Duration::as_micros).collect();
    micros.sort_unstable();
    let at = |share: f64| micros.get((micros.len() as f64 * share) as usize).copied().unwrap_or_default();
    [at(0.5), at(0.99), at(0.999)]
}

/// Posts events at the rate, each at its time, whatever becomes of those before it.
struct Live {
    stop: Arc<AtomicBool>,
    task: JoinHandle<anyhow::Result<Vec<EventId>>>,
}

impl Live {
    fn start(bench: &Bench) -> Self {
        let stop = Arc::new(AtomicBool::new(false));
        let (client, url) = (bench.client.clone(), format!("{}/events", bench.system.api_url()));
        let (rate, stopped) = (bench.rate, Arc::clone(&stop));
        let task = tokio::spawn(async move {
            let mut interval = tokio::time::interval(Duration::from_secs(1) / rate);
            let mut posts = JoinSet::new();
            while !stopped.load(Ordering::Relaxed) {
                interval.tick().await;
                let number = u32::try_from(posts.len()).unwrap_or_default();
                posts.spawn(post(client.clone(), url.clone(), number));
            }
            let mut ids = Vec::with_capacity(posts.len());
            while let Some(posted) = posts.join_next().await {
                ids.push(posted.context("a post panicked")??);
            }
            Ok(ids)
        });
        Self { stop, task }
    }

    /// Answers all that was accepted.
    async fn stop(self) -> anyhow::Result<Vec<EventId>> {
        self.stop.store(true, Ordering::Relaxed);
        self.task.await?
    }
}

async fn post(client: reqwest::Client, url: String, number: u32) -> anyhow::Result<EventId> {
    let payload = generator::payload(number, 1024);
    let body = format!(r#"{{"event_type":"bench.live","source":"bench","payload":{payload}}}"#);
    let answer = client.post(url).header("content-type", "application/json").body(body).send().await?;
    let status = answer.status();
    anyhow::ensure!(status.is_success(), "POST /events was answered with {status}");
    let answer: Value = answer.json().await?;
    Ok(answer["id"].as_str().unwrap_or_default().parse()?)
}
