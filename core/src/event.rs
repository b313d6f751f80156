//! What an event is made of, apart from its payload: type, source, idempotency key, fingerprint.
//!
//! Parsed once where a producer's request comes in; from there on every part relies on the grammar
//! (DESIGN, section 7) and checks nothing again.

use sha2::{Digest, Sha256};

use crate::text::text_value;

/// The first segment of the types of events that EventRail itself puts on the log.
const OPERATIONAL: &str = "eventrail";

text_value!(
    /// What happened: dot-separated segments, such as `invoice.paid`.
    EventType,
    InvalidEventType,
    is_event_type,
    "must be 1 to 128 characters: segments of A-Z a-z 0-9 _ - separated by single dots"
);

text_value!(
    /// Who says so: the producing service, such as `billing`.
    Source,
    InvalidSource,
    is_source,
    "must be 1 to 128 visible ASCII characters"
);

text_value!(
    /// A producer's own name for one event, unique within its source.
    IdempotencyKey,
    InvalidIdempotencyKey,
    is_idempotency_key,
    "must be 1 to 255 visible ASCII characters"
);

impl EventType {
    /// Whether only EventRail itself may send it.
    pub fn is_operational(&self) -> bool {
        is_operational(self.as_str())
    }
}

/// The same question about a type that comes from the log and is known to be valid.
pub fn is_operational(event_type: &str) -> bool {
    event_type.split('.').next() == Some(OPERATIONAL)
}

/// What makes two events under one idempotency key the same event. The zero byte keeps apart what type and
/// payload would be when run together; no valid type contains it.
pub fn fingerprint(event_type: &EventType, payload: &[u8]) -> [u8; 32] {
    let mut hash = Sha256::new();
    hash.update(event_type.as_str());
    hash.update([0]);
    hash.update(payload);
    hash.finalize().into()
}

/// One segment of an event type or a pattern.
pub(crate) fn is_segment(text: &str) -> bool {
    !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'_' || byte == b'-')
}

fn is_event_type(text: &str) -> bool {
    text.len() <= 128 && text.split('.').all(is_segment)
}

fn is_source(text: &str) -> bool {
    is_visible(text, 128)
}

fn is_idempotency_key(text: &str) -> bool {
    is_visible(text, 255)
}

fn is_visible(text: &str, longest: usize) -> bool {
    (1..=longest).contains(&text.len()) && text.bytes().all(|byte| byte.is_ascii_graphic())
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn dotted_segments_are_event_types() {
        for text in ["a", "invoice.paid", "A-1_b.c.d", "eventrail.ping", &"x".repeat(128)] {
            assert_eq!(text.parse::<EventType>().unwrap().as_str(), text);
        }
    }

    #[test]
    fn other_texts_are_no_event_types() {
        for text in ["", ".", "a.", ".a", "a..b", "a b", "a.*", "*", "ä", "a\n", "a/b", &"x".repeat(129)] {
            assert_eq!(text.parse::<EventType>(), Err(InvalidEventType), "{text:?}");
        }
    }

    #[test]
    fn sources_and_keys_are_visible_ascii_of_bounded_length() {
        for text in ["", " ", "a b", "é", "\u{7f}", "a\t", &"x".repeat(129)] {
            assert_eq!(text.parse::<Source>(), Err(InvalidSource), "{text:?}");
        }
        for text in ["", "a b", "\r\n", &"x".repeat(256)] {
            assert_eq!(text.parse::<IdempotencyKey>(), Err(InvalidIdempotencyKey), "{text:?}");
        }
        assert!("https://billing/#1".parse::<Source>().is_ok());
        assert!("~".repeat(255).parse::<IdempotencyKey>().is_ok());
    }

    #[test]
    fn only_the_first_segment_makes_a_type_operational() {
        for (text, operational) in [
            ("eventrail.ping", true),
            ("eventrail", true),
            ("eventrails.ping", false),
            ("my.eventrail", false),
            ("Eventrail.ping", false),
        ] {
            assert_eq!(text.parse::<EventType>().unwrap().is_operational(), operational, "{text}");
        }
    }

    #[test]
    fn json_carries_them_as_strings_and_errors_say_the_rule() {
        assert_eq!(serde_json::to_string(&"a.b".parse::<EventType>().unwrap()).unwrap(), r#""a.b""#);
        assert_eq!(serde_json::from_str::<EventType>(r#""\u0061.b""#).unwrap().as_str(), "a.b");
        let error = serde_json::from_str::<EventType>(r#""a..b""#).unwrap_err().to_string();
        assert!(error.starts_with("must be 1 to 128 characters"), "{error}");
        let error = serde_json::from_str::<Source>("7").unwrap_err().to_string();
        assert!(error.contains("a string that must be 1 to 128 visible ASCII"), "{error}");
    }

    #[test]
    fn the_fingerprint_is_the_hash_of_type_zero_byte_and_payload() {
        let of =
            |event_type: &str, payload: &str| fingerprint(&event_type.parse().unwrap(), payload.as_bytes());
        let whole: [u8; 32] = Sha256::digest(b"a.b\0{}").into();
        assert_eq!(of("a.b", "{}"), whole);
        assert_ne!(of("a.b", "{}"), of("a.b", "{ }"));
        assert_ne!(of("a1", "1"), of("a", "11"));
    }

    proptest! {
        #[test]
        fn any_text_either_parses_to_itself_or_is_refused(text in "\\PC{0,12}|[a-zA-Z0-9_.-]{0,140}") {
            let expected = text.len() <= 128
                && !text.is_empty()
                && !text.starts_with('.')
                && !text.ends_with('.')
                && !text.contains("..")
                && text.chars().all(|c| c.is_ascii_alphanumeric() || "._-".contains(c));
            prop_assert_eq!(text.parse::<EventType>().map(|parsed| parsed.to_string()).ok(), expected.then_some(text));
        }
    }
}
