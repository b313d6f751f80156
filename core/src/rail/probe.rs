//! Whether Redis can be used, for the probes: it answers, and takes what it is given. One that is full, can't write
//! to its disk or has become a replica answers a `PING` like any other.

use redis::aio::ConnectionManager;

use super::keys::Keys;

/// Cheap to clone.
#[derive(Clone)]
pub struct Probe {
    redis: ConnectionManager,
    key: String,
}

impl Probe {
    pub fn new(redis: ConnectionManager, keys: &Keys) -> Self {
        Self { redis, key: keys.probe() }
    }

    /// # Errors
    /// Redis is away, or refuses writes.
    pub async fn ask(&self) -> redis::RedisResult<()> {
        redis::cmd("SET")
            .arg(&self.key)
            .arg("1")
            .arg("PX")
            .arg(10_000)
            .exec_async(&mut self.redis.clone())
            .await
    }
}
