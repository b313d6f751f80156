//! Cursors and ids: what is read is written back as it was, and nothing that is read can't be written.

use chrono::{DateTime, Datelike as _, SecondsFormat, Utc};
use eventrail_api::doors;
use eventrail_core::db::cursor::CursorTarget;
use eventrail_core::ids::{EndpointId, EventId, KeyId, ReplayId};

/// A `start_id` in JSON or as bare text, a time of a query, a cursor of a list, and ids.
pub fn run(data: &[u8]) {
    if let Ok(start) = doors::start_id(data) {
        again(start);
    }
    let Ok(text) = std::str::from_utf8(data) else { return };
    let quoted = serde_json::Value::from(text).to_string();
    if let Ok(start) = doors::start_id(quoted.as_bytes()) {
        again(start);
    }
    if let Some(at) = doors::time(text) {
        assert!(at >= DateTime::UNIX_EPOCH, "ids can't say what is before 1970");
        if is_writable(at) {
            assert_eq!(doors::time(&rfc3339(at)), Some(at));
        }
    }
    for written in doors::list_cursors(text).into_iter().flatten() {
        // Hexadecimal is read in either case.
        assert!(written.eq_ignore_ascii_case(text), "{text:?} becomes {written:?}");
        assert!(doors::list_cursors(&written).contains(&Some(written.clone())));
    }
    ids(text);
}

fn again(start: CursorTarget) {
    let text = match start {
        CursorTarget::Start => "0".to_owned(),
        CursorTarget::End => "$".to_owned(),
        CursorTarget::After(position) => {
            assert!(position > 0);
            position.to_string()
        }
        CursorTarget::At(at) if !is_writable(at) => return,
        CursorTarget::At(at) => rfc3339(at),
        CursorTarget::Event(id) => id.to_string(),
    };
    let read = doors::start_id(format!("\"{text}\"").as_bytes());
    assert!(matches!(read, Ok(read) if read == start), "{text} is not read as {start:?}");
}

/// RFC 3339 has four digits for a year; an offset can lead out of them.
fn is_writable(at: DateTime<Utc>) -> bool {
    (0..=9999).contains(&at.year())
}

fn rfc3339(at: DateTime<Utc>) -> String {
    at.to_rfc3339_opts(SecondsFormat::Nanos, true)
}

/// An id has one text: two texts for one id would be two names of one thing.
fn ids(text: &str) {
    if let Ok(id) = text.parse::<EventId>() {
        assert_eq!(id.to_string(), text);
    }
    if let Ok(id) = text.parse::<EndpointId>() {
        assert_eq!(id.to_string(), text);
    }
    if let Ok(id) = text.parse::<ReplayId>() {
        assert_eq!(id.to_string(), text);
    }
    if let Ok(id) = text.parse::<KeyId>() {
        assert_eq!(id.to_string(), text);
    }
}
