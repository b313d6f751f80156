//! A group's live figures: how far it is behind, what waits, and who is there to deliver it.

use chrono::{DateTime, Utc};
use sqlx::PgPool;

/// Counts stop here: beyond it nobody needs the exact figure.
pub const COUNTED_TO: i64 = 1_000_000;

#[derive(Debug, Clone, sqlx::FromRow)]
pub struct Figures {
    /// Position of the last event of the log.
    pub head: i64,
    /// Everything up to this position is settled in the live feed.
    pub settled: i64,
    /// Events of the log after it, whether the group wants them or not.
    pub lag: i64,
    pub oldest_unsettled_at: Option<DateTime<Utc>>,
    /// When something was delivered last, of the group's newest 10,000 deliveries.
    pub last_delivered_at: Option<DateTime<Utc>>,
    pub pending: i64,
    pub retrying: i64,
    pub dead: i64,
    /// Endpoints that are left out for now; their backlog stays in the log.
    pub parked: i64,
    /// Endpoints that are active, not parked, and not left alone because they keep failing.
    pub available: i64,
    pub endpoints: i64,
    /// Deliveries that were still owed when their day was dropped.
    pub expired: i64,
    pub dispatchers_alive: i64,
    pub relay_leads: bool,
}

impl Figures {
    /// Whether there is anything left to do.
    pub fn waits(&self) -> bool {
        self.lag > 0 || self.pending > 0 || self.retrying > 0 || self.parked > 0
    }
}

/// # Errors
/// PostgreSQL is away.
pub async fn of_group(pool: &PgPool, group_id: i64) -> sqlx::Result<Figures> {
    sqlx::query_as(
        "with live as (
             select settled_position as settled from feed
             where group_id = $1 and kind = 'live' and status = 'active'
         ), head as (
             select coalesce((select position from event order by position desc limit 1), 0) as head
         ), endpoints as (
             select count(*) filter (where p.id is not null) as parked,
                    count(*) filter (where p.id is null and e.status = 'active' and not exists (
                        select from dispatcher d where d.seen_at > now() - interval '6 seconds'
                        and e.id = any(d.open_breakers))) as available,
                    count(*) as endpoints
             from endpoint e left join parked p on p.endpoint_id = e.id and p.to_position is null
             where e.group_id = $1 and e.status <> 'deleted'
         )
         select h.head, least(l.settled, h.head) as settled, e.parked, e.available, e.endpoints,
             (select count(*) from (select from event where position > l.settled limit $2) behind) as lag,
             (select created_at from event where position > l.settled order by position limit 1)
                 as oldest_unsettled_at,
             (select max(updated_at) filter (where status = 'delivered') from (
                 select status, updated_at from delivery where group_id = $1
                 order by event_id desc, endpoint_id desc limit 10000) newest) as last_delivered_at,
             (select count(*) from (select from delivery where group_id = $1 and status = 'pending' limit $2) d)
                 as pending,
             (select count(*) from (select from delivery where group_id = $1 and status = 'retrying' limit $2) d)
                 as retrying,
             (select count(*) from (select from delivery
                 where group_id = $1 and status = 'dead' and purged_at is null limit $2) d) as dead,
             (select coalesce(sum(x.events), 0)::bigint from expired x join endpoint o on o.id = x.endpoint_id
                 where o.group_id = $1) as expired,
             (select count(*) from dispatcher where seen_at > now() - interval '6 seconds') as dispatchers_alive,
             exists (select from relay_lease where expires_at > now()) as relay_leads
         from live l, head h, endpoints e",
    )
    .bind(group_id)
    .bind(COUNTED_TO)
    .fetch_one(pool)
    .await
}
