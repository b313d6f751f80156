//! EventRail's own events: what is told, to whom, and that nothing is told of itself.

use eventrail_core::testing::{Answer, Request};
use serde_json::{Value, json};

use crate::rail::Rail;

/// Operational events on the log, in order: type, group and payload.
async fn told(rail: &Rail) -> Vec<(String, String, Value)> {
    let rows: Vec<(String, String, Vec<u8>)> = sqlx::query_as(
        "select v.event_type, g.name, v.payload from event v join consumer_group g on g.id = v.group_id
         where v.source = 'eventrail' order by v.position",
    )
    .fetch_all(&rail.stack.pool)
    .await
    .unwrap();
    rows.into_iter()
        .map(|(event_type, group, payload)| (event_type, group, serde_json::from_slice(&payload).unwrap()))
        .collect()
}

fn types(requests: &[Request]) -> Vec<String> {
    requests.iter().map(|request| request.json()["type"].as_str().unwrap().to_owned()).collect()
}

#[tokio::test]
async fn operational_events_reach_those_of_their_group_who_name_them() {
    let rail = Rail::start(&[("MAX_RETRIES", "0")]).await;
    rail.api.create_group("orders").await;
    rail.api.create_group("others").await;
    let named = json!({ "event_types": ["eventrail.*"] });
    let watch = rail.endpoint_with("orders", "/watch", named.clone()).await;
    rail.endpoint_with("others", "/elsewhere", named).await;
    rail.endpoint_with("orders", "/star", json!({ "event_types": ["*"] })).await;
    let failing = rail.endpoint_with("orders", "/failing", json!({ "event_types": ["a.b"] })).await;
    let gone = rail.endpoint_with("orders", "/gone", json!({ "event_types": ["c.d"] })).await;
    rail.receiver.always("/failing", Answer::status(503));
    rail.receiver.always("/gone", Answer::status(410));

    let dead = rail.api.post_event("a.b", "test", json!(1)).await;
    let requests = rail.arrived("/watch", 1).await;
    let body = requests[0].json();
    assert_eq!((&body["type"], &body["source"]), (&json!("eventrail.delivery.dead"), &json!("eventrail")));
    let expected = json!({
        "event_id": dead, "event_type": "a.b", "endpoint_id": failing.id, "group": "orders",
        "error": "status", "status_code": 503, "attempts": 1,
    });
    assert_eq!(body["data"], expected);

    rail.api.post_event("c.d", "test", json!(2)).await;
    rail.arrived("/watch", 3).await;
    let disable = format!("/consumer-groups/orders/endpoints/{}/disable", failing.id);
    let _ = rail.api.post(&disable, &json!({})).await.expect(200);
    let requests = rail.arrived("/watch", 4).await;
    let mut expected = [
        "eventrail.delivery.dead",
        "eventrail.delivery.dead",
        "eventrail.endpoint.disabled",
        "eventrail.endpoint.disabled",
    ];
    let mut arrived = types(&requests);
    arrived.sort_unstable();
    expected.sort_unstable();
    assert_eq!(arrived, expected);
    let disabled = |reason: &str| {
        let of_reason = |request: &&Request| request.json()["data"]["reason"] == reason;
        requests.iter().find(of_reason).unwrap().json()["data"].clone()
    };
    assert_eq!(disabled("gone"), json!({ "endpoint_id": gone.id, "group": "orders", "reason": "gone" }));
    assert_eq!(disabled("manual")["endpoint_id"], failing.id.as_str());

    // Once more does not disable it again, so nothing is told.
    let _ = rail.api.post(&disable, &json!({})).await.expect(200);
    rail.stack.assert_settled().await;
    assert_eq!(told(&rail).await.len(), 4);
    assert_eq!(rail.receiver.count_to("/elsewhere"), 0, "another group's");
    let of_star = types(&rail.receiver.requests_to("/star"));
    assert_eq!(of_star.iter().filter(|name| name.starts_with("eventrail")).count(), 0);
    let ids: Vec<String> = requests.iter().map(|request| request.webhook_id().to_owned()).collect();
    crate::rail::assert_exactly_once(&requests, &ids, &watch);

    // Who may see such an event, and where it went: its own group.
    for id in &ids {
        let deliveries = rail.api.get(&format!("/events/{id}/deliveries")).await.expect(200);
        let targets: Vec<&Value> =
            deliveries.body["data"].as_array().unwrap().iter().map(|one| &one["endpoint_id"]).collect();
        assert_eq!(targets, [watch.id.as_str()]);
    }
    rail.end().await;
}

#[tokio::test]
async fn failures_to_deliver_operational_events_raise_none_and_nobody_listening_means_none() {
    let rail = Rail::start(&[("MAX_RETRIES", "0")]).await;
    rail.api.create_group("quiet").await;
    let named = json!({ "event_types": ["eventrail.*", "a.b"] });
    rail.endpoint_with("default", "/both", named).await;
    rail.endpoint_with("quiet", "/quiet", json!({ "event_types": ["a.b"] })).await;
    rail.receiver.always("/both", Answer::status(500));
    rail.receiver.always("/quiet", Answer::status(500));
    rail.api.post_event("a.b", "test", json!(1)).await;
    rail.arrived("/both", 2).await;
    rail.stack.assert_settled().await;
    let told = told(&rail).await;
    let told: Vec<(&str, &str)> = told.iter().map(|(name, group, _)| (&**name, &**group)).collect();
    assert_eq!(told, [("eventrail.delivery.dead", "default")]);
    let dead = rail.stack.deliveries().await;
    assert_eq!(dead.iter().filter(|row| row.status == "dead").count(), 3, "one of them the event's own");
    rail.end().await;
}

#[tokio::test]
async fn an_endpoint_that_comes_back_is_told_of() {
    let rail = Rail::start(&[]).await;
    rail.endpoint_with("default", "/watch", json!({ "event_types": ["eventrail.endpoint.*"] })).await;
    let away = rail.endpoint_with("default", "/away", json!({ "event_types": ["a.*"] })).await;
    let path = format!("/consumer-groups/default/endpoints/{}", away.id);
    let _ = rail.api.post(&format!("{path}/disable"), &json!({})).await.expect(200);
    rail.until_parked(&away).await;
    rail.api.post_event("a.b", "test", json!(1)).await;
    let _ = rail.api.post(&format!("{path}/enable"), &json!({})).await.expect(200);
    rail.arrived("/away", 1).await;
    let requests = rail.arrived("/watch", 2).await;
    assert_eq!(types(&requests), ["eventrail.endpoint.disabled", "eventrail.endpoint.recovered"]);
    let data = &requests[1].json()["data"];
    assert_eq!((&data["endpoint_id"], &data["parked_because"]), (&json!(away.id), &json!("disabled")));
    rail.end().await;
}
