//! Entries of streams: what the relay appends is what a dispatcher reads, and whatever else Redis answers is read
//! as nothing that it is not.

use eventrail_core::ids::{EndpointId, EventId};
use eventrail_core::rail::entry::{self, Entry, Read};
use redis::Value;
use uuid::Uuid;

/// An answer of Redis on the wire, if it begins like a list; otherwise 8 bytes of position, 16 of the event, and
/// 16 for each target.
pub fn run(data: &[u8]) {
    if data.first() == Some(&b'*') {
        if let Ok(item) = redis::parse_redis_value(data) {
            read(&item);
        }
        return;
    }
    let Some((position, rest)) = data.split_first_chunk::<8>() else { return };
    let Some((event, rest)) = rest.split_first_chunk::<16>() else { return };
    let targets: Vec<EndpointId> =
        rest.as_chunks::<16>().0.iter().map(|target| EndpointId(Uuid::from_bytes(*target))).collect();
    let entry = Entry {
        // Positions are drawn from a sequence, which begins at 1.
        position: i64::from_be_bytes(*position).checked_abs().unwrap_or(i64::MAX).max(1),
        event_id: EventId(Uuid::from_bytes(*event)),
        targets,
    };
    // Without targets nothing is appended.
    if !entry.targets.is_empty() {
        assert_eq!(entry::parse(&appended(&entry, false)), Some(Read::Entry(entry.clone())));
        assert_eq!(entry::parse(&appended(&entry, true)), Some(Read::Entry(entry)));
    }
}

/// What `append.lua` makes of an entry, as a later version might write it too: with a field that we don't know.
fn appended(entry: &Entry, is_later: bool) -> Value {
    let bulk = |text: String| Value::BulkString(text.into_bytes());
    let mut fields = vec![bulk("event".into()), bulk(entry.event_id.to_string())];
    if is_later {
        fields.extend([bulk("later".into()), bulk(String::new())]);
    }
    fields.extend([bulk("targets".into()), bulk(entry.targets_text())]);
    Value::Array(vec![bulk(entry.stream_id()), Value::Array(fields)])
}

fn read(item: &Value) {
    match entry::parse(item) {
        None => {}
        Some(Read::Void { id } | Read::Foreign { id }) => assert_eq!(first_text(item), Some(id)),
        Some(Read::Entry(entry)) => {
            // It is acknowledged by the id that it is known by here: another would stay pending for ever.
            assert_eq!(first_text(item), Some(entry.stream_id()));
            assert!(!entry.targets.is_empty());
            assert_eq!(entry::parse(&appended(&entry, false)), Some(Read::Entry(entry)));
        }
    }
}

fn first_text(item: &Value) -> Option<String> {
    let Value::Array(parts) = item else { return None };
    match parts.first()? {
        Value::BulkString(bytes) => String::from_utf8(bytes.clone()).ok(),
        Value::SimpleString(text) => Some(text.clone()),
        _ => None,
    }
}
