//! Days of the log that have had their time. A day goes with its deliveries and attempts, as partitions of three
//! tables, once nobody is owed anything of it; what only its events needed goes after it ([`super::forget`]).

use chrono::NaiveDate;
use sqlx::pool::PoolConnection;
use sqlx::postgres::{PgAdvisoryLock, PgAdvisoryLockGuard, PgAdvisoryLockKey};
use sqlx::{Either, PgConnection, PgExecutor, PgPool, PgTransaction, Postgres};

use super::{change, operational, topology};
use crate::ids::EndpointId;

/// Rows that go in one statement.
pub(super) const ROWS_AT_ONCE: i64 = 5_000;

/// A day that is older than what is kept.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Day {
    pub day: NaiveDate,
    /// Today is so many days later.
    pub age: i32,
    /// Who is owed something of it.
    pub owed_to: Vec<Holder>,
}

/// A group that holds a day up.
#[derive(Debug, Clone, PartialEq, Eq, sqlx::FromRow)]
pub struct Holder {
    pub group_id: i64,
    pub group: String,
    /// It was told so today.
    pub is_told: bool,
}

type DayRow = (NaiveDate, i32, Option<i64>, Option<String>, Option<bool>);

/// The days of which all events are `keep` days old or older, the oldest first.
///
/// # Errors
/// PostgreSQL is away.
pub async fn days(executor: impl PgExecutor<'_>, keep: u32) -> sqlx::Result<Vec<Day>> {
    let rows: Vec<DayRow> = sqlx::query_as(
        "with today as (select (now() at time zone 'utc')::date as today)
         select d.day, t.today - d.day, g.id, g.name, g.held_noted_on is not distinct from t.today
         from today t cross join lateral days_before(t.today - $1) d (day)
         left join lateral groups_owed(d.day) o (group_id) on true
         left join consumer_group g on g.id = o.group_id
         order by d.day, g.id",
    )
    .bind(i32::try_from(keep).unwrap_or(i32::MAX))
    .fetch_all(executor)
    .await?;
    let mut days: Vec<Day> = Vec::new();
    for (day, age, group_id, group, is_told) in rows {
        if days.last().is_none_or(|last| last.day != day) {
            days.push(Day { day, age, owed_to: Vec::new() });
        }
        if let (Some(last), Some(group_id), Some(group)) = (days.last_mut(), group_id, group) {
            last.owed_to.push(Holder { group_id, group, is_told: is_told.unwrap_or(false) });
        }
    }
    Ok(days)
}

/// The right to drop, held by one process at a time.
pub struct Turn(PgAdvisoryLockGuard<PoolConnection<Postgres>>);

impl Turn {
    /// `None` if another process has it. It is held by a session, beside the log lock; nobody ever waits for it.
    ///
    /// # Errors
    /// PostgreSQL is away.
    pub async fn take(pool: &PgPool) -> sqlx::Result<Option<Self>> {
        let lock = PgAdvisoryLock::with_key(PgAdvisoryLockKey::BigInt(5_495_127_463_921_474));
        match lock.try_acquire(pool.acquire().await?).await? {
            Either::Left(guard) => Ok(Some(Self(guard))),
            Either::Right(_) => Ok(None),
        }
    }

    /// Gives it up; without this it goes when its connection is used next.
    ///
    /// # Errors
    /// PostgreSQL is away, and the right with its session.
    pub async fn end(self) -> sqlx::Result<()> {
        self.0.release_now().await.map(drop)
    }
}

/// What became of a day.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Dropped {
    Dropped,
    /// Nothing is owed of it any more, but it has yet to be dropped.
    GivenUp,
    /// Somebody is owed something of it after all.
    Owed,
    /// The tables were in use for too long; it wants to be tried again.
    Busy,
}

/// Drops a day that nobody is owed anything of, asked once more under the log lock.
///
/// # Errors
/// PostgreSQL is away.
pub async fn drop_day(pool: &PgPool, day: NaiveDate) -> sqlx::Result<Dropped> {
    if !thin_default_day(pool, day, false).await? {
        return Ok(Dropped::Owed);
    }
    let Some(mut change) = begin_drop(pool).await? else { return Ok(Dropped::Busy) };
    if is_owed(&mut change, day).await? {
        return Ok(Dropped::Owed);
    }
    finish_drop(change, day).await
}

/// Begins to drop: holds the log lock and has the tables for itself. Whoever comes meanwhile waits for it, so it
/// waits for nobody for long; `None` if it would have to.
async fn begin_drop(pool: &PgPool) -> sqlx::Result<Option<PgTransaction<'static>>> {
    let mut change = change::begin(pool).await?;
    // Also well below `deadlock_timeout`: a query that reads the tables in another order is never the victim.
    sqlx::query("set local lock_timeout = '50ms'").execute(&mut *change).await?;
    let locked = sqlx::query("lock table only attempt, only delivery, only event in access exclusive mode");
    match locked.execute(&mut *change).await {
        Err(error) if is_lock_timeout(&error) => Ok(None),
        locked => locked.map(|_| Some(change)),
    }
}

async fn finish_drop(mut change: PgTransaction<'static>, day: NaiveDate) -> sqlx::Result<Dropped> {
    match sqlx::query("select drop_day($1)").bind(day).execute(&mut *change).await {
        // Somebody uses the partition itself, such as autovacuum.
        Err(error) if is_lock_timeout(&error) => return Ok(Dropped::Busy),
        dropped => dropped?,
    };
    change.commit().await?;
    Ok(Dropped::Dropped)
}

fn is_lock_timeout(error: &sqlx::Error) -> bool {
    error.as_database_error().and_then(sqlx::error::DatabaseError::code).as_deref() == Some("55P03")
}

async fn is_owed(change: &mut PgConnection, day: NaiveDate) -> sqlx::Result<bool> {
    sqlx::query_scalar("select exists (select from groups_owed($1))").bind(day).fetch_one(change).await
}

async fn is_in_default(pool: &PgPool, day: NaiveDate) -> sqlx::Result<bool> {
    sqlx::query_scalar(
        "select exists (select from event_default where id >= day_floor($1) and id < day_floor($1 + 1))",
    )
    .bind(day)
    .fetch_one(pool)
    .await
}

/// Deletes a day's rows in the default partitions, which hold what came when its own were not made in time.
/// False if it is owed to somebody, unless that does not matter.
async fn thin_default_day(pool: &PgPool, day: NaiveDate, even_owed: bool) -> sqlx::Result<bool> {
    while is_in_default(pool, day).await? {
        let mut change = change::begin(pool).await?;
        if !even_owed && is_owed(&mut change, day).await? {
            return Ok(false);
        }
        thin_once(change, day).await?;
    }
    Ok(true)
}

async fn thin_once(mut change: PgTransaction<'static>, day: NaiveDate) -> sqlx::Result<()> {
    sqlx::query(
        "with old as materialized (
             select id from event_default where id >= day_floor($1) and id < day_floor($1 + 1)
             order by id limit $2
         ), tried as (
             delete from attempt where event_id = any(array(select id from old))
               and event_id >= day_floor($1) and event_id < day_floor($1 + 1)
         ), owed as (
             delete from delivery where event_id = any(array(select id from old))
               and event_id >= day_floor($1) and event_id < day_floor($1 + 1)
         )
         delete from event_default where id = any(array(select id from old))",
    )
    .bind(day)
    .bind(ROWS_AT_ONCE)
    .execute(&mut *change)
    .await?;
    change.commit().await
}

/// What a feed still owed an endpoint of a day: so many events in `(from_position, to_position]`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, sqlx::FromRow)]
pub struct Expired {
    pub feed_id: i64,
    pub endpoint_id: EndpointId,
    pub from_position: i64,
    pub to_position: i64,
    pub events: i64,
}

/// Counts what is still owed of a day. It takes its time with a large one; nobody waits for it.
///
/// # Errors
/// PostgreSQL is away.
pub async fn still_owed(pool: &PgPool, day: NaiveDate) -> sqlx::Result<Vec<Expired>> {
    let mut transaction = pool.begin().await?;
    sqlx::query("set local statement_timeout = '10min'").execute(&mut *transaction).await?;
    sqlx::query_as(STILL_OWED).bind(day).fetch_all(&mut *transaction).await
}

/// Three things may be owed: what an active feed has not settled, what an endpoint that is parked misses, and
/// deliveries that wait. A filter is held against each kind of event once, not against each event.
const STILL_OWED: &str = "
with kind as materialized (
    select distinct event_type, source, group_id from event
    where id >= day_floor($1) and id < day_floor($1 + 1)
), wish as materialized (
    select s.endpoint_id, s.from_position, s.to_position, k.*
    from subscription s join endpoint e on e.id = s.endpoint_id
    join kind k on filter_matches(s.event_types, s.sources, k.event_type, k.source)
               and (k.group_id is null or k.group_id = e.group_id)
    where e.status <> 'deleted'
), cursor as (
    select f.id, f.group_id, f.endpoint_id, f.ask, f.settled_position, f.to_position, f.only_missing,
           coalesce(f.as_of_position, 0) as as_of, f.owed_from, f.kind = 'live' as live, r.event_type, r.source
    from feed f left join replay r on r.id = f.replay_id
    where f.status = 'active' and f.kind <> 'redrive'
    union all
    select p.feed_id, e.group_id, e.id, f.ask, p.from_position, null, f.only_missing,
           coalesce(f.as_of_position, 0), greatest(p.owed_from, p.from_position), false, null, null
    from parked p join endpoint e on e.id = p.endpoint_id join feed f on f.id = p.feed_id
    where p.to_position is null and e.status <> 'deleted'
), claim as materialized (
    select c.id as feed_id, c.ask, c.settled_position, c.to_position as ends_at, c.only_missing, c.as_of,
           c.owed_from, c.live, w.*
    from cursor c
    join endpoint e on e.id = c.endpoint_id or c.endpoint_id is null and e.group_id = c.group_id
    join wish w on w.endpoint_id = e.id
    where (c.event_type is null or filter_matches(array[c.event_type], '{}', w.event_type, ''))
      and (c.source is null or c.source = w.source)
), owed as (
    select c.feed_id, c.endpoint_id, v.position
    from claim c
    join event v on v.event_type = c.event_type and v.source = c.source
                and coalesce(v.group_id, 0) = coalesce(c.group_id, 0)
                and v.id >= day_floor($1) and v.id < day_floor($1 + 1)
    where v.position > c.settled_position and (c.ends_at is null or v.position <= c.ends_at)
      and (c.from_position < greatest(v.position, c.as_of)
           and (c.to_position is null or c.to_position >= greatest(v.position, c.as_of))
           or v.position > c.owed_from and c.from_position < v.position
           and (c.to_position is null or c.to_position >= v.position))
      and not (c.live and exists (
          select from parked p where p.endpoint_id = c.endpoint_id and p.from_position < v.position
             and (p.to_position is null or p.to_position >= v.position)))
      and not exists (
          select from delivery d where d.event_id = v.id and d.endpoint_id = c.endpoint_id
             and d.event_id >= day_floor($1) and d.event_id < day_floor($1 + 1)
             and (d.ask >= c.ask or c.only_missing and d.status = 'delivered'))
    union all
    select d.feed_id, d.endpoint_id, v.position
    from delivery d join event v on v.id = d.event_id
    where d.event_id >= day_floor($1) and d.event_id < day_floor($1 + 1)
      and v.id >= day_floor($1) and v.id < day_floor($1 + 1)
      and d.status in ('pending', 'retrying')
)
select feed_id, endpoint_id, min(position) - 1 as from_position, max(position) as to_position,
       count(distinct position) as events
from owed group by feed_id, endpoint_id order by feed_id, endpoint_id";

/// Drops a day all the same, with what was counted as a row for each feed and endpoint: cursors step over it,
/// parked intervals begin after it, deliveries that wait go with it. A day in the default partitions is only given
/// up at first, so that its rows can be deleted in rounds.
///
/// # Errors
/// PostgreSQL is away.
pub async fn expire_day(pool: &PgPool, day: NaiveDate, expired: &[Expired]) -> sqlx::Result<Dropped> {
    if !expired.is_empty() && is_in_default(pool, day).await? {
        let mut change = change::begin(pool).await?;
        give_up(&mut change, day, expired).await?;
        sqlx::query(
            "update delivery set status = 'dead', next_attempt_at = null, last_error = 'expired', updated_at = now()
             where event_id >= day_floor($1) and event_id < day_floor($1 + 1)
               and status in ('pending', 'retrying')",
        )
        .bind(day)
        .execute(&mut *change)
        .await?;
        change.commit().await?;
        return Ok(Dropped::GivenUp);
    }
    if expired.is_empty() {
        thin_default_day(pool, day, true).await?;
    }
    let Some(mut change) = begin_drop(pool).await? else { return Ok(Dropped::Busy) };
    give_up(&mut change, day, expired).await?;
    finish_drop(change, day).await
}

/// Counts what is expired, and steps over the day.
async fn give_up(change: &mut PgConnection, day: NaiveDate, expired: &[Expired]) -> sqlx::Result<()> {
    sqlx::query(
        "insert into expired (feed_id, endpoint_id, from_position, to_position, events)
         select * from unnest($1::bigint[], $2::uuid[], $3::bigint[], $4::bigint[], $5::bigint[])",
    )
    .bind(expired.iter().map(|row| row.feed_id).collect::<Vec<_>>())
    .bind(expired.iter().map(|row| row.endpoint_id).collect::<Vec<_>>())
    .bind(expired.iter().map(|row| row.from_position).collect::<Vec<_>>())
    .bind(expired.iter().map(|row| row.to_position).collect::<Vec<_>>())
    .bind(expired.iter().map(|row| row.events).collect::<Vec<_>>())
    .execute(&mut *change)
    .await?;
    // A feed that ends with the day is left to the relay, which finds nothing more in it.
    sqlx::query(
        "with last as (
             select max(position) as position from event where id >= day_floor($1) and id < day_floor($1 + 1)
         ), cut as (
             update parked p set from_position = l.position from last l
             where p.to_position is null and p.from_position < l.position
         ), behind as materialized (
             select f.id from feed f, last l
             where f.status = 'active' and f.settled_position < least(l.position, f.to_position)
             order by f.id for update of f
         )
         update feed f set settled_position = least(l.position, f.to_position)
         from last l, behind b
         where f.id = b.id and f.settled_position < least(l.position, f.to_position)",
    )
    .bind(day)
    .execute(&mut *change)
    .await?;
    topology::raise_version(change).await.map(drop)
}

/// Tells a group, once a day, that `days` days are kept for it, of which the oldest is dropped on `until` all the
/// same. False if it was told today.
///
/// # Errors
/// PostgreSQL is away.
pub async fn tell_held(
    pool: &PgPool,
    group_id: i64,
    days: i64,
    oldest: NaiveDate,
    until: NaiveDate,
) -> sqlx::Result<bool> {
    let mut change = change::begin(pool).await?;
    let told: Option<String> = sqlx::query_scalar(
        "update consumer_group set held_noted_on = (now() at time zone 'utc')::date
         where id = $1 and deleted_at is null
           and held_noted_on is distinct from (now() at time zone 'utc')::date
         returning name",
    )
    .bind(group_id)
    .fetch_optional(&mut *change)
    .await?;
    let Some(group) = told else { return Ok(false) };
    operational::retention_held(&mut change, (group_id, &group), days, oldest, until).await?;
    change.commit().await?;
    Ok(true)
}
