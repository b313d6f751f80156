//! `/consumer-groups/{group}/endpoints`

use eventrail_core::testing::Stack;
use serde_json::json;

use crate::support::{Options, Server, assert_problem, pointers, post_raw, state_of_the_record};

const PATH: &str = "/consumer-groups/default/endpoints";

#[tokio::test]
async fn an_endpoint_is_created_read_listed_and_deleted() {
    let stack = Stack::start().await;
    let Server { api, .. } = &Server::start(&stack).await;
    let body = json!({
        "url": "http://127.0.0.1:9/hook", "description": "d", "event_types": ["user.*", "invoice.paid"],
        "sources": ["billing"], "headers": {"X-Team": "a"}, "timeout_ms": 1000, "max_in_flight": 4,
        "retry": {"schedule_seconds": [1, 60]}, "secret": "whsec_MDEyMzQ1Njc4OTAxMjM0NTY3ODkwMTIz",
    });
    let made = api.post(PATH, &body).await.expect(201);
    let id = made.body["id"].as_str().unwrap();
    assert!(id.starts_with("ep_"));
    assert_eq!(made.header("location"), format!("{PATH}/{id}"));
    for field in
        ["url", "description", "event_types", "sources", "timeout_ms", "max_in_flight", "retry", "secret"]
    {
        assert_eq!(made.body[field], body[field], "{field}");
    }
    assert_eq!(made.body["headers"], json!({"x-team": "a"}));
    assert_eq!(made.body["group"], "default");
    assert_eq!(made.body["status"], "active");

    let read = api.get(&format!("{PATH}/{id}")).await.expect(200);
    assert_eq!(read.body.get("secret"), None, "shown once, then only where it is asked for");
    assert_eq!(read.body["url"], body["url"]);
    let secret = api.get(&format!("{PATH}/{id}/secret")).await.expect(200);
    assert_eq!(secret.body, json!({"secrets": [{"secret": body["secret"], "expires_at": null}]}));
    assert_eq!(secret.header("cache-control"), "no-store");
    let list = api.get(PATH).await.expect(200);
    assert_eq!(list.body["data"], json!([read.body]));

    let interval = "select from_position, to_position from subscription";
    let (from, to): (i64, Option<i64>) = sqlx::query_as(interval).fetch_one(&stack.pool).await.unwrap();
    assert_eq!(to, None);
    let _ = api.delete(&format!("{PATH}/{id}")).await.expect(204);
    let (_, to): (i64, Option<i64>) = sqlx::query_as(interval).fetch_one(&stack.pool).await.unwrap();
    assert!(to.unwrap() > from);
    for path in [format!("{PATH}/{id}"), format!("{PATH}/{id}/secret")] {
        assert_problem(&api.get(&path).await, 404, "not-found");
    }
    assert_problem(&api.delete(&format!("{PATH}/{id}")).await, 404, "not-found");
    let secrets: i64 =
        sqlx::query_scalar("select count(*) from endpoint_secret").fetch_one(&stack.pool).await.unwrap();
    assert_eq!(secrets, 0);
    let _ = api.post(PATH, &body).await.expect(201);
}

#[tokio::test]
async fn a_url_alone_is_enough() {
    let stack = Stack::start().await;
    let Server { api, .. } = &Server::start(&stack).await;
    let made = api.post(PATH, &json!({"url": "http://127.0.0.1:9"})).await.expect(201);
    assert_eq!(made.body["url"], "http://127.0.0.1:9/");
    assert_eq!(made.body["event_types"], json!([]));
    assert_eq!(made.body["timeout_ms"], json!(null));
    assert!(made.body["secret"].as_str().unwrap().starts_with("whsec_"));
    let other = api.post(PATH, &json!({"url": "http://127.0.0.1:10"})).await.expect(201);
    assert_ne!(made.body["secret"], other.body["secret"]);
}

#[tokio::test]
async fn a_group_has_each_url_once() {
    let stack = Stack::start().await;
    let Server { api, .. } = &Server::start(&stack).await;
    let first = api.create_endpoint("default", "http://127.0.0.1:9/a").await;
    let before = state_of_the_record(&stack).await;
    let again = api.post(PATH, &json!({"url": "HTTP://127.0.0.1:9/x/../a"})).await;
    assert_problem(&again, 409, "url-taken");
    assert_eq!(again.body["endpoint_id"], first.id);
    assert_eq!(state_of_the_record(&stack).await, before);
    api.create_group("other").await;
    let other = api.create_endpoint("other", "http://127.0.0.1:9/a").await;
    let elsewhere = api.get(&format!("{PATH}/{}", other.id)).await;
    assert_problem(&elsewhere, 404, "not-found");
    assert_problem(&api.delete(&format!("{PATH}/{}", other.id)).await, 404, "not-found");
    assert_problem(&api.get(&format!("{PATH}/{}/secret", other.id)).await, 404, "not-found");
}

#[tokio::test]
async fn urls_into_private_networks_are_refused_at_registration() {
    let stack = Stack::start().await;
    let server = Server::start_with(&stack, Options { egress_allow: "", ..Options::default() }).await;
    let api = &server.api;
    let before = state_of_the_record(&stack).await;
    for url in [
        "http://169.254.169.254/",
        "http://[::ffff:10.0.0.1]/",
        "http://localhost:9/",
        "http://127.0.0.1/",
        "http://2130706433/",
        "http://0x7f.1/",
        "http://[::1]/",
        "http://10.1.2.3/",
        "http://100.64.0.1/",
        "http://[64:ff9b::a00:1]/",
        "http://[2002:a00:1::]/",
        "http://0.0.0.0/",
    ] {
        let reply = api.post(PATH, &json!({ "url": url })).await;
        assert_problem(&reply, 422, "invalid-fields");
        assert_eq!(pointers(&reply), ["/url"]);
    }
    assert_eq!(state_of_the_record(&stack).await, before);
    let public = json!({"url": "https://93.184.215.14/hook"});
    let _ = api.post(PATH, &public).await.expect(201);
    let unresolvable = json!({"url": "https://not-there-yet.invalid/hook"});
    let _ = api.post(PATH, &unresolvable).await.expect(201);
}

#[tokio::test]
async fn bad_endpoints_are_refused_and_change_nothing() {
    let stack = Stack::start().await;
    let Server { api, .. } = &Server::start(&stack).await;
    let before = state_of_the_record(&stack).await;
    let url = r#""url":"http://127.0.0.1:9/""#;
    for (body, pointer) in [
        ("{}".to_owned(), "/url"),
        (r#"{"url":"ftp://x/"}"#.to_owned(), "/url"),
        (r#"{"url":"http://u:p@example.com/"}"#.to_owned(), "/url"),
        (r#"{"url":7}"#.to_owned(), "/url"),
        (format!(r#"{{{url},"event_types":["a.*","*.a"]}}"#), "/event_types/1"),
        (format!(r#"{{{url},"event_types":"a"}}"#), "/event_types"),
        (format!(r#"{{{url},"sources":["a b"]}}"#), "/sources/0"),
        (format!(r#"{{{url},"headers":{{"webhook-id":"1"}}}}"#), "/headers"),
        (format!(r#"{{{url},"headers":{{"a":"1\r\nb: 2"}}}}"#), "/headers"),
        (format!(r#"{{{url},"headers":{{"a":"1","a":"2"}}}}"#), "/headers"),
        (format!(r#"{{{url},"timeout_ms":99}}"#), "/timeout_ms"),
        (format!(r#"{{{url},"timeout_ms":60001}}"#), "/timeout_ms"),
        (format!(r#"{{{url},"timeout_ms":1.5}}"#), "/timeout_ms"),
        (format!(r#"{{{url},"max_in_flight":0}}"#), "/max_in_flight"),
        (format!(r#"{{{url},"max_in_flight":99999999999}}"#), "/max_in_flight"),
        (format!(r#"{{{url},"retry":{{"schedule_seconds":[]}}}}"#), "/retry"),
        (format!(r#"{{{url},"secret":"whsec_short"}}"#), "/secret"),
        (format!(r#"{{{url},"start":"yesterday"}}"#), "/start"),
        (format!(r#"{{{url},"start":-1}}"#), "/start"),
        (format!(r#"{{{url},{url}}}"#), ""),
    ] {
        let reply = post_raw(api, PATH, body.clone()).await;
        assert_problem(&reply, 422, "invalid-fields");
        assert!(
            pointers(&reply)[0].starts_with(pointer) && pointers(&reply).len() == 1,
            "{body} {}",
            reply.text
        );
    }
    let several = post_raw(api, PATH, format!(r#"{{{url},"timeout_ms":1,"max_in_flight":0}}"#)).await;
    assert_eq!(pointers(&several), ["/timeout_ms", "/max_in_flight"]);
    let large = format!(r#"{{{url},"description":"{}"}}"#, "x".repeat(70_000));
    assert_problem(&post_raw(api, PATH, large).await, 413, "body-too-large");
    let nowhere = api.post("/consumer-groups/nowhere/endpoints", &json!({"url": "http://127.0.0.1:9"})).await;
    assert_problem(&nowhere, 404, "not-found");
    assert_eq!(state_of_the_record(&stack).await, before);
}

#[tokio::test]
async fn endpoints_come_in_pages_newest_first() {
    let stack = Stack::start().await;
    let Server { api, .. } = &Server::start(&stack).await;
    let mut made = Vec::new();
    for n in 0..5 {
        made.push(api.create_endpoint("default", &format!("http://127.0.0.1:9/{n}")).await.id);
    }
    made.reverse();
    let mut listed = Vec::new();
    let mut path = format!("{PATH}?limit=2");
    loop {
        let page = api.get(&path).await.expect(200);
        let data = page.body["data"].as_array().unwrap();
        listed.extend(data.iter().map(|endpoint| endpoint["id"].as_str().unwrap().to_owned()));
        let Some(cursor) = page.body["next_cursor"].as_str() else { break };
        path = format!("{PATH}?limit=2&cursor={cursor}");
    }
    assert_eq!(listed, made);
}

#[tokio::test]
async fn changes_of_one_endpoint_at_once_leave_one_open_interval_at_most() {
    let stack = Stack::start().await;
    let Server { api, .. } = &Server::start(&stack).await;
    for round in 0..5 {
        let mut creating = tokio::task::JoinSet::new();
        for _ in 0..4 {
            let api = api.clone();
            creating.spawn(async move { api.post(PATH, &json!({"url": "http://127.0.0.1:9/same"})).await });
        }
        let mut statuses: Vec<u16> = creating.join_all().await.iter().map(|reply| reply.status).collect();
        statuses.sort_unstable();
        assert_eq!(statuses, [201, 409, 409, 409], "round {round}");
        let open = "select e.id from subscription s join endpoint e on e.id = s.endpoint_id
                    where s.to_position is null";
        let open_ids: Vec<eventrail_core::ids::EndpointId> =
            sqlx::query_scalar(open).fetch_all(&stack.pool).await.unwrap();
        let [id] = open_ids.as_slice() else { panic!("open intervals: {open_ids:?}") };

        let mut deleting = tokio::task::JoinSet::new();
        for _ in 0..4 {
            let (api, path) = (api.clone(), format!("{PATH}/{id}"));
            deleting.spawn(async move { api.delete(&path).await });
        }
        let mut statuses: Vec<u16> = deleting.join_all().await.iter().map(|reply| reply.status).collect();
        statuses.sort_unstable();
        assert_eq!(statuses, [204, 404, 404, 404], "round {round}");
        let open: i64 = sqlx::query_scalar("select count(*) from subscription where to_position is null")
            .fetch_one(&stack.pool)
            .await
            .unwrap();
        assert_eq!(open, 0);
    }
    // Each change has a position of its own, and its version tells the relay.
    let (intervals, positions, versions): (i64, i64, i64) = sqlx::query_as(
        "select (select count(*) from subscription),
                (select count(distinct p) from subscription, unnest(array[from_position, to_position]) p),
                (select count(distinct version) from endpoint)",
    )
    .fetch_one(&stack.pool)
    .await
    .unwrap();
    assert_eq!((intervals, positions, versions), (5, 10, 5));
}
