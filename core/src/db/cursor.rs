//! Moving the cursor of a group's live feed: back, to get history again; forward, to skip a backlog.
//!
//! The feed begins a new epoch, which has a stream of its own, so that acknowledgements of the old one change
//! nothing. Back means a new ask too: what was delivered is owed again. Forward keeps the ask, so that what was
//! delivered beyond the new position is not delivered twice.

use chrono::{DateTime, Utc};
use serde_json::json;
use sqlx::{PgConnection, PgPool};

use super::audit::{self, Author};
use super::{change, topology};
use crate::group::GroupName;
use crate::ids::{EventId, ReplayId};

/// Where a cursor is to be put.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum CursorTarget {
    /// Before all that the log holds.
    Start,
    /// After all that the log holds.
    End,
    /// After this position, as [`Moved::previous`] has it.
    After(i64),
    /// Before the first event that was created then or later.
    At(DateTime<Utc>),
    /// Before this event.
    Event(EventId),
}

/// A cursor that was moved, or would be.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Moved {
    /// Where to put it, with `only_missing`, to undo this: everything up to here was settled before, for endpoints
    /// that were parked or caught up too where their backlog was skipped.
    pub previous: i64,
    /// Everything up to this position counts as settled now.
    pub position: i64,
    /// Back: events after the new position, which all come now. Forward: events that are skipped.
    pub events: i64,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Cursor {
    Moved(Moved),
    NoSuchGroup,
    NoSuchEvent,
}

/// What a group's live feed is before the change.
#[derive(Debug, Clone, Copy, sqlx::FromRow)]
struct Live {
    id: i64,
    group_id: i64,
    settled_position: i64,
    /// The least that any endpoint is owed from: some may be parked, or be caught up.
    owed_from: i64,
    leaves_out: bool,
}

impl Live {
    /// Whether a move gives up what lies between.
    fn skips(&self, position: i64, only_missing: bool) -> bool {
        position >= self.settled_position && !only_missing
    }

    fn moved(&self, position: i64, only_missing: bool, events: i64) -> Moved {
        let skips = self.skips(position, only_missing);
        Moved { previous: if skips { self.owed_from } else { self.settled_position }, position, events }
    }
}

/// Events are counted up to here; beyond it nobody needs the exact figure.
pub const COUNTED_TO: i64 = 10_000_000;

/// Moves the cursor of a group's live feed. Retries that are scheduled go on. Going back loses nothing of what is
/// parked or being caught up; skipping gives it up, up to the new position. With `only_missing`, history that was
/// delivered before is left out.
///
/// # Errors
/// PostgreSQL is away.
pub async fn set(
    pool: &PgPool,
    author: &Author,
    group: &GroupName,
    target: CursorTarget,
    only_missing: bool,
) -> sqlx::Result<Cursor> {
    // Counted before the lock is taken, for producers wait while it is held.
    let events = match preview(pool, group, target, only_missing).await? {
        Cursor::Moved(moved) => moved.events,
        refused => return Ok(refused),
    };
    let mut transaction = change::begin(pool).await?;
    let Some(live) = live(&mut transaction, group).await? else { return Ok(Cursor::NoSuchGroup) };
    let here: i64 = sqlx::query_scalar("select draw_positions(1)").fetch_one(&mut *transaction).await?;
    let Some(position) = resolve(&mut transaction, target, here).await? else {
        return Ok(Cursor::NoSuchEvent);
    };
    let position = position.min(here);
    let resend = (!only_missing).then(ReplayId::generate);
    if position < live.settled_position {
        uncover_history(&mut transaction, live, position, (here, resend, only_missing)).await?;
    } else {
        skip(&mut transaction, live, position, only_missing).await?;
    }
    topology::raise_version(&mut transaction).await?;
    let moved = live.moved(position, only_missing, events);
    let detail = json!({ "previous": moved.previous, "position": position, "only_missing": only_missing });
    audit::write(&mut *transaction, author, group.as_ref(), detail).await?;
    transaction.commit().await?;
    Ok(Cursor::Moved(moved))
}

/// What [`set`] would do.
///
/// # Errors
/// PostgreSQL is away.
pub async fn preview(
    pool: &PgPool,
    group: &GroupName,
    target: CursorTarget,
    only_missing: bool,
) -> sqlx::Result<Cursor> {
    let mut connection = pool.acquire().await?;
    let Some(live) = live(&mut connection, group).await? else { return Ok(Cursor::NoSuchGroup) };
    // Positions are drawn for other things than events too: the log may end above its last event.
    let head: i64 = sqlx::query_scalar("select greatest((select coalesce(max(position), 0) from event), $1)")
        .bind(live.settled_position)
        .fetch_one(&mut *connection)
        .await?;
    let Some(position) = resolve(&mut connection, target, head).await? else {
        return Ok(Cursor::NoSuchEvent);
    };
    let position = position.min(head);
    let events: i64 = sqlx::query_scalar(
        "select count(*) from (select from event where position > $1 and position <= $2 limit $3) counted",
    )
    .bind(position.min(live.settled_position))
    .bind(if position < live.settled_position { head } else { position })
    .bind(COUNTED_TO)
    .fetch_one(&mut *connection)
    .await?;
    Ok(Cursor::Moved(live.moved(position, only_missing, events)))
}

async fn live(connection: &mut PgConnection, group: &GroupName) -> sqlx::Result<Option<Live>> {
    sqlx::query_as(
        "select f.id, f.group_id, f.settled_position,
                least(f.settled_position,
                      (select min(c.settled_position) from feed c
                       where c.group_id = f.group_id and c.kind = 'catch_up' and c.status = 'active'),
                      (select min(p.from_position) from parked p join endpoint e on e.id = p.endpoint_id
                       where e.group_id = f.group_id and p.to_position is null)) as owed_from,
                f.only_missing and f.settled_position < f.as_of_position is true as leaves_out
         from feed f join consumer_group g on g.id = f.group_id
         where g.name = $1 and g.deleted_at is null and f.kind = 'live' and f.status = 'active'",
    )
    .bind(group.as_ref())
    .fetch_optional(connection)
    .await
}

/// The position up to which a target leaves everything settled; `None` for an event that is not there.
async fn resolve(connection: &mut PgConnection, target: CursorTarget, end: i64) -> sqlx::Result<Option<i64>> {
    match target {
        CursorTarget::Start => Ok(Some(0)),
        CursorTarget::End => Ok(Some(end)),
        CursorTarget::After(position) => Ok(Some(position)),
        CursorTarget::At(at) => {
            let before: Option<i64> = sqlx::query_scalar(
                "select position - 1 from event where id >= id_floor($1::timestamptz) order by id limit 1",
            )
            .bind(at.max(DateTime::UNIX_EPOCH))
            .fetch_optional(connection)
            .await?;
            Ok(Some(before.unwrap_or(end)))
        }
        CursorTarget::Event(id) => {
            sqlx::query_scalar("select position - 1 from event where id = $1")
                .bind(id)
                .fetch_optional(connection)
                .await
        }
    }
}

/// Going back: the live feed brings history under a new ask; so do the catch-ups that reach beyond the new
/// position, of their intervals. What a catch-up has brought, or somebody has skipped, the live feed brings. What
/// is parked stays parked, from the new position on, or from earlier if it was. What was not settled yet, or was parked,
/// is still owed to those who were subscribed at the event, whatever they want now: above `owed_from`.
async fn uncover_history(
    change: &mut PgConnection,
    live: Live,
    position: i64,
    (here, resend, only_missing): (i64, Option<ReplayId>, bool),
) -> sqlx::Result<()> {
    sqlx::query(
        "with going as materialized (
             select id from feed
             where group_id = $1 and status = 'active'
               and (id = $2 or kind = 'catch_up' and to_position > $3)
             order by id for update
         )
         update feed f set epoch = f.epoch + 1, ask = $4, as_of_position = $4, resend_id = $5, only_missing = $6,
                owed_from = greatest(f.owed_from, f.settled_position),
                from_position = case when f.id = $2 then $3 else f.from_position end,
                settled_position = case when f.id = $2 then $3
                                        else least(f.settled_position, greatest(f.from_position, $3)) end
         from going g where f.id = g.id",
    )
    .bind(live.group_id)
    .bind(live.id)
    .bind(position)
    .bind(here)
    .bind(resend)
    .bind(only_missing)
    .execute(&mut *change)
    .await?;
    let ended = "with ended as materialized (
             select p.id, p.from_position from parked p join endpoint e on e.id = p.endpoint_id
             where e.group_id = $1 and p.to_position > $2
               and not exists (select from feed f where f.endpoint_id = p.endpoint_id and f.kind = 'catch_up'
                               and f.status = 'active' and f.from_position = p.from_position
                               and f.to_position = p.to_position)
         ), covered as (
             delete from parked p using ended x where p.id = x.id and x.from_position >= $2
         ), cut as (
             update parked p set to_position = $2 from ended x where p.id = x.id and x.from_position < $2
         )
         update parked p set from_position = $2,
                -- What is not settled, and before it was parked, the live feed owed.
                owed_from = least(f.owed_from, greatest(p.owed_from, p.from_position))
         from endpoint e, feed f
         where e.id = p.endpoint_id and e.group_id = $1 and f.id = $3 and p.to_position is null and p.from_position > $2";
    let ended = sqlx::query(ended).bind(live.group_id).bind(position).bind(live.id);
    ended.execute(change).await.map(drop)
}

/// Going forward. Unless only what is missing is wanted, what lies before the new position is given up, for those
/// that are parked or being caught up too.
async fn skip(change: &mut PgConnection, live: Live, position: i64, only_missing: bool) -> sqlx::Result<()> {
    sqlx::query(
        "update feed set epoch = epoch + 1, from_position = $2, settled_position = $2, only_missing = $3
         where id = $1",
    )
    .bind(live.id)
    .bind(position)
    // On its way through history a feed that skips a part of it stays what it is, but for more to leave out.
    .bind(only_missing || live.leaves_out)
    .execute(&mut *change)
    .await?;
    if only_missing {
        // The undo of going back: what was rewound with it goes on, without what was delivered.
        sqlx::query(
            "with rewound as materialized (
                 select id from feed where group_id = $1 and kind = 'catch_up' and status = 'active'
                 order by id for update
             )
             update feed f set only_missing = true, epoch = f.epoch + 1 from rewound r where f.id = r.id",
        )
        .bind(live.group_id)
        .execute(&mut *change)
        .await?;
    } else {
        give_up_catch_ups(change, live, position).await?;
    }
    give_up(change, live, position, only_missing).await
}

/// Catch-ups that end before the new position end at once; those that reach beyond it go on from there.
async fn give_up_catch_ups(change: &mut PgConnection, live: Live, position: i64) -> sqlx::Result<()> {
    sqlx::query(
        "with cut as materialized (
             select id, endpoint_id, from_position, to_position from feed
             where group_id = $1 and kind = 'catch_up' and status = 'active' and from_position < $2
             order by id for update
         ), ended as (
             update feed f set status = 'closed', finished_at = now()
             from cut c where f.id = c.id and c.to_position <= $2
         ), moved as (
             update feed f set from_position = $2, settled_position = greatest(f.settled_position, $2),
                    epoch = f.epoch + 1
             from cut c where f.id = c.id and c.to_position > $2
         ), given_up as (
             insert into parked (feed_id, endpoint_id, from_position, to_position, reason, closed_at, skipped)
             select $3, endpoint_id, from_position, least(to_position, $2), 'cursor', now(), true from cut
         )
         update parked p set from_position = least($2, c.to_position) from cut c
         where p.endpoint_id = c.endpoint_id and p.from_position = c.from_position
           and p.to_position = c.to_position",
    )
    .bind(live.group_id)
    .bind(position)
    .bind(live.id)
    .execute(change)
    .await
    .map(drop)
}

/// Notes for each endpoint that what lies before the new position is skipped. With `only_missing`, those that are
/// parked or being caught up get it all the same.
async fn give_up(
    change: &mut PgConnection,
    live: Live,
    position: i64,
    only_missing: bool,
) -> sqlx::Result<()> {
    sqlx::query(
        "insert into parked (feed_id, endpoint_id, from_position, to_position, reason, closed_at, skipped)
         select $3, e.id, least($4, open.from_position), $2, 'cursor', now(), true
         from endpoint e
         left join parked open on open.endpoint_id = e.id and open.to_position is null
         where e.group_id = $1 and e.status <> 'deleted' and $4 < $2
           and (not $5 or open.id is null and not exists (
                select from feed f where f.endpoint_id = e.id and f.kind = 'catch_up' and f.status = 'active'))",
    )
    .bind(live.group_id)
    .bind(position)
    .bind(live.id)
    .bind(live.settled_position)
    .bind(only_missing)
    .execute(&mut *change)
    .await?;
    if only_missing {
        return Ok(());
    }
    sqlx::query(
        "update parked p set from_position = $2 from endpoint e
         where e.id = p.endpoint_id and e.group_id = $1 and p.to_position is null and p.from_position < $2",
    )
    .bind(live.group_id)
    .bind(position)
    .execute(change)
    .await
    .map(drop)
}
