//! `eventrail.ping`: the dispatcher's way of sending, without log, feed or rows.

use std::sync::Arc;
use std::time::{Duration, Instant};

use eventrail_core::config::DispatcherConfig;
use eventrail_core::db::recipient::{self, State};
use eventrail_core::egress::EgressPolicy;
use eventrail_core::ids::EndpointId;
use eventrail_core::ping::{Pinged, Pinger};
use eventrail_core::vault::Vault;
use sqlx::PgPool;

use crate::deliver::{self, Courier, Order};
use crate::event::Event;
use crate::http_client::Client;
use crate::recipients::{Defaults, Target};

/// Connections to a receiver that may rest until its next ping.
const MOST_IDLE: usize = 4;

/// Sends pings as the dispatcher sends deliveries.
pub struct Pings {
    pool: PgPool,
    vault: Arc<Vault>,
    courier: Arc<Courier>,
    timeout: Duration,
    config: DispatcherConfig,
}

impl Pings {
    /// # Errors
    /// The TLS set-up is unusable.
    pub fn new(
        pool: PgPool,
        vault: Arc<Vault>,
        egress: EgressPolicy,
        config: DispatcherConfig,
    ) -> anyhow::Result<Self> {
        let courier = Courier {
            client: Client::new(Arc::new(egress), MOST_IDLE)?,
            longest_retry_after: Duration::from_millis(config.max_backoff_ms),
        };
        Ok(Self { pool, vault, courier: Arc::new(courier), timeout: config.attempt_timeout(), config })
    }
}

impl Pinger for Pings {
    fn ping(&self, endpoint: EndpointId) -> Pinged {
        let (pool, vault, courier) = (self.pool.clone(), Arc::clone(&self.vault), Arc::clone(&self.courier));
        let defaults = Defaults {
            timeout: self.timeout,
            max_in_flight: self.config.max_in_flight,
            policy: self.config.retry_policy(),
        };
        Box::pin(async move {
            let found = recipient::get(&pool, &vault, endpoint).await?;
            let Some(recipient) = found.filter(|recipient| recipient.state != State::Deleted) else {
                return Ok(None);
            };
            anyhow::ensure!(
                recipient.state != State::Sealed,
                "{endpoint}: its secrets can't be opened, so nothing can be signed for it: check SECRETS_KEY"
            );
            let target = Target::new(&recipient, &defaults)?;
            let payload = serde_json::json!({ "endpoint_id": endpoint, "group": recipient.group.as_ref() });
            let event = Event::ping(payload.to_string().as_bytes());
            let order = Order { number: 1, trigger: "test", resend: None };
            // Nothing else looks after connections here: those of earlier pings end with a later one.
            courier.client.sweep(Instant::now());
            let (attempt, _) = deliver::attempt(&courier, &target, &event, &order).await;
            Ok(Some((event.id, attempt)))
        })
    }
}
