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

use super::{PING_WITHIN, TRUSTED_FOR};

const CONNECT_WITHIN: Duration = Duration::from_secs(5);

/// At most so many connections, made when they are needed.
#[derive(Clone)]
pub struct Lines(Arc<Shared>);

struct Shared {
    options: PgConnectOptions,
    permits: Arc<Semaphore>,
    idle: Mutex<Vec<(PgConnection, Instant)>>,
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
            let Some((mut connection, used_at)) = self.0.idle().pop() else { break };
            if used_at.elapsed() < TRUSTED_FOR
                || matches!(timeout(PING_WITHIN, connection.ping()).await, Ok(Ok(())))
            {
                return Ok(Line { connection, lines: self.clone(), _permit: permit });
            }
            // What has happened to it may have happened to all.
            self.0.idle().clear();
        }
        let connected = timeout(CONNECT_WITHIN, self.0.options.connect()).await;
        let connection = connected.unwrap_or(Err(sqlx::Error::PoolTimedOut))?;
        Ok(Line { connection, lines: self.clone(), _permit: permit })
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
    fn idle(&self) -> std::sync::MutexGuard<'_, Vec<(PgConnection, Instant)>> {
        self.idle.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A connection in use. It is closed when it is dropped, unless it is [given back](Line::give_back): so what
/// was cut short on it is cut short on the server too.
pub struct Line {
    connection: PgConnection,
    lines: Lines,
    _permit: OwnedSemaphorePermit,
}

impl Line {
    /// To be called once all that was asked on it is answered.
    pub fn give_back(self) {
        let Self { connection, lines, _permit } = self;
        lines.0.idle().push((connection, Instant::now()));
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
