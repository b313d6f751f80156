//! The loader: puts retries into their group's ZSET shortly before they fall due, and puts back those that
//! Redis lost. So the ZSETs are bounded, and heal themselves.

use std::collections::HashMap;
use std::time::{Duration, Instant};

use chrono::{DateTime, TimeDelta, Utc};
use eventrail_core::db::waiting::{self, Place, Waiting};
use eventrail_core::group::GroupName;
use eventrail_core::rail::keys::Keys;
use eventrail_core::rail::ready::Hint;
use eventrail_core::rail::schedule::{self, Change, HORIZON, Member};
use redis::aio::ConnectionManager;
use sqlx::PgConnection;

use crate::clock;

/// Rows in one read.
const BATCH: i64 = 5_000;
/// Reads in one pass.
const READS: usize = 4;
/// A retry that is overdue by this long is put back: it was lost, or is leased and the change has no effect.
const OVERDUE: TimeDelta = TimeDelta::seconds(3);
/// How far back changes by hand are looked for: clocks may differ, and a commit takes its time.
const RECENT: TimeDelta = TimeDelta::seconds(10);
const SWEEP_EVERY: Duration = Duration::from_secs(3);

#[derive(Default)]
pub(super) struct Loader {
    /// Up to here all was loaded; `None` before the first pass.
    loaded_to: Option<Place>,
    next_sweep: Option<Instant>,
    /// Where the sweep stands; it goes round.
    swept_to: Option<Place>,
    /// Deliveries that were made due by hand, as they were then: each is hastened once.
    hastened: HashMap<Member, DateTime<Utc>>,
}

impl Loader {
    /// Forgets what was loaded: Redis has lost something.
    pub(super) fn reload(&mut self) {
        *self = Self::default();
    }

    /// Loads what falls due within the horizon, and sweeps what is overdue; answers whom to wake.
    pub(super) async fn load(
        &mut self,
        record: &mut PgConnection,
        redis: &mut ConnectionManager,
        keys: &Keys,
    ) -> anyhow::Result<Vec<Hint>> {
        let now = clock::now();
        let mut groups = HashMap::new();
        let horizon = now + HORIZON;
        let mut from = self.loaded_to.unwrap_or(Place::before(now - OVERDUE));
        for _ in 0..READS {
            let rows = waiting::falling_due(&mut *record, from, horizon, BATCH).await?;
            add(redis, keys, &rows, &mut groups).await?;
            match next(&rows) {
                Some(place) => from = place,
                None => {
                    from = Place::before(horizon);
                    break;
                }
            }
        }
        self.loaded_to = Some(from);
        if self.next_sweep.is_none_or(|at| at <= Instant::now()) {
            self.next_sweep = Some(Instant::now() + SWEEP_EVERY);
            self.sweep(record, redis, keys, now, &mut groups).await?;
        }
        self.hasten(record, redis, keys, now, &mut groups).await?;
        Ok(groups.into_iter().map(|(group_id, group)| Hint::Retries { group_id, group }).collect())
    }
}

impl Loader {
    /// Puts back what is overdue. Those of an endpoint that is down stay overdue for long, so each sweep goes on
    /// where the last one ended, and round again: they can't keep the others from their turn.
    async fn sweep(
        &mut self,
        record: &mut PgConnection,
        redis: &mut ConnectionManager,
        keys: &Keys,
        now: DateTime<Utc>,
        groups: &mut HashMap<i64, GroupName>,
    ) -> anyhow::Result<()> {
        for _ in 0..READS {
            let from = self.swept_to.unwrap_or(Place::before(DateTime::UNIX_EPOCH));
            let rows = waiting::falling_due(&mut *record, from, now - OVERDUE, BATCH).await?;
            add(redis, keys, &rows, groups).await?;
            self.swept_to = next(&rows);
            if self.swept_to.is_none() {
                break;
            }
        }
        Ok(())
    }

    /// Brings forward what was made due by hand and may stand in its ZSET with a later time.
    async fn hasten(
        &mut self,
        record: &mut PgConnection,
        redis: &mut ConnectionManager,
        keys: &Keys,
        now: DateTime<Utc>,
        groups: &mut HashMap<i64, GroupName>,
    ) -> anyhow::Result<()> {
        self.hastened.retain(|_, at| *at > now - RECENT * 2);
        let (mut rows, mut from) = (Vec::new(), Some(Place::before(now - RECENT)));
        for _ in 0..READS {
            let Some(place) = from else { break };
            let read = waiting::made_due(&mut *record, place, now + RECENT, BATCH).await?;
            from = next(&read);
            rows.extend(read);
        }
        let mut pipeline = redis::pipe();
        for row in rows {
            let member = Member { event_id: row.event_id, endpoint_id: row.endpoint_id };
            if self.hastened.insert(member, row.next_attempt_at) != Some(row.next_attempt_at) {
                let change = Change::Hasten(member, row.next_attempt_at);
                schedule::queue(&mut pipeline, keys, &row.group, &[change]);
                groups.entry(row.group_id).or_insert(row.group);
            }
        }
        if !pipeline.is_empty() {
            pipeline.exec_async(redis).await?;
        }
        Ok(())
    }
}

/// Where to read on, unless this was the last of it.
fn next(rows: &[Waiting]) -> Option<Place> {
    rows.last().filter(|_| rows.len() as i64 == BATCH).map(Place::after)
}

async fn add(
    redis: &mut ConnectionManager,
    keys: &Keys,
    rows: &[Waiting],
    groups: &mut HashMap<i64, GroupName>,
) -> redis::RedisResult<()> {
    if rows.is_empty() {
        return Ok(());
    }
    let mut pipeline = redis::pipe();
    for row in rows {
        let member = Member { event_id: row.event_id, endpoint_id: row.endpoint_id };
        schedule::queue(&mut pipeline, keys, &row.group, &[Change::Add(member, row.next_attempt_at)]);
        groups.entry(row.group_id).or_insert_with(|| row.group.clone());
    }
    pipeline.exec_async(redis).await
}
