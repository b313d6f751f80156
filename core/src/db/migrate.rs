//! The schema's migrations, embedded in the binary. Idempotent, and safe when several start at once.

use sqlx::PgPool;

static MIGRATIONS: sqlx::migrate::Migrator = sqlx::migrate!("../migrations");

/// Brings the schema up to date.
///
/// # Errors
/// PostgreSQL is away, or holds a schema that this version does not know.
pub async fn migrate(pool: &PgPool) -> Result<(), sqlx::migrate::MigrateError> {
    MIGRATIONS.run(pool).await
}

/// Whether all migrations of this version have been applied.
pub async fn is_current(pool: &PgPool) -> sqlx::Result<bool> {
    let latest = MIGRATIONS.iter().map(|migration| migration.version).max().unwrap_or(0);
    let known: bool =
        sqlx::query_scalar("select to_regclass('_sqlx_migrations') is not null").fetch_one(pool).await?;
    if !known {
        return Ok(false);
    }
    sqlx::query_scalar("select exists (select from _sqlx_migrations where version >= $1 and success)")
        .bind(latest)
        .fetch_one(pool)
        .await
}

/// Whether events can be stored.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Readiness {
    Ready,
    /// The schema is of an older version.
    OldSchema,
    /// The server takes no writes: a standby, mostly.
    ReadOnly,
}

/// # Errors
/// PostgreSQL is away.
pub async fn readiness(pool: &PgPool) -> sqlx::Result<Readiness> {
    let read_only: bool =
        sqlx::query_scalar("select current_setting('transaction_read_only')::bool").fetch_one(pool).await?;
    if read_only {
        return Ok(Readiness::ReadOnly);
    }
    Ok(if is_current(pool).await? { Readiness::Ready } else { Readiness::OldSchema })
}

/// Changes with any change of the migrations.
#[cfg(feature = "testing")]
pub fn fingerprint() -> String {
    use sha2::Digest;
    let mut hash = sha2::Sha256::new();
    for migration in MIGRATIONS.iter() {
        hash.update(&migration.checksum);
    }
    hash.finalize().iter().take(8).map(|byte| format!("{byte:02x}")).collect()
}
