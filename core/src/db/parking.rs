//! Parking: an endpoint that is away, disabled or overwhelmed is left out by its group's live feed from a
//! position on, and gets what it missed by a catch-up feed later. It costs one row, whatever the backlog.

use sqlx::{PgExecutor, PgPool};

use super::lease::Incarnation;
use super::{change, operational, topology};
use crate::ids::EndpointId;

/// Past so many deferred deliveries an endpoint is parked.
pub const PARK_ABOVE: i64 = 1000;

/// With no more deferred deliveries than this it is brought back.
pub const UNPARK_BELOW: i64 = 100;

#[derive(Debug, Clone, Copy, PartialEq, Eq, sqlx::FromRow)]
pub struct Overwhelmed {
    pub endpoint_id: EndpointId,
    pub group_id: i64,
    pub disabled: bool,
}

/// Active endpoints that have too many deferred deliveries, and disabled ones; none that is parked.
///
/// # Errors
/// PostgreSQL is away.
pub async fn to_park(executor: impl PgExecutor<'_>) -> sqlx::Result<Vec<Overwhelmed>> {
    sqlx::query_as(
        "select e.id as endpoint_id, e.group_id, e.status = 'disabled' as disabled from endpoint e
         where not exists (select from parked p where p.endpoint_id = e.id and p.to_position is null)
           and (e.status = 'disabled'
                or e.status = 'active' and (select count(*) from (select from delivery d
                    where d.endpoint_id = e.id and d.status = 'pending' limit $1 + 1) waiting) > $1)",
    )
    .bind(PARK_ABOVE)
    .fetch_all(executor)
    .await
}

/// An endpoint that is to be left out of its group's live feed after `from`, which must be a position of this
/// server's log up to which the relay that asks has appended.
#[derive(Debug, Clone, Copy)]
pub struct Parking {
    pub feed_id: i64,
    pub epoch: i64,
    pub from: i64,
    pub endpoint: Overwhelmed,
}

/// Leaves endpoints out of their groups' live feeds. Harmless if another relay has gone further: what is in the
/// stream and in the interval too is recognised by its outcome.
///
/// # Errors
/// PostgreSQL is away.
pub async fn park(pool: &PgPool, incarnation: Incarnation, parkings: &[Parking]) -> sqlx::Result<()> {
    if parkings.is_empty() {
        return Ok(());
    }
    let mut transaction = change::begin(pool).await?;
    sqlx::query(
        "insert into parked (feed_id, endpoint_id, from_position, owed_from, reason)
         select f.id, e.id, p.position, f.owed_from, case when p.disabled then 'disabled' else 'deferred' end
         from unnest($1::bigint[], $2::bigint[], $3::bigint[], $4::uuid[], $5::bool[])
              as p (feed_id, epoch, position, endpoint_id, disabled)
         join feed f on f.id = p.feed_id and f.epoch = p.epoch and f.status = 'active'
         join endpoint e on e.id = p.endpoint_id and e.status <> 'deleted'
         where pg_postmaster_start_time() = $6
         on conflict (endpoint_id) where to_position is null do nothing",
    )
    .bind(parkings.iter().map(|one| one.feed_id).collect::<Vec<_>>())
    .bind(parkings.iter().map(|one| one.epoch).collect::<Vec<_>>())
    .bind(parkings.iter().map(|one| one.from).collect::<Vec<_>>())
    .bind(parkings.iter().map(|one| one.endpoint.endpoint_id).collect::<Vec<_>>())
    .bind(parkings.iter().map(|one| one.endpoint.disabled).collect::<Vec<_>>())
    .bind(incarnation)
    .execute(&mut *transaction)
    .await?;
    topology::raise_version(&mut transaction).await?;
    transaction.commit().await
}

/// Brings endpoints back that are active and have few deferred deliveries: closes their interval here and
/// now, at a position drawn under the log lock, and makes the catch-up feed over it. Answers how many.
///
/// # Errors
/// PostgreSQL is away.
pub async fn unpark(pool: &PgPool) -> sqlx::Result<u64> {
    let ready: Vec<i64> = sqlx::query_scalar(
        "select p.id from parked p join endpoint e on e.id = p.endpoint_id
         where p.to_position is null and e.status = 'active'
           and (select count(*) from (select from delivery d
                where d.endpoint_id = e.id and d.status = 'pending' limit $1 + 1) waiting) <= $1",
    )
    .bind(UNPARK_BELOW)
    .fetch_all(pool)
    .await?;
    if ready.is_empty() {
        return Ok(0);
    }
    let mut transaction = change::begin(pool).await?;
    let brought_back = sqlx::query(
        "with here as (select draw_positions(1) as position),
         closed as (
             update parked p set to_position = greatest(here.position, p.from_position), closed_at = now()
             from here, endpoint e
             where p.id = any($1) and p.to_position is null and e.id = p.endpoint_id and e.status = 'active'
             returning p.feed_id, p.endpoint_id, p.from_position, p.to_position, p.owed_from
         )
         insert into feed (group_id, kind, ask, endpoint_id, from_position, to_position, settled_position,
             as_of_position, owed_from, only_missing, resend_id)
         select f.group_id, 'catch_up', f.ask, c.endpoint_id, c.from_position, c.to_position, c.from_position,
             f.as_of_position, greatest(c.owed_from, c.from_position), f.only_missing, f.resend_id
         from closed c join feed f on f.id = c.feed_id",
    )
    .bind(&ready)
    .execute(&mut *transaction)
    .await?
    .rows_affected();
    operational::endpoints_recovered(&mut transaction, &ready).await?;
    topology::raise_version(&mut transaction).await?;
    transaction.commit().await?;
    Ok(brought_back)
}

/// How many endpoints are parked now.
///
/// # Errors
/// PostgreSQL is away.
pub async fn count(executor: impl PgExecutor<'_>) -> sqlx::Result<i64> {
    sqlx::query_scalar("select count(*) from parked where to_position is null").fetch_one(executor).await
}
