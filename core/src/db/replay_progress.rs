//! How far a replay has come, worked out when somebody asks, from its feeds and its rows: exact, whatever has
//! restarted meanwhile. What can't change any more is counted once and kept, so that asking again is cheap.

use chrono::{DateTime, Utc};
use sqlx::{PgConnection, PgPool};
use uuid::Uuid;

use super::event_list::far_future;
use super::replay::{Replay, Status};
use super::replay_window::{Window, count_between, listeners_of};
use crate::tally::{Listener, tally};

/// Attempts that were under way at a cancellation have ended by then.
const SETTLES_WITHIN: chrono::Duration = chrono::Duration::minutes(2);

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Progress {
    pub status: Status,
    /// Events that were handed to all of its endpoints; of a redrive, dead letters.
    pub published: i64,
    pub delivered: i64,
    /// Deliveries that wait for another attempt.
    pub retrying: i64,
    pub dead: i64,
    /// Deliveries that need not be made: delivered before, taken over by a later ask, or of a deleted endpoint.
    pub skipped: i64,
    pub finished_at: Option<DateTime<Utc>>,
    /// PostgreSQL's time.
    pub now: DateTime<Utc>,
}

impl Progress {
    /// Deliveries that are over and done with.
    pub fn settled(&self) -> i64 {
        self.delivered + self.dead + self.skipped
    }

    /// Settled deliveries per second since the replay began, up to its end.
    pub fn rate(&self, created_at: DateTime<Utc>) -> f64 {
        let until = self.finished_at.unwrap_or(self.now);
        let elapsed = (until - created_at).num_milliseconds().max(1) as f64 / 1000.0;
        self.settled() as f64 / elapsed
    }

    /// When a replay that runs will have settled all that it owes, at the rate so far.
    pub fn estimated_end_at(&self, created_at: DateTime<Utc>, owed: i64) -> Option<DateTime<Utc>> {
        let rate = self.rate(created_at);
        if self.status != Status::Running || rate <= 0.0 {
            return None;
        }
        let seconds = ((owed - self.settled()).max(0) as f64 / rate) as i64;
        self.now.checked_add_signed(chrono::Duration::try_seconds(seconds)?).filter(|at| *at < far_future())
    }
}

/// Where the feeds of a replay stand.
#[derive(Debug, sqlx::FromRow)]
struct Standing {
    now: DateTime<Utc>,
    runs: bool,
    /// The least positions up to which feeds were read and settled: of those that run, or else of all.
    scanned: i64,
    settled: i64,
    /// How far the furthest feed was read, and where they end.
    furthest: i64,
    ends: i64,
    finished_at: Option<DateTime<Utc>>,
}

/// Rows of a replay above what was counted before.
#[derive(Debug, Clone, Copy, Default, sqlx::FromRow)]
struct Rows {
    delivered: i64,
    dead: i64,
    waiting: i64,
    /// All of them up to the settled position.
    settled: i64,
    /// Those below the first that waits, and up to the settled position.
    final_delivered: i64,
    final_dead: i64,
    /// Position of the first that waits, up to the settled position.
    first_waiting: Option<i64>,
}

/// What is known for good: up to which position, and what it comes to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Kept {
    published_to: i64,
    published: i64,
    settled_to: i64,
    /// Deliveries that are owed up to there.
    settled: i64,
    counted_to: i64,
    delivered: i64,
    dead: i64,
}

impl Kept {
    fn of(replay: &Replay) -> Self {
        Self {
            published_to: replay.published_to,
            published: replay.published,
            settled_to: replay.settled_to,
            settled: replay.settled,
            counted_to: replay.counted_to,
            delivered: replay.delivered,
            dead: replay.dead,
        }
    }
}

/// # Errors
/// PostgreSQL is away.
pub async fn of(pool: &PgPool, replay: &Replay) -> sqlx::Result<Progress> {
    // All of one snapshot: what is settled has its rows in it.
    let mut snapshot = pool.begin_with("begin isolation level repeatable read read only").await?;
    let replay: Replay = sqlx::query_as("select * from replay where id = $1")
        .bind(replay.id)
        .fetch_one(&mut *snapshot)
        .await?;
    let standing = standing(&mut snapshot, &replay).await?;
    let before = Kept::of(&replay);
    if before.counted_to >= replay.ask {
        return Ok(told(&replay, &standing));
    }
    let (kept, progress) = work_out(&mut snapshot, &replay, &standing).await?;
    snapshot.commit().await?;
    if kept != before {
        keep(pool, &replay, &kept).await?;
    }
    Ok(progress)
}

/// All has ended, and was counted.
fn told(replay: &Replay, standing: &Standing) -> Progress {
    Progress {
        status: standing.status(replay),
        published: replay.published,
        delivered: replay.delivered,
        retrying: 0,
        dead: replay.dead,
        skipped: replay.settled - replay.delivered - replay.dead,
        finished_at: replay.finished_at.or(standing.finished_at),
        now: standing.now,
    }
}

impl Standing {
    fn status(&self, replay: &Replay) -> Status {
        match replay.cancelled_at {
            _ if self.runs => Status::Running,
            Some(_) => Status::Cancelled,
            None => Status::Done,
        }
    }
}

async fn standing(connection: &mut PgConnection, replay: &Replay) -> sqlx::Result<Standing> {
    sqlx::query_as(
        "with f as (
             select *, bool_or(status = 'active') over () as runs from feed where replay_id = $1
         )
         select now() as now, coalesce(bool_or(runs), false) as runs,
                coalesce(min(greatest(scanned_position, settled_position))
                         filter (where status = 'active' or not runs), 0) as scanned,
                coalesce(min(settled_position) filter (where status = 'active' or not runs), 0) as settled,
                coalesce(max(greatest(scanned_position, settled_position)), 0) as furthest,
                coalesce(max(to_position), 0) as ends, max(finished_at) as finished_at
         from f",
    )
    .bind(replay.id)
    .fetch_one(connection)
    .await
}

async fn work_out(
    connection: &mut PgConnection,
    replay: &Replay,
    standing: &Standing,
) -> sqlx::Result<(Kept, Progress)> {
    let status = standing.status(replay);
    let mut kept = Kept::of(replay);
    // Never back, and below the ask: up to there means that all is told.
    let settled_to = match status {
        Status::Done => replay.ask - 1,
        _ => standing.settled.clamp(kept.settled_to, replay.ask - 1),
    };
    let rows = rows(connection, replay, kept.counted_to, settled_to).await?;
    let total = kept.delivered + kept.dead + rows.delivered + rows.dead + rows.waiting;
    let skipped = if replay.is_redrive() {
        kept.published = if status == Status::Done { replay.matched } else { total };
        if status == Status::Done { replay.matched - total } else { 0 }
    } else {
        count_on(connection, replay, standing, &mut kept, settled_to).await?;
        kept.settled - (kept.delivered + kept.dead + rows.settled)
    };
    let progress = Progress {
        status,
        published: kept.published,
        delivered: kept.delivered + rows.delivered,
        retrying: rows.waiting,
        dead: kept.dead + rows.dead,
        skipped: skipped.max(0),
        finished_at: replay.finished_at.or(standing.finished_at).filter(|_| !standing.runs),
        now: standing.now,
    };
    let may_change = standing.runs
        || rows.waiting > 0
        || replay.cancelled_at.is_some_and(|at| standing.now < at + SETTLES_WITHIN);
    if may_change {
        kept.counted_to = rows.first_waiting.map_or(settled_to, |position| position - 1).max(kept.counted_to);
        kept.delivered += rows.final_delivered;
        kept.dead += rows.final_dead;
    } else {
        (kept.published_to, kept.settled_to, kept.counted_to) = (replay.ask, replay.ask, replay.ask);
        (kept.delivered, kept.dead) = (progress.delivered, progress.dead);
        kept.settled = progress.settled();
    }
    Ok((kept, progress))
}

/// Counts events that were published, and deliveries owed up to the settled position, from where they were
/// counted to before.
async fn count_on(
    connection: &mut PgConnection,
    replay: &Replay,
    standing: &Standing,
    kept: &mut Kept,
    settled_to: i64,
) -> sqlx::Result<()> {
    let is_done = standing.status(replay) == Status::Done;
    let published_to = if is_done { standing.furthest } else { standing.scanned };
    if is_done {
        (kept.settled_to, kept.settled) = (settled_to, replay.owed);
    }
    if is_done && standing.furthest >= standing.ends {
        (kept.published_to, kept.published) = (settled_to, replay.matched);
    }
    if published_to <= kept.published_to && settled_to <= kept.settled_to {
        return Ok(());
    }
    let listeners = listeners_of(connection, replay.id).await?;
    if published_to > kept.published_to {
        kept.published += count(connection, replay, &listeners, kept.published_to, published_to).await?.0;
        kept.published_to = published_to;
    }
    if settled_to > kept.settled_to {
        kept.settled += count(connection, replay, &listeners, kept.settled_to, settled_to).await?.1;
        kept.settled_to = settled_to;
    }
    Ok(())
}

/// Events and deliveries of a replay at the positions `(after, upto]`.
async fn count(
    connection: &mut PgConnection,
    replay: &Replay,
    listeners: &[Listener],
    after: i64,
    upto: i64,
) -> sqlx::Result<(i64, i64)> {
    let (from, to) = window(replay);
    let window = Window { from, to, source: replay.source.as_deref() };
    let counts = count_between(connection, &window, after, upto).await?;
    let pattern = replay.event_type.as_deref().and_then(|text| text.parse().ok());
    let sum = tally(&counts, pattern.as_ref(), listeners);
    Ok((sum.matched, sum.owed))
}

fn window(replay: &Replay) -> (DateTime<Utc>, DateTime<Utc>) {
    (replay.from_at.unwrap_or(DateTime::UNIX_EPOCH), replay.to_at.unwrap_or_else(far_future))
}

/// Rows above `counted_to`. Events sort alike by id and position, and rows know only the id.
async fn rows(
    connection: &mut PgConnection,
    replay: &Replay,
    counted_to: i64,
    settled_to: i64,
) -> sqlx::Result<Rows> {
    let (from, to) = window(replay);
    let (floor, bound): (Uuid, Uuid) = sqlx::query_as(
        "select coalesce((select id from event where position <= $1 and id >= id_floor($3) and id < id_floor($4)
                          order by position desc limit 1), '00000000-0000-0000-0000-000000000000'),
                coalesce((select id from event where position > $2 and id >= id_floor($3) and id < id_floor($4)
                          order by position limit 1), 'ffffffff-ffff-ffff-ffff-ffffffffffff')",
    )
    .bind(counted_to)
    .bind(settled_to)
    .bind(from)
    .bind(to)
    .fetch_one(&mut *connection)
    .await?;
    sqlx::query_as(
        "with edge as materialized (
             select (select event_id from delivery
                     where replay_id = $1 and event_id > $2 and event_id < $3
                       and status in ('pending', 'retrying')
                     order by event_id limit 1) as id
         )
         select count(*) filter (where status = 'delivered') as delivered,
                count(*) filter (where status = 'dead') as dead,
                count(*) filter (where status in ('pending', 'retrying')) as waiting,
                count(*) filter (where event_id < $3) as settled,
                count(*) filter (where status = 'delivered' and event_id < coalesce(edge.id, $3)) as final_delivered,
                count(*) filter (where status = 'dead' and event_id < coalesce(edge.id, $3)) as final_dead,
                (select e.position from edge join event e on e.id = edge.id) as first_waiting
         from edge left join delivery on replay_id = $1 and event_id > $2",
    )
    .bind(replay.id)
    .bind(floor)
    .bind(bound)
    .fetch_one(connection)
    .await
}

/// Unless somebody else has counted on meanwhile.
async fn keep(pool: &PgPool, replay: &Replay, kept: &Kept) -> sqlx::Result<()> {
    sqlx::query(
        "update replay set published_to = $5, published = $6, settled_to = $7, settled = $8, counted_to = $9,
                delivered = $10, dead = $11
         where id = $1 and published_to = $2 and settled_to = $3 and counted_to = $4",
    )
    .bind(replay.id)
    .bind(replay.published_to)
    .bind(replay.settled_to)
    .bind(replay.counted_to)
    .bind(kept.published_to)
    .bind(kept.published)
    .bind(kept.settled_to)
    .bind(kept.settled)
    .bind(kept.counted_to)
    .bind(kept.delivered)
    .bind(kept.dead)
    .execute(pool)
    .await
    .map(drop)
}
