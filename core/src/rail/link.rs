//! The connection to Redis that a process shares, and can give up. redis-rs connects again when a connection is
//! lost, but stays on one that is acknowledged and never answered (a proxy whose backend hangs): whoever
//! notices that calls [`Link::give_up`].

use std::sync::Arc;

use redis::aio::ConnectionManager;
use redis::{Client, RedisResult};
use tokio::sync::watch;

/// Cheap to clone; all clones share one connection.
#[derive(Clone)]
pub struct Link {
    client: Client,
    current: Arc<watch::Sender<ConnectionManager>>,
}

impl Link {
    /// Connects on first use.
    ///
    /// # Errors
    /// The URL does not parse.
    pub fn new(url: &str) -> RedisResult<Self> {
        let client = super::client(url)?;
        let current = Arc::new(watch::Sender::new(super::connection(&client)?));
        Ok(Self { client, current })
    }

    pub fn client(&self) -> &Client {
        &self.client
    }

    /// The connection of the moment; take it anew for each piece of work.
    pub fn connection(&self) -> ConnectionManager {
        self.current.borrow().clone()
    }

    /// Leaves the connection to itself and makes another.
    ///
    /// # Errors
    /// Only for an unusable configuration.
    pub fn give_up(&self) -> RedisResult<()> {
        self.current.send_replace(super::connection(&self.client)?);
        Ok(())
    }

    /// Returns when the connection of the moment was given up.
    pub async fn given_up(&self) {
        let mut current = self.current.subscribe();
        // The sender lives as long as this does.
        let _ = current.changed().await;
    }
}
