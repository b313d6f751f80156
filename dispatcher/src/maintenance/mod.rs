//! What a dispatcher does beside delivering: endpoints that fail for days are disabled, days that have had
//! their time are dropped. Each step can be cut at any point and begun again, by any dispatcher.

use std::sync::Arc;
use std::time::Duration;

use eventrail_core::db;
use tokio::time::{sleep, timeout};

use crate::prepare::Context;
use crate::relay::Step;
use retention::Retention;

pub(crate) mod health;
pub mod retention;

const LOOK_AFTER_HEALTH_EVERY: Duration = Duration::from_millis(500);
/// Between two days that are dropped, so that who waited for the tables has his turn.
const AFTER_WORK: Duration = Duration::from_millis(200);
/// For a server that has vanished without a word.
const LONGEST_STEP: Duration = Duration::from_secs(900);
const AFTER_AN_ERROR: Duration = Duration::from_secs(10);

/// Looks after the health of endpoints, until it is aborted.
pub(crate) async fn look_after_health(context: Arc<Context>) -> anyhow::Result<()> {
    loop {
        if let Err(error) = db::answered(health::step(&context)).await {
            tracing::warn!(error = format!("{error:#}"), "what endpoints do is not noted yet");
        }
        sleep(LOOK_AFTER_HEALTH_EVERY).await;
    }
}

/// Drops days that have had their time, until it is aborted.
pub(crate) async fn keep_retention(mut retention: Retention) -> anyhow::Result<()> {
    loop {
        let pause = match timeout(LONGEST_STEP, retention.step()).await {
            Ok(Ok(Step::Worked)) => AFTER_WORK,
            Ok(Ok(Step::Idle(pause))) => pause,
            Err(_) => AFTER_AN_ERROR,
            Ok(Err(error)) => {
                tracing::warn!(error = format!("{error:#}"), "old days are not dropped yet");
                AFTER_AN_ERROR
            }
        };
        sleep(pause).await;
    }
}
