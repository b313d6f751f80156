//! The transport: Redis keys, scripts and connections. Everything in it can be rebuilt from PostgreSQL.
//!
//! [`stream`] is the relay's side of a feed's stream, [`intake`] the dispatcher's, [`schedule`] the retry
//! ZSET, [`dead_letters`] the DLQ streams, [`ready`] and [`doorbell`] the wake-ups (each has a poll behind it).

use std::time::Duration;

use redis::aio::{ConnectionManager, ConnectionManagerConfig};

pub mod dead_letters;
pub mod doorbell;
pub mod entry;
pub mod intake;
pub mod keys;
pub mod link;
pub mod probe;
pub mod rate;
pub mod ready;
pub mod schedule;
pub mod stream;

/// A client with `TCP_NODELAY`, which redis-rs leaves off.
///
/// # Errors
/// The URL does not parse.
pub fn client(url: &str) -> redis::RedisResult<redis::Client> {
    use redis::IntoConnectionInfo as _;
    let settings = redis::io::tcp::TcpSettings::default().set_nodelay(true);
    // A Redis that vanished without a word: the kernel must say so, since redis-rs stays on a connection whose
    // answers time out. Keepalive is for the subscription, on which we send nothing.
    let keepalive = redis::io::tcp::socket2::TcpKeepalive::new()
        .with_time(Duration::from_secs(5))
        .with_interval(Duration::from_secs(2));
    let settings = settings.set_keepalive(keepalive);
    #[cfg(target_os = "linux")]
    let settings = settings.set_user_timeout(Duration::from_secs(10));
    redis::Client::open(url.into_connection_info()?.set_tcp_settings(settings))
}

/// A multiplexed connection that connects on first use and again whenever it was lost. A command that
/// fails is not sent again: whoever sent it knows whether that is safe.
///
/// # Errors
/// Only for an unusable configuration; Redis may be away.
pub fn connection(client: &redis::Client) -> redis::RedisResult<ConnectionManager> {
    let config = ConnectionManagerConfig::new()
        .set_connection_timeout(Some(Duration::from_secs(1)))
        .set_response_timeout(Some(Duration::from_secs(5)))
        .set_number_of_retries(1)
        .set_min_delay(Duration::from_millis(50))
        .set_max_delay(Duration::from_millis(200));
    ConnectionManager::new_lazy_with_config(client.clone(), config)
}

/// Refuses a Redis that may evict keys on its own.
///
/// # Errors
/// Redis is away, or its `maxmemory-policy` is not `noeviction`.
pub async fn check_policy(redis: &mut ConnectionManager) -> anyhow::Result<()> {
    let answer: redis::RedisResult<Vec<String>> =
        redis::cmd("CONFIG").arg("GET").arg("maxmemory-policy").query_async(redis).await;
    match answer {
        Ok(pair) if pair.get(1).is_some_and(|policy| policy != "noeviction") => anyhow::bail!(
            "REDIS_URL: maxmemory-policy is {}, but EventRail needs noeviction (CONFIG SET maxmemory-policy noeviction)",
            pair[1]
        ),
        Ok(_) => Ok(()),
        // Managed services forbid CONFIG; being away is healed later.
        Err(error) => {
            tracing::debug!(%error, "maxmemory-policy not readable");
            Ok(())
        }
    }
}
