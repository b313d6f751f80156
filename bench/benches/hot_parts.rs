//! The pure parts that every event or delivery goes through: `cargo bench -p eventrail-bench`.
//!
//! Each is nanoseconds to a few microseconds; docs/PERFORMANCE.md has them beside what a whole delivery costs.

use std::hint::black_box;

use chrono::DateTime;
use criterion::{BenchmarkId, Criterion, Throughput, criterion_group, criterion_main};
use eventrail_core::db::tail::LoggedEvent;
use eventrail_core::event::fingerprint;
use eventrail_core::ids::{EndpointId, EventId};
use eventrail_core::matching::Filter;
use eventrail_core::rail::entry::{self, Entry};
use eventrail_core::secret::Secret;
use eventrail_core::signature::{SigningKey, sign};
use redis::Value;

const BODY_BYTES: [usize; 3] = [256, 1024, 16 * 1024];

fn filter(event_types: &[&str]) -> Filter {
    let json = serde_json::json!({ "event_types": event_types, "sources": [] });
    serde_json::from_value(json).expect("a filter")
}

fn matching(c: &mut Criterion) {
    let mut group = c.benchmark_group("matching");
    for (name, patterns) in [
        ("all", vec![]),
        ("exact", vec!["invoice.paid"]),
        ("prefix", vec!["invoice.*"]),
        ("the last of ten", {
            let others = ["a.*", "b.*", "c.d", "e.f", "g.*", "h.i.j", "k.*", "l.m", "n.*"];
            others.into_iter().chain(["invoice.paid"]).collect()
        }),
    ] {
        let filter = filter(&patterns);
        let matches = || filter.matches(black_box("invoice.paid"), black_box("shop"));
        group.bench_function(name, |b| b.iter(matches));
    }
    group.finish();
}

fn signing(c: &mut Criterion) {
    let mut group = c.benchmark_group("signing");
    let keys = [SigningKey::new(&Secret::generate())];
    let id = EventId::generate().to_string();
    for bytes in BODY_BYTES {
        let body = vec![b'x'; bytes];
        group.throughput(Throughput::Bytes(bytes as u64));
        group.bench_with_input(BenchmarkId::from_parameter(bytes), &body, |b, body| {
            b.iter(|| sign(&id, black_box(1_800_000_000), black_box(body), &keys));
        });
    }
    group.finish();
}

fn fingerprints(c: &mut Criterion) {
    let event_type = "invoice.paid".parse().expect("an event type");
    let payload = vec![b'x'; 1024];
    c.bench_function("fingerprint/1024", |b| b.iter(|| fingerprint(&event_type, black_box(&payload))));
}

/// As Redis answers it.
fn item(entry: &Entry) -> Value {
    let bulk = |text: &str| Value::BulkString(text.as_bytes().to_vec());
    let fields = ["event", &entry.event_id.to_string(), "targets", &entry.targets_text()].map(bulk);
    Value::Array(vec![bulk(&entry.stream_id()), Value::Array(fields.into())])
}

fn entries(c: &mut Criterion) {
    let mut group = c.benchmark_group("entry");
    for targets in [1, 5, 100] {
        let targets_of = (0..targets).map(|_| EndpointId::generate()).collect();
        let entry = Entry { position: 123_456_789, event_id: EventId::generate(), targets: targets_of };
        group.bench_with_input(BenchmarkId::new("written", targets), &entry, |b, entry| {
            b.iter(|| (black_box(entry).stream_id(), entry.event_id.to_string(), entry.targets_text()));
        });
        let item = item(&entry);
        group.bench_with_input(BenchmarkId::new("read", targets), &item, |b, item| {
            b.iter(|| entry::parse(black_box(item)));
        });
    }
    group.finish();
}

fn envelopes(c: &mut Criterion) {
    let mut group = c.benchmark_group("envelope");
    for bytes in BODY_BYTES {
        let event = LoggedEvent {
            position: 1,
            id: EventId::generate(),
            event_type: "invoice.paid".into(),
            source: "shop".into(),
            payload: Some(format!(r#"{{"pad":"{}"}}"#, "x".repeat(bytes - 10)).into_bytes()),
            created_at: DateTime::UNIX_EPOCH,
            group_id: None,
        };
        group.throughput(Throughput::Bytes(bytes as u64));
        group.bench_with_input(BenchmarkId::from_parameter(bytes), &event, |b, event| {
            b.iter(|| eventrail_dispatcher::request_body(black_box(event)));
        });
    }
    group.finish();
}

criterion_group!(benches, matching, signing, fingerprints, entries, envelopes);
criterion_main!(benches);
