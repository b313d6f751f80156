//! From where on a new endpoint is sent events: from now on, or from some point of the log, which gives it
//! history.

use chrono::{DateTime, Utc};
use serde::{Deserialize, Deserializer};

/// Where an endpoint begins.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Start {
    /// With the next event.
    #[default]
    Latest,
    /// With the first event that is retained.
    Earliest,
    /// With the first event of this time or later.
    At(DateTime<Utc>),
    /// With the event at this position or the next one.
    Position(i64),
}

const EXPECTED: &str = "must be \"latest\", \"earliest\", a time (RFC 3339) or a position of the log";

impl<'de> Deserialize<'de> for Start {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let found = match serde_json::Value::deserialize(deserializer)? {
            serde_json::Value::String(text) => match text.as_str() {
                "latest" => Some(Self::Latest),
                "earliest" => Some(Self::Earliest),
                text => DateTime::parse_from_rfc3339(text).ok().map(|at| Self::At(at.with_timezone(&Utc))),
            },
            serde_json::Value::Number(number) => {
                number.as_i64().filter(|position| *position >= 0).map(Self::Position)
            }
            _ => None,
        };
        found.ok_or_else(|| serde::de::Error::custom(EXPECTED))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_start_is_a_word_a_time_or_a_position() {
        let parse = |text: &str| serde_json::from_str::<Start>(text).ok();
        assert_eq!(parse("\"latest\""), Some(Start::Latest));
        assert_eq!(parse("\"earliest\""), Some(Start::Earliest));
        assert_eq!(parse("\"1970-01-01T01:00:00+01:00\""), Some(Start::At(DateTime::UNIX_EPOCH)));
        assert_eq!(parse("17"), Some(Start::Position(17)));
        for text in ["\"\"", "\"17\"", "-1", "1.5", "true", "[]", "\"1970-01-01\"", "9223372036854775808"] {
            assert_eq!(parse(text), None, "{text}");
        }
    }
}
