//! The service keeps to the specification that it serves: Schemathesis makes up requests from it, good ones and
//! bad ones, and checks the answers. `scripts/install-verifiers` installs it; `make test` calls that.
#![allow(clippy::unwrap_used, reason = "in a test a panic is the report")]

use std::path::PathBuf;

use eventrail_core::testing::{EventrailProcess, Receiver, Stack};
use serde_json::json;
use tokio::process::Command;

const TOKEN: &str = "contract";
/// For each operation and phase; the seed makes runs alike.
const EXAMPLES: &str = "20";
const SEED: &str = "1";

fn repository() -> PathBuf {
    PathBuf::from(concat!(env!("CARGO_MANIFEST_DIR"), "/.."))
}

#[tokio::test]
async fn the_service_keeps_to_its_specification() {
    let schemathesis = repository().join("target/verifiers/bin/schemathesis");
    assert!(schemathesis.exists(), "Schemathesis is not installed: run scripts/install-verifiers");
    let stack = Stack::start().await;
    let environment = [("ADMIN_TOKEN", TOKEN), ("RUST_LOG", "error")];
    let process = EventrailProcess::api(env!("CARGO_BIN_EXE_eventrail"), &stack, &environment).await;
    let receiver = Receiver::start().await;
    let api = process.client().with_key(TOKEN);
    let endpoint =
        api.post("/consumer-groups/default/endpoints", &json!({ "url": receiver.url("/contract") })).await;
    let event = json!({ "event_type": "a.b", "source": "contract", "payload": null });
    let event = api.post("/events", &event).await.expect(201);
    let window = json!({ "from": "2026-01-01T00:00:00Z", "to": "2126-01-01T00:00:00Z" });
    let replay = api.post("/replay", &window).await.expect(202);

    let verify = repository().join("tests/verify");
    let output = Command::new(schemathesis)
        .arg("--config-file")
        .arg(verify.join("contract.toml"))
        .args(["run", "--no-color", "--seed", SEED, "--max-examples", EXAMPLES, "--header"])
        .arg(format!("Authorization: Bearer {TOKEN}"))
        .arg(format!("{}/openapi.json", api.base()))
        .env("SCHEMATHESIS_HOOKS", "contract_hooks")
        .env("PYTHONPATH", &verify)
        .env("PYTHONDONTWRITEBYTECODE", "1")
        .env("ENDPOINT_ID", endpoint.expect(201).body["id"].as_str().unwrap())
        .env("EVENT_ID", event.body["id"].as_str().unwrap())
        .env("REPLAY_ID", replay.body["id"].as_str().unwrap())
        .current_dir(stack.directory())
        .kill_on_drop(true)
        .output()
        .await
        .unwrap();
    let said = String::from_utf8_lossy(&output.stdout);
    let complaint = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{said}\n{complaint}");
    println!("{said}");
    // A run that tried nothing has shown nothing.
    let number = |line: &str| line.trim().split_once(" generated")?.0.parse::<u32>().ok();
    assert!(said.lines().find_map(number).unwrap() > 1000, "{said}");
}
