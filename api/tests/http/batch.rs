//! `POST /events/batch`

use eventrail_core::testing::{Api, Stack};
use serde_json::{Value, json};

use crate::support::{Options, Server, assert_problem, pointers, state_of_the_record};

fn event(n: usize) -> Value {
    json!({"event_type": "a.b", "source": "s", "payload": n})
}

fn keyed(key: &str, n: usize) -> Value {
    json!({"event_type": "a.b", "source": "s", "payload": n, "idempotency_key": key})
}

fn statuses(body: &Value) -> Vec<&str> {
    body["data"].as_array().unwrap().iter().map(|item| item["status"].as_str().unwrap()).collect()
}

#[tokio::test]
async fn a_batch_is_stored_in_order() {
    let stack = Stack::start().await;
    let Server { api, .. } = &Server::start(&stack).await;
    let events: Vec<Value> = (0..1000).map(event).collect();
    let reply = api.post("/events/batch", &json!({ "events": events })).await.expect(200);
    assert_eq!(reply.body["data"].as_array().unwrap().len(), 1000);
    let payloads: Vec<Vec<u8>> = sqlx::query_scalar("select payload from event order by position")
        .fetch_all(&stack.pool)
        .await
        .unwrap();
    let expected: Vec<Vec<u8>> = (0..1000).map(|n| n.to_string().into_bytes()).collect();
    assert_eq!(payloads, expected);
    let transactions: i64 = sqlx::query_scalar("select count(distinct xmin::text) from event")
        .fetch_one(&stack.pool)
        .await
        .unwrap();
    assert_eq!(transactions, 1);
}

#[tokio::test]
async fn duplicates_within_a_batch_and_against_the_log_are_found() {
    let stack = Stack::start().await;
    let Server { api, .. } = &Server::start(&stack).await;
    let before = api.post_event_once("old", "a.b", "s", json!(0)).await.unwrap().expect(201);
    let batch = [
        keyed("old", 0),
        keyed("k", 1),
        keyed("k", 1),
        keyed("k", 2),
        event(1),
        event(1),
        keyed("old", 7),
        json!({"event_type": "a.b", "source": "s", "payload": 9, "idempotency_key": null}),
    ];
    let reply = api.post("/events/batch", &json!({ "events": batch })).await.expect(200);
    assert_eq!(
        statuses(&reply.body),
        ["duplicate", "created", "duplicate", "conflict", "created", "created", "conflict", "created"]
    );
    let id = |index: usize| &reply.body["data"][index]["id"];
    assert_eq!(*id(0), before.body["id"]);
    assert_eq!(*id(6), before.body["id"]);
    assert_eq!(id(1), id(2));
    assert_eq!(id(1), id(3), "a conflict names the first event");
    assert_ne!(id(4), id(5));

    let again = api.post("/events/batch", &json!({ "events": [keyed("k", 1)] })).await.expect(200);
    assert_eq!(statuses(&again.body), ["duplicate"]);
    let single = api.post_event_once("k", "a.b", "s", json!(1)).await.unwrap().expect(200);
    assert_eq!(single.body["id"], *id(1), "one fingerprint for single and batch");
    let events: i64 = sqlx::query_scalar("select count(*) from event").fetch_one(&stack.pool).await.unwrap();
    assert_eq!(events, 5);
}

#[tokio::test]
async fn one_invalid_event_refuses_the_batch_and_is_pointed_at() {
    let stack = Stack::start().await;
    let Server { api, .. } = &Server::start(&stack).await;
    let before = state_of_the_record(&stack).await;
    let good = event(1);
    for (bad, pointer) in [
        (json!({"event_type": "a..b", "source": "s", "payload": 1}), "/events/3/event_type"),
        (json!({"event_type": "a", "source": "s s", "payload": 1}), "/events/3/source"),
        (json!({"event_type": "a", "source": "s"}), "/events/3/payload"),
        (json!({"source": "s", "payload": 1}), "/events/3/event_type"),
        (json!({"event_type": "a", "source": 7, "payload": 1}), "/events/3/source"),
        (json!({"event_type": "a", "source": "s", "payload": 1, "x~/y": 1}), "/events/3/x~0~1y"),
        (json!({"event_type": "eventrail.x", "source": "s", "payload": 1}), "/events/3/event_type"),
        (keyed(&"k".repeat(256), 1), "/events/3/idempotency_key"),
        (keyed("", 1), "/events/3/idempotency_key"),
        (json!(5), "/events/3"),
        (json!(["a.b", "s", 1, null]), "/events/3"),
        (json!(null), "/events/3"),
    ] {
        let reply = api.post("/events/batch", &json!({ "events": [good, good, good, bad] })).await;
        assert_problem(&reply, 422, "invalid-fields");
        assert_eq!(pointers(&reply), [pointer], "{}", reply.text);
    }
    let many =
        json!({"events": [{"source": "s"}, good, {"payload": 1, "event_type": "eventrail", "source": "s"}]});
    let reply = api.post("/events/batch", &many).await;
    assert_eq!(pointers(&reply), ["/events/0/event_type", "/events/0/payload", "/events/2/event_type"]);
    assert_eq!(state_of_the_record(&stack).await, before);
}

#[tokio::test]
async fn a_batch_holds_one_to_a_thousand_events_and_no_header_key() {
    let stack = Stack::start().await;
    let server = Server::start_with(&stack, Options { max_batch_bytes: 100_000, ..Options::default() }).await;
    let api = &server.api;
    for (body, pointer) in [
        (json!({"events": []}), "/events"),
        (json!({"events": vec![event(1); 1001]}), "/events"),
        (json!({}), "/events"),
        (json!({"events": null}), "/events"),
        (json!({"events": {}}), "/events"),
        (json!({"events": [], "more": 1}), "/more"),
        (json!([]), ""),
        (json!([[]]), ""),
    ] {
        let reply = api.post("/events/batch", &body).await;
        assert_problem(&reply, 422, "invalid-fields");
        assert_eq!(pointers(&reply), [pointer], "{}", reply.text);
    }
    let large = json!({"events": [{"event_type": "a", "source": "s", "payload": "x".repeat(100_000)}]});
    assert_problem(&api.post("/events/batch", &large).await, 413, "body-too-large");
    let with_key = api.request("POST", "/events/batch").header("idempotency-key", "k");
    let reply = Api::send(with_key.json(&json!({"events": [event(1)]}))).await.unwrap();
    assert_problem(&reply, 422, "invalid-idempotency-key");
    let events: i64 = sqlx::query_scalar("select count(*) from event").fetch_one(&stack.pool).await.unwrap();
    assert_eq!(events, 0);
}
