//! The retry ZSET of a group: what falls due soon. The truth about a retry is its row in PostgreSQL.

use std::sync::LazyLock;
use std::time::Duration;

use chrono::{DateTime, Utc};
use redis::aio::ConnectionManager;
use redis::{RedisResult, Script};

use super::keys::Keys;
use crate::group::GroupName;
use crate::ids::{EndpointId, EventId};

static CLAIM_DUE: LazyLock<Script> = LazyLock::new(|| Script::new(include_str!("scripts/claim_due.lua")));

/// Only retries that fall due within this time stand in the ZSET; the loader adds the others in time.
pub const HORIZON: Duration = Duration::from_secs(60);

/// Names a delivery in the ZSET.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Member {
    pub event_id: EventId,
    pub endpoint_id: EndpointId,
}

impl Member {
    pub fn text(self) -> String {
        format!("{}:{}", self.event_id, self.endpoint_id)
    }

    pub fn parse(text: &str) -> Option<Self> {
        let (event, endpoint) = text.split_once(':')?;
        Some(Self { event_id: event.parse().ok()?, endpoint_id: endpoint.parse().ok()? })
    }
}

/// What a claim brought.
#[derive(Debug, Default)]
pub struct Due {
    pub members: Vec<Member>,
    /// Time until the next member is due; `None` for an empty ZSET.
    pub next: Option<Duration>,
}

/// Leases up to `most` members that are due at `now`: until the lease ends nobody else gets them.
///
/// # Errors
/// Redis is away.
pub async fn claim_due(
    redis: &mut ConnectionManager,
    keys: &Keys,
    group: &GroupName,
    most: usize,
    lease: Duration,
    now: DateTime<Utc>,
) -> RedisResult<Due> {
    let key = keys.retry(group);
    let mut call = CLAIM_DUE.key(&key);
    call.arg(most).arg(millis(lease)).arg(now.timestamp_millis());
    let (texts, wait): (Vec<String>, i64) = call.invoke_async(redis).await?;
    let mut members = Vec::with_capacity(texts.len());
    for text in texts {
        match Member::parse(&text) {
            Some(member) => members.push(member),
            None => redis::cmd("ZREM").arg(&key).arg(text).exec_async(redis).await?,
        }
    }
    Ok(Due { members, next: u64::try_from(wait).ok().map(Duration::from_millis) })
}

/// A change of one group's ZSET.
#[derive(Debug, Clone, Copy)]
pub enum Change {
    /// Due at this time; replaces a lease.
    Set(Member, DateTime<Utc>),
    /// Due at this time, unless it stands there already.
    Add(Member, DateTime<Utc>),
    /// Due at this time, if that is earlier than what stands there, a lease included.
    Hasten(Member, DateTime<Utc>),
    /// Leased until this time, if it still stands there.
    Renew(Member, DateTime<Utc>),
    Remove(Member),
}

/// Adds changes of one group to a pipeline, whose answers are ignored.
pub fn queue(pipeline: &mut redis::Pipeline, keys: &Keys, group: &GroupName, changes: &[Change]) {
    if changes.is_empty() {
        return;
    }
    let key = keys.retry(group);
    for change in changes {
        match change {
            Change::Set(member, at) => {
                pipeline.cmd("ZADD").arg(&key).arg(at.timestamp_millis()).arg(member.text()).ignore()
            }
            Change::Add(member, at) => pipeline
                .cmd("ZADD")
                .arg(&key)
                .arg("NX")
                .arg(at.timestamp_millis())
                .arg(member.text())
                .ignore(),
            Change::Hasten(member, at) => pipeline
                .cmd("ZADD")
                .arg(&key)
                .arg("LT")
                .arg(at.timestamp_millis())
                .arg(member.text())
                .ignore(),
            Change::Renew(member, until) => pipeline
                .cmd("ZADD")
                .arg(&key)
                .arg("XX")
                .arg(until.timestamp_millis())
                .arg(member.text())
                .ignore(),
            Change::Remove(member) => pipeline.cmd("ZREM").arg(&key).arg(member.text()).ignore(),
        };
    }
}

fn millis(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}
