//! Endpoints that only fail for long are switched off, and told of.

use std::time::Duration;

use eventrail_core::db::health;
use eventrail_core::testing::{Answer, Stack};
use serde_json::json;

use crate::rail::{Rail, endpoint_id};

#[tokio::test]
async fn an_endpoint_that_only_fails_for_long_is_disabled_until_somebody_enables_it() {
    let rail = Rail::start(&[
        ("AUTO_DISABLE_AFTER", "2s"),
        ("MAX_RETRIES", "50"),
        ("BASE_BACKOFF_MS", "200"),
        ("MAX_BACKOFF_MS", "200"),
    ])
    .await;
    let failing = rail.endpoint("default", "/failing").await;
    rail.endpoint("default", "/good").await;
    rail.endpoint_with("default", "/watch", json!({ "event_types": ["eventrail.endpoint.disabled"] })).await;
    rail.receiver.always("/failing", Answer::status(500));
    let event = rail.api.post_event("a.b", "test", json!(1)).await;
    rail.until(
        &failing,
        "select status = 'disabled' and disabled_reason = 'failing' from endpoint where id = $1",
    )
    .await;
    let told = rail.arrived("/watch", 1).await;
    let data = &told[0].json()["data"];
    assert_eq!((&data["endpoint_id"], &data["reason"]), (&json!(failing.id), &json!("failing")));
    assert!(data["failing_since"].is_string(), "{data}");
    let path = format!("/consumer-groups/default/endpoints/{}", failing.id);
    let shown = rail.api.get(&path).await.expect(200).body;
    assert_eq!((&shown["status"], &shown["disabled_reason"]), (&json!("disabled"), &json!("failing")));

    rail.receiver.always("/failing", Answer::status(200));
    let _ = rail.api.post(&format!("{path}/enable"), &json!({})).await.expect(200);
    rail.stack.assert_settled_within(crate::rail::LONG).await;
    let arrived = rail.receiver.requests_to("/failing");
    assert_eq!(arrived.last().unwrap().webhook_id(), event);
    rail.until(&failing, "select not exists (select from endpoint_health where endpoint_id = $1)").await;
    assert_eq!(rail.receiver.count_to("/good"), 1);
    rail.end().await;
}

const AFTER: Duration = Duration::from_secs(5 * 86_400);

async fn failing_for(stack: &Stack, days: i32, noted: i32) {
    let sql = "update endpoint_health set failing_since = now() - $1 * interval '1 day', noted = $2";
    sqlx::query(sql).bind(days).bind(noted).execute(&stack.pool).await.unwrap();
}

#[tokio::test]
async fn only_days_of_nothing_but_failures_disable() {
    let rail = Rail::without_dispatcher().await;
    let pool = &rail.stack.pool;
    let id = endpoint_id(&rail.endpoint("default", "/").await);
    assert_eq!(health::note_failing(pool, &[id], AFTER).await.unwrap(), []);
    failing_for(&rail.stack, 4, 100).await;
    assert_eq!(health::note_failing(pool, &[id], AFTER).await.unwrap(), [], "not for long enough");
    failing_for(&rail.stack, 6, 1).await;
    assert_eq!(health::note_failing(pool, &[id], AFTER).await.unwrap(), [], "two failures are too few");
    failing_for(&rail.stack, 6, 100).await;
    assert_eq!(health::note_failing(pool, &[id], AFTER).await.unwrap(), [id]);

    // Another dispatcher has got something through meanwhile.
    health::note_healthy(pool, &[id]).await.unwrap();
    assert!(!health::disable_failing(pool, id, AFTER).await.unwrap());
    assert_eq!(health::note_failing(pool, &[id], AFTER).await.unwrap(), [], "it begins anew");
    failing_for(&rail.stack, 6, 100).await;
    assert!(health::disable_failing(pool, id, AFTER).await.unwrap());
    assert!(!health::disable_failing(pool, id, AFTER).await.unwrap(), "it is disabled already");
    assert_eq!(health::note_failing(pool, &[id], AFTER).await.unwrap(), [], "and nothing more is noted");
}
