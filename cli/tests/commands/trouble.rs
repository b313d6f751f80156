//! What goes wrong is one line on standard error, and an exit code that scripts can tell apart.

use std::process::Stdio;

use eventrail_core::testing::{Answer, Receiver};
use tokio::io::AsyncReadExt as _;

use crate::desk::{BINARY, Desk, run};

const ID: &str = "01h455vb4pex5vsknk084sn02q";

#[tokio::test]
async fn an_api_that_is_not_there_or_is_something_else_is_named() {
    let away = [("EVENTRAIL_URL", "http://127.0.0.1:1")];
    let _ =
        run(&away, &["groups", "list"]).await.refuses(1, &["http://127.0.0.1:1", "refused", "EVENTRAIL_URL"]);
    let _ = run(&away, &["groups", "list", "--url", "ftp://x"]).await.refuses(2, &["ftp://x", "http://"]);
    let _ = run(&away, &["groups", "list", "--url", "here"]).await.refuses(2, &["--url"]);

    let other = Receiver::start().await;
    let base = other.url("/");
    let words = ["groups", "get", "default", "--url", &base];
    other.always("/consumer-groups/default", Answer::status(200).body("<html>"));
    let _ = run(&[], &words).await.refuses(1, &["does not answer as"]);
    other.always("/consumer-groups/default", Answer::status(502).body("<html>"));
    let _ = run(&[], &words).await.refuses(1, &["502 Bad Gateway"]);
    other.always("/consumer-groups/default", Answer::status(302).header("location", "/elsewhere"));
    let _ = run(&[], &words).await.refuses(1, &["does not answer as"]);
    assert_eq!(other.count_to("/elsewhere"), 0, "the key is carried nowhere else");
    // Behind a path of a proxy.
    other.always(
        "/eventrail/consumer-groups?limit=50",
        Answer::status(200).body(r#"{"data":[],"next_cursor":null}"#),
    );
    let behind = run(&[], &["groups", "list", "--url", &other.url("/eventrail/")]).await.expect(0);
    assert_eq!(behind.err, "There are no groups.\n");
}

#[tokio::test]
async fn what_can_not_be_meant_is_refused_before_anything_is_asked() {
    let away = [("EVENTRAIL_URL", "http://127.0.0.1:1")];
    for (words, complaint) in [
        (vec!["groups", "get", "../api-keys"], "must be 1 to 64 characters"),
        (vec!["groups", "list", "--limit", "0"], "--limit"),
        (vec!["groups", "list", "--nonsense"], "--nonsense"),
        (vec!["events", "get", "ep_1"], "evt_"),
        (vec!["events", "send", "--event-type", "a", "--source", "b"], "--data"),
        (vec!["dead-letters", "redrive"], "--all"),
        (vec!["dead-letters", "purge", "--yes"], "--group"),
        (vec!["replay"], "--from"),
        (vec!["set-cursor", "tomorrow"], "a position"),
        (vec!["endpoints", "create", "http://x", "--header", "nonsense"], "name: value"),
    ] {
        let said = run(&away, &words).await.refuses(2, &[complaint]);
        assert_eq!(said.out, "");
    }
    let help = run(&away, &["dead-letters"]).await.expect(2);
    assert!(help.err.contains("Examples:") && help.err.contains("redrive"), "{help:#?}");
}

#[tokio::test]
async fn a_reader_that_goes_away_is_no_trouble() {
    let desk = Desk::start().await;
    let events: Vec<_> =
        (0..1000).map(|n| serde_json::json!({"event_type": "a.b", "source": "s", "payload": n})).collect();
    for _ in 0..2 {
        desk.api.post_batch(&events).await;
    }
    let mut command = tokio::process::Command::new(BINARY);
    command.args(["events", "list", "--all"]).env_clear().env("EVENTRAIL_URL", desk.api.base());
    let mut process = command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    let mut few = [0; 10];
    let mut out = process.stdout.take().unwrap();
    out.read_exact(&mut few).await.unwrap();
    drop(out);
    let ended = process.wait_with_output().await.unwrap();
    assert_eq!((ended.status.code(), String::from_utf8(ended.stderr).unwrap()), (Some(0), String::new()));
}

#[tokio::test]
async fn an_id_of_another_kind_is_told_apart_from_one_that_is_unknown() {
    let desk = Desk::start().await;
    let (event, endpoint) = (format!("evt_{ID}"), format!("ep_{ID}"));
    let _ = desk.run(&["events", "get", &event]).await.refuses(1, &["no such thing"]);
    let _ = desk.run(&["events", "get", &endpoint]).await.refuses(2, &["evt_"]);
    let _ = desk.run(&["deliveries", "retry", &event, &endpoint]).await.refuses(1, &["no such thing"]);
    let _ = desk.run(&["keys", "revoke", &format!("key_{ID}"), "--yes"]).await.refuses(1, &["no such thing"]);
}
