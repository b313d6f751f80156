//! API keys, by their hashes. A revoked key keeps its row, so that the audit log still names somebody.

use chrono::{DateTime, Utc};
use serde_json::json;
use sqlx::PgPool;
use uuid::Uuid;

use super::audit::{self, Author};
use crate::ids::KeyId;
use crate::key::{KeyHash, NewKey, Role};

/// A key that is to be made.
#[derive(Debug)]
pub struct KeyDraft {
    pub name: String,
    pub role: Role,
    /// Where a subscriber is at home; empty for the others.
    pub groups: Vec<String>,
    /// What a producer may send and read; empty for all.
    pub sources: Vec<String>,
    pub rate_per_second: Option<i32>,
    pub expires_at: Option<DateTime<Utc>>,
}

/// A key as its table has it.
#[derive(Debug, Clone, sqlx::FromRow)]
pub struct ApiKey {
    pub id: KeyId,
    pub name: String,
    pub role: String,
    pub groups: Vec<String>,
    pub sources: Vec<String>,
    pub rate_per_second: Option<i32>,
    pub prefix: String,
    #[sqlx(try_from = "Vec<u8>")]
    hash: HashColumn,
    pub created_at: DateTime<Utc>,
    pub expires_at: Option<DateTime<Utc>>,
}

impl ApiKey {
    pub fn hash(&self) -> &KeyHash {
        &self.hash.0
    }

    /// `None` for a role that this version does not know: it opens nothing.
    pub fn role(&self) -> Option<Role> {
        Role::parse(&self.role)
    }

    pub fn is_expired(&self, now: DateTime<Utc>) -> bool {
        self.expires_at.is_some_and(|at| at <= now)
    }
}

#[derive(Clone)]
struct HashColumn(KeyHash);

impl std::fmt::Debug for HashColumn {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("***")
    }
}

impl TryFrom<Vec<u8>> for HashColumn {
    type Error = std::io::Error;

    fn try_from(bytes: Vec<u8>) -> Result<Self, std::io::Error> {
        bytes.try_into().map(Self).map_err(|_| std::io::Error::other("a key's hash has 32 bytes"))
    }
}

#[derive(Debug)]
pub enum Created {
    Created(Box<ApiKey>),
    /// One of the groups, by its index, does not exist.
    NoSuchGroup(usize),
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Revoked {
    Revoked(KeyHash),
    NotFound,
}

/// # Errors
/// PostgreSQL is away.
pub async fn create(pool: &PgPool, author: &Author, draft: &KeyDraft, key: &NewKey) -> sqlx::Result<Created> {
    let mut change = pool.begin().await?;
    let known: Vec<String> =
        sqlx::query_scalar("select name from consumer_group where name = any($1) and deleted_at is null")
            .bind(&draft.groups)
            .fetch_all(&mut *change)
            .await?;
    if let Some(index) = draft.groups.iter().position(|name| !known.contains(name)) {
        return Ok(Created::NoSuchGroup(index));
    }
    let made: ApiKey = sqlx::query_as(
        "insert into api_key (id, name, role, groups, sources, rate_per_second, hash, prefix, expires_at)
         values ($1, $2, $3, $4, $5, $6, $7, $8, $9)
         returning id, name, role, groups, sources, rate_per_second, hash, prefix, created_at, expires_at",
    )
    .bind(KeyId::generate())
    .bind(&draft.name)
    .bind(draft.role.as_str())
    .bind(&draft.groups)
    .bind(&draft.sources)
    .bind(draft.rate_per_second)
    .bind(key.hash())
    .bind(key.prefix())
    .bind(draft.expires_at)
    .fetch_one(&mut *change)
    .await?;
    let detail =
        json!({ "name": made.name, "role": made.role, "groups": made.groups, "sources": made.sources });
    audit::write(&mut *change, author, &made.id.to_string(), detail).await?;
    change.commit().await?;
    Ok(Created::Created(Box::new(made)))
}

/// The key with this hash, unless it was revoked. It may have expired.
///
/// # Errors
/// PostgreSQL is away.
pub async fn by_hash(pool: &PgPool, hash: &KeyHash) -> sqlx::Result<Option<ApiKey>> {
    sqlx::query_as(
        "select id, name, role, groups, sources, rate_per_second, hash, prefix, created_at, expires_at
         from api_key where hash = $1 and revoked_at is null",
    )
    .bind(hash)
    .fetch_optional(pool)
    .await
}

/// Keys that were not revoked in pages, newest first: those made before the key `before`.
///
/// # Errors
/// PostgreSQL is away.
pub async fn list(pool: &PgPool, before: Option<KeyId>, limit: i64) -> sqlx::Result<Vec<ApiKey>> {
    sqlx::query_as(
        "select id, name, role, groups, sources, rate_per_second, hash, prefix, created_at, expires_at
         from api_key where revoked_at is null and id < $1 order by id desc limit $2",
    )
    .bind(before.map_or(Uuid::max(), |id| id.0))
    .bind(limit)
    .fetch_all(pool)
    .await
}

/// Revokes a key. Processes that have seen it lately stop letting it in within two seconds.
///
/// # Errors
/// PostgreSQL is away.
pub async fn revoke(pool: &PgPool, author: &Author, id: KeyId) -> sqlx::Result<Revoked> {
    let mut change = pool.begin().await?;
    let revoked: Option<(Vec<u8>, String)> = sqlx::query_as(
        "update api_key set revoked_at = now() where id = $1 and revoked_at is null returning hash, name",
    )
    .bind(id)
    .fetch_optional(&mut *change)
    .await?;
    let Some((hash, name)) = revoked else { return Ok(Revoked::NotFound) };
    audit::write(&mut *change, author, &id.to_string(), json!({ "name": name })).await?;
    change.commit().await?;
    let hash = HashColumn::try_from(hash).map_err(|error| sqlx::Error::Decode(Box::new(error)))?;
    Ok(Revoked::Revoked(hash.0))
}
