//! What only days needed that were dropped: idempotency keys, feeds, replays and the like, and outcomes that came
//! too late. Forgotten by [`super::retention`]'s caller, in bounded rounds.

use chrono::NaiveDate;
use sqlx::PgPool;

use super::retention::ROWS_AT_ONCE;

/// Forgets idempotency keys whose day of the log is gone, some at once; answers how many. Only days of which all
/// events are `keep` days old are looked at.
///
/// # Errors
/// PostgreSQL is away.
pub async fn keys(pool: &PgPool, keep: u32) -> sqlx::Result<u64> {
    let mut after = chrono::DateTime::UNIX_EPOCH.date_naive();
    loop {
        let next: Option<(NaiveDate, bool)> = sqlx::query_as(
            "select k.day, exists (select from event v where v.id >= day_floor(k.day)
                                   and v.id < day_floor(k.day + 1))
             from (select (created_at at time zone 'utc')::date as day from idempotency_key
                   where created_at >= $1::timestamp at time zone 'utc'
                   order by created_at limit 1) k
             where k.day < (now() at time zone 'utc')::date - $2",
        )
        .bind(after)
        .bind(i32::try_from(keep).unwrap_or(i32::MAX))
        .fetch_optional(pool)
        .await?;
        match next {
            None => return Ok(0),
            Some((day, true)) => after = day + chrono::Days::new(1),
            Some((day, false)) => {
                let deleted = sqlx::query(
                    "delete from idempotency_key where ctid = any(array(
                         select ctid from idempotency_key
                         where created_at >= $1::timestamp at time zone 'utc'
                           and created_at < ($1 + 1)::timestamp at time zone 'utc' limit $2))",
                )
                .bind(day)
                .bind(ROWS_AT_ONCE)
                .execute(pool)
                .await?;
                return Ok(deleted.rows_affected());
            }
        }
    }
}

/// Forgets feeds, intervals and replays that ended `keep` days ago and that no event of the log needs any more, and
/// deliveries of events that are older than the log, some at once; answers how many.
///
/// # Errors
/// PostgreSQL is away.
pub async fn ended(pool: &PgPool, keep: u32) -> sqlx::Result<u64> {
    let statements = [
        "delete from parked where id = any(array(
             select id from parked where to_position < (select log_floor())
               and closed_at < now() - $1 * interval '1 day' limit $2))",
        // Live feeds stay: their epochs are counted on by a later group of the same name.
        "delete from feed where id = any(array(
             select f.id from feed f where f.status = 'done' and f.kind <> 'live'
               and f.to_position < (select log_floor()) and f.finished_at < now() - $1 * interval '1 day'
               and not exists (select from parked p where p.feed_id = f.id) limit $2))",
        // Those of a deleted group ended with its feeds.
        "delete from replay where id = any(array(
             select r.id from replay r
             where coalesce(r.finished_at, r.cancelled_at, r.created_at) < now() - $1 * interval '1 day'
               and r.ask < (select log_floor()) and not exists (select from feed f where f.replay_id = r.id) limit $2))",
        "delete from subscription where id = any(array(
             select s.id from subscription s where s.to_position < (select log_floor())
               and not exists (select from replay r where r.ask > s.from_position and r.ask <= s.to_position)
               and not exists (select from feed f where f.status = 'active'
                                and f.as_of_position > s.from_position and f.as_of_position <= s.to_position)
             limit $2))",
        // Outcomes that came after their day was dropped: no other partition takes them.
        "delete from attempt_default where ctid = any(array(
             select ctid from attempt_default where event_id < (select id from event order by id limit 1)
             order by event_id limit $2))",
        "delete from delivery_default where ctid = any(array(
             select ctid from delivery_default where event_id < (select id from event order by id limit 1)
             order by event_id limit $2))",
    ];
    let mut pruned = 0;
    for statement in statements {
        let done = sqlx::query(statement).bind(f64::from(keep)).bind(ROWS_AT_ONCE).execute(pool).await?;
        pruned += done.rows_affected();
    }
    Ok(pruned)
}
