//! Whether Redis answers: for the health probe.

use redis::aio::ConnectionManager;

/// # Errors
/// Redis is away.
pub async fn ping(redis: &ConnectionManager) -> redis::RedisResult<()> {
    redis::cmd("PING").query_async(&mut redis.clone()).await
}
