//! What failures cost: while some fail, and when many retries fall due at once.

use std::time::Duration;

use anyhow::Context as _;
use tokio::time::timeout;

use super::super::Context;
use super::super::closed_loop::Load;
use super::super::outcome::{Figure, Outcome, Target};
use super::super::sink::Manner;
use super::super::stage::{Run, Stage};
use crate::cpu;

/// One request in so many fails.
const FAILS_ONE_IN: u64 = 10;
/// What arrives at the first attempt.
const GOOD: f64 = 0.9;
const ROUNDS: u32 = 2;

/// Rates up to the moment when nine events in ten have arrived: the others wait for their retries, as they should.
pub(super) async fn some_fail(context: &Context<'_>) -> anyhow::Result<Outcome> {
    let events = context.sized(15_000).max(100);
    let about =
        format!("{events} events of 1 KiB, all good and with one POST in ten failing, {ROUNDS} times");
    let mut outcome = Outcome::new(about);
    let mut stage = context.stage().await?;
    stage.endpoints("default", 1).await?;
    stage.warm_up().await?;

    let (mut good, mut failing) = (Vec::new(), Vec::new());
    for round in 1..=ROUNDS {
        for (manner, rates) in [(Manner::Prompt, &mut good), (Manner::FailsOneIn(FAILS_ONE_IN), &mut failing)]
        {
            context.say(&format!("round {round}: {events} events, {manner:?}"));
            stage.sink.ledger.set_manner(0, manner);
            let run: Run = stage.closed(Load::in_batches(events)).await?;
            run.count_in(&mut outcome);
            rates.push(run.per_second_up_to(GOOD));
        }
    }
    let (good, failing) = (mean(&good), mean(&failing));
    outcome.push(Figure::deliveries("all good", good));
    outcome.push(Figure::deliveries("good ones, 10 % failing", failing));
    outcome.push(Figure::new("failing to good", failing / good.max(1e-6), "x").with(Target::AtLeast(0.8)));
    outcome.memory_mib = stage.memory();
    Ok(outcome)
}

pub(super) fn mean(values: &[f64]) -> f64 {
    values.iter().sum::<f64>() / values.len().max(1) as f64
}

/// Events are delivered from a backlog; then their rows are made to say that a first attempt failed and the second
/// is due in a few seconds, all within a tenth of one, and another dispatcher is started before that.
pub(super) async fn storm(context: &Context<'_>) -> anyhow::Result<Outcome> {
    let events = context.sized(100_000).max(100);
    let mut outcome = Outcome::new(format!("{events} events of 1 KiB, delivered, then due as retries"));
    let mut stage = context.stage().await?;
    stage.endpoints("default", 1).await?;
    stage.warm_up().await?;

    context.say(&format!("posting a backlog of {events} events"));
    let backlog = stage.backlog(Load::in_batches(events)).await?;
    backlog.count_in(&mut outcome);
    let normal = backlog.drained_per_second(1.0);

    context.say("making retries of them");
    fall_due(&mut stage, &backlog).await?;
    stage.sink.ledger.forget();
    let before = cpu::snapshot(&stage.system);
    let posted = backlog.posted;
    context.say(&format!("draining {events} retries"));
    stage.system.start_dispatcher().await?;
    stage.until_received(posted.ids.len() as u64).await;
    let cpu = cpu::snapshot(&stage.system).since(&before);
    let arrivals = stage.sink.ledger.arrivals(&stage.endpoints, &posted.ids);
    stage.note_memory().await?;
    let storm = Run { started: posted.started, posted, arrivals, cpu };
    storm.count_in(&mut outcome);
    let retried = storm.drained_per_second(1.0);

    outcome.push(Figure::deliveries("normal, from a backlog", normal));
    outcome.push(Figure::deliveries("retries due at once", retried));
    outcome
        .push(Figure::new("retries to normal", retried / normal.max(1e-6), "x").with(Target::AtLeast(0.5)));
    outcome.push(Figure::new("processor, normal", backlog_cpu(&outcome), "ms"));
    outcome.push(Figure::new("processor, retries", storm.cpu_ms(), "ms"));
    outcome.memory_mib = stage.memory();
    Ok(outcome)
}

/// The servers' share of what was noted first.
fn backlog_cpu(outcome: &Outcome) -> f64 {
    let parts = ["api", "dispatcher", "postgres", "redis"];
    parts.iter().filter_map(|part| outcome.cpu_us.get(*part)).sum::<f64>() / 1000.0
}

/// Once nothing of it is under way, says of each delivery when it waits for its second attempt.
async fn fall_due(stage: &mut Stage<'_>, backlog: &Run) -> anyhow::Result<()> {
    let database = stage.database()?;
    let settled = async {
        loop {
            let (is_settled,): (bool,) = sqlx::query_as(
                "select settled_position >= (select max(position) from event) from feed where kind = 'live'",
            )
            .fetch_one(&database)
            .await?;
            if is_settled {
                return anyhow::Ok(());
            }
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    };
    timeout(Duration::from_secs(30), settled).await.context("the feed is not settled after 30 s")??;
    stage.system.stop_dispatcher().await?;
    let ids: Vec<_> = backlog.posted.ids.iter().map(|id| id.0).collect();
    let changed = sqlx::query(
        "update delivery set status = 'retrying', last_status_code = 503, last_error = 'status',
                next_attempt_at = now() + interval '8 seconds' + random() * interval '100 milliseconds'
         where event_id = any($1) and status = 'delivered'",
    )
    .bind(&ids)
    .execute(&database)
    .await?;
    anyhow::ensure!(changed.rows_affected() == ids.len() as u64, "not all rows are there to be retried");
    Ok(())
}
