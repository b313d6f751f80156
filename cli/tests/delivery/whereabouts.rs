//! "Where is my webhook?", answered for each place that it can be in; and a delivery tried again by hand.

use eventrail_core::testing::{Answer, Endpoint, eventually_within};
use serde_json::{Value, json};

use crate::rail::{LONG, Rail};

/// What the API says of an event at an endpoint, as `status/reason`; `-` if it is not owed there.
async fn whereabouts(rail: &Rail, event: &str, endpoint: &Endpoint) -> String {
    let reply = rail.api.get(&format!("/events/{event}/deliveries")).await.expect(200);
    let data = reply.body["data"].as_array().unwrap();
    let Some(one) = data.iter().find(|one| one["endpoint_id"] == endpoint.id) else { return "-".into() };
    let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
    format!("{}/{}", text(&one["status"]), text(&one["reason"]))
}

async fn until(rail: &Rail, event: &str, endpoint: &Endpoint, expected: &str) {
    eventually_within(LONG, async || match whereabouts(rail, event, endpoint).await {
        place if place == expected => Ok(()),
        place => Err(format!("{place}, not {expected}")),
    })
    .await;
}

#[tokio::test]
async fn a_webhook_is_found_wherever_it_is() {
    let mut rail = Rail::without_dispatcher().await;
    for (path, status) in [("/retrying", 500), ("/dead", 500)] {
        rail.receiver.always(path, Answer::status(status));
    }
    rail.receiver.always("/deferred", Answer::hold(200));
    let slow = json!({"retry": {"base_backoff_ms": 600_000, "max_backoff_ms": 600_000}});
    let delivered = rail.endpoint("default", "/delivered").await;
    let retrying = rail.endpoint_with("default", "/retrying", slow).await;
    let dead = rail.endpoint_with("default", "/dead", json!({"retry": {"max_retries": 0}})).await;
    let deferred = rail.endpoint_with("default", "/deferred", json!({"max_in_flight": 1})).await;
    let parked = rail.endpoint("default", "/parked").await;
    let unsubscribed = rail.endpoint_with("default", "/other", json!({"event_types": ["other.*"]})).await;
    let path = format!("/consumer-groups/default/endpoints/{}/disable", parked.id);
    let _ = rail.api.post(&path, &json!({})).await.expect(200);

    let first = rail.post("a.b", 1).await.remove(0);
    for endpoint in [&delivered, &retrying, &dead, &deferred] {
        assert_eq!(whereabouts(&rail, &first, endpoint).await, "pending/queued");
    }
    assert_eq!(whereabouts(&rail, &first, &unsubscribed).await, "-");
    rail.add_dispatcher(&[]).await;
    rail.arrived("/deferred", 1).await;
    rail.until_parked(&parked).await;
    let event = rail.post("a.b", 1).await.remove(0);
    for (endpoint, place) in [
        (&delivered, "delivered/"),
        (&retrying, "retrying/retrying"),
        (&dead, "dead/"),
        (&deferred, "pending/deferred"),
        (&parked, "pending/parked"),
        (&unsubscribed, "-"),
    ] {
        until(&rail, &event, endpoint, place).await;
    }
    let _ = rail.api.post("/consumer-groups/default/pause", &json!({})).await.expect(200);
    assert_eq!(whereabouts(&rail, &event, &retrying).await, "retrying/group_paused");
    let _ = rail.api.post("/consumer-groups/default/resume", &json!({})).await.expect(200);

    rail.receiver.always("/retrying", Answer::status(200));
    rail.receiver.always("/dead", Answer::status(200));
    rail.receiver.always("/deferred", Answer::status(200));
    rail.receiver.release();
    for endpoint in [&retrying, &dead] {
        for event in [&first, &event] {
            let path = format!("/deliveries/{event}/{}/retry", endpoint.id);
            let _ = rail.api.post(&path, &json!({})).await.expect(202);
            until(&rail, event, endpoint, "delivered/").await;
        }
    }
    let path = format!("/consumer-groups/default/endpoints/{}/enable", parked.id);
    let _ = rail.api.post(&path, &json!({})).await.expect(200);
    until(&rail, &event, &parked, "delivered/").await;
    until(&rail, &event, &deferred, "delivered/").await;
    let figures = rail.api.get("/consumer-groups/default").await.expect(200).body;
    assert_eq!((&figures["dispatchers_alive"], &figures["stalled_because"]), (&json!(1), &Value::Null));
    rail.end().await;
}
