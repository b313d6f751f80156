//! Connections for work that never rests: relay, intake and recorder. A pool asks a connection three times
//! whether it is alive for each time that it is used; at hundreds of uses a second that costs more than the
//! work. Here a connection that was used just now is trusted, and one whose work failed or was given up is
//! closed.

use std::ops::{Deref, DerefMut};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use sqlx::postgres::PgConnectOptions;
use sqlx::{ConnectOptions as _, Connection as _, PgConnection, PgPool};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::time::timeout;

/// A connection that has rested for longer is tried before it is used, and closed if it has rested for much longer.
const TRUSTED_FOR: Duration = Duration::from_secs(1);
const MOST_REST: Duration = Duration::from_secs(300);
/// What a backend has gathered in so long, it gives back.
const LIFE: Duration = Duration::from_secs(1800);
const PING_WITHIN: Duration = Duration::from_secs(2);

const CONNECT_WITHIN: Duration = Duration::from_secs(5);

/// At most so many connections, made when they are needed.
#[derive(Clone)]
pub struct Lines(Arc<Shared>);

struct Shared {
    options: PgConnectOptions,
    permits: Arc<Semaphore>,
    idle: Mutex<Vec<Rested>>,
}

struct Rested {
    connection: PgConnection,
    made_at: Instant,
    used_at: Instant,
}

impl Lines {
    /// `most` connections to the server of this pool, besides the pool's own.
    pub fn beside(pool: &PgPool, most: usize) -> Self {
        Self(Arc::new(Shared {
            options: one_plan(pool.connect_options().as_ref().clone()),
            permits: Arc::new(Semaphore::new(most)),
            idle: Mutex::new(Vec::with_capacity(most)),
        }))
    }

    /// A connection that answers, or did so just now; waits for one if all are in use.
    ///
    /// # Errors
    /// PostgreSQL is away.
    pub async fn take(&self) -> sqlx::Result<Line> {
        let permits = Arc::clone(&self.0.permits);
        let permit = permits.acquire_owned().await.map_err(|_| sqlx::Error::PoolClosed)?;
        loop {
            // The one that was used last: the others may rest.
            let Some(Rested { mut connection, made_at, used_at }) = self.0.idle().pop() else { break };
            if used_at.elapsed() < TRUSTED_FOR
                || matches!(timeout(PING_WITHIN, connection.ping()).await, Ok(Ok(())))
            {
                return Ok(Line { connection, made_at, lines: self.clone(), _permit: permit });
            }
            // What has happened to it may have happened to all.
            self.0.idle().clear();
        }
        let connected = timeout(CONNECT_WITHIN, self.0.options.connect()).await;
        let connection = connected.unwrap_or(Err(sqlx::Error::PoolTimedOut))?;
        Ok(Line { connection, made_at: Instant::now(), lines: self.clone(), _permit: permit })
    }
}

/// The same few statements are asked on these connections again and again: each is planned once. PostgreSQL
/// would otherwise plan most of them anew each time, since it counts on pruning the partitions beforehand,
/// which costs several times what the statement does. A plan that was made while a table was empty must serve
/// when it is not: never without an index.
pub fn one_plan(options: PgConnectOptions) -> PgConnectOptions {
    options.options([("plan_cache_mode", "force_generic_plan"), ("enable_seqscan", "off")])
}

impl Shared {
    fn idle(&self) -> std::sync::MutexGuard<'_, Vec<Rested>> {
        self.idle.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A connection in use. It is closed when it is dropped, unless it is [given back](Line::give_back): so
/// nobody meets what was cut short on it.
pub struct Line {
    connection: PgConnection,
    made_at: Instant,
    lines: Lines,
    _permit: OwnedSemaphorePermit,
}

impl Line {
    /// To be called once all that was asked on it is answered.
    pub fn give_back(self) {
        let Self { connection, made_at, lines, _permit } = self;
        let mut idle = lines.0.idle();
        idle.retain(|rested| rested.used_at.elapsed() < MOST_REST);
        if made_at.elapsed() < LIFE {
            idle.push(Rested { connection, made_at, used_at: Instant::now() });
        }
    }
}

impl Deref for Line {
    type Target = PgConnection;

    fn deref(&self) -> &PgConnection {
        &self.connection
    }
}

impl DerefMut for Line {
    fn deref_mut(&mut self) -> &mut PgConnection {
        &mut self.connection
    }
}
