//! Reading for replays and redrives: after the live feeds, each in turn, and no faster than was asked for.

use std::time::Instant;

use eventrail_core::db::tail::{self, Candidate, Place};
use eventrail_core::feed::{FeedKind, Selection};
use eventrail_core::ids::EndpointId;

use super::Relay;
use super::feeds::FeedState;
use super::pace::Pace;

/// Reads for replays in one step, so that the head is never kept waiting for long.
const REPLAY_READS: usize = 2;
/// Events in one of them.
const REPLAY_BATCH: usize = 100;

impl Relay {
    /// Reads a batch for some of the replays that want more and may have it; answers whether there were any.
    pub(super) async fn help_replays(&mut self) -> anyhow::Result<bool> {
        let (now, head) = (Instant::now(), self.head.position);
        let mut wanting: Vec<i64> = self
            .feeds
            .values()
            .filter(|state| self.may_read(state, head))
            .map(|state| state.feed.id)
            .collect();
        wanting.sort_unstable();
        // From the feed after the one that was read last: turns don't depend on how many want one.
        let next = wanting.partition_point(|id| *id <= self.replay_turn);
        wanting.rotate_left(next);
        let mut reads = 0;
        for id in wanting {
            if self.read_replay(id, now).await? {
                self.replay_turn = id;
                reads += 1;
            }
            if reads == REPLAY_READS {
                break;
            }
        }
        if reads > 0 {
            self.append_waiting().await?;
        }
        Ok(reads > 0)
    }

    /// A replay may reach beyond what the head was read to; dead candidates are rows, wherever the head stands.
    fn may_read(&self, state: &FeedState, head: i64) -> bool {
        match (&state.feed.selection, state.feed.kind) {
            (None, _) => false,
            (Some(_), FeedKind::Redrive) => state.wants_more(i64::MAX) && !state.is_scanned(),
            (Some(_), _) => state.wants_more(state.until(head)),
        }
    }

    /// False where the replay has used up what its rate allows for now.
    async fn read_replay(&mut self, id: i64, now: Instant) -> anyhow::Result<bool> {
        let Some(selection) = self.feeds.get(&id).and_then(|state| state.feed.selection.clone()) else {
            return Ok(false);
        };
        let allowed = self.allowed(&selection, now);
        let Some(state) = self.feeds.get(&id).filter(|_| allowed > 0) else { return Ok(false) };
        let place = state.place();
        let (candidates, end) = match (state.feed.kind, state.feed.endpoint_id) {
            (FeedKind::Redrive, Some(endpoint)) => {
                let of = (endpoint, state.feed.ask);
                let candidates =
                    tail::read_dead(&self.pool, of, &selection, place, REPLAY_BATCH as i64).await?;
                self.are_where_it_leads(&candidates)?;
                (candidates, state.until(i64::MAX))
            }
            _ => {
                let end = state.until(self.head.position);
                (self.read_range(place, end, REPLAY_BATCH).await?, end)
            }
        };
        let (offered, seen) = self.offer_selected(id, &candidates, allowed);
        if let Some(pace) = self.paces.get_mut(&selection.replay_id) {
            pace.used(offered);
        }
        let last = seen.checked_sub(1).and_then(|index| candidates.get(index)).map(|last| &last.event);
        if let Some(state) = self.feeds.get_mut(&id) {
            state.scanned_to(match last {
                Some(last) if seen < candidates.len() || seen == REPLAY_BATCH => Place::of(last),
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

    /// Offers what was read for one feed until it has taken `most`; answers how many it has taken, and of how
    /// many it was told.
    fn offer_selected(&mut self, id: i64, candidates: &[Candidate], most: usize) -> (usize, usize) {
        let Some(state) = self.feeds.get_mut(&id) else { return (0, 0) };
        let (mut offered, mut seen) = (0, 0);
        for Candidate { event, is_wanted, .. } in candidates {
            if offered >= most {
                break;
            }
            seen += 1;
            let targets: Vec<EndpointId> = match state.feed.kind {
                _ if !is_wanted => continue,
                FeedKind::Redrive => state.feed.endpoint_id.into_iter().collect(),
                _ => self.topology.targets(&state.feed, event),
            };
            offered += targets.len();
            state.offer(event, targets);
        }
        (offered, seen)
    }
}
