//! `POST /events`, `GET /events/{id}`

use std::collections::HashSet;

use eventrail_core::testing::{Api, Stack};
use serde_json::json;

use crate::support::{Server, assert_problem, post_raw};

#[tokio::test]
async fn an_event_is_stored_and_can_be_read() {
    let stack = Stack::start().await;
    let Server { api, .. } = &Server::start(&stack).await;
    let body = json!({"event_type": "invoice.paid", "source": "bill\"ing\\1", "payload": {"n": 1}});
    let posted = api.post("/events", &body).await.expect(201);
    assert_eq!(posted.header("content-type"), "application/json");
    let id = posted.body["id"].as_str().unwrap();
    assert!(id.starts_with("evt_") && id.len() == 30, "{id}");
    assert_eq!(posted.body["event_type"], "invoice.paid");
    assert_eq!(posted.body["source"], "bill\"ing\\1");
    let created_at = posted.body["created_at"].as_str().unwrap();
    assert!(created_at.ends_with('Z') && created_at.len() == 27, "{created_at}");
    assert_eq!(posted.body.as_object().unwrap().len(), 4);

    let read = api.get(&format!("/events/{id}")).await.expect(200);
    assert_eq!(read.body["id"], id);
    assert_eq!(read.body["source"], "bill\"ing\\1");
    assert_eq!(read.body["created_at"], created_at);
    assert_eq!(read.body["payload"], json!({"n": 1}));
    assert!(read.body["position"].as_i64().unwrap() > 0);
}

#[tokio::test]
async fn a_payload_is_kept_byte_for_byte() {
    let stack = Stack::start().await;
    let Server { api, .. } = &Server::start(&stack).await;
    for payload in [
        r#"{"b":1, "a" : 1.0e+2,"a":2,   "ü":"\u00e9\ud83d\ude00\/" }"#,
        "[ 1,\n\t2 ]",
        "12345678901234567890123456789.000",
        "-0.0",
        "\"\\u0000\"",
        "null",
        "true",
        "\"\"",
        "{}",
    ] {
        let body = format!("{{ \"payload\" :  {payload}  , \"source\":\"s\",\"event_type\":\"a.b\"}}");
        let posted = post_raw(api, "/events", body).await.expect(201);
        let id = posted.body["id"].as_str().unwrap();
        let stored: Vec<u8> = sqlx::query_scalar("select payload from event order by position desc limit 1")
            .fetch_one(&stack.pool)
            .await
            .unwrap();
        assert_eq!(String::from_utf8(stored).unwrap(), payload);
        let read = api.get(&format!("/events/{id}")).await.expect(200);
        assert!(read.text.ends_with(&format!(",\"payload\":{payload}}}")), "{}", read.text);
    }
}

#[tokio::test]
async fn a_repeated_key_answers_the_first_event_again() {
    let stack = Stack::start().await;
    let Server { api, .. } = &Server::start(&stack).await;
    let post = async |key: &str, source: &str, n: i32| {
        api.post_event_once(key, "a.b", source, json!({ "n": n })).await.unwrap()
    };
    let first = post("k", "s", 1).await.expect(201);
    assert_eq!(first.header("idempotent-replayed"), "");
    let again = post("k", "s", 1).await.expect(200);
    assert_eq!(again.header("idempotent-replayed"), "true");
    assert_eq!(again.text, first.text, "the same body");

    let other = post("k", "s", 2).await;
    assert_problem(&other, 422, "idempotency-key-reused");
    assert_eq!(other.body["event_id"], first.body["id"]);
    assert_eq!(other.body.get("errors"), None);

    let elsewhere = post("k", "another", 1).await.expect(201);
    assert_ne!(elsewhere.body["id"], first.body["id"], "keys belong to their source");
    let events: i64 = sqlx::query_scalar("select count(*) from event").fetch_one(&stack.pool).await.unwrap();
    assert_eq!(events, 2);
}

#[tokio::test]
async fn twenty_posts_at_once_with_one_key_store_one_event() {
    let stack = Stack::start().await;
    let Server { api, .. } = &Server::start(&stack).await;
    let mut posts = tokio::task::JoinSet::new();
    for _ in 0..20 {
        let api = api.clone();
        posts.spawn(async move { api.post_event_once("k", "a.b", "s", json!({})).await.unwrap() });
    }
    let replies = posts.join_all().await;
    assert_eq!(replies.iter().filter(|reply| reply.status == 201).count(), 1);
    assert_eq!(replies.iter().filter(|reply| reply.status == 200).count(), 19);
    let bodies: HashSet<&str> = replies.iter().map(|reply| reply.text.as_str()).collect();
    assert_eq!(bodies.len(), 1, "{bodies:?}");
    let events: i64 = sqlx::query_scalar("select count(*) from event").fetch_one(&stack.pool).await.unwrap();
    assert_eq!(events, 1);
}

#[tokio::test]
async fn position_time_and_id_sort_alike() {
    let stack = Stack::start().await;
    let Server { api, .. } = &Server::start(&stack).await;
    let mut posts = tokio::task::JoinSet::new();
    for n in 0..200 {
        let api = api.clone();
        posts.spawn(async move { api.post_event("a.b", "s", json!(n)).await });
    }
    posts.join_all().await;
    let by = async |order: &str| -> Vec<uuid::Uuid> {
        let sql = match order {
            "id" => "select id from event order by id",
            "time" => "select id from event order by created_at",
            _ => "select id from event order by position",
        };
        sqlx::query_scalar(sql).fetch_all(&stack.pool).await.unwrap()
    };
    let by_position = by("position").await;
    assert_eq!(by_position.len(), 200);
    assert_eq!(by("id").await, by_position);
    assert_eq!(by("time").await, by_position);
}

#[tokio::test]
async fn unknown_and_malformed_ids_are_not_found() {
    let stack = Stack::start().await;
    let Server { api, .. } = &Server::start(&stack).await;
    for path in ["/events/evt_01h455vb4pex5vsknk084sn02q", "/events/1", "/events/%ff", "/events/a%2Fb"] {
        let reply = api.get(path).await;
        let (status, slug) = if path.ends_with("%ff") { (400, "bad-request") } else { (404, "not-found") };
        assert_problem(&reply, status, slug);
    }
}

#[tokio::test]
async fn a_stop_answers_what_was_under_way() {
    let stack = Stack::start().await;
    let server = Server::start(&stack).await;
    let api = server.api.clone();
    let mut lock = stack.pool.begin().await.unwrap();
    sqlx::query("select lock_log()").execute(&mut *lock).await.unwrap();
    let posting = tokio::spawn(async move { api.post_event("a.b", "s", json!({})).await });
    let waits = "select count(*) from pg_locks where locktype = 'advisory' and not granted";
    eventrail_core::testing::eventually(async || {
        let waiting: i64 = sqlx::query_scalar(waits).fetch_one(&stack.pool).await.unwrap();
        if waiting == 1 { Ok(()) } else { Err("the writer does not wait for the lock") }
    })
    .await;
    let stopping = tokio::spawn(server.stop());
    lock.rollback().await.unwrap();
    let id = posting.await.unwrap();
    stopping.await.unwrap();
    let stored: i64 = sqlx::query_scalar("select count(*) from event").fetch_one(&stack.pool).await.unwrap();
    assert_eq!(stored, 1, "{id}");
}

#[tokio::test]
async fn a_request_id_is_kept_if_it_is_a_plain_word() {
    let stack = Stack::start().await;
    let Server { api, .. } = &Server::start(&stack).await;
    let ask =
        async |id: &str| Api::send(api.request("GET", "/livez").header("x-request-id", id)).await.unwrap();
    assert_eq!(ask("abc-1.2").await.header("x-request-id"), "abc-1.2");
    for odd in ["a b", "\"x\"", &"x".repeat(65)] {
        assert_eq!(ask(odd).await.header("x-request-id").len(), 32);
    }
}
