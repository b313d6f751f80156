//! Servers that go away.

use eventrail_core::db;
use eventrail_core::testing::{CuttingProxy, Stack, eventually};
use serde_json::json;

use crate::support::{Options, Server, assert_problem, post_raw};

#[tokio::test]
async fn without_redis_events_are_accepted_all_the_same() {
    let mut stack = Stack::start().await;
    let Server { api, .. } = &Server::start(&stack).await;
    assert_eq!(
        api.get("/health").await.expect(200).body,
        json!({"status": "ok", "postgres": "ok", "redis": "ok"})
    );
    stack.redis.kill().await;
    api.post_event("a.b", "s", json!({})).await;
    api.create_endpoint("default", "http://127.0.0.1:9/").await;
    let health = api.get("/health").await.expect(503);
    assert_eq!(health.body, json!({"status": "degraded", "postgres": "ok", "redis": "unavailable"}));
    let _ = api.get("/readyz").await.expect(200);
    let _ = api.get("/livez").await.expect(200);
    stack.redis.restart().await.unwrap();
    eventually(async || match api.get("/health").await.status {
        200 => Ok(()),
        status => Err(status),
    })
    .await;
}

#[tokio::test]
async fn a_redis_that_answers_but_takes_nothing_is_not_well() {
    let stack = Stack::start().await;
    let Server { api, .. } = &Server::start(&stack).await;
    let mut redis = stack.redis_connection().await;
    for (maxmemory, status, is) in [("1", 503, "unavailable"), ("0", 200, "ok")] {
        let setting = ["SET", "maxmemory", maxmemory];
        redis::cmd("CONFIG").arg(&setting).exec_async(&mut redis).await.unwrap();
        assert_eq!(api.get("/health").await.expect(status).body["redis"], is);
    }
}

#[tokio::test]
async fn a_postgres_that_takes_no_writes_is_not_ready() {
    let stack = Stack::start().await;
    // As every session of a standby is.
    let read_only = "alter database eventrail set default_transaction_read_only = on";
    sqlx::query(read_only).execute(&stack.pool).await.unwrap();
    let Server { api, .. } = &Server::start(&stack).await;
    let refused = api.get("/readyz").await;
    assert_problem(&refused, 503, "unavailable");
    assert!(refused.text.contains("standby"), "{}", refused.text);
    assert_eq!(api.get("/health").await.expect(503).body["postgres"], "unavailable");
    let event = json!({ "event_type": "a.b", "source": "s", "payload": 1 });
    assert_problem(&api.post("/events", &event).await, 503, "unavailable");
}

#[tokio::test]
async fn redis_may_be_away_at_the_start() {
    let mut stack = Stack::start().await;
    stack.redis.kill().await;
    let Server { api, .. } = &Server::start(&stack).await;
    api.post_event("a.b", "s", json!({})).await;
    let _ = api.get("/readyz").await.expect(200);
}

#[tokio::test]
async fn without_postgres_requests_get_503_and_afterwards_all_works_again() {
    let mut stack = Stack::start().await;
    let Server { api, .. } = &Server::start(&stack).await;
    let first = api.post_event_once("k", "a.b", "s", json!(1)).await.unwrap().expect(201);
    stack.postgres.kill().await;
    for _ in 0..3 {
        let refused = api.post_event_once("k2", "a.b", "s", json!(2)).await.unwrap();
        assert!(
            refused.body["type"] == "/problems#unavailable"
                || refused.body["type"] == "/problems#outcome-unknown"
        );
        assert_problem(
            &refused,
            503,
            refused.body["type"].as_str().unwrap().strip_prefix("/problems#").unwrap(),
        );
        assert_eq!(refused.header("retry-after"), "1");
    }
    assert_problem(&api.get("/consumer-groups").await, 503, "unavailable");
    assert_problem(&api.get("/readyz").await, 503, "unavailable");
    assert_eq!(api.get("/health").await.expect(503).body["postgres"], "unavailable");
    let _ = api.get("/livez").await.expect(200);
    stack.postgres.restart().await.unwrap();
    let stored = eventually(async || {
        let reply = api.post_event_once("k2", "a.b", "s", json!(2)).await.unwrap();
        if reply.status < 300 { Ok(reply) } else { Err(reply.text) }
    })
    .await;
    assert_eq!(stored.status, 201);
    let again = api.post_event_once("k", "a.b", "s", json!(1)).await.unwrap().expect(200);
    assert_eq!(again.text, first.text);
    let _ = api.get("/readyz").await.expect(200);
}

#[tokio::test]
async fn a_commit_without_its_answer_is_never_a_success_and_its_repetition_finds_it() {
    let stack = Stack::start().await;
    let (proxy, url) = CuttingProxy::for_url(&stack.postgres.url()).await;
    let Server { api, .. } =
        &Server::start_with(&stack, Options { database_url: Some(url), ..Options::default() }).await;
    let _ = api.post_event_once("before", "a.b", "s", json!(0)).await.unwrap().expect(201);
    proxy.swallow_answers();
    let posting = {
        let api = api.clone();
        tokio::spawn(async move { api.post_event_once("k", "a.b", "s", json!(1)).await.unwrap() })
    };
    eventually(async || {
        let stored: i64 =
            sqlx::query_scalar("select count(*) from event").fetch_one(&stack.pool).await.unwrap();
        if stored == 2 { Ok(()) } else { Err(format!("{stored} events")) }
    })
    .await;
    proxy.cut();
    let reply = posting.await.unwrap();
    assert_problem(&reply, 503, "outcome-unknown");
    proxy.mend();
    let again = eventually(async || {
        let reply = api.post_event_once("k", "a.b", "s", json!(1)).await.unwrap();
        if reply.status == 503 { Err(reply.text) } else { Ok(reply) }
    })
    .await;
    assert_eq!(again.expect(200).header("idempotent-replayed"), "true");
}

/// The bytes that may wait are bounded; what is too much is refused at once, the rest is stored.
#[tokio::test]
async fn when_too_much_waits_the_rest_is_refused_and_what_waited_is_stored() {
    let stack = Stack::start().await;
    let Server { api, .. } = &Server::start(&stack).await;
    let mut lock = stack.pool.begin().await.unwrap();
    // Slow machines take more than the seconds that a session may rest inside a transaction.
    let patience = "set local idle_in_transaction_session_timeout = 0";
    sqlx::query(patience).execute(&mut *lock).await.unwrap();
    sqlx::query("select lock_log()").execute(&mut *lock).await.unwrap();
    // Room is counted by requests' bytes. Blanks cost little to read: the writer gives a commit up after some
    // seconds, and all must wait for it by then.
    let body = json!({"events": [{"event_type": "a.b", "source": "s", "payload": 1}]});
    let body = format!("{body}{}", " ".repeat(7 << 20));
    let mut posts = tokio::task::JoinSet::new();
    for _ in 0..12 {
        let (api, body) = (api.clone(), body.clone());
        posts.spawn(async move { post_raw(&api, "/events/batch", body).await });
    }
    let mut refused = 0;
    while refused < 12 - 9 {
        let reply = posts.join_next().await.unwrap().unwrap();
        assert_problem(&reply, 503, "overloaded");
        assert_eq!(reply.header("retry-after"), "1");
        refused += 1;
    }
    lock.rollback().await.unwrap();
    while let Some(reply) = posts.join_next().await {
        let _ = reply.unwrap().expect(200);
    }
    let events: i64 = sqlx::query_scalar("select count(*) from event").fetch_one(&stack.pool).await.unwrap();
    assert_eq!(events, 9, "as many as fit into the room");
}

#[tokio::test]
async fn an_older_schema_is_not_ready() {
    let stack = Stack::start().await;
    let Server { api, .. } = &Server::start(&stack).await;
    let last =
        "update _sqlx_migrations set version = 0 where version = (select max(version) from _sqlx_migrations)";
    sqlx::query(last).execute(&stack.pool).await.unwrap();
    assert!(!db::migrate::is_current(&stack.pool).await.unwrap());
    assert_problem(&api.get("/readyz").await, 503, "unavailable");
}
