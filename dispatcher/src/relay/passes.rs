//! What the leading relay does again and again, each about once a second: settled positions, parking, due retries, streams of feeds
//! that ended. Each pass can be cut at any point and begun again. New events wait for it, so what is asked each time is
//! asked on the relay's own connection, where it is planned once.

use std::time::{Duration, Instant};

use eventrail_core::db::parking::{self, Parking};
use eventrail_core::db::{answered, delivery, feed, replay, topology};
use eventrail_core::feed::FeedKind;
use eventrail_core::metrics as names;
use eventrail_core::rail::keys::Keys;
use eventrail_core::rail::stream;
use futures_util::future::join_all;

use super::Relay;
use super::append::is_crowded;
use super::feeds::{FeedState, Seen, stream_of};
use super::loader::Loader;
use crate::told::Told;

/// How often the cursors of feeds without entries are written.
const IDLE_SETTLE_EVERY: Duration = Duration::from_secs(15);

/// Feeds that are ended, and endpoints that are parked, in one pass: producers wait meanwhile.
const CHANGES_AT_ONCE: usize = 500;

#[derive(Debug, Clone, Copy)]
enum Pass {
    Settle,
    Park,
    LoadRetries,
    EndWaiting,
    DeleteClosed,
}

pub(super) const COUNT: usize = 5;
const PASSES: [Pass; COUNT] =
    [Pass::Settle, Pass::Park, Pass::LoadRetries, Pass::EndWaiting, Pass::DeleteClosed];
const EVERY: Duration = Duration::from_secs(1);

/// Streams of so many epochs before a new one are deleted.
const EPOCHS_BACK: i64 = 8;

impl Relay {
    /// Makes the pass that has been due for longest, and others only if they are late: new events wait for them.
    /// One that fails is left for its next turn, and holds up neither the others nor the head.
    pub(super) async fn make_passes(&mut self) {
        for _ in 0..COUNT {
            let now = Instant::now();
            let late = now.checked_sub(EVERY).unwrap_or(now);
            let Some((turn, due)) = self.passes.iter().copied().enumerate().min_by_key(|(_, due)| *due)
            else {
                return;
            };
            if due > now {
                return;
            }
            // Also if it is cut: the others have their turns first.
            self.passes[turn] = now + EVERY;
            if let Err(error) = answered(self.make(PASSES[turn])).await {
                tracing::warn!(pass = ?PASSES[turn], error = format!("{error:#}"), "pass failed; it comes again");
                metrics::counter!(names::RELAY_STEPS_FAILED).increment(1);
                // What it believes to be in the ZSETs may not be.
                self.loader = Loader::default();
            }
            if self.passes.iter().all(|due| *due > late) {
                return;
            }
        }
    }

    async fn make(&mut self, pass: Pass) -> anyhow::Result<()> {
        match pass {
            Pass::Settle => self.settle().await,
            Pass::Park => self.park().await,
            Pass::LoadRetries => self.load_retries().await,
            Pass::EndWaiting => self.end_waiting().await,
            Pass::DeleteClosed => self.delete_closed().await,
        }
    }

    async fn load_retries(&mut self) -> anyhow::Result<()> {
        let mut line = self.lines.take().await?;
        let hints = self.loader.load(&mut line, &mut self.redis, &self.config.keys).await?;
        line.give_back();
        Ok(self.tell(hints.into_iter().map(Told::from).collect()).await?)
    }

    /// Ends rows that wait for what is no more. An attempt may have been under way when its endpoint was deleted
    /// or its replay cancelled, so this is asked again and again.
    async fn end_waiting(&mut self) -> anyhow::Result<()> {
        let mut line = self.lines.take().await?;
        self.orphans_unknown &= delivery::end_orphans(&mut *line, self.orphans_unknown).await? > 0;
        replay::end_cancelled(&mut line).await?;
        line.give_back();
        Ok(())
    }

    /// Looks at every stream that may hold entries: stores what is settled, rings for what is not, and
    /// notices a stream that was flushed or rolled back while nothing was appended.
    async fn settle(&mut self) -> anyhow::Result<()> {
        let (redis, window) = (&self.redis, self.config.window as usize);
        let dirty = self.feeds.values().filter(|feed| feed.known && feed.dirty).map(|state| {
            let (mut redis, stream, id) = (redis.clone(), state.stream.clone(), state.feed.id);
            async move { (id, stream::inspect(&mut redis, &stream).await) }
        });
        let (mut settled, mut hints, mut complete) = (Vec::new(), Vec::new(), Vec::new());
        for (id, standing) in join_all(dirty).await {
            let standing = standing?;
            let Some(state) = self.feeds.get_mut(&id) else { continue };
            match state.judge(standing.as_ref()) {
                Seen::NotOurs => {
                    tracing::info!(feed.id = id, feed.group = %state.feed.group,
                        "the stream is not as it was left: it is compared with the record again");
                    state.known = false;
                }
                Seen::Settled { position, entries } => {
                    if state.is_live() {
                        metrics::gauge!(names::FEED_STREAM_ENTRIES, "group" => state.feed.group.to_string())
                            .set(entries as f64);
                        let lag = (self.head.position - position).max(0);
                        metrics::gauge!(names::FEED_LAG_EVENTS, "group" => state.feed.group.to_string())
                            .set(lag as f64);
                    }
                    let room = state.room(window, self.topology.widest_entry(state.feed.group_id));
                    state.crowded = is_crowded(entries, room);
                    state.dirty = entries > 0 || !state.waiting.is_empty() || !state.is_live();
                    if entries > 0 {
                        hints.push(Told::from(state.hint()));
                    }
                    if position > state.settled
                        || state.feed.selection.is_some() && state.published() > state.shown
                    {
                        settled.push(progress(state, position));
                    }
                    if state.is_complete(position) {
                        complete.push((id, state.feed.epoch, state.stream.clone()));
                    }
                }
            }
        }
        if Instant::now() >= self.next_idle_settle {
            self.next_idle_settle = Instant::now() + IDLE_SETTLE_EVERY;
            let idle = |feed: &&FeedState| feed.known && !feed.dirty && feed.published() > feed.settled;
            settled.extend(self.feeds.values().filter(idle).map(|state| progress(state, state.published())));
        }
        if !settled.is_empty() {
            let mut line = self.lines.take().await?;
            feed::settle(&mut *line, self.incarnation, &settled).await?;
            line.give_back();
        }
        for seen in settled {
            if let Some(state) = self.feeds.get_mut(&seen.cursor.id) {
                state.settled = state.settled.max(seen.cursor.settled_position);
                state.shown = state.shown.max(seen.scanned_position);
            }
        }
        // The rest stays complete until the next pass. The streams first: a feed without one is rebuilt, a stream
        // without a feed would stay for ever.
        complete.truncate(CHANGES_AT_ONCE);
        let streams: Vec<String> = complete.iter().map(|(_, _, stream)| stream.clone()).collect();
        stream::delete(&mut self.redis, &streams).await?;
        let ended: Vec<(i64, i64)> = complete.iter().map(|(id, epoch, _)| (*id, *epoch)).collect();
        feed::finish(&self.pool, self.incarnation, &ended).await?;
        for (id, ..) in &complete {
            tracing::info!(feed.id = id, "feed delivered all of its interval");
        }
        Ok(self.tell(hints).await?)
    }

    /// Parks endpoints past the deferral bound and disabled ones, from where their live feed was read to;
    /// brings back those that have recovered. Only the relay does this, between two of its reads.
    async fn park(&mut self) -> anyhow::Result<()> {
        let mut line = self.lines.take().await?;
        let (to_park, parked) = (parking::to_park(&mut *line).await?, parking::count(&mut *line).await?);
        line.give_back();
        metrics::gauge!(names::ENDPOINTS_PARKED).set(parked as f64);
        let mut parkings = Vec::new();
        for endpoint in to_park {
            if parkings.len() == CHANGES_AT_ONCE {
                break;
            }
            let live =
                self.feeds.values().find(|state| state.is_live() && state.feed.group_id == endpoint.group_id);
            let Some(state) = live.filter(|state| state.known) else { continue };
            tracing::warn!(endpoint.id = %endpoint.endpoint_id, feed.group = %state.feed.group,
                endpoint.disabled, from = state.scanned, "endpoint parked: its backlog stays in the log");
            parkings.push(Parking {
                feed_id: state.feed.id,
                epoch: state.feed.epoch,
                from: state.scanned,
                endpoint,
            });
        }
        parking::park(&self.pool, self.incarnation, &parkings).await?;
        let brought_back = if parked > 0 { parking::unpark(&self.pool).await? } else { 0 };
        if brought_back > 0 {
            tracing::info!(
                endpoints = brought_back,
                "endpoints brought back; catch-up feeds bring what they missed"
            );
        }
        Ok(())
    }

    /// Deletes the streams of feeds that have ended or begun a new epoch.
    pub(super) async fn delete_streams(&mut self, gone: Vec<FeedState>) -> anyhow::Result<()> {
        let streams: Vec<String> = gone.into_iter().map(|state| state.stream).collect();
        stream::delete(&mut self.redis, &streams).await?;
        Ok(())
    }

    /// Deletes the streams of feeds that were ended by hand or with their group, also while no relay ran.
    async fn delete_closed(&mut self) -> anyhow::Result<()> {
        let mut line = self.lines.take().await?;
        let closed = feed::closed(&mut *line).await?;
        line.give_back();
        if closed.is_empty() {
            return Ok(());
        }
        let keys = &self.config.keys;
        let mut gone: Vec<String> = closed
            .iter()
            .map(|feed| stream_of(keys, &feed.group, (feed.kind, feed.id), feed.epoch))
            .collect();
        // A group of the same name that was made meanwhile loses its retries with this one's: the loader's
        // sweep puts them back.
        gone.extend(
            closed.iter().filter(|feed| feed.kind == FeedKind::Live).map(|feed| keys.retry(&feed.group)),
        );
        stream::delete(&mut self.redis, &gone).await?;
        let ids: Vec<i64> = closed.iter().map(|feed| feed.id).collect();
        feed::mark_deleted(&self.pool, &ids).await?;
        Ok(())
    }
}

fn progress(state: &FeedState, position: i64) -> feed::Progress {
    feed::Progress {
        cursor: feed::Cursor { id: state.feed.id, epoch: state.feed.epoch, settled_position: position },
        scanned_position: if state.feed.selection.is_some() { state.published() } else { 0 },
    }
}

/// The streams of the epochs before a feed's own: where cursors were moved in quick succession, several.
pub(super) fn previous_streams(keys: &Keys, feed: &topology::Feed) -> Vec<String> {
    let epochs = (feed.epoch - EPOCHS_BACK).max(0)..feed.epoch;
    epochs.map(|epoch| stream_of(keys, &feed.group, (feed.kind, feed.id), epoch)).collect()
}
