//! Patterns of event types: which texts are patterns, and what they match, against a slow reading of the grammar.
//! That it stays fast is libFuzzer's to see: an input that takes seconds is a finding.

use eventrail_core::event::{EventType, Source};
use eventrail_core::matching::{Filter, Pattern};

/// Lines: an event type, its source, then patterns; those that begin with `@` are sources that are wanted.
pub fn run(data: &[u8]) {
    let Ok(text) = std::str::from_utf8(data) else { return };
    let mut lines = text.split('\n');
    let event_type = lines.next().unwrap_or_default();
    let source = lines.next().unwrap_or_default();
    assert_eq!(event_type.parse::<EventType>().is_ok(), is_event_type(event_type), "{event_type:?}");
    let is_event = is_event_type(event_type) && source.parse::<Source>().is_ok();

    let mut filter = Filter::default();
    let (mut wants_type, mut wants_source) = (false, false);
    for line in lines.take(64) {
        if let Some(wanted) = line.strip_prefix('@') {
            let Ok(wanted) = wanted.parse::<Source>() else { continue };
            wants_source |= wanted.as_str() == source;
            filter.sources.push(wanted);
            continue;
        }
        let pattern = line.parse::<Pattern>();
        assert_eq!(pattern.is_ok(), is_pattern(line), "{line:?}");
        let Ok(pattern) = pattern else { continue };
        assert_eq!(pattern.as_str(), line);
        assert_eq!(pattern.exact().is_some(), !line.contains('*'));
        if is_event {
            let expected = matches(line, event_type);
            assert_eq!(pattern.matches(event_type), expected, "{line} {event_type}");
            wants_type |= expected;
        }
        filter.event_types.push(pattern);
    }
    if is_event {
        let wants_type = if filter.event_types.is_empty() { matches("*", event_type) } else { wants_type };
        let expected = wants_type && (filter.sources.is_empty() || wants_source);
        assert_eq!(filter.matches(event_type, source), expected, "{filter:?} {event_type} {source}");
    }
    let written = serde_json::to_string(&filter).expect("a filter is JSON");
    let read: Filter = serde_json::from_str(&written).expect("a filter is read back");
    assert_eq!(read, filter);
}

fn is_event_type(text: &str) -> bool {
    (1..=128).contains(&text.len()) && text.split('.').all(is_segment)
}

fn is_pattern(text: &str) -> bool {
    let segments: Vec<&str> = text.split('.').collect();
    let Some((last, head)) = segments.split_last() else { return false };
    (1..=128).contains(&text.len())
        && head.iter().all(|segment| is_segment(segment))
        && (*last == "*" || is_segment(last))
}

fn is_segment(text: &str) -> bool {
    !text.is_empty() && text.chars().all(|c| c.is_ascii_alphanumeric() || c == '_' || c == '-')
}

/// Segment by segment, as the documentation says it.
fn matches(pattern: &str, event_type: &str) -> bool {
    let (wanted, given): (Vec<&str>, Vec<&str>) =
        (pattern.split('.').collect(), event_type.split('.').collect());
    match wanted.split_last() {
        Some((&"*", [])) => given[0] != "eventrail",
        Some((&"*", head)) => given.len() > head.len() && given.starts_with(head),
        _ => wanted == given,
    }
}
