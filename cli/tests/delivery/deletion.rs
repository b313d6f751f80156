//! Endpoints and groups that are deleted while traffic flows.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use eventrail_core::testing::{Answer, eventually};
use serde_json::json;
use tokio::task::JoinHandle;

use crate::rail::{LONG, Rail, assert_exactly_once};

/// Posts batches of twenty until it is told to stop.
struct Traffic {
    stop: Arc<AtomicBool>,
    posting: JoinHandle<Vec<String>>,
}

impl Traffic {
    fn start(rail: &Rail) -> Self {
        let (stop, api) = (Arc::new(AtomicBool::new(false)), rail.api.clone());
        let stopped = Arc::clone(&stop);
        let posting = tokio::spawn(async move {
            let event = json!({ "event_type": "a.b", "source": "test", "payload": 1 });
            let mut ids = Vec::new();
            while !stopped.load(Ordering::Relaxed) {
                ids.extend(api.post_batch(&vec![event.clone(); 20]).await);
            }
            ids
        });
        Self { stop, posting }
    }

    async fn end(self) -> Vec<String> {
        self.stop.store(true, Ordering::Relaxed);
        self.posting.await.unwrap()
    }
}

#[tokio::test]
async fn an_endpoint_that_is_deleted_while_traffic_flows_leaves_nothing_behind() {
    let rail = Rail::start(&[("BASE_BACKOFF_MS", "3600000")]).await;
    let stays = rail.endpoint("default", "/stays").await;
    let fails = rail.endpoint("default", "/fails").await;
    let held = rail.endpoint_with("default", "/held", json!({ "max_in_flight": 2 })).await;
    let fine = rail.endpoint("default", "/fine").await;
    rail.receiver.always("/fails", Answer::status(500));
    rail.receiver.always("/held", Answer::hold(200));
    let traffic = Traffic::start(&rail);
    rail.arrived("/stays", 500).await;
    rail.arrived("/fails", 20).await;
    for endpoint in [&fails, &held, &fine] {
        let _ =
            rail.api.delete(&format!("/consumer-groups/default/endpoints/{}", endpoint.id)).await.expect(204);
    }
    rail.arrived("/stays", 1_000).await;
    let events = traffic.end().await;
    rail.receiver.release();
    assert_exactly_once(&rail.arrived("/stays", events.len()).await, &events, &stays);
    rail.stack.assert_settled_within(LONG).await;
    let later = rail.post("a.b", 50).await;
    rail.arrived("/stays", events.len() + later.len()).await;
    for path in ["/fails", "/held", "/fine"] {
        let requests = rail.receiver.requests_to(path);
        assert!(requests.iter().all(|request| !later.iter().any(|id| id == request.webhook_id())), "{path}");
    }
    rail.end().await;
}

#[tokio::test]
async fn a_group_that_is_deleted_while_traffic_flows_leaves_nothing_behind_and_can_be_made_again() {
    let rail = Rail::start(&[("BASE_BACKOFF_MS", "3600000")]).await;
    let stays = rail.endpoint("default", "/stays").await;
    rail.api.create_group("orders").await;
    rail.endpoint("orders", "/fine").await;
    rail.endpoint("orders", "/fails").await;
    rail.receiver.always("/fails", Answer::status(500));
    let traffic = Traffic::start(&rail);
    rail.arrived("/fine", 400).await;
    rail.arrived("/fails", 20).await;
    let _ = rail.api.delete("/consumer-groups/orders").await.expect(204);
    let gone_at = rail.receiver.count_to("/stays");
    rail.arrived("/stays", gone_at + 200).await;
    let before = rail.receiver.count_to("/fine");
    eventually(async || {
        let streams = rail.keys("eventrail.{orders}.events*").await;
        if streams.is_empty() { Ok(()) } else { Err(format!("{streams:?} are still there")) }
    })
    .await;

    rail.api.create_group("orders").await;
    let again = rail.endpoint("orders", "/again").await;
    rail.arrived("/again", 200).await;
    let mut events = traffic.end().await;
    let last = rail.post("a.b", 50).await;
    events.extend(last.iter().cloned());
    assert_exactly_once(&rail.arrived("/stays", events.len()).await, &events, &stays);
    let owed: Vec<eventrail_core::ids::EventId> = sqlx::query_scalar(
        "select e.id from event e join subscription s on e.position > s.from_position where s.endpoint_id = $1",
    )
    .bind(crate::rail::endpoint_id(&again))
    .fetch_all(&rail.stack.pool)
    .await
    .unwrap();
    let owed: Vec<String> = owed.iter().map(ToString::to_string).collect();
    assert_exactly_once(&rail.arrived("/again", owed.len()).await, &owed, &again);
    rail.stack.assert_settled_within(LONG).await;
    let after = rail.receiver.count_to("/fine");
    assert!(after - before <= 1_000, "{before} before the deletion was seen, {after} at the end");
    for path in ["/fine", "/fails"] {
        let late = rail.receiver.requests_to(path);
        assert!(late.iter().all(|request| !last.iter().any(|id| id == request.webhook_id())), "{path}");
    }
    rail.end().await;
}

#[tokio::test]
async fn a_group_that_is_deleted_with_a_parked_endpoint_and_retries_leaves_nothing_behind() {
    let rail = Rail::start(&[("BASE_BACKOFF_MS", "1000")]).await;
    let stays = rail.endpoint("default", "/stays").await;
    rail.api.create_group("orders").await;
    let away = rail.endpoint("orders", "/away").await;
    rail.receiver.always("/away", Answer::close());
    let mut events = rail.post("a.b", 3_000).await;
    rail.until_parked(&away).await;
    let _ = rail.api.delete("/consumer-groups/orders").await.expect(204);
    events.extend(rail.post("a.b", 500).await);
    assert_exactly_once(&rail.arrived("/stays", events.len()).await, &events, &stays);
    rail.stack.assert_settled_within(LONG).await;
    eventually(async || {
        let mut left = rail.keys("eventrail.{orders}.*").await;
        left.retain(|key| !key.ends_with(".dlq"));
        if left.is_empty() { Ok(()) } else { Err(format!("{left:?} are still there")) }
    })
    .await;
    rail.end().await;
}
