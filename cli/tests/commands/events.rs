//! `eventrail events` and `eventrail deliveries`

use eventrail_core::testing::{Answer, eventually};
use serde_json::json;

use crate::desk::Desk;

#[tokio::test]
async fn an_event_is_sent_as_it_was_written_and_found() {
    let desk = Desk::start().await;
    let payload = r#"{ "total": 42.100000000000000000001 }"#;
    let words = [
        "events",
        "send",
        "--event-type",
        "invoice.paid",
        "--source",
        "shop",
        "--idempotency-key",
        "k",
        "--data",
        payload,
    ];
    let sent = desk.run(&words).await.shows(&["Sent evt_", "eventrail events deliveries evt_"]);
    let id = sent.out.split_whitespace().nth(1).unwrap().trim_end_matches('.').to_owned();
    assert_eq!(desk.run(&words).await.expect(0).out, sent.out, "the same key is the same event");
    let _ = desk.run(&["events", "get", &id]).await.shows(&["invoice.paid", "shop", payload]);
    let raw = desk.run(&["events", "get", &id, "--json"]).await.shows(&[payload]);
    assert_eq!(raw.json()["id"], id.as_str());
    let none = desk.run(&["events", "deliveries", &id]).await.expect(0);
    assert_eq!((none.out.as_str(), none.err.as_str()), ("", "It is owed to no endpoint.\n"));

    let other = [&words[..words.len() - 1], &["{}"]].concat();
    let _ = desk.run(&other).await.refuses(1, &["Idempotency-Key", &id]);
    let broken = [&words[..words.len() - 1], &["{"]].concat();
    let _ = desk.run(&broken).await.refuses(2, &["the payload is not JSON"]);
    let own = ["events", "send", "--event-type", "eventrail.x", "--source", "s", "--data", "1"];
    let _ = desk.run(&own).await.refuses(1, &["/event_type"]);
}

#[tokio::test]
async fn many_events_are_sent_from_a_file_and_listed_over_pages() {
    let desk = Desk::start().await;
    let file = std::env::temp_dir().join(format!("eventrail-batch-{}", std::process::id()));
    let lines: Vec<String> = (0..1200)
        .map(|n| {
            let event_type = if n % 2 == 0 { "even.number" } else { "odd.number" };
            let key = format!("k{}", n % 1100);
            json!({"event_type": event_type, "source": "s", "payload": n % 1100, "idempotency_key": key})
                .to_string()
        })
        .collect();
    std::fs::write(&file, lines.join("\n")).unwrap();
    let words = ["events", "send-batch", file.to_str().unwrap()];
    let _ = desk.run(&words).await.shows(&["1,100 events stored, 100 there already."]);
    std::fs::write(&file, "{}\nnonsense\n").unwrap();
    let _ = desk.run(&words).await.refuses(2, &["line 2"]);
    std::fs::remove_file(&file).unwrap();

    let all = desk.run(&["events", "list", "--all"]).await.expect(0);
    assert_eq!(all.rows().len(), 1100);
    let some = ["events", "list", "--event-type", "even.*", "--from", "1h", "--to", "now", "--limit", "501"];
    let even = desk.run(&[&some[..], &["--json"]].concat()).await.expect(0).json();
    let even = even.as_array().unwrap();
    assert_eq!(even.len(), 501);
    assert!(even.iter().all(|event| event["event_type"] == "even.number"));
    let none = desk.run(&["events", "list", "--from", "now"]).await.expect(0);
    assert_eq!(none.err, "There are no such events.\n");
    assert_eq!(desk.run(&["events", "list", "--from", "now", "--json"]).await.expect(0).out, "[]\n");
    eventually(async || {
        let types = desk.run(&["events", "types"]).await.expect(0);
        if types.rows().len() == 2 { Ok(()) } else { Err(types.out) }
    })
    .await;
    let _ = desk.run(&["events", "list", "--from", "yesterday"]).await.refuses(2, &["--from", "15m"]);
}

#[tokio::test]
async fn a_delivery_is_followed_to_the_receivers_last_words_and_tried_again() {
    let desk = Desk::start_delivering().await;
    desk.receiver.always("/hooks", Answer::status(500).body("no ledger\x07"));
    let endpoint = desk.api.create_endpoint("default", &desk.receiver.url("/hooks")).await;
    let event = desk.api.post_event("invoice.paid", "shop", json!(1)).await;
    let status = async |status: &str| {
        eventually(async || {
            let said = desk.run(&["events", "deliveries", &event]).await.expect(0);
            let row = said.rows().first().map(|row| row[2] == status);
            if row == Some(true) { Ok(()) } else { Err(format!("not {status}: {}", said.out)) }
        })
        .await;
    };
    status("dead").await;
    let of_event = ["deliveries", "get", &event, &endpoint.id];
    let shown = desk.run(&of_event).await.shows(&["dead", "500", "no ledger\\u{7}", "retry"]);
    assert!(shown.out.contains("last words"), "{shown:#?}");
    let listed = desk.run(&["deliveries", "list", "--endpoint", &endpoint.id, "--status", "dead"]).await;
    assert_eq!(listed.expect(0).rows()[0][..3], [&event, "dead", "2"]);
    let none = desk.run(&["deliveries", "list", "--status", "delivered"]).await.expect(0);
    assert_eq!(none.err, "There are no such deliveries in the group default.\n");

    desk.receiver.always("/hooks", Answer::status(200));
    let _ = desk.run(&["deliveries", "retry", &event, &endpoint.id]).await.shows(&["tried again now"]);
    status("delivered").await;
    let unknown = event.replace("evt_", "evt_0").get(..event.len()).unwrap().to_owned();
    let _ = desk.run(&["deliveries", "get", &unknown, &endpoint.id]).await.refuses(1, &["no such thing"]);
}
