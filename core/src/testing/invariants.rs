//! The invariants of the log and its feeds, asked of a running system at any moment, in the middle of any
//! fault: a test watches them while it breaks things.

use chrono::{DateTime, Utc};
use sqlx::PgPool;

use super::Stack;
use crate::group::GroupName;
use crate::ids::EventId;
use crate::rail::keys::Keys;

/// Events that a group's endpoint is owed by the live feed and that have no outcome: of feed `$1` (all, if
/// null), up to position `$2` (its settled position, if null), but for positions `$3` and for what is at or below `$4`.
const WITHOUT_OUTCOME: &str = "
select 'event at ' || e.position || ' for endpoint ' || s.endpoint_id || ' of feed ' || f.id
       || ' (settled up to ' || f.settled_position || ') has no outcome'
from feed f
join endpoint p on p.group_id = f.group_id and p.status <> 'deleted'
join subscription s on s.endpoint_id = p.id
join event e on e.position > greatest(f.from_position, s.from_position, $4)
            and e.position <= coalesce($2, f.settled_position)
            and (s.to_position is null or e.position <= s.to_position)
where f.kind = 'live' and f.status = 'active' and f.id = coalesce($1, f.id) and e.position <> all($3)
  and (cardinality(s.event_types) = 0 or exists (
      select from unnest(s.event_types) as pattern
      where pattern in ('*', e.event_type)
         or pattern like '%.*' and starts_with(e.event_type, left(pattern, -1))))
  and (cardinality(s.sources) = 0 or e.source = any(s.sources))
  and not exists (
      select from parked k where k.endpoint_id = p.id and e.position > k.from_position
                             and (k.to_position is null or e.position <= k.to_position))
  and not exists (select from delivery d where d.event_id = e.id and d.endpoint_id = p.id)
limit 5";

/// Asks about one stack; see [`Stack::invariants`].
#[derive(Clone)]
pub struct Invariants {
    pool: PgPool,
    redis: redis::Client,
    keys: Keys,
}

impl Stack {
    pub fn invariants(&self) -> Invariants {
        Invariants { pool: self.pool.clone(), redis: self.redis_client.clone(), keys: self.keys() }
    }
}

impl Invariants {
    /// Events at or below a live feed's settled position that some target has no outcome for (DESIGN, I2).
    ///
    /// # Errors
    /// PostgreSQL is away.
    pub async fn settled_without_outcome(&self) -> sqlx::Result<Vec<String>> {
        self.settled_without_outcome_since(0).await
    }

    /// The same for what is above `position`: a row that was there stays there, so a long run need not ask again.
    ///
    /// # Errors
    /// PostgreSQL is away.
    pub async fn settled_without_outcome_since(&self, position: i64) -> sqlx::Result<Vec<String>> {
        self.without_outcome(None, None, &[], position).await
    }

    /// Events at or below the tail of a live feed's stream that are neither in the stream nor have an outcome
    /// for each target (DESIGN, I3): holes. The stream is read in one step and the rows after it, so that
    /// what settles in between is no hole.
    ///
    /// # Errors
    /// PostgreSQL or Redis is away.
    pub async fn holes(&self) -> anyhow::Result<Vec<String>> {
        self.holes_since(0).await
    }

    /// The same for what is above `position`.
    ///
    /// # Errors
    /// PostgreSQL or Redis is away.
    pub async fn holes_since(&self, position: i64) -> anyhow::Result<Vec<String>> {
        let mut redis = self.redis.get_multiplexed_async_connection().await?;
        let mut holes = Vec::new();
        for (feed, stream) in self.live_streams().await? {
            let Some((tail, entries)) = contents(&mut redis, &stream).await? else { continue };
            let missing = self.without_outcome(Some(feed), Some(tail), &entries, position).await?;
            holes.extend(missing.into_iter().map(|missing| format!("{missing}, nor is it in {stream}")));
        }
        Ok(holes)
    }

    /// The position up to which all live feeds have settled.
    ///
    /// # Errors
    /// PostgreSQL is away.
    pub async fn settled_by_all(&self) -> sqlx::Result<i64> {
        let sql =
            "select coalesce(min(settled_position), 0) from feed where kind = 'live' and status = 'active'";
        sqlx::query_scalar(sql).fetch_one(&self.pool).await
    }

    /// Deliveries that wait to be tried again and should have been so long ago (DESIGN, I4).
    ///
    /// # Errors
    /// PostgreSQL is away.
    pub async fn overdue(&self, by: std::time::Duration) -> sqlx::Result<Vec<String>> {
        let sql = "select 'delivery ' || event_id || ' to ' || endpoint_id || ' is ' || status || ' and has been due since '
                          || next_attempt_at
                   from delivery where status in ('pending', 'retrying')
                   and (next_attempt_at < clock_timestamp() - $1 or next_attempt_at is null) limit 5";
        sqlx::query_scalar(sql).bind(by).fetch_all(&self.pool).await
    }

    /// Deliveries that wait for longer than anything should make them wait.
    ///
    /// # Errors
    /// PostgreSQL is away.
    pub async fn far_away(&self, beyond: std::time::Duration) -> sqlx::Result<Vec<String>> {
        let sql =
            "select 'delivery ' || event_id || ' to ' || endpoint_id || ' is ' || status || ' and will wait until '
                          || next_attempt_at
                   from delivery where status in ('pending', 'retrying')
                   and next_attempt_at > clock_timestamp() + $1 limit 5";
        sqlx::query_scalar(sql).bind(beyond).fetch_all(&self.pool).await
    }

    /// Deliveries that were given up.
    ///
    /// # Errors
    /// PostgreSQL is away.
    pub async fn dead(&self) -> sqlx::Result<Vec<String>> {
        let sql =
            "select 'delivery ' || event_id || ' to ' || endpoint_id || ' is dead after ' || attempt_count
                   from delivery where status = 'dead' limit 5";
        sqlx::query_scalar(sql).fetch_all(&self.pool).await
    }

    /// Events whose id or time goes back while their position goes on.
    ///
    /// # Errors
    /// PostgreSQL is away.
    pub async fn out_of_order(&self) -> sqlx::Result<Vec<String>> {
        let sql = "select 'event at ' || position || ' is older than the one before it' from (
                       select position, id <= lag(id) over log or created_at < lag(created_at) over log as back
                       from event window log as (order by position)) e
                   where back limit 5";
        sqlx::query_scalar(sql).fetch_all(&self.pool).await
    }

    /// The whole log, with the idempotency key of each event, in order.
    ///
    /// # Errors
    /// PostgreSQL is away.
    pub async fn log(&self) -> sqlx::Result<Vec<(EventId, String, DateTime<Utc>)>> {
        let sql = "select e.id, coalesce(k.key, ''), e.created_at
                   from event e left join idempotency_key k on k.event_id = e.id order by e.position";
        sqlx::query_as(sql).fetch_all(&self.pool).await
    }

    /// How many deliveries of these events have arrived, by the record.
    ///
    /// # Errors
    /// PostgreSQL is away.
    pub async fn delivered(&self, events: &[EventId]) -> sqlx::Result<usize> {
        let sql = "select count(*) from delivery where event_id = any($1) and status = 'delivered'";
        let count: i64 = sqlx::query_scalar(sql).bind(events).fetch_one(&self.pool).await?;
        Ok(usize::try_from(count).unwrap())
    }

    /// How many events the log holds.
    ///
    /// # Errors
    /// PostgreSQL is away.
    pub async fn logged(&self) -> sqlx::Result<usize> {
        let count: i64 = sqlx::query_scalar("select count(*) from event").fetch_one(&self.pool).await?;
        Ok(usize::try_from(count).unwrap())
    }

    /// Who holds the relay's lease.
    ///
    /// # Errors
    /// PostgreSQL is away.
    pub async fn leader(&self) -> sqlx::Result<Option<String>> {
        let sql = "select holder from relay_lease where expires_at > clock_timestamp()";
        sqlx::query_scalar(sql).fetch_optional(&self.pool).await
    }

    /// Keeps everybody from writing a settled position until the transaction ends.
    ///
    /// # Errors
    /// PostgreSQL is away.
    pub async fn lock_feeds(&self) -> sqlx::Result<sqlx::PgTransaction<'static>> {
        let mut transaction = self.pool.begin().await?;
        let patient = "set local idle_in_transaction_session_timeout = 0";
        sqlx::query(patient).execute(&mut *transaction).await?;
        sqlx::query("select from feed for update").execute(&mut *transaction).await?;
        Ok(transaction)
    }

    /// Says that everything is settled, which a relay must never do unseen.
    ///
    /// # Errors
    /// PostgreSQL is away.
    pub async fn settle_all(&self) -> sqlx::Result<()> {
        let sql = "update feed set settled_position = (select max(position) from event)";
        sqlx::query(sql).execute(&self.pool).await.map(drop)
    }

    /// How many sessions wait for such a lock.
    ///
    /// # Errors
    /// PostgreSQL is away.
    pub async fn waiting_to_settle(&self) -> sqlx::Result<i64> {
        let sql = "select count(*) from pg_stat_activity
                   where wait_event_type = 'Lock' and query like '%update feed f set settled_position%'";
        sqlx::query_scalar(sql).fetch_one(&self.pool).await
    }

    /// The streams of all live feeds, by feed.
    ///
    /// # Errors
    /// PostgreSQL is away.
    pub async fn live_streams(&self) -> sqlx::Result<Vec<(i64, String)>> {
        let feeds: Vec<(i64, String, i64)> = sqlx::query_as(
            "select f.id, g.name, f.epoch from feed f join consumer_group g on g.id = f.group_id
             where f.kind = 'live' and f.status = 'active' order by f.id",
        )
        .fetch_all(&self.pool)
        .await?;
        let stream = |group: &str, epoch| self.keys.live_stream(&group.parse::<GroupName>().unwrap(), epoch);
        Ok(feeds.into_iter().map(|(id, group, epoch)| (id, stream(&group, epoch))).collect())
    }

    async fn without_outcome(
        &self,
        feed: Option<i64>,
        up_to: Option<i64>,
        but: &[i64],
        above: i64,
    ) -> sqlx::Result<Vec<String>> {
        let asked = sqlx::query_scalar(WITHOUT_OUTCOME).bind(feed).bind(up_to).bind(but).bind(above);
        asked.fetch_all(&self.pool).await
    }
}

/// Position of the last entry ever appended, and of all entries that are there; `None` for no stream.
async fn contents(
    redis: &mut redis::aio::MultiplexedConnection,
    stream: &str,
) -> redis::RedisResult<Option<(i64, Vec<i64>)>> {
    type Entries = Vec<(String, redis::Value)>;
    let position = |id: &str| id.split('-').next().and_then(|text| text.parse::<i64>().ok()).unwrap();
    let answer: redis::RedisResult<(redis::streams::StreamInfoStreamReply, Entries)> = redis::pipe()
        .atomic()
        .cmd("XINFO")
        .arg("STREAM")
        .arg(stream)
        .cmd("XRANGE")
        .arg(stream)
        .arg("-")
        .arg("+")
        .query_async(redis)
        .await;
    match answer {
        Ok((info, entries)) => Ok(Some((
            position(&info.last_generated_id),
            entries.iter().map(|(id, _)| position(id)).collect(),
        ))),
        Err(error) if error.to_string().contains("no such key") => Ok(None),
        Err(error) => Err(error),
    }
}
