//! `/events/{id}/deliveries`, `/deliveries/{event_id}/{endpoint_id}`

use eventrail_core::ids::{EndpointId, EventId};
use eventrail_core::testing::Stack;
use serde_json::{Value, json};

use crate::support::{ADMIN, Options, Server, assert_problem, make_key};

/// Each target's `(status, reason)`, by endpoint.
async fn whereabouts(api: &eventrail_core::testing::Api, event: &str) -> Vec<(String, String, Value)> {
    let reply = api.get(&format!("/events/{event}/deliveries")).await.expect(200);
    let view = |delivery: &Value| {
        let text = |field: &str| delivery[field].as_str().unwrap().to_owned();
        (text("endpoint_id"), text("status"), delivery["reason"].clone())
    };
    reply.body["data"].as_array().unwrap().iter().map(view).collect()
}

#[tokio::test]
async fn an_untried_event_shows_the_endpoints_that_it_is_owed_to() {
    let stack = Stack::start().await;
    let Server { api, .. } = &Server::start(&stack).await;
    let url = |n: usize| format!("http://127.0.0.1:9/{n}");
    let of_types = |n: usize, types: Value| json!({"url": url(n), "event_types": types});
    let gone = api.create_endpoint("default", &url(0)).await;
    let all = api.create_endpoint("default", &url(1)).await;
    let users = api.create_endpoint_with("default", &of_types(2, json!(["user.*"]))).await;
    let invoices = api.create_endpoint_with("default", &of_types(3, json!(["invoice.*"]))).await;
    let _ = api.delete(&format!("/consumer-groups/default/endpoints/{}", gone.id)).await.expect(204);
    let event = api.post_event("user.created", "s", json!({})).await;
    let late = api.create_endpoint("default", &url(4)).await;

    let queued = |id: &str| (id.to_owned(), "pending".to_owned(), json!("queued"));
    assert_eq!(whereabouts(api, &event).await, [queued(&all.id), queued(&users.id)]);
    for other in [&invoices.id, &late.id, &gone.id, "ep_1"] {
        assert_problem(&api.get(&format!("/deliveries/{event}/{other}")).await, 404, "not-found");
    }
    assert_problem(&api.get("/events/evt_1/deliveries").await, 404, "not-found");
    let unknown = api.get("/events/evt_01h455vb4pex5vsknk084sn02q/deliveries").await;
    assert_problem(&unknown, 404, "not-found");
    let unwanted = api.post_event("order.paid", "s", json!({})).await;
    assert_eq!(whereabouts(api, &unwanted).await.len(), 2, "those who want all");

    sqlx::query("update consumer_group set paused_at = now()").execute(&stack.pool).await.unwrap();
    assert_eq!(whereabouts(api, &event).await[0].2, json!("group_paused"));
}

#[tokio::test]
async fn a_tried_event_shows_its_outcome_and_attempts() {
    let stack = Stack::start().await;
    let Server { api, .. } = &Server::start(&stack).await;
    let endpoint = api.create_endpoint("default", "http://127.0.0.1:9/").await;
    let event = api.post_event("user.created", "s", json!({})).await;
    let (event_id, endpoint_id): (EventId, EndpointId) =
        (event.parse().unwrap(), endpoint.id.parse().unwrap());
    sqlx::query(
        "insert into delivery (event_id, endpoint_id, group_id, feed_id, ask, status, attempt_count,
                               attempt_total, next_attempt_at, last_status_code, last_error)
         values ($1, $2, 1, 1, 1, 'retrying', 1, 1, now(), 500, 'status')",
    )
    .bind(event_id)
    .bind(endpoint_id)
    .execute(&stack.pool)
    .await
    .unwrap();
    sqlx::query(
        "insert into attempt (event_id, endpoint_id, number, ask, started_at, duration_ms, status_code, error,
                              response_body, trigger)
         values ($1, $2, 1, 1, now(), 12, 500, 'status', 'no', 'feed')",
    )
    .bind(event_id)
    .bind(endpoint_id)
    .execute(&stack.pool)
    .await
    .unwrap();

    assert_eq!(
        whereabouts(api, &event).await,
        [(endpoint.id.clone(), "retrying".to_owned(), json!("retrying"))]
    );
    let one = api.get(&format!("/deliveries/{event}/{}", endpoint.id)).await.expect(200).body;
    assert_eq!(one["attempts"], 1);
    assert_eq!(one["last_status_code"], 500);
    assert!(one["next_attempt_at"].as_str().unwrap().ends_with('Z'));
    assert_eq!(one["attempt_log"][0]["number"], 1);
    assert_eq!(one["attempt_log"][0]["response_body"], "no");

    sqlx::query("update delivery set status = 'delivered', next_attempt_at = null")
        .execute(&stack.pool)
        .await
        .unwrap();
    let _ = api.delete(&format!("/consumer-groups/default/endpoints/{}", endpoint.id)).await.expect(204);
    assert_eq!(
        whereabouts(api, &event).await,
        [(endpoint.id, "delivered".to_owned(), Value::Null)],
        "what happened stays"
    );
}

#[tokio::test]
async fn a_delivery_to_a_deleted_endpoint_is_not_tried_again() {
    let stack = Stack::start().await;
    let Server { api, .. } = &Server::start(&stack).await;
    let endpoint = api.create_endpoint("default", "http://127.0.0.1:9/").await;
    let event = api.post_event("user.created", "s", json!({})).await;
    let retry = format!("/deliveries/{event}/{}/retry", endpoint.id);
    assert_problem(&api.post(&retry, &json!({})).await, 409, "not-tried");
    sqlx::query(
        "insert into delivery (event_id, endpoint_id, group_id, feed_id, ask, status, attempt_count,
                               attempt_total, replay_id, purged_at)
         values ($1, $2, 1, 1, 1, 'dead', 1, 1, gen_random_uuid(), now())",
    )
    .bind(event.parse::<EventId>().unwrap())
    .bind(endpoint.id.parse::<EndpointId>().unwrap())
    .execute(&stack.pool)
    .await
    .unwrap();
    assert_eq!(api.post(&retry, &json!({})).await.expect(202).body["status"], "retrying");
    let is_its_own: bool =
        sqlx::query_scalar("select replay_id is null and purged_at is null and ask > 1 from delivery")
            .fetch_one(&stack.pool)
            .await
            .unwrap();
    assert!(is_its_own, "it belongs to no replay, and is put away no longer");
    let _ = api.delete(&format!("/consumer-groups/default/endpoints/{}", endpoint.id)).await.expect(204);
    assert_problem(&api.post(&retry, &json!({})).await, 409, "endpoint-deleted");
    let _ = api.get(&format!("/deliveries/{event}/{}", endpoint.id)).await.expect(200);
}

#[tokio::test]
async fn an_operational_event_is_owed_to_the_group_that_it_concerns() {
    let stack = Stack::start().await;
    let server =
        Server::start_with(&stack, Options { admin_token: Some(ADMIN.into()), ..Options::default() }).await;
    let admin = server.api.with_key(ADMIN);
    let mut subscribers = Vec::new();
    for group in ["ours", "theirs"] {
        admin.create_group(group).await;
        let body = json!({"url": "http://127.0.0.1:9/", "event_types": ["eventrail.*"]});
        let endpoint = admin.create_endpoint_with(group, &body).await;
        let (_, key) = make_key(&admin, &json!({"name": "k", "role": "subscriber", "groups": [group]})).await;
        subscribers.push((endpoint.id, server.api.with_key(key)));
    }
    // EventRail itself puts them on the log.
    let event = admin.post_event("a.b", "s", json!({})).await;
    sqlx::query(
        "update event set event_type = 'eventrail.endpoint.disabled',
                group_id = (select id from consumer_group where name = 'ours')",
    )
    .execute(&stack.pool)
    .await
    .unwrap();
    let [(ours, our_key), (theirs, their_key)] = &subscribers[..] else { panic!() };
    assert_eq!(whereabouts(our_key, &event).await.len(), 1);
    assert_eq!(whereabouts(&admin, &event).await, [(ours.clone(), "pending".to_owned(), json!("queued"))]);
    let _ = our_key.get(&format!("/events/{event}")).await.expect(200);
    assert_eq!(our_key.get("/events").await.expect(200).body["data"][0]["id"], json!(event));
    for path in [format!("/events/{event}"), format!("/events/{event}/deliveries")] {
        assert_problem(&their_key.get(&path).await, 404, "not-found");
    }
    assert_problem(&admin.get(&format!("/deliveries/{event}/{theirs}")).await, 404, "not-found");
    assert_eq!(their_key.get("/events").await.expect(200).body["data"], json!([]));
}
