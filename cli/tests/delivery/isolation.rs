//! An endpoint that is slow, hangs or fails delays nobody else.

use std::time::Duration;

use eventrail_core::testing::{Answer, Endpoint, eventually_within};
use serde_json::json;

use crate::rail::{Rail, assert_exactly_once};

const ATTEMPTS: &str = "select count(*) from attempt where endpoint_id = $1";

#[tokio::test]
async fn a_receiver_that_hangs_delays_nobody_else() {
    let rail = Rail::start(&[]).await;
    rail.api.create_group("orders").await;
    let hanging = rail.endpoint_with("orders", "/hanging", json!({ "timeout_ms": 60_000 })).await;
    let beside = rail.endpoint("orders", "/beside").await;
    let elsewhere = rail.endpoint("default", "/elsewhere").await;
    rail.receiver.always("/hanging", Answer::hold(200));
    let events = rail.post("a.b", 2_000).await;
    let of_beside = rail.arrived("/beside", events.len()).await;
    let of_elsewhere = rail.arrived("/elsewhere", events.len()).await;
    let ended: i64 = rail.ask(&hanging, ATTEMPTS).await;
    assert_eq!(ended, 0, "all are delivered while the first requests to the other are still held");
    assert!(rail.receiver.count_to("/hanging") > 0);
    assert_exactly_once(&of_beside, &events, &beside);
    assert_exactly_once(&of_elsewhere, &events, &elsewhere);

    rail.receiver.always("/hanging", Answer::status(200));
    rail.receiver.release();
    let late = rail.arrived("/hanging", events.len()).await;
    rail.stack.assert_settled_within(crate::rail::LONG).await;
    assert_exactly_once(&late, &events, &hanging);
    rail.end().await;
}

/// Four endpoints, of which the last holds its requests, and whose stream has room for 25 entries.
async fn a_narrow_stream(timeout_ms: u32) -> (Rail, Vec<Endpoint>, Endpoint) {
    let rail = Rail::start(&[("STREAM_WINDOW", "100")]).await;
    let mut prompt = Vec::new();
    for n in 0..3 {
        prompt.push(rail.endpoint("default", &format!("/prompt/{n}")).await);
    }
    let held = rail.endpoint_with("default", "/held", json!({ "timeout_ms": timeout_ms })).await;
    rail.receiver.always("/held", Answer::hold(200));
    (rail, prompt, held)
}

#[tokio::test]
async fn requests_under_way_to_one_endpoint_do_not_fill_the_stream() {
    let (rail, prompt, held) = a_narrow_stream(60_000).await;
    // More than the relay appends at once.
    let events = rail.post("a.b", 2_000).await;
    for (n, endpoint) in prompt.iter().enumerate() {
        assert_exactly_once(&rail.arrived(&format!("/prompt/{n}"), events.len()).await, &events, endpoint);
    }
    let ended: i64 = rail.ask(&held, ATTEMPTS).await;
    assert_eq!(ended, 0, "its requests are still held");

    rail.receiver.always("/held", Answer::status(200));
    rail.receiver.release();
    let late = rail.arrived("/held", events.len()).await;
    rail.stack.assert_settled_within(crate::rail::LONG).await;
    assert_exactly_once(&late, &events, &held);
    let attempts: i64 = rail.ask(&held, ATTEMPTS).await;
    assert_eq!(attempts, events.len() as i64, "the outcomes of those handed over are recorded too");
    rail.end().await;
}

#[tokio::test]
async fn what_was_handed_over_by_a_dispatcher_that_died_is_tried_again() {
    let (mut rail, prompt, held) = a_narrow_stream(15_000).await;
    let events = rail.post("a.b", 20).await;
    for n in 0..prompt.len() {
        rail.arrived(&format!("/prompt/{n}"), events.len()).await;
    }
    rail.arrived("/held", events.len()).await;
    rail.until_feed_settled("default").await;
    let rows =
        "select count(*) from delivery where endpoint_id = $1 and status = 'pending' and attempt_total = 0";
    let handed_over: i64 = rail.ask(&held, rows).await;
    assert_eq!(handed_over, events.len() as i64, "each is a row while its request is held");

    rail.dispatchers.remove(0).kill9().await;
    rail.receiver.always("/held", Answer::status(200));
    rail.receiver.release();
    rail.receiver.forget();
    rail.add_dispatcher(&[]).await;
    let again = rail.arrived("/held", events.len()).await;
    rail.stack.assert_settled_within(crate::rail::LONG).await;
    assert_exactly_once(&again, &events, &held);
    assert_eq!(rail.receiver.count(), events.len(), "nothing else is sent again");
    rail.end().await;
}

#[tokio::test]
async fn a_receiver_that_hangs_is_cut_at_its_timeout_again_and_again() {
    let rail =
        Rail::start(&[("ATTEMPT_TIMEOUT_MS", "500"), ("MAX_RETRIES", "1"), ("BASE_BACKOFF_MS", "10")]).await;
    let hanging = rail.endpoint("default", "/hanging").await;
    let beside = rail.endpoint("default", "/beside").await;
    rail.receiver.always("/hanging", Answer::hang());
    let events = rail.post("a.b", 5).await;
    assert_exactly_once(&rail.arrived("/beside", 5).await, &events, &beside);
    rail.arrived("/hanging", 10).await;
    rail.stack.assert_settled().await;
    for event in &events {
        let attempts = rail.attempts(event, &hanging).await;
        assert_eq!(attempts.len(), 2);
        for attempt in attempts {
            assert_eq!((attempt.error.as_deref(), attempt.status_code), (Some("timeout"), None));
            assert!(attempt.duration_ms >= 500, "{attempt:?}");
        }
    }
    rail.end().await;
}

#[tokio::test]
async fn an_overwhelmed_endpoint_is_parked_and_catches_up_while_others_go_on() {
    let rail = Rail::start(&[]).await;
    let narrow = json!({ "max_in_flight": 1, "timeout_ms": 60_000 });
    let slow = rail.endpoint_with("default", "/slow", narrow).await;
    let fast = rail.endpoint("default", "/fast").await;
    rail.receiver.always("/slow", Answer::hold(200));
    let mut events = rail.post("a.b", 2_000).await;
    rail.arrived("/fast", events.len()).await;
    rail.until_parked(&slow).await;
    let ended: i64 = rail.ask(&slow, ATTEMPTS).await;
    assert_eq!((ended, rail.receiver.count_to("/slow")), (0, 1), "one in flight, as it wishes");
    let rows: i64 = rail.ask(&slow, "select count(*) from delivery where endpoint_id = $1").await;
    assert!(rows > 1000 && rows <= 2_000, "{rows}");
    events.extend(rail.post("a.b", 1_500).await);
    assert_exactly_once(&rail.arrived("/fast", events.len()).await, &events, &fast);

    rail.receiver.always("/slow", Answer::status(200).after(Duration::from_millis(1)));
    rail.receiver.release();
    let late = rail.arrived("/slow", events.len()).await;
    rail.stack.assert_settled_within(crate::rail::LONG).await;
    assert_exactly_once(&late, &events, &slow);
    let caught_up: i64 =
        rail.ask(&slow, "select count(*) from attempt where endpoint_id = $1 and trigger = 'catch_up'").await;
    eprintln!("{rows} deferred, {caught_up} of {} by catch-up", events.len());
    assert!(caught_up > 0);
    rail.end().await;
}

#[tokio::test]
async fn a_failing_endpoint_among_good_ones_delays_none_of_them() {
    let rail =
        Rail::start(&[("MAX_RETRIES", "50"), ("BASE_BACKOFF_MS", "100"), ("MAX_BACKOFF_MS", "2000")]).await;
    let failing = rail.endpoint("default", "/failing").await;
    let good = rail.endpoint("default", "/good").await;
    rail.receiver.always("/failing", Answer::status(500));
    let mut events = rail.post("a.b", 2_000).await;
    rail.until_parked(&failing).await;
    events.extend(rail.post("a.b", 2_000).await);
    assert_exactly_once(&rail.arrived("/good", events.len()).await, &events, &good);
    let failed = rail.receiver.count_to("/failing");
    eprintln!("{failed} requests to the failing endpoint");
    assert!(failed < 1_000, "the breaker spares it: {failed}");

    rail.receiver.always("/failing", Answer::status(200));
    rail.stack.assert_settled_within(crate::rail::LONG).await;
    let delivered: i64 = rail
        .ask(&failing, "select count(*) from delivery where endpoint_id = $1 and status = 'delivered'")
        .await;
    assert_eq!(delivered, events.len() as i64);
    let well: i64 =
        rail.ask(&failing, "select count(*) from attempt where endpoint_id = $1 and status_code = 200").await;
    assert_eq!(well, events.len() as i64, "each was delivered once");
    rail.end().await;
}

#[tokio::test]
async fn an_endpoint_that_keeps_failing_is_shown_so_and_stalls_its_group() {
    let rail =
        Rail::start(&[("MAX_RETRIES", "50"), ("BASE_BACKOFF_MS", "100"), ("MAX_BACKOFF_MS", "1000")]).await;
    let failing = rail.endpoint("default", "/failing").await;
    let path = format!("/consumer-groups/default/endpoints/{}", failing.id);
    let shows = async |breaker: &str, stalled: Option<&str>| {
        eventually_within(crate::rail::LONG, async || {
            let endpoint = rail.api.get(&path).await.expect(200).body;
            assert_eq!(endpoint["parked_at"], json!(null), "it is not parked for so little");
            let group = rail.api.get("/consumer-groups/default").await.expect(200).body;
            let is = (&endpoint["breaker"], &group["stalled_because"]);
            if is == (&json!(breaker), &json!(stalled)) { Ok(()) } else { Err(format!("{is:?}")) }
        })
        .await;
    };
    shows("closed", None).await;
    rail.receiver.always("/failing", Answer::status(500));
    let events = rail.post("a.b", 25).await;
    shows("open", Some("endpoints_unavailable")).await;

    rail.receiver.always("/failing", Answer::status(200));
    shows("closed", None).await;
    rail.stack.assert_settled_within(crate::rail::LONG).await;
    for event in &events {
        assert_eq!(rail.attempts(event, &failing).await.last().unwrap().status_code, Some(200));
    }
    let listed = rail.api.get("/consumer-groups/default/endpoints").await.expect(200).body;
    assert_eq!(listed["data"][0]["breaker"], "closed");
    rail.end().await;
}
