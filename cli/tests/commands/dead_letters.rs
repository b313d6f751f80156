//! `eventrail dead-letters`

use eventrail_core::testing::{Answer, Endpoint, eventually};
use serde_json::json;

use crate::desk::Desk;

/// Events that die at an endpoint which answers this.
async fn die(desk: &Desk, group: &str, status: u16, count: usize) -> Endpoint {
    let path = format!("/{group}-{status}");
    desk.receiver.always(&path, Answer::status(status));
    let event_type = format!("{group}.s{status}");
    let body =
        json!({"url": desk.receiver.url(&path), "event_types": [event_type], "retry": {"max_retries": 0}});
    let endpoint = desk.api.create_endpoint_with(group, &body).await;
    for n in 0..count {
        desk.api.post_event(&event_type, "shop", json!({ "n": n })).await;
    }
    eventually(async || {
        let dead = desk.run(&["dead-letters", "list", "--endpoint", &endpoint.id]).await.expect(0);
        if dead.rows().len() == count { Ok(()) } else { Err(dead.out) }
    })
    .await;
    endpoint
}

#[tokio::test]
async fn dead_letters_are_seen_previewed_sent_again_downloaded_and_put_away() {
    let desk = Desk::start_delivering().await;
    desk.api.create_group("billing").await;
    let failing = die(&desk, "billing", 503, 3).await;
    let refusing = die(&desk, "billing", 400, 2).await;
    let other = die(&desk, "default", 503, 1).await;

    let errors = desk.run(&["dead-letters", "errors"]).await.expect(0);
    let mut counts: Vec<_> = errors.rows().iter().map(|row| (row[0].to_owned(), row[1].to_owned())).collect();
    counts.sort();
    assert_eq!(counts, [("400".into(), "2".into()), ("503".into(), "4".into())], "{errors:#?}");
    let json = desk.run(&["dead-letters", "errors", "--group", "billing", "--error", "503", "--json"]).await;
    assert_eq!(json.expect(0).json()[0]["count"], 3);

    let of_error = ["dead-letters", "redrive", "--group", "billing", "--error", "503"];
    let preview = desk.run(&[&of_error[..], &["--dry-run"]].concat()).await;
    let _ =
        preview.shows(&["3 dead letters to 1 endpoint would be sent", "Nothing was started", &failing.id]);
    desk.receiver.always("/billing-503", Answer::status(200));
    desk.receiver.forget();
    let done = desk.run(&[&of_error[..], &["--rate-per-second", "1000"]].concat()).await;
    let done = done.shows(&["is done: 3 of 3 deliveries: 3 delivered"]);
    assert!(done.err.contains("of 3 deliveries"), "its progress in plain lines: {done:#?}");
    assert_eq!(desk.receiver.count(), 3);
    let left = desk.run(&["dead-letters", "list"]).await.expect(0);
    assert_eq!(left.rows().len(), 3, "{left:#?}");

    let file = std::env::temp_dir().join(format!("eventrail-dead-{}", std::process::id()));
    let path = file.to_str().unwrap();
    let saved =
        desk.run(&["dead-letters", "download", "--group", "billing", "--output", path]).await.expect(0);
    assert_eq!(saved.err, format!("Wrote 2 dead letters to {path}.\n"));
    let again = desk.run(&["dead-letters", "download", "--output", path]).await;
    let _ = again.refuses(2, &[path]);
    let streamed = desk.run(&["dead-letters", "download", "--group", "billing"]).await.expect(0);
    assert_eq!(streamed.out, std::fs::read_to_string(&file).unwrap());
    std::fs::remove_file(&file).unwrap();
    let first: serde_json::Value = serde_json::from_str(streamed.out.lines().next().unwrap()).unwrap();
    assert_eq!((&first["endpoint_id"], &first["payload"]), (&json!(refusing.id), &json!({"n": 1})));

    let purge = ["dead-letters", "purge", "--group", "billing"];
    let _ = desk.run(&purge).await.refuses(2, &["2 dead letters of the group billing", "--yes"]);
    let _ = desk.run(&[&purge[..], &["--yes"]].concat()).await.shows(&["Put 2 dead letters away"]);
    let _ = desk.run(&purge).await.shows(&["nothing was done"]);
    let left = desk.run(&["dead-letters", "list"]).await.expect(0);
    assert_eq!(left.rows()[0][..4], [left.rows()[0][0], &other.id, "default", "503"]);
    let wrong = desk.run(&["dead-letters", "list", "--group", "nobodys"]).await;
    let _ = wrong.refuses(1, &["There is no such thing"]);
}
