//! What should change nothing: idle groups, many endpoints, a long backlog.

use serde_json::json;

use super::super::Context;
use super::super::closed_loop::Load;
use super::super::outcome::{Figure, Outcome, Target};
use super::super::stage::Stage;
use super::retries::mean;

const BUSY: u32 = 10;
const ROUNDS: u32 = 2;

/// Ten groups that want every event, alone and beside many that want none of them.
pub(super) async fn idle_groups(context: &Context<'_>) -> anyhow::Result<Outcome> {
    let (idle, events) = (context.sized(10_000).max(10), context.sized(4_000).max(50));
    let about = format!("{events} events of 1 KiB to {BUSY} groups, without and with {idle} idle ones");
    let mut outcome = Outcome::new(about);
    let mut stage = context.stage().await?;
    for group in 0..BUSY {
        stage.endpoints(&format!("busy-{group}"), 1).await?;
    }
    stage.warm_up().await?;
    let alone = rate_of_rounds(context, &mut stage, events, &mut outcome).await?;
    context.say(&format!("making {idle} groups, each with an endpoint"));
    let bodies = (0..idle).flat_map(|number| {
        let endpoint = json!({ "url": stage.sink.url(1_000_000), "event_types": ["idle.never"] });
        [
            ("/consumer-groups".to_owned(), json!({ "name": format!("idle-{number}") }).to_string()),
            (format!("/consumer-groups/idle-{number}/endpoints"), endpoint.to_string()),
        ]
    });
    stage.make_each(bodies.collect(), 8).await?;
    let beside = rate_of_rounds(context, &mut stage, events, &mut outcome).await?;
    outcome.push(Figure::deliveries("10 busy groups", alone));
    outcome.push(Figure::deliveries("beside idle groups", beside));
    outcome.push(Figure::new("beside to alone", beside / alone.max(1e-6), "x").with(Target::AtLeast(0.9)));
    outcome.memory_mib = stage.memory();
    Ok(outcome)
}

/// The mean of a few closed loops in batches.
pub(super) async fn rate_of_rounds(
    context: &Context<'_>,
    stage: &mut Stage<'_>,
    events: u32,
    outcome: &mut Outcome,
) -> anyhow::Result<f64> {
    let mut rates = Vec::new();
    for round in 1..=ROUNDS {
        context.say(&format!("round {round}: {events} events"));
        let run = stage.closed(Load::in_batches(events)).await?;
        run.count_in(outcome);
        rates.push(run.per_second());
    }
    Ok(mean(&rates))
}

pub(super) async fn many_endpoints(context: &Context<'_>) -> anyhow::Result<Outcome> {
    let (endpoints, events) = (context.sized(1000).max(20), 100);
    let mut outcome = Outcome::new(format!("{events} events of 1 KiB to {endpoints} endpoints in one group"));
    let mut stage = context.stage().await?;
    stage.endpoints("default", endpoints).await?;
    stage.warm_up().await?;
    context.say(&format!("posting {events} events for {endpoints} endpoints each"));
    let run = stage.closed(Load { batch: 10, ..Load::in_batches(events) }).await?;
    run.count_in(&mut outcome);
    outcome.push(Figure::deliveries("deliveries", run.per_second()));
    outcome.push(Figure::new("processor", run.cpu_ms(), "ms"));
    outcome.memory_mib = stage.memory();
    Ok(outcome)
}

pub(super) async fn backlog(context: &Context<'_>) -> anyhow::Result<Outcome> {
    let events = context.sized_or_full(200_000, 2_000_000).max(1000);
    let mut outcome = Outcome::new(format!("{events} events of 1 KiB, posted and then drained"));
    let mut stage = context.stage().await?;
    stage.endpoints("default", 1).await?;
    stage.warm_up().await?;
    context.say(&format!("posting a backlog of {events} events"));
    let run = stage.backlog(Load::in_batches(events)).await?;
    run.count_in(&mut outcome);
    let (first, all) = (run.drained_per_second(0.1), run.drained_per_second(1.0));
    outcome.push(Figure::deliveries("drained", all));
    outcome.push(Figure::new("all of it to its first tenth", all / first.max(1e-6), "x"));
    outcome.push(Figure::new("processor", run.cpu_ms(), "ms"));
    outcome.memory_mib = stage.memory();
    let memory = outcome.memory_mib;
    for (name, most, bound) in
        [("redis", memory.redis, 64.0), ("api", memory.api, 200.0), ("dispatcher", memory.dispatcher, 200.0)]
    {
        outcome.push(Figure::new(&format!("memory of {name}"), most, "MiB").with(Target::AtMost(bound)));
    }
    Ok(outcome)
}
