//! Deliveries a second to one endpoint or several of one group, and what each costs.

use super::super::Context;
use super::super::closed_loop::Load;
use super::super::outcome::{Figure, Outcome, Target};

pub(super) async fn play(context: &Context<'_>, endpoints: u32) -> anyhow::Result<Outcome> {
    let events = context.sized(if endpoints == 1 { 40_000 } else { 16_000 }).max(100);
    let (share, most_cpu_ms) = if endpoints == 1 { (0.25, 0.15) } else { (0.5, 0.05) };
    let mut outcome = Outcome::new(format!("{events} events of 1 KiB to {endpoints} endpoints"));
    let mut stage = context.stage().await?;
    stage.endpoints("default", endpoints).await?;
    stage.warm_up().await?;

    context.say(&format!("posting {events} events one by one"));
    let single = stage.closed(Load::one_by_one(events)).await?;
    context.say(&format!("posting {events} events in batches of 100"));
    let batches = stage.closed(Load::in_batches(events)).await?;
    context.say(&format!("posting a backlog of {events} events"));
    let backlog = stage.backlog(Load::in_batches(events)).await?;

    let runs = [
        ("posted one by one", single.per_second(), &single),
        ("posted in batches of 100", batches.per_second(), &batches),
        ("from a backlog", backlog.drained_per_second(1.0), &backlog),
    ];
    for (name, rate, run) in &runs {
        run.count_in(&mut outcome);
        outcome.push(Figure::deliveries(name, *rate).with(Target::OfBare(share)));
    }
    for (name, _, run) in &runs {
        let figure = Figure::new(&format!("processor, {name}"), run.cpu_ms(), "ms");
        outcome.push(figure.with(Target::AtMost(most_cpu_ms)));
    }
    outcome.memory_mib = stage.memory();
    for (name, most) in [("api", outcome.memory_mib.api), ("dispatcher", outcome.memory_mib.dispatcher)] {
        outcome.push(Figure::new(&format!("memory of {name}"), most, "MiB").with(Target::AtMost(80.0)));
    }
    Ok(outcome)
}
