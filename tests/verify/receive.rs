//! The Rust of docs/RECEIVERS.md, to the letter, so that a test can run it.

use standardwebhooks::{Webhook, WebhookError};

pub fn receive(secret: &str, body: &[u8], headers: &http::HeaderMap) -> Result<serde_json::Value, WebhookError> {
    Webhook::new(secret)?.verify(body, headers)?; // answer 400 to an error
    Ok(serde_json::from_slice(body).expect("what we signed is JSON"))
}
