//! Bad input: each gets a clear problem, and changes nothing.

use eventrail_core::testing::{Api, Stack};
use serde_json::json;

use crate::support::{Options, Server, assert_problem, pointers, post_raw, state_of_the_record};

const GOOD: &str = r#"{"event_type":"a.b","source":"s","payload":1}"#;

#[tokio::test]
async fn bad_events_are_refused_and_change_nothing() {
    let stack = Stack::start().await;
    let server = Server::start_with(&stack, Options { max_event_bytes: 2000, ..Options::default() }).await;
    let api = &server.api;
    let before = state_of_the_record(&stack).await;
    for (body, status, slug, pointer) in [
        ("", 400, "invalid-json", ""),
        ("{", 400, "invalid-json", ""),
        (r#"{"event_type":"a.b","source":"s","payload":1"#, 400, "invalid-json", ""),
        (r#"{"event_type":"a.b","source":"s","payload":}"#, 400, "invalid-json", ""),
        (r#"{"event_type":"a.b","source":"s","payload":01}"#, 400, "invalid-json", ""),
        (r#"{"event_type":"a.b","source":"s","payload":NaN}"#, 400, "invalid-json", ""),
        (r#"{"event_type":"a.b","source":"s","payload":1}}"#, 400, "invalid-json", ""),
        (r#"{"event_type":5,"source":"s","payload":1,}"#, 400, "invalid-json", ""),
        ("{'event_type':'a'}", 400, "invalid-json", ""),
        (r#"{"source":"s","payload":1}"#, 422, "invalid-fields", "/event_type"),
        (r#"{"event_type":"a.b","payload":1}"#, 422, "invalid-fields", "/source"),
        (r#"{"event_type":"a.b","source":"s"}"#, 422, "invalid-fields", "/payload"),
        (r#"{"event_type":null,"source":"s","payload":1}"#, 422, "invalid-fields", "/event_type"),
        (r#"{"event_type":7,"source":"s","payload":1}"#, 422, "invalid-fields", "/event_type"),
        (r#"{"event_type":"a b","source":"s","payload":1}"#, 422, "invalid-fields", "/event_type"),
        (r#"{"event_type":"user.*","source":"s","payload":1}"#, 422, "invalid-fields", "/event_type"),
        (r#"{"event_type":"eventrail.ping","source":"s","payload":1}"#, 422, "invalid-fields", "/event_type"),
        (r#"{"event_type":"a.b","source":"s","payload":["\ud800"]}"#, 422, "invalid-fields", "/payload"),
        (r#"{"event_type":"a.b","source":"s","payload":{"a":1e400}}"#, 422, "invalid-fields", "/payload"),
        (r#"{"event_type":"a.b","source":"","payload":1}"#, 422, "invalid-fields", "/source"),
        (r#"{"event_type":"a.b","source":"é","payload":1}"#, 422, "invalid-fields", "/source"),
        (r#"{"event_type":"a.b","source":"s","payload":1,"typo":1}"#, 422, "invalid-fields", "/typo"),
        (
            r#"{"event_type":"a.b","source":"s","payload":1,"idempotency_key":"k"}"#,
            422,
            "invalid-fields",
            "/idempotency_key",
        ),
        (r#"{"event_type":"a.b","source":"s","source":"t","payload":1}"#, 422, "invalid-fields", ""),
        (r#"["a.b","s",1]"#, 422, "invalid-fields", ""),
        ("[]", 422, "invalid-fields", ""),
        ("null", 422, "invalid-fields", ""),
        ("\"text\"", 422, "invalid-fields", ""),
    ] {
        let reply = post_raw(api, "/events", body).await;
        assert_problem(&reply, status, slug);
        if status == 422 {
            assert_eq!(pointers(&reply), [pointer], "{body}: {}", reply.text);
        }
    }
    let invalid_utf8 = [GOOD.split_at(40).0.as_bytes(), b"\"\xff\"", b"}"].concat();
    assert_problem(&post_raw(api, "/events", invalid_utf8).await, 400, "invalid-json");
    let batch = format!(r#"{{"events":[{GOOD},{}]}}"#, GOOD.replace('1', "-1e999"));
    let batch = post_raw(api, "/events/batch", batch).await;
    assert_problem(&batch, 422, "invalid-fields");
    assert_eq!(pointers(&batch), ["/events/1/payload"]);
    let several = post_raw(api, "/events", r#"{"event_type":"eventrail"}"#).await;
    assert_eq!(pointers(&several), ["/source", "/payload", "/event_type"]);
    assert_eq!(state_of_the_record(&stack).await, before);
}

#[tokio::test]
async fn bodies_over_the_limit_are_refused_with_an_answer() {
    let stack = Stack::start().await;
    let server = Server::start_with(&stack, Options { max_event_bytes: 2000, ..Options::default() }).await;
    let api = &server.api;
    let before = state_of_the_record(&stack).await;
    let of = |length: usize| {
        let frame = r#"{"event_type":"a.b","source":"s","payload":""}"#.len();
        format!(r#"{{"event_type":"a.b","source":"s","payload":"{}"}}"#, "x".repeat(length - frame))
    };
    for length in [2001, 100_000, 5_000_000] {
        assert_problem(&post_raw(api, "/events", of(length)).await, 413, "body-too-large");
        // Without a length that is known beforehand.
        let chunks: Vec<Result<String, std::io::Error>> = of(length)
            .as_bytes()
            .chunks(700)
            .map(|chunk| Ok(String::from_utf8(chunk.into()).unwrap()))
            .collect();
        let body = reqwest::Body::wrap_stream(futures_util::stream::iter(chunks));
        assert_problem(&post_raw(api, "/events", body).await, 413, "body-too-large");
    }
    assert_eq!(state_of_the_record(&stack).await, before);
    let _ = post_raw(api, "/events", of(2000)).await.expect(201);
}

#[tokio::test]
async fn only_json_is_taken() {
    let stack = Stack::start().await;
    let Server { api, .. } = &Server::start(&stack).await;
    let before = state_of_the_record(&stack).await;
    for path in ["/events", "/events/batch", "/consumer-groups", "/consumer-groups/default/endpoints"] {
        for kind in ["text/plain", "application/x-www-form-urlencoded", "application/jsonx", ""] {
            let request = api.request("POST", path).header("content-type", kind).body(GOOD);
            assert_problem(&Api::send(request).await.unwrap(), 415, "unsupported-media-type");
        }
        let request = api.request("POST", path).body(GOOD);
        assert_problem(&Api::send(request).await.unwrap(), 415, "unsupported-media-type");
        let request = api.request("POST", path).header("content-type", "application/json");
        let request = request.header("content-encoding", "gzip").body(GOOD);
        assert_problem(&Api::send(request).await.unwrap(), 415, "unsupported-media-type");
    }
    assert_eq!(state_of_the_record(&stack).await, before);
    let request = api.request("POST", "/events").header("content-type", "Application/JSON; charset=utf-8");
    let _ = Api::send(request.body(GOOD)).await.unwrap().expect(201);
}

#[tokio::test]
async fn unusable_idempotency_keys_are_refused() {
    let stack = Stack::start().await;
    let Server { api, .. } = &Server::start(&stack).await;
    let before = state_of_the_record(&stack).await;
    let request = || api.request("POST", "/events").header("content-type", "application/json").body(GOOD);
    for key in [&b""[..], b"a b", b"\xc3\xa9", "x".repeat(256).as_bytes()] {
        let value = reqwest::header::HeaderValue::from_bytes(key).unwrap();
        let reply = Api::send(request().header("idempotency-key", value)).await.unwrap();
        assert_problem(&reply, 422, "invalid-idempotency-key");
    }
    let twice = request().header("idempotency-key", "a").header("idempotency-key", "b");
    assert_problem(&Api::send(twice).await.unwrap(), 422, "invalid-idempotency-key");
    assert_eq!(state_of_the_record(&stack).await, before);
    let longest = request().header("idempotency-key", "x".repeat(255));
    let _ = Api::send(longest).await.unwrap().expect(201);
}

#[tokio::test]
async fn unknown_paths_methods_and_parameters_are_refused() {
    let stack = Stack::start().await;
    let Server { api, .. } = &Server::start(&stack).await;
    assert_problem(&api.get("/nowhere").await, 404, "not-found");
    assert_problem(&api.get("/events/").await, 404, "not-found");
    let wrong_method = api.delete("/events").await;
    assert_problem(&wrong_method, 405, "method-not-allowed");
    assert_eq!(wrong_method.header("allow"), "POST,GET,HEAD");
    assert_problem(&api.post("/events?dry_run=1", &json!({})).await, 400, "invalid-query");
    for query in ["limt=5", "limit=0", "limit=501", "limit=x", "limit=1&limit=2", "cursor=nonsense"] {
        assert_problem(&api.get(&format!("/consumer-groups?{query}")).await, 400, "invalid-query");
        let path = format!("/consumer-groups/default/endpoints?{query}");
        assert_problem(&api.get(&path).await, 400, "invalid-query");
    }
    assert_problem(&api.get("/consumer-groups/default?x=1").await, 400, "invalid-query");
}
