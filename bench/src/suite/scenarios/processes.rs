//! The same load on more processes, on the same cores.

use super::super::Context;
use super::super::outcome::{Figure, Outcome, Target};
use super::growth::rate_of_rounds;

pub(super) async fn play(context: &Context<'_>) -> anyhow::Result<Outcome> {
    let events = context.sized(60_000).max(100);
    let mut outcome =
        Outcome::new(format!("{events} events of 1 KiB to one endpoint, on 1, 2 and 4 processes"));
    let mut stage = context.stage().await?;
    stage.endpoints("default", 1).await?;
    stage.warm_up().await?;
    let one = rate_of_rounds(context, &mut stage, events, &mut outcome).await?;

    stage.system.start_dispatcher().await?;
    stage.warm_up().await?;
    let two = rate_of_rounds(context, &mut stage, events, &mut outcome).await?;

    for _ in 0..2 {
        stage.system.start_dispatcher().await?;
    }
    for _ in 0..3 {
        stage.system.start_api().await?;
    }
    stage.warm_up().await?;
    let four = rate_of_rounds(context, &mut stage, events, &mut outcome).await?;

    outcome.push(Figure::deliveries("one API, one dispatcher", one));
    outcome.push(Figure::deliveries("one API, two dispatchers", two));
    outcome.push(Figure::deliveries("four APIs, four dispatchers", four));
    outcome.push(Figure::new("two dispatchers to one", two / one.max(1e-6), "x"));
    outcome.push(Figure::new("four of each to one", four / one.max(1e-6), "x").with(Target::AtLeast(0.85)));
    outcome.memory_mib = stage.memory();
    Ok(outcome)
}
