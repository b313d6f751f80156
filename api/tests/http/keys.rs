//! `/api-keys`: made, listed, revoked; what a key in use is bound to.

use std::time::{Duration, Instant};

use eventrail_core::testing::{Api, Stack, eventually_within};
use serde_json::{Value, json};

use crate::support::{ADMIN, Options, Server, assert_problem, make_key, pointers, post_raw};

async fn server(stack: &Stack) -> Server {
    Server::start_with(stack, Options { admin_token: Some(ADMIN.into()), ..Options::default() }).await
}

#[tokio::test]
async fn a_key_is_shown_once_and_kept_as_its_hash() {
    let stack = Stack::start().await;
    let server = server(&stack).await;
    let admin = server.api.with_key(ADMIN);
    let body = json!({"name": "billing", "role": "producer", "sources": ["billing"], "rate_per_second": 100,
                      "expires_at": "2999-01-01T00:00:00+02:00"});
    let made = admin.post("/api-keys", &body).await.expect(201);
    let key = made.body["key"].as_str().unwrap().to_owned();
    assert!(key.starts_with("er_") && key.len() == 46, "{key}");
    assert_eq!(made.header("cache-control"), "no-store");
    assert_eq!(made.body["expires_at"], "2998-12-31T22:00:00.000000Z");
    let listed = admin.get("/api-keys").await.expect(200);
    assert!(!listed.text.contains(&key));
    let mut shown = made.body.clone();
    shown.as_object_mut().unwrap().remove("key");
    assert_eq!(listed.body["data"], json!([shown]));
    assert!(key.starts_with(shown["prefix"].as_str().unwrap()));
    let hash: Vec<u8> = sqlx::query_scalar("select hash from api_key").fetch_one(&stack.pool).await.unwrap();
    assert_eq!(hash, eventrail_core::key::hash(key.as_bytes()));
}

#[tokio::test]
async fn bad_keys_are_refused_with_their_fields() {
    let stack = Stack::start().await;
    let server = server(&stack).await;
    let admin = server.api.with_key(ADMIN);
    for (body, expected) in [
        (json!({}), vec!["/name", "/role"]),
        (json!({"name": "", "role": "operator"}), vec!["/name"]),
        (json!({"name": "a\nb", "role": "operator"}), vec!["/name"]),
        (json!({"name": "k", "role": "admin"}), vec!["/role"]),
        (json!({"name": "k", "role": "subscriber"}), vec!["/groups"]),
        (json!({"name": "k", "role": "subscriber", "groups": ["nowhere"]}), vec!["/groups/0"]),
        (json!({"name": "k", "role": "subscriber", "groups": ["A"]}), vec!["/groups/0"]),
        (json!({"name": "k", "role": "operator", "groups": ["default"]}), vec!["/groups"]),
        (json!({"name": "k", "role": "operator", "sources": ["s"]}), vec!["/sources"]),
        (json!({"name": "k", "role": "producer", "rate_per_second": 0}), vec!["/rate_per_second"]),
        (json!({"name": "k", "role": "producer", "expires_at": "2020-01-01T00:00:00Z"}), vec!["/expires_at"]),
        (json!({"name": "k", "role": "producer", "expires_at": "tomorrow"}), vec!["/expires_at"]),
        (
            json!({"name": "k", "role": "producer", "expires_at": "+10000-01-01T00:00:00Z"}),
            vec!["/expires_at"],
        ),
        (json!({"name": "k", "role": "producer", "scope": "all"}), vec!["/scope"]),
    ] {
        let reply = admin.post("/api-keys", &body).await;
        assert_problem(&reply, 422, "invalid-fields");
        assert_eq!(pointers(&reply), expected, "{body}");
    }
    let broken = post_raw(&admin, "/api-keys", "{").await;
    assert_problem(&broken, 400, "invalid-json");
    let keys: i64 = sqlx::query_scalar("select count(*) from api_key").fetch_one(&stack.pool).await.unwrap();
    assert_eq!(keys, 0);
}

#[tokio::test]
async fn a_revoked_key_stops_within_two_seconds_in_every_process() {
    let stack = Stack::start().await;
    let (here, elsewhere) = (server(&stack).await, server(&stack).await);
    let admin = here.api.with_key(ADMIN);
    let (id, key) = make_key(&admin, &json!({"name": "k", "role": "operator"})).await;
    for api in [&here.api, &elsewhere.api] {
        let _ = api.with_key(&key).get("/consumer-groups").await.expect(200);
    }
    let _ = admin.delete(&format!("/api-keys/{id}")).await.expect(204);
    let revoked = Instant::now();
    assert_problem(&here.api.with_key(&key).get("/consumer-groups").await, 401, "unauthorized");
    let other = elsewhere.api.with_key(&key);
    eventually_within(Duration::from_secs(2), async || match other.get("/consumer-groups").await.status {
        401 => Ok(()),
        status => Err(format!("still {status}")),
    })
    .await;
    assert!(revoked.elapsed() < Duration::from_secs(2));
    assert_problem(&admin.delete(&format!("/api-keys/{id}")).await, 404, "not-found");
    assert_problem(&admin.delete("/api-keys/key_1").await, 404, "not-found");
    assert_eq!(admin.get("/api-keys").await.body["data"], json!([]));
}

#[tokio::test]
async fn a_key_does_not_open_a_later_group_of_the_same_name() {
    let stack = Stack::start().await;
    let server = server(&stack).await;
    let admin = server.api.with_key(ADMIN);
    admin.create_group("team").await;
    admin.create_group("other").await;
    let of = |groups: Value| json!({"name": "k", "role": "subscriber", "groups": groups});
    let (_, only) = make_key(&admin, &of(json!(["team"]))).await;
    let (_, both) = make_key(&admin, &of(json!(["team", "other"]))).await;
    let _ = server.api.with_key(&both).get("/consumer-groups/team").await.expect(200);
    let _ = admin.delete("/consumer-groups/team").await.expect(204);
    admin.create_group("team").await;
    for (key, refused) in [(&only, 401), (&both, 404)] {
        let api = server.api.with_key(key);
        eventually_within(Duration::from_secs(10), async || {
            match api.get("/consumer-groups/team").await.status {
                status if status == refused => Ok(()),
                status => Err(format!("{status} instead of {refused}")),
            }
        })
        .await;
    }
    let _ = server.api.with_key(&both).get("/consumer-groups/other").await.expect(200);
}

#[tokio::test]
async fn slow_reads_are_given_up_and_lock_nobody_out() {
    let stack = Stack::start().await;
    let server = server(&stack).await;
    let admin = server.api.with_key(ADMIN);
    let event = admin.post_event("a.b", "s", json!(1)).await;
    let (_, key) = make_key(&admin, &json!({"name": "k", "role": "operator"})).await;
    let mut other = stack.pool.begin().await.unwrap();
    sqlx::query("set local idle_in_transaction_session_timeout = 0").execute(&mut *other).await.unwrap();
    sqlx::query("lock table event in access exclusive mode").execute(&mut *other).await.unwrap();
    let path = format!("/events/{event}");
    // As many as the API has connections for reads.
    let reads = futures_util::future::join_all((0..8).map(|_| admin.get(&path)));
    let change = async {
        eventually_within(Duration::from_secs(4), async || {
            let waiting: i64 = sqlx::query_scalar("select count(*) from pg_locks where not granted")
                .fetch_one(&stack.pool)
                .await
                .unwrap();
            if waiting >= 8 { Ok(()) } else { Err(format!("{waiting} reads wait")) }
        })
        .await;
        server.api.with_key(&key).post("/consumer-groups", &json!({"name": "meanwhile"})).await
    };
    let (reads, change) = tokio::join!(reads, change);
    let _ = change.expect(201);
    for read in &reads {
        assert_problem(read, 503, "timed-out");
        assert_eq!(read.header("retry-after"), "1");
    }
    other.rollback().await.unwrap();
    let _ = admin.get(&path).await.expect(200);
}

#[tokio::test]
async fn an_unknown_key_is_asked_for_again_after_a_while() {
    let stack = Stack::start().await;
    let server = server(&stack).await;
    let key = format!("er_{}", "A".repeat(43));
    let stranger = server.api.with_key(&key);
    for _ in 0..2 {
        assert_problem(&stranger.get("/consumer-groups").await, 401, "unauthorized");
    }
    assert_problem(&server.api.with_key("er_short").get("/consumer-groups").await, 401, "unauthorized");
    sqlx::query(
        "insert into api_key (id, name, role, hash, prefix) values ($1, 'k', 'operator', $2, 'er_AAAAA')",
    )
    .bind(eventrail_core::ids::KeyId::generate())
    .bind(eventrail_core::key::hash(key.as_bytes()))
    .execute(&stack.pool)
    .await
    .unwrap();
    eventually_within(Duration::from_secs(5), async || match stranger.get("/consumer-groups").await.status {
        200 => Ok(()),
        status => Err(format!("still {status}")),
    })
    .await;
}

#[tokio::test]
async fn an_expired_key_opens_nothing() {
    let stack = Stack::start().await;
    let server = server(&stack).await;
    let admin = server.api.with_key(ADMIN);
    let (_, key) =
        make_key(&admin, &json!({"name": "k", "role": "operator", "expires_at": "2999-01-01T00:00:00Z"}))
            .await;
    let _ = server.api.with_key(&key).get("/consumer-groups").await.expect(200);
    sqlx::query("update api_key set expires_at = now()").execute(&stack.pool).await.unwrap();
    let api = server.api.with_key(&key);
    eventually_within(Duration::from_secs(2), async || match api.get("/consumer-groups").await.status {
        401 => Ok(()),
        status => Err(format!("still {status}")),
    })
    .await;
}

#[tokio::test]
async fn a_key_used_too_often_is_asked_to_wait() {
    let stack = Stack::start().await;
    let server = server(&stack).await;
    let admin = server.api.with_key(ADMIN);
    let (_, slow) =
        make_key(&admin, &json!({"name": "slow", "role": "operator", "rate_per_second": 2})).await;
    let (_, free) = make_key(&admin, &json!({"name": "free", "role": "operator"})).await;
    let slow = server.api.with_key(slow);
    let mut refused = None;
    for _ in 0..20 {
        let reply = slow.get("/consumer-groups").await;
        if reply.status == 429 {
            refused = Some(reply);
            break;
        }
    }
    let refused = refused.expect("2 per second are fewer than 20 at once");
    assert_problem(&refused, 429, "too-fast");
    assert_eq!(refused.header("retry-after"), "1");
    let _ = server.api.with_key(free).get("/consumer-groups").await.expect(200);
    eventually_within(Duration::from_secs(3), async || match slow.get("/consumer-groups").await.status {
        200 => Ok(()),
        status => Err(format!("still {status}")),
    })
    .await;
}

#[tokio::test]
async fn a_producer_sends_and_reads_its_own_sources_only() {
    let stack = Stack::start().await;
    let server = server(&stack).await;
    let admin = server.api.with_key(ADMIN);
    let (_, key) =
        make_key(&admin, &json!({"name": "billing", "role": "producer", "sources": ["billing"]})).await;
    let producer = server.api.with_key(key);
    let event = |source: &str| json!({"event_type": "a.b", "source": source, "payload": 1});
    let own = producer.post("/events", &event("billing")).await.expect(201);
    assert_problem(&producer.post("/events", &event("shipping")).await, 403, "forbidden");
    let batch = json!({"events": [event("billing"), event("shipping")]});
    assert_problem(&producer.post("/events/batch", &batch).await, 403, "forbidden");
    let other = admin.post_event("a.b", "shipping", json!(1)).await;
    let _ = producer.get(&format!("/events/{}", own.body["id"].as_str().unwrap())).await.expect(200);
    assert_problem(&producer.get(&format!("/events/{other}")).await, 404, "not-found");
    let events: i64 = sqlx::query_scalar("select count(*) from event").fetch_one(&stack.pool).await.unwrap();
    assert_eq!(events, 2);
    let (_, key) = make_key(&admin, &json!({"name": "any", "role": "producer"})).await;
    let unbound = server.api.with_key(key);
    let _ = unbound.post("/events", &event("shipping")).await.expect(201);
    let _ = unbound.get(&format!("/events/{other}")).await.expect(200);
}

#[tokio::test]
async fn every_change_is_in_the_audit_log_and_no_refusal_is() {
    let stack = Stack::start().await;
    let server = server(&stack).await;
    let admin = server.api.with_key(ADMIN);
    let (key_id, key) = make_key(&admin, &json!({"name": "k", "role": "operator"})).await;
    let operator = server.api.with_key(key);
    operator.create_group("team").await;
    let endpoint =
        operator.create_endpoint_with("team", &json!({"url": "http://127.0.0.1:9/?token=hunter2"})).await;
    let path = format!("/consumer-groups/team/endpoints/{}", endpoint.id);
    let _ = operator.get(&format!("{path}/secret")).await.expect(200);
    let _ = operator.post("/consumer-groups", &json!({"name": "team"})).await.expect(409);
    let _ = operator.delete("/consumer-groups/default").await.expect(409);
    let _ = operator.get(&path).await.expect(200);
    let _ = operator.delete(&path).await.expect(204);
    let _ = operator.delete("/consumer-groups/team").await.expect(204);
    let _ = admin.delete(&format!("/api-keys/{key_id}")).await.expect(204);

    let log = admin.get("/audit-log").await.expect(200);
    let entries = log.body["data"].as_array().unwrap();
    let view = |entry: &Value| {
        let text = |field: &str| entry[field].as_str().unwrap().to_owned();
        (text("actor"), text("action"), text("subject"))
    };
    let of = |actor: &str, action: &str, subject: String| (actor.to_owned(), action.to_owned(), subject);
    let on_endpoint = format!("team/{}", endpoint.id);
    assert_eq!(
        entries.iter().rev().map(view).collect::<Vec<_>>(),
        [
            of("admin", "create_api_key", key_id.clone()),
            of(&key_id, "create_group", "team".into()),
            of(&key_id, "create_endpoint", on_endpoint.clone()),
            of(&key_id, "get_endpoint_secret", on_endpoint.clone()),
            of(&key_id, "delete_endpoint", on_endpoint),
            of(&key_id, "delete_group", "team".into()),
            of("admin", "delete_api_key", key_id.clone()),
        ]
    );
    assert!(entries.iter().all(|entry| entry["address"] == "127.0.0.1"));
    assert!(!log.text.contains("hunter2") && !log.text.contains(&endpoint.secret));

    let mut seen = 0;
    let mut path = "/audit-log?limit=3".to_owned();
    loop {
        let page: Value = Api::send(admin.request("GET", &path)).await.unwrap().expect(200).body;
        seen += page["data"].as_array().unwrap().len();
        let Some(cursor) = page["next_cursor"].as_str() else { break };
        path = format!("/audit-log?limit=3&cursor={cursor}");
    }
    assert_eq!(seen, 7);
}
