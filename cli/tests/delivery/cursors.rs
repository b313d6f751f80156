//! Cursors that are moved: back into history, forward over a backlog, and back to where they were.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use eventrail_core::testing::{Answer, Api, Endpoint, Request, eventually_within};
use serde_json::{Value, json};

use crate::rail::{LONG, Rail, assert_exactly_once};

async fn set_cursor(api: &Api, body: &Value) -> Value {
    api.post("/consumer-groups/set-cursor", body).await.expect(200).body
}

/// How often each event has arrived, by what the request said of a replay.
fn by_replay(requests: &[Request]) -> BTreeMap<String, Vec<String>> {
    let mut arrived: BTreeMap<String, Vec<String>> = BTreeMap::new();
    for request in requests {
        let replay = request.header("eventrail-replay").to_owned();
        arrived.entry(replay).or_default().push(request.webhook_id().to_owned());
    }
    for ids in arrived.values_mut() {
        ids.sort_unstable();
    }
    arrived
}

async fn until_settled(rail: &Rail) {
    rail.stack.assert_settled_within(LONG).await;
}

#[tokio::test]
async fn a_cursor_at_zero_brings_every_event_again_once_while_live_ones_go_on() {
    let rail = Rail::start(&[]).await;
    rail.endpoint("default", "/hook").await;
    let before = rail.post("a.b", 1_500).await;
    rail.arrived("/hook", 1_500).await;
    let stop = Arc::new(AtomicBool::new(false));
    let producer = {
        let (api, stop) = (rail.api.clone(), Arc::clone(&stop));
        tokio::spawn(async move {
            let mut posted = Vec::new();
            while !stop.load(Ordering::Relaxed) {
                posted.push(api.post_event("live.now", "test", json!(posted.len())).await);
            }
            posted
        })
    };
    rail.arrived("/hook", 1_550).await;
    let preview = set_cursor(&rail.api, &json!({ "start_id": "0", "dry_run": true })).await;
    assert!(preview["events"].as_i64().unwrap() >= 1_500, "{preview}");
    let moved = set_cursor(&rail.api, &json!({ "start_id": "0" })).await;
    assert_eq!((&moved["group"], &moved["position"]), (&json!("default"), &json!(0)));
    assert!(moved["previous"].as_i64().unwrap() > 0, "{moved}");
    rail.arrived("/hook", 3_100).await;
    stop.store(true, Ordering::Relaxed);
    let live = producer.await.unwrap();
    until_settled(&rail).await;

    let arrived = by_replay(&rail.receiver.requests_to("/hook"));
    assert_eq!(arrived.len(), 2, "without the header, and with that of the reset");
    let (first, again) = (&arrived[""], arrived.iter().find(|(id, _)| !id.is_empty()).unwrap().1);
    let once: BTreeSet<&String> = again.iter().collect();
    assert_eq!(once.len(), again.len(), "none twice in the new epoch");
    assert!(before.iter().all(|id| once.contains(id)), "every event that was there comes again");
    // Live events are sent at least once; those accepted before the reset also again.
    let all: BTreeSet<&String> = first.iter().chain(again).collect();
    assert!(before.iter().chain(&live).all(|id| all.contains(id)));
    assert_eq!(first.iter().collect::<BTreeSet<_>>().len(), first.len(), "none twice before or after it");
    rail.end().await;
}

#[tokio::test]
async fn acknowledgements_of_the_old_epoch_change_nothing() {
    let rail = Rail::start(&[]).await;
    let endpoint = rail.endpoint("default", "/hook").await;
    rail.receiver.always("/hook", Answer::hold(200));
    let events = rail.post("a.b", 20).await;
    rail.arrived("/hook", 20).await;
    set_cursor(&rail.api, &json!({ "group": "default", "start_id": "0" })).await;
    eventually_within(LONG, async || match rail.keys("*.events.1").await {
        keys if keys.len() == 1 => Ok(()),
        keys => Err(format!("no stream of the new epoch: {keys:?}")),
    })
    .await;
    rail.receiver.always("/hook", Answer::status(200));
    rail.receiver.release();
    let requests = rail.arrived("/hook", 40).await;
    until_settled(&rail).await;
    let arrived = by_replay(&requests);
    let mut expected = events.clone();
    expected.sort_unstable();
    assert!(arrived.values().all(|ids| *ids == expected), "{arrived:?}");
    assert_eq!(rail.attempts(&events[0], &endpoint).await.len(), 2);
    assert_eq!(rail.receiver.count(), 40);
    rail.end().await;
}

#[tokio::test]
async fn a_backlog_is_skipped_and_what_was_skipped_can_be_had_after_all() {
    let mut rail = Rail::start(&[]).await;
    rail.api.create_group("orders").await;
    let endpoint = rail.endpoint("orders", "/hook").await;
    let had = rail.post("a.b", 30).await;
    rail.arrived("/hook", 30).await;
    until_settled(&rail).await;
    assert!(rail.dispatchers.remove(0).sigterm().await.success());
    let backlog = rail.post("a.b", 50).await;
    let preview =
        set_cursor(&rail.api, &json!({ "group": "orders", "start_id": "$", "dry_run": true })).await;
    assert_eq!(preview["events"], 50, "{preview}");
    let moved = set_cursor(&rail.api, &json!({ "group": "orders", "start_id": "$" })).await;
    rail.add_dispatcher(&[]).await;
    let after = rail.post("a.b", 5).await;
    rail.arrived("/hook", 35).await;
    until_settled(&rail).await;
    let expected: Vec<String> = had.iter().chain(&after).cloned().collect();
    assert_exactly_once(&rail.receiver.requests(), &expected, &endpoint);
    let where_it_is = rail.api.get(&format!("/events/{}/deliveries", backlog[0])).await.expect(200).body;
    assert_eq!(where_it_is["data"][0]["status"], "dead", "{where_it_is}");

    // The undo: back to where it was, without what has been delivered since.
    let undo = json!({ "group": "orders", "start_id": moved["previous"].to_string(), "only_missing": true });
    set_cursor(&rail.api, &undo).await;
    let requests = rail.arrived("/hook", 85).await;
    until_settled(&rail).await;
    let expected: Vec<String> = expected.iter().chain(&backlog).cloned().collect();
    assert_exactly_once(&rail.receiver.requests(), &expected, &endpoint);
    assert!(requests.iter().all(|request| request.header("eventrail-replay").is_empty()));
    rail.end().await;
}

#[tokio::test]
async fn a_reset_is_undone_before_it_has_done_much() {
    let rail = Rail::start(&[]).await;
    rail.endpoint_with("default", "/hook", json!({ "max_in_flight": 2 })).await;
    rail.post("a.b", 3_000).await;
    rail.arrived("/hook", 3_000).await;
    until_settled(&rail).await;
    rail.receiver.forget();
    rail.receiver.always("/hook", Answer::hold(200));
    let moved = set_cursor(&rail.api, &json!({ "start_id": "0" })).await;
    rail.arrived("/hook", 2).await;
    let undo = json!({ "start_id": moved["previous"].to_string(), "only_missing": true });
    set_cursor(&rail.api, &undo).await;
    rail.receiver.always("/hook", Answer::status(200));
    rail.receiver.release();
    let live = rail.post("live.now", 1).await;
    rail.receiver.wait_until(|requests| requests.iter().any(|one| one.webhook_id() == live[0])).await;
    until_settled(&rail).await;
    // What the dispatcher had in hand of the history goes on to its end; the rest never came.
    assert!(rail.receiver.count() < 2_999, "{} requests", rail.receiver.count());
    rail.end().await;
}

#[tokio::test]
async fn an_endpoint_that_was_away_gets_history_from_the_new_position_once() {
    let rail = Rail::start(&[]).await;
    rail.api.create_group("orders").await;
    let away = rail.endpoint("orders", "/away").await;
    let there = rail.endpoint("orders", "/there").await;
    let first = rail.post("a.b", 20).await;
    rail.arrived("/away", 20).await;
    until_settled(&rail).await;
    disable(&rail, &away).await;
    let second = rail.post("a.b", 30).await;
    rail.arrived("/there", 50).await;
    rail.receiver.forget();

    let third = first[10].clone();
    set_cursor(&rail.api, &json!({ "group": "orders", "start_id": third })).await;
    let expected: Vec<String> = first[10..].iter().chain(&second).cloned().collect();
    assert_exactly_once(&rail.arrived("/there", 40).await, &expected, &there);
    assert_eq!(rail.receiver.count_to("/away"), 0);
    let path = format!("/consumer-groups/orders/endpoints/{}/enable", away.id);
    let _ = rail.api.post(&path, &json!({})).await.expect(200);
    let requests = rail.arrived("/away", 40).await;
    until_settled(&rail).await;
    assert_exactly_once(&rail.receiver.requests_to("/away"), &expected, &away);
    assert!(requests.iter().all(|request| !request.header("eventrail-replay").is_empty()));
    rail.end().await;
}

#[tokio::test]
async fn what_a_parked_endpoint_has_missed_outlives_a_cursor_that_goes_back_or_skips_and_returns() {
    let rail = Rail::start(&[]).await;
    rail.api.create_group("orders").await;
    let away = rail.endpoint("orders", "/away").await;
    let there = rail.endpoint("orders", "/there").await;
    disable(&rail, &away).await;
    let missed = rail.post("a.b", 60).await;
    rail.arrived("/there", 60).await;
    until_settled(&rail).await;
    // Back into the middle of what it has missed: the first half is still owed to it.
    set_cursor(&rail.api, &json!({ "group": "orders", "start_id": missed[30] })).await;
    rail.arrived("/there", 90).await;
    until_settled(&rail).await;
    // And a skip that is undone.
    let moved = set_cursor(&rail.api, &json!({ "group": "orders", "start_id": "$" })).await;
    let undo = json!({ "group": "orders", "start_id": moved["previous"].to_string(), "only_missing": true });
    set_cursor(&rail.api, &undo).await;
    let path = format!("/consumer-groups/orders/endpoints/{}/enable", away.id);
    let _ = rail.api.post(&path, &json!({})).await.expect(200);
    rail.arrived("/away", 60).await;
    until_settled(&rail).await;
    assert_exactly_once(&rail.receiver.requests_to("/away"), &missed, &away);
    assert_eq!(rail.receiver.count_to("/there"), 90, "{} has had all of it", there.id);
    rail.end().await;
}

#[tokio::test]
async fn what_was_owed_under_another_filter_outlives_a_cursor_that_goes_back() {
    let mut rail = Rail::start(&[]).await;
    rail.api.create_group("orders").await;
    let away = rail.endpoint("orders", "/away").await;
    let there = rail.endpoint("orders", "/there").await;
    let mut expected = rail.post("a.b", 5).await;
    rail.arrived("/away", 5).await;
    until_settled(&rail).await;
    disable(&rail, &away).await;
    expected.extend(rail.post("a.b", 10).await);
    rail.arrived("/there", 15).await;
    rail.until_feed_settled("orders").await;
    // What comes now is neither settled nor read.
    assert!(rail.dispatchers.remove(0).sigterm().await.success());
    expected.extend(rail.post("a.b", 20).await);

    for endpoint in [&away, &there] {
        let path = format!("/consumer-groups/orders/endpoints/{}", endpoint.id);
        let narrow = rail.api.request("PATCH", &path).json(&json!({ "event_types": ["x.*"] }));
        let _ = Api::send(narrow).await.unwrap().expect(200);
    }
    set_cursor(&rail.api, &json!({ "group": "orders", "start_id": "0" })).await;
    rail.add_dispatcher(&[]).await;
    let path = format!("/consumer-groups/orders/endpoints/{}/enable", away.id);
    let _ = rail.api.post(&path, &json!({})).await.expect(200);
    rail.arrived("/away", 35).await;
    rail.arrived("/there", 35).await;
    until_settled(&rail).await;
    // What they had is no history that they want now.
    assert_exactly_once(&rail.receiver.requests_to("/away"), &expected, &away);
    assert_exactly_once(&rail.receiver.requests_to("/there"), &expected, &there);
    rail.end().await;
}

#[tokio::test]
async fn a_cursor_moved_over_a_catch_up_ends_it() {
    let rail = Rail::start(&[]).await;
    rail.api.create_group("orders").await;
    let away = rail.endpoint("orders", "/away").await;
    disable(&rail, &away).await;
    let missed = rail.post("a.b", 500).await;
    rail.receiver.always("/away", Answer::hold(200));
    let path = format!("/consumer-groups/orders/endpoints/{}/enable", away.id);
    let _ = rail.api.post(&path, &json!({})).await.expect(200);
    rail.arrived("/away", 1).await;
    set_cursor(&rail.api, &json!({ "group": "orders", "start_id": "$" })).await;
    rail.dispatchers[0].until_says("dropped what is left").await;
    rail.receiver.always("/away", Answer::status(200));
    rail.receiver.release();
    let after = rail.post("a.b", 3).await;
    rail.receiver
        .wait_until(|requests| after.iter().all(|id| requests.iter().any(|r| r.webhook_id() == id)))
        .await;
    until_settled(&rail).await;
    assert!(rail.receiver.count() < 503, "{} requests", rail.receiver.count());
    // And back: now all of it.
    rail.receiver.forget();
    set_cursor(&rail.api, &json!({ "group": "orders", "start_id": missed[0] })).await;
    let expected: Vec<String> = missed.iter().chain(&after).cloned().collect();
    rail.arrived("/away", 503).await;
    until_settled(&rail).await;
    assert_exactly_once(&rail.receiver.requests_to("/away"), &expected, &away);
    rail.end().await;
}

async fn disable(rail: &Rail, endpoint: &Endpoint) {
    let path = format!("/consumer-groups/orders/endpoints/{}/disable", endpoint.id);
    let _ = rail.api.post(&path, &json!({})).await.expect(200);
    rail.until_parked(endpoint).await;
}
