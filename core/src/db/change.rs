//! How the topology is changed: who listens, and from where. Used by [`super::group`] and
//! [`super::endpoint`], and by all that close or open an interval of the log.

use sqlx::{PgPool, PgTransaction};

/// Begins a change of the topology: a transaction that holds the log lock from its first statement on, so
/// that each later statement's snapshot sees all that was committed before. It never takes the lock while
/// holding another; nothing but the database may be waited for inside it, since producers wait meanwhile.
///
/// # Errors
/// PostgreSQL is away, or the lock was not free in time.
pub(crate) async fn begin(pool: &PgPool) -> sqlx::Result<PgTransaction<'static>> {
    let mut change = pool.begin().await?;
    sqlx::query("select lock_log()").execute(&mut *change).await?;
    Ok(change)
}

/// Whether a statement failed on the constraint of this name.
pub(crate) fn violates(error: &sqlx::Error, constraint: &str) -> bool {
    error.as_database_error().and_then(|error| error.constraint()) == Some(constraint)
}
