//! An endpoint's rate limit, shared by all dispatchers.

use std::sync::LazyLock;
use std::time::Duration;

use redis::aio::ConnectionManager;
use redis::{RedisResult, Script};

use super::keys::Keys;
use crate::group::GroupName;
use crate::ids::EndpointId;

static TAKE_TURNS: LazyLock<Script> = LazyLock::new(|| Script::new(include_str!("scripts/take_turns.lua")));

/// Requests that may be made now, and how long until there are more.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Turns {
    pub granted: u32,
    pub more_in: Duration,
}

/// Takes up to `want` turns of an endpoint that allows `rate` a second, a tenth of a second's worth at most
/// at once.
///
/// # Errors
/// Redis is away.
pub async fn take_turns(
    redis: &mut ConnectionManager,
    keys: &Keys,
    group: &GroupName,
    endpoint: EndpointId,
    rate: u32,
    want: u32,
) -> RedisResult<Turns> {
    let burst = (rate / 10).max(1);
    let (granted, wait): (u32, u64) = TAKE_TURNS
        .key(keys.rate(group, endpoint))
        .arg(rate)
        .arg(burst)
        .arg(want.min(burst))
        .invoke_async(redis)
        .await?;
    Ok(Turns { granted, more_in: Duration::from_micros(wait) })
}
