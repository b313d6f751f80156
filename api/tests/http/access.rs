//! Who may ask, and what answers anybody: probes and metrics.

use eventrail_core::testing::{Api, Stack};
use serde_json::json;

use crate::support::{Options, Server, assert_problem};

#[tokio::test]
async fn with_a_token_only_its_bearer_gets_in() {
    let stack = Stack::start().await;
    let options = Options { admin_token: Some("a-long-token".into()), ..Options::default() };
    let Server { api, .. } = &Server::start_with(&stack, options).await;
    let event = json!({"event_type": "a.b", "source": "s", "payload": 1});
    for (method, path) in [
        ("POST", "/events"),
        ("GET", "/consumer-groups"),
        ("GET", "/metrics"),
        ("GET", "/nowhere"),
        ("PUT", "/events"),
    ] {
        for authorization in
            [None, Some("Bearer wrong"), Some("Bearer "), Some("Basic YTpi"), Some("a-long-token")]
        {
            let request = api.request(method, path).json(&event);
            let request = match authorization {
                Some(value) => request.header("authorization", value),
                None => request,
            };
            let reply = Api::send(request).await.unwrap();
            assert_problem(&reply, 401, "unauthorized");
            assert_eq!(reply.header("www-authenticate"), "Bearer");
        }
    }
    for open in ["/health", "/livez", "/readyz", "/problems"] {
        let _ = api.get(open).await.expect(200);
    }
    let events: i64 = sqlx::query_scalar("select count(*) from event").fetch_one(&stack.pool).await.unwrap();
    assert_eq!(events, 0);
    let request = api.request("POST", "/events").bearer_auth("a-long-token").json(&event);
    let _ = Api::send(request).await.unwrap().expect(201);
}

#[tokio::test]
async fn metrics_count_requests_by_route_and_events() {
    let stack = Stack::start().await;
    let Server { api, .. } = &Server::start(&stack).await;
    api.post_event("a.b", "s", json!({})).await;
    let _ = api.get("/events/evt_01h455vb4pex5vsknk084sn02q").await.expect(404);
    let _ = api.get("/made-up/path").await.expect(404);
    let metrics = api.get("/metrics").await.expect(200);
    assert!(metrics.header("content-type").starts_with("text/plain"));
    let has = |parts: &[&str]| metrics.text.lines().any(|line| parts.iter().all(|part| line.contains(part)));
    assert!(has(&[
        "eventrail_http_requests_total",
        "route=\"/events\"",
        "method=\"POST\"",
        "status=\"201\""
    ]));
    assert!(has(&["eventrail_http_requests_total", "route=\"/events/{id}\"", "status=\"404\""]));
    assert!(has(&["eventrail_http_requests_total", "route=\"none\"", "status=\"404\""]));
    assert!(has(&["eventrail_events_accepted_total"]));
    assert!(has(&["eventrail_ingest_batch_events_count"]));
    assert!(!metrics.text.contains("made-up"));
}

#[tokio::test]
async fn a_taken_address_is_named_with_its_setting() {
    let taken = eventrail_api::bind("127.0.0.1:0".parse().unwrap()).await.unwrap();
    let address = taken.local_addr().unwrap();
    let error = eventrail_api::bind(address).await.unwrap_err();
    assert_eq!(error.to_string(), format!("{address} is taken: set LISTEN"));
}
