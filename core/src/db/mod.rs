//! The record: PostgreSQL. One file for each table or question; plain functions over an executor or pool.

use std::str::FromStr;
use std::time::Duration;

use sqlx::Connection as _;
use sqlx::postgres::{PgConnectOptions, PgPool, PgPoolOptions};

pub mod audit;
pub(crate) mod change;
pub mod cursor;
pub mod dead_letter;
pub mod delivery;
pub mod delivery_list;
pub mod dispatcher;
pub mod endpoint;
pub mod endpoint_change;
pub mod event_kind;
pub mod event_list;
pub mod feed;
pub mod figures;
pub mod forget;
pub mod group;
pub mod health;
pub mod key;
pub mod lease;
pub mod lines;
pub mod log;
pub mod migrate;
pub mod operational;
pub mod parking;
pub mod recipient;
pub mod redrive;
pub mod rekey;
pub mod replay;
pub mod replay_create;
pub mod replay_progress;
pub mod replay_window;
pub mod retention;
pub mod tail;
pub mod topology;
pub mod waiting;
pub mod whereabouts;

/// A page of a filtered list. No more than a stretch of the table is looked at for it, so that a filter which
/// matches little costs no more than others: a page may be short, even empty, though there is more.
#[derive(Debug)]
pub struct Stretch<T, C> {
    pub rows: Vec<T>,
    /// The last row looked at: the next page goes on below it, unless this one is full. `None` at the end.
    pub left_at: Option<C>,
}

/// Options from a URL, with what each of our connections wants: a name, TCP keepalives come from the
/// server's settings, and no statement may hang for ever.
///
/// # Errors
/// The URL does not parse, or names no user (sqlx would log in as `anonymous`).
pub fn connect_options(url: &str, application: &str) -> anyhow::Result<PgConnectOptions> {
    let parsed = url::Url::parse(url)?;
    let user_in_query = parsed.query_pairs().any(|(key, _)| key == "user");
    anyhow::ensure!(!parsed.username().is_empty() || user_in_query, "the URL names no user");
    let options = PgConnectOptions::from_str(url)?.application_name(application).options([
        ("statement_timeout", "30s"),
        ("lock_timeout", "20s"),
        // Whatever the server or the role says: what was answered with 2xx, or acknowledged in Redis, must
        // outlive a crash of the server.
        ("synchronous_commit", "on"),
        // A process that freezes inside a transaction must not keep the log lock.
        ("idle_in_transaction_session_timeout", "5s"),
        // Short statements, many times: compiling them takes longer than running them.
        ("jit", "off"),
        ("tcp_keepalives_idle", "10"),
        ("tcp_keepalives_interval", "5"),
        ("tcp_keepalives_count", "3"),
    ]);
    Ok(options)
}

/// A pool for reads that somebody waits for, on the same server: each is given up after 5 s, and they take no
/// connection from those who write.
pub fn pool_of_readers(pool: &PgPool, connections: u32) -> PgPool {
    let options = pool.connect_options().as_ref().clone();
    self::pool(options.options([("statement_timeout", "5s")]), connections)
}

/// A pool that connects lazily: PostgreSQL may come up later.
pub fn pool(options: PgConnectOptions, connections: u32) -> PgPool {
    PgPoolOptions::new()
        .max_connections(connections)
        .acquire_timeout(Duration::from_secs(5))
        .idle_timeout(Duration::from_secs(300))
        // A connection whose server vanished would be held here for ever, and its place in the pool with it.
        .after_release(|connection, _| {
            Box::pin(async move {
                let alive = tokio::time::timeout(Duration::from_secs(2), connection.ping()).await;
                alive.unwrap_or(Err(sqlx::Error::PoolTimedOut)).map(|()| true)
            })
        })
        .connect_lazy_with(options)
}

/// PostgreSQL's time.
///
/// # Errors
/// PostgreSQL is away.
pub async fn now(pool: &PgPool) -> sqlx::Result<chrono::DateTime<chrono::Utc>> {
    sqlx::query_scalar("select clock_timestamp()").fetch_one(pool).await
}

/// What a server that is there answers within.
pub const ANSWER_WITHIN: Duration = Duration::from_secs(20);

/// Gives up on work whose answers do not come. A server that vanished without a word (lost its power, failed
/// over) leaves connections on which nothing ever arrives, and sqlx waits on them without end.
///
/// # Errors
/// Those of the work; or it took too long, and its outcome is unknown.
pub fn answered<T, E: Into<anyhow::Error>>(
    work: impl Future<Output = Result<T, E>>,
) -> impl Future<Output = anyhow::Result<T>> {
    answered_within(ANSWER_WITHIN, work)
}

/// The same for work that is better asked again soon.
///
/// # Errors
/// As [`answered`].
pub async fn answered_within<T, E: Into<anyhow::Error>>(
    limit: Duration,
    work: impl Future<Output = Result<T, E>>,
) -> anyhow::Result<T> {
    match tokio::time::timeout(limit, work).await {
        Ok(answer) => answer.map_err(Into::into),
        Err(_) => anyhow::bail!("no answer within {} s", limit.as_secs()),
    }
}
