//! What must hold of any hostile receiver: a table of them beside a good endpoint of the same group, a few events,
//! and then each attempt's record.

use std::net::SocketAddr;

use eventrail_core::testing::Endpoint;
use serde_json::{Value, json};

use crate::rail::{Rail, assert_exactly_once};
use crate::wire::Server;

/// Most receivers are given this long.
const TIMEOUT_MS: i32 = 4_000;
/// What a busy machine may add before the record says that an attempt has ended. Slow receivers would take minutes.
const SLACK_MS: i32 = 4_000;
/// What the buffers of two sockets hold beyond the 64 KiB that are read.
const BUFFERS: u64 = 6 << 20;
/// What only the good endpoint gets meanwhile.
const OTHERS: usize = 50;

/// What the record is to say of each attempt.
pub(crate) struct Told {
    /// `None`: it is delivered.
    pub(crate) error: Option<&'static str>,
    pub(crate) status: Option<i32>,
    /// Words of `error_detail`; none for an answer means that there is no detail.
    pub(crate) detail: &'static str,
}

pub(crate) fn failed(error: &'static str, detail: &'static str) -> Told {
    Told { error: Some(error), status: None, detail }
}

pub(crate) fn answered(status: i32, detail: &'static str) -> Told {
    let error = (!(200..300).contains(&status)).then_some("status");
    Told { error, status: Some(status), detail }
}

pub(crate) struct Hostile {
    name: &'static str,
    told: Told,
    scheme: &'static str,
    timeout_ms: i32,
    /// How the body that is kept begins.
    body: &'static [u8],
    at: At,
}

enum At {
    Server(Server),
    Address(SocketAddr),
}

impl Hostile {
    pub(crate) fn new(name: &'static str, server: Server, told: Told) -> Self {
        Self { name, told, scheme: "http", timeout_ms: TIMEOUT_MS, body: b"", at: At::Server(server) }
    }

    /// One without a server to look into.
    pub(crate) fn at(name: &'static str, address: SocketAddr, told: Told) -> Self {
        Self { name, told, scheme: "http", timeout_ms: TIMEOUT_MS, body: b"", at: At::Address(address) }
    }

    pub(crate) fn with_tls(self) -> Self {
        Self { scheme: "https", ..self }
    }

    /// For those that our own limits end before the endpoint's.
    pub(crate) fn with_timeout(self, timeout_ms: i32) -> Self {
        Self { timeout_ms, ..self }
    }

    pub(crate) fn keeping(self, body: &'static [u8]) -> Self {
        Self { body, ..self }
    }

    fn url(&self) -> String {
        let address = match &self.at {
            At::Server(server) => server.address,
            At::Address(address) => *address,
        };
        format!("{}://{address}/?{}", self.scheme, self.name.replace(' ', "+"))
    }
}

/// Sends so many events of nearly the largest size to all of them and to a good endpoint, which gets some more;
/// panics with all that is not as it should be.
pub(crate) async fn try_all(all: Vec<Hostile>, count: usize, environment: &[(&str, &str)]) {
    let mut rail = Rail::without_dispatcher().await;
    let mut settings = vec![("MAX_RETRIES", "0")];
    settings.extend(environment);
    let good = rail.endpoint("default", "/good").await;
    let mut endpoints = Vec::new();
    for hostile in &all {
        let body = json!({ "url": hostile.url(), "timeout_ms": hostile.timeout_ms, "event_types": ["a.b"] });
        endpoints.push(rail.api.create_endpoint_with("default", &body).await);
    }
    rail.add_dispatcher(&settings).await;
    let mut events = Vec::new();
    for _ in 0..count {
        let payload = Value::from("x".repeat(200_000));
        events.push(rail.api.post_event("a.b", "test", payload).await);
    }
    let owed_to_good = [&events[..], &rail.post("c.d", OTHERS).await].concat();
    assert_exactly_once(&rail.arrived("/good", owed_to_good.len()).await, &owed_to_good, &good);
    rail.stack.assert_settled_within(crate::rail::LONG).await;

    let mut complaints = Vec::new();
    for (hostile, endpoint) in all.iter().zip(&endpoints) {
        complaints.extend(complaints_about(&rail, hostile, endpoint, &events).await);
    }
    assert!(complaints.is_empty(), "\n{}", complaints.join("\n"));
    rail.end().await;
}

async fn complaints_about(
    rail: &Rail,
    hostile: &Hostile,
    endpoint: &Endpoint,
    events: &[String],
) -> Vec<String> {
    let mut complaints = Vec::new();
    let name = hostile.name;
    for (n, event) in events.iter().enumerate() {
        let attempts = rail.attempts(event, endpoint).await;
        assert_eq!(attempts.len(), 1, "{name}");
        let attempt = &attempts[0];
        let detail = attempt.error_detail.as_deref().unwrap_or_default();
        let kept = attempt.response_body.as_ref().map_or(0, Vec::len);
        if n == 0 {
            eprintln!(
                "{name}: error {}, status {}, {} ms, {kept} bytes kept: {detail}",
                attempt.error.as_deref().unwrap_or("none"),
                attempt.status_code.map_or("none".into(), |status| status.to_string()),
                attempt.duration_ms
            );
        }
        let told = &hostile.told;
        if (attempt.error.as_deref(), attempt.status_code) != (told.error, told.status) {
            complaints.push(format!("{name}: {:?}, {:?}: {detail}", attempt.error, attempt.status_code));
        } else if !detail.contains(told.detail)
            || (told.detail.is_empty() && told.status.is_some() && !detail.is_empty())
        {
            complaints.push(format!("{name}: told as {detail:?}"));
        }
        if attempt.duration_ms > hostile.timeout_ms + SLACK_MS {
            complaints.push(format!("{name}: took {} ms", attempt.duration_ms));
        }
        if kept > 4096 {
            complaints.push(format!("{name}: {kept} bytes are kept"));
        }
        if !attempt.response_body.as_deref().unwrap_or_default().starts_with(hostile.body) {
            complaints.push(format!("{name}: its body is not kept as it was sent"));
        }
    }
    if let At::Server(server) = &hostile.at {
        let connections = server.connections.load(std::sync::atomic::Ordering::Relaxed);
        let written = server.written.load(std::sync::atomic::Ordering::Relaxed);
        eprintln!("{name}: {connections} connections, {} KiB taken from them", written >> 10);
        if connections == 0 {
            complaints.push(format!("{name}: nobody came"));
        }
        if written > BUFFERS * connections as u64 {
            complaints.push(format!("{name}: {written} bytes were taken over {connections} connections"));
        }
    }
    complaints
}
