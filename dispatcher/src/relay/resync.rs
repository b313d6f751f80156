//! Comparing: topology, record and streams, whenever something has changed or was refused.

use std::collections::HashMap;

use eventrail_core::db::{feed, tail, topology};
use eventrail_core::protocol::tail_fits;
use eventrail_core::rail::stream;
use futures_util::future::join_all;

use super::feeds::FeedState;
use super::targets::Topology;
use super::{BATCH, Relay, passes};

impl Relay {
    /// Reads topology and head in one snapshot, and takes over what has changed.
    pub(super) async fn read_topology(&mut self) -> anyhow::Result<tail::Head> {
        let mut transaction = self.pool.begin_with("begin isolation level repeatable read read only").await?;
        let snapshot = topology::read(&mut transaction).await?;
        let head = tail::read_head(&mut *transaction, self.head, BATCH as i64).await?;
        transaction.commit().await?;
        self.is_where_it_leads(head.incarnation)?;
        self.topology = Topology::new(&snapshot);
        let mut gone = std::mem::take(&mut self.feeds);
        for row in snapshot.feeds {
            let state = match gone.remove(&row.id) {
                Some(state) if state.feed.epoch == row.epoch => state,
                _ => FeedState::new(row, &self.config.keys),
            };
            self.feeds.insert(state.feed.id, state);
        }
        let feeds = &self.feeds;
        self.paces.retain(|id, _| {
            feeds.values().any(|state| state.feed.selection.as_ref().is_some_and(|one| one.replay_id == *id))
        });
        self.delete_streams(gone.into_values().collect()).await?;
        Ok(head)
    }

    /// Compares each feed that is not known with its stream and its record, and checks that the stream's
    /// tail is the log's: if a backup was restored, or positions were given again, the feed gets a new epoch.
    pub(super) async fn resync(&mut self) -> anyhow::Result<()> {
        let unknown: Vec<i64> =
            self.feeds.values().filter(|feed| !feed.known).map(|feed| feed.feed.id).take(200).collect();
        if unknown.is_empty() {
            return Ok(());
        }
        let redis = &self.redis;
        let inspections = unknown.iter().filter_map(|id| self.feeds.get(id)).map(|state| {
            let (mut redis, stream) = (redis.clone(), state.stream.clone());
            async move { stream::inspect(&mut redis, &stream).await }
        });
        // The record is read after the stream: what settles in between only moves it forward.
        let standings = join_all(inspections).await.into_iter().collect::<Result<Vec<_>, _>>()?;
        let cursors: HashMap<i64, feed::Cursor> = feed::cursors(&self.pool, &unknown)
            .await?
            .into_iter()
            .map(|cursor| (cursor.id, cursor))
            .collect();
        let tails: Vec<i64> = standings.iter().flatten().map(|standing| standing.tail).collect();
        let log: HashMap<i64, _> = tail::ids_at(&self.pool, &tails).await?.into_iter().collect();
        for (id, standing) in unknown.iter().zip(&standings) {
            let (Some(state), Some(cursor)) = (self.feeds.get_mut(id), cursors.get(id)) else { continue };
            if cursor.epoch != state.feed.epoch {
                continue;
            }
            if let Some(standing) = standing {
                let (in_stream, in_log) = (standing.tail_event.as_ref(), log.get(&standing.tail));
                if !tail_fits(standing.tail, in_stream, in_log, cursor.settled_position) {
                    tracing::warn!(feed.id = id, feed.group = %state.feed.group, tail = standing.tail,
                        "the stream's tail is not the log's: new epoch");
                    feed::begin_epoch(&self.pool, *id, state.feed.epoch).await?;
                    continue;
                }
            } else {
                self.loader.reload();
            }
            state.resume(cursor.settled_position, standing.as_ref());
            if state.feed.epoch > 0 {
                let old = passes::previous_streams(&self.config.keys, &state.feed);
                stream::delete(&mut self.redis, &old).await?;
            }
        }
        Ok(())
    }
}
