//! The doorbell: tells the relay that the log or the topology has grown. Best effort: the relay polls too.

use std::sync::Arc;
use std::time::Duration;

use redis::aio::ConnectionManager;
use tokio::sync::Notify;

/// Rings `PUBLISH {prefix}.doorbell`. Cheap to clone; never blocks and never fails: rings that come while
/// one is under way become one.
#[derive(Clone)]
pub struct Doorbell {
    pressed: Arc<Notify>,
}

impl Doorbell {
    /// The channel that relays subscribe to.
    pub fn channel(prefix: &str) -> String {
        format!("{prefix}.doorbell")
    }

    /// A doorbell and the task that rings it; the caller spawns the task and aborts it at its end.
    pub fn new(redis: ConnectionManager, prefix: &str) -> (Self, impl Future<Output = ()> + Send + 'static) {
        let pressed = Arc::new(Notify::new());
        let bell = Self { pressed: Arc::clone(&pressed) };
        let channel = Self::channel(prefix);
        let task = async move {
            let mut redis = redis;
            loop {
                pressed.notified().await;
                let rung: redis::RedisResult<i64> =
                    redis::cmd("PUBLISH").arg(&channel).arg("").query_async(&mut redis).await;
                if let Err(error) = rung {
                    tracing::debug!(%error, "doorbell not rung; the relay's poll finds the events");
                    tokio::time::sleep(Duration::from_millis(100)).await;
                }
            }
        };
        (bell, task)
    }

    pub fn ring(&self) {
        self.pressed.notify_one();
    }
}
