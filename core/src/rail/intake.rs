//! The dispatcher's side of a feed's stream: reading, taking over what a dead consumer held, settling.

use std::collections::HashSet;
use std::sync::LazyLock;
use std::time::Duration;

use redis::aio::ConnectionManager;
use redis::{RedisResult, Script, Value};

use super::entry::{self, Read};
use super::keys::{CONSUMER_GROUP, Keys};

/// What stands in place of the announcement of a consumer that has signed off.
const GONE: &str = "gone";

static FORGET: LazyLock<Script> = LazyLock::new(|| Script::new(include_str!("scripts/forget_consumer.lua")));

/// From where a consumer reads.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum From {
    /// Entries that nobody has read.
    New,
    /// This consumer's own pending entries after this id (`"0"` for all): after an error, and now and then.
    Own(String),
}

/// Reads up to `count` entries, without blocking. A stream or group that is missing is empty: the relay
/// makes it.
///
/// # Errors
/// Redis is away. Entries may have been handed out all the same: read `Own` before `New`.
pub async fn read(
    redis: &mut ConnectionManager,
    stream: &str,
    consumer: &str,
    from: &From,
    count: usize,
) -> RedisResult<Vec<Read>> {
    let start = match from {
        From::New => ">",
        From::Own(after) => after,
    };
    let answer: RedisResult<Value> = redis::cmd("XREADGROUP")
        .arg("GROUP")
        .arg(CONSUMER_GROUP)
        .arg(consumer)
        .arg("COUNT")
        .arg(count)
        .arg("STREAMS")
        .arg(stream)
        .arg(start)
        .query_async(redis)
        .await;
    match answer {
        Ok(Value::Array(streams)) => Ok(streams.first().map(items_of_stream).unwrap_or_default()),
        Ok(Value::Map(streams)) => Ok(streams.first().map(|(_, items)| items_of(items)).unwrap_or_default()),
        Ok(_) => Ok(Vec::new()),
        Err(error) if error.code() == Some("NOGROUP") => Ok(Vec::new()),
        Err(error) => Err(error),
    }
}

fn items_of_stream(stream: &Value) -> Vec<Read> {
    match stream {
        Value::Array(parts) => parts.get(1).map(items_of).unwrap_or_default(),
        _ => Vec::new(),
    }
}

fn items_of(items: &Value) -> Vec<Read> {
    match items {
        Value::Array(items) => items.iter().filter_map(entry::parse).collect(),
        _ => Vec::new(),
    }
}

/// Adds the deletion and acknowledgement of entries to a pipeline. Deletion first: were it last, a cut
/// between the two would leave an entry that nobody holds and that holds back the settled position.
pub fn queue_settle(pipeline: &mut redis::Pipeline, stream: &str, ids: &[String]) {
    if ids.is_empty() {
        return;
    }
    pipeline.cmd("XDEL").arg(stream).arg(ids).ignore();
    pipeline.cmd("XACK").arg(stream).arg(CONSUMER_GROUP).arg(ids).ignore();
}

/// Says that this consumer lives, for `ttl`.
///
/// # Errors
/// Redis is away.
pub async fn announce(
    redis: &mut ConnectionManager,
    keys: &Keys,
    consumer: &str,
    ttl: Duration,
) -> RedisResult<()> {
    let (key, ttl) = (keys.alive(consumer), ttl.as_millis() as u64);
    // A Redis at `maxmemory` refuses new values, but lets what is there live on: others must not take this
    // consumer for dead while it sends what it holds.
    let lives_on: bool = redis::cmd("PEXPIRE").arg(&key).arg(ttl).query_async(redis).await?;
    if lives_on {
        return Ok(());
    }
    redis::cmd("SET").arg(key).arg("1").arg("PX").arg(ttl).exec_async(redis).await
}

/// Says that this consumer is gone: what it holds is taken over in the next round.
///
/// # Errors
/// Redis is away; the announcement runs out by itself.
pub async fn sign_off(redis: &mut ConnectionManager, keys: &Keys, consumer: &str) -> RedisResult<()> {
    let key = keys.alive(consumer);
    let gone = redis::cmd("SET").arg(&key).arg(GONE).arg("PX").arg(60_000).exec_async(redis).await;
    match gone {
        // A Redis at `maxmemory` takes no new value; without any it takes a round longer.
        Err(error) if error.code().is_some() => redis::cmd("DEL").arg(key).exec_async(redis).await,
        gone => gone,
    }
}

/// How long an entry must have been idle to be taken over. A claim begins that anew, so that two dispatchers do not
/// take the same entry twice.
#[derive(Debug, Clone, Copy)]
pub struct IdleFor {
    pub of_dead: Duration,
    pub of_living: Duration,
}

/// What a round of taking over brought.
#[derive(Debug)]
pub struct TakenOver {
    pub reads: Vec<Read>,
    /// Consumers that hold something and did not announce themselves.
    pub missing: HashSet<String>,
}

/// Takes over up to `count` entries of a stream whose consumers no longer announce themselves, and of any
/// consumer that has held them for very long. Those count as dead who were `missed` in the round before too, or have
/// signed off: a Redis that stood still, or was replaced, knows of no announcement at first, though all live. There
/// must be more time between two rounds than between two announcements.
///
/// # Errors
/// Redis is away.
pub async fn take_over(
    redis: &mut ConnectionManager,
    keys: &Keys,
    stream: &str,
    me: &str,
    missed: &HashSet<String>,
    idle: IdleFor,
    count: usize,
) -> RedisResult<TakenOver> {
    let mut taken = TakenOver { reads: Vec::new(), missing: HashSet::new() };
    for consumer in pending_consumers(redis, stream).await? {
        if consumer == me {
            continue;
        }
        let said: Option<String> = redis::cmd("GET").arg(keys.alive(&consumer)).query_async(redis).await?;
        let dead = match said.as_deref() {
            Some(GONE) => true,
            Some(_) => false,
            None => missed.contains(&consumer),
        };
        if said.is_none() {
            taken.missing.insert(consumer.clone());
        }
        let idle = if dead { idle.of_dead } else { idle.of_living };
        let ids = pending_ids(redis, stream, &consumer, idle, count).await?;
        if ids.is_empty() {
            continue;
        }
        let claimed: Value = redis::cmd("XCLAIM")
            .arg(stream)
            .arg(CONSUMER_GROUP)
            .arg(me)
            .arg(idle.as_millis() as u64)
            .arg(&ids)
            .query_async(redis)
            .await?;
        taken.reads.extend(items_of(&claimed));
    }
    Ok(taken)
}

/// Removes consumers that neither live nor hold anything.
///
/// # Errors
/// Redis is away.
pub async fn forget_dead_consumers(
    redis: &mut ConnectionManager,
    keys: &Keys,
    stream: &str,
) -> RedisResult<()> {
    let consumers: RedisResult<Vec<std::collections::HashMap<String, Value>>> =
        redis::cmd("XINFO").arg("CONSUMERS").arg(stream).arg(CONSUMER_GROUP).query_async(redis).await;
    let Ok(consumers) = consumers else { return Ok(()) };
    for consumer in consumers {
        let Some(Value::BulkString(name)) = consumer.get("name") else { continue };
        let name = String::from_utf8_lossy(name).into_owned();
        let alive: bool = redis::cmd("EXISTS").arg(keys.alive(&name)).query_async(redis).await?;
        if !alive {
            let _: i64 = FORGET.key(stream).arg(&name).invoke_async(redis).await?;
        }
    }
    Ok(())
}

async fn pending_consumers(redis: &mut ConnectionManager, stream: &str) -> RedisResult<Vec<String>> {
    type Summary = (i64, Option<String>, Option<String>, Option<Vec<(String, i64)>>);
    let summary: RedisResult<Summary> =
        redis::cmd("XPENDING").arg(stream).arg(CONSUMER_GROUP).query_async(redis).await;
    match summary {
        Ok((_, _, _, consumers)) => {
            Ok(consumers.unwrap_or_default().into_iter().map(|(name, _)| name).collect())
        }
        Err(error) if error.code() == Some("NOGROUP") => Ok(Vec::new()),
        Err(error) => Err(error),
    }
}

async fn pending_ids(
    redis: &mut ConnectionManager,
    stream: &str,
    consumer: &str,
    idle: Duration,
    count: usize,
) -> RedisResult<Vec<String>> {
    let rows: Vec<(String, String, i64, i64)> = redis::cmd("XPENDING")
        .arg(stream)
        .arg(CONSUMER_GROUP)
        .arg("IDLE")
        .arg(idle.as_millis() as u64)
        .arg("-")
        .arg("+")
        .arg(count)
        .arg(consumer)
        .query_async(redis)
        .await?;
    Ok(rows.into_iter().map(|(id, ..)| id).collect())
}
