//! Attempts after the first, and how deliveries die.

use std::collections::HashMap;
use std::time::Duration;

use chrono::{DateTime, SubsecRound, TimeDelta, Utc};
use eventrail_core::ids::EventId;
use eventrail_core::testing::{Answer, Endpoint, Request, eventually};
use serde_json::json;

use crate::rail::{Rail, assert_exactly_once, assert_signed, event_id};

/// Redis counts in milliseconds.
const SLACK: Duration = Duration::from_millis(5);

fn gap(earlier: &Request, later: &Request) -> Duration {
    later.at - earlier.at
}

#[tokio::test]
async fn five_failures_and_a_success_are_six_attempts_with_growing_gaps() {
    let base = Duration::from_millis(150);
    let rail = Rail::start(&[("BASE_BACKOFF_MS", "150")]).await;
    let endpoint = rail.endpoint("default", "/flaky").await;
    rail.receiver.script("/flaky", (0..5).map(|_| Answer::status(500).body("not now")));
    let id = rail.api.post_event("a.b", "test", json!({ "n": 1 })).await;
    let requests = rail.arrived("/flaky", 6).await;
    rail.stack.assert_settled().await;

    assert_eq!(rail.receiver.count(), 6);
    assert_signed(&requests, &endpoint);
    for (n, request) in requests.iter().enumerate() {
        assert_eq!(request.webhook_id(), id);
        assert_eq!(request.header("eventrail-attempt"), (n + 1).to_string());
        assert_eq!(request.body, requests[0].body);
    }
    for (n, pair) in requests.windows(2).enumerate() {
        let least = base.mul_f64(0.8 * f64::from(1 << n));
        assert!(gap(&pair[0], &pair[1]) + SLACK >= least, "retry {}: {:?}", n + 1, gap(&pair[0], &pair[1]));
    }
    let timestamp = |request: &Request| request.header("webhook-timestamp").parse::<i64>().unwrap();
    assert!(timestamp(&requests[5]) > timestamp(&requests[0]), "each attempt has its own timestamp");
    assert_ne!(requests[5].header("webhook-signature"), requests[0].header("webhook-signature"));

    let attempts = rail.attempts(&id, &endpoint).await;
    let told: Vec<_> = attempts
        .iter()
        .map(|attempt| (attempt.number, attempt.status_code, attempt.error.as_deref(), &*attempt.trigger))
        .collect();
    let failed = |n| (n, Some(500), Some("status"), if n == 1 { "feed" } else { "retry" });
    assert_eq!(told, [failed(1), failed(2), failed(3), failed(4), failed(5), (6, Some(200), None, "retry")]);
    assert_eq!(attempts[0].response_body.as_deref(), Some(&b"not now"[..]));
    let row = rail.stack.deliveries().await.remove(0);
    assert_eq!((row.status.as_str(), row.attempt_count, row.last_status_code), ("delivered", 6, Some(200)));
    assert_eq!(row.last_error, None);
    rail.end().await;
}

/// The entries of a DLQ stream.
async fn dead_letters(rail: &Rail, stream: &str) -> Vec<HashMap<String, String>> {
    let mut redis = rail.stack.redis_connection().await;
    let entries: Vec<(String, HashMap<String, String>)> =
        redis::cmd("XRANGE").arg(stream).arg("-").arg("+").query_async(&mut redis).await.unwrap();
    entries.into_iter().map(|(_, fields)| fields).collect()
}

#[tokio::test]
async fn a_delivery_that_always_fails_ends_as_a_dead_letter() {
    let rail = Rail::start(&[("MAX_RETRIES", "3"), ("BASE_BACKOFF_MS", "20")]).await;
    rail.api.create_group("orders").await;
    let of_default = rail.endpoint("default", "/broken").await;
    let of_orders = rail.endpoint("orders", "/refused").await;
    rail.receiver.always("/broken", Answer::status(500));
    rail.receiver.always("/refused", Answer::close());
    let begin = Utc::now();
    let id = rail.api.post_event("a.b", "test", json!(1)).await;
    rail.arrived("/broken", 4).await;
    rail.arrived("/refused", 4).await;
    rail.stack.assert_settled().await;

    for (group, endpoint, error) in [("default", &of_default, "status 500"), ("orders", &of_orders, "reset")]
    {
        let own = format!("eventrail.{{{group}}}.dlq");
        let letters = eventually(async || {
            let letters = dead_letters(&rail, &own).await;
            if letters.is_empty() { Err("no dead letter yet") } else { Ok(letters) }
        })
        .await;
        assert_eq!(letters.len(), 1);
        let letter = &letters[0];
        assert_eq!((&*letter["event"], &*letter["endpoint"]), (&*id, &*endpoint.id));
        assert_eq!((&*letter["group"], &*letter["attempts"]), (group, "4"));
        assert!(letter["last_error"].starts_with(error), "{letter:?}");
        let dead_at: DateTime<Utc> = letter["dead_at"].parse().unwrap();
        assert!(dead_at >= begin.trunc_subsecs(6) && dead_at <= Utc::now());
        assert_eq!(rail.attempts(&id, endpoint).await.len(), 4);
    }
    let original = dead_letters(&rail, "eventrail.events.dlq").await;
    assert_eq!(original, dead_letters(&rail, "eventrail.{default}.dlq").await);
    for row in rail.stack.deliveries().await {
        assert_eq!((row.status.as_str(), row.attempt_count, row.attempt_total), ("dead", 4, 4));
        assert!(row.last_error.is_some());
    }

    // A later event goes the same way, and what is dead stays dead.
    rail.receiver.always("/broken", Answer::status(200));
    rail.receiver.always("/refused", Answer::status(200));
    let later = rail.api.post_event("a.b", "test", json!(2)).await;
    rail.arrived("/broken", 5).await;
    rail.arrived("/refused", 5).await;
    rail.stack.assert_settled().await;
    assert_eq!(rail.receiver.count(), 10);
    assert_eq!(rail.receiver.requests_to("/broken")[4].webhook_id(), later);
    rail.end().await;
}

#[tokio::test]
async fn retry_after_is_kept_in_seconds_and_as_a_date_whatever_the_status() {
    let rail = Rail::start(&[("BASE_BACKOFF_MS", "10")]).await;
    let until = (Utc::now() + TimeDelta::seconds(4)).trunc_subsecs(0);
    let date = until.format("%a, %d %b %Y %H:%M:%S GMT").to_string();
    for (path, status, value) in [
        ("/429", 429, "2"),
        ("/503", 503, "2"),
        ("/500", 500, "2"),
        ("/date", 503, &date),
        ("/late", 429, &date),
    ] {
        rail.endpoint("default", path).await;
        rail.receiver.script(path, [Answer::status(status).header("retry-after", value)]);
    }
    rail.api.post_event("a.b", "test", json!(1)).await;
    for path in ["/429", "/503", "/500"] {
        let requests = rail.arrived(path, 2).await;
        let waited = gap(&requests[0], &requests[1]);
        assert!(waited + SLACK >= Duration::from_secs(2), "{path}: {waited:?}");
    }
    for path in ["/date", "/late"] {
        let requests = rail.arrived(path, 2).await;
        let early = until - requests[1].received_at;
        assert!(early <= TimeDelta::milliseconds(5), "{path}: {early} before {date}");
    }
    rail.stack.assert_settled().await;
    assert_eq!(rail.receiver.count(), 10);
    rail.end().await;
}

#[tokio::test]
async fn retry_after_is_capped_by_the_longest_backoff() {
    let rail = Rail::start(&[("BASE_BACKOFF_MS", "10"), ("MAX_BACKOFF_MS", "1500")]).await;
    rail.endpoint("default", "/greedy").await;
    rail.endpoint("default", "/absurd").await;
    rail.receiver.script("/greedy", [Answer::status(503).header("retry-after", "86400")]);
    rail.receiver.script("/absurd", [Answer::status(429).header("retry-after", "99999999999999999999")]);
    rail.api.post_event("a.b", "test", json!(1)).await;
    for path in ["/greedy", "/absurd"] {
        let requests = rail.arrived(path, 2).await;
        let waited = gap(&requests[0], &requests[1]);
        assert!(waited + SLACK >= Duration::from_millis(1500), "{path}: {waited:?}");
    }
    rail.end().await;
}

#[tokio::test]
async fn a_receiver_that_answers_429_gets_nothing_else_before_the_time_it_asked_for() {
    let rail = Rail::start(&[("BASE_BACKOFF_MS", "10")]).await;
    let busy = rail.endpoint("default", "/busy").await;
    rail.receiver.script("/busy", [Answer::status(429).header("retry-after", "3")]);
    let mut events = rail.post("a.b", 1).await;
    rail.until(&busy, "select exists (select from delivery where endpoint_id = $1 and status = 'retrying')")
        .await;
    events.extend(rail.post("a.b", 50).await);
    let requests = rail.arrived("/busy", 52).await;
    for request in &requests[1..] {
        assert!(gap(&requests[0], request) + SLACK >= Duration::from_secs(3));
    }
    rail.stack.assert_settled().await;
    assert_exactly_once(&requests[1..], &events, &busy);
    rail.end().await;
}

#[tokio::test]
async fn an_endpoint_has_a_retry_policy_of_its_own() {
    let rail = Rail::start(&[("BASE_BACKOFF_MS", "60000")]).await;
    let retry = json!({ "max_retries": 2, "base_backoff_ms": 30 });
    let own = rail.endpoint_with("default", "/own", json!({ "retry": retry })).await;
    let listed = json!({ "retry": { "schedule_seconds": [1] } });
    let explicit = rail.endpoint_with("default", "/schedule", listed).await;
    rail.receiver.always("/own", Answer::status(500));
    rail.receiver.always("/schedule", Answer::status(500));
    let id = rail.api.post_event("a.b", "test", json!(1)).await;
    rail.arrived("/own", 3).await;
    let requests = rail.arrived("/schedule", 2).await;
    assert!(gap(&requests[0], &requests[1]) + SLACK >= Duration::from_secs(1));
    rail.stack.assert_settled().await;
    assert_eq!(rail.attempts(&id, &own).await.len(), 3);
    assert_eq!(rail.attempts(&id, &explicit).await.len(), 2);
    rail.end().await;
}

/// Makes the endpoint active again, and lets what waits for it wait no longer.
async fn enable(rail: &Rail, endpoint: &Endpoint) {
    const ENABLE: &str = "with due as (
            update delivery set next_attempt_at = now() where endpoint_id = $1 and next_attempt_at is not null
        )
        update endpoint set status = 'active', disabled_reason = null, version = raise_topology_version()
        where id = $1 and $2 = ''";
    rail.change(endpoint, ENABLE, "").await;
    // The loader brings them back with the times that they have now.
    let mut redis = rail.stack.redis_connection().await;
    let _: () = redis::cmd("DEL").arg("eventrail.{default}.retry").query_async(&mut redis).await.unwrap();
}

#[tokio::test]
async fn a_410_disables_the_endpoint_and_what_follows_waits_in_the_log() {
    let rail = Rail::start(&[("BASE_BACKOFF_MS", "20")]).await;
    let gone = rail.endpoint("default", "/gone").await;
    let other = rail.endpoint("default", "/other").await;
    rail.receiver.always("/gone", Answer::status(410));
    let mut all = rail.post("a.b", 1).await;
    let path = format!("/consumer-groups/default/endpoints/{}", gone.id);
    let shown = eventually(async || {
        let shown = rail.api.get(&path).await.expect(200).body;
        if shown["status"] == "disabled" { Ok(shown) } else { Err(shown.to_string()) }
    })
    .await;
    assert_eq!(shown["disabled_reason"], "gone");
    rail.until_parked(&gone).await;
    assert_eq!(rail.receiver.count_to("/gone"), 1);

    let waiting = rail.post("a.b", 3_000).await;
    all.extend(waiting.iter().cloned());
    assert_exactly_once(&rail.arrived("/other", all.len()).await, &all, &other);
    rail.until_feed_settled("default").await;
    assert_eq!(rail.receiver.count_to("/gone"), 1, "no retry, and nothing else");
    let rows: i64 = rail.ask(&gone, "select count(*) from delivery where endpoint_id = $1").await;
    assert_eq!(rows, 1, "what is parked costs no rows");
    let dead = rail.attempts(&all[0], &gone).await;
    assert_eq!((dead.len(), dead[0].status_code, dead[0].error.as_deref()), (1, Some(410), Some("status")));

    rail.receiver.always("/gone", Answer::status(200));
    enable(&rail, &gone).await;
    rail.arrived("/gone", 3_001).await;
    rail.stack.assert_settled_within(crate::rail::LONG).await;
    assert_exactly_once(&rail.receiver.requests_to("/gone")[1..], &waiting, &gone);
    rail.end().await;
}

#[tokio::test]
async fn events_in_the_stream_of_an_endpoint_that_answers_410_are_kept_for_it() {
    let rail = Rail::start(&[("BASE_BACKOFF_MS", "20")]).await;
    let gone = rail.endpoint_with("default", "/gone", json!({ "max_in_flight": 3 })).await;
    rail.receiver.always("/gone", Answer::status(410));
    let events = rail.post("a.b", 2_000).await;
    rail.until_parked(&gone).await;
    rail.until_feed_settled("default").await;
    let tried = rail.receiver.count_to("/gone");
    assert!(tried <= 50, "{tried} requests after the first 410");
    let dead: i64 =
        rail.ask(&gone, "select count(*) from delivery where endpoint_id = $1 and status = 'dead'").await;
    assert_eq!(dead, tried as i64);

    rail.receiver.always("/gone", Answer::status(200));
    enable(&rail, &gone).await;
    rail.stack.assert_settled_within(crate::rail::LONG).await;
    let requests = rail.receiver.requests_to("/gone");
    assert_exactly_once(&requests, &events, &gone);
    rail.end().await;
}

#[tokio::test]
async fn a_retry_of_an_event_that_is_gone_ends_as_a_dead_letter() {
    let rail = Rail::start(&[]).await;
    let endpoint = rail.endpoint("default", "/hook").await;
    rail.receiver.always("/hook", Answer::status(500));
    let id = rail.api.post_event("a.b", "test", json!(1)).await;
    rail.arrived("/hook", 1).await;
    rail.until(
        &endpoint,
        "select exists (select from delivery where endpoint_id = $1 and status = 'retrying')",
    )
    .await;
    let others = EventId::generate();
    sqlx::query(
        "insert into delivery (event_id, endpoint_id, group_id, feed_id, ask, status, attempt_count, attempt_total,
                               next_attempt_at)
         select $1, endpoint_id, group_id, feed_id, ask, 'retrying', 0, 0, now() from delivery where event_id = $2",
    )
    .bind(others)
    .bind(event_id(&id))
    .execute(&rail.stack.pool)
    .await
    .unwrap();
    rail.until(
        &endpoint,
        "select exists (select from delivery where endpoint_id = $1 and last_error = 'event_gone')",
    )
    .await;
    let row = rail.stack.deliveries().await.into_iter().find(|row| row.event_id == others).unwrap();
    assert_eq!((row.status.as_str(), row.attempt_total), ("dead", 0));
    rail.receiver.always("/hook", Answer::status(200));
    rail.stack.assert_settled().await;
    assert!(rail.dispatchers[0].log().contains("not on the log any more"));
}
