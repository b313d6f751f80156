//! The relay's side of a feed's stream: compare-and-append, and where it stands.

use std::sync::LazyLock;

use redis::aio::ConnectionManager;
use redis::{RedisResult, Script};

use super::entry::Entry;
use super::keys::Keys;
use crate::ids::EventId;

static APPEND: LazyLock<Script> = LazyLock::new(|| Script::new(include_str!("scripts/append.lua")));
static INSPECT: LazyLock<Script> = LazyLock::new(|| Script::new(include_str!("scripts/inspect.lua")));

/// How an append ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Appended {
    /// All entries are in; the stream holds `length`.
    Done { length: u64 },
    /// Nothing was added: the stream holds its window.
    Full { length: u64 },
    /// Nothing was added: the tail is another than expected (another relay, a rollback of Redis).
    Refused { tail: i64 },
    /// Nothing was added: the stream is gone (a flush).
    Missing,
}

/// Appends `entries` (at least one) if the stream's tail is `expected`; `None` expects no stream.
///
/// # Errors
/// Redis is away or refuses writes. Whether the entries were added is then unknown; asking again tells.
pub async fn append(
    redis: &mut ConnectionManager,
    stream: &str,
    expected: Option<i64>,
    window: u64,
    entries: &[Entry],
) -> RedisResult<Appended> {
    debug_assert!(!entries.is_empty());
    let mut call = APPEND.prepare_invoke();
    call.key(stream).key(Keys::tail(stream));
    match expected {
        Some(position) => call.arg(position),
        None => call.arg("new"),
    };
    call.arg(window);
    for entry in entries {
        call.arg(entry.position).arg(entry.event_id.to_string()).arg(entry.targets_text());
    }
    let (outcome, tail, length): (String, i64, u64) = call.invoke_async(redis).await?;
    Ok(match outcome.as_str() {
        "appended" => Appended::Done { length },
        "full" => Appended::Full { length },
        "missing" => Appended::Missing,
        _ => Appended::Refused { tail },
    })
}

/// Where a stream stands, read in one step.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Standing {
    /// Position of the last entry ever appended.
    pub tail: i64,
    /// The event that entry was for; `None` if the record does not fit the tail.
    pub tail_event: Option<EventId>,
    /// Entries not yet settled.
    pub length: u64,
    /// Position of the first of them.
    pub first: Option<i64>,
}

/// Looks at a stream; `None` if there is none.
///
/// # Errors
/// Redis is away.
pub async fn inspect(redis: &mut ConnectionManager, stream: &str) -> RedisResult<Option<Standing>> {
    let answer: Option<(i64, u64, String, String)> =
        INSPECT.key(stream).key(Keys::tail(stream)).invoke_async(redis).await?;
    Ok(answer.map(|(tail, length, first, record)| Standing {
        tail,
        tail_event: record.split_once(' ').and_then(|(position, event)| {
            (position.parse() == Ok(tail)).then(|| event.parse().ok()).flatten()
        }),
        length,
        first: first.parse().ok(),
    }))
}

/// Deletes streams with their tails.
///
/// # Errors
/// Redis is away.
pub async fn delete(redis: &mut ConnectionManager, streams: &[String]) -> RedisResult<()> {
    for some in streams.chunks(500) {
        let mut pipeline = redis::pipe();
        for stream in some {
            pipeline.cmd("UNLINK").arg(stream).arg(Keys::tail(stream)).ignore();
        }
        pipeline.exec_async(redis).await?;
    }
    Ok(())
}
