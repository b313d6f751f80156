//! Posts as fast as the API answers: each connection sends its next request when the last is answered.

use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, Instant};

use anyhow::Context as _;
use eventrail_core::ids::EventId;
use hdrhistogram::Histogram;
use tokio::task::JoinSet;

use super::wire::Connection;
use crate::generator;

pub(super) const PAYLOAD_BYTES: usize = 1024;
/// A full channel of the API: the next commit makes room.
const AGAIN_AFTER: Duration = Duration::from_millis(5);

#[derive(Debug, Clone, Copy)]
pub(super) struct Load {
    pub(super) events: u32,
    pub(super) connections: u32,
    /// Events in one request; one goes to `POST /events`.
    pub(super) batch: u32,
    /// Each event has an idempotency key of its own.
    pub(super) keys: bool,
}

impl Load {
    pub(super) fn one_by_one(events: u32) -> Self {
        Self { events, connections: 64, batch: 1, keys: false }
    }

    pub(super) fn in_batches(events: u32) -> Self {
        Self { events, connections: 4, batch: 100, keys: false }
    }
}

/// What was accepted.
pub(super) struct Posted {
    pub(super) ids: Vec<EventId>,
    pub(super) started: Instant,
    pub(super) finished: Instant,
    /// Microseconds for each request.
    pub(super) answers: Histogram<u64>,
}

impl Posted {
    pub(super) fn per_second(&self) -> f64 {
        self.ids.len() as f64 / (self.finished - self.started).as_secs_f64().max(1e-6)
    }
}

/// Microseconds, to three digits.
pub(super) fn histogram() -> anyhow::Result<Histogram<u64>> {
    Histogram::new_with_bounds(1, 600_000_000, 3).context("a histogram")
}

pub(super) fn micros(time: Duration) -> u64 {
    u64::try_from(time.as_micros()).unwrap_or(u64::MAX)
}

/// Posts to these APIs in turn.
///
/// # Errors
/// One refuses an event.
pub(super) async fn post(apis: &[String], load: Load) -> anyhow::Result<Posted> {
    let next = Arc::new(AtomicU32::new(0));
    let run = EventId::generate().to_string();
    let mut opened = Vec::new();
    for index in 0..load.connections as usize {
        let api = apis.get(index % apis.len().max(1)).context("no API runs")?;
        opened.push(Connection::open(api).await?);
    }
    let started = Instant::now();
    let mut posting = JoinSet::new();
    for connection in opened {
        posting.spawn(post_on(connection, load, Arc::clone(&next), run.clone()));
    }
    let mut ids = Vec::with_capacity(load.events as usize);
    let mut answers = histogram()?;
    while let Some(posted) = posting.join_next().await {
        let (some, times) = posted.context("a connection panicked")??;
        ids.extend(some);
        answers.add(times).context("a histogram")?;
    }
    Ok(Posted { ids, started, finished: Instant::now(), answers })
}

async fn post_on(
    mut connection: Connection,
    load: Load,
    next: Arc<AtomicU32>,
    run: String,
) -> anyhow::Result<(Vec<EventId>, Histogram<u64>)> {
    let (mut ids, mut answers) = (Vec::new(), histogram()?);
    loop {
        let first = next.fetch_add(load.batch, Ordering::Relaxed);
        if first >= load.events {
            return Ok((ids, answers));
        }
        let sent = Instant::now();
        let key = |number: u32| load.keys.then(|| format!("{run}-{number}"));
        if load.batch == 1 {
            post_one(&mut connection, first, key(first).as_deref(), &mut ids).await?;
        } else {
            let last = first.saturating_add(load.batch).min(load.events);
            let events: Vec<String> = (first..last).map(|number| event(number, key(number))).collect();
            let body = format!(r#"{{"events":[{}]}}"#, events.join(","));
            accepted(&mut connection, "/events/batch", None, &body, &mut ids).await?;
        }
        answers.saturating_record(micros(sent.elapsed()));
    }
}

/// Posts one event until it is accepted.
pub(super) async fn post_one(
    connection: &mut Connection,
    number: u32,
    key: Option<&str>,
    ids: &mut Vec<EventId>,
) -> anyhow::Result<()> {
    accepted(connection, "/events", key, &event(number, None), ids).await
}

async fn accepted(
    connection: &mut Connection,
    path: &str,
    key: Option<&str>,
    body: &str,
    ids: &mut Vec<EventId>,
) -> anyhow::Result<()> {
    loop {
        let (status, answer) = connection.post(path, key, body).await?;
        match status {
            503 => tokio::time::sleep(AGAIN_AFTER).await,
            200 | 201 => {
                // The ids of an answer, in order; nothing else in it bears that name.
                for part in answer.split(r#""id":""#).skip(1) {
                    let text = part.split('"').next().unwrap_or_default();
                    ids.push(text.parse().with_context(|| format!("an id in {answer}"))?);
                }
                return Ok(());
            }
            _ => anyhow::bail!("POST {path} was answered with {status}: {answer}"),
        }
    }
}

fn event(number: u32, key: Option<String>) -> String {
    let key = key.map(|key| format!(r#""idempotency_key":"{key}","#)).unwrap_or_default();
    let payload = generator::payload(number, PAYLOAD_BYTES);
    format!(r#"{{"event_type":"bench.event","source":"bench",{key}"payload":{payload}}}"#)
}
