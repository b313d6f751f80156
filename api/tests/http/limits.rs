//! Limits that hold for all requests: heads, depth of JSON, pages, endpoints of a group, other origins.

use eventrail_core::testing::{Api, Stack};
use serde_json::json;

use crate::support::{Server, assert_problem, post_raw};

#[tokio::test]
async fn heads_over_the_limit_are_refused_as_a_problem() {
    let stack = Stack::start().await;
    let Server { api, .. } = &Server::start(&stack).await;
    let large = api.request("GET", "/consumer-groups").header("x-large", "x".repeat(33 << 10));
    assert_problem(&Api::send(large).await.unwrap(), 431, "head-too-large");
    let mut many = api.request("GET", "/consumer-groups");
    for n in 0..120 {
        many = many.header(format!("x-{n}"), "1");
    }
    assert_problem(&Api::send(many).await.unwrap(), 431, "head-too-large");
    let fine = api.request("GET", "/consumer-groups").header("x-large", "x".repeat(20 << 10));
    let _ = Api::send(fine).await.unwrap().expect(200);
}

#[tokio::test]
async fn payloads_are_nested_no_deeper_than_receivers_can_read() {
    let stack = Stack::start().await;
    let Server { api, .. } = &Server::start(&stack).await;
    let event = |depth: usize| {
        let payload = format!("{}{}", "[".repeat(depth), "]".repeat(depth));
        format!(r#"{{"event_type":"a.b","source":"s","payload":{payload}}}"#)
    };
    let _ = post_raw(api, "/events", event(99)).await.expect(201);
    assert_problem(&post_raw(api, "/events", event(100)).await, 400, "invalid-json");
    let batch = format!(r#"{{"events":[{}]}}"#, event(100));
    assert_problem(&post_raw(api, "/events/batch", batch).await, 400, "invalid-json");
}

#[tokio::test]
async fn other_origins_are_given_no_leave() {
    let stack = Stack::start().await;
    let Server { api, .. } = &Server::start(&stack).await;
    let asked = api.request("GET", "/consumer-groups").header("origin", "https://elsewhere.example");
    let reply = Api::send(asked).await.unwrap().expect(200);
    assert!(!reply.headers.contains_key("access-control-allow-origin"));
    let preflight = api
        .request("OPTIONS", "/events")
        .header("origin", "https://elsewhere.example")
        .header("access-control-request-method", "POST");
    let reply = Api::send(preflight).await.unwrap();
    assert_problem(&reply, 405, "method-not-allowed");
    assert!(!reply.headers.contains_key("access-control-allow-origin"));
}

#[tokio::test]
async fn a_group_has_a_thousand_endpoints_at_most() {
    let stack = Stack::start().await;
    let Server { api, .. } = &Server::start(&stack).await;
    sqlx::query(
        "with made as (
             insert into endpoint (id, group_id, url, version)
             select gen_random_uuid(), 1, 'http://127.0.0.1:9/' || n, 1 from generate_series(1, 999) n
             returning id
         )
         insert into subscription (endpoint_id, from_position) select id, 1 from made",
    )
    .execute(&stack.pool)
    .await
    .unwrap();
    let path = "/consumer-groups/default/endpoints";
    let _ = api.post(path, &json!({"url": "http://127.0.0.1:9/a"})).await.expect(201);
    let over = api.post(path, &json!({"url": "http://127.0.0.1:9/b"})).await;
    assert_problem(&over, 409, "too-many-endpoints");
    let endpoints: i64 =
        sqlx::query_scalar("select count(*) from endpoint").fetch_one(&stack.pool).await.unwrap();
    assert_eq!(endpoints, 1000);
}

#[tokio::test]
async fn pages_have_a_size_and_a_place() {
    let stack = Stack::start().await;
    let Server { api, .. } = &Server::start(&stack).await;
    for list in [
        "/events",
        "/event-types",
        "/consumer-groups",
        "/consumer-groups/default/endpoints",
        "/consumer-groups/default/deliveries",
        "/api-keys",
        "/audit-log",
    ] {
        let _ = api.get(&format!("{list}?limit=500")).await.expect(200);
        for query in ["limit=0", "limit=501", "limit=x", "cursor=x", "page=2", "limit=1&limit=2"] {
            let reply = api.get(&format!("{list}?{query}")).await;
            assert_problem(&reply, 400, "invalid-query");
        }
    }
}
