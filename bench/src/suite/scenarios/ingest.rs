//! Events accepted a second while nothing is delivered.

use super::super::Context;
use super::super::closed_loop::{self, Load, Posted};
use super::super::outcome::{Figure, Outcome, Target};
use super::super::stage::Stage;
use crate::cpu;

pub(super) async fn one_by_one(context: &Context<'_>) -> anyhow::Result<Outcome> {
    let events = context.sized(60_000).max(100);
    let mut outcome = Outcome::new(format!("{events} events of 1 KiB from 64 connections, with keys"));
    let mut stage = quiet_stage(context).await?;
    context.say(&format!("posting {events} events"));
    let load = Load { keys: true, ..Load::one_by_one(events) };
    let posted = measure(&mut stage, load, &mut outcome).await?;
    outcome.push(Figure::new("events", posted.per_second(), "/s").with(Target::AtLeast(20_000.0)));
    push_latencies(&posted, &mut outcome);
    outcome.memory_mib = stage.memory();
    Ok(outcome)
}

pub(super) async fn in_batches(context: &Context<'_>) -> anyhow::Result<Outcome> {
    let events = context.sized(150_000).max(1000);
    let about = format!("{events} events of 1 KiB in batches of 100 from 16 connections, twice");
    let mut outcome = Outcome::new(about);
    let mut stage = quiet_stage(context).await?;
    for (name, keys) in [("events", false), ("events with keys", true)] {
        context.say(&format!("posting {events} {name}"));
        let load = Load { keys, connections: 16, ..Load::in_batches(events) };
        let posted = measure(&mut stage, load, &mut outcome).await?;
        outcome.push(Figure::new(name, posted.per_second(), "/s").with(Target::AtLeast(60_000.0)));
        if !keys {
            push_latencies(&posted, &mut outcome);
        }
    }
    outcome.memory_mib = stage.memory();
    Ok(outcome)
}

/// Without a dispatcher, and warm.
async fn quiet_stage<'a>(context: &'a Context<'_>) -> anyhow::Result<Stage<'a>> {
    let mut stage = context.stage().await?;
    stage.system.stop_dispatcher().await?;
    let warm_up = Load { keys: true, ..Load::one_by_one(1000) };
    closed_loop::post(&stage.system.api_addresses(), warm_up).await?;
    Ok(stage)
}

/// Posts, and counts what the log has of it.
async fn measure(stage: &mut Stage<'_>, load: Load, outcome: &mut Outcome) -> anyhow::Result<Posted> {
    let before = cpu::snapshot(&stage.system);
    let posted = closed_loop::post(&stage.system.api_addresses(), load).await?;
    let used = cpu::snapshot(&stage.system).since(&before);
    stage.note_memory().await?;
    let ids: Vec<_> = posted.ids.iter().map(|id| id.0).collect();
    let (rows,): (i64,) = sqlx::query_as("select count(*) from event where id = any($1)")
        .bind(&ids)
        .fetch_one(&stage.database()?)
        .await?;
    let accepted = ids.len() as u64;
    outcome.note_cpu(&used, accepted);
    outcome.counted += accepted;
    outcome.missing += u64::from(load.events).saturating_sub(u64::try_from(rows)?);
    outcome.duplicates += accepted.saturating_sub(u64::from(load.events));
    Ok(posted)
}

fn push_latencies(posted: &Posted, outcome: &mut Outcome) {
    for (name, quantile) in [("request answered, p50", 0.5), ("request answered, p99", 0.99)] {
        let ms = posted.answers.value_at_quantile(quantile) as f64 / 1000.0;
        outcome.push(Figure::new(name, ms, "ms"));
    }
}
