//! What the owner of an endpoint may wish for: a rate, credentials, new secrets, other filters, a pause.

use std::time::Duration;

use chrono::TimeDelta;
use eventrail_core::secret::Secret;
use eventrail_core::signature;
use eventrail_core::testing::{Answer, Api, Request, eventually};
use serde_json::{Value, json};

use crate::rail::{LONG, Rail, assert_exactly_once};

fn verifies(request: &Request, secret: &str) -> bool {
    let secrets: [Secret; 1] = [secret.parse().unwrap()];
    signature::verify(
        &secrets,
        request.webhook_id(),
        request.header("webhook-timestamp"),
        request.header("webhook-signature"),
        &request.body,
        request.received_at.timestamp(),
    )
    .is_ok()
}

async fn patch(api: &Api, path: &str, body: &Value) {
    let _ = Api::send(api.request("PATCH", path).json(body)).await.unwrap().expect(200);
}

#[tokio::test]
async fn a_rate_is_shared_by_all_dispatchers_and_delays_no_other_endpoint() {
    let mut rail = Rail::start(&[]).await;
    rail.add_dispatcher(&[]).await;
    let rated = rail.endpoint_with("default", "/rated", json!({ "rate_per_second": 50 })).await;
    let free = rail.endpoint("default", "/free").await;
    let events = rail.post("a.b", 700).await;
    assert_exactly_once(&rail.arrived("/free", 700).await, &events, &free);
    assert!(rail.receiver.count_to("/rated") < 350, "the others do not wait for it");

    let requests = rail.arrived("/rated", 700).await;
    assert_exactly_once(&requests, &events, &rated);
    let mut times: Vec<_> = requests.iter().map(|request| request.received_at).collect();
    times.sort_unstable();
    // 5 % above 50 a second are 525 in ten seconds, wherever they begin.
    for (first, last) in times.iter().zip(times.iter().skip(525)) {
        assert!(*last - *first > TimeDelta::seconds(10), "526 requests in {}", *last - *first);
    }
    let took = (times[699] - times[0]).num_milliseconds();
    eprintln!("700 requests at 50/s took {took} ms: {:.1}/s", 699_000.0 / took as f64);
    rail.end().await;
}

#[tokio::test]
async fn credentials_reach_the_receiver_and_nobody_else() {
    let rail = Rail::start(&[("RUST_LOG", "trace")]).await;
    let basic = json!({ "auth": { "type": "basic", "username": "us", "password": "p4ssw0rd" } });
    let basic = rail.endpoint_with("default", "/basic", basic).await;
    let bearer = json!({ "auth": { "type": "bearer", "token": "t0k3n-of-theirs" } });
    rail.endpoint_with("default", "/bearer", bearer).await;
    rail.post("a.b", 1).await;
    assert_eq!(rail.arrived("/basic", 1).await[0].header("authorization"), "Basic dXM6cDRzc3cwcmQ=");
    assert_eq!(rail.arrived("/bearer", 1).await[0].header("authorization"), "Bearer t0k3n-of-theirs");
    rail.stack.assert_settled().await;
    let shown = rail.api.get(&format!("/consumer-groups/default/endpoints/{}", basic.id)).await.expect(200);
    assert!(!shown.body.to_string().contains("p4ssw0rd"));
    let log = rail.dispatchers[0].log();
    for secret in ["p4ssw0rd", "dXM6cDRzc3cwcmQ=", "t0k3n-of-theirs", &basic.secret] {
        assert!(!log.contains(secret), "the dispatcher's log at trace has {secret}");
    }
    rail.end().await;
}

#[tokio::test]
async fn both_secrets_sign_in_the_grace_period_and_only_the_new_one_after_it() {
    let rail = Rail::start(&[]).await;
    let endpoint = rail.endpoint("default", "/hook").await;
    let rotate = format!("/consumer-groups/default/endpoints/{}/secret/rotate", endpoint.id);
    let secret = |reply: &Value| reply["secrets"][0]["secret"].as_str().unwrap().to_owned();
    let second = secret(&rail.api.post(&rotate, &json!({ "grace_seconds": 3600 })).await.expect(200).body);
    // Dispatchers hear of it within a second.
    let both = eventually(async || {
        let arrived = rail.receiver.count_to("/hook");
        rail.post("a.b", 1).await;
        let request = rail.arrived("/hook", arrived + 1).await.pop().unwrap();
        if verifies(&request, &second) { Ok(request) } else { Err("signed with the old secret alone") }
    })
    .await;
    assert!(verifies(&both, &endpoint.secret));

    let third = secret(&rail.api.post(&rotate, &json!({ "grace_seconds": 0 })).await.expect(200).body);
    let alone = eventually(async || {
        let arrived = rail.receiver.count_to("/hook");
        rail.post("a.b", 1).await;
        let request = rail.arrived("/hook", arrived + 1).await.pop().unwrap();
        if verifies(&request, &second) { Err("the second secret still signs") } else { Ok(request) }
    })
    .await;
    assert!(verifies(&alone, &third));
    rail.end().await;
}

#[tokio::test]
async fn a_changed_filter_affects_no_event_accepted_before_it_even_when_redis_is_flushed() {
    let mut rail = Rail::without_dispatcher().await;
    let endpoint = rail.endpoint_with("default", "/hook", json!({ "event_types": ["user.*"] })).await;
    let mut owed = rail.post("user.created", 20).await;
    rail.post("invoice.paid", 20).await;
    let path = format!("/consumer-groups/default/endpoints/{}", endpoint.id);
    patch(&rail.api, &path, &json!({ "event_types": ["invoice.*"] })).await;
    rail.post("user.created", 20).await;
    owed.extend(rail.post("invoice.paid", 20).await);
    rail.receiver.always("/hook", Answer::hold(200));
    rail.add_dispatcher(&[]).await;
    rail.arrived("/hook", 1).await;
    let mut redis = rail.stack.redis_connection().await;
    redis::cmd("FLUSHALL").exec_async(&mut redis).await.unwrap();
    rail.receiver.always("/hook", Answer::status(200));
    rail.receiver.release();
    rail.arrived("/hook", owed.len()).await;
    rail.stack.assert_settled().await;
    let mut arrived: Vec<String> =
        rail.receiver.requests_to("/hook").iter().map(|request| request.webhook_id().to_owned()).collect();
    arrived.sort_unstable();
    arrived.dedup();
    owed.sort_unstable();
    assert_eq!(arrived, owed);
    rail.end().await;
}

#[tokio::test]
async fn a_paused_group_gets_nothing_and_then_everything_once() {
    let rail = Rail::start(&[("BASE_BACKOFF_MS", "200")]).await;
    rail.api.create_group("orders").await;
    let paused = rail.endpoint("orders", "/paused").await;
    let beside = rail.endpoint("default", "/beside").await;
    rail.receiver.script("/paused", [Answer::status(500), Answer::status(500)]);
    let mut events = rail.post("a.b", 2).await;
    rail.arrived("/paused", 2).await;
    let _ = rail.api.post("/consumer-groups/orders/pause", &json!({})).await.expect(200);
    // Dispatchers hear of it within a second; what goes out until then is not what is asked here.
    let quiet_since = eventually(async || {
        let before = rail.receiver.count_to("/paused");
        let probe = rail.post("a.b", 1).await;
        events.extend(probe);
        rail.arrived("/beside", events.len()).await;
        let statement = "select count(*) from delivery where endpoint_id = $1 and status = 'retrying'";
        let waiting: i64 = rail.ask(&paused, statement).await;
        let now = rail.receiver.count_to("/paused");
        if now == before { Ok(now) } else { Err(format!("{} more, {waiting} wait", now - before)) }
    })
    .await;
    let more = rail.post("a.b", 300).await;
    events.extend(more);
    assert_exactly_once(&rail.arrived("/beside", events.len()).await, &events, &beside);
    assert_eq!(rail.receiver.count_to("/paused"), quiet_since, "nothing goes to a paused group");

    let _ = rail.api.post("/consumer-groups/orders/resume", &json!({})).await.expect(200);
    rail.arrived("/paused", events.len() + 2).await;
    rail.stack.assert_settled_within(crate::rail::LONG).await;
    let delivered: i64 = rail
        .ask(&paused, "select count(*) from delivery where endpoint_id = $1 and status = 'delivered'")
        .await;
    assert_eq!(delivered, events.len() as i64);
    assert_eq!(rail.receiver.count_to("/paused"), events.len() + 2, "each once, and two that failed");
    rail.end().await;
}

#[tokio::test]
async fn an_endpoint_that_is_enabled_again_gets_its_backlog_or_skips_it() {
    let rail = Rail::start(&[]).await;
    let kept = rail.endpoint("default", "/kept").await;
    let skipped = rail.endpoint("default", "/skipped").await;
    let path =
        |endpoint: &str, action: &str| format!("/consumer-groups/default/endpoints/{endpoint}/{action}");
    for endpoint in [&kept, &skipped] {
        let _ = rail.api.post(&path(&endpoint.id, "disable"), &json!({})).await.expect(200);
    }
    for endpoint in [&kept, &skipped] {
        rail.until_parked(endpoint).await;
    }
    let events = rail.post("a.b", 500).await;
    let _ = rail.api.post(&path(&kept.id, "enable"), &json!({ "backlog": "deliver" })).await.expect(200);
    let _ = rail.api.post(&path(&skipped.id, "enable"), &json!({ "backlog": "skip" })).await.expect(200);
    assert_exactly_once(&rail.arrived("/kept", 500).await, &events, &kept);
    let later = rail.post("a.b", 10).await;
    assert_exactly_once(&rail.arrived("/skipped", 10).await, &later, &skipped);
    rail.stack.assert_settled_within(Duration::from_secs(120)).await;
    assert_eq!(rail.receiver.count_to("/skipped"), 10);
    rail.end().await;
}

#[tokio::test]
async fn history_is_whole_although_the_relay_is_far_behind_itself() {
    let rail = Rail::start(&[]).await;
    rail.endpoint("default", "/first").await;
    rail.post("a.b", 1).await;
    rail.arrived("/first", 1).await;
    rail.dispatchers[0].sigstop();
    // More than the relay reads at once: the catch-up has come to where it has read when most is still to come.
    let events = rail.post("a.b", 2_500).await;
    let start = rail.api.get(&format!("/events/{}", events[450])).await.expect(200).body["position"].clone();
    let late = rail.endpoint_with("default", "/late", json!({ "start": start })).await;
    rail.dispatchers[0].sigcont();
    rail.arrived("/first", 2_501).await;
    rail.stack.assert_settled_within(LONG).await;
    assert_exactly_once(&rail.receiver.requests_to("/late"), &events[450..], &late);
    rail.end().await;
}

#[tokio::test]
async fn a_new_endpoint_is_given_the_history_that_it_asks_for() {
    let rail = Rail::start(&[]).await;
    let early = rail.post("user.created", 20).await;
    rail.post("invoice.paid", 20).await;
    let late = rail.post("user.created", 20).await;
    let first = rail.api.get(&format!("/events/{}", late[0])).await.expect(200).body;
    let asks = [
        ("/earliest", json!("earliest"), early.len() + late.len()),
        ("/time", first["created_at"].clone(), late.len()),
        ("/position", first["position"].clone(), late.len()),
        ("/latest", json!("latest"), 0),
        ("/future", json!("2999-01-01T00:00:00Z"), 0),
    ];
    let mut endpoints = Vec::new();
    for (path, start, _) in &asks {
        let wish = json!({ "event_types": ["user.*"], "start": start });
        endpoints.push(rail.endpoint_with("default", path, wish).await);
    }
    let mut redis = rail.stack.redis_connection().await;
    redis::cmd("FLUSHALL").exec_async(&mut redis).await.unwrap();
    let new = rail.post("user.created", 5).await;
    for ((path, _, history), endpoint) in asks.iter().zip(&endpoints) {
        rail.arrived(path, history + new.len()).await;
        rail.stack.assert_settled_within(crate::rail::LONG).await;
        let mut owed: Vec<String> = early.iter().chain(&late).cloned().collect();
        owed.drain(..owed.len() - history);
        owed.extend(new.iter().cloned());
        assert_exactly_once(&rail.receiver.requests_to(path), &owed, endpoint);
    }
    rail.end().await;
}

#[tokio::test]
async fn a_retry_by_hand_is_made_now_although_the_next_one_is_scheduled() {
    let rail = Rail::start(&[]).await;
    // Within the loader's horizon, so that it stands in the ZSET, and far beyond what a retry by hand takes.
    let patient = json!({ "retry": { "schedule_seconds": [50, 50] } });
    let endpoint = rail.endpoint_with("default", "/hook", patient).await;
    rail.receiver.script("/hook", [Answer::status(500)]);
    let events = rail.post("a.b", 1).await;
    let statement = "select exists (select from delivery where endpoint_id = $1 and status = 'retrying')";
    rail.until(&endpoint, statement).await;
    let path = format!("/deliveries/{}/{}/retry", events[0], endpoint.id);
    let _ = rail.api.post(&path, &json!({})).await.expect(202);
    let requests = rail.arrived("/hook", 2).await;
    let waited = requests[1].received_at - requests[0].received_at;
    assert!(waited < TimeDelta::seconds(45), "it waited for its schedule: {waited}");
    rail.end().await;
}

#[tokio::test]
async fn a_ping_reaches_a_disabled_endpoint_and_leaves_no_rows() {
    let rail = Rail::start(&[]).await;
    let endpoint = rail.endpoint("default", "/hook").await;
    let path = |action: &str| format!("/consumer-groups/default/endpoints/{}/{action}", endpoint.id);
    let _ = rail.api.post(&path("disable"), &json!({})).await.expect(200);
    rail.receiver.script("/hook", [Answer::status(204), Answer::status(503)]);
    let good = rail.api.post(&path("test"), &json!({})).await.expect(200).body;
    let bad = rail.api.post(&path("test"), &json!({})).await.expect(200).body;
    assert_eq!((good["status_code"].as_i64(), bad["status_code"].as_i64()), (Some(204), Some(503)));
    assert_eq!(bad["error"], "status");
    let request = &rail.receiver.requests_to("/hook")[0];
    assert!(verifies(request, &endpoint.secret));
    assert_eq!(request.json()["type"], "eventrail.ping");
    let rows: i64 = rail.ask(&endpoint, "select count(*) from delivery where endpoint_id = $1").await;
    assert_eq!(rows, 0);
    rail.stop().await;
}
