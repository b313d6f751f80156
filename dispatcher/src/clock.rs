//! The time that schedules, leases and signatures go by: PostgreSQL's, carried on by the monotonic clock of this
//! machine from one look at it to the next. So a wall clock that is stepped here moves nothing: no retry waits
//! for the hour that it was wrong by, no lease ends early, no receiver takes a delivery for an old one.
//!
//! One for the process, which has one PostgreSQL. Until that has told the time, and in a process that does not
//! keep it (the API, which only pings), it is the wall clock.

use std::sync::{PoisonError, RwLock};
use std::time::{Duration, Instant};

use chrono::{DateTime, TimeDelta, Utc};
use eventrail_core::db;
use sqlx::PgPool;

const LOOK_EVERY: Duration = Duration::from_secs(1);
/// An answer that takes longer says too little.
const ANSWER_WITHIN: Duration = Duration::from_secs(1);

static KNOWN: RwLock<Option<(DateTime<Utc>, Instant)>> = RwLock::new(None);

pub(crate) fn now() -> DateTime<Utc> {
    match *KNOWN.read().unwrap_or_else(PoisonError::into_inner) {
        Some((then, at)) => then + TimeDelta::from_std(at.elapsed()).unwrap_or_default(),
        None => Utc::now(),
    }
}

/// Looks at PostgreSQL's clock for ever.
pub(crate) async fn keep(pool: PgPool) -> anyhow::Result<()> {
    loop {
        look(&pool).await;
        tokio::time::sleep(LOOK_EVERY).await;
    }
}

/// Looks once. Where PostgreSQL is away, what was known is carried on.
pub(crate) async fn look(pool: &PgPool) {
    let asked = Instant::now();
    let Ok(Ok(told)) = tokio::time::timeout(ANSWER_WITHIN, db::now(pool)).await else { return };
    let answered = Instant::now();
    let believed = now();
    if let Some(corrected) = corrected(believed, told, answered - asked) {
        let wrong_by = (corrected - believed).num_milliseconds();
        if wrong_by.abs() > 1000 {
            tracing::warn!(wrong_by_ms = wrong_by, "the clock here is not PostgreSQL's; going by that one");
        }
        *KNOWN.write().unwrap_or_else(PoisonError::into_inner) = Some((corrected, answered));
    } else if KNOWN.read().unwrap_or_else(PoisonError::into_inner).is_none() {
        *KNOWN.write().unwrap_or_else(PoisonError::into_inner) = Some((believed, answered));
    }
}

/// The time now, unless what is believed may be right: PostgreSQL told its time somewhere within the round trip.
fn corrected(believed: DateTime<Utc>, told: DateTime<Utc>, round_trip: Duration) -> Option<DateTime<Utc>> {
    let round_trip = TimeDelta::from_std(round_trip).unwrap_or_default();
    let may_be = told..=told + round_trip;
    (!may_be.contains(&believed)).then(|| told + round_trip / 2)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(milliseconds: i64) -> DateTime<Utc> {
        DateTime::from_timestamp_millis(1_700_000_000_000 + milliseconds).unwrap()
    }

    #[test]
    fn what_may_be_right_is_left_and_what_can_not_be_is_corrected() {
        let round_trip = Duration::from_millis(10);
        for (believed, expected) in [
            (at(100), None),
            (at(105), None),
            (at(110), None),
            (at(99), Some(at(105))),
            (at(111), Some(at(105))),
            (at(3_600_000), Some(at(105))),
            (at(-3_600_000), Some(at(105))),
        ] {
            assert_eq!(corrected(believed, at(100), round_trip), expected, "{believed}");
        }
    }
}
