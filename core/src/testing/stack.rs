//! PostgreSQL and Redis of one test's own, with the schema in place.

use std::path::{Path, PathBuf};

use sqlx::PgPool;

use super::{PATIENCE, SmallDisk, eventually_within, template};
use crate::db;
use crate::ids::{EndpointId, EventId};
use crate::rail::keys::{CONSUMER_GROUP, Keys};
use crate::servers::{Binaries, Durability, Postgres, PostgresOptions, Redis, RedisOptions};

const PREFIX: &str = "eventrail";
/// Any 32 bytes.
pub const SECRETS_KEY: &str = "AAECAwQFBgcICQoLDA0ODxAREhMUFRYXGBkaGxwdHh8=";

#[derive(Debug, Clone)]
pub struct StackOptions {
    /// What survives `postgres.kill()` survives with [`Durability::ProcessOnly`] too.
    pub durability: Durability,
    pub redis: RedisOptions,
    pub pool_size: u32,
    /// Further settings of PostgreSQL.
    pub postgres_settings: Vec<(String, String)>,
    /// Puts PostgreSQL on a disk of its own with so many megabytes, where this machine allows it.
    pub small_disk: Option<u32>,
}

impl Default for StackOptions {
    fn default() -> Self {
        Self {
            durability: Durability::ProcessOnly,
            redis: RedisOptions::default(),
            pool_size: 10,
            postgres_settings: Vec::new(),
            small_disk: None,
        }
    }
}

/// Stops its servers and removes their data when it is dropped.
pub struct Stack {
    pub postgres: Postgres,
    pub redis: Redis,
    pub pool: PgPool,
    pub redis_client: redis::Client,
    /// `None` unless it was asked for and could be had.
    pub disk: Option<SmallDisk>,
    directory: PathBuf,
}

/// A row of `delivery`.
#[derive(Debug, Clone, PartialEq, Eq, sqlx::FromRow)]
pub struct DeliveryRow {
    pub event_id: EventId,
    pub endpoint_id: EndpointId,
    pub ask: i64,
    pub status: String,
    pub attempt_count: i32,
    pub attempt_total: i32,
    pub last_status_code: Option<i32>,
    pub last_error: Option<String>,
}

/// A row of `attempt`.
#[derive(Debug, Clone, PartialEq, Eq, sqlx::FromRow)]
pub struct AttemptRow {
    pub number: i32,
    pub started_at: chrono::DateTime<chrono::Utc>,
    pub duration_ms: i32,
    pub status_code: Option<i32>,
    pub error: Option<String>,
    pub error_detail: Option<String>,
    pub response_body: Option<Vec<u8>>,
    pub trigger: String,
}

impl Stack {
    pub async fn start() -> Self {
        Self::start_with(StackOptions::default()).await
    }

    pub async fn start_with(options: StackOptions) -> Self {
        let binaries = Binaries::find().unwrap_or_else(|missing| panic!("{missing}"));
        let directory =
            std::env::temp_dir().join(format!("eventrail-test-{}", uuid::Uuid::new_v4().simple()));
        std::fs::create_dir(&directory).unwrap();
        let disk = options.small_disk.and_then(|size| SmallDisk::mount(&directory.join("postgres"), size));
        let of_postgres = PostgresOptions {
            durability: options.durability,
            template: Some(template::path(&binaries).await),
            settings: options.postgres_settings,
            ..PostgresOptions::for_tests()
        };
        let (postgres, redis) = tokio::join!(
            Postgres::start(&binaries, &directory, of_postgres),
            Redis::start(&binaries, &directory, options.redis)
        );
        let (postgres, redis) = (postgres.unwrap(), redis.unwrap());
        let pool =
            db::pool(db::connect_options(&postgres.url(), "eventrail-test").unwrap(), options.pool_size);
        let redis_client = crate::rail::client(&redis.url()).unwrap();
        Self { postgres, redis, pool, redis_client, disk, directory }
    }

    /// What an `eventrail` process needs in its environment to use these servers.
    pub fn environment(&self) -> Vec<(String, String)> {
        vec![
            ("DATABASE_URL".into(), self.postgres.url()),
            ("REDIS_URL".into(), self.redis.url()),
            ("REDIS_PREFIX".into(), PREFIX.into()),
            ("SECRETS_KEY".into(), SECRETS_KEY.into()),
        ]
    }

    pub fn prefix(&self) -> &'static str {
        PREFIX
    }

    pub fn keys(&self) -> Keys {
        Keys::new(PREFIX)
    }

    /// Where the servers' logs are.
    pub fn directory(&self) -> &Path {
        &self.directory
    }

    /// A new connection to Redis.
    pub async fn redis_connection(&self) -> redis::aio::MultiplexedConnection {
        self.redis_client.get_multiplexed_async_connection().await.unwrap()
    }

    /// Bytes that Redis uses for its data, buffers included.
    pub async fn redis_memory(&self) -> u64 {
        let mut redis = self.redis_connection().await;
        let info: String = redis::cmd("INFO").arg("memory").query_async(&mut redis).await.unwrap();
        let used = info.lines().find_map(|line| line.strip_prefix("used_memory:")).unwrap();
        used.trim().parse().unwrap()
    }

    /// All rows of `delivery`, by event and endpoint.
    pub async fn deliveries(&self) -> Vec<DeliveryRow> {
        let sql = "select event_id, endpoint_id, ask, status, attempt_count, attempt_total, last_status_code,
                   last_error from delivery order by event_id, endpoint_id";
        sqlx::query_as(sql).fetch_all(&self.pool).await.unwrap()
    }

    /// The attempts of one delivery, in order.
    pub async fn attempts(&self, event: EventId, endpoint: EndpointId) -> Vec<AttemptRow> {
        let sql = "select number, started_at, duration_ms, status_code, error, error_detail, response_body,
                   trigger from attempt where event_id = $1 and endpoint_id = $2 order by number";
        sqlx::query_as(sql).bind(event).bind(endpoint).fetch_all(&self.pool).await.unwrap()
    }

    /// Waits until nothing is left to do, and panics if something stays: an endpoint that is parked without
    /// being disabled, a live feed behind the log, a catch-up that is not done, a waiting delivery, an entry
    /// in a stream, a retry in a ZSET. Also checks that each delivery has its attempts.
    pub async fn assert_settled(&self) {
        self.assert_settled_within(PATIENCE).await;
    }

    /// The same, with a patience of one's own.
    pub async fn assert_settled_within(&self, patience: std::time::Duration) {
        eventually_within(patience, async || match self.unsettled().await {
            Ok(left) if left.is_empty() => Ok(()),
            Ok(left) => Err(left.join("; ")),
            Err(error) => Err(error.to_string()),
        })
        .await;
    }

    /// What is left to do, in words; see [`Self::assert_settled`].
    ///
    /// # Errors
    /// PostgreSQL or Redis is away.
    pub async fn unsettled(&self) -> anyhow::Result<Vec<String>> {
        let mut left = self.unsettled_rows().await?;
        left.extend(self.unsettled_keys().await?);
        Ok(left)
    }

    async fn unsettled_rows(&self) -> sqlx::Result<Vec<String>> {
        // In the order in which one thing turns into the next, so that none slips through between two of them.
        let questions = [
            "select 'endpoint ' || p.endpoint_id || ' is parked' from parked p
             join endpoint e on e.id = p.endpoint_id where p.to_position is null and e.status = 'active' limit 5",
            "select 'feed ' || f.id || ' (' || f.kind || ') has settled ' || f.settled_position || ' of ' || h.head
             from feed f, (select coalesce(max(position), 0) as head from event) h
             where f.status = 'active' and f.settled_position < least(h.head, f.to_position) limit 5",
            "select 'delivery ' || event_id || ' to ' || endpoint_id || ' is ' || status
             from delivery where status in ('pending', 'retrying') limit 5",
            "select 'delivery ' || d.event_id || ' to ' || d.endpoint_id || ' has counted ' || d.attempt_total
                    || ' attempts, and there are ' || count(a.number)
             from delivery d left join attempt a on a.event_id = d.event_id and a.endpoint_id = d.endpoint_id
             group by d.event_id, d.endpoint_id, d.attempt_total
             having count(a.number) <> d.attempt_total limit 5",
        ];
        let mut left = Vec::new();
        for question in questions {
            left.extend(sqlx::query_scalar::<_, String>(question).fetch_all(&self.pool).await?);
        }
        Ok(left)
    }

    async fn unsettled_keys(&self) -> redis::RedisResult<Vec<String>> {
        let mut redis = self.redis_client.get_multiplexed_async_connection().await?;
        let keys: Vec<String> = redis::cmd("KEYS").arg(format!("{PREFIX}.*")).query_async(&mut redis).await?;
        let mut left = Vec::new();
        for key in keys.into_iter().filter(|key| !key.ends_with(".dlq")) {
            let kind: String = redis::cmd("TYPE").arg(&key).query_async(&mut redis).await?;
            match kind.as_str() {
                "zset" => {
                    let members: i64 = redis::cmd("ZCARD").arg(&key).query_async(&mut redis).await?;
                    left.extend((members > 0).then(|| format!("{key} has {members} members")));
                }
                "stream" => {
                    let entries: i64 = redis::cmd("XLEN").arg(&key).query_async(&mut redis).await?;
                    left.extend((entries > 0).then(|| format!("{key} has {entries} entries")));
                    let pending: redis::RedisResult<redis::Value> =
                        redis::cmd("XPENDING").arg(&key).arg(CONSUMER_GROUP).query_async(&mut redis).await;
                    if let Ok(redis::Value::Array(parts)) = pending
                        && let Some(redis::Value::Int(count @ 1..)) = parts.first()
                    {
                        left.push(format!("{key} has {count} pending entries"));
                    }
                }
                _ => {}
            }
        }
        Ok(left)
    }
}

impl Drop for Stack {
    fn drop(&mut self) {
        self.postgres.kill_now();
        self.redis.kill_now();
        drop(self.disk.take());
        let _ = std::fs::remove_dir_all(&self.directory);
    }
}
