//! What a receiver sees of a request, and which of its answers count.

use std::net::Ipv4Addr;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use eventrail_core::testing::{Answer, Receiver};
use serde_json::json;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpListener;
use tokio::sync::Notify;

use crate::rail::{Rail, assert_signed, event_id};

#[tokio::test]
async fn a_request_has_our_headers_and_the_custom_ones() {
    let rail = Rail::start(&[]).await;
    rail.api.create_group("orders").await;
    rail.endpoint("default", "/other").await;
    let headers = json!({ "X-Team": "blue", "authorization": "Bearer t0ken", "traceparent": "00-ab-cd-01" });
    let endpoint = rail.endpoint_with("orders", "/a?key=1", json!({ "headers": headers })).await;
    let id = rail.api.post_event("order.created", "shop", json!({ "total": 42 })).await;
    let request = rail.arrived("/a?key=1", 1).await.remove(0);
    assert_eq!(request.method, "POST");
    for (name, expected) in [
        ("x-team", "blue"),
        ("authorization", "Bearer t0ken"),
        ("traceparent", "00-ab-cd-01"),
        ("webhook-id", id.as_str()),
        ("content-type", "application/json"),
        ("eventrail-attempt", "1"),
        ("eventrail-group", "orders"),
        ("user-agent", concat!("EventRail/", env!("CARGO_PKG_VERSION"))),
        ("eventrail-replay", ""),
        ("accept-encoding", ""),
    ] {
        assert_eq!(request.header(name), expected, "{name}");
    }
    let sent: i64 = request.header("webhook-timestamp").parse().unwrap();
    assert!((request.received_at.timestamp() - sent).abs() <= 30);
    assert_signed(std::slice::from_ref(&request), &endpoint);
    let body = request.json();
    assert_eq!(body["id"], id.as_str());
    assert_eq!(body["type"], "order.created");
    assert_eq!(body["source"], "shop");
    assert_eq!(body["data"], json!({ "total": 42 }));
    let event = rail.api.get(&format!("/events/{id}")).await.expect(200);
    assert_eq!(body["timestamp"], event.body["created_at"]);
    rail.end().await;
}

#[tokio::test]
async fn custom_headers_cannot_override_ours() {
    let rail = Rail::without_dispatcher().await;
    for name in [
        "webhook-id",
        "Webhook-Signature",
        "webhook-anything",
        "eventrail-attempt",
        "content-type",
        "content-length",
        "host",
        "connection",
        "transfer-encoding",
        "bad name",
    ] {
        let body = json!({ "url": rail.receiver.url("/a"), "headers": { name: "x" } });
        let reply = rail.api.post("/consumer-groups/default/endpoints", &body).await;
        assert_eq!(reply.status, 422, "{name}: {}", reply.text);
    }
    let body = json!({ "url": rail.receiver.url("/a"), "headers": { "x": "a\r\nwebhook-id: b" } });
    let _ = rail.api.post("/consumer-groups/default/endpoints", &body).await.expect(422);
}

#[tokio::test]
async fn a_redirect_is_a_failure_and_is_not_followed() {
    let rail = Rail::start(&[("MAX_RETRIES", "1"), ("BASE_BACKOFF_MS", "20")]).await;
    let endpoint = rail.endpoint("default", "/moved").await;
    let elsewhere = Receiver::start().await;
    rail.receiver.script(
        "/moved",
        [
            Answer::status(302).header("location", "/target"),
            Answer::status(308).header("location", &elsewhere.url("/target")),
        ],
    );
    let id = rail.api.post_event("a.b", "test", json!(1)).await;
    rail.arrived("/moved", 2).await;
    rail.stack.assert_settled().await;
    let attempts = rail.attempts(&id, &endpoint).await;
    let seen: Vec<_> =
        attempts.iter().map(|attempt| (attempt.status_code, attempt.error.as_deref())).collect();
    assert_eq!(seen, [(Some(302), Some("status")), (Some(308), Some("status"))]);
    assert_eq!(rail.stack.deliveries().await[0].status, "dead");
    assert_eq!((rail.receiver.count(), elsewhere.count()), (2, 0), "the targets got nothing");
    rail.end().await;
}

#[tokio::test]
async fn every_2xx_is_a_delivery_whatever_becomes_of_its_body() {
    let rail = Rail::start(&[]).await;
    let short = json!({ "timeout_ms": 700 });
    let head = "HTTP/1.1 200 OK\r\ncontent-length: 100\r\n\r\nhello";
    let answers = [
        ("/created", Answer::status(201).body("x".repeat(9_000)), Some("x".repeat(4096))),
        ("/empty", Answer::raw("HTTP/1.1 204 No Content\r\n\r\n"), None),
        ("/stalls", Answer::raw_then_hang(head), Some("hello".to_owned())),
        ("/breaks", Answer::raw(head), Some("hello".to_owned())),
    ];
    let mut endpoints = Vec::new();
    for (path, answer, _) in &answers {
        rail.receiver.always(path, answer.clone());
        endpoints.push(rail.endpoint_with("default", path, short.clone()).await);
    }
    let id = rail.api.post_event("a.b", "test", json!(1)).await;
    rail.receiver.wait_for(answers.len()).await;
    rail.stack.assert_settled().await;
    for ((path, _, body), endpoint) in answers.iter().zip(&endpoints) {
        let attempts = rail.attempts(&id, endpoint).await;
        assert_eq!(attempts.len(), 1, "{path}");
        let kept = attempts[0].response_body.clone().map(|bytes| String::from_utf8(bytes).unwrap());
        assert_eq!(&kept, body, "{path}");
        assert_eq!(attempts[0].error, None, "{path}");
        assert!(matches!(attempts[0].status_code, Some(200..=299)), "{path}");
    }
    assert!(rail.stack.deliveries().await.iter().all(|row| row.status == "delivered"));
    rail.end().await;
}

#[tokio::test]
async fn of_an_endless_answer_64_kib_are_read_and_4_are_kept() {
    let rail = Rail::start(&[]).await;
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap();
    let address = listener.local_addr().unwrap();
    let (written, hung_up) = (Arc::new(AtomicU64::new(0)), Arc::new(Notify::new()));
    let (count, ended) = (Arc::clone(&written), Arc::clone(&hung_up));
    let flood = tokio::spawn(async move {
        let (mut stream, _) = listener.accept().await.unwrap();
        let mut request = [0; 4096];
        assert!(stream.read(&mut request).await.unwrap() > 0);
        let head = "HTTP/1.1 200 OK\r\ncontent-length: 1000000000000\r\n\r\n";
        stream.write_all(head.as_bytes()).await.unwrap();
        while stream.write_all(&[b'x'; 16_384]).await.is_ok() {
            count.fetch_add(16_384, Ordering::Relaxed);
        }
        ended.notify_one();
    });
    let url = format!("http://{address}/endless");
    let endpoint = rail.api.create_endpoint("default", &url).await;
    let id = rail.api.post_event("a.b", "test", json!(1)).await;
    let patience = eventrail_core::testing::PATIENCE;
    tokio::time::timeout(patience, hung_up.notified()).await.expect("the answer is cut off");
    flood.await.unwrap();
    rail.stack.assert_settled().await;
    let attempts = rail.attempts(&id, &endpoint).await;
    assert_eq!((attempts.len(), attempts[0].status_code, attempts[0].error.as_deref()), (1, Some(200), None));
    assert_eq!(attempts[0].response_body.as_deref(), Some(&[b'x'; 4096][..]));
    // What was written beyond 64 KiB lies in the buffers of the two sockets.
    let written = written.load(Ordering::Relaxed);
    assert!(written < 32 << 20, "{written} bytes were taken from an endless answer");
    assert!(attempts[0].duration_ms < 15_000, "cut off by its length, not by the timeout");
    let deliveries = rail.stack.deliveries().await;
    assert_eq!((deliveries[0].event_id, deliveries[0].status.as_str()), (event_id(&id), "delivered"));
    rail.end().await;
}
