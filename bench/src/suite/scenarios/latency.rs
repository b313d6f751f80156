//! How long an event takes at a steady rate, by itself and beside endpoints that are slow or dead. Times run from
//! the moment when an event was due.

use std::time::Duration;

use hdrhistogram::Histogram;

use super::super::Context;
use super::super::open_loop::Pace;
use super::super::outcome::{Figure, Outcome, Target};
use super::super::sink::Manner;
use super::super::stage::Steady;

const SECONDS: u32 = 10;
/// Before anything is measured.
const WARM_UP_SECONDS: u32 = 2;

fn ms(histogram: &Histogram<u64>, quantile: f64) -> f64 {
    histogram.value_at_quantile(quantile) as f64 / 1000.0
}

pub(super) async fn play(context: &Context<'_>, rate: u32) -> anyhow::Result<Outcome> {
    let pace = Pace { rate, events: context.sized(rate * SECONDS).max(100), connections: 256.min(rate / 4) };
    let mut outcome = Outcome::new(format!("{} events of 1 KiB at {rate}/s to one endpoint", pace.events));
    let mut stage = context.stage().await?;
    stage.endpoints("default", 1).await?;
    stage.warm_up().await?;
    let all = stage.endpoints.clone();
    let warm_up = Pace { events: pace.events.min(rate * WARM_UP_SECONDS), ..pace };
    stage.open(warm_up, &all).await?;

    context.say(&format!("posting {} events at {rate}/s", pace.events));
    let Steady { run, receipts, late } = stage.open(pace, &all).await?;
    run.count_in(&mut outcome);
    let answers = &run.posted.answers;
    let (answered, received, worst) = match rate {
        ..=1000 => (Some(1.0), Some(1.5), 4.0),
        _ => (None, None, 25.0),
    };
    let with = |figure: Figure, most: Option<f64>| match most {
        Some(most) => figure.with(Target::AtMost(most)),
        None => figure,
    };
    outcome.push(with(Figure::new("POST to 201, p50", ms(answers, 0.5), "ms"), answered));
    outcome.push(Figure::new("POST to 201, p99", ms(answers, 0.99), "ms"));
    outcome.push(with(Figure::new("POST to receipt, p50", ms(&receipts, 0.5), "ms"), received));
    outcome.push(with(Figure::new("POST to receipt, p99", ms(&receipts, 0.99), "ms"), Some(worst)));
    outcome.push(Figure::new("POST to receipt, p99.9", ms(&receipts, 0.999), "ms"));
    outcome.push(Figure::new("of it sent late, p50", ms(&late, 0.5), "ms"));
    outcome.push(Figure::new("of it sent late, p99", ms(&late, 0.99), "ms"));
    outcome.memory_mib = stage.memory();
    Ok(outcome)
}

/// What 18 endpoints feel when a nineteenth answers after 5 s and a twentieth never.
pub(super) async fn slow_and_dead(context: &Context<'_>) -> anyhow::Result<Outcome> {
    const RATE: u32 = 100;
    let pace = Pace { rate: RATE, events: context.sized(RATE * SECONDS).max(100), connections: 64 };
    let about = format!("{} events of 1 KiB at {RATE}/s to 20 endpoints, twice", pace.events);
    let mut outcome = Outcome::new(about);
    let mut stage = context.stage().await?;
    stage.endpoints("default", 20).await?;
    stage.warm_up().await?;
    let all = stage.endpoints.clone();
    let (others, bad) = all.split_at(18);
    stage.open(Pace { events: pace.events.min(RATE * WARM_UP_SECONDS), ..pace }, &all).await?;

    context.say("20 prompt endpoints");
    let alone = stage.open(pace, others).await?;
    for (endpoint, manner) in bad.iter().zip([Manner::Slow(Duration::from_secs(5)), Manner::Dead]) {
        stage.sink.ledger.set_manner(*endpoint, manner);
    }
    context.say("18 prompt endpoints beside a slow and a dead one");
    let beside = stage.open(pace, others).await?;

    for (name, steady) in [("all prompt", &alone), ("beside slow and dead", &beside)] {
        steady.run.count_in(&mut outcome);
        for (label, quantile) in [("p50", 0.5), ("p99", 0.99)] {
            outcome.push(Figure::new(&format!("{name}, {label}"), ms(&steady.receipts, quantile), "ms"));
        }
    }
    let ratio = ms(&beside.receipts, 0.99) / ms(&alone.receipts, 0.99).max(0.001);
    outcome.push(Figure::new("p99 beside to p99 alone", ratio, "x").with(Target::AtMost(1.2)));
    outcome.memory_mib = stage.memory();
    Ok(outcome)
}
