//! `/consumer-groups/set-cursor`

use eventrail_core::testing::{Api, Stack};
use serde_json::{Value, json};

use crate::support::{ADMIN, Options, Server, assert_problem, make_key, pointers};

async fn settled(stack: &Stack, group: &str) -> i64 {
    sqlx::query_scalar(
        "select f.settled_position from feed f join consumer_group g on g.id = f.group_id
         where g.name = $1 and f.kind = 'live'",
    )
    .bind(group)
    .fetch_one(&stack.pool)
    .await
    .unwrap()
}

async fn position(api: &Api, event: &str) -> i64 {
    api.get(&format!("/events/{event}")).await.expect(200).body["position"].as_i64().unwrap()
}

#[tokio::test]
async fn a_cursor_goes_where_it_is_told_and_back_again() {
    let stack = Stack::start().await;
    let Server { api, .. } = &Server::start(&stack).await;
    api.create_group("set-cursor").await;
    let mut events = Vec::new();
    for n in 0..4 {
        events.push(api.post_event("a.b", "s", json!(n)).await);
    }
    let third = position(api, &events[2]).await;
    let at = api.get(&format!("/events/{}", events[2])).await.body["created_at"].clone();
    let set = async |body: Value| api.post("/consumer-groups/set-cursor", &body).await;
    for (start, expected) in [
        (json!("$"), None),
        (json!("0"), Some(0)),
        (json!(0), Some(0)),
        (json!(third), Some(third)),
        (json!(third.to_string()), Some(third)),
        (json!(events[2]), Some(third - 1)),
        (at, Some(third - 1)),
        (json!("2126-01-01T00:00:00Z"), None),
    ] {
        let before = settled(&stack, "default").await;
        let mut body = json!({"start_id": start, "dry_run": true});
        let dry = set(body.clone()).await.expect(200).body;
        assert_eq!(settled(&stack, "default").await, before, "{start}: a preview changes nothing");
        body["dry_run"] = false.into();
        let moved = set(body).await.expect(200).body;
        assert_eq!((&moved["group"], &moved["previous"]), (&json!("default"), &json!(before)), "{start}");
        assert_eq!((&dry["previous"], &dry["events"]), (&moved["previous"], &moved["events"]), "{start}");
        let now = settled(&stack, "default").await;
        assert_eq!(moved["position"], now, "{start}");
        match expected {
            Some(position) => assert_eq!(now, position, "{start}"),
            None => assert!(now > third + 1, "{start}: behind all that there is"),
        }
    }
    let forth = set(json!({"group": "default", "start_id": "0"})).await.expect(200).body;
    assert_eq!(forth["events"], 4);
    let undone = set(json!({"start_id": forth["previous"], "only_missing": true})).await.expect(200).body;
    assert_eq!((&undone["previous"], &undone["position"]), (&json!(0), &forth["previous"]));
    // A group may be named like the path.
    let other = set(json!({"group": "set-cursor", "start_id": "0"})).await.expect(200).body;
    assert_eq!(other["group"], "set-cursor");
    assert_eq!(api.get("/consumer-groups/set-cursor").await.expect(200).body["settled"], 0);
    assert_problem(&api.post("/consumer-groups/default", &json!({})).await, 405, "method-not-allowed");
    let put = api.request("PUT", "/consumer-groups/set-cursor").json(&json!({}));
    assert_problem(&Api::send(put).await.unwrap(), 405, "method-not-allowed");
    let audit = api.get("/audit-log?limit=1").await.expect(200).body;
    assert_eq!(
        (&audit["data"][0]["action"], &audit["data"][0]["subject"]),
        (&json!("set_cursor"), &json!("set-cursor"))
    );
}

#[tokio::test]
async fn a_cursor_that_can_t_be_set_stays() {
    let stack = Stack::start().await;
    let options = Options { admin_token: Some(ADMIN.into()), ..Options::default() };
    let server = Server::start_with(&stack, options).await;
    let admin = server.api.with_key(ADMIN);
    admin.create_group("ours").await;
    let before = settled(&stack, "default").await;
    for (body, pointer) in [
        (json!({}), "/start_id"),
        (json!({"start_id": null}), "/start_id"),
        (json!({"start_id": ""}), "/start_id"),
        (json!({"start_id": "-1"}), "/start_id"),
        (json!({"start_id": -1}), "/start_id"),
        (json!({"start_id": 1.5}), "/start_id"),
        (json!({"start_id": "yesterday"}), "/start_id"),
        (json!({"start_id": "evt_01h455vb4pex5vsknk084sn02q"}), "/start_id"),
        (json!({"start_id": "evt_01h455vb4pex5vsknk084sn02q", "dry_run": true}), "/start_id"),
        (json!({"start_id": "0", "group": "*"}), "/group"),
        (json!({"start_id": "0", "from": "0"}), "/from"),
    ] {
        let reply = admin.post("/consumer-groups/set-cursor", &body).await;
        assert_problem(&reply, 422, "invalid-fields");
        assert_eq!(pointers(&reply), [pointer], "{body}");
    }
    let nowhere = admin.post("/consumer-groups/set-cursor", &json!({"start_id": "0", "group": "none"})).await;
    assert_problem(&nowhere, 404, "not-found");
    let draft = json!({"name": "ours", "role": "subscriber", "groups": ["ours"]});
    let api = server.api.with_key(make_key(&admin, &draft).await.1);
    let default = api.post("/consumer-groups/set-cursor", &json!({"start_id": "0"})).await;
    assert_problem(&default, 404, "not-found");
    let _ =
        api.post("/consumer-groups/set-cursor", &json!({"start_id": "0", "group": "ours"})).await.expect(200);
    assert_eq!(settled(&stack, "default").await, before);
}
