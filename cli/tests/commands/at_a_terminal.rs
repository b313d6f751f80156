//! What is different where somebody sits at a terminal: questions can be answered, times are relative, bars move.

use std::fs::File;
use std::io::{Read as _, Write as _};
use std::process::Stdio;

use rustix::pty::{OpenptFlags, grantpt, openpt, ptsname, unlockpt};
use serde_json::json;

use crate::desk::{BINARY, Desk};

/// Runs a command at a terminal where this is typed; answers what is seen there, and the exit code.
async fn run(desk: &Desk, words: &[&str], typed: &str) -> (String, Option<i32>) {
    let ours = openpt(OpenptFlags::RDWR | OpenptFlags::NOCTTY).unwrap();
    grantpt(&ours).unwrap();
    unlockpt(&ours).unwrap();
    let name = ptsname(&ours, Vec::new()).unwrap().into_string().unwrap();
    let theirs = File::options().read(true).write(true).open(name).unwrap();
    let mut keyboard = File::from(ours);
    let mut screen = keyboard.try_clone().unwrap();
    let side = || Stdio::from(theirs.try_clone().unwrap());
    let mut command = tokio::process::Command::new(BINARY);
    command.args(words).env_clear().envs([("EVENTRAIL_URL", desk.api.base()), ("TERM", "xterm")]);
    let mut process = command.stdin(side()).stdout(side()).stderr(side()).spawn().unwrap();
    drop(command);
    drop(theirs);
    keyboard.write_all(typed.as_bytes()).unwrap();
    // Until nobody has the other side open any more, which reads as an error.
    let seen = tokio::task::spawn_blocking(move || {
        let mut seen = Vec::new();
        let mut piece = [0; 4096];
        while let Ok(length @ 1..) = screen.read(&mut piece) {
            seen.extend_from_slice(&piece[..length]);
        }
        String::from_utf8_lossy(&seen).into_owned()
    });
    let seen = seen.await.unwrap();
    (seen, process.wait().await.unwrap().code())
}

#[tokio::test]
async fn a_question_is_answered_and_only_yes_is_yes() {
    let desk = Desk::start().await;
    desk.api.create_group("billing").await;
    let delete = ["groups", "delete", "billing"];
    for typed in ["n\n", "\n", "nope\n", "\u{4}"] {
        let (seen, code) = run(&desk, &delete, typed).await;
        assert!(seen.contains("Go on? [y/N]") && seen.contains("nothing was done"), "{typed:?}: {seen}");
        assert_eq!(code, Some(1), "{typed:?}: {seen}");
    }
    let _ = desk.api.get("/consumer-groups/billing").await.expect(200);
    let (seen, code) = run(&desk, &delete, "y\n").await;
    assert!(seen.contains("Deleted the group billing") && code == Some(0), "{seen}");
    let _ = desk.api.get("/consumer-groups/billing").await.expect(404);
}

#[tokio::test]
async fn a_terminal_gets_colours_relative_times_and_a_bar() {
    let desk = Desk::start_delivering().await;
    let endpoint = desk.api.create_endpoint("default", &desk.receiver.url("/hooks")).await;
    desk.api.post_event("a.b", "s", json!(1)).await;
    desk.receiver.wait_for(1).await;
    let (seen, _) = run(&desk, &["events", "list"], "").await;
    assert!(seen.contains(" ago") || seen.contains("now"), "{seen}");
    let (seen, _) = run(&desk, &["events", "list", "--utc"], "").await;
    assert!(seen.contains("Z  ") && !seen.contains("ago"), "{seen}");
    let (seen, _) = run(&desk, &["endpoints", "list"], "").await;
    assert!(seen.contains("\x1b[32mactive"), "{seen:?}");

    let replay = ["replay", "--from", "1h", "--endpoint", &endpoint.id];
    let (seen, code) = run(&desk, &replay, "y\n").await;
    assert!(seen.contains("sends 1 event ") && seen.contains("is done: 1 of 1 delivery"), "{seen}");
    assert!(seen.contains('%'), "there was a bar: {seen:?}");
    assert_eq!(code, Some(0), "{seen}");
    desk.receiver.wait_for(2).await;
}
