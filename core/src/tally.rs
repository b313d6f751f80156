//! How many events and deliveries a replay comes to, from events that were counted by kind: so that a million
//! events cost one aggregate, and matching stays in one place.

use std::collections::HashMap;

use crate::ids::EndpointId;
use crate::matching::{Filter, Pattern};

/// So many events of one type and source. `group_id`: they are operational, and that group's alone.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Count {
    pub event_type: String,
    pub source: String,
    pub group_id: Option<i64>,
    pub events: i64,
}

/// An endpoint with what it has subscribed to at one moment.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Listener {
    pub endpoint_id: EndpointId,
    pub group_id: i64,
    pub filter: Filter,
}

/// What events come to for some listeners.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Tally {
    /// Events that at least one of them wants.
    pub matched: i64,
    /// Events times the endpoints that want them.
    pub owed: i64,
    /// For each kind that was counted, in order: whether anybody wants it.
    pub kinds: Vec<bool>,
    /// For each listener, in order: whether there is any event for it.
    pub listeners: Vec<bool>,
}

/// Adds up; with `pattern` only events whose type it matches. Listeners with the same filter are asked once.
pub fn tally(counts: &[Count], pattern: Option<&Pattern>, listeners: &[Listener]) -> Tally {
    let mut by_filter: HashMap<(i64, &Filter), Vec<usize>> = HashMap::new();
    for (index, listener) in listeners.iter().enumerate() {
        by_filter.entry((listener.group_id, &listener.filter)).or_default().push(index);
    }
    let mut kinds = vec![false; counts.len()];
    let mut wanted = vec![false; listeners.len()];
    let mut owed = 0;
    for ((group, filter), alike) in by_filter {
        let mut events = 0;
        for (count, is_wanted) in counts.iter().zip(&mut kinds) {
            if pattern.is_none_or(|pattern| pattern.matches(&count.event_type))
                && count.group_id.is_none_or(|only| only == group)
                && filter.matches(&count.event_type, &count.source)
            {
                *is_wanted = true;
                events += count.events;
            }
        }
        owed += events * alike.len() as i64;
        for index in alike {
            wanted[index] = events > 0;
        }
    }
    let matched =
        counts.iter().zip(&kinds).filter(|(_, wanted)| **wanted).map(|(count, _)| count.events).sum();
    Tally { matched, owed, kinds, listeners: wanted }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn count(event_type: &str, source: &str, group_id: Option<i64>, events: i64) -> Count {
        Count { event_type: event_type.into(), source: source.into(), group_id, events }
    }

    fn listener(group_id: i64, types: &[&str], sources: &[&str]) -> Listener {
        let filter = Filter {
            event_types: types.iter().map(|text| text.parse().unwrap()).collect(),
            sources: sources.iter().map(|text| text.parse().unwrap()).collect(),
        };
        Listener { endpoint_id: EndpointId::generate(), group_id, filter }
    }

    #[test]
    fn events_are_matched_once_and_owed_to_each_endpoint() {
        let counts = [count("a.x", "s", None, 10), count("a.y", "t", None, 5), count("b", "s", None, 3)];
        let listeners = [
            listener(1, &["a.*"], &[]),
            listener(1, &["a.*"], &[]),
            listener(1, &[], &["s"]),
            listener(1, &["c"], &[]),
        ];
        let all = tally(&counts, None, &listeners);
        assert_eq!((all.matched, all.owed), (18, 10 * 3 + 5 * 2 + 3));
        assert_eq!((all.kinds, all.listeners), (vec![true; 3], vec![true, true, true, false]));
        let pattern = "b".parse().unwrap();
        let some = tally(&counts, Some(&pattern), &listeners);
        assert_eq!((some.matched, some.owed), (3, 3));
        assert_eq!((some.kinds, some.listeners), (vec![false, false, true], vec![false, false, true, false]));
        assert_eq!(tally(&counts, None, &listeners[..2]).kinds, [true, true, false]);
        assert_eq!(tally(&counts, None, &[]).matched, 0);
    }

    #[test]
    fn operational_events_are_their_group_s() {
        let counts = [count("eventrail.endpoint.disabled", "eventrail", Some(1), 2)];
        let listeners = [listener(1, &["eventrail.*"], &[]), listener(2, &["eventrail.*"], &[])];
        let tally = tally(&counts, None, &listeners);
        assert_eq!((tally.matched, tally.owed, tally.listeners), (2, 2, vec![true, false]));
    }
}
