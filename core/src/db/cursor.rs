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
    /// Everything up to this position was settled before.
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
    leaves_out: bool,
}

/// Moves the cursor of a group's live feed. Parked intervals and catch-ups before the new position end there;
/// retries that are scheduled go on. With `only_missing`, history that was delivered before is left out.
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
    let events = match preview(pool, group, target).await? {
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
    let back = position < live.settled_position;
    if back {
        uncover_history(&mut transaction, live, position).await?;
    } else {
        skip_backlog(&mut transaction, live, position).await?;
    }
    sqlx::query(
        "update feed set epoch = epoch + 1, from_position = $2, settled_position = $2, scanned_position = 0,
                ask = case when $3 then $4 else ask end,
                as_of_position = case when $3 then $4 else as_of_position end,
                resend_id = case when $3 then $5 else resend_id end,
                only_missing = $6
         where id = $1",
    )
    .bind(live.id)
    .bind(position)
    .bind(back)
    .bind(here)
    .bind((!only_missing).then(ReplayId::generate))
    // On its way through history a feed that skips a part of it stays what it is, but for more to leave out.
    .bind(only_missing || !back && live.leaves_out)
    .execute(&mut *transaction)
    .await?;
    topology::raise_version(&mut transaction).await?;
    let moved = Moved { previous: live.settled_position, position, events };
    let detail = json!({ "previous": moved.previous, "position": position, "only_missing": only_missing });
    audit::write(&mut *transaction, author, group.as_ref(), detail).await?;
    transaction.commit().await?;
    Ok(Cursor::Moved(moved))
}

/// What [`set`] would do.
///
/// # Errors
/// PostgreSQL is away.
pub async fn preview(pool: &PgPool, group: &GroupName, target: CursorTarget) -> sqlx::Result<Cursor> {
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
    let events: i64 = sqlx::query_scalar("select count(*) from event where position > $1 and position <= $2")
        .bind(position.min(live.settled_position))
        .bind(if position < live.settled_position { head } else { position })
        .fetch_one(&mut *connection)
        .await?;
    Ok(Cursor::Moved(Moved { previous: live.settled_position, position, events }))
}

async fn live(connection: &mut PgConnection, group: &GroupName) -> sqlx::Result<Option<Live>> {
    sqlx::query_as(
        "select f.id, f.group_id, f.settled_position,
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

/// Going back: the live feed itself brings history, to endpoints that had it by a catch-up or skipped it too.
/// What is parked now stays parked, from the new position on.
async fn uncover_history(change: &mut PgConnection, live: Live, position: i64) -> sqlx::Result<()> {
    end_catch_ups(change, live, i64::MAX).await?;
    sqlx::query(
        "delete from parked p using endpoint e
         where e.id = p.endpoint_id and e.group_id = $1 and p.to_position is not null and p.from_position >= $2",
    )
    .bind(live.group_id)
    .bind(position)
    .execute(&mut *change)
    .await?;
    // What a catch-up had still to bring from before the new position is given up.
    sqlx::query(
        "update parked p set to_position = $2, skipped = true from endpoint e
         where e.id = p.endpoint_id and e.group_id = $1 and p.to_position > $2",
    )
    .bind(live.group_id)
    .bind(position)
    .execute(&mut *change)
    .await?;
    move_open(change, live, position, true).await
}

/// Going forward: what lies before the new position is given up, for those that are parked too.
async fn skip_backlog(change: &mut PgConnection, live: Live, position: i64) -> sqlx::Result<()> {
    end_catch_ups(change, live, position).await?;
    // Catch-ups that reach beyond the new position go on from there.
    sqlx::query(
        "with cut as materialized (
             select id, endpoint_id, from_position, to_position from feed
             where group_id = $1 and kind = 'catch_up' and status = 'active'
               and from_position < $2 and to_position > $2
         ), moved as (
             update feed f set from_position = $2, settled_position = greatest(f.settled_position, $2),
                    epoch = f.epoch + 1
             from cut c where f.id = c.id
         ), given_up as (
             insert into parked (feed_id, endpoint_id, from_position, to_position, reason, closed_at, skipped)
             select $3, endpoint_id, from_position, $2, 'cursor', now(), true from cut
         )
         update parked p set from_position = $2 from cut c
         where p.endpoint_id = c.endpoint_id and p.from_position = c.from_position
           and p.to_position = c.to_position",
    )
    .bind(live.group_id)
    .bind(position)
    .bind(live.id)
    .execute(&mut *change)
    .await?;
    sqlx::query(
        "insert into parked (feed_id, endpoint_id, from_position, to_position, reason, closed_at, skipped)
         select $3, e.id, least($4, (select min(p.from_position) from parked p
                                     where p.endpoint_id = e.id and p.to_position is null)),
                $2, 'cursor', now(), true
         from endpoint e
         where e.group_id = $1 and e.status <> 'deleted' and $4 < $2",
    )
    .bind(live.group_id)
    .bind(position)
    .bind(live.id)
    .bind(live.settled_position)
    .execute(&mut *change)
    .await?;
    move_open(change, live, position, false).await
}

/// Ends the group's catch-ups that end at or before `up_to`, and gives up what they had still to bring.
async fn end_catch_ups(change: &mut PgConnection, live: Live, up_to: i64) -> sqlx::Result<()> {
    sqlx::query(
        "with ended as (
             update feed set status = 'closed', finished_at = now()
             where group_id = $1 and kind = 'catch_up' and status = 'active' and to_position <= $2
             returning endpoint_id, from_position, to_position
         )
         update parked p set skipped = true from ended c
         where p.endpoint_id = c.endpoint_id and p.from_position = c.from_position
           and p.to_position = c.to_position",
    )
    .bind(live.group_id)
    .bind(up_to)
    .execute(change)
    .await
    .map(drop)
}

/// Open intervals begin at the new position: later than now, or also earlier.
async fn move_open(
    change: &mut PgConnection,
    live: Live,
    position: i64,
    also_earlier: bool,
) -> sqlx::Result<()> {
    sqlx::query(
        "update parked p set from_position = $2 from endpoint e
         where e.id = p.endpoint_id and e.group_id = $1 and p.to_position is null
           and (p.from_position < $2 or $3)",
    )
    .bind(live.group_id)
    .bind(position)
    .bind(also_earlier)
    .execute(change)
    .await
    .map(drop)
}
