//! The log: events in commit order, and the idempotency keys that make sending repeatable. Called by the
//! API's group commit and by whoever reads one event.

use bytes::Bytes;
use chrono::{DateTime, Utc};
use sqlx::{PgConnection, PgPool};

use crate::event::{EventType, IdempotencyKey, Source, fingerprint};
use crate::ids::EventId;

/// An event before it has a place in the log.
#[derive(Debug, Clone)]
pub struct NewEvent {
    pub event_type: EventType,
    pub source: Source,
    /// JSON, byte for byte as the producer sent it.
    pub payload: Bytes,
    pub key: Option<KeyedBy>,
}

/// An idempotency key with the fingerprint of the event that it stands for.
#[derive(Debug, Clone)]
pub struct KeyedBy {
    pub key: IdempotencyKey,
    pub fingerprint: [u8; 32],
}

impl NewEvent {
    pub fn new(event_type: EventType, source: Source, payload: Bytes, key: Option<IdempotencyKey>) -> Self {
        let key = key.map(|key| KeyedBy { key, fingerprint: fingerprint(&event_type, &payload) });
        Self { event_type, source, payload, key }
    }
}

/// What became of an event that was handed in. `Duplicate` and `Conflict` carry the id and time of the
/// first event under the key; nothing was stored for them.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Appended {
    Created(Stored),
    Duplicate(Stored),
    Conflict(Stored),
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Stored {
    pub id: EventId,
    pub created_at: DateTime<Utc>,
}

/// Appends a batch, all or nothing, and answers for each event in order. One round trip, one transaction:
/// when this returns, it is committed.
///
/// # Errors
/// A database error means that nothing was stored. Any other (the connection broke) leaves it unknown.
pub async fn append_events(
    connection: &mut PgConnection,
    events: &[&NewEvent],
) -> sqlx::Result<Vec<Appended>> {
    let mut columns = Columns::with_capacity(events.len());
    for event in events {
        columns.push(event);
    }
    // `fetch_all` reads to ReadyForQuery, which PostgreSQL sends after the commit; a fetch that stopped at
    // the last row would answer before it.
    let rows: Vec<(String, EventId, DateTime<Utc>)> = sqlx::query_as(APPEND)
        .bind(columns.event_types)
        .bind(columns.sources)
        .bind(columns.payloads)
        .bind(columns.keys)
        .bind(columns.fingerprints)
        .bind(columns.tails)
        .fetch_all(connection)
        .await?;
    if rows.len() != events.len() {
        return Err(sqlx::Error::Protocol(format!("{} answers for {} events", rows.len(), events.len())));
    }
    rows.into_iter().map(|(status, id, created_at)| appended(&status, Stored { id, created_at })).collect()
}

/// In `migrations/0012_new_first.sql`.
const APPEND: &str = "
select status, event_id, at from append_events($1, $2, $3, $4, $5, $6) order by ordinal";

fn appended(status: &str, stored: Stored) -> sqlx::Result<Appended> {
    match status {
        "created" => Ok(Appended::Created(stored)),
        "duplicate" => Ok(Appended::Duplicate(stored)),
        "conflict" => Ok(Appended::Conflict(stored)),
        other => Err(sqlx::Error::Protocol(format!("append_events answered {other:?}"))),
    }
}

#[derive(Default)]
struct Columns<'a> {
    event_types: Vec<&'a str>,
    sources: Vec<&'a str>,
    payloads: Vec<&'a [u8]>,
    keys: Vec<Option<&'a str>>,
    fingerprints: Vec<Option<&'a [u8]>>,
    tails: Vec<i64>,
}

impl<'a> Columns<'a> {
    fn with_capacity(events: usize) -> Self {
        Self {
            event_types: Vec::with_capacity(events),
            sources: Vec::with_capacity(events),
            payloads: Vec::with_capacity(events),
            keys: Vec::with_capacity(events),
            fingerprints: Vec::with_capacity(events),
            tails: Vec::with_capacity(events),
        }
    }

    fn push(&mut self, event: &'a NewEvent) {
        self.event_types.push(event.event_type.as_ref());
        self.sources.push(event.source.as_ref());
        self.payloads.push(&event.payload);
        self.keys.push(event.key.as_ref().map(|keyed| keyed.key.as_ref()));
        self.fingerprints.push(event.key.as_ref().map(|keyed| keyed.fingerprint.as_slice()));
        self.tails.push(random_tail());
    }
}

/// The last 64 bits of an id: the variant (10), then random ones (RFC 9562, section 5.7). In PostgreSQL they would
/// cost as much as an index.
fn random_tail() -> i64 {
    i64::MIN + rand::random_range(0..1_i64 << 62)
}

/// An event of the log.
#[derive(Debug, Clone, sqlx::FromRow)]
pub struct Event {
    pub id: EventId,
    pub position: i64,
    pub event_type: String,
    pub source: String,
    pub payload: Vec<u8>,
    pub created_at: DateTime<Utc>,
}

/// One event; its id alone names the day's partition.
///
/// # Errors
/// PostgreSQL is away.
pub async fn get_event(pool: &PgPool, id: EventId) -> sqlx::Result<Option<Event>> {
    sqlx::query_as("select id, position, event_type, source, payload, created_at from event where id = $1")
        .bind(id)
        .fetch_optional(pool)
        .await
}
