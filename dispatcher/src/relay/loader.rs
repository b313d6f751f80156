//! The loader: puts retries into their group's ZSET shortly before they fall due, and puts back those that
//! Redis lost. So the ZSETs are bounded, and heal themselves.

use std::collections::HashMap;
use std::time::{Duration, Instant};

use chrono::{DateTime, TimeDelta, Utc};
use eventrail_core::db::delivery::{self, Waiting};
use eventrail_core::group::GroupName;
use eventrail_core::rail::keys::Keys;
use eventrail_core::rail::ready::Hint;
use eventrail_core::rail::schedule::{self, Change, HORIZON, Member};
use redis::aio::ConnectionManager;
use sqlx::PgPool;

/// Rows in one read.
const BATCH: i64 = 5_000;
/// Reads in one pass.
const READS: usize = 4;
/// A retry that is overdue by this long is put back: it was lost, or is leased and the change has no effect.
const OVERDUE: TimeDelta = TimeDelta::seconds(3);
const SWEEP_EVERY: Duration = Duration::from_secs(3);

#[derive(Default)]
pub(super) struct Loader {
    /// Up to here all was loaded; `None` before the first pass.
    loaded_to: Option<DateTime<Utc>>,
    next_sweep: Option<Instant>,
}

impl Loader {
    /// Forgets what was loaded: Redis has lost something.
    pub(super) fn reload(&mut self) {
        *self = Self::default();
    }

    /// Loads what falls due within the horizon, and sweeps what is overdue; answers whom to wake.
    pub(super) async fn load(
        &mut self,
        pool: &PgPool,
        redis: &mut ConnectionManager,
        keys: &Keys,
    ) -> anyhow::Result<Vec<Hint>> {
        let now = Utc::now();
        let mut groups = HashMap::new();
        let horizon = now + HORIZON;
        let mut from = self.loaded_to.unwrap_or(now - OVERDUE);
        for _ in 0..READS {
            let rows = delivery::falling_due(pool, from, horizon, BATCH).await?;
            add(redis, keys, &rows, &mut groups).await?;
            match rows.last() {
                // Rows of the same instant may remain; they are read again, which changes nothing.
                Some(last) if rows.len() as i64 == BATCH && last.next_attempt_at > from => {
                    from = last.next_attempt_at;
                }
                _ => {
                    from = horizon;
                    break;
                }
            }
        }
        self.loaded_to = Some(from);
        if self.next_sweep.is_none_or(|at| at <= Instant::now()) {
            self.next_sweep = Some(Instant::now() + SWEEP_EVERY);
            let rows = delivery::falling_due(pool, DateTime::UNIX_EPOCH, now - OVERDUE, BATCH).await?;
            add(redis, keys, &rows, &mut groups).await?;
        }
        Ok(groups.into_iter().map(|(group_id, group)| Hint::Retries { group_id, group }).collect())
    }
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
