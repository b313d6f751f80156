//! `/consumer-groups`

use eventrail_core::testing::Stack;
use serde_json::json;

use crate::support::{Server, assert_problem, pointers, post_raw, state_of_the_record};

#[tokio::test]
async fn a_group_is_created_read_listed_and_deleted() {
    let stack = Stack::start().await;
    let Server { api, .. } = &Server::start(&stack).await;
    let body = json!({"name": "orders", "description": "Ordering", "retry": {"max_retries": 3}});
    let made = api.post("/consumer-groups", &body).await.expect(201);
    assert_eq!(made.header("location"), "/consumer-groups/orders");
    assert_eq!(made.body["name"], "orders");
    assert_eq!(made.body["description"], "Ordering");
    assert_eq!(made.body["retry"], json!({"max_retries": 3}));
    assert_eq!(made.body["paused"], false);
    let read = api.get("/consumer-groups/orders").await.expect(200).body;
    for (member, value) in made.body.as_object().unwrap() {
        assert_eq!(&read[member], value, "{member}");
    }

    assert_problem(&api.post("/consumer-groups", &json!({"name": "orders"})).await, 409, "name-taken");
    let list = api.get("/consumer-groups").await.expect(200);
    let names: Vec<&str> =
        list.body["data"].as_array().unwrap().iter().map(|group| group["name"].as_str().unwrap()).collect();
    assert_eq!(names, ["orders", "default"]);
    assert_eq!(list.body["next_cursor"], json!(null));

    let endpoint = api.create_endpoint("orders", "http://127.0.0.1:9/a").await;
    assert_eq!(api.delete("/consumer-groups/orders").await.expect(204).text, "");
    for path in ["", "/endpoints", &format!("/endpoints/{}", endpoint.id)] {
        assert_problem(&api.get(&format!("/consumer-groups/orders{path}")).await, 404, "not-found");
    }
    assert_problem(&api.delete("/consumer-groups/orders").await, 404, "not-found");

    let (open, secrets, feeds): (i64, i64, i64) = sqlx::query_as(
        "select (select count(*) from subscription where to_position is null),
                (select count(*) from endpoint_secret),
                (select count(*) from feed where status = 'closed' and finished_at is not null)",
    )
    .fetch_one(&stack.pool)
    .await
    .unwrap();
    assert_eq!((open, secrets, feeds), (0, 0, 1));

    // The name is free again, and its stream begins a later epoch.
    api.create_group("orders").await;
    let epoch: i64 = sqlx::query_scalar("select max(epoch) from feed").fetch_one(&stack.pool).await.unwrap();
    assert_eq!(epoch, 1);
}

#[tokio::test]
async fn the_default_group_is_there_and_stays() {
    let stack = Stack::start().await;
    let Server { api, .. } = &Server::start(&stack).await;
    assert_eq!(api.get("/consumer-groups/default").await.expect(200).body["name"], "default");
    let before = state_of_the_record(&stack).await;
    assert_problem(&api.delete("/consumer-groups/default").await, 409, "default-group");
    assert_problem(&api.post("/consumer-groups", &json!({"name": "default"})).await, 409, "name-taken");
    assert_eq!(state_of_the_record(&stack).await, before);
}

#[tokio::test]
async fn bad_groups_are_refused_and_change_nothing() {
    let stack = Stack::start().await;
    let Server { api, .. } = &Server::start(&stack).await;
    let before = state_of_the_record(&stack).await;
    for (body, pointer) in [
        (r#"{}"#, "/name"),
        (r#"{"name":null}"#, "/name"),
        (r#"{"name":"Orders"}"#, "/name"),
        (r#"{"name":"a{b}"}"#, "/name"),
        (r#"{"name":7}"#, "/name"),
        (r#"{"name":"a","nmae":1}"#, "/nmae"),
        (r#"{"name":"a","description":"\u0000"}"#, "/description"),
        (r#"{"name":"a","retry":{"max_retries":99}}"#, "/retry"),
        (r#"{"name":"a","retry":[5]}"#, "/retry"),
        (r#"["a"]"#, ""),
        (r#"{"name":"a","retry":{"max_retry":1}}"#, "/retry/max_retry"),
        (r#"{"name":"a","retry":{"max_retries":1,"max_retries":2}}"#, ""),
    ] {
        let reply = post_raw(api, "/consumer-groups", body).await;
        assert_problem(&reply, 422, "invalid-fields");
        assert!(pointers(&reply)[0].starts_with(pointer) && pointers(&reply).len() == 1, "{}", reply.text);
    }
    assert_problem(&post_raw(api, "/consumer-groups", "{").await, 400, "invalid-json");
    assert_eq!(state_of_the_record(&stack).await, before);
    for name in ["nowhere", "UPPER", "a%20b"] {
        assert_problem(&api.get(&format!("/consumer-groups/{name}")).await, 404, "not-found");
    }
}

#[tokio::test]
async fn lists_come_in_pages_newest_first() {
    let stack = Stack::start().await;
    let Server { api, .. } = &Server::start(&stack).await;
    for n in 0..6 {
        api.create_group(&format!("g{n}")).await;
    }
    let mut names = Vec::new();
    let mut path = "/consumer-groups?limit=3".to_owned();
    loop {
        let page = api.get(&path).await.expect(200);
        let data = page.body["data"].as_array().unwrap();
        assert!(data.len() <= 3);
        names.extend(data.iter().map(|group| group["name"].as_str().unwrap().to_owned()));
        let Some(cursor) = page.body["next_cursor"].as_str() else { break };
        path = format!("/consumer-groups?limit=3&cursor={cursor}");
        // What is made meanwhile does not shift the pages.
        api.create_group(&format!("later{}", names.len())).await;
    }
    assert_eq!(names, ["g5", "g4", "g3", "g2", "g1", "g0", "default"]);
}
