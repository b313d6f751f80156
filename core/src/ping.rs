//! Trying an endpoint out: one signed request, now, that is not on the log and leaves no rows. The API offers
//! it, the dispatcher can do it; this is what joins the two without either naming the other.

use std::pin::Pin;

use crate::db::delivery::Attempt;
use crate::ids::{EndpointId, EventId};

/// What a ping answers.
pub type Pinged = Pin<Box<dyn Future<Output = anyhow::Result<Option<(EventId, Attempt)>>> + Send>>;

/// Sends `eventrail.ping` to endpoints, also to disabled ones.
pub trait Pinger: Send + Sync {
    /// Sends one ping; `None` if there is no such endpoint. Fails only if PostgreSQL is away or nothing can
    /// be signed: a receiver that behaves badly is an attempt like any other.
    fn ping(&self, endpoint: EndpointId) -> Pinged;
}
