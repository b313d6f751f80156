//! Who is owed an event: a pure function of the log, the same before and after any rebuild.

use std::collections::HashMap;
use std::sync::Arc;

use eventrail_core::db::tail::LoggedEvent;
use eventrail_core::db::topology::{Feed, Snapshot};
use eventrail_core::ids::EndpointId;
use eventrail_core::matching::Filter;
use eventrail_core::protocol::{Addressed, covers};

/// Answers of the memo are dropped when it holds this many event types and sources.
const MEMO_LIMIT: usize = 20_000;

struct Subscription {
    endpoint_id: EndpointId,
    group_id: i64,
    from: i64,
    to: Option<i64>,
    filter: Filter,
}

/// The topology of one snapshot, ready to be asked.
#[derive(Default)]
pub(super) struct Topology {
    pub(super) version: i64,
    subscriptions: Vec<Subscription>,
    parked: HashMap<EndpointId, Vec<(i64, Option<i64>)>>,
    /// Endpoints with an open subscription, by group.
    widths: HashMap<i64, usize>,
    filters_by_source: bool,
    /// Subscriptions whose filter matches an event type (and source, where any filter names sources).
    memo: HashMap<(String, String), Arc<[usize]>>,
}

impl Topology {
    pub(super) fn new(snapshot: &Snapshot) -> Self {
        let subscriptions: Vec<Subscription> = snapshot
            .subscriptions
            .iter()
            .map(|row| Subscription {
                endpoint_id: row.endpoint_id,
                group_id: row.group_id,
                from: row.from_position,
                to: row.to_position,
                filter: Filter {
                    event_types: row.event_types.iter().filter_map(|text| text.parse().ok()).collect(),
                    sources: row.sources.iter().filter_map(|text| text.parse().ok()).collect(),
                },
            })
            .collect();
        let mut parked: HashMap<EndpointId, Vec<(i64, Option<i64>)>> = HashMap::new();
        for row in &snapshot.parked {
            parked.entry(row.endpoint_id).or_default().push((row.from_position, row.to_position));
        }
        let mut widths: HashMap<i64, usize> = HashMap::new();
        for subscription in subscriptions.iter().filter(|subscription| subscription.to.is_none()) {
            *widths.entry(subscription.group_id).or_default() += 1;
        }
        Self {
            version: snapshot.version,
            widths,
            filters_by_source: subscriptions.iter().any(|row| !row.filter.sources.is_empty()),
            subscriptions,
            parked,
            memo: HashMap::new(),
        }
    }

    /// Calls `owed` with group and endpoint for each subscription that is addressed and matches the event, parked or
    /// not: more than once for an endpoint that had several.
    fn each_subscriber(
        &mut self,
        event: &LoggedEvent,
        addressed: Addressed,
        mut owed: impl FnMut(&Self, i64, EndpointId),
    ) {
        let matching = self.matching(event);
        for &index in matching.iter() {
            let subscription = &self.subscriptions[index];
            let concerned = event.group_id.is_none_or(|group| group == subscription.group_id);
            if concerned && addressed.covers(subscription.from, subscription.to, event.position) {
                owed(self, subscription.group_id, subscription.endpoint_id);
            }
        }
    }

    /// The targets of the event in every group's live feed, by group.
    pub(super) fn live_targets(&mut self, event: &LoggedEvent) -> HashMap<i64, Vec<EndpointId>> {
        let mut targets: HashMap<i64, Vec<EndpointId>> = HashMap::new();
        self.each_subscriber(event, Addressed::default(), |topology, group, endpoint| {
            if !topology.is_parked(endpoint, event.position) {
                targets.entry(group).or_default().push(endpoint);
            }
        });
        targets
    }

    /// The targets of the event in one feed. One that goes back addresses, up to the position at which it was
    /// asked for, those who were subscribed then, and those whom it still owed it when it went back.
    pub(super) fn targets(&mut self, feed: &Feed, event: &LoggedEvent) -> Vec<EndpointId> {
        let mut targets = Vec::new();
        if feed.selection.as_ref().is_some_and(|wanted| !wanted.matches(&event.event_type, &event.source)) {
            return targets;
        }
        self.each_subscriber(event, feed.addressed(), |topology, group, endpoint| {
            let wanted = match feed.endpoint_id {
                Some(only) => endpoint == only,
                None => group == feed.group_id && !topology.is_parked(endpoint, event.position),
            };
            let is_named = feed.owed_from.is_some() && targets.contains(&endpoint);
            if wanted && !is_named {
                targets.push(endpoint);
            }
        });
        targets
    }

    /// How many endpoints a group's entries may name, at least one.
    pub(super) fn widest_entry(&self, group_id: i64) -> usize {
        self.widths.get(&group_id).copied().unwrap_or(1).max(1)
    }

    fn is_parked(&self, endpoint: EndpointId, position: i64) -> bool {
        self.parked
            .get(&endpoint)
            .is_some_and(|intervals| intervals.iter().any(|&(from, to)| covers(from, to, position)))
    }

    fn matching(&mut self, event: &LoggedEvent) -> Arc<[usize]> {
        let source = if self.filters_by_source { event.source.as_str() } else { "" };
        let key = (event.event_type.clone(), source.to_owned());
        if let Some(known) = self.memo.get(&key) {
            return Arc::clone(known);
        }
        let found: Arc<[usize]> = self
            .subscriptions
            .iter()
            .enumerate()
            .filter(|(_, subscription)| subscription.filter.matches(&event.event_type, &event.source))
            .map(|(index, _)| index)
            .collect();
        if self.memo.len() >= MEMO_LIMIT {
            self.memo.clear();
        }
        self.memo.insert(key, Arc::clone(&found));
        found
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use eventrail_core::db::topology::{ParkedRow, SubscriptionRow};
    use eventrail_core::feed::{FeedKind, GoesBack};
    use eventrail_core::ids::EventId;

    fn event(position: i64, event_type: &str) -> LoggedEvent {
        LoggedEvent {
            position,
            id: EventId::generate(),
            event_type: event_type.into(),
            source: "shop".into(),
            payload: None,
            created_at: chrono::DateTime::UNIX_EPOCH,
            group_id: None,
        }
    }

    fn subscription(
        endpoint: EndpointId,
        group: i64,
        from: i64,
        to: Option<i64>,
        types: &[&str],
    ) -> SubscriptionRow {
        SubscriptionRow {
            endpoint_id: endpoint,
            group_id: group,
            from_position: from,
            to_position: to,
            event_types: types.iter().map(ToString::to_string).collect(),
            sources: Vec::new(),
        }
    }

    #[test]
    fn intervals_filters_and_parking_decide() {
        let (first, second) = (EndpointId::generate(), EndpointId::generate());
        let snapshot = Snapshot {
            version: 1,
            feeds: Vec::new(),
            subscriptions: vec![
                subscription(first, 1, 10, Some(20), &["user.*"]),
                subscription(first, 1, 20, None, &["invoice.paid"]),
                subscription(second, 2, 0, None, &[]),
            ],
            parked: vec![ParkedRow {
                id: 1,
                feed_id: 2,
                endpoint_id: second,
                from_position: 15,
                to_position: Some(18),
            }],
        };
        let mut topology = Topology::new(&snapshot);
        let mut of = |position, event_type: &str| {
            let mut groups: Vec<i64> =
                topology.live_targets(&event(position, event_type)).into_keys().collect();
            groups.sort_unstable();
            groups
        };
        assert_eq!(of(10, "user.created"), [2]);
        assert_eq!(of(11, "user.created"), [1, 2]);
        assert_eq!(of(15, "user.created"), [1, 2]);
        assert_eq!(of(16, "user.created"), [1]);
        assert_eq!(of(18, "invoice.paid"), [0_i64; 0]);
        assert_eq!(of(20, "user.created"), [1, 2]);
        assert_eq!(of(21, "user.created"), [2]);
        assert_eq!(of(21, "invoice.paid"), [1, 2]);
    }

    #[test]
    fn a_feed_that_goes_back_still_owes_what_it_owed() {
        let (narrowed, moved) = (EndpointId::generate(), EndpointId::generate());
        let snapshot = Snapshot {
            version: 1,
            feeds: Vec::new(),
            subscriptions: vec![
                subscription(narrowed, 1, 0, Some(20), &[]),
                subscription(narrowed, 1, 20, None, &["x.*"]),
                subscription(moved, 1, 0, Some(20), &["a"]),
                subscription(moved, 1, 20, None, &["a", "x.*"]),
            ],
            parked: Vec::new(),
        };
        let mut topology = Topology::new(&snapshot);
        let feed = Feed {
            id: 1,
            group_id: 1,
            group: "orders".parse().unwrap(),
            kind: FeedKind::Live,
            epoch: 1,
            ask: 30,
            endpoint_id: None,
            goes_back: Some(GoesBack { as_of: 30, only_missing: false, resend: None }),
            owed_from: Some(10),
            selection: None,
            to_position: None,
            settled_position: 0,
        };
        assert_eq!(topology.targets(&feed, &event(10, "a")), [moved], "history is for those of now");
        assert_eq!(topology.targets(&feed, &event(11, "a")), [narrowed, moved], "each once");
        assert_eq!(topology.targets(&feed, &event(11, "x.y")), [narrowed, moved]);
        assert_eq!(topology.targets(&feed, &event(25, "a")), [moved]);
    }

    #[test]
    fn a_catch_up_brings_its_endpoint_what_was_parked() {
        let endpoint = EndpointId::generate();
        let snapshot = Snapshot {
            version: 1,
            feeds: Vec::new(),
            subscriptions: vec![subscription(endpoint, 1, 0, None, &[])],
            parked: vec![ParkedRow {
                id: 1,
                feed_id: 2,
                endpoint_id: endpoint,
                from_position: 5,
                to_position: None,
            }],
        };
        let mut topology = Topology::new(&snapshot);
        let feed = Feed {
            id: 9,
            group_id: 1,
            group: "orders".parse().unwrap(),
            kind: FeedKind::CatchUp,
            epoch: 0,
            ask: 1,
            endpoint_id: Some(endpoint),
            goes_back: None,
            owed_from: None,
            selection: None,
            to_position: Some(9),
            settled_position: 5,
        };
        assert_eq!(topology.targets(&feed, &event(6, "a")), [endpoint]);
        assert!(topology.live_targets(&event(6, "a")).is_empty());
    }
}
