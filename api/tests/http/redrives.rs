//! `/dead-letters/redrive`

use eventrail_core::testing::{Api, Stack};
use serde_json::{Value, json};

use crate::support::{ADMIN, Options, Server, assert_problem, make_key, pointers, record};

async fn redrive(api: &Api, body: Value) -> Value {
    api.post("/dead-letters/redrive", &body).await.expect(202).body
}

#[tokio::test]
async fn a_redrive_has_a_feed_for_each_endpoint_with_dead_letters() {
    let stack = Stack::start().await;
    let Server { api, .. } = &Server::start(&stack).await;
    api.create_group("other").await;
    let first = api.create_endpoint("default", "http://127.0.0.1:9/1").await.id;
    let second = api.create_endpoint("default", "http://127.0.0.1:9/2").await.id;
    let other = api.create_endpoint("other", "http://127.0.0.1:9/").await.id;
    let gone = api.create_endpoint("other", "http://127.0.0.1:9/2").await.id;
    let mut events = Vec::new();
    for (event_type, endpoint, error) in [
        ("a.x", &first, "503"),
        ("a.x", &second, "timeout"),
        ("b", &first, "timeout"),
        ("b", &other, "503"),
        ("b", &gone, "503"),
        ("c", &first, "cancelled"),
    ] {
        let event = api.post_event(event_type, "s", json!(1)).await;
        record(&stack, (&event, endpoint), "dead", error, None).await;
        events.push(event);
    }
    let _ = api.delete(&format!("/consumer-groups/other/endpoints/{gone}")).await.expect(204);
    for (body, matched, endpoints) in [
        (json!({}), 4, 3),
        (json!({"group": "*"}), 4, 3),
        (json!({"group": "default"}), 3, 2),
        (json!({"endpoint_id": first}), 2, 1),
        (json!({"error": "timeout"}), 2, 2),
        (json!({"group": "default", "event_type": "a.*", "error": "503"}), 1, 1),
        (json!({"error": "cancelled"}), 1, 1),
        (json!({"error": "dns"}), 0, 0),
    ] {
        let mut dry = body.clone();
        dry["dry_run"] = true.into();
        let dry = api.post("/dead-letters/redrive", &dry).await.expect(200).body;
        assert_eq!((&dry["matched"], &dry["endpoints"]), (&json!(matched), &json!(endpoints)), "{body}");
        assert!(dry["sample"].is_array());
        let replay = redrive(api, body.clone()).await;
        assert_eq!((&replay["kind"], &replay["matched"]), (&json!("redrive"), &json!(matched)), "{body}");
        let status = if matched == 0 { "done" } else { "running" };
        assert_eq!((&replay["status"], &replay["owed"]), (&json!(status), &json!(matched)), "{body}");
        assert_eq!(replay["error"], body["error"], "{body}");
    }
    let feeds: Vec<(String, bool, bool)> = sqlx::query_as(
        "select v.event_type, f.to_position = f.ask, f.resend_id is null
         from replay r join feed f on f.replay_id = r.id join event v on v.position = f.from_position + 1
         where r.error = 'timeout' order by f.from_position",
    )
    .fetch_all(&stack.pool)
    .await
    .unwrap();
    assert_eq!(feeds, [("a.x".to_owned(), true, true), ("b".to_owned(), true, true)]);
    let replays = api.get("/replays?kind=redrive&group=default").await.expect(200).body;
    assert_eq!(replays["data"].as_array().unwrap().len(), 3);
    let audit = api.get("/audit-log?limit=1").await.expect(200).body;
    assert_eq!(audit["data"][0]["action"], "redrive_dead_letters");
    assert_eq!(audit["data"][0]["detail"]["error"], "dns");
}

#[tokio::test]
async fn progress_of_a_redrive_counts_its_rows() {
    let stack = Stack::start().await;
    let Server { api, .. } = &Server::start(&stack).await;
    let endpoint = api.create_endpoint("default", "http://127.0.0.1:9/").await.id;
    let mut events = Vec::new();
    for n in 0..4 {
        let event = api.post_event("a", "s", json!(n)).await;
        record(&stack, (&event, &endpoint), "dead", "503", None).await;
        events.push(event);
    }
    let id = redrive(api, json!({})).await["id"].as_str().unwrap().to_owned();
    let figures = async || {
        let replay = api.get(&format!("/replays/{id}")).await.expect(200).body;
        let names = ["published", "delivered", "retrying", "dead", "skipped"];
        names.map(|name| replay[name].as_i64().unwrap())
    };
    assert_eq!(figures().await, [0; 5]);
    record(&stack, (&events[0], &endpoint), "delivered", "503", Some(&id)).await;
    record(&stack, (&events[1], &endpoint), "retrying", "503", Some(&id)).await;
    assert_eq!(figures().await, [2, 1, 1, 0, 0]);
    record(&stack, (&events[1], &endpoint), "dead", "503", Some(&id)).await;
    // The third is tried by hand meanwhile.
    record(&stack, (&events[2], &endpoint), "delivered", "503", None).await;
    record(&stack, (&events[3], &endpoint), "delivered", "503", Some(&id)).await;
    assert_eq!(figures().await, [3, 2, 0, 1, 0]);
    sqlx::query("update feed set status = 'done', settled_position = to_position where kind = 'redrive'")
        .execute(&stack.pool)
        .await
        .unwrap();
    for _ in 0..2 {
        assert_eq!(figures().await, [4, 2, 0, 1, 1]);
    }
}

#[tokio::test]
async fn a_redrive_that_can_t_be_is_refused() {
    let stack = Stack::start().await;
    let options = Options { admin_token: Some(ADMIN.into()), ..Options::default() };
    let server = Server::start_with(&stack, options).await;
    let admin = server.api.with_key(ADMIN);
    for group in ["ours", "theirs"] {
        admin.create_group(group).await;
    }
    let ours = admin.create_endpoint("ours", "http://127.0.0.1:9/").await.id;
    let theirs = admin.create_endpoint("theirs", "http://127.0.0.1:9/").await.id;
    for (body, pointer) in [
        (json!({"rate_per_second": 100_001}), "/rate_per_second"),
        (json!({"error": "5 xx"}), "/error"),
        (json!({"group": ""}), "/group"),
        (json!({"endpoint_id": "x"}), "/endpoint_id"),
        (json!({"event_type": "a."}), "/event_type"),
        (json!({"limit": 5}), "/limit"),
    ] {
        let reply = admin.post("/dead-letters/redrive", &body).await;
        assert_problem(&reply, 422, "invalid-fields");
        assert_eq!(pointers(&reply), [pointer], "{body}");
    }
    let one = json!({"name": "one", "role": "subscriber", "groups": ["ours"]});
    let one = server.api.with_key(make_key(&admin, &one).await.1);
    let two = json!({"name": "two", "role": "subscriber", "groups": ["ours", "default"]});
    let two = server.api.with_key(make_key(&admin, &two).await.1);
    for (api, body, status) in [
        (&one, json!({}), 202),
        (&one, json!({"endpoint_id": ours}), 202),
        (&one, json!({"group": "*"}), 403),
        (&one, json!({"group": "theirs"}), 404),
        (&one, json!({"endpoint_id": theirs}), 404),
        (&two, json!({}), 422),
        (&two, json!({"group": "ours"}), 202),
        (&admin, json!({"group": "nowhere"}), 404),
    ] {
        let reply = api.post("/dead-letters/redrive", &body).await.expect(status);
        assert!(status != 202 || reply.body["group"] == "ours", "{}", reply.text);
    }
}
