//! Events on their way out: the body that receivers get, built once for each event, and a cache of them.

use std::collections::{HashMap, VecDeque};
use std::sync::{Arc, Mutex, PoisonError};

use bytes::Bytes;
use chrono::{DateTime, SecondsFormat, Utc};
use eventrail_core::db::tail::LoggedEvent;
use eventrail_core::ids::EventId;

/// An event ready to be sent.
#[derive(Debug)]
pub(crate) struct Event {
    pub(crate) id: EventId,
    /// Its place in the log.
    pub(crate) position: i64,
    /// The id as receivers see it (`webhook-id`).
    pub(crate) id_text: String,
    pub(crate) event_type: String,
    pub(crate) created_at: DateTime<Utc>,
    /// `{"id","type","source","timestamp","data"}`, `data` being the payload byte for byte.
    pub(crate) body: Bytes,
}

impl Event {
    /// An event that is not on the log, for trying an endpoint out.
    pub(crate) fn ping(payload: &[u8]) -> Self {
        let event = LoggedEvent {
            position: 0,
            id: EventId::generate(),
            event_type: "eventrail.ping".into(),
            source: "eventrail".into(),
            payload: None,
            created_at: Utc::now(),
            group_id: None,
        };
        Self::with_payload(&event, payload)
    }

    /// `None` if the row was read without its payload.
    pub(crate) fn new(event: &LoggedEvent) -> Option<Self> {
        Some(Self::with_payload(event, event.payload.as_deref()?))
    }

    fn with_payload(event: &LoggedEvent, payload: &[u8]) -> Self {
        let id_text = event.id.to_string();
        let mut body = Vec::with_capacity(payload.len() + event.event_type.len() + event.source.len() + 128);
        body.extend_from_slice(b"{\"id\":\"");
        body.extend_from_slice(id_text.as_bytes());
        body.extend_from_slice(b"\",\"type\":\"");
        body.extend_from_slice(event.event_type.as_bytes());
        body.extend_from_slice(b"\",\"source\":");
        // A source may hold quotes and backslashes; an event type cannot.
        body.extend_from_slice(serde_json::Value::from(event.source.as_str()).to_string().as_bytes());
        body.extend_from_slice(b",\"timestamp\":\"");
        body.extend_from_slice(event.created_at.to_rfc3339_opts(SecondsFormat::Micros, true).as_bytes());
        body.extend_from_slice(b"\",\"data\":");
        body.extend_from_slice(payload);
        body.push(b'}');
        Self {
            id: event.id,
            position: event.position,
            id_text,
            event_type: event.event_type.clone(),
            created_at: event.created_at,
            body: body.into(),
        }
    }
}

/// The body that receivers get of an event; `None` if it was read without its payload. For `fuzz/`.
pub fn request_body(event: &LoggedEvent) -> Option<Bytes> {
    Event::new(event).map(|event| event.body)
}

/// Events lately read from the log, up to a number of bytes; the oldest go first.
#[derive(Debug)]
pub(crate) struct EventCache {
    most_bytes: usize,
    held: Mutex<Held>,
}

#[derive(Debug, Default)]
struct Held {
    events: HashMap<EventId, Arc<Event>>,
    order: VecDeque<EventId>,
    bytes: usize,
}

impl EventCache {
    pub(crate) fn new(most_bytes: usize) -> Self {
        Self { most_bytes, held: Mutex::default() }
    }

    pub(crate) fn insert(&self, event: &Arc<Event>) {
        let mut held = self.held.lock().unwrap_or_else(PoisonError::into_inner);
        let bytes = weight(event);
        if held.events.insert(event.id, Arc::clone(event)).is_some() {
            return;
        }
        held.order.push_back(event.id);
        held.bytes += bytes;
        while held.bytes > self.most_bytes {
            let Some(oldest) = held.order.pop_front() else { break };
            if let Some(event) = held.events.remove(&oldest) {
                held.bytes -= weight(&event);
            }
        }
    }

    pub(crate) fn get(&self, id: EventId) -> Option<Arc<Event>> {
        let held = self.held.lock().unwrap_or_else(PoisonError::into_inner);
        held.events.get(&id).cloned()
    }
}

fn weight(event: &Event) -> usize {
    event.body.len() + event.event_type.len() + 256
}

#[cfg(test)]
mod tests {
    use super::*;

    fn logged(source: &str, payload: &[u8]) -> LoggedEvent {
        LoggedEvent {
            position: 1,
            id: EventId::generate(),
            event_type: "a.b".into(),
            source: source.into(),
            payload: Some(payload.to_vec()),
            created_at: DateTime::UNIX_EPOCH,
            group_id: None,
        }
    }

    #[test]
    fn the_body_is_json_with_the_payload_byte_for_byte() {
        let payload = br#"{ "b":1.10 , "a":"\u00e9" }"#;
        let event = Event::new(&logged(r#"sh"op\"#, payload)).unwrap();
        let value: serde_json::Value = serde_json::from_slice(&event.body).unwrap();
        assert_eq!(value["source"], r#"sh"op\"#);
        assert_eq!(value["timestamp"], "1970-01-01T00:00:00.000000Z");
        assert_eq!(value["id"], event.id_text);
        assert!(event.body.windows(payload.len()).any(|window| window == payload));
    }

    #[test]
    fn the_cache_keeps_the_newest_within_its_bound() {
        let cache = EventCache::new(5_000);
        let events: Vec<_> =
            (0..10).map(|_| Arc::new(Event::new(&logged("s", &[b'1'; 1000])).unwrap())).collect();
        for event in &events {
            cache.insert(event);
        }
        assert!(cache.get(events[0].id).is_none());
        assert!(cache.get(events[9].id).is_some());
    }
}
