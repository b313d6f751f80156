//! The writer's own connection to PostgreSQL. It comes back by itself, and while PostgreSQL is away it says
//! so at once instead of holding requests.

use std::time::Duration;

use eventrail_core::db::lines::one_plan;
use sqlx::postgres::PgConnectOptions;
use sqlx::{ConnectOptions as _, Connection as _, PgConnection};
use tokio::time::{Instant, timeout};

const CONNECT_DEADLINE: Duration = Duration::from_secs(3);
/// A connection that has rested this long is tried before an event is risked on it.
const TRUSTED_FOR: Duration = Duration::from_millis(500);
const SHORTEST_PAUSE: Duration = Duration::from_millis(50);
const LONGEST_PAUSE: Duration = Duration::from_secs(1);

pub(super) struct Link {
    options: PgConnectOptions,
    connection: Option<PgConnection>,
    used_at: Instant,
    pause: Duration,
    not_before: Instant,
}

impl Link {
    pub(super) fn new(options: PgConnectOptions) -> Self {
        // Below the writer's own deadline, so that PostgreSQL gives up first and says that it did.
        let options = one_plan(options.options([("statement_timeout", "9s"), ("lock_timeout", "8s")]));
        let now = Instant::now();
        Self { options, connection: None, used_at: now, pause: SHORTEST_PAUSE, not_before: now }
    }

    /// A connection that works, or none for now.
    pub(super) async fn connection(&mut self) -> Option<&mut PgConnection> {
        if self.used_at.elapsed() > TRUSTED_FOR
            && let Some(connection) = &mut self.connection
            && !matches!(timeout(CONNECT_DEADLINE, connection.ping()).await, Ok(Ok(())))
        {
            self.connection = None;
        }
        if self.connection.is_none() {
            self.connect().await;
        }
        self.connection.as_mut()
    }

    async fn connect(&mut self) {
        if Instant::now() < self.not_before {
            return;
        }
        match timeout(CONNECT_DEADLINE, self.options.connect()).await {
            Ok(Ok(connection)) => {
                self.connection = Some(connection);
                self.pause = SHORTEST_PAUSE;
                self.used();
                return;
            }
            Ok(Err(error)) => tracing::warn!(%error, "PostgreSQL can't be reached; events are refused"),
            Err(_) => tracing::warn!("PostgreSQL did not answer in {CONNECT_DEADLINE:?}; events are refused"),
        }
        self.not_before = Instant::now() + self.pause;
        self.pause = (self.pause * 2).min(LONGEST_PAUSE);
    }

    pub(super) fn used(&mut self) {
        self.used_at = Instant::now();
    }

    /// Something went wrong on it: the next use connects anew, to whatever is the primary then.
    pub(super) fn lost(&mut self) {
        self.connection = None;
    }
}
