//! The audit log: who changed what, when, and from where. A change writes its row in its own transaction, so
//! that there is neither a change without a row nor a row without its change.

use chrono::{DateTime, Utc};
use serde_json::Value;
use sqlx::types::Json;
use sqlx::{PgExecutor, PgPool};

/// Who asks for a change, by which operation, from where.
#[derive(Debug, Clone)]
pub struct Author {
    /// A key's id, `admin`, or `anonymous`.
    pub actor: String,
    /// The operation's id.
    pub action: &'static str,
    pub address: String,
}

#[derive(Debug, Clone, sqlx::FromRow)]
pub struct Entry {
    pub id: i64,
    pub at: DateTime<Utc>,
    pub actor: String,
    pub action: String,
    pub subject: String,
    pub address: String,
    pub detail: Json<Value>,
}

/// Notes a change of `subject`. `detail` must not hold secrets.
///
/// # Errors
/// PostgreSQL is away.
pub async fn write(
    executor: impl PgExecutor<'_>,
    author: &Author,
    subject: &str,
    detail: Value,
) -> sqlx::Result<()> {
    sqlx::query("insert into audit_log (actor, action, subject, address, detail) values ($1, $2, $3, $4, $5)")
        .bind(&author.actor)
        .bind(author.action)
        .bind(subject)
        .bind(&author.address)
        .bind(Json(detail))
        .execute(executor)
        .await
        .map(drop)
}

/// Entries in pages, newest first: those before the entry `before`.
///
/// # Errors
/// PostgreSQL is away.
pub async fn list(pool: &PgPool, before: Option<i64>, limit: i64) -> sqlx::Result<Vec<Entry>> {
    sqlx::query_as(
        "select id, at, actor, action, subject, address, detail from audit_log
         where id < coalesce($1, 9223372036854775807) order by id desc limit $2",
    )
    .bind(before)
    .bind(limit)
    .fetch_all(pool)
    .await
}
