//! Bodies of `POST /events` and `POST /events/batch`: what is accepted is JSON by the strictest reading, within
//! its bounds, and reaches receivers byte for byte; what a strict reader calls an event is accepted.

use bytes::Bytes;
use chrono::DateTime;
use eventrail_api::doors;
use eventrail_core::db::log::NewEvent;
use eventrail_core::db::tail::LoggedEvent;
use eventrail_core::ids::EventId;
use serde_json::{Value, json};

/// As deep as any parser goes.
const MAX_DEPTH: usize = 100;

pub fn run(data: &[u8]) {
    let body = Bytes::copy_from_slice(data);
    let strict = serde_json::from_slice::<Value>(data);
    if let Ok(event) = doors::event(&body) {
        let whole = strict.as_ref().expect("what is accepted is JSON");
        assert_eq!(whole.as_object().map(serde_json::Map::len), Some(3));
        is_the_event(&event, whole, data);
        reaches_receivers(&event, &whole["payload"]);
    }
    if let Ok(events) = doors::events(&body) {
        let whole = strict.as_ref().expect("what is accepted is JSON");
        let list = whole["events"].as_array().expect("a list of events");
        assert_eq!(list.len(), events.len());
        assert!((1..=1000).contains(&events.len()));
        for (event, whole) in events.iter().zip(list) {
            is_the_event(event, whole, data);
        }
    }
    if let Ok(whole) = &strict {
        is_accepted(whole);
    }
}

fn is_the_event(event: &NewEvent, whole: &Value, data: &[u8]) {
    assert_eq!(whole["event_type"], event.event_type.as_str());
    assert_eq!(whole["source"], event.source.as_str());
    assert!(is_event_type(event.event_type.as_str()) && is_source(event.source.as_str()));
    let payload = serde_json::from_slice::<Value>(&event.payload).expect("a payload is JSON");
    assert_eq!(payload, whole["payload"]);
    assert!(depth(&payload) <= MAX_DEPTH);
    assert!(data.windows(event.payload.len()).any(|window| window == event.payload), "byte for byte");
}

fn reaches_receivers(event: &NewEvent, payload: &Value) {
    let logged = LoggedEvent {
        position: 1,
        id: EventId(uuid::Uuid::from_u128(0x0189_0a5d_ac96_774b_bcce_b302_099a_8057)),
        event_type: event.event_type.to_string(),
        source: event.source.to_string(),
        payload: Some(event.payload.to_vec()),
        created_at: DateTime::UNIX_EPOCH,
        group_id: None,
    };
    let body = eventrail_dispatcher::request_body(&logged).expect("an event with its payload");
    let read: Value = serde_json::from_slice(&body).expect("a request's body is JSON");
    let expected = json!({
        "id": logged.id.to_string(), "type": logged.event_type, "source": logged.source,
        "timestamp": "1970-01-01T00:00:00.000000Z", "data": payload,
    });
    assert_eq!(read, expected);
    let end = body.len() - 1;
    assert_eq!(body.slice(end - event.payload.len()..end), event.payload);
}

/// What a strict parser calls an event with a valid type and source is no business of ours to refuse.
fn is_accepted(whole: &Value) {
    let (Some(event_type), Some(source)) = (whole["event_type"].as_str(), whole["source"].as_str()) else {
        return;
    };
    let Some(payload) = whole.get("payload") else { return };
    let is_ours = event_type == "eventrail" || event_type.starts_with("eventrail.");
    let expected = is_event_type(event_type) && is_source(source) && !is_ours && depth(payload) < MAX_DEPTH;
    let body = json!({ "event_type": event_type, "source": source, "payload": payload }).to_string();
    assert_eq!(doors::event(&Bytes::from(body.clone())).is_ok(), expected, "{body}");
    let body = format!(r#"{{"events":[{body}]}}"#);
    assert!(doors::events(&Bytes::from(body)).is_ok() <= expected);
}

fn is_event_type(text: &str) -> bool {
    let is_plain = |c: char| c.is_ascii_alphanumeric() || "._-".contains(c);
    (1..=128).contains(&text.len()) && text.chars().all(is_plain) && !format!(".{text}.").contains("..")
}

fn is_source(text: &str) -> bool {
    (1..=128).contains(&text.len()) && text.chars().all(|c| ('!'..='~').contains(&c))
}

fn depth(value: &Value) -> usize {
    match value {
        Value::Array(items) => 1 + items.iter().map(depth).max().unwrap_or(0),
        Value::Object(members) => 1 + members.values().map(depth).max().unwrap_or(0),
        _ => 0,
    }
}
