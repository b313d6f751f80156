//! Appending what the feeds have waiting, and telling the dispatchers.

use std::time::Instant;

use eventrail_core::ids::EventId;
use eventrail_core::metrics as names;
use eventrail_core::rail::ready::{self, Hint};
use eventrail_core::rail::stream::{self, Appended};
use futures_util::future::join_all;
use redis::aio::ConnectionManager;

use super::feeds::{FULL_PAUSE_MOST, FeedState, shortest_full_pause};
use super::{APPEND_BATCH, Relay};
use crate::told::Told;

impl Relay {
    /// Appends what the feeds have waiting, to all streams at once, and tells the dispatchers.
    pub(super) async fn append_waiting(&mut self) -> anyhow::Result<()> {
        let now = Instant::now();
        let due = |feed: &&mut FeedState| {
            feed.known && !feed.waiting.is_empty() && feed.full_until.is_none_or(|until| until <= now)
        };
        let (redis, topology, window) = (&self.redis, &self.topology, self.config.window as usize);
        let appends = self.feeds.values_mut().filter(due).map(|state| {
            let mut redis = redis.clone();
            let room = state.room(window, topology.widest_entry(state.feed.group_id));
            async move {
                let was_crowded = state.crowded;
                let outcome = append_all(&mut redis, state, room).await;
                let is_news = state.crowded && !was_crowded;
                let tells = |appended: &Vec<EventId>| !appended.is_empty() || is_news;
                (state, outcome.map(|appended| Some(appended).filter(tells)))
            }
        });
        let mut told = Vec::new();
        let mut failed = None;
        for (state, outcome) in join_all(appends).await {
            match outcome {
                Ok(Some(appended)) => told.push(Told { hint: state.hint(), appended }),
                Ok(None) => {}
                Err(error) => failed = Some(error),
            }
        }
        self.tell(told).await?;
        failed.map_or(Ok(()), |error| Err(error.into()))
    }

    /// Gives hints to this process's own intake and to all others.
    pub(super) async fn tell(&mut self, told: Vec<Told>) -> redis::RedisResult<()> {
        let (channel, from) = (self.config.keys.ready(), &self.config.holder);
        let hints: Vec<Hint> = told.iter().map(|told| told.hint.clone()).collect();
        for told in told {
            let _ = self.hints.send(told);
        }
        ready::publish(&mut self.redis, &channel, from, &hints).await
    }
}

/// Whether so many entries are more than half of a stream's room.
pub(super) fn is_crowded(length: u64, room: u64) -> bool {
    length > room / 2
}

/// Appends a feed's waiting entries as far as its stream has room; answers of which events. A refused append makes
/// the feed unknown: it is compared again.
async fn append_all(
    redis: &mut ConnectionManager,
    state: &mut FeedState,
    room: u64,
) -> redis::RedisResult<Vec<EventId>> {
    let mut appended = 0;
    state.full_until = None;
    while appended < state.waiting.len() {
        let end = state.waiting.len().min(appended + APPEND_BATCH);
        let batch = &state.waiting[appended..end];
        let outcome = stream::append(redis, &state.stream, state.tail, room, batch).await;
        match outcome {
            Ok(Appended::Done { length }) => {
                state.crowded = is_crowded(length, room);
                state.tail = batch.last().map(|entry| entry.position);
                state.dirty = true;
                state.full_pause = shortest_full_pause(state.feed.kind);
                appended = end;
            }
            Ok(Appended::Full { .. }) => {
                state.crowded = true;
                state.full_until = Some(Instant::now() + state.full_pause);
                state.full_pause = (state.full_pause * 2).min(FULL_PAUSE_MOST);
                break;
            }
            Ok(refused @ (Appended::Refused { .. } | Appended::Missing)) => {
                tracing::info!(feed.id = state.feed.id, feed.group = %state.feed.group, ?refused, expected = state.tail,
                    "append refused: the stream is compared with the record again");
                metrics::counter!(names::RELAY_APPENDS_REFUSED).increment(1);
                state.known = false;
                return Ok(state.waiting.drain(..).take(appended).map(|entry| entry.event_id).collect());
            }
            Err(error) => {
                state.known = false;
                state.waiting.clear();
                return Err(error);
            }
        }
    }
    metrics::counter!(names::RELAY_ENTRIES_APPENDED).increment(appended as u64);
    Ok(state.waiting.drain(..appended).map(|entry| entry.event_id).collect())
}
