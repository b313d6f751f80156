//! Which events an endpoint wants: patterns of event types, and sources.
//!
//! The relay asks for each event and subscription, so matching allocates nothing. Operational events
//! (`eventrail.…`) reach only those who name them: neither `*` nor an empty list is enough.

use serde::{Deserialize, Serialize};

use crate::event::{Source, is_operational, is_segment};
use crate::text::text_value;

text_value!(
    /// `invoice.paid` is that type alone, `invoice.*` any type with segments after `invoice.`, `*` any type.
    Pattern,
    InvalidPattern,
    is_pattern,
    "must be an event type, or segments of one that end in .* (such as user.*), or * alone; at most 128 characters"
);

impl Pattern {
    /// Whether an event of this (valid) type is meant.
    pub fn matches(&self, event_type: &str) -> bool {
        match self.as_str().strip_suffix('*') {
            Some("") => !is_operational(event_type),
            // What is left of `user.*` ends in its dot, so `users.a` and `user` are none of it.
            Some(prefix) => event_type.len() > prefix.len() && event_type.starts_with(prefix),
            None => event_type == self.as_str(),
        }
    }

    /// The one type that it matches, or `None` if it has a `*`. An index by event type starts from this.
    pub fn exact(&self) -> Option<&str> {
        (!self.as_str().ends_with('*')).then(|| self.as_str())
    }
}

/// What an endpoint has subscribed to. An empty list means all of them.
#[derive(Debug, Clone, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Filter {
    pub event_types: Vec<Pattern>,
    pub sources: Vec<Source>,
}

impl Filter {
    pub fn matches(&self, event_type: &str, source: &str) -> bool {
        let type_matches = if self.event_types.is_empty() {
            !is_operational(event_type)
        } else {
            self.event_types.iter().any(|pattern| pattern.matches(event_type))
        };
        type_matches
            && (self.sources.is_empty() || self.sources.iter().any(|wanted| wanted.as_str() == source))
    }
}

fn is_pattern(text: &str) -> bool {
    let head = match text.strip_suffix('*') {
        Some("") => return true,
        Some(prefix) => prefix.strip_suffix('.'),
        None => Some(text),
    };
    text.len() <= 128 && head.is_some_and(|head| head.split('.').all(is_segment))
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn filter(event_types: &[&str], sources: &[&str]) -> Filter {
        Filter {
            event_types: event_types.iter().map(|text| text.parse().unwrap()).collect(),
            sources: sources.iter().map(|text| text.parse().unwrap()).collect(),
        }
    }

    #[test]
    fn a_star_stands_alone_or_as_the_last_segment() {
        for text in ["*", "user.*", "a.b.*", "invoice.paid"] {
            assert_eq!(text.parse::<Pattern>().unwrap().as_str(), text);
        }
        for text in [
            "",
            "**",
            "*.a",
            "a*",
            "a.*b",
            "a.*.b",
            "*.*",
            ".*",
            "a..*",
            "a.",
            &format!("{}.*", "x".repeat(127)),
        ] {
            assert_eq!(text.parse::<Pattern>(), Err(InvalidPattern), "{text:?}");
        }
    }

    #[test]
    fn patterns_match_by_whole_segments() {
        for (pattern, event_type, matches) in [
            ("*", "a", true),
            ("*", "a.b.c", true),
            ("user.*", "user.created", true),
            ("user.*", "user.address.changed", true),
            ("user.*", "user", false),
            ("user.*", "users.created", false),
            ("user.*", "a.user.created", false),
            ("user.created", "user.created", true),
            ("user.created", "user.created.late", false),
            ("user.created", "user.Created", false),
            ("a.b.*", "a.b.c", true),
            ("a.b.*", "a.b", false),
        ] {
            assert_eq!(
                pattern.parse::<Pattern>().unwrap().matches(event_type),
                matches,
                "{pattern} {event_type}"
            );
        }
    }

    #[test]
    fn operational_events_reach_only_those_who_name_them() {
        for (patterns, matches) in [
            (&[][..], false),
            (&["*"], false),
            (&["user.*", "*"], false),
            (&["eventrail.*"], true),
            (&["*", "eventrail.*"], true),
            (&["eventrail.endpoint.*"], true),
            (&["eventrail.endpoint.disabled"], true),
            (&["eventrail.group.*"], false),
        ] {
            assert_eq!(
                filter(patterns, &[]).matches("eventrail.endpoint.disabled", "eventrail"),
                matches,
                "{patterns:?}"
            );
        }
    }

    #[test]
    fn type_and_source_must_both_match_and_empty_lists_match_all() {
        assert!(filter(&[], &[]).matches("a", "x"));
        assert!(filter(&["b", "a"], &["y", "x"]).matches("a", "x"));
        assert!(!filter(&["a"], &["y"]).matches("a", "x"));
        assert!(!filter(&["b"], &["x"]).matches("a", "x"));
        assert!(!filter(&[], &["X"]).matches("a", "x"));
    }

    #[test]
    fn a_mistyped_field_of_a_filter_is_refused() {
        assert_eq!(serde_json::from_str::<Filter>("{}").unwrap(), Filter::default());
        assert!(serde_json::from_str::<Filter>(r#"{"event_type":["a"]}"#).is_err());
        let error = serde_json::from_str::<Filter>(r#"{"event_types":["a*"]}"#).unwrap_err().to_string();
        assert!(error.contains("end in .*"), "{error}");
    }

    const EVENT_TYPE: &str = "[ab]{1,2}(\\.[ab]{1,2}){0,3}";

    proptest! {
        /// The grammar, said another way: compare segment by segment.
        #[test]
        fn matching_agrees_with_a_comparison_by_segments(
            pattern in "\\*|[ab]{1,2}(\\.[ab]{1,2}){0,2}(\\.\\*)?", event_type in EVENT_TYPE
        ) {
            let wanted: Vec<&str> = pattern.split('.').collect();
            let given: Vec<&str> = event_type.split('.').collect();
            let expected = match wanted.split_last() {
                Some((&"*", head)) => given.len() > head.len() && given.starts_with(head),
                _ => wanted == given,
            };
            prop_assert_eq!(pattern.parse::<Pattern>().unwrap().matches(&event_type), expected);
        }

        #[test]
        fn every_type_matches_itself_and_the_pattern_of_each_of_its_prefixes(event_type in EVENT_TYPE) {
            prop_assert!(event_type.parse::<Pattern>().unwrap().matches(&event_type));
            for (dot, _) in event_type.match_indices('.') {
                let pattern: Pattern = format!("{}.*", &event_type[..dot]).parse().unwrap();
                prop_assert!(pattern.matches(&event_type));
            }
        }

        #[test]
        fn no_pattern_but_those_that_name_it_takes_an_operational_event(pattern in "\\*|[a-f]{1,3}(\\.\\*)?") {
            prop_assert!(!pattern.parse::<Pattern>().unwrap().matches("eventrail.ping"));
        }
    }
}
