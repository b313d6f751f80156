//! The whole rail as separate processes: an event posted to `eventrail api` is delivered by `eventrail
//! dispatcher`, signed, and settled.
#![allow(clippy::unwrap_used, reason = "in a test a panic is the report")]

use std::process::Stdio;

use chrono::Utc;
use eventrail_core::signature::{WEBHOOK_ID, WEBHOOK_SIGNATURE, WEBHOOK_TIMESTAMP, verify};
use eventrail_core::testing::{Answer, EventrailProcess, Receiver, SECRETS_KEY, Stack};
use serde_json::json;
use tokio::io::{AsyncBufReadExt as _, BufReader};

const BINARY: &str = env!("CARGO_BIN_EXE_eventrail");

#[tokio::test]
async fn an_event_posted_is_an_event_delivered() {
    let stack = Stack::start().await;
    let receiver = Receiver::start().await;
    let api = EventrailProcess::api(BINARY, &stack, &[]).await;
    let dispatcher = EventrailProcess::dispatcher(BINARY, &stack, &[]).await;
    let endpoint = api.client().create_endpoint("default", &receiver.url("/hooks")).await;
    let id = api.client().post_event("order.created", "shop", json!({ "total": 42 })).await;

    let request = receiver.wait_for(1).await.remove(0);
    assert_eq!(request.webhook_id(), id);
    assert_eq!(request.json()["data"], json!({ "total": 42 }));
    verify(
        &[endpoint.secret.parse().unwrap()],
        request.header(WEBHOOK_ID),
        request.header(WEBHOOK_TIMESTAMP),
        request.header(WEBHOOK_SIGNATURE),
        &request.body,
        Utc::now().timestamp(),
    )
    .unwrap();

    stack.assert_settled().await;
    let rows = stack.deliveries().await;
    assert_eq!(rows.len(), 1);
    assert_eq!((rows[0].status.as_str(), rows[0].attempt_count), ("delivered", 1));
    assert_eq!(stack.attempts(rows[0].event_id, rows[0].endpoint_id).await.len(), 1);
    assert!(api.metrics().await.contains("eventrail_events_accepted_total 1"));
    assert!(dispatcher.metrics().await.contains("eventrail_deliveries_total{status=\"delivered\"} 1"));
    assert!(dispatcher.sigterm().await.success());
    assert!(api.sigterm().await.success());
}

#[tokio::test]
async fn the_first_sigterm_lets_a_dispatcher_finish_and_the_second_does_not() {
    let stack = Stack::start().await;
    let receiver = Receiver::start().await;
    receiver.script("/hooks", [Answer::hold(200), Answer::hold(200)]);
    let api = EventrailProcess::api(BINARY, &stack, &[]).await;
    api.client().create_endpoint("default", &receiver.url("/hooks")).await;

    let patient = EventrailProcess::dispatcher(BINARY, &stack, &[]).await;
    api.client().post_event("order.created", "shop", json!({})).await;
    receiver.wait_for(1).await;
    patient.send_sigterm();
    patient.until_says("stopping").await;
    receiver.release();
    assert!(patient.exit().await.success());
    let rows = stack.deliveries().await;
    assert_eq!((rows[0].status.as_str(), rows[0].attempt_count), ("delivered", 1));

    let cut_short = EventrailProcess::dispatcher(BINARY, &stack, &[]).await;
    api.client().post_event("order.created", "shop", json!({})).await;
    receiver.wait_for(2).await;
    cut_short.send_sigterm();
    cut_short.until_says("stopping").await;
    assert_eq!(cut_short.sigterm().await.code(), Some(1));
    assert_eq!(stack.deliveries().await.len(), 1, "nothing is known of the attempt that was cut");

    let _next = EventrailProcess::dispatcher(BINARY, &stack, &[]).await;
    stack.assert_settled().await;
    let rows = stack.deliveries().await;
    assert!(rows.iter().all(|row| row.status == "delivered" && row.attempt_count == 1), "{rows:?}");
    assert_eq!(receiver.count(), 3);
}

#[tokio::test]
async fn secrets_sealed_with_another_key_sign_on_without_the_old_one() {
    const NEW_KEY: &str = "//79/Pv6+fj39vX08/Lx8O/u7ezr6uno5+bl5OPi4eA=";
    let stack = Stack::start().await;
    let receiver = Receiver::start().await;
    let api = EventrailProcess::api(BINARY, &stack, &[]).await;
    let body = json!({ "url": receiver.url("/hooks"), "auth": { "type": "bearer", "token": "t0k3n" } });
    let endpoint = api.client().create_endpoint_with("default", &body).await;
    assert!(api.sigterm().await.success());

    // Without the old key nothing can be signed, so nothing is sent.
    let stranger = EventrailProcess::api(BINARY, &stack, &[("SECRETS_KEY", NEW_KEY)]).await;
    let test = format!("/consumer-groups/default/endpoints/{}/test", endpoint.id);
    let _ = stranger.client().post(&test, &json!({})).await.expect(500);
    assert!(stranger.log().contains("check SECRETS_KEY"));
    assert!(stranger.sigterm().await.success());

    let rekey = async |old: &[&str]| {
        let mut environment = stack.environment();
        environment.push(("SECRETS_KEY".into(), NEW_KEY.into()));
        environment.extend(old.iter().map(|key| ("SECRETS_KEYS_OLD".into(), (*key).into())));
        let process = EventrailProcess::spawn(BINARY, &["rekey"], &environment, "127.0.0.1:9");
        process.until_says("sealed").await;
        (process.log(), process.exit().await.success())
    };
    let (log, well) = rekey(&[]).await;
    assert!(!well && log.contains(&endpoint.id), "without the old key nothing opens: {log}");
    let (log, well) = rekey(&[SECRETS_KEY]).await;
    assert!(well && log.contains("sealed=2"), "the secret and the credentials: {log}");
    let (log, well) = rekey(&[]).await;
    assert!(well && log.contains("sealed=0"), "all are: {log}");

    let alone = [("SECRETS_KEY", NEW_KEY)];
    let api = EventrailProcess::api(BINARY, &stack, &alone).await;
    let _dispatcher = EventrailProcess::dispatcher(BINARY, &stack, &alone).await;
    let secret = format!("/consumer-groups/default/endpoints/{}/secret", endpoint.id);
    let shown = api.client().get(&secret).await.expect(200).body;
    assert_eq!(shown["secrets"][0]["secret"], endpoint.secret);
    api.client().post_event("order.created", "shop", json!({})).await;
    let request = receiver.wait_for(1).await.remove(0);
    assert_eq!(request.header("authorization"), "Bearer t0k3n");
    verify(
        &[endpoint.secret.parse().unwrap()],
        request.header(WEBHOOK_ID),
        request.header(WEBHOOK_TIMESTAMP),
        request.header(WEBHOOK_SIGNATURE),
        &request.body,
        Utc::now().timestamp(),
    )
    .unwrap();
    stack.assert_settled().await;
}

#[tokio::test]
async fn the_receiver_sums_up_at_the_first_sigterm() {
    let mut command = tokio::process::Command::new(BINARY);
    command.args(["receiver", "--listen", "127.0.0.1:0"]).env_clear().stdout(Stdio::piped());
    let mut receiver = command.kill_on_drop(true).spawn().unwrap();
    let mut said = BufReader::new(receiver.stdout.take().unwrap()).lines();
    assert!(said.next_line().await.unwrap().unwrap().contains("127.0.0.1:"));
    let pid = rustix::process::Pid::from_raw(receiver.id().unwrap().try_into().unwrap()).unwrap();
    rustix::process::kill_process(pid, rustix::process::Signal::TERM).unwrap();
    let mut last = String::new();
    while let Some(line) = said.next_line().await.unwrap() {
        last = line;
    }
    assert!(last.starts_with("0 "), "{last}");
    assert!(receiver.wait().await.unwrap().success());
}
