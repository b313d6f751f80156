//! An endpoint that is away: its backlog stays in the log, and Redis stays small.

use eventrail_core::testing::{Answer, Api};
use serde_json::{Value, json};

use crate::rail::{LONG, Rail, assert_exactly_once};

const EVENTS: usize = 200_000;
const MIB: u64 = 1 << 20;

/// Posts events over four connections; answers the most memory that Redis used meanwhile.
async fn flood(rail: &Rail, events: usize) -> u64 {
    let batch: Vec<Value> = (0..1000)
        .map(|n| json!({ "event_type": "a.b", "source": "test", "payload": { "n": n, "text": "x".repeat(60) } }))
        .collect();
    let posting: Vec<_> = (0..4)
        .map(|_| {
            let (api, batch): (Api, _) = (rail.api.clone(), batch.clone());
            tokio::spawn(async move {
                for _ in 0..events / 4000 {
                    api.post_batch(&batch).await;
                }
            })
        })
        .collect();
    let mut most = 0;
    while posting.iter().any(|task| !task.is_finished()) {
        most = most.max(rail.stack.redis_memory().await);
        tokio::task::yield_now().await;
    }
    for task in posting {
        task.await.unwrap();
    }
    most
}

#[tokio::test]
async fn redis_stays_flat_while_an_endpoint_is_down_and_200_000_events_flow_past() {
    let rail = Rail::start(&[("ATTEMPT_TIMEOUT_MS", "1000")]).await;
    rail.api.create_group("orders").await;
    let down = rail.endpoint("orders", "/down").await;
    rail.receiver.always("/down", Answer::close());
    let before = rail.stack.redis_memory().await;
    let mut most = flood(&rail, EVENTS).await;
    rail.until_feed_settled("orders").await;
    most = most.max(rail.stack.redis_memory().await);
    let rows: i64 = rail.ask(&down, "select count(*) from delivery where endpoint_id = $1").await;
    let parked: i64 =
        rail.ask(&down, "select count(*) from parked where endpoint_id = $1 and to_position is null").await;
    eprintln!(
        "{EVENTS} events: Redis grew by {} KiB at most, {rows} rows, {} requests",
        (most - before) / 1024,
        rail.receiver.count()
    );
    assert_eq!(parked, 1);
    assert!(most - before < 24 * MIB, "Redis grew from {before} to {most} bytes");
    // The deferral bound, what the stream held when it was passed, and what came until the relay saw it.
    assert!(rows < 20_000, "{rows} rows for an endpoint that is away");
    assert!(rail.receiver.count() < 2_000, "{} requests", rail.receiver.count());
    // The endpoint is gone for good: nothing of the backlog stays.
    let _ = rail.api.delete(&format!("/consumer-groups/orders/endpoints/{}", down.id)).await.expect(204);
    rail.end().await;
}

#[tokio::test]
async fn an_endpoint_that_comes_back_gets_each_event_of_its_backlog_once() {
    let rail = Rail::start(&[("BASE_BACKOFF_MS", "100")]).await;
    rail.api.create_group("orders").await;
    let away = rail.endpoint("orders", "/away").await;
    rail.receiver.always("/away", Answer::close());
    let mut events = rail.post("a.b", 2_000).await;
    rail.until_parked(&away).await;
    events.extend(rail.post("a.b", 3_000).await);
    rail.until_feed_settled("orders").await;
    let failed = rail.receiver.count();
    let rows: i64 = rail.ask(&away, "select count(*) from delivery where endpoint_id = $1").await;
    assert!(rows <= 2_000, "what came after the parking costs no rows: {rows}");

    rail.receiver.always("/away", Answer::status(200));
    rail.stack.assert_settled_within(LONG).await;
    let all = rail.receiver.requests();
    let well: i64 =
        rail.ask(&away, "select count(*) from attempt where endpoint_id = $1 and status_code = 200").await;
    eprintln!("{failed} failed attempts while away, {rows} rows, {} requests in all", all.len());
    assert_eq!(well, events.len() as i64);
    let failed: i64 =
        rail.ask(&away, "select count(*) from attempt where endpoint_id = $1 and status_code is null").await;
    assert_exactly_once(&all[usize::try_from(failed).unwrap()..], &events, &away);
    rail.end().await;
}
