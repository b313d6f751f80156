//! `/replay`, `/replays`, `/replays/{id}`, `/replays/{id}/cancel`

use eventrail_core::ids::{EndpointId, EventId};
use eventrail_core::testing::{Api, Stack};
use serde_json::{Value, json};

use crate::support::{ADMIN, Options, Server, assert_problem, make_key, pointers, record};

const ALWAYS: (&str, &str) = ("2026-01-01T00:00:00Z", "2126-01-01T00:00:00Z");

/// A body for all that there is, changed by `more`.
pub(crate) fn all_with(more: &Value) -> Value {
    let mut body = json!({"from": ALWAYS.0, "to": ALWAYS.1});
    body.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
    body
}

pub(crate) async fn post_events(api: &Api, types: &[&str]) -> Vec<String> {
    let events: Vec<Value> = types
        .iter()
        .map(|event_type| json!({"event_type": event_type, "source": "s", "payload": 1}))
        .collect();
    api.post_batch(&events).await
}

pub(crate) fn id(replay: &Value) -> String {
    replay["id"].as_str().unwrap().to_owned()
}

/// What a replay has come to.
pub(crate) async fn figures(api: &Api, id: &str) -> Vec<i64> {
    let replay = api.get(&format!("/replays/{id}")).await.expect(200).body;
    let names = ["published", "delivered", "retrying", "dead", "skipped"];
    names.iter().map(|name| replay[name].as_i64().unwrap()).collect()
}

#[tokio::test]
async fn a_replay_has_a_feed_for_each_endpoint_that_wants_something() {
    let stack = Stack::start().await;
    let Server { api, .. } = &Server::start(&stack).await;
    let of_types =
        |n: usize, types: Value| json!({"url": format!("http://127.0.0.1:9/{n}"), "event_types": types});
    let events = post_events(api, &["a.x", "b", "a.y", "b"]).await;
    // Made later: a replay gives them the history all the same.
    let all = api.create_endpoint_with("default", &of_types(1, json!([]))).await.id;
    let some = api.create_endpoint_with("default", &of_types(2, json!(["a.*"]))).await.id;
    let _none = api.create_endpoint_with("default", &of_types(3, json!(["c"]))).await;
    let gone = api.create_endpoint("default", "http://127.0.0.1:9/4").await.id;
    let _ = api.delete(&format!("/consumer-groups/default/endpoints/{gone}")).await.expect(204);

    let before = api.post("/replay", &all_with(&json!({"dry_run": true}))).await.expect(200).body;
    assert_eq!(
        (&before["matched"], &before["owed"], &before["endpoints"]),
        (&json!(4), &json!(6), &json!(2))
    );
    assert_eq!(before["sample"][0]["id"], events[0]);
    let reply = api.post("/replay", &all_with(&json!({"rate_per_second": 5}))).await.expect(202);
    let replay = &reply.body;
    assert_eq!(reply.header("location"), format!("/replays/{}", id(replay)));
    assert_eq!((&replay["kind"], &replay["status"]), (&json!("replay"), &json!("running")));
    assert_eq!(
        (&replay["group"], &replay["matched"], &replay["owed"]),
        (&json!("default"), &json!(4), &json!(6))
    );
    assert_eq!(replay["rate_per_second"], 5);
    assert_eq!(figures(api, &id(replay)).await, [0; 5]);

    let feeds: Vec<(EndpointId, i64, i64, i64, bool)> = sqlx::query_as(
        "select f.endpoint_id, f.from_position, f.to_position, f.ask, f.resend_id = f.replay_id
         from feed f where f.kind = 'replay' and f.as_of_position = f.ask and f.settled_position = f.from_position
         order by endpoint_id",
    )
    .fetch_all(&stack.pool)
    .await
    .unwrap();
    let (first, last): (i64, i64) = sqlx::query_as("select min(position), max(position) from event")
        .fetch_one(&stack.pool)
        .await
        .unwrap();
    assert_eq!(feeds.iter().map(|feed| feed.0.to_string()).collect::<Vec<_>>(), [all, some]);
    for (_, from, to, ask, resends) in feeds {
        assert_eq!((from, to, resends), (first - 1, last, true));
        assert!(ask > last, "a replay addresses who is subscribed now");
    }
}

#[tokio::test]
async fn a_window_is_cut_by_time_type_source_endpoint_and_limit() {
    let stack = Stack::start().await;
    let Server { api, .. } = &Server::start(&stack).await;
    api.create_group("other").await;
    let all = api.create_endpoint("default", "http://127.0.0.1:9/").await.id;
    let b = json!({"url": "http://127.0.0.1:9/", "event_types": ["b"]});
    let other = api.create_endpoint_with("other", &b).await.id;
    let events = post_events(api, &["a.x", "b", "a.y", "b", "a.z"]).await;
    api.post_event("a.x", "t", json!(1)).await;
    let at = api.get(&format!("/events/{}", events[2])).await.body["created_at"].clone();
    for (more, matched, owed) in [
        (json!({}), 6, 6),
        (json!({"from": at}), 4, 4),
        (json!({"to": at}), 2, 2),
        (json!({"event_type": "a.*"}), 4, 4),
        (json!({"event_type": "a.x", "source": "t"}), 1, 1),
        (json!({"source": "nobody"}), 0, 0),
        (json!({"limit": 4}), 4, 4),
        (json!({"limit": 100}), 6, 6),
        (json!({"group": "other"}), 2, 2),
        (json!({"group": "other", "limit": 1}), 1, 1),
        (json!({"group": "*"}), 6, 8),
        (json!({"endpoint_id": all}), 6, 6),
        (json!({"endpoint_id": other}), 2, 2),
        (json!({"endpoint_id": other, "group": "other", "event_type": "a.*"}), 0, 0),
    ] {
        let dry =
            api.post("/replay", &all_with(&json!({"dry_run": true, "only_missing": true}))).await.expect(200);
        assert_eq!(dry.body["matched"], 6);
        let replay = api.post("/replay", &all_with(&more)).await.expect(202).body;
        assert_eq!((&replay["matched"], &replay["owed"]), (&json!(matched), &json!(owed)), "{more}");
        let status = if matched == 0 { "done" } else { "running" };
        assert_eq!(replay["status"], status, "{more}");
        if let Some(limit) = more.get("limit").filter(|limit| limit.as_i64().unwrap() < 5) {
            let last: String = sqlx::query_scalar(
                "select v.event_type from feed f join event v on v.position = f.to_position
                 where f.replay_id is not null order by f.id desc limit 1",
            )
            .fetch_one(&stack.pool)
            .await
            .unwrap();
            assert_eq!(last, "b", "{limit}: it ends with the last that counts");
        }
    }
    let of = async |query: &str| {
        let list = api.get(&format!("/replays?{query}")).await.expect(200).body;
        list["data"].as_array().unwrap().len()
    };
    assert_eq!(of("").await, 14);
    assert_eq!((of("group=other").await, of("group=*").await, of("group=none").await), (4, 1, 0));
    assert_eq!(
        (of("status=done").await, of("status=running").await, of("status=cancelled").await),
        (2, 12, 0)
    );
    assert_eq!((of("kind=replay").await, of("kind=redrive").await), (14, 0));
    let first = api.get("/replays?limit=5").await.expect(200).body;
    let rest =
        api.get(&format!("/replays?cursor={}", first["next_cursor"].as_str().unwrap())).await.expect(200);
    assert_eq!(rest.body["data"].as_array().unwrap().len(), 9);
    assert_eq!(first["data"][0]["endpoint_id"], other, "the newest first");
}

/// Moves the feeds of a replay, as a relay would.
pub(crate) async fn move_feeds(stack: &Stack, endpoint: &str, scanned: &str, settled: &str) {
    let position = |event: &str| event.parse::<EventId>().unwrap();
    sqlx::query(
        "update feed f set scanned_position = (select position from event where id = $2),
                settled_position = (select position from event where id = $3)
         where replay_id is not null and endpoint_id = $1",
    )
    .bind(endpoint.parse::<EndpointId>().unwrap())
    .bind(position(scanned))
    .bind(position(settled))
    .execute(&stack.pool)
    .await
    .unwrap();
}

pub(crate) async fn finish_feeds(stack: &Stack) {
    sqlx::query(
        "update feed set status = 'done', scanned_position = to_position, settled_position = to_position,
                finished_at = now()
         where replay_id is not null and status = 'active'",
    )
    .execute(&stack.pool)
    .await
    .unwrap();
}

#[tokio::test]
async fn a_cancelled_replay_stops_and_can_be_cancelled_again() {
    let stack = Stack::start().await;
    let Server { api, .. } = &Server::start(&stack).await;
    let all = api.create_endpoint("default", "http://127.0.0.1:9/").await.id;
    let events = post_events(api, &["a", "a", "a"]).await;
    let replay = id(&api.post("/replay", &all_with(&json!({}))).await.expect(202).body);
    move_feeds(&stack, &all, &events[1], &events[0]).await;
    record(&stack, (&events[0], &all), "retrying", "503", Some(&replay)).await;
    record(&stack, (&events[1], &all), "delivered", "503", Some(&replay)).await;

    let path = format!("/replays/{replay}/cancel");
    for _ in 0..2 {
        let cancelled = api.post(&path, &json!({})).await.expect(200).body;
        assert_eq!(cancelled["status"], "cancelled");
        assert!(cancelled["cancelled_at"].is_string() && cancelled["finished_at"].is_string(), "{cancelled}");
        assert_eq!(figures(api, &replay).await, [2, 1, 0, 1, 0]);
    }
    let dead = api.get("/dead-letters").await.expect(200).body;
    assert_eq!(
        (&dead["data"][0]["event_id"], &dead["data"][0]["error"]),
        (&json!(events[0]), &json!("cancelled"))
    );
    let active: i64 =
        sqlx::query_scalar("select count(*) from feed where status = 'active' and kind <> 'live'")
            .fetch_one(&stack.pool)
            .await
            .unwrap();
    assert_eq!(active, 0);
    let audit = api.get("/audit-log").await.expect(200).body;
    let actions: Vec<&str> =
        audit["data"].as_array().unwrap().iter().map(|entry| entry["action"].as_str().unwrap()).collect();
    assert_eq!(actions, ["cancel_replay", "create_replay", "create_endpoint"]);
    assert_eq!(audit["data"][1]["detail"]["matched"], 3);

    // One that has ended stays what it was.
    let done = id(&api.post("/replay", &all_with(&json!({"source": "nobody"}))).await.expect(202).body);
    let left = api.post(&format!("/replays/{done}/cancel"), &json!({})).await.expect(200).body;
    assert_eq!((&left["status"], &left["cancelled_at"]), (&json!("done"), &Value::Null));
    for missing in ["rpl_01h455vb4pex5vsknk084sn02q", "rpl_1", &events[0]] {
        assert_problem(&api.get(&format!("/replays/{missing}")).await, 404, "not-found");
        assert_problem(&api.post(&format!("/replays/{missing}/cancel"), &json!({})).await, 404, "not-found");
    }
}

#[tokio::test]
async fn a_replay_that_can_t_be_is_refused() {
    let stack = Stack::start().await;
    let Server { api, .. } = &Server::start(&stack).await;
    let endpoint = api.create_endpoint("default", "http://127.0.0.1:9/").await.id;
    api.create_group("empty").await;
    for (body, expected) in [
        (json!({}), &["/from", "/to"][..]),
        (json!({"from": ALWAYS.0}), &["/to"]),
        (json!({"from": ALWAYS.1, "to": ALWAYS.0}), &["/to"]),
        (
            json!({"from": ALWAYS.0, "to": ALWAYS.0, "limit": 0, "rate_per_second": 0}),
            &["/to", "/limit", "/rate_per_second"],
        ),
        (json!({"from": "yesterday", "to": ALWAYS.1}), &["/from"]),
        (all_with(&json!({"group": "No"})), &["/group"]),
        (all_with(&json!({"endpoint_id": "ep_1"})), &["/endpoint_id"]),
        (all_with(&json!({"event_type": "*.a"})), &["/event_type"]),
        (all_with(&json!({"source": ""})), &["/source"]),
        (all_with(&json!({"only_missing": "yes"})), &["/only_missing"]),
        (all_with(&json!({"dryrun": true})), &["/dryrun"]),
    ] {
        let reply = api.post("/replay", &body).await;
        assert_problem(&reply, 422, "invalid-fields");
        assert_eq!(pointers(&reply), expected, "{body}");
    }
    for more in [
        json!({"group": "nowhere"}),
        json!({"endpoint_id": "ep_01h455vb4pex5vsknk084sn02q"}),
        json!({"endpoint_id": endpoint, "group": "empty"}),
    ] {
        assert_problem(&api.post("/replay", &all_with(&more)).await, 404, "not-found");
    }
    for query in ["status=over", "kind=catch_up", "group=No", "cursor=x", "limit=0", "from=2026"] {
        assert_problem(&api.get(&format!("/replays?{query}")).await, 400, "invalid-query");
    }
    let replays: i64 =
        sqlx::query_scalar("select count(*) from replay").fetch_one(&stack.pool).await.unwrap();
    assert_eq!(replays, 0);
}

#[tokio::test]
async fn subscribers_replay_within_their_groups() {
    let stack = Stack::start().await;
    let options = Options { admin_token: Some(ADMIN.into()), ..Options::default() };
    let server = Server::start_with(&stack, options).await;
    let admin = server.api.with_key(ADMIN);
    for group in ["ours", "theirs"] {
        admin.create_group(group).await;
    }
    let ours = admin.create_endpoint("ours", "http://127.0.0.1:9/").await.id;
    let theirs = admin.create_endpoint("theirs", "http://127.0.0.1:9/").await.id;
    let draft = json!({"name": "ours", "role": "subscriber", "groups": ["ours"]});
    let api = server.api.with_key(make_key(&admin, &draft).await.1);
    for (more, status) in [
        (json!({}), 404), // the group `default`
        (json!({"group": "theirs"}), 404),
        (json!({"endpoint_id": theirs}), 404),
        (json!({"endpoint_id": theirs, "group": "ours"}), 404),
        (json!({"group": "*"}), 403),
        (json!({"group": "*", "endpoint_id": ours}), 403),
        (json!({"group": "ours"}), 202),
        (json!({"endpoint_id": ours}), 202),
    ] {
        let reply = api.post("/replay", &all_with(&more)).await.expect(status);
        assert!(!reply.text.contains("theirs"), "{}", reply.text);
    }
    let of_theirs = id(&admin.post("/replay", &all_with(&json!({"group": "theirs"}))).await.expect(202).body);
    let of_all = id(&admin.post("/replay", &all_with(&json!({"group": "*"}))).await.expect(202).body);
    for hidden in [of_theirs, of_all] {
        assert_problem(&api.get(&format!("/replays/{hidden}")).await, 404, "not-found");
        assert_problem(&api.post(&format!("/replays/{hidden}/cancel"), &json!({})).await, 404, "not-found");
    }
    assert_eq!(api.get("/replays").await.expect(200).body["data"].as_array().unwrap().len(), 2);
    assert_problem(&api.get("/replays?group=theirs").await, 404, "not-found");
    assert_problem(&api.get("/replays?group=*").await, 403, "forbidden");

    // Whoever has the name later sees nothing of it.
    let _ = admin.delete("/consumer-groups/ours").await.expect(204);
    admin.create_group("ours").await;
    let api = server.api.with_key(make_key(&admin, &draft).await.1);
    assert_eq!(api.get("/replays").await.expect(200).body["data"], json!([]));
}

#[tokio::test]
async fn so_many_run_at_once() {
    let stack = Stack::start().await;
    let Server { api, .. } = &Server::start(&stack).await;
    api.create_endpoint("default", "http://127.0.0.1:9/").await;
    post_events(api, &["a"]).await;
    let mut running = Vec::new();
    for _ in 0..20 {
        running.push(id(&api.post("/replay", &all_with(&json!({}))).await.expect(202).body));
    }
    assert_problem(&api.post("/replay", &all_with(&json!({}))).await, 409, "too-many-replays");
    let _ = api.post("/replay", &all_with(&json!({"dry_run": true}))).await.expect(200);
    // What has nothing to do has ended at once.
    let _ = api.post("/replay", &all_with(&json!({"event_type": "b"}))).await.expect(202);
    let _ = api.post("/replay", &all_with(&json!({"group": "*"}))).await.expect(202);
    let _ = api.post(&format!("/replays/{}/cancel", running[0]), &json!({})).await.expect(200);
    let last = id(&api.post("/replay", &all_with(&json!({}))).await.expect(202).body);
    let _ = api.post(&format!("/replays/{last}/cancel"), &json!({})).await.expect(200);

    // All groups together have as many feeds as there may be.
    sqlx::query(
        "insert into feed (group_id, kind, ask, endpoint_id, from_position, to_position, settled_position, replay_id)
         select f.group_id, f.kind, f.ask, f.endpoint_id, f.from_position, f.to_position, f.from_position, f.replay_id
         from (select * from feed where kind = 'replay' and status = 'active' limit 1) f, generate_series(1, 4980)",
    )
    .execute(&stack.pool)
    .await
    .unwrap();
    assert_problem(&api.post("/replay", &all_with(&json!({}))).await, 409, "too-many-replays");
    let replays: i64 =
        sqlx::query_scalar("select count(*) from replay").fetch_one(&stack.pool).await.unwrap();
    assert_eq!(replays, 23);
}
