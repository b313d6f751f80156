//! What a scenario plays on: private servers, an API, a dispatcher and a receiver of its own, and the ways to load
//! and measure them. Each scenario gets a fresh one, so that none feels what another left behind.

use std::collections::HashMap;
use std::fs;
use std::time::{Duration, Instant};

use anyhow::Context as _;
use eventrail_core::db;
use eventrail_core::ids::EventId;
use eventrail_core::rail::link::Link;
use serde_json::{Value, json};
use sqlx::PgPool;

use super::closed_loop::{self, Load, Posted};
use super::open_loop::{self, Pace, Sent};
use super::outcome::{Memory, Outcome};
use super::progress::Progress;
use super::sink::{Arrivals, Sink};
use super::wire::Connection;
use crate::cpu::{self, Usage};
use crate::system::System;

/// What has not arrived this long after the last post, or since the dispatcher began, is missing.
const PATIENCE: Duration = Duration::from_secs(90);
const MIB: f64 = 1024.0 * 1024.0;

pub(super) struct Stage<'a> {
    pub(super) system: System,
    pub(super) sink: Sink,
    pub(super) progress: &'a Progress,
    pub(super) patience: Duration,
    /// Those that want every event, in all groups.
    pub(super) endpoints: Vec<u32>,
    /// Deliveries before anything is measured.
    warm_up: u32,
    memory: Memory,
}

/// One measurement.
pub(super) struct Run {
    pub(super) started: Instant,
    pub(super) posted: Posted,
    pub(super) arrivals: Arrivals,
    pub(super) cpu: Usage,
}

impl Run {
    /// Deliveries a second, from the first post to the last receipt.
    pub(super) fn per_second(&self) -> f64 {
        rate(&self.arrivals.times, self.started, 1.0)
    }

    /// The same up to the moment when so large a part of all had arrived.
    pub(super) fn per_second_up_to(&self, share: f64) -> f64 {
        rate(&self.arrivals.times, self.started, share)
    }

    /// Deliveries a second from the first receipt on, up to such a part: for a backlog, where nobody posts.
    pub(super) fn drained_per_second(&self, share: f64) -> f64 {
        rate(&self.arrivals.times, self.arrivals.times.first().copied().unwrap_or(self.started), share)
    }

    pub(super) fn count(&self) -> u64 {
        self.arrivals.times.len() as u64
    }

    /// Milliseconds of processor time that EventRail, PostgreSQL and Redis have used for each delivery.
    pub(super) fn cpu_ms(&self) -> f64 {
        let servers = ["api", "dispatcher", "postgres", "redis"];
        let seconds: f64 =
            self.cpu.parts().filter(|(part, _)| servers.contains(part)).map(|(_, seconds)| seconds).sum();
        seconds * 1000.0 / self.count().max(1) as f64
    }

    /// Adds what it counted to a scenario's, and its costs if they are the first.
    pub(super) fn count_in(&self, outcome: &mut Outcome) {
        outcome.counted += self.count() + self.arrivals.missing;
        outcome.missing += self.arrivals.missing;
        outcome.duplicates += self.arrivals.duplicates;
        outcome.note_cpu(&self.cpu, self.count());
    }
}

fn rate(times: &[Instant], from: Instant, share: f64) -> f64 {
    let count = (times.len() as f64 * share) as usize;
    let Some(last) = count.checked_sub(1).and_then(|index| times.get(index)) else { return 0.0 };
    count as f64 / last.saturating_duration_since(from).as_secs_f64().max(1e-6)
}

impl Stage<'_> {
    /// Groups and endpoints are there; what is posted next finds connections open and plans made.
    pub(super) async fn warm_up(&mut self) -> anyhow::Result<()> {
        self.progress.say("warming up".into());
        let events = (self.warm_up / u32::try_from(self.endpoints.len()).unwrap_or(1).max(1)).max(20);
        self.closed(Load { batch: 1, ..Load::one_by_one(events) }).await?;
        self.closed(Load { batch: 10, ..Load::in_batches(events) }).await?;
        Ok(())
    }

    /// Makes so many endpoints in a group, which is made too unless it is `default`.
    pub(super) async fn endpoints(&mut self, group: &str, count: u32) -> anyhow::Result<()> {
        let first = self.endpoints.last().map_or(0, |last| last + 1);
        let all: Vec<u32> = (first..first + count).collect();
        if group != "default" {
            self.make("/consumer-groups", &[json!({ "name": group })], 1).await?;
        }
        let bodies: Vec<Value> = all
            .iter()
            .map(|endpoint| json!({ "url": self.sink.url(*endpoint), "retry": { "max_retries": 20 } }))
            .collect();
        self.make(&format!("/consumer-groups/{group}/endpoints"), &bodies, 4).await?;
        self.endpoints.extend(all);
        Ok(())
    }

    /// Posts each of these to the path, over so many connections.
    pub(super) async fn make(&self, path: &str, bodies: &[Value], connections: usize) -> anyhow::Result<()> {
        let bodies: Vec<(String, String)> =
            bodies.iter().map(|body| (path.to_owned(), body.to_string())).collect();
        self.make_each(bodies, connections).await
    }

    /// Posts bodies to paths of their own; each pair, first to last, by one connection after the other.
    pub(super) async fn make_each(
        &self,
        bodies: Vec<(String, String)>,
        connections: usize,
    ) -> anyhow::Result<()> {
        let api = self.system.api_addresses().into_iter().next().context("no API runs")?;
        let mut posting = tokio::task::JoinSet::new();
        for part in bodies.chunks(bodies.len().div_ceil(connections).max(1).next_multiple_of(2)) {
            let (part, mut connection) = (part.to_vec(), Connection::open(&api).await?);
            posting.spawn(async move {
                for (path, body) in part {
                    let (status, answer) = connection.post(&path, None, &body).await?;
                    anyhow::ensure!(status == 201, "POST {path} was answered with {status}: {answer}");
                }
                anyhow::Ok(())
            });
        }
        while let Some(posted) = posting.join_next().await {
            posted.context("a connection panicked")??;
        }
        Ok(())
    }

    /// Posts as fast as it goes, and waits until all has arrived.
    pub(super) async fn closed(&mut self, load: Load) -> anyhow::Result<Run> {
        let before = cpu::snapshot(&self.system);
        let received = self.sink.ledger.received();
        let posted = closed_loop::post(&self.system.api_addresses(), load).await?;
        let owed = self.endpoints.len() as u64 * posted.ids.len() as u64;
        self.until_received(received + owed).await;
        self.finish(posted, before).await
    }

    /// Posts a backlog while no dispatcher runs, starts one, and waits until all has arrived. Measured is from there
    /// on; nobody posts meanwhile.
    pub(super) async fn backlog(&mut self, load: Load) -> anyhow::Result<Run> {
        self.note_memory().await?;
        self.system.stop_dispatcher().await?;
        let received = self.sink.ledger.received();
        let posted = closed_loop::post(&self.system.api_addresses(), load).await?;
        let owed = self.endpoints.len() as u64 * posted.ids.len() as u64;
        self.progress.say(format!("draining a backlog of {} events", posted.ids.len()));
        let before = cpu::snapshot(&self.system);
        self.system.start_dispatcher().await?;
        self.until_received(received + owed).await;
        self.finish(posted, before).await
    }

    /// Posts at a steady rate, and waits until all has arrived at these endpoints.
    pub(super) async fn open(&mut self, pace: Pace, endpoints: &[u32]) -> anyhow::Result<Steady> {
        let before = cpu::snapshot(&self.system);
        let paced = open_loop::post(&self.system.api_addresses(), pace).await?;
        let ids: Vec<EventId> = paced.sent.iter().map(|sent| sent.id).collect();
        let deadline = Instant::now() + self.patience;
        let mut arrivals = self.sink.ledger.arrivals(endpoints, &ids);
        while arrivals.missing > 0 && Instant::now() < deadline {
            tokio::time::sleep(Duration::from_millis(50)).await;
            arrivals = self.sink.ledger.arrivals(endpoints, &ids);
        }
        let cpu = cpu::snapshot(&self.system).since(&before);
        let receipts = self.latencies(endpoints, &paced.sent)?;
        self.note_memory().await?;
        let posted = Posted { ids, started: paced.started, finished: Instant::now(), answers: paced.answers };
        let run = Run { started: paced.started, posted, arrivals, cpu };
        Ok(Steady { run, receipts, late: paced.late })
    }

    /// Microseconds from due to received.
    fn latencies(&self, endpoints: &[u32], sent: &[Sent]) -> anyhow::Result<hdrhistogram::Histogram<u64>> {
        let mut latencies = closed_loop::histogram()?;
        for endpoint in endpoints {
            for one in sent {
                if let Some(at) = self.sink.ledger.first_at(*endpoint, one.id) {
                    latencies.saturating_record(closed_loop::micros(at.saturating_duration_since(one.due)));
                }
            }
        }
        Ok(latencies)
    }

    /// Until so many deliveries have been received, or nothing can be hoped for.
    pub(super) async fn until_received(&self, count: u64) {
        let mut deadline = Instant::now() + self.patience;
        let mut last = 0;
        loop {
            let received = self.sink.ledger.received();
            if received >= count || Instant::now() > deadline {
                return;
            }
            // As long as something arrives there is hope; the scenario's own limit bounds that.
            if received > last {
                (last, deadline) = (received, Instant::now() + self.patience);
            }
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    }

    async fn finish(&mut self, posted: Posted, before: Usage) -> anyhow::Result<Run> {
        let cpu = cpu::snapshot(&self.system).since(&before);
        let arrivals = self.sink.ledger.arrivals(&self.endpoints, &posted.ids);
        self.note_memory().await?;
        Ok(Run { started: posted.started, posted, arrivals, cpu })
    }

    pub(super) fn database(&self) -> anyhow::Result<PgPool> {
        Ok(db::pool(db::connect_options(&self.system.database_url(), "eventrail-bench")?, 1))
    }

    /// Looks at who holds how much, which is forgotten when a process ends.
    pub(super) async fn note_memory(&mut self) -> anyhow::Result<()> {
        let most = |ids: Vec<u32>| ids.into_iter().map(peak_mib).fold(0.0, f64::max);
        self.memory.api = self.memory.api.max(most(self.system.api_ids()));
        self.memory.dispatcher = self.memory.dispatcher.max(most(self.system.dispatcher_ids()));
        let link = Link::new(&self.system.redis_url())?;
        let text: String = redis::cmd("INFO").arg("memory").query_async(&mut link.connection()).await?;
        let figures: HashMap<&str, &str> = text.lines().filter_map(|line| line.split_once(':')).collect();
        let peak: f64 = figures.get("used_memory_peak").map_or(Ok(0.0), |text| text.trim().parse())?;
        self.memory.redis = self.memory.redis.max(peak / MIB);
        Ok(())
    }

    pub(super) fn memory(&self) -> Memory {
        self.memory
    }
}

/// A measurement at a steady rate.
pub(super) struct Steady {
    pub(super) run: Run,
    /// Microseconds from due to received.
    pub(super) receipts: hdrhistogram::Histogram<u64>,
    /// Microseconds from due to sent.
    pub(super) late: hdrhistogram::Histogram<u64>,
}

impl<'a> Stage<'a> {
    pub(super) async fn set(
        binary: Option<&std::path::Path>,
        data_dir: Option<&std::path::Path>,
        progress: &'a Progress,
        warm_up: u32,
    ) -> anyhow::Result<Self> {
        let system = System::start(binary, data_dir).await?;
        let (sink, memory) = (Sink::start()?, Memory::default());
        Ok(Self { system, sink, progress, patience: PATIENCE, endpoints: Vec::new(), warm_up, memory })
    }
}

/// The most that a process ever had in memory.
fn peak_mib(id: u32) -> f64 {
    let status = fs::read_to_string(format!("/proc/{id}/status")).unwrap_or_default();
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:"));
    let kib: f64 = line.and_then(|line| line.split_whitespace().next()?.parse().ok()).unwrap_or(0.0);
    kib / 1024.0
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_rate_is_what_had_arrived_by_the_time_that_it_had() {
        let start = Instant::now();
        let times: Vec<Instant> = (1..=10).map(|second| start + Duration::from_secs(second)).collect();
        assert!((rate(&times, start, 1.0) - 1.0).abs() < 1e-9);
        assert!((rate(&times, start + Duration::from_secs(5), 0.9) - 9.0 / 4.0).abs() < 1e-9);
        assert!(rate(&[], start, 1.0).abs() < 1e-9);
    }
}
