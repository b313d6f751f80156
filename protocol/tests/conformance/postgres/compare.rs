//! Whether the record is as the model has it.

use std::collections::BTreeSet;

use chrono::{TimeDelta, Utc};
use eventrail_core::db::{parking, topology, waiting};
use eventrail_core::ids::{EndpointId, EventId};
use eventrail_protocol::postgres::{ALL_KINDS, Feed, Kind, Row};
use eventrail_protocol::world::Set;

use super::{ENDPOINTS, Pair};
use crate::number;

/// A row of `parked`: endpoint, from, to, owed from, skipped.
type Interval = (EndpointId, i64, Option<i64>, Option<i64>, bool);

impl Pair {
    /// Both must be the same now.
    pub(super) async fn compare(&self, seed: u64, done: &[String]) {
        let after = format!("seed {seed}, after {done:#?}");
        let log: Vec<(i64, EventId)> = sqlx::query_as("select position, id from event order by position")
            .fetch_all(&self.pool)
            .await
            .unwrap();
        let real: Vec<_> = log.into_iter().map(|(position, id)| (position, self.events.number(id))).collect();
        let events = self.model.events.iter().map(|event| (i64::from(event.position), event.id));
        assert_eq!(real, events.collect::<Vec<_>>(), "events: {after}");
        assert_eq!(self.real_feeds().await, self.modelled_feeds(), "feeds: {after}");
        let all = "select endpoint_id, from_position, to_position, owed_from, skipped from parked";
        let rows: Vec<Interval> = sqlx::query_as(all).fetch_all(&self.pool).await.unwrap();
        let mut real: Vec<_> = rows
            .into_iter()
            .map(|(id, from, to, owed, skipped)| (self.number(id), from, to, owed, skipped))
            .collect();
        let parked = self.model.parked.iter();
        let mut modelled: Vec<_> = parked
            .map(|one| {
                (
                    one.endpoint,
                    i64::from(one.from),
                    one.to.map(i64::from),
                    one.owed_from.map(i64::from),
                    one.skipped,
                )
            })
            .collect();
        real.sort_unstable();
        modelled.sort_unstable();
        assert_eq!(real, modelled, "parked: {after}");
        let rows: Vec<(EventId, EndpointId, i64, String, i32)> =
            sqlx::query_as("select event_id, endpoint_id, ask, status, attempt_count from delivery order by event_id, endpoint_id")
                .fetch_all(&self.pool)
                .await
                .unwrap();
        let real: BTreeSet<_> = rows
            .into_iter()
            .map(|(event, endpoint, ask, status, count)| {
                (self.events.number(event), self.number(endpoint), ask, status, count)
            })
            .collect();
        let row = |row: &Row| {
            (
                row.event,
                row.endpoint,
                i64::from(row.ask),
                row.status.as_str().to_owned(),
                i32::from(row.attempts),
            )
        };
        assert_eq!(real, self.model.rows.iter().map(row).collect(), "rows: {after}");
        self.compare_attempts(&after).await;
        self.compare_topology(&after).await;
        self.compare_questions(&after).await;
    }

    fn number(&self, endpoint: EndpointId) -> u8 {
        number(&self.endpoints, &endpoint)
    }

    async fn real_feeds(&self) -> Vec<String> {
        type Row = (
            i64,
            String,
            i64,
            i64,
            Option<EndpointId>,
            Option<i64>,
            Option<i64>,
            bool,
            i64,
            Option<i64>,
            i64,
            String,
        );
        let rows: Vec<Row> = sqlx::query_as(
            "select id, kind, epoch, ask, endpoint_id, as_of_position, owed_from, only_missing, from_position, to_position,
                    settled_position, status from feed order by id",
        )
        .fetch_all(&self.pool)
        .await
        .unwrap();
        rows.into_iter()
            .map(|(id, kind, epoch, ask, endpoint, as_of, owed, only_missing, from, to, settled, status)| {
                let (id, endpoint) = (number(&self.feeds, &id), endpoint.map(|id| self.number(id)));
                format!("{id} {kind} {epoch} {ask} {endpoint:?} {as_of:?} {owed:?} {only_missing} {from} {to:?} {settled} {status}")
            })
            .collect()
    }

    fn modelled_feeds(&self) -> Vec<String> {
        let feed = |feed: &Feed| {
            let kind = match feed.kind {
                Kind::Live => "live",
                Kind::CatchUp => "catch_up",
                Kind::Replay => "replay",
            };
            let status = format!("{:?}", feed.state).to_lowercase();
            let Feed { id, epoch, ask, endpoint, as_of, owed_from: owed, .. } = feed;
            let (only_missing, from, to, settled) = (feed.only_missing, feed.from, feed.to, feed.settled);
            format!(
                "{id} {kind} {epoch} {ask} {endpoint:?} {as_of:?} {owed:?} {only_missing} {from} {to:?} {settled} {status}"
            )
        };
        self.model.feeds.iter().map(feed).collect()
    }

    async fn compare_attempts(&self, after: &str) {
        let counted =
            "select event_id, endpoint_id, ask, count(*) from attempt group by event_id, endpoint_id, ask";
        let rows: Vec<(EventId, EndpointId, i64, i64)> =
            sqlx::query_as(counted).fetch_all(&self.pool).await.unwrap();
        let real: BTreeSet<_> = rows
            .into_iter()
            .map(|(event, endpoint, ask, count)| {
                (self.events.number(event), self.number(endpoint), ask, count)
            })
            .collect();
        let modelled = self.model.attempts.iter();
        let modelled = modelled
            .map(|((event, endpoint, ask), count)| (*event, *endpoint, i64::from(*ask), i64::from(*count)));
        assert_eq!(real, modelled.collect(), "attempts: {after}");
    }

    async fn compare_topology(&self, after: &str) {
        let mut snapshot =
            self.pool.begin_with("begin isolation level repeatable read read only").await.unwrap();
        let real = topology::read(&mut snapshot).await.unwrap();
        let modelled = self.model.topology();
        let mut subscribed: Vec<(u8, i64, Option<i64>, Set)> = real
            .subscriptions
            .iter()
            .map(|one| {
                (
                    self.number(one.endpoint_id),
                    one.from_position,
                    one.to_position,
                    if one.event_types.is_empty() { ALL_KINDS } else { 1 },
                )
            })
            .collect();
        let mut expected: Vec<(u8, i64, Option<i64>, Set)> = modelled
            .subscriptions
            .iter()
            .map(|one| (one.endpoint, one.from.into(), one.to.map(Into::into), one.kinds))
            .collect();
        subscribed.sort_unstable();
        expected.sort_unstable();
        assert_eq!(subscribed, expected, "the topology's subscriptions: {after}");
        let mut parked: Vec<(u8, i64, Option<i64>)> = real
            .parked
            .iter()
            .map(|one| (self.number(one.endpoint_id), one.from_position, one.to_position))
            .collect();
        let mut expected: Vec<(u8, i64, Option<i64>)> = modelled
            .parked
            .iter()
            .map(|one| (one.endpoint, one.from.into(), one.to.map(Into::into)))
            .collect();
        parked.sort_unstable();
        expected.sort_unstable();
        assert_eq!(parked, expected, "the topology's parked intervals: {after}");
    }

    /// What falls due, and who is to be parked.
    async fn compare_questions(&self, after: &str) {
        let ages = TimeDelta::days(1000);
        let (from, to) = (waiting::Place::before(Utc::now() - ages), Utc::now() + ages);
        let due = waiting::falling_due(&self.pool, from, to, 1000).await.unwrap();
        let real: BTreeSet<(u8, u8)> =
            due.iter().map(|one| (self.events.number(one.event_id), self.number(one.endpoint_id))).collect();
        let rows = self.model.rows.iter().map(|row| (row.event, row.endpoint));
        assert_eq!(
            real,
            rows.filter(|(event, endpoint)| self.model.falls_due(*event, *endpoint)).collect(),
            "due: {after}"
        );
        let real: BTreeSet<u8> = parking::to_park(&self.pool)
            .await
            .unwrap()
            .iter()
            .map(|one| self.number(one.endpoint_id))
            .collect();
        let is_off = |id: &u8| self.model.disabled & (1 << id) != 0 && self.model.wants_parking(*id);
        assert_eq!(real, (0..ENDPOINTS).filter(is_off).collect(), "to be parked: {after}");
    }
}
