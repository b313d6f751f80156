//! What a healthy endpoint feels of a hostile one in its group: alone, then beside each kind, in turn and in rounds.

mod neighbours;

use std::path::PathBuf;
use std::time::Duration;

use anyhow::Context as _;
use clap::Args;
use eventrail_core::ids::EventId;
use serde_json::{Value, json};
use tokio::task::JoinSet;
use tokio::time::Instant;

use self::neighbours::{KINDS, Kind, Neighbour, Tls};
use crate::generator;
use crate::receiver::Receiver;
use crate::system::System;

/// Attempts at hostile endpoints are given so long.
const TIMEOUT_MS: u64 = 1_000;
/// What an endpoint is promised beside any other.
const MOST: f64 = 1.2;

#[derive(Debug, Clone, Args)]
pub(crate) struct HostileArgs {
    /// Events posted in a second, one by one
    #[arg(long, default_value_t = 100, value_parser = clap::value_parser!(u32).range(1..=5000))]
    rate: u32,
    /// Seconds of each measurement
    #[arg(long, default_value_t = 3, value_parser = clap::value_parser!(u32).range(1..=600))]
    seconds: u32,
    /// Times that each kind is measured, without it and with it
    #[arg(long, default_value_t = 2, value_parser = clap::value_parser!(u32).range(1..=20))]
    rounds: u32,
    /// Only the kinds whose name contains this
    #[arg(long, default_value = "")]
    only: String,
    /// Where the `eventrail` binary is [default: beside this one]
    #[arg(long)]
    binary: Option<PathBuf>,
    /// Where the private servers keep their data meanwhile [default: the directory for temporary files]
    #[arg(long)]
    data_dir: Option<PathBuf>,
}

/// Microseconds from commit to receipt.
#[derive(Default)]
struct Latencies(Vec<u128>);

impl Latencies {
    fn at(&self, share: f64) -> u128 {
        let mut sorted = self.0.clone();
        sorted.sort_unstable();
        sorted.get((sorted.len() as f64 * share) as usize).copied().unwrap_or_default()
    }
}

struct Bench {
    system: System,
    receiver: Receiver,
    client: reqwest::Client,
    tls: Tls,
    args: HostileArgs,
}

/// # Errors
/// Something did not start, or an event was refused.
pub(crate) async fn run(args: &HostileArgs) -> anyhow::Result<()> {
    let _ = rustls::crypto::ring::default_provider().install_default();
    let tls = Tls::new()?;
    let receiver = Receiver::start()?;
    let roots = [("SSL_CERT_FILE", tls.roots())];
    let system = System::start_with(args.binary.as_deref(), args.data_dir.as_deref(), &roots).await?;
    let client = reqwest::Client::builder().no_proxy().build()?;
    let bench = Bench { system, receiver, client, tls, args: args.clone() };
    let measured = bench.measure().await;
    measured.with_context(|| bench.system.log_tails())
}

impl Bench {
    #[expect(clippy::print_stdout, reason = "the report")]
    async fn measure(&self) -> anyhow::Result<()> {
        self.system.register(&self.receiver.rail_url()).await?;
        let kinds: Vec<&Kind> = KINDS.iter().filter(|kind| kind.name.contains(&self.args.only)).collect();
        let mut figures: Vec<(Latencies, Latencies, u64)> =
            kinds.iter().map(|_| Default::default()).collect();
        // The first deliveries open connections and warm caches.
        self.deliver().await?;
        for _ in 0..self.args.rounds {
            for (kind, (alone, beside, connections)) in kinds.iter().zip(&mut figures) {
                alone.0.extend(self.deliver().await?.0);
                let neighbour = Neighbour::start(kind, &self.tls).await?;
                let body = json!({ "url": neighbour.url, "timeout_ms": TIMEOUT_MS });
                let made = self.ask(reqwest::Method::POST, "", Some(&body)).await?;
                beside.0.extend(self.deliver().await?.0);
                let id = made["id"].as_str().context("an endpoint without an id")?;
                self.ask(reqwest::Method::DELETE, &format!("/{id}"), None).await?;
                // Nothing of it is under way when the next is measured.
                tokio::time::sleep(Duration::from_millis(TIMEOUT_MS + 200)).await;
                *connections += neighbour.connections();
            }
        }
        println!(
            "{:<34}{:>11}{:>11}{:>11}{:>11}{:>9}{:>13}",
            "beside an endpoint that", "p50 alone", "p50 µs", "p99 alone", "p99 µs", "p99 x", "connections"
        );
        let mut over = 0;
        for (kind, (alone, beside, connections)) in kinds.iter().zip(&figures) {
            let ratio = beside.at(0.99) as f64 / alone.at(0.99).max(1) as f64;
            over += usize::from(ratio >= MOST);
            println!(
                "{:<34}{:>11}{:>11}{:>11}{:>11}{ratio:>9.2}{connections:>13}",
                kind.name,
                alone.at(0.5),
                beside.at(0.5),
                alone.at(0.99),
                beside.at(0.99)
            );
        }
        println!("{over} of {} kinds raise the p99 by 20 % or more", kinds.len());
        Ok(())
    }

    async fn ask(&self, method: reqwest::Method, path: &str, body: Option<&Value>) -> anyhow::Result<Value> {
        let url = format!("{}/consumer-groups/default/endpoints{path}", self.system.api_url());
        let request = self.client.request(method, url);
        let answer =
            body.map_or(request.try_clone(), |body| Some(request.json(body))).context("a request")?;
        let answer = answer.send().await?;
        let (status, text) = (answer.status(), answer.text().await?);
        anyhow::ensure!(status.is_success(), "it was answered with {status}: {text}");
        Ok(serde_json::from_str(&text).unwrap_or_default())
    }

    /// Posts events at the rate, each at its time, and waits until the healthy endpoint has them all.
    async fn deliver(&self) -> anyhow::Result<Latencies> {
        let mut interval = tokio::time::interval(Duration::from_secs(1) / self.args.rate);
        let mut posts: JoinSet<anyhow::Result<EventId>> = JoinSet::new();
        let end = Instant::now() + Duration::from_secs(u64::from(self.args.seconds));
        while Instant::now() < end {
            interval.tick().await;
            let (client, url) = (self.client.clone(), format!("{}/events", self.system.api_url()));
            let payload = generator::payload(u32::try_from(posts.len())?, 1024);
            let body = format!(r#"{{"event_type":"bench.live","source":"bench","payload":{payload}}}"#);
            posts.spawn(async move {
                let answer =
                    client.post(url).header("content-type", "application/json").body(body).send().await?;
                anyhow::ensure!(answer.status().is_success(), "a post was answered with {}", answer.status());
                let answer: Value = answer.json().await?;
                Ok(answer["id"].as_str().unwrap_or_default().parse()?)
            });
        }
        let mut ids = Vec::with_capacity(posts.len());
        while let Some(posted) = posts.join_next().await {
            ids.push(posted.context("a post panicked")??);
        }
        let all = tokio::time::timeout(Duration::from_secs(60), self.receiver.rail.received_all(&ids)).await;
        all.context("the healthy endpoint lacks events after 60 s")?;
        let receipts = self.receiver.rail.receipts(&ids);
        Ok(Latencies(receipts.latencies.iter().map(Duration::as_micros).collect()))
    }
}
