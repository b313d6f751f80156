//! What a dispatcher does beside delivering: endpoints that fail for days are disabled, days that have had
//! their time are dropped. Each step can be cut at any point and begun again, by any dispatcher.

use std::sync::Arc;
use std::time::Duration;

use eventrail_core::db;

use crate::prepare::Context;

pub(crate) mod health;

const LOOK_AFTER_HEALTH_EVERY: Duration = Duration::from_millis(500);

/// Looks after the health of endpoints, until it is aborted.
pub(crate) async fn look_after_health(context: Arc<Context>) -> anyhow::Result<()> {
    loop {
        if let Err(error) = db::answered(health::step(&context)).await {
            tracing::warn!(error = format!("{error:#}"), "what endpoints do is not noted yet");
        }
        tokio::time::sleep(LOOK_AFTER_HEALTH_EVERY).await;
    }
}
