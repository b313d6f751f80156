//! What is changed of groups and endpoints: PATCH, pause, enable, disable, secrets, tries by hand.

use eventrail_core::ids::{EndpointId, EventId};
use eventrail_core::testing::{Api, Reply, Stack};
use serde_json::{Value, json};

use crate::support::{Server, assert_problem, pointers};

const PATH: &str = "/consumer-groups/default/endpoints";

async fn patch(api: &Api, path: &str, body: &Value) -> Reply {
    let request = api.request("PATCH", path).header("content-type", "application/merge-patch+json");
    Api::send(request.body(body.to_string())).await.unwrap()
}

async fn act(api: &Api, path: &str) -> Reply {
    Api::send(api.request("POST", path)).await.unwrap()
}

#[tokio::test]
async fn a_group_is_patched_and_its_endpoints_are_read_again() {
    let stack = Stack::start().await;
    let Server { api, .. } = &Server::start(&stack).await;
    let group = "/consumer-groups/default";
    let _ = api.create_endpoint("default", "http://127.0.0.1:9/").await;
    let version = "select version from endpoint";
    let before: i64 = sqlx::query_scalar(version).fetch_one(&stack.pool).await.unwrap();
    let retry = json!({"max_retries": 3, "base_backoff_ms": 10});
    let changed = patch(api, group, &json!({"description": "all", "retry": retry})).await.expect(200).body;
    assert_eq!((&changed["description"], &changed["retry"]), (&json!("all"), &retry));
    let merged = patch(api, group, &json!({"retry": {"max_retries": null}})).await.expect(200).body;
    assert_eq!((&merged["description"], &merged["retry"]), (&json!("all"), &json!({"base_backoff_ms": 10})));
    let back = patch(api, group, &json!({"description": null, "retry": null})).await.expect(200).body;
    assert_eq!((&back["description"], &back["retry"]), (&json!(""), &Value::Null));
    let after: i64 = sqlx::query_scalar(version).fetch_one(&stack.pool).await.unwrap();
    assert!(after >= before + 3, "dispatchers see each change");

    for (body, pointer) in [
        (json!({"name": "other"}), "/name"),
        (json!({"description": 7}), "/description"),
        (json!({"description": "\0"}), "/description"),
        (json!({"retry": {"max_retries": 51}}), "/retry"),
        (json!([]), ""),
    ] {
        let reply = patch(api, group, &body).await;
        assert_problem(&reply, 422, "invalid-fields");
        assert_eq!(pointers(&reply), [pointer], "{body}");
    }
    assert_problem(&patch(api, "/consumer-groups/nowhere", &json!({})).await, 404, "not-found");
    let typed = api.request("PATCH", group).header("content-type", "text/plain").body("{}");
    assert_problem(&Api::send(typed).await.unwrap(), 415, "unsupported-media-type");
}

#[tokio::test]
async fn a_group_is_paused_and_resumed_any_number_of_times() {
    let stack = Stack::start().await;
    let Server { api, .. } = &Server::start(&stack).await;
    let group = "/consumer-groups/default";
    for (action, paused) in [("pause", true), ("pause", true), ("resume", false), ("resume", false)] {
        let reply = act(api, &format!("{group}/{action}")).await.expect(200);
        assert_eq!(reply.body["paused"], paused);
        assert_eq!(api.get(group).await.body["paused"], paused);
    }
    for action in ["pause", "resume"] {
        assert_problem(&act(api, &format!("/consumer-groups/nowhere/{action}")).await, 404, "not-found");
        let query = act(api, &format!("{group}/{action}?for=ever")).await;
        assert_problem(&query, 400, "invalid-query");
    }
}

#[tokio::test]
async fn figures_say_how_far_a_group_is_behind_and_why() {
    let stack = Stack::start().await;
    let Server { api, .. } = &Server::start(&stack).await;
    let group = "/consumer-groups/default";
    let idle = api.get(group).await.expect(200).body;
    for field in ["head", "lag", "pending", "retrying", "dead", "parked", "expired", "dispatchers_alive"] {
        assert_eq!(idle[field], 0, "{field}");
    }
    assert_eq!(idle["oldest_unsettled_at"], Value::Null);
    assert_eq!(idle["stalled_because"], Value::Null);
    let endpoint = api.create_endpoint("default", "http://127.0.0.1:9/").await;
    let event = api.post_event("a.b", "s", json!(1)).await;
    api.post_event("a.b", "s", json!(2)).await;
    let posted = api.get(&format!("/events/{event}")).await.body;
    let behind = api.get(group).await.body;
    assert_eq!((&behind["lag"], &behind["oldest_unsettled_at"]), (&json!(2), &posted["created_at"]));
    assert_eq!(behind["stalled_because"], "no_dispatcher");
    let sql = "insert into dispatcher values ('d', now())";
    sqlx::query(sql).execute(&stack.pool).await.unwrap();
    assert_eq!(api.get(group).await.body["stalled_because"], "no_relay");
    let sql = "insert into relay_lease (holder, expires_at) values ('d', now() + interval '1 minute')";
    sqlx::query(sql).execute(&stack.pool).await.unwrap();
    let fine = api.get(group).await.body;
    assert_eq!((&fine["dispatchers_alive"], &fine["stalled_because"]), (&json!(1), &Value::Null));
    let _ = act(api, &format!("{PATH}/{}/disable", endpoint.id)).await.expect(200);
    assert_eq!(api.get(group).await.body["stalled_because"], "endpoints_unavailable");
    let _ = act(api, &format!("{group}/pause")).await.expect(200);
    assert_eq!(api.get(group).await.body["stalled_because"], "paused");
    for (status, next) in [("dead", "null"), ("retrying", "now()"), ("pending", "now()")] {
        insert_delivery(&stack, &EventId::generate().to_string(), &endpoint.id, status, next).await;
        assert_eq!(api.get(group).await.body[status], 1);
    }
    insert_delivery(&stack, &event, &endpoint.id, "delivered", "null").await;
    assert!(api.get(group).await.body["last_delivered_at"].is_string());
}

async fn insert_delivery(stack: &Stack, event: &str, endpoint: &str, status: &str, next: &str) {
    let sql = format!(
        "insert into delivery (event_id, endpoint_id, group_id, feed_id, ask, status, attempt_count,
                               attempt_total, next_attempt_at)
         values ($1, $2, 1, 1, 1, '{status}', 1, 1, {next})"
    );
    sqlx::query(sqlx::AssertSqlSafe(sql))
        .bind(event.parse::<EventId>().unwrap())
        .bind(endpoint.parse::<EndpointId>().unwrap())
        .execute(&stack.pool)
        .await
        .unwrap();
}

#[tokio::test]
async fn an_endpoint_is_patched_member_by_member() {
    let stack = Stack::start().await;
    let Server { api, .. } = &Server::start(&stack).await;
    let body = json!({"url": "http://127.0.0.1:9/", "headers": {"x-a": "1", "x-b": "2"}, "timeout_ms": 500,
                      "rate_per_second": 10, "retry": {"schedule_seconds": [1, 2]}});
    let made = api.post(PATH, &body).await.expect(201).body;
    assert_eq!(made["rate_per_second"], 10);
    let path = format!("{PATH}/{}", made["id"].as_str().unwrap());
    let changes = json!({"headers": {"x-a": null, "x-c": "3"}, "timeout_ms": null, "rate_per_second": 20,
                         "retry": {"schedule_seconds": null, "max_retries": 1}, "description": "new"});
    let changed = patch(api, &path, &changes).await.expect(200).body;
    let mut expected = made.clone();
    expected.as_object_mut().unwrap().remove("secret");
    for (member, value) in [
        ("headers", json!({"x-b": "2", "x-c": "3"})),
        ("timeout_ms", Value::Null),
        ("rate_per_second", json!(20)),
        ("retry", json!({"max_retries": 1})),
        ("description", json!("new")),
        ("updated_at", changed["updated_at"].clone()),
    ] {
        expected[member] = value;
    }
    assert_eq!(changed, expected);
    assert_eq!(api.get(&path).await.body, expected);

    for (body, pointer) in [
        (json!({"url": null}), "/url"),
        (json!({"url": "http://10.0.0.1/"}), "/url"),
        (json!({"secret": "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw"}), "/secret"),
        (json!({"status": "active"}), "/status"),
        (json!({"rate_per_second": 0}), "/rate_per_second"),
        (json!({"headers": {"host": "x"}}), "/headers"),
        (json!({"event_types": ["*.a"]}), "/event_types/0"),
        (json!({"auth": {"type": "digest"}}), "/auth"),
    ] {
        let reply = patch(api, &path, &body).await;
        assert_problem(&reply, 422, "invalid-fields");
        assert!(pointers(&reply)[0].starts_with(pointer), "{body} {}", reply.text);
    }
    assert_eq!(api.get(&path).await.body, expected);
    let other = api.create_endpoint("default", "http://127.0.0.1:9/other").await;
    let taken = patch(api, &path, &json!({"url": "http://127.0.0.1:9/other"})).await;
    assert_problem(&taken, 409, "url-taken");
    assert_eq!(taken.body["endpoint_id"], other.id);
    let unknown = format!("{PATH}/ep_01h455vb4pex5vsknk084sn02q");
    assert_problem(&patch(api, &unknown, &json!({})).await, 404, "not-found");
}

#[tokio::test]
async fn another_filter_holds_for_events_after_it_only() {
    let stack = Stack::start().await;
    let Server { api, .. } = &Server::start(&stack).await;
    let body = json!({"url": "http://127.0.0.1:9/", "event_types": ["user.*"]});
    let endpoint = api.create_endpoint_with("default", &body).await;
    let path = format!("{PATH}/{}", endpoint.id);
    let before =
        [api.post_event("user.a", "s", json!(1)).await, api.post_event("order.a", "s", json!(1)).await];
    let _ = patch(api, &path, &json!({"event_types": ["order.*"]})).await.expect(200);
    let _ = patch(api, &path, &json!({"description": "same filter"})).await.expect(200);
    let after =
        [api.post_event("user.a", "s", json!(1)).await, api.post_event("order.a", "s", json!(1)).await];
    let mut owed = Vec::new();
    for event in before.iter().chain(&after) {
        let reply = api.get(&format!("/events/{event}/deliveries")).await.expect(200);
        owed.push(reply.body["data"].as_array().unwrap().len());
    }
    assert_eq!(owed, [1, 0, 0, 1]);
    let intervals: Vec<(i64, Option<i64>)> =
        sqlx::query_as("select from_position, to_position from subscription order by from_position")
            .fetch_all(&stack.pool)
            .await
            .unwrap();
    let [(_, Some(end)), (start, None)] = intervals.as_slice() else { panic!("{intervals:?}") };
    assert_eq!(end, start, "no position lies between the two");
}

#[tokio::test]
async fn changes_at_the_same_time_are_all_made() {
    let stack = Stack::start().await;
    let Server { api, .. } = &Server::start(&stack).await;
    let endpoint = api.create_endpoint("default", "http://127.0.0.1:9/").await;
    let path = format!("{PATH}/{}", endpoint.id);
    let mut changing = tokio::task::JoinSet::new();
    for n in 0..6 {
        let (api, path) = (api.clone(), path.clone());
        changing.spawn(async move { patch(&api, &path, &json!({"headers": {format!("x-{n}"): "1"}})).await });
    }
    for reply in changing.join_all().await {
        let _ = reply.expect(200);
    }
    assert_eq!(api.get(&path).await.body["headers"].as_object().unwrap().len(), 6);
}

#[tokio::test]
async fn credentials_are_kept_sealed_and_shown_in_part() {
    let stack = Stack::start().await;
    let Server { api, .. } = &Server::start(&stack).await;
    let body = json!({"url": "http://127.0.0.1:9/",
                      "auth": {"type": "basic", "username": "me", "password": "hunter2hunter2"}});
    let made = api.post(PATH, &body).await.expect(201);
    assert_eq!(made.body["auth"], json!({"type": "basic", "username": "me"}));
    let path = format!("{PATH}/{}", made.body["id"].as_str().unwrap());
    let bearer = json!({"auth": {"type": "bearer", "token": "hunter2hunter2"}});
    assert_eq!(patch(api, &path, &bearer).await.expect(200).body["auth"], json!({"type": "bearer"}));
    let kept = patch(api, &path, &json!({"description": "x"})).await.expect(200);
    assert_eq!(kept.body["auth"], json!({"type": "bearer"}));
    let both = patch(api, &path, &json!({"headers": {"authorization": "x"}})).await;
    assert_problem(&both, 422, "invalid-fields");
    let sealed: Vec<u8> =
        sqlx::query_scalar("select auth from endpoint").fetch_one(&stack.pool).await.unwrap();
    assert!(!sealed.windows(7).any(|part| part == b"hunter2"));
    let gone = patch(api, &path, &json!({"auth": null})).await.expect(200);
    assert_eq!(gone.body["auth"], Value::Null);
}

#[tokio::test]
async fn secrets_are_rotated_with_a_grace() {
    let stack = Stack::start().await;
    let Server { api, .. } = &Server::start(&stack).await;
    let endpoint = api.create_endpoint("default", "http://127.0.0.1:9/").await;
    let path = format!("{PATH}/{}/secret", endpoint.id);
    let given = "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw";
    let rotated = api.post(&format!("{path}/rotate"), &json!({"secret": given})).await.expect(200);
    assert_eq!(rotated.header("cache-control"), "no-store");
    let secrets = rotated.body["secrets"].as_array().unwrap();
    assert_eq!((&secrets[0]["secret"], &secrets[0]["expires_at"]), (&json!(given), &Value::Null));
    assert_eq!(secrets[1]["secret"], endpoint.secret);
    assert!(secrets[1]["expires_at"].is_string());
    assert_eq!(api.get(&path).await.body, rotated.body);
    let at_once = api.post(&format!("{path}/rotate"), &json!({"grace_seconds": 0})).await.expect(200);
    let secrets = at_once.body["secrets"].as_array().unwrap();
    assert_eq!(secrets.len(), 1);
    assert_ne!(secrets[0]["secret"], given);
    for _ in 0..4 {
        let _ = api.post(&format!("{path}/rotate"), &json!({})).await.expect(200);
    }
    let five = api.get(&path).await.body;
    assert_eq!(five["secrets"].as_array().unwrap().len(), 5);
    let sixth = api.post(&format!("{path}/rotate"), &json!({"grace_seconds": 60})).await;
    assert_problem(&sixth, 409, "too-many-secrets");
    assert_eq!(api.get(&path).await.body, five, "each keeps its grace");
    let at_once = api.post(&format!("{path}/rotate"), &json!({"grace_seconds": 0})).await.expect(200);
    assert_eq!(at_once.body["secrets"].as_array().unwrap().len(), 1);
    for body in [json!({"grace_seconds": 604_801}), json!({"grace_seconds": -1}), json!({"secret": "x"})] {
        assert_problem(&api.post(&format!("{path}/rotate"), &body).await, 422, "invalid-fields");
    }
    let unknown = format!("{PATH}/ep_01h455vb4pex5vsknk084sn02q/secret/rotate");
    assert_problem(&api.post(&unknown, &json!({})).await, 404, "not-found");
}

#[tokio::test]
async fn an_endpoint_is_switched_off_and_on_with_its_backlog_or_without() {
    let stack = Stack::start().await;
    let Server { api, .. } = &Server::start(&stack).await;
    let endpoint = api.create_endpoint("default", "http://127.0.0.1:9/").await;
    let path = format!("{PATH}/{}", endpoint.id);
    let off = act(api, &format!("{path}/disable")).await.expect(200).body;
    assert_eq!((&off["status"], &off["disabled_reason"]), (&json!("disabled"), &json!("manual")));
    let _ = act(api, &format!("{path}/disable")).await.expect(200);
    let on = api.post(&format!("{path}/enable"), &json!({})).await.expect(200).body;
    assert_eq!((&on["status"], &on["disabled_reason"]), (&json!("active"), &Value::Null));

    let _ = act(api, &format!("{path}/disable")).await.expect(200);
    // As the relay does when it comes by.
    sqlx::query("insert into parked (feed_id, endpoint_id, from_position, reason) select 1, id, 0, 'disabled' from endpoint")
        .execute(&stack.pool)
        .await
        .unwrap();
    assert!(api.get(&path).await.body["parked_at"].is_string());
    let tried = api.post_event("a.b", "s", json!(1)).await;
    insert_delivery(&stack, &tried, &endpoint.id, "retrying", "now()").await;
    let untried = api.post_event("a.b", "s", json!(1)).await;
    let parked = api.get(&format!("/deliveries/{untried}/{}", endpoint.id)).await.expect(200).body;
    assert_eq!((&parked["status"], &parked["reason"]), (&json!("pending"), &json!("parked")));
    let on = api.post(&format!("{path}/enable"), &json!({"backlog": "skip"})).await.expect(200).body;
    assert_eq!((&on["status"], &on["parked_at"]), (&json!("active"), &Value::Null));
    for event in [&tried, &untried] {
        let one = api.get(&format!("/deliveries/{event}/{}", endpoint.id)).await.expect(200).body;
        assert_eq!((&one["status"], &one["last_error"]), (&json!("dead"), &json!("skipped")), "{event}");
        assert_eq!(one["reason"], Value::Null);
    }
    let later = api.post_event("a.b", "s", json!(1)).await;
    let queued = api.get(&format!("/deliveries/{later}/{}", endpoint.id)).await.expect(200).body;
    assert_eq!(queued["reason"], "queued");
    let feeds: i64 = sqlx::query_scalar("select count(*) from feed where kind = 'catch_up'")
        .fetch_one(&stack.pool)
        .await
        .unwrap();
    assert_eq!(feeds, 0, "nothing is caught up");
    let wrong = api.post(&format!("{path}/enable"), &json!({"backlog": "drop"})).await;
    assert_problem(&wrong, 422, "invalid-fields");
    let unknown = format!("{PATH}/ep_01h455vb4pex5vsknk084sn02q");
    assert_problem(&act(api, &format!("{unknown}/disable")).await, 404, "not-found");
    assert_problem(&api.post(&format!("{unknown}/enable"), &json!({})).await, 404, "not-found");
}

#[tokio::test]
async fn a_try_answers_what_the_receiver_answered() {
    let stack = Stack::start().await;
    let Server { api, .. } = &Server::start(&stack).await;
    let endpoint = api.create_endpoint("default", "http://127.0.0.1:9/").await;
    let tried = act(api, &format!("{PATH}/{}/test", endpoint.id)).await.expect(200).body;
    assert!(tried["event_id"].as_str().unwrap().starts_with("evt_"));
    assert_eq!((&tried["delivered"], &tried["status_code"]), (&json!(false), &json!(500)));
    assert_eq!((&tried["error"], &tried["response_body"]), (&json!("status"), &json!("no")));
    let unknown = format!("{PATH}/ep_01h455vb4pex5vsknk084sn02q/test");
    assert_problem(&act(api, &unknown).await, 404, "not-found");
}

#[tokio::test]
async fn a_delivery_is_tried_again_under_a_new_ask() {
    let stack = Stack::start().await;
    let Server { api, .. } = &Server::start(&stack).await;
    let endpoint = api.create_endpoint("default", "http://127.0.0.1:9/").await;
    let event = api.post_event("a.b", "s", json!(1)).await;
    let path = format!("/deliveries/{event}/{}/retry", endpoint.id);
    assert_problem(&act(api, &path).await, 409, "not-tried");
    insert_delivery(&stack, &event, &endpoint.id, "dead", "null").await;
    let again = act(api, &path).await.expect(202).body;
    assert_eq!((&again["status"], &again["attempts"]), (&json!("retrying"), &json!(1)));
    let rows = stack.deliveries().await;
    assert!(rows[0].ask > 1 && rows[0].attempt_count == 0 && rows[0].attempt_total == 1);
    let unknown = format!("/deliveries/{event}/ep_01h455vb4pex5vsknk084sn02q/retry");
    assert_problem(&act(api, &unknown).await, 404, "not-found");
}
