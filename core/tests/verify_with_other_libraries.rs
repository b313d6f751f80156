//! Deliveries that we sign verify with libraries that others wrote, in three languages, and a changed one
//! does not. `scripts/install-verifiers` installs those for JavaScript and Python; `make test` calls it.

#![expect(clippy::unwrap_used, reason = "a test that fails says where")]

use std::io::Write as _;
use std::path::PathBuf;
use std::process::{Command, Stdio};

use base64::Engine as _;
use base64::prelude::BASE64_STANDARD;
use eventrail_core::secret::Secret;
use eventrail_core::signature::{SigningKey, WEBHOOK_ID, WEBHOOK_SIGNATURE, WEBHOOK_TIMESTAMP, sign, verify};

const BODY: &str =
    r#"{"id":"evt_01h455vb4pex5vsknk084sn02q","type":"user.created","data":{"name":"Zoë ✓","n":1.0}}"#;

struct Delivery {
    id: &'static str,
    timestamp: i64,
    signature: String,
    body: String,
}

impl Delivery {
    fn signed_by(secrets: &[&Secret]) -> Self {
        let keys: Vec<SigningKey> = secrets.iter().map(|secret| SigningKey::new(secret)).collect();
        let (id, timestamp) = ("evt_01h455vb4pex5vsknk084sn02q", chrono::Utc::now().timestamp());
        Self { id, timestamp, signature: sign(id, timestamp, BODY.as_bytes(), &keys), body: BODY.to_owned() }
    }
}

/// Whether this library accepts the delivery.
type Library = fn(&Secret, &Delivery) -> bool;

fn ours(secret: &Secret, delivery: &Delivery) -> bool {
    let now = chrono::Utc::now().timestamp();
    let timestamp = delivery.timestamp.to_string();
    let known = std::slice::from_ref(secret);
    verify(known, delivery.id, &timestamp, &delivery.signature, delivery.body.as_bytes(), now).is_ok()
}

fn rust(secret: &Secret, delivery: &Delivery) -> bool {
    let mut headers = http::HeaderMap::new();
    headers.insert(WEBHOOK_ID, delivery.id.parse().unwrap());
    headers.insert(WEBHOOK_TIMESTAMP, delivery.timestamp.into());
    headers.insert(WEBHOOK_SIGNATURE, delivery.signature.parse().unwrap());
    let webhook = standardwebhooks::Webhook::new(&secret.to_text()).unwrap();
    webhook.verify(delivery.body.as_bytes(), &headers).is_ok()
}

fn javascript(secret: &Secret, delivery: &Delivery) -> bool {
    let installed = repository().join("tests/verify/node_modules/standardwebhooks");
    assert!(installed.exists(), "the JavaScript library is not installed: run scripts/install-verifiers");
    run(Command::new("node").arg(repository().join("tests/verify/verify.mjs")), secret, delivery)
}

fn python(secret: &Secret, delivery: &Delivery) -> bool {
    let interpreter = repository().join("target/verifiers/bin/python");
    assert!(interpreter.exists(), "the Python library is not installed: run scripts/install-verifiers");
    run(Command::new(interpreter).arg(repository().join("tests/verify/verify.py")), secret, delivery)
}

fn run(command: &mut Command, secret: &Secret, delivery: &Delivery) -> bool {
    let line = serde_json::json!({
        "secret": secret.to_text(),
        "headers": {
            WEBHOOK_ID: delivery.id,
            WEBHOOK_TIMESTAMP: delivery.timestamp.to_string(),
            WEBHOOK_SIGNATURE: delivery.signature,
        },
        "body_base64": BASE64_STANDARD.encode(&delivery.body),
    });
    let mut verifier =
        command.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().expect("the verifier starts");
    writeln!(verifier.stdin.take().unwrap(), "{line}").unwrap();
    let output = verifier.wait_with_output().unwrap();
    let said = String::from_utf8_lossy(&output.stdout).trim().to_owned();
    // Anything but a clear yes or the library's own refusal (a missing module, say) fails the test.
    let refused = said.starts_with("WebhookVerificationError");
    assert!(output.status.success() == (said == "verified") && (refused || said == "verified"), "{said}");
    !refused
}

fn repository() -> PathBuf {
    PathBuf::from(concat!(env!("CARGO_MANIFEST_DIR"), "/.."))
}

fn agrees_with_the_standard(accepts: Library) {
    let (secret, other) = (Secret::generate(), Secret::generate());

    let good = Delivery::signed_by(&[&secret]);
    assert!(accepts(&secret, &good), "signed by its secret");
    assert!(!accepts(&other, &good), "signed by another secret");

    let rotated = Delivery::signed_by(&[&other, &secret]);
    assert!(accepts(&secret, &rotated), "the second of two signatures");
    assert!(accepts(&other, &rotated), "the first of two signatures");

    let tampered = Delivery { body: BODY.replace("1.0", "2.0"), ..Delivery::signed_by(&[&secret]) };
    assert!(!accepts(&secret, &tampered), "a changed body");
    let renamed = Delivery { id: "evt_01h455vb4pex5vsknk084sn02r", ..Delivery::signed_by(&[&secret]) };
    assert!(!accepts(&secret, &renamed), "a changed id");
    let replayed = Delivery { timestamp: good.timestamp - 3600, ..good };
    assert!(!accepts(&secret, &replayed), "a changed timestamp");
}

#[test]
fn our_receiver_agrees() {
    agrees_with_the_standard(ours);
}

#[test]
fn the_rust_library_agrees() {
    agrees_with_the_standard(rust);
}

#[test]
fn the_javascript_library_agrees() {
    agrees_with_the_standard(javascript);
}

#[test]
fn the_python_library_agrees() {
    agrees_with_the_standard(python);
}
