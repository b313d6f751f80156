//! The same load in an empty database and in one that remembers much.

use super::super::Context;
use super::super::closed_loop::{self, Load};
use super::super::outcome::{Figure, Outcome, Target};
use super::super::stage::Stage;
use super::growth::rate_of_rounds;

/// Rows written in one statement.
const STEP: i64 = 250_000;
const ROUNDS: u32 = 2;

pub(super) async fn play(context: &Context<'_>) -> anyhow::Result<Outcome> {
    let rows = i64::from(context.sized(10_000_000).max(1000));
    let events = context.sized(20_000).clamp(100, 20_000);
    let mut outcome = Outcome::new(format!("{events} events of 1 KiB, without and with {rows} rows"));
    let mut stage = context.stage().await?;
    stage.endpoints("default", 1).await?;
    stage.warm_up().await?;
    let before = measure(context, &mut stage, events, &mut outcome).await?;
    fill(context, &stage, rows).await?;
    stage.warm_up().await?;
    let after = measure(context, &mut stage, events, &mut outcome).await?;

    outcome.push(Figure::deliveries("deliveries, empty", before.deliveries));
    outcome.push(Figure::deliveries("deliveries, with rows", after.deliveries));
    let share = after.deliveries / before.deliveries.max(1e-6);
    outcome.push(Figure::new("deliveries, with rows to empty", share, "x").with(Target::AtLeast(0.85)));
    outcome.push(Figure::new("events accepted, empty", before.events, "/s"));
    outcome.push(Figure::new("events accepted, with rows", after.events, "/s"));
    let share = after.events / before.events.max(1e-6);
    outcome.push(Figure::new("events accepted, with rows to empty", share, "x").with(Target::AtLeast(0.85)));
    outcome.memory_mib = stage.memory();
    Ok(outcome)
}

/// Per second.
struct Rates {
    deliveries: f64,
    events: f64,
}

async fn measure(
    context: &Context<'_>,
    stage: &mut Stage<'_>,
    events: u32,
    outcome: &mut Outcome,
) -> anyhow::Result<Rates> {
    let deliveries = rate_of_rounds(context, stage, events, outcome).await?;
    stage.note_memory().await?;
    stage.system.stop_dispatcher().await?;
    let mut rates = Vec::new();
    let owed = stage.sink.ledger.received();
    let mut posted = 0;
    for _ in 0..ROUNDS {
        context.say("ingest alone");
        let load = Load { keys: true, ..Load::one_by_one(events) };
        let run = closed_loop::post(&stage.system.api_addresses(), load).await?;
        posted += run.ids.len() as u64;
        rates.push(run.per_second());
    }
    stage.system.start_dispatcher().await?;
    stage.until_received(owed + posted).await;
    Ok(Rates { deliveries, events: super::retries::mean(&rates) })
}

/// Rows of the only endpoint, in the partition that is written to today, as if made within the last minutes.
async fn fill(context: &Context<'_>, stage: &Stage<'_>, rows: i64) -> anyhow::Result<()> {
    let database = stage.database()?;
    sqlx::query("create table made (tick bigint, event_id uuid)").execute(&database).await?;
    let mut done = 0;
    while done < rows {
        context.say(&format!("{done} of {rows} rows are written"));
        let step = STEP.min(rows - done);
        for statement in [
            "insert into made select tick, make_event_id(tick)
             from (select (extract(epoch from now()) * 1000000)::bigint - 60000000 - i as tick
                   from generate_series($1::bigint, $1 + $2 - 1) i) ticks",
            "insert into delivery (event_id, endpoint_id, group_id, feed_id, ask, status, attempt_count,
                                   attempt_total, last_status_code)
             select made.event_id, f.endpoint_id, f.group_id, f.id, f.ask, 'delivered', 1, 1, 204
             from made, (select f.id, f.group_id, f.ask, e.id as endpoint_id
                         from feed f join endpoint e using (group_id) where f.kind = 'live' limit 1) f
             where $1::bigint >= 0 and $2::bigint > 0",
            "insert into attempt (event_id, endpoint_id, number, ask, started_at, duration_ms, status_code, trigger)
             select made.event_id, e.id, 1, 1, now(), 2, 204, 'feed'
             from made, (select id from endpoint limit 1) e where $1::bigint >= 0 and $2::bigint > 0",
            "delete from made where $1::bigint >= 0 and $2::bigint > 0",
        ] {
            sqlx::query(statement).bind(done).bind(step).execute(&database).await?;
        }
        done += step;
    }
    context.say("vacuum and checkpoint");
    for statement in ["drop table made", "vacuum analyze delivery", "vacuum analyze attempt", "checkpoint"] {
        sqlx::query(statement).execute(&database).await?;
    }
    Ok(())
}
