//! `eventrail replay`, `eventrail replays` and `eventrail set-cursor`

use std::process::Stdio;

use eventrail_core::testing::{Answer, eventually};
use serde_json::{Value, json};
use tokio::io::{AsyncBufReadExt as _, BufReader};

use crate::desk::{BINARY, Desk};

/// Events that have been delivered to `/hooks`; answers the endpoint's id.
async fn deliver(desk: &Desk, count: usize, more: Value) -> String {
    let mut body = more;
    body["url"] = desk.receiver.url("/hooks").into();
    let endpoint = desk.api.create_endpoint_with("default", &body).await;
    let events: Vec<Value> =
        (0..count).map(|n| json!({"event_type": "a.b", "source": "s", "payload": n})).collect();
    desk.api.post_batch(&events).await;
    desk.receiver.wait_for(count).await;
    let settled = async || {
        let group = desk.api.get("/consumer-groups/default").await.expect(200).body;
        if group["lag"] == 0 { Ok(()) } else { Err(group.to_string()) }
    };
    eventually(settled).await;
    endpoint.id
}

/// The id in a text.
fn replay_id(text: &str) -> String {
    let word = text.split_whitespace().find(|word| word.starts_with("rpl_")).unwrap();
    word.trim_end_matches([':', '.']).to_owned()
}

#[tokio::test]
async fn a_replay_is_previewed_asked_about_watched_and_listed() {
    let desk = Desk::start_delivering().await;
    let endpoint = deliver(&desk, 20, json!({})).await;
    let window = ["replay", "--from", "1h", "--endpoint", &endpoint];
    let preview = desk.run(&[&window[..], &["--dry-run"]].concat()).await;
    let _ = preview.shows(&["20 events in 20 deliveries to 1 endpoint would be sent", "evt_", "a.b"]);
    let _ = desk.run(&window).await.refuses(2, &["sends 20 events", &endpoint, "--only-missing", "--yes"]);

    // Nothing that was delivered is sent again, so nobody need be asked.
    let missing = desk.run(&[&window[..], &["--only-missing"]].concat()).await;
    let _ = missing.shows(&["is done", "0 delivered", "20 skipped"]);
    assert_eq!(desk.receiver.count_to("/hooks"), 20);

    let done = desk.run(&[&window[..], &["--yes", "--limit", "5"]].concat()).await;
    let done = done.shows(&["is done: 5 of 5 deliveries: 5 delivered"]);
    let id = replay_id(&done.out);
    assert_eq!(desk.receiver.count_to("/hooks"), 25);
    assert!(desk.receiver.requests()[20..].iter().all(|request| request.header("eventrail-replay") == id));

    let detached = desk.run(&[&window[..], &["--yes", "--detach", "--json"]].concat()).await.expect(0);
    let third = detached.json()["id"].as_str().unwrap().to_owned();
    let _ = desk.run(&["replays", "watch", &third]).await.shows(&[&third, "is done", "20 delivered"]);
    let listed = desk.run(&["replays", "list"]).await.expect(0);
    assert_eq!(listed.rows().len(), 3);
    assert_eq!(listed.rows()[0][..3], [&third, "replay", "done"]);
    let _ = desk.run(&["replays", "get", &id]).await.shows(&[&endpoint, "done", "settled per second"]);
    let as_json = desk.run(&["replays", "get", &id, "--json"]).await.expect(0);
    assert_eq!(as_json.json()["delivered"], 5);
    let nothing = ["replay", "--from", "1h", "--event-type", "c.d"];
    let _ = desk.run(&nothing).await.shows(&["No event matches: nothing was started."]);
    let backwards = ["replay", "--from", "now", "--to", "1h", "--yes"];
    let _ = desk.run(&backwards).await.refuses(1, &["/to"]);
}

#[tokio::test]
async fn ctrl_c_stops_the_watching_and_cancel_the_replay() {
    let desk = Desk::start_delivering().await;
    let endpoint = deliver(&desk, 3, json!({"max_in_flight": 1})).await;
    desk.receiver.always("/hooks", Answer::hold(200));
    let mut command = tokio::process::Command::new(BINARY);
    command.args(["replay", "--from", "1h", "--endpoint", &endpoint, "--yes"]);
    command.env_clear().env("EVENTRAIL_URL", desk.api.base()).stdin(Stdio::null()).stderr(Stdio::piped());
    let mut watching = command.kill_on_drop(true).spawn().unwrap();
    let mut said = BufReader::new(watching.stderr.take().unwrap()).lines();
    let progress = said.next_line().await.unwrap().unwrap();
    let id = replay_id(&progress);
    let pid = rustix::process::Pid::from_raw(watching.id().unwrap().try_into().unwrap()).unwrap();
    rustix::process::kill_process(pid, rustix::process::Signal::INT).unwrap();
    let left = said.next_line().await.unwrap().unwrap();
    assert!(left.contains(&format!("eventrail replays cancel {id}")), "{left}");
    assert_eq!(watching.wait().await.unwrap().code(), Some(130));
    let running = desk.run(&["replays", "get", &id, "--json"]).await.expect(0);
    assert_eq!(running.json()["status"], "running");

    let _ = desk.run(&["replays", "cancel", &id]).await.shows(&["was cancelled"]);
    let watched = desk.run(&["replays", "watch", &id]).await.refuses(1, &["was cancelled before its end"]);
    assert!(watched.out.contains("was cancelled"), "{watched:#?}");
    desk.receiver.release();
}

#[tokio::test]
async fn a_cursor_is_set_back_and_the_undo_that_is_printed_works() {
    let desk = Desk::start_delivering().await;
    let _ = deliver(&desk, 10, json!({})).await;
    let back = ["set-cursor", "0"];
    let preview = desk.run(&[&back[..], &["--dry-run"]].concat()).await;
    let _ = preview.shows(&["back", "send 10 events again", "Nothing was done"]);
    let _ = desk.run(&back).await.refuses(2, &["10 events", "--only-missing", "--yes"]);
    let moved = desk.run(&[&back[..], &["--yes"]].concat()).await.shows(&["Undo it: eventrail set-cursor"]);
    desk.receiver.wait_for(20).await;

    let undo = moved.out.lines().last().unwrap().trim_start_matches("Undo it: eventrail ").to_owned();
    let undo: Vec<&str> = undo.split(' ').chain(["--yes"]).collect();
    let _ = desk.run(&undo).await.shows(&["The cursor of default"]);
    let skip = desk.run(&["set-cursor", "$", "--dry-run", "--json"]).await.expect(0).json();
    assert_eq!((&skip["group"], &skip["events"]), (&json!("default"), &json!(0)));
    let _ =
        desk.run(&["set-cursor", "0", "--group", "nobodys", "--yes"]).await.refuses(1, &["no such thing"]);
    let _ = desk.run(&["set-cursor", "5m", "--dry-run"]).await.shows(&["Nothing was done"]);
}
