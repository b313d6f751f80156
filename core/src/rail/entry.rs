//! A stream entry: which event is owed to which endpoints. No payloads: those stay in PostgreSQL.

use redis::Value;

use crate::ids::{EndpointId, EventId};

/// One entry of a feed's stream. Its stream id is `<position>-0`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Entry {
    pub position: i64,
    pub event_id: EventId,
    pub targets: Vec<EndpointId>,
}

/// What a read answers for one id.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Read {
    Entry(Entry),
    /// The entry was deleted while it was pending: acknowledge it and go on.
    Void {
        id: String,
    },
    /// An entry that this version does not understand. It stays pending, for one that does.
    Foreign {
        id: String,
    },
}

impl Entry {
    /// Text of the `targets` field: endpoint ids with commas between them.
    pub fn targets_text(&self) -> String {
        let mut text = String::with_capacity(self.targets.len() * 30);
        for (index, target) in self.targets.iter().enumerate() {
            if index > 0 {
                text.push(',');
            }
            text.push_str(&target.to_string());
        }
        text
    }

    pub fn stream_id(&self) -> String {
        format!("{}-0", self.position)
    }

    fn from_fields(id: &str, fields: &[Value]) -> Option<Self> {
        // As Redis writes it, or it could not be acknowledged under the id that we would make of it.
        let position =
            id.strip_suffix("-0").filter(|digits| digits.starts_with(|c| ('1'..='9').contains(&c)))?;
        let position = position.parse().ok()?;
        let (mut event_id, mut targets) = (None, None);
        for pair in fields.chunks_exact(2) {
            match (text(&pair[0])?, text(&pair[1])?) {
                ("event", value) => event_id = value.parse().ok(),
                ("targets", value) => {
                    targets = value.split(',').map(str::parse).collect::<Result<_, _>>().ok();
                }
                _ => {}
            }
        }
        Some(Self { position, event_id: event_id?, targets: targets? })
    }
}

/// Parses one `[id, [field, value, …]]` of `XREADGROUP`, `XCLAIM` or `XRANGE`.
pub fn parse(item: &Value) -> Option<Read> {
    let Value::Array(parts) = item else { return None };
    let id = text(parts.first()?)?;
    Some(match parts.get(1) {
        Some(Value::Array(fields)) => {
            let entry = Entry::from_fields(id, fields);
            entry.map_or_else(|| Read::Foreign { id: id.to_owned() }, Read::Entry)
        }
        _ => Read::Void { id: id.to_owned() },
    })
}

fn text(value: &Value) -> Option<&str> {
    match value {
        Value::BulkString(bytes) => std::str::from_utf8(bytes).ok(),
        Value::SimpleString(text) => Some(text),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn bulk(text: &str) -> Value {
        Value::BulkString(text.as_bytes().to_vec())
    }

    #[test]
    fn an_entry_survives_the_stream() {
        let entry = Entry {
            position: 17,
            event_id: EventId::generate(),
            targets: vec![EndpointId::generate(), EndpointId::generate()],
        };
        let fields = vec![
            bulk("event"),
            bulk(&entry.event_id.to_string()),
            bulk("targets"),
            bulk(&entry.targets_text()),
        ];
        let item = Value::Array(vec![bulk(&entry.stream_id()), Value::Array(fields)]);
        assert_eq!(parse(&item), Some(Read::Entry(entry)));
    }

    #[test]
    fn deleted_entries_are_void_and_others_foreign() {
        let deleted = Value::Array(vec![bulk("5-0"), Value::Nil]);
        assert_eq!(parse(&deleted), Some(Read::Void { id: "5-0".into() }));
        let foreign = Value::Array(vec![bulk("5-1"), Value::Array(vec![bulk("a"), bulk("b")])]);
        assert_eq!(parse(&foreign), Some(Read::Foreign { id: "5-1".into() }));
    }

    #[test]
    fn an_entry_is_known_by_the_id_that_redis_gave_it() {
        let entry = |id: &str| {
            let [event, endpoint] = [EventId::generate().to_string(), EndpointId::generate().to_string()];
            let fields = vec![bulk("event"), bulk(&event), bulk("targets"), bulk(&endpoint)];
            parse(&Value::Array(vec![bulk(id), Value::Array(fields)]))
        };
        assert!(matches!(entry("5-0"), Some(Read::Entry(Entry { position: 5, .. }))));
        for id in ["+5-0", "05-0", "-5-0", "0-0", "5-00", "9223372036854775808-0"] {
            assert_eq!(entry(id), Some(Read::Foreign { id: id.into() }), "{id}");
        }
    }
}
