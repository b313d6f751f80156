//! Drops days of the log that are older than `RETENTION_DAYS`, once nobody is owed anything of them. Who still is
//! keeps the day, and is told so, until `RETENTION_HARD_DAYS`: then it is dropped all the same, and what was owed
//! is shown.
//!
//! Any dispatcher may do it, one at a time. It relies on [`eventrail_core::db::retention`] to ask again, under
//! the log lock, before anything is dropped.

use std::collections::{BTreeMap, HashSet};
use std::time::Duration;

use chrono::{Days, NaiveDate};
use eventrail_core::db::forget;
use eventrail_core::db::retention::{self, Day, Dropped, Turn};
use eventrail_core::metrics as names;
use sqlx::PgPool;

use crate::relay::Step;

const LOOK_EVERY: Duration = Duration::from_secs(60);
/// After the tables were found in use, at first and at most: each try keeps everybody from the log for a moment,
/// and who reads the tables for long, as a backup does, would make that many.
const TRY_AGAIN: Duration = Duration::from_secs(1);
const TRY_AGAIN_AT_MOST: Duration = Duration::from_secs(300);

pub struct Retention {
    pool: PgPool,
    /// Days that are kept; 0 for ever.
    keep: u32,
    /// Days after which it does not matter who is owed what.
    hard: u32,
    /// Groups whose figure is not zero.
    shown: HashSet<String>,
    /// How long to wait if the tables are in use once more.
    try_again: Duration,
}

/// What is kept for one group.
struct Held {
    group: String,
    days: i64,
    oldest: NaiveDate,
    is_told: bool,
}

impl Retention {
    pub fn new(pool: PgPool, keep: u32, hard: u32) -> Self {
        Self { pool, keep, hard, shown: HashSet::new(), try_again: TRY_AGAIN }
    }

    /// Drops one day, or, if there is none to drop, tells who holds up which, and forgets what only dropped days
    /// needed.
    ///
    /// # Errors
    /// PostgreSQL is away.
    pub async fn step(&mut self) -> anyhow::Result<Step> {
        if self.keep == 0 {
            return Ok(Step::Idle(LOOK_EVERY));
        }
        let days = retention::days(&self.pool, self.keep).await?;
        let held = held(&days);
        self.show(&held);
        let Some(turn) = Turn::take(&self.pool).await? else { return Ok(Step::Idle(LOOK_EVERY)) };
        let done = self.take_turn(&days, &held).await;
        turn.end().await?;
        done
    }

    async fn take_turn(&mut self, days: &[Day], held: &BTreeMap<i64, Held>) -> anyhow::Result<Step> {
        let mut is_busy = false;
        for day in days {
            let dropped = match day.owed_to.is_empty() {
                true => retention::drop_day(&self.pool, day.day).await?,
                false if i64::from(day.age) > i64::from(self.hard) => self.expire(day).await?,
                false => continue,
            };
            match dropped {
                Dropped::Dropped => {
                    tracing::info!(day = %day.day, "day of the log dropped: it is older than what is kept");
                    metrics::counter!(names::RETENTION_DROPPED_DAYS).increment(1);
                    self.try_again = TRY_AGAIN;
                    return Ok(Step::Worked);
                }
                Dropped::GivenUp => return Ok(Step::Worked),
                Dropped::Owed => {}
                Dropped::Busy => {
                    is_busy = true;
                    break;
                }
            }
        }
        for (group_id, held) in held.iter().filter(|(_, held)| !held.is_told) {
            let until = held.oldest + Days::new(u64::from(self.hard) + 1);
            if retention::tell_held(&self.pool, *group_id, held.days, held.oldest, until).await? {
                tracing::warn!(group = held.group, days = held.days, oldest = %held.oldest, dropped_on = %until,
                    "days of the log are kept past their time: the group is still owed something of them");
            }
        }
        let forgotten =
            forget::keys(&self.pool, self.keep).await? + forget::ended(&self.pool, self.keep).await?;
        if is_busy {
            let pause = self.try_again;
            self.try_again = (pause * 2).min(TRY_AGAIN_AT_MOST);
            return Ok(Step::Idle(pause));
        }
        Ok(if forgotten > 0 { Step::Worked } else { Step::Idle(LOOK_EVERY) })
    }

    async fn expire(&self, day: &Day) -> anyhow::Result<Dropped> {
        let expired = retention::still_owed(&self.pool, day.day).await?;
        let dropped = retention::expire_day(&self.pool, day.day, &expired).await?;
        if matches!(dropped, Dropped::Dropped | Dropped::GivenUp) {
            for row in &expired {
                tracing::warn!(day = %day.day, endpoint.id = %row.endpoint_id, feed.id = row.feed_id,
                    events = row.events, "deliveries expired: their day was dropped undelivered");
            }
            let events: i64 = expired.iter().map(|row| row.events).sum();
            metrics::counter!(names::DELIVERIES_EXPIRED).increment(u64::try_from(events).unwrap_or(0));
        }
        Ok(dropped)
    }

    /// Every dispatcher shows the figure, whoever drops.
    fn show(&mut self, held: &BTreeMap<i64, Held>) {
        let gauge = |group: &str| metrics::gauge!(names::RETENTION_HELD_DAYS, "group" => group.to_owned());
        let now: HashSet<String> = held.values().map(|held| held.group.clone()).collect();
        for group in self.shown.difference(&now) {
            gauge(group).set(0.0);
        }
        for held in held.values() {
            gauge(&held.group).set(held.days as f64);
        }
        self.shown = now;
    }
}

/// What is kept for whom, by group.
fn held(days: &[Day]) -> BTreeMap<i64, Held> {
    let mut all = BTreeMap::new();
    for day in days {
        for holder in &day.owed_to {
            let held = all.entry(holder.group_id).or_insert_with(|| Held {
                group: holder.group.clone(),
                days: 0,
                oldest: day.day,
                is_told: holder.is_told,
            });
            held.days += 1;
        }
    }
    all
}
