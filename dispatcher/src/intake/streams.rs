//! Reading streams: as far as there is room, what nobody has read, what is pending here, and what others left
//! behind.

use std::collections::HashSet;
use std::sync::Arc;
use std::time::{Duration, Instant};

use eventrail_core::db::answered;
use eventrail_core::db::recipient::State;
use eventrail_core::metrics as names;
use eventrail_core::rail::entry::Read;
use eventrail_core::rail::intake::{self, From, IdleFor, TakenOver};

use super::{BACKOFF, CLAIM_AFTER, Done, Intake, READ_COUNT};
use crate::lanes::{Class, SOFT_LIMIT};
use crate::prepare::{self, Looked};
use crate::slots::FeedSlot;
use crate::work::{Origin, Work};

/// The same of a feed with a single endpoint while live work comes in: what is done for many at once would hold
/// that up.
const READ_BESIDE_LIVE: usize = 32;
/// Own pending entries in one read.
const OWN_COUNT: usize = 1024;
/// Entries of a consumer that no longer announces itself are taken over once they were idle this long.
const SETTLE_IN: Duration = Duration::from_secs(1);
const TAKE_OVER_EVERY: Duration = Duration::from_secs(2);
/// Of all that may be in hand, feeds with a single endpoint have this part, besides what the others may have.
const BACKGROUND_PART: usize = 4;
const RECOVER_EVERY: Duration = Duration::from_secs(15);

impl Intake {
    pub(super) fn on_read(
        &mut self,
        stream: &Arc<str>,
        from: &From,
        rung: u64,
        count: usize,
        answer: redis::RedisResult<Vec<Read>>,
        known: Looked,
    ) {
        let Some(slot) = self.feeds.get_mut(stream) else { return };
        slot.reading = false;
        match answer {
            Ok(reads) => {
                slot.has_read(from, &reads, rung, count);
                self.prepare(stream, reads, known);
            }
            Err(error) => {
                tracing::debug!(%stream, %error, "stream not read");
                slot.back_off(Instant::now() + BACKOFF);
            }
        }
    }

    pub(super) fn on_taken_over(&mut self, stream: &Arc<str>, answer: redis::RedisResult<TakenOver>) {
        match answer {
            Ok(TakenOver { reads, missing }) => {
                if let Some(slot) = self.feeds.get_mut(stream) {
                    slot.missed = missing;
                }
                if !reads.is_empty() {
                    tracing::info!(%stream, entries = reads.len(), "took over entries that were left behind");
                    metrics::counter!(names::ENTRIES_CLAIMED).increment(reads.len() as u64);
                }
                self.prepare(stream, reads, Looked::default());
            }
            Err(error) => tracing::debug!(%stream, %error, "nothing taken over"),
        }
    }

    /// Looks up what is owed of these entries, beside the intake; those in hand already are passed over.
    fn prepare(&mut self, stream: &Arc<str>, mut reads: Vec<Read>, known: Looked) {
        let Some(slot) = self.feeds.get_mut(stream) else { return };
        let entries = &mut self.entries;
        reads.retain(|read| match read {
            Read::Entry(entry) => entries.insert((Arc::clone(stream), entry.position)),
            Read::Void { .. } | Read::Foreign { .. } => true,
        });
        if reads.is_empty() {
            return;
        }
        let position = |read: &Read| match read {
            Read::Entry(entry) => Some(entry.position),
            Read::Void { .. } | Read::Foreign { .. } => None,
        };
        let positions: Vec<i64> = reads.iter().filter_map(position).collect();
        slot.preparing += positions.len();
        let (context, feed, stream) = (Arc::clone(&self.context), slot.feed.clone(), Arc::clone(stream));
        self.tasks.spawn(async move {
            let answer = answered(prepare::entries(&context, &feed, &stream, reads, known)).await;
            Done::Prepared { stream, positions, answer }
        });
    }

    pub(super) fn on_prepared(
        &mut self,
        stream: &Arc<str>,
        positions: &[i64],
        answer: anyhow::Result<Vec<Work>>,
    ) {
        let now = Instant::now();
        if let Some(slot) = self.feeds.get_mut(stream) {
            slot.preparing = slot.preparing.saturating_sub(positions.len());
        }
        let mut not_held: HashSet<i64> = positions.iter().copied().collect();
        match answer {
            Ok(works) => {
                for work in works {
                    if let Origin::Live(entry) | Origin::Single(_, entry) = &work.origin {
                        not_held.remove(&entry.position);
                    }
                    self.place(work, now);
                }
            }
            Err(error) => {
                tracing::warn!(%stream, error = format!("{error:#}"), "entries not prepared; they are read again");
                if let Some(slot) = self.feeds.get_mut(stream) {
                    slot.back_off(now + BACKOFF);
                }
            }
        }
        for position in not_held {
            self.entries.remove(&(Arc::clone(stream), position));
        }
        self.read(stream, now);
    }

    pub(super) fn read_all(&mut self, now: Instant) {
        let ready: Vec<Arc<str>> = self
            .feeds
            .iter()
            .filter(|(_, slot)| slot.wants_reading(now))
            .map(|(stream, _)| Arc::clone(stream))
            .collect();
        for stream in ready {
            self.read(&stream, now);
        }
    }

    /// Reads a stream if it has entries and there is room for them.
    pub(super) fn read(&mut self, stream: &Arc<str>, now: Instant) {
        let Some(slot) = self.feeds.get(stream).filter(|slot| slot.wants_reading(now)) else { return };
        if self.context.recipients.is_paused(slot.feed.group_id) {
            return;
        }
        let count = match (slot.from(now), self.quota(slot, now)) {
            (From::New, quota) => quota,
            // Where there is only one endpoint and it can't be tried, it would only be in the way.
            (From::Own(_), 0) if slot.feed.endpoint_id.is_some() => 0,
            // Most of what is pending here is in hand, and takes no room.
            (From::Own(_), _) => OWN_COUNT,
        };
        if count == 0 {
            return;
        }
        let Some(slot) = self.feeds.get_mut(stream) else { return };
        slot.reading = true;
        let (from, rung) = (slot.from(now), slot.rung);
        let appended = match from {
            From::New => std::mem::take(&mut slot.appended),
            From::Own(_) => Vec::new(),
        };
        let (context, stream) = (Arc::clone(&self.context), Arc::clone(stream));
        self.tasks.spawn(async move {
            let mut redis = context.redis.connection();
            let reading = intake::read(&mut redis, &stream, &context.consumer, &from, count);
            let (answer, known) = tokio::join!(reading, prepare::look_up(&context, appended));
            Done::Read { stream, from, rung, count, answer, known }
        });
    }

    /// How many entries of a feed may be read now. An endpoint that can't be tried does not hold up a live
    /// feed, whose work for it is deferred; a catch-up, whose only endpoint it is, rests.
    pub(super) fn quota(&self, slot: &FeedSlot, now: Instant) -> usize {
        let room = match slot.feed.endpoint_id {
            Some(only) => match self.context.recipients.get(only).map(|target| target.state) {
                Some(State::Disabled | State::Sealed) => 0,
                _ => self.lanes.room(only, Class::Background, now).unwrap_or(0),
            },
            None => {
                let (mut most, mut any) = (0, false);
                self.context.recipients.each_of_group(slot.feed.group_id, |endpoint| {
                    any = true;
                    most = most.max(self.lanes.room(*endpoint, Class::Prompt, now).unwrap_or(SOFT_LIMIT));
                    most < READ_COUNT
                });
                if any { most } else { READ_COUNT }
            }
        };
        let width = self.context.recipients.active_in_group(slot.feed.group_id).max(1);
        let memory = match slot.feed.endpoint_id {
            Some(_) => (self.most_held / BACKGROUND_PART).saturating_sub(self.held.background()),
            None => self.most_held.saturating_sub(self.held.prompt()) / width,
        };
        let beside_live = slot.feed.endpoint_id.is_some() && self.lanes.is_live_coming_in(now);
        let most = if beside_live { READ_BESIDE_LIVE } else { READ_COUNT };
        room.saturating_sub(slot.preparing).min(most).min(memory)
    }

    /// Takes over what others left behind, and looks again at what is pending here, stream by stream.
    pub(super) fn look_after(&mut self, now: Instant) {
        for (stream, slot) in &mut self.feeds {
            if slot.next_recover <= now {
                slot.next_recover = now + RECOVER_EVERY;
                slot.recover(now);
            }
            if slot.next_take_over > now {
                continue;
            }
            slot.next_take_over = now + TAKE_OVER_EVERY;
            // Without an answer nobody counts as missed: it must be two rounds in a row.
            let missed = std::mem::take(&mut slot.missed);
            let (context, stream) = (Arc::clone(&self.context), Arc::clone(stream));
            self.tasks.spawn(async move {
                let mut redis = context.redis.connection();
                let (keys, me) = (&context.keys, context.consumer.as_str());
                let idle = IdleFor { of_dead: SETTLE_IN, of_living: CLAIM_AFTER };
                let answer =
                    intake::take_over(&mut redis, keys, &stream, me, &missed, idle, READ_COUNT).await;
                if answer.is_ok() {
                    let _ = intake::forget_dead_consumers(&mut redis, keys, &stream).await;
                }
                Done::TakenOver { stream, answer }
            });
        }
    }
}
