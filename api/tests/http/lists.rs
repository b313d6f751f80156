//! Lists with filters: events, a group's deliveries, event types.

use std::time::Duration;

use eventrail_core::ids::{EndpointId, EventId};
use eventrail_core::testing::{Api, Stack, eventually_within};
use serde_json::{Value, json};

use crate::support::{ADMIN, Options, Server, assert_problem, make_key};

/// The values of one member, over all pages.
async fn all(api: &Api, path: &str, member: &str) -> Vec<String> {
    let (mut found, mut next) = (Vec::new(), path.to_owned());
    loop {
        let page = api.get(&next).await.expect(200).body;
        let data = page["data"].as_array().unwrap();
        found.extend(data.iter().map(|one| one[member].as_str().unwrap().to_owned()));
        let Some(cursor) = page["next_cursor"].as_str() else { return found };
        let separator = if path.contains('?') { '&' } else { '?' };
        next = format!("{path}{separator}cursor={cursor}");
    }
}

#[tokio::test]
async fn events_are_listed_by_type_source_and_time_newest_first() {
    let stack = Stack::start().await;
    let Server { api, .. } = &Server::start(&stack).await;
    let mut ids = Vec::new();
    for (event_type, source) in [("a.x", "s"), ("a.y", "t"), ("b", "s"), ("a.x.z", "s"), ("aa.x", "s")] {
        ids.push(api.post_event(event_type, source, json!({"secret": 1})).await);
    }
    let of = |indexes: &[usize]| indexes.iter().map(|index| ids[*index].clone()).collect::<Vec<_>>();
    assert_eq!(all(api, "/events?limit=2", "id").await, of(&[4, 3, 2, 1, 0]));
    for (query, expected) in [
        ("event_type=a.x", &[0][..]),
        ("event_type=a.*", &[3, 1, 0]),
        ("event_type=*", &[4, 3, 2, 1, 0]),
        ("source=t", &[1]),
        ("source=s&event_type=a.*", &[3, 0]),
        ("event_type=nothing", &[]),
    ] {
        assert_eq!(all(api, &format!("/events?limit=1&{query}"), "id").await, of(expected), "{query}");
    }
    let third = api.get(&format!("/events/{}", ids[2])).await.body;
    let at = third["created_at"].as_str().unwrap();
    assert_eq!(all(api, &format!("/events?from={at}"), "id").await, of(&[4, 3, 2]));
    assert_eq!(all(api, &format!("/events?to={at}"), "id").await, of(&[1, 0]));
    let elsewhere = at.replace('Z', "+00:00");
    assert_eq!(all(api, &format!("/events?to={elsewhere}"), "id").await, of(&[1, 0]), "+ unescaped");
    let one = api.get(&format!("/events?event_type=b&from={at}")).await.expect(200).body["data"][0].clone();
    let mut expected = third.clone();
    expected.as_object_mut().unwrap().remove("payload");
    assert_eq!(one, expected, "without payload");
    for query in ["event_type=*.a", "source=a%20b", "from=yesterday", "type=a"] {
        assert_problem(&api.get(&format!("/events?{query}")).await, 400, "invalid-query");
    }
}

/// The pattern of a list is cut to size by SQL, which must agree with the dispatchers' matching.
#[tokio::test]
async fn sql_matches_as_the_dispatcher_does() {
    let stack = Stack::start().await;
    let patterns = ["*", "a", "a.*", "a.b", "a_b.*", "eventrail.*", "eventrail.ping", "eventrail"];
    let types =
        ["a", "a.b", "a.b.c", "ab.c", "axb.c", "a_b.c", "eventrail", "eventrail.ping", "eventrails.x"];
    for pattern in patterns {
        for event_type in types {
            let filter = eventrail_core::matching::Filter {
                event_types: vec![pattern.parse().unwrap()],
                sources: Vec::new(),
            };
            let matches: bool = sqlx::query_scalar("select filter_matches(array[$1], '{}', $2, 's')")
                .bind(pattern)
                .bind(event_type)
                .fetch_one(&stack.pool)
                .await
                .unwrap();
            assert_eq!(matches, filter.matches(event_type, "s"), "{pattern} {event_type}");
        }
    }
    for event_type in types {
        let all: bool = sqlx::query_scalar("select filter_matches('{}', array['s'], $1, 's')")
            .bind(event_type)
            .fetch_one(&stack.pool)
            .await
            .unwrap();
        assert_eq!(all, eventrail_core::matching::Filter::default().matches(event_type, "s"), "{event_type}");
    }
}

#[tokio::test]
async fn a_group_s_deliveries_are_listed_by_what_became_of_them() {
    let stack = Stack::start().await;
    let Server { api, .. } = &Server::start(&stack).await;
    let one = api.create_endpoint("default", "http://127.0.0.1:9/1").await.id;
    let two = api.create_endpoint("default", "http://127.0.0.1:9/2").await.id;
    let mut events = Vec::new();
    for (event_type, endpoint, status) in
        [("a.x", &one, "delivered"), ("a.y", &two, "dead"), ("b", &one, "retrying"), ("b", &two, "pending")]
    {
        let event = api.post_event(event_type, "s", json!(1)).await;
        sqlx::query(
            "insert into delivery (event_id, endpoint_id, group_id, feed_id, ask, status, attempt_count,
                                   attempt_total, next_attempt_at)
             values ($1, $2, 1, 1, 1, $3, 1, 1, case when $3 in ('retrying', 'pending') then now() end)",
        )
        .bind(event.parse::<EventId>().unwrap())
        .bind(endpoint.parse::<EndpointId>().unwrap())
        .bind(status)
        .execute(&stack.pool)
        .await
        .unwrap();
        events.push(event);
    }
    let list = "/consumer-groups/default/deliveries";
    let of = |indexes: &[usize]| indexes.iter().map(|index| events[*index].clone()).collect::<Vec<_>>();
    assert_eq!(all(api, &format!("{list}?limit=1"), "event_id").await, of(&[3, 2, 1, 0]));
    let at = api.get(&format!("/events/{}", events[1])).await.body["created_at"].clone();
    let at = at.as_str().unwrap();
    for (query, expected) in [
        ("status=dead".to_owned(), &[1][..]),
        ("status=pending".to_owned(), &[3]),
        (format!("endpoint_id={one}"), &[2, 0]),
        ("event_type=a.*".to_owned(), &[1, 0]),
        (format!("status=delivered&endpoint_id={two}"), &[]),
        (format!("from={at}"), &[3, 2, 1]),
        (format!("to={at}"), &[0]),
    ] {
        assert_eq!(all(api, &format!("{list}?{query}"), "event_id").await, of(expected), "{query}");
    }
    for query in ["status=lost", "endpoint_id=x", "group=other"] {
        assert_problem(&api.get(&format!("{list}?{query}")).await, 400, "invalid-query");
    }
    assert_problem(&api.get("/consumer-groups/nowhere/deliveries").await, 404, "not-found");
}

#[tokio::test]
async fn types_that_were_seen_are_listed_with_their_sources() {
    let stack = Stack::start().await;
    let options = Options { admin_token: Some(ADMIN.into()), ..Options::default() };
    let server = Server::start_with(&stack, options).await;
    let admin = server.api.with_key(ADMIN);
    for (event_type, source) in [("b", "t"), ("a", "s&x=1#"), ("a", "r"), ("a", "r")] {
        admin.post_event(event_type, source, json!(1)).await;
    }
    let seen = async || {
        let page = admin.get("/event-types").await.expect(200).body;
        let pair = |kind: &Value| format!("{} {}", kind["event_type"], kind["source"]).replace('"', "");
        page["data"].as_array().unwrap().iter().map(pair).collect::<Vec<_>>()
    };
    eventually_within(Duration::from_secs(10), async || match seen().await {
        seen if seen == ["a r", "a s&x=1#", "b t"] => Ok(()),
        seen => Err(format!("{seen:?}")),
    })
    .await;
    assert_eq!(all(&admin, "/event-types?limit=1", "source").await, ["r", "s&x=1#", "t"]);
    let (_, key) = make_key(&admin, &json!({"name": "k", "role": "producer", "sources": ["t"]})).await;
    assert_eq!(all(&server.api.with_key(key), "/event-types", "source").await, ["t"]);

    admin.create_group("orders").await;
    admin.create_group("others").await;
    let of = |name: &str, filter: Value| {
        let mut body = filter;
        body["url"] = format!("http://127.0.0.1:9/{name}").into();
        body
    };
    admin.create_endpoint_with("others", &of("all", json!({}))).await;
    admin.create_endpoint_with("orders", &of("b", json!({"event_types": ["b.*", "b"]}))).await;
    let narrow = of("r", json!({"event_types": ["a"], "sources": ["r"]}));
    let narrow = admin.create_endpoint_with("orders", &narrow).await;
    let (_, key) = make_key(&admin, &json!({"name": "k", "role": "subscriber", "groups": ["orders"]})).await;
    let subscriber = server.api.with_key(key);
    assert_eq!(all(&subscriber, "/event-types?limit=1", "source").await, ["r", "t"]);
    let _ = admin.delete(&format!("/consumer-groups/orders/endpoints/{}", narrow.id)).await.expect(204);
    assert_eq!(all(&subscriber, "/event-types", "source").await, ["t"]);
}

/// However little a filter matches, a page looks at so much only; the pages after it find the rest.
#[tokio::test]
async fn a_page_may_be_empty_before_the_last() {
    let stack = Stack::start().await;
    let options = Options { admin_token: Some(ADMIN.into()), ..Options::default() };
    let server = Server::start_with(&stack, options).await;
    let admin = server.api.with_key(ADMIN);
    let rare = json!({"url": "http://127.0.0.1:9/", "event_types": ["rare"]});
    let rare: EndpointId = admin.create_endpoint_with("default", &rare).await.id.parse().unwrap();
    let first = admin.post_event("rare", "s", json!(1)).await;
    let noise = json!({"event_type": "noise", "source": "s", "payload": 1});
    for _ in 0..21 {
        admin.post_batch(&vec![noise.clone(); 1000]).await;
    }
    sqlx::query(
        "insert into delivery (event_id, endpoint_id, group_id, feed_id, ask, status, attempt_count, attempt_total)
         select id, case event_type when 'rare' then $1 else gen_random_uuid() end, 1, 1, 1,
                case event_type when 'rare' then 'dead' else 'delivered' end, 1, 1 from event",
    )
    .bind(rare)
    .execute(&stack.pool)
    .await
    .unwrap();
    let (_, key) = make_key(&admin, &json!({"name": "k", "role": "subscriber", "groups": ["default"]})).await;
    let subscriber = server.api.with_key(key);
    let deliveries = "/consumer-groups/default/deliveries";
    for (path, member) in [
        ("/events?event_type=rare".to_owned(), "id"),
        ("/events".to_owned(), "id"),
        (format!("{deliveries}?endpoint_id={rare}"), "event_id"),
        (format!("{deliveries}?event_type=rare"), "event_id"),
    ] {
        let page = subscriber.get(&path).await.expect(200).body;
        assert_eq!(page["data"], json!([]), "{path}");
        assert!(page["next_cursor"].is_string(), "{path}");
        assert_eq!(all(&subscriber, &path, member).await, std::slice::from_ref(&first), "{path}");
    }
    let dead = subscriber.get(&format!("{deliveries}?status=dead")).await.expect(200).body;
    assert_eq!(dead["data"].as_array().unwrap().len(), 1, "the few of a status have an index");
    assert_eq!(dead["next_cursor"], json!(null));
    let page = admin.get("/events").await.expect(200).body;
    assert_eq!(page["data"].as_array().unwrap().len(), 50);
    let group = admin.get("/consumer-groups/default").await.expect(200).body;
    assert!(group["last_delivered_at"].is_string() && group["dead"] == 1, "{group}");
    // A change of the topology has drawn positions after the last event.
    sqlx::query("update feed set settled_position = (select max(position) + 5 from event)")
        .execute(&stack.pool)
        .await
        .unwrap();
    let group = admin.get("/consumer-groups/default").await.expect(200).body;
    assert_eq!((&group["settled"], &group["lag"]), (&group["head"], &json!(0)));
}
