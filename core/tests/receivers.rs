//! What docs/RECEIVERS.md tells receivers to write, run: it takes a delivery of ours, and refuses a changed one.
//! `scripts/install-verifiers` installs the libraries; `make test` calls it.

#![allow(clippy::unwrap_used, reason = "a test that fails says where")]

use std::path::PathBuf;
use std::process::Command;

use eventrail_core::secret::Secret;
use eventrail_core::signature::{SigningKey, WEBHOOK_ID, WEBHOOK_SIGNATURE, WEBHOOK_TIMESTAMP, sign};
use serde_json::{Map, Value};

#[allow(unreachable_pub, reason = "as readers would write it")]
#[path = "../../tests/verify/receive.rs"]
#[rustfmt::skip]
mod receive;

const ID: &str = "evt_01h455vb4pex5vsknk084sn02q";
const BODY: &str =
    r#"{"id":"evt_01h455vb4pex5vsknk084sn02q","type":"a.b","source":"s","data":{"name":"Zoë ✓"}}"#;

fn repository() -> PathBuf {
    PathBuf::from(concat!(env!("CARGO_MANIFEST_DIR"), "/.."))
}

/// The block that follows `<!-- run: name -->`.
fn snippet(name: &str) -> String {
    let page = std::fs::read_to_string(repository().join("docs/RECEIVERS.md")).unwrap();
    let (_, rest) = page.split_once(&format!("<!-- run: {name} -->\n")).unwrap();
    let (_fence, code) = rest.split_once('\n').unwrap();
    code.split_once("```").unwrap().0.to_owned()
}

fn headers(secret: &Secret) -> Map<String, Value> {
    let now = chrono::Utc::now().timestamp();
    let signature = sign(ID, now, BODY.as_bytes(), &[SigningKey::new(secret)]);
    let headers =
        [(WEBHOOK_ID, ID.into()), (WEBHOOK_TIMESTAMP, now.to_string()), (WEBHOOK_SIGNATURE, signature)];
    headers.into_iter().map(|(name, value)| (name.to_owned(), Value::String(value))).collect()
}

/// Asserts that `receive`, given a secret, a body and headers, says `verified` or names the library's refusal.
fn takes_only_what_is_signed(receive: impl Fn(&Secret, &str, &Map<String, Value>) -> String) {
    let (secret, other) = (Secret::generate(), Secret::generate());
    let headers = headers(&secret);
    assert_eq!(receive(&secret, BODY, &headers), "verified");
    assert_eq!(receive(&secret, &BODY.replace("a.b", "a.c"), &headers), "WebhookVerificationError");
    assert_eq!(receive(&other, BODY, &headers), "WebhookVerificationError");
}

fn said(command: &mut Command, secret: &Secret, body: &str, headers: &Map<String, Value>) -> String {
    let delivery = serde_json::json!([body, headers]).to_string();
    let output = command.arg(delivery).env("WEBHOOK_SECRET", secret.to_text()).output().unwrap();
    let complaint = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{complaint}");
    String::from_utf8(output.stdout).unwrap().trim().to_owned()
}

#[test]
fn the_javascript_of_the_page_verifies() {
    let rest = r#"
const [body, headers] = JSON.parse(process.argv[1]);
try { console.log(receive(Buffer.from(body), headers).type === "a.b" ? "verified" : "parsed wrongly"); }
catch (error) { console.log(error.constructor.name); }"#;
    let code = snippet("javascript") + rest;
    takes_only_what_is_signed(|secret, body, headers| {
        let mut node = Command::new("node");
        node.args(["--input-type=module", "--eval", &code]).current_dir(repository().join("tests/verify"));
        said(&mut node, secret, body, headers)
    });
}

#[test]
fn the_python_of_the_page_verifies() {
    let rest = r#"
import json, sys
body, headers = json.loads(sys.argv[1])
try:
    print("verified" if receive(body.encode(), headers)["type"] == "a.b" else "parsed wrongly")
except Exception as error:
    print(type(error).__name__)"#;
    let code = snippet("python") + rest;
    takes_only_what_is_signed(|secret, body, headers| {
        let mut python = Command::new(repository().join("target/verifiers/bin/python"));
        said(python.args(["-c", &code]), secret, body, headers)
    });
}

#[test]
fn the_rust_of_the_page_verifies() {
    let (_header, code) = include_str!("../../tests/verify/receive.rs").split_once("\n\n").unwrap();
    assert_eq!(snippet("rust"), code, "the page and the file are one");
    takes_only_what_is_signed(|secret, body, headers| {
        let headers = headers.iter().map(|(name, value)| {
            let value = value.as_str().unwrap().parse::<http::HeaderValue>().unwrap();
            (name.parse::<http::HeaderName>().unwrap(), value)
        });
        match receive::receive(&secret.to_text(), body.as_bytes(), &headers.collect()) {
            Ok(event) if event["type"] == "a.b" => "verified".to_owned(),
            Ok(_) => "parsed wrongly".to_owned(),
            Err(_) => "WebhookVerificationError".to_owned(),
        }
    });
}
