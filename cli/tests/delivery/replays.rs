//! Replays and redrives: what comes again, to whom, how fast, and what is told of it meanwhile.

use std::collections::{BTreeSet, HashMap};

use chrono::{DateTime, TimeDelta, Utc};
use eventrail_core::testing::{Answer, Api, Request, eventually_within};
use serde_json::{Value, json};

use crate::rail::{LONG, Rail, assert_exactly_once, assert_signed, event_id};

fn window() -> Value {
    let now = Utc::now();
    json!({ "from": now - TimeDelta::hours(1), "to": now + TimeDelta::minutes(1) })
}

fn with(mut body: Value, more: &Value) -> Value {
    for (name, value) in more.as_object().unwrap() {
        body[name] = value.clone();
    }
    body
}

/// Asks for a replay of all that is there; answers its id.
async fn replay(api: &Api, more: &Value) -> String {
    let reply = api.post("/replay", &with(window(), more)).await.expect(202);
    reply.body["id"].as_str().unwrap().to_owned()
}

async fn progress(api: &Api, id: &str) -> Value {
    api.get(&format!("/replays/{id}")).await.expect(200).body
}

async fn until_done(api: &Api, id: &str) -> Value {
    eventually_within(LONG, async || {
        let now = progress(api, id).await;
        if now["status"] == "done" && now["retrying"] == 0 { Ok(now) } else { Err(now.to_string()) }
    })
    .await
}

fn figures(progress: &Value) -> [i64; 6] {
    ["matched", "published", "delivered", "retrying", "dead", "skipped"]
        .map(|name| progress[name].as_i64().unwrap_or(-1))
}

fn ids(requests: &[Request]) -> BTreeSet<String> {
    requests.iter().map(|request| request.webhook_id().to_owned()).collect()
}

#[tokio::test]
async fn a_window_comes_again_to_one_endpoint_and_says_so() {
    let rail = Rail::start(&[]).await;
    let again = rail.endpoint("default", "/again").await;
    let other = rail.endpoint("default", "/other").await;
    let events = rail.post("a.b", 700).await;
    rail.arrived("/other", 700).await;
    assert_exactly_once(&rail.arrived("/again", 700).await, &events, &again);
    rail.receiver.forget();

    let id = replay(&rail.api, &json!({ "endpoint_id": again.id })).await;
    let requests = rail.arrived("/again", 700).await;
    assert_exactly_once(&requests, &events, &again);
    assert!(requests.iter().all(|request| request.header("eventrail-replay") == id));
    assert_eq!(figures(&until_done(&rail.api, &id).await), [700, 700, 700, 0, 0, 0]);
    assert_eq!(rail.receiver.count_to("/other"), 0, "{} was not asked for", other.id);
    let attempts = rail.attempts(&events[0], &again).await;
    assert_eq!(attempts.iter().map(|one| one.trigger.as_str()).collect::<Vec<_>>(), ["feed", "replay"]);
    rail.end().await;
}

#[tokio::test]
async fn a_replay_addresses_those_who_listen_when_it_is_asked_for() {
    let rail = Rail::start(&[]).await;
    rail.api.create_group("early").await;
    rail.endpoint("early", "/early").await;
    let mut users = rail.post("user.created", 20).await;
    let invoices = rail.post("invoice.paid", 30).await;
    // Neither of these two was there when the events were accepted.
    rail.api.create_group("late").await;
    let all = rail.endpoint("late", "/all").await;
    let some = rail.endpoint_with("late", "/some", json!({ "event_types": ["user.*"] })).await;
    rail.arrived("/early", 50).await;
    rail.receiver.forget();

    let id = replay(&rail.api, &json!({ "group": "late" })).await;
    assert_exactly_once(&rail.arrived("/some", 20).await, &users, &some);
    let done = until_done(&rail.api, &id).await;
    assert_eq!(figures(&done), [50, 50, 70, 0, 0, 0]);
    users.extend(invoices.clone());
    assert_exactly_once(&rail.receiver.requests_to("/all"), &users, &all);
    assert_eq!(rail.receiver.count_to("/early"), 0);
    rail.receiver.forget();

    let id = replay(&rail.api, &json!({ "group": "*", "event_type": "invoice.*", "limit": 10 })).await;
    let done = until_done(&rail.api, &id).await;
    assert_eq!(figures(&done), [10, 10, 20, 0, 0, 0]);
    let first_ten: BTreeSet<String> = invoices[..10].iter().cloned().collect();
    assert_eq!(ids(&rail.receiver.requests_to("/all")), first_ten);
    assert_eq!(ids(&rail.receiver.requests_to("/early")), first_ten);
    assert_eq!(rail.receiver.count_to("/some"), 0);
    rail.end().await;
}

#[tokio::test]
async fn only_missing_sends_exactly_what_had_not_been_delivered() {
    let rail = Rail::start(&[("MAX_RETRIES", "0")]).await;
    let endpoint = rail.endpoint("default", "/hook").await;
    let had = rail.post("a.b", 150).await;
    rail.arrived("/hook", 150).await;
    rail.receiver.always("/hook", Answer::status(500));
    // Fewer than open the breaker.
    let missing = rail.post("a.b", 15).await;
    rail.arrived("/hook", 165).await;
    rail.stack.assert_settled().await;
    rail.receiver.always("/hook", Answer::status(200));
    rail.receiver.forget();

    let id = replay(&rail.api, &json!({ "only_missing": true })).await;
    assert_eq!(figures(&until_done(&rail.api, &id).await), [165, 165, 15, 0, 0, 150]);
    let requests = rail.receiver.requests_to("/hook");
    assert_exactly_once(&requests, &missing, &endpoint);
    assert!(requests.iter().all(|request| request.header("eventrail-replay").is_empty()));
    assert!(rail.attempts(&had[0], &endpoint).await.len() == 1);
    rail.end().await;
}

#[tokio::test]
async fn a_replay_keeps_to_its_rate_and_tells_how_far_it_is() {
    let rail = Rail::start(&[]).await;
    rail.endpoint("default", "/hook").await;
    rail.post("a.b", 300).await;
    rail.arrived("/hook", 300).await;
    rail.receiver.forget();

    let id = replay(&rail.api, &json!({ "rate_per_second": 60 })).await;
    let mut before = [0; 6];
    let done = eventually_within(LONG, async || {
        let now = progress(&rail.api, &id).await;
        let is = figures(&now);
        let [matched, published, delivered, retrying, dead, skipped] = is;
        assert!(delivered + retrying + dead + skipped <= matched && published <= matched, "{now}");
        assert!(is.iter().zip(before).all(|(now, before)| *now >= before), "{before:?}, then {is:?}");
        before = is;
        if now["status"] == "done" { Ok(now) } else { Err(now.to_string()) }
    })
    .await;
    assert_eq!(figures(&done), [300, 300, 300, 0, 0, 0]);
    let mut times: Vec<DateTime<Utc>> =
        rail.receiver.requests_to("/hook").iter().map(|request| request.received_at).collect();
    times.sort_unstable();
    // Half a second's worth may come at once.
    for (first, last) in times.iter().zip(times.iter().skip(60 * 3 + 30 + 1)) {
        assert!(*last - *first > TimeDelta::seconds(3), "211 requests in {}", *last - *first);
    }
    rail.end().await;
}

#[tokio::test]
async fn a_cancelled_replay_sends_nothing_more_and_its_retries_end() {
    let rail = Rail::start(&[("BASE_BACKOFF_MS", "600000"), ("MAX_BACKOFF_MS", "600000")]).await;
    let endpoint = rail.endpoint_with("default", "/hook", json!({ "max_in_flight": 4 })).await;
    rail.post("a.b", 2_000).await;
    rail.arrived("/hook", 2_000).await;
    rail.stack.assert_settled().await;
    rail.receiver.forget();
    rail.receiver.script("/hook", vec![Answer::status(500); 5]);
    rail.receiver.always("/hook", Answer::hold(200));

    let id = replay(&rail.api, &json!({ "endpoint_id": endpoint.id })).await;
    rail.arrived("/hook", 6).await;
    let cancelled = rail.api.post(&format!("/replays/{id}/cancel"), &Value::Null).await;
    assert_eq!(cancelled.status, 200, "{}", cancelled.text);
    eventually_within(LONG, async || match rail.keys("*.feed.*").await {
        keys if keys.is_empty() => Ok(()),
        keys => Err(format!("{keys:?}")),
    })
    .await;
    rail.until(
        &endpoint,
        "select not exists (select from delivery where endpoint_id = $1 and status = 'retrying')",
    )
    .await;
    rail.dispatchers[0].until_says("dropped what is left").await;
    let sent = rail.receiver.count_to("/hook");
    assert!(sent <= 10, "{sent} requests: what was in hand is not sent");
    rail.receiver.release();
    // What is live still comes, and nothing else before it.
    rail.receiver.always("/hook", Answer::status(200));
    let live = rail.post("live.now", 1).await;
    rail.receiver.wait_until(|requests| requests.iter().any(|one| one.webhook_id() == live[0])).await;
    rail.stack.assert_settled().await;
    assert!(rail.receiver.count_to("/hook") <= sent + 1);
    let end = progress(&rail.api, &id).await;
    assert_eq!((&end["status"], &end["retrying"], &end["dead"]), (&json!("cancelled"), &json!(0), &json!(5)));
    // Once more changes nothing.
    let _ = rail.api.post(&format!("/replays/{id}/cancel"), &Value::Null).await.expect(200);
    rail.stop().await;
}

#[tokio::test]
async fn a_replay_is_complete_although_its_dispatcher_is_killed_and_redis_flushed() {
    let mut rail = Rail::start(&[]).await;
    let endpoint = rail.endpoint("default", "/hook").await;
    let events = rail.post("a.b", 6_000).await;
    rail.arrived("/hook", 6_000).await;
    rail.stack.assert_settled_within(LONG).await;
    rail.receiver.forget();

    let id = replay(&rail.api, &json!({ "group": "default" })).await;
    rail.arrived("/hook", 1_000).await;
    rail.dispatchers.remove(0).kill9().await;
    let mut redis = rail.stack.redis_connection().await;
    redis::cmd("FLUSHALL").exec_async(&mut redis).await.unwrap();
    let between = progress(&rail.api, &id).await;
    assert_eq!((&between["status"], &between["matched"]), (&json!("running"), &json!(6_000)), "{between}");
    rail.add_dispatcher(&[]).await;
    assert_eq!(figures(&until_done(&rail.api, &id).await), [6_000, 6_000, 6_000, 0, 0, 0]);
    let requests = rail.receiver.requests_to("/hook");
    assert_eq!(ids(&requests), events.iter().cloned().collect());
    assert_signed(&requests[..50], &endpoint);
    // What was under way when the dispatcher was killed, at most.
    assert!(requests.len() <= 6_000 + 512, "{} requests", requests.len());
    rail.end().await;
}

#[tokio::test]
async fn a_replay_waits_for_a_paused_group_and_a_disabled_endpoint() {
    let rail = Rail::start(&[]).await;
    rail.api.create_group("orders").await;
    let endpoint = rail.endpoint("orders", "/hook").await;
    rail.post("a.b", 40).await;
    rail.arrived("/hook", 40).await;
    rail.stack.assert_settled().await;
    rail.receiver.forget();

    let path = format!("/consumer-groups/orders/endpoints/{}", endpoint.id);
    let _ = rail.api.post(&format!("{path}/disable"), &json!({})).await.expect(200);
    let _ = rail.api.post("/consumer-groups/orders/pause", &json!({})).await.expect(200);
    rail.until_parked(&endpoint).await;
    let id = replay(&rail.api, &json!({ "group": "orders" })).await;
    // Its entries are there, and stay.
    eventually_within(LONG, async || {
        let now = progress(&rail.api, &id).await;
        if now["published"] == 40 { Ok(()) } else { Err(now.to_string()) }
    })
    .await;
    let _ = rail.api.post("/consumer-groups/orders/resume", &json!({})).await.expect(200);
    assert_eq!(progress(&rail.api, &id).await["delivered"], 0);
    assert_eq!(rail.receiver.count(), 0);
    let _ = rail.api.post(&format!("{path}/enable"), &json!({})).await.expect(200);
    assert_eq!(figures(&until_done(&rail.api, &id).await), [40, 40, 40, 0, 0, 0]);
    rail.end().await;
}

#[tokio::test]
async fn dead_letters_of_one_kind_are_tried_again_and_no_others() {
    let rail = Rail::start(&[("MAX_RETRIES", "0")]).await;
    let endpoint = rail.endpoint("default", "/hook").await;
    rail.receiver.always("/hook", Answer::status(503));
    let unavailable = rail.post("a.b", 8).await;
    rail.arrived("/hook", 8).await;
    rail.stack.assert_settled().await;
    rail.receiver.always("/hook", Answer::status(500));
    let broken = rail.post("a.b", 6).await;
    rail.arrived("/hook", 14).await;
    rail.stack.assert_settled().await;
    rail.receiver.always("/hook", Answer::status(200));
    rail.receiver.forget();

    let body = json!({ "group": "default", "error": "503" });
    let preview =
        rail.api.post("/dead-letters/redrive", &with(body.clone(), &json!({ "dry_run": true }))).await;
    assert_eq!((preview.status, &preview.body["matched"]), (200, &json!(8)), "{}", preview.text);
    let asked = rail.api.post("/dead-letters/redrive", &body).await.expect(202).body;
    let id = asked["id"].as_str().unwrap();
    let done = until_done(&rail.api, id).await;
    assert_eq!((&done["kind"], figures(&done)), (&json!("redrive"), [8, 8, 8, 0, 0, 0]));
    let requests = rail.receiver.requests_to("/hook");
    assert_exactly_once(&requests, &unavailable, &endpoint);
    assert!(requests.iter().all(|request| request.header("eventrail-replay").is_empty()));
    let left = rail.api.get("/dead-letters?group=default").await.expect(200).body;
    let left: BTreeSet<&str> =
        left["data"].as_array().unwrap().iter().map(|one| one["event_id"].as_str().unwrap()).collect();
    assert_eq!(left, broken.iter().map(String::as_str).collect());
    rail.end().await;
}

#[tokio::test]
async fn a_replay_that_fails_is_retried_with_the_same_header() {
    let rail = Rail::start(&[("BASE_BACKOFF_MS", "50")]).await;
    let endpoint = rail.endpoint("default", "/hook").await;
    let events = rail.post("a.b", 3).await;
    rail.arrived("/hook", 3).await;
    rail.stack.assert_settled().await;
    rail.receiver.forget();
    rail.receiver.script("/hook", vec![Answer::status(500); 3]);
    let id = replay(&rail.api, &json!({ "endpoint_id": endpoint.id })).await;
    assert_eq!(figures(&until_done(&rail.api, &id).await), [3, 3, 3, 0, 0, 0]);
    let requests = rail.arrived("/hook", 6).await;
    let mut by_event: HashMap<&str, Vec<&str>> = HashMap::new();
    for request in &requests {
        assert_eq!(request.header("eventrail-replay"), id);
        by_event.entry(request.webhook_id()).or_default().push(request.header("eventrail-attempt"));
    }
    assert!(events.iter().all(|event| by_event[event.as_str()] == ["1", "2"]), "{by_event:?}");
    rail.end().await;
}

#[tokio::test]
async fn a_few_are_picked_out_of_many() {
    let rail = Rail::start(&[]).await;
    let endpoint = rail.endpoint("default", "/hook").await;
    let mut wanted = Vec::new();
    for _ in 0..3 {
        rail.post("often.seen", 700).await;
        wanted.extend(rail.post("rarely.seen", 4).await);
    }
    rail.post("often.seen", 700).await;
    rail.arrived("/hook", 2_812).await;
    rail.stack.assert_settled_within(LONG).await;
    for more in [json!({}), json!({ "rate_per_second": 5 })] {
        rail.receiver.forget();
        let id = replay(&rail.api, &with(json!({ "event_type": "rarely.*" }), &more)).await;
        assert_eq!(figures(&until_done(&rail.api, &id).await), [12, 12, 12, 0, 0, 0]);
        assert_exactly_once(&rail.receiver.requests_to("/hook"), &wanted, &endpoint);
    }

    sqlx::query("update delivery set status = 'dead', last_error = 'status', last_status_code = 503")
        .execute(&rail.stack.pool)
        .await
        .unwrap();
    for more in [json!({}), json!({ "rate_per_second": 5 })] {
        sqlx::query("update delivery set status = 'dead' where event_id = any($1)")
            .bind(wanted.iter().map(|id| event_id(id)).collect::<Vec<_>>())
            .execute(&rail.stack.pool)
            .await
            .unwrap();
        rail.receiver.forget();
        let body = with(json!({ "group": "default", "event_type": "rarely.*" }), &more);
        let asked = rail.api.post("/dead-letters/redrive", &body).await.expect(202).body;
        let done = until_done(&rail.api, asked["id"].as_str().unwrap()).await;
        assert_eq!(figures(&done), [12, 12, 12, 0, 0, 0]);
        assert_exactly_once(&rail.receiver.requests_to("/hook"), &wanted, &endpoint);
    }
    rail.end().await;
}

#[tokio::test]
async fn a_replay_is_never_told_to_be_further_than_its_end() {
    let rail = Rail::start(&[]).await;
    let held = rail.endpoint("default", "/held").await;
    let other = rail.endpoint("default", "/other").await;
    rail.post("a.b", 5).await;
    rail.arrived("/held", 5).await;
    rail.arrived("/other", 5).await;
    rail.receiver.always("/held", Answer::hold(200));

    let id = replay(&rail.api, &json!({ "endpoint_id": held.id, "limit": 2 })).await;
    eventually_within(LONG, async || match progress(&rail.api, &id).await {
        now if now["published"] == 2 => Ok(()),
        now => Err(now.to_string()),
    })
    .await;
    // This one ends only with the relay's passes, which look at the first one too, whose entries are held.
    let second = replay(&rail.api, &json!({ "endpoint_id": other.id })).await;
    until_done(&rail.api, &second).await;
    assert_eq!(figures(&progress(&rail.api, &id).await), [2, 2, 0, 0, 0, 0]);
    rail.receiver.always("/held", Answer::status(200));
    rail.receiver.release();
    assert_eq!(figures(&until_done(&rail.api, &id).await), [2, 2, 2, 0, 0, 0]);
    rail.end().await;
}
