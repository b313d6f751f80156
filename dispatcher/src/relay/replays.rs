//! Reading for replays and redrives: after the live feeds, each in turn, and no faster than was asked for.

use std::time::Instant;

use eventrail_core::db::tail::{self, LoggedEvent, Place};
use eventrail_core::feed::{FeedKind, Selection};
use eventrail_core::ids::EndpointId;

use super::feeds::FeedState;
use super::pace::Pace;
use super::{BATCH, Relay};

/// Reads for replays in one step, so that the head is never kept waiting for long.
const REPLAY_READS: usize = 2;

impl Relay {
    /// Reads a batch for some of the replays that want more; answers whether any had something to read.
    pub(super) async fn help_replays(&mut self) -> anyhow::Result<bool> {
        let (now, head) = (Instant::now(), self.head.position);
        let mut wanting: Vec<i64> = self
            .feeds
            .values()
            .filter(|state| self.may_read(state, head))
            .map(|state| state.feed.id)
            .collect();
        if wanting.is_empty() {
            return Ok(false);
        }
        wanting.sort_unstable();
        let mut helped = false;
        for _ in 0..REPLAY_READS.min(wanting.len()) {
            self.replay_turn = self.replay_turn.wrapping_add(1);
            let id = wanting[self.replay_turn % wanting.len()];
            helped |= self.read_replay(id, now).await?;
        }
        self.append_waiting().await?;
        Ok(helped)
    }

    /// A replay may reach beyond what the head was read to; dead letters are rows, wherever the head stands.
    fn may_read(&self, state: &FeedState, head: i64) -> bool {
        match (&state.feed.selection, state.feed.kind) {
            (None, _) => false,
            (Some(_), FeedKind::Redrive) => state.wants_more(i64::MAX) && !state.is_scanned(),
            (Some(_), _) => state.wants_more(state.until(head)),
        }
    }

    async fn read_replay(&mut self, id: i64, now: Instant) -> anyhow::Result<bool> {
        let head = self.head.position;
        let Some(selection) = self.feeds.get(&id).and_then(|state| state.feed.selection.clone()) else {
            return Ok(false);
        };
        let allowed = self.allowed(&selection, now);
        let Some(state) = self.feeds.get(&id).filter(|_| allowed > 0) else { return Ok(false) };
        let (place, limit) = (state.place(), BATCH.min(allowed) as i64);
        let (events, end) = match (state.feed.kind, state.feed.endpoint_id) {
            (FeedKind::Redrive, Some(endpoint)) => {
                let of = (endpoint, state.feed.ask);
                let events = tail::read_dead(&self.pool, of, &selection, place, limit).await?;
                (events, state.until(i64::MAX))
            }
            _ => {
                let end = state.until(head);
                (tail::read_selected(&self.pool, &selection, place, end, limit).await?, end)
            }
        };
        let offered = self.offer_selected(id, &events, allowed);
        if let Some(pace) = self.paces.get_mut(&selection.replay_id) {
            pace.used(offered);
        }
        if let Some(state) = self.feeds.get_mut(&id) {
            state.scanned_to(match events.last() {
                Some(last) if events.len() as i64 == limit => Place::of(last),
                last => Place { position: end, floor: last.map_or(place.floor, |last| last.id.0) },
            });
            state.dirty = true;
        }
        Ok(true)
    }

    fn allowed(&mut self, selection: &Selection, now: Instant) -> usize {
        let Some(rate) = selection.rate_per_second else { return usize::MAX };
        self.paces.entry(selection.replay_id).or_insert_with(|| Pace::new(rate, now)).allowed(now)
    }

    /// Offers events that were read for one feed; answers how many it wants.
    fn offer_selected(&mut self, id: i64, events: &[LoggedEvent], most: usize) -> usize {
        debug_assert!(events.len() <= most);
        let Some(state) = self.feeds.get_mut(&id) else { return 0 };
        let mut offered = 0;
        for event in events {
            let targets: Vec<EndpointId> = match state.feed.kind {
                FeedKind::Redrive => state.feed.endpoint_id.into_iter().collect(),
                _ => self.topology.targets(&state.feed, event),
            };
            offered += targets.len();
            state.offer(event, targets);
        }
        offered
    }
}
