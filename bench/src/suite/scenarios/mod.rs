//! What the suite measures. Each scenario is bounded in count, makes its own stage, and answers its figures with
//! their targets.

mod fan_out;
mod growth;
mod ingest;
mod latency;
mod processes;
mod retries;
mod rows;

use std::fmt::Write as _;

use super::Context;
use super::outcome::Outcome;

pub(super) struct Scenario {
    pub(super) name: &'static str,
    about: &'static str,
    kind: Kind,
    /// Part of `--quick`.
    pub(super) is_quick: bool,
    /// Takes long: part of `--full` only.
    pub(super) is_full: bool,
}

#[derive(Clone, Copy)]
enum Kind {
    FanOut(u32),
    /// Events a second.
    Latency(u32),
    Ingest,
    IngestBatches,
    Retries,
    RetryStorm,
    IdleGroups,
    ManyEndpoints,
    Backlog,
    SlowAndDead,
    Rows,
    Processes,
}

const fn scenario(name: &'static str, kind: Kind, is_quick: bool, about: &'static str) -> Scenario {
    Scenario { name, about, kind, is_quick, is_full: matches!(kind, Kind::Rows) }
}

pub(super) const SCENARIOS: &[Scenario] = &[
    scenario("fan-out-1", Kind::FanOut(1), true, "deliveries to one endpoint, live and from a backlog"),
    scenario("fan-out-5", Kind::FanOut(5), true, "the same to five endpoints in one group"),
    scenario("latency-300", Kind::Latency(300), true, "from POST to 201 and to receipt at 300 events/s"),
    scenario("latency-5000", Kind::Latency(5000), true, "the same at 5,000 events/s"),
    scenario("ingest", Kind::Ingest, true, "events posted one by one, with keys, over 64 connections"),
    scenario("ingest-batches", Kind::IngestBatches, true, "events posted in batches of 100"),
    scenario("retries", Kind::Retries, true, "what the good ones feel when one POST in ten fails"),
    scenario("retry-storm", Kind::RetryStorm, false, "100,000 retries that fall due at once"),
    scenario("idle-groups", Kind::IdleGroups, false, "10 busy groups without and with 10,000 idle ones"),
    scenario("endpoints-1000", Kind::ManyEndpoints, false, "1,000 endpoints in one group"),
    scenario("backlog", Kind::Backlog, false, "200,000 events drained; with --full 2,000,000"),
    scenario("slow-and-dead", Kind::SlowAndDead, false, "18 endpoints beside a slow and a dead one"),
    scenario("processes", Kind::Processes, false, "two dispatchers; four APIs and four dispatchers"),
    scenario("rows", Kind::Rows, false, "10,000,000 rows in `delivery` and `attempt` (--full, or by name)"),
];

/// A line for each.
pub(super) fn list() -> String {
    let mut text = String::new();
    for Scenario { name, about, is_quick, .. } in SCENARIOS {
        // Writing to a String can't fail.
        let _ = writeln!(text, "{name:<16}{about}{}", if *is_quick { " (also --quick)" } else { "" });
    }
    text
}

impl Scenario {
    pub(super) async fn play(&self, context: &Context<'_>) -> anyhow::Result<Outcome> {
        match self.kind {
            Kind::FanOut(endpoints) => fan_out::play(context, endpoints).await,
            Kind::Latency(rate) => latency::play(context, rate).await,
            Kind::Ingest => ingest::one_by_one(context).await,
            Kind::IngestBatches => ingest::in_batches(context).await,
            Kind::Retries => retries::some_fail(context).await,
            Kind::RetryStorm => retries::storm(context).await,
            Kind::IdleGroups => growth::idle_groups(context).await,
            Kind::ManyEndpoints => growth::many_endpoints(context).await,
            Kind::Backlog => growth::backlog(context).await,
            Kind::SlowAndDead => latency::slow_and_dead(context).await,
            Kind::Rows => rows::play(context).await,
            Kind::Processes => processes::play(context).await,
        }
    }
}
