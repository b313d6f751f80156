//! Wake-ups for dispatchers: which stream has entries, which group has due retries. Hints only: the relay
//! rings every stream that holds entries each second, the loader every group with due retries.

use redis::aio::ConnectionManager;
use serde::{Deserialize, Serialize};

use crate::feed::{FeedKind, GoesBack};
use crate::group::GroupName;
use crate::ids::{EndpointId, ReplayId};

/// All that a dispatcher must know of a feed to read it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct FeedRef {
    pub feed_id: i64,
    pub kind: FeedKind,
    pub group_id: i64,
    pub group: GroupName,
    pub ask: i64,
    /// The one endpoint of a feed that is not live.
    pub endpoint_id: Option<EndpointId>,
    /// The replay or redrive that it belongs to.
    pub replay_id: Option<ReplayId>,
    pub goes_back: Option<GoesBack>,
    pub stream: String,
    /// More than half of the stream's room is taken: what holds up its entries had better be moved to rows.
    #[serde(default)]
    pub crowded: bool,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Hint {
    /// The stream has entries.
    Entries(FeedRef),
    /// The group's retry ZSET has members that are due, or will be soon.
    Retries { group_id: i64, group: GroupName },
}

/// A hint on its way, with the dispatcher that gives it.
#[derive(Serialize, Deserialize)]
struct Message<Name, Given> {
    from: Name,
    hint: Given,
}

/// Publishes hints to all other dispatchers, in one round trip.
///
/// # Errors
/// Redis is away. Nothing is lost: the next settle pass rings again.
pub async fn publish(
    redis: &mut ConnectionManager,
    channel: &str,
    from: &str,
    hints: &[Hint],
) -> redis::RedisResult<()> {
    if hints.is_empty() {
        return Ok(());
    }
    let mut pipeline = redis::pipe();
    for hint in hints {
        let text = serde_json::to_string(&Message { from, hint }).unwrap_or_default();
        pipeline.cmd("PUBLISH").arg(channel).arg(text).ignore();
    }
    pipeline.exec_async(redis).await
}

/// The hint of a message; `None` if it is this dispatcher's own, which has heard it already, or not understood.
pub fn heard(message: &[u8], own: &str) -> Option<Hint> {
    let message: Message<String, Hint> = serde_json::from_slice(message).ok()?;
    (message.from != own).then_some(message.hint)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_dispatcher_hears_the_others_and_not_itself() {
        let hint = Hint::Retries { group_id: 7, group: "orders".parse().unwrap() };
        let text = serde_json::to_vec(&Message { from: "a", hint: &hint }).unwrap();
        assert_eq!(heard(&text, "b"), Some(hint));
        assert_eq!(heard(&text, "a"), None);
        assert_eq!(heard(b"nonsense", "a"), None);
    }
}
