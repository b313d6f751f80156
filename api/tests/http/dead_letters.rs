//! `/dead-letters`

use eventrail_core::testing::{Api, Stack};
use serde_json::{Value, json};

use crate::support::{ADMIN, Options, Server, assert_problem, make_key, record};

/// Two groups with an endpoint each; `a` and `b` events that died there of different errors.
struct World {
    ours: String,
    theirs: String,
    events: Vec<String>,
}

impl World {
    async fn make(stack: &Stack, api: &Api) -> Self {
        for group in ["ours", "theirs"] {
            api.create_group(group).await;
        }
        let ours = api.create_endpoint("ours", "http://127.0.0.1:9/").await.id;
        let theirs = api.create_endpoint("theirs", "http://127.0.0.1:9/").await.id;
        let mut events = Vec::new();
        for (event_type, endpoint, status, error) in [
            ("a.x", &ours, "dead", "503"),
            ("a.y", &ours, "dead", "503"),
            ("b", &ours, "dead", "timeout"),
            ("b", &theirs, "dead", "503"),
            ("b", &ours, "delivered", "503"),
            ("b", &ours, "retrying", "503"),
        ] {
            let event = api.post_event(event_type, "s", json!({"n": events.len()})).await;
            record(stack, (&event, endpoint), status, error, None).await;
            events.push(event);
        }
        Self { ours, theirs, events }
    }
}

/// The numbers of the events of all pages, in order.
async fn dead(api: &Api, world: &World, query: &str) -> Vec<usize> {
    let (mut found, mut next) = (Vec::new(), format!("/dead-letters?{query}"));
    loop {
        let page = api.get(&next).await.expect(200).body;
        for letter in page["data"].as_array().unwrap() {
            found.push(world.events.iter().position(|event| letter["event_id"] == *event).unwrap());
        }
        let Some(cursor) = page["next_cursor"].as_str() else { return found };
        next = format!("/dead-letters?{query}&cursor={cursor}");
    }
}

#[tokio::test]
async fn dead_letters_are_listed_newest_first_by_what_is_asked() {
    let stack = Stack::start().await;
    let Server { api, .. } = &Server::start(&stack).await;
    let world = World::make(&stack, api).await;
    let of = |endpoint: &str| format!("endpoint_id={endpoint}");
    for (query, expected) in [
        (String::new(), &[3, 2, 1, 0][..]),
        ("group=ours".into(), &[2, 1, 0]),
        ("group=default".into(), &[]),
        (of(&world.ours), &[2, 1, 0]),
        (of(&world.theirs), &[3]),
        (format!("group=ours&{}", of(&world.theirs)), &[]),
        ("error=503".into(), &[3, 1, 0]),
        ("error=timeout".into(), &[2]),
        ("error=dns".into(), &[]),
        ("event_type=a.*".into(), &[1, 0]),
        ("event_type=a".into(), &[]),
        ("event_type=*".into(), &[3, 2, 1, 0]),
        ("event_type=eventrail.*".into(), &[]),
        ("event_type=b&error=503&group=ours".into(), &[]),
        (format!("event_type=a.y&error=503&{}", of(&world.ours)), &[1]),
    ] {
        for limit in ["limit=1", "limit=2", "limit=50"] {
            assert_eq!(dead(api, &world, &format!("{limit}&{query}")).await, expected, "{query} {limit}");
        }
    }
    sqlx::query(
        "insert into attempt (event_id, endpoint_id, number, ask, started_at, duration_ms, status_code, error,
                              error_detail, trigger)
         select event_id, endpoint_id, 1, 1, now(), 12, 503, 'status', 'full', 'feed' from delivery",
    )
    .execute(&stack.pool)
    .await
    .unwrap();
    let one = api.get("/dead-letters?group=ours&limit=1&error=503").await.expect(200).body["data"][0].clone();
    assert_eq!(one["event_id"], world.events[1]);
    assert_eq!((&one["group"], &one["endpoint_id"]), (&json!("ours"), &json!(world.ours)));
    assert_eq!((&one["event_type"], &one["source"]), (&json!("a.y"), &json!("s")));
    assert_eq!(
        (&one["error"], &one["error_detail"], &one["last_status_code"]),
        (&json!("503"), &json!("full"), &json!(503))
    );
    assert_eq!((&one["attempts"], one.get("payload")), (&json!(1), None));
    for query in
        ["status=dead", "error=No", "event_type=*.a", "endpoint_id=ep_1", "cursor=x", "group_by=group"]
    {
        assert_problem(&api.get(&format!("/dead-letters?{query}")).await, 400, "invalid-query");
    }
    assert_problem(&api.get("/dead-letters?group=nowhere").await, 404, "not-found");
}

#[tokio::test]
async fn dead_letters_are_counted_by_error() {
    let stack = Stack::start().await;
    let Server { api, .. } = &Server::start(&stack).await;
    let world = World::make(&stack, api).await;
    let counts = async |query: &str| {
        let reply = api.get(&format!("/dead-letters?group_by=error&{query}")).await.expect(200).body;
        assert_eq!(reply["next_cursor"], Value::Null);
        let view = |one: &Value| (one["error"].as_str().unwrap().to_owned(), one["count"].as_i64().unwrap());
        (reply["data"].as_array().unwrap().iter().map(view).collect::<Vec<_>>(), reply["data"][0].clone())
    };
    let (all, first) = counts("").await;
    assert_eq!(all, [("503".to_owned(), 3), ("timeout".to_owned(), 1)]);
    assert_eq!(first["sample"]["event_id"], world.events[3]);
    assert_eq!(first["sample"]["endpoint_id"], world.theirs);
    assert!(first["first_at"].as_str().unwrap() < first["last_at"].as_str().unwrap(), "{first}");
    let (some, first) = counts("group=ours&event_type=a.*").await;
    assert_eq!(some, [("503".to_owned(), 2)]);
    assert_eq!(first["sample"]["event_id"], world.events[1]);
    assert!(counts("error=dns").await.0.is_empty());
    assert_problem(&api.get("/dead-letters?group_by=error&limit=5").await, 400, "invalid-query");
}

#[tokio::test]
async fn a_download_has_all_lines_with_their_payloads() {
    let stack = Stack::start().await;
    let Server { api, .. } = &Server::start(&stack).await;
    let endpoint = api.create_endpoint("default", "http://127.0.0.1:9/").await.id;
    let events: Vec<Value> = (0..120)
        .map(|n| json!({"event_type": "a.b", "source": "s", "payload": {"n": n, "spaced": [ 1,  2]}}))
        .collect();
    let events = api.post_batch(&events).await;
    for (n, event) in events.iter().enumerate() {
        let error = if n % 3 == 0 { "timeout" } else { "503" };
        record(&stack, (event, &endpoint), "dead", error, None).await;
    }
    let download = async |query: &str| {
        let request = api.request("GET", &format!("/dead-letters{query}"));
        let request = request.header("accept", "application/json;q=0.5, application/x-ndjson");
        let reply = Api::send(request).await.unwrap().expect(200);
        assert_eq!(reply.header("content-type"), "application/x-ndjson");
        assert!(reply.text.is_empty() || reply.text.ends_with('\n'));
        reply.text.lines().map(|line| serde_json::from_str(line).unwrap()).collect::<Vec<Value>>()
    };
    let all = download("").await;
    let ids: Vec<&str> = all.iter().map(|letter| letter["event_id"].as_str().unwrap()).collect();
    assert_eq!(ids, events.iter().rev().collect::<Vec<_>>());
    assert_eq!(all[0]["payload"], json!({"n": 119, "spaced": [1, 2]}));
    assert_eq!(download("?error=timeout&group=default").await.len(), 40);
    assert_eq!(download("?error=dns").await.len(), 0);
    let refused = api.request("GET", "/dead-letters?group=nowhere").header("accept", "application/x-ndjson");
    assert_problem(&Api::send(refused).await.unwrap(), 404, "not-found");
}

#[tokio::test]
async fn a_purge_puts_away_what_is_meant_and_nothing_else() {
    let stack = Stack::start().await;
    let Server { api, .. } = &Server::start(&stack).await;
    let world = World::make(&stack, api).await;
    let purge = async |query: &str| {
        api.delete(&format!("/dead-letters?{query}")).await.expect(200).body["purged"].as_i64().unwrap()
    };
    assert_eq!(purge("group=ours&error=dns").await, 0);
    assert_eq!(purge("group=ours&event_type=a.*&error=503").await, 2);
    assert_eq!(purge("group=ours&event_type=a.*&error=503").await, 0);
    assert_eq!(dead(api, &world, "").await, [3, 2]);
    let figures = api.get("/consumer-groups/ours").await.expect(200).body;
    assert_eq!(figures["dead"], 1);
    let listed = api.get("/consumer-groups/ours/deliveries?status=dead").await.expect(200).body;
    assert_eq!(listed["data"].as_array().unwrap().len(), 1);
    let one = api.get(&format!("/deliveries/{}/{}", world.events[0], world.ours)).await.expect(200).body;
    assert_eq!(one["status"], "dead", "what happened can still be read");
    assert_eq!(purge(&format!("group=ours&endpoint_id={}", world.ours)).await, 1);
    assert_eq!(dead(api, &world, "").await, [3], "another group's stay");

    let audit = api.get("/audit-log?limit=4").await.expect(200).body;
    let purged: Vec<(&Value, &Value)> = audit["data"]
        .as_array()
        .unwrap()
        .iter()
        .map(|entry| (&entry["action"], &entry["detail"]["purged"]))
        .collect();
    let action = json!("purge_dead_letters");
    let expected = [1, 0, 2, 0].map(|n| json!(n));
    assert_eq!(purged, expected.iter().map(|n| (&action, n)).collect::<Vec<_>>());
    assert_eq!(audit["data"][2]["detail"]["event_type"], "a.*");
    for query in ["", "error=503", "group=*", "group=ours&limit=1", "group=ours&eror=503"] {
        assert_problem(&api.delete(&format!("/dead-letters?{query}")).await, 400, "invalid-query");
    }
    assert_problem(&api.delete("/dead-letters?group=nowhere").await, 404, "not-found");
}

#[tokio::test]
async fn a_purge_goes_through_many_rounds() {
    let stack = Stack::start().await;
    let Server { api, .. } = &Server::start(&stack).await;
    let endpoint = api.create_endpoint("default", "http://127.0.0.1:9/").await.id;
    let event = json!({"event_type": "a.b", "source": "s", "payload": 1});
    for _ in 0..11 {
        let _ = api.post_batch(&vec![event.clone(); 1000]).await;
    }
    sqlx::query(
        "insert into delivery (event_id, endpoint_id, group_id, feed_id, ask, status, attempt_count, attempt_total,
                last_error)
         select v.id, e.id, e.group_id, 1, 1, 'dead', 1, 1, case when v.position % 5 = 0 then 'dns' else 'tls' end
         from event v, endpoint e where e.id = $1",
    )
    .bind(endpoint.parse::<eventrail_core::ids::EndpointId>().unwrap())
    .execute(&stack.pool)
    .await
    .unwrap();
    let dns = api.delete("/dead-letters?group=default&error=dns").await.expect(200).body;
    assert_eq!(dns["purged"], 2200);
    let rest = api.delete("/dead-letters?group=default").await.expect(200).body;
    assert_eq!(rest["purged"], 8800);
    assert_eq!(api.get("/dead-letters").await.expect(200).body["data"], json!([]));
}

#[tokio::test]
async fn subscribers_see_the_dead_letters_of_their_groups() {
    let stack = Stack::start().await;
    let options = Options { admin_token: Some(ADMIN.into()), ..Options::default() };
    let server = Server::start_with(&stack, options).await;
    let admin = server.api.with_key(ADMIN);
    let world = World::make(&stack, &admin).await;
    let draft = json!({"name": "ours", "role": "subscriber", "groups": ["ours"]});
    let api = server.api.with_key(make_key(&admin, &draft).await.1);
    assert_eq!(dead(&api, &world, "").await, [2, 1, 0]);
    assert!(dead(&api, &world, &format!("endpoint_id={}", world.theirs)).await.is_empty());
    let counts = api.get("/dead-letters?group_by=error").await.expect(200).body;
    assert_eq!(counts["data"][0]["count"], 2);
    for path in ["/dead-letters?group=theirs", "/dead-letters?group=theirs&group_by=error"] {
        assert_problem(&api.get(path).await, 404, "not-found");
    }
    assert_problem(&api.delete("/dead-letters?group=theirs").await, 404, "not-found");
    assert_eq!(dead(&admin, &world, "group=theirs").await, [3]);
    let mine =
        api.delete(&format!("/dead-letters?group=ours&endpoint_id={}", world.theirs)).await.expect(200);
    assert_eq!(mine.body["purged"], 0);
}
