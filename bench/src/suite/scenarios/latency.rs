//! How long an event takes at a steady rate, by itself and beside endpoints that are slow or dead. Times run from
//! the moment when an event was due.

use std::time::Duration;

use anyhow::Context as _;
use hdrhistogram::Histogram;

use super::super::Context;
use super::super::closed_loop::histogram;
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

/// What 18 endpoints feel when a nineteenth answers after 5 s and a twentieth never. Both ways in turn, each time on
/// fresh servers: a p99 of ten seconds swings threefold by itself.
pub(super) async fn slow_and_dead(context: &Context<'_>) -> anyhow::Result<Outcome> {
    const RATE: u32 = 100;
    const ROUNDS: u32 = 3;
    let pace = Pace { rate: RATE, events: context.sized(RATE * SECONDS).max(100), connections: 64 };
    let about =
        format!("{} events of 1 KiB at {RATE}/s to 20 endpoints, {ROUNDS} times each way", pace.events);
    let mut outcome = Outcome::new(about);
    let (mut alone, mut beside) = (histogram()?, histogram()?);
    for round in 1..=ROUNDS {
        for (name, receipts, manners) in [
            ("20 prompt endpoints", &mut alone, [Manner::Prompt, Manner::Prompt]),
            (
                "18 prompt endpoints beside a slow and a dead one",
                &mut beside,
                [Manner::Slow(Duration::from_secs(5)), Manner::Dead],
            ),
        ] {
            let mut stage = context.stage().await?;
            stage.endpoints("default", 20).await?;
            stage.warm_up().await?;
            let all = stage.endpoints.clone();
            let (others, two) = all.split_at(18);
            stage.open(Pace { events: pace.events.min(RATE * WARM_UP_SECONDS), ..pace }, &all).await?;
            for (endpoint, manner) in two.iter().zip(manners) {
                stage.sink.ledger.set_manner(*endpoint, manner);
            }
            context.say(&format!("{name}, {round} of {ROUNDS}"));
            let steady = stage.open(pace, others).await?;
            steady.run.count_in(&mut outcome);
            receipts.add(&steady.receipts).context("a histogram")?;
            outcome.memory_mib = stage.memory();
        }
    }

    for (name, receipts) in [("all prompt", &alone), ("beside slow and dead", &beside)] {
        for (label, quantile) in [("p50", 0.5), ("p99", 0.99)] {
            outcome.push(Figure::new(&format!("{name}, {label}"), ms(receipts, quantile), "ms"));
        }
    }
    let ratio = ms(&beside, 0.99) / ms(&alone, 0.99).max(0.001);
    outcome.push(Figure::new("p99 beside to p99 alone", ratio, "x").with(Target::AtMost(1.2)));
    Ok(outcome)
}
