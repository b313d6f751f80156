//! Posts events over several connections, each of which sends its next request when the last is answered.

use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, Instant};

use anyhow::Context as _;
use eventrail_core::ids::EventId;
use hdrhistogram::Histogram;
use serde::Deserialize;
use tokio::task::JoinSet;

/// What takes longer counts as this.
const LONGEST_MICROS: u64 = 60_000_000;

pub(crate) struct Load {
    /// Base URL of the API.
    pub(crate) api: String,
    pub(crate) events: u32,
    pub(crate) payload_bytes: usize,
    pub(crate) connections: u32,
    pub(crate) batch: Option<u32>,
}

/// What was posted, and answered with 2xx.
pub(crate) struct Posted {
    pub(crate) ids: Vec<EventId>,
    pub(crate) started: Instant,
    pub(crate) finished: Instant,
    /// Microseconds per request.
    pub(crate) latency: Histogram<u64>,
    /// Requests that were answered with 503 and sent again.
    pub(crate) refused: u64,
}

#[derive(Deserialize)]
struct One {
    id: EventId,
}

#[derive(Deserialize)]
struct Batch {
    data: Vec<One>,
}

/// # Errors
/// The API refuses an event, or the deadline has passed.
pub(crate) async fn post(load: &Load, deadline: tokio::time::Instant) -> anyhow::Result<Posted> {
    let next = Arc::new(AtomicU32::new(0));
    let client = reqwest::Client::builder().no_proxy().build()?;
    let started = Instant::now();
    let mut connections = JoinSet::new();
    for _ in 0..load.connections {
        let connection = Connection {
            client: client.clone(),
            api: load.api.clone(),
            next: Arc::clone(&next),
            events: load.events,
            payload_bytes: load.payload_bytes,
            batch: load.batch,
            posted: Posted {
                ids: Vec::new(),
                started,
                finished: started,
                latency: Histogram::new_with_bounds(1, LONGEST_MICROS, 3).context("a histogram")?,
                refused: 0,
            },
        };
        connections.spawn(connection.run());
    }
    let mut all: Option<Posted> = None;
    let collected = tokio::time::timeout_at(deadline, async {
        while let Some(connection) = connections.join_next().await {
            let posted = connection.context("a connection panicked")??;
            match &mut all {
                None => all = Some(posted),
                Some(all) => {
                    all.ids.extend(posted.ids);
                    all.latency.add(posted.latency).context("a histogram")?;
                    all.refused += posted.refused;
                }
            }
        }
        anyhow::Ok(())
    });
    collected.await.with_context(|| {
        format!(
            "{} of {} events are not posted when the time is up",
            load.events - next.load(Ordering::Relaxed).min(load.events),
            load.events
        )
    })??;
    let mut posted = all.context("no connection")?;
    posted.finished = Instant::now();
    Ok(posted)
}

struct Connection {
    client: reqwest::Client,
    api: String,
    next: Arc<AtomicU32>,
    events: u32,
    payload_bytes: usize,
    batch: Option<u32>,
    posted: Posted,
}

impl Connection {
    async fn run(mut self) -> anyhow::Result<Posted> {
        let step = self.batch.unwrap_or(1);
        loop {
            let first = self.next.fetch_add(step, Ordering::Relaxed);
            if first >= self.events {
                return Ok(self.posted);
            }
            match self.batch {
                None => {
                    let answer: One = self.send("/events", event(first, self.payload_bytes)).await?;
                    self.posted.ids.push(answer.id);
                }
                Some(size) => {
                    let last = first.saturating_add(size).min(self.events);
                    let events: Vec<String> =
                        (first..last).map(|number| event(number, self.payload_bytes)).collect();
                    let body = format!(r#"{{"events":[{}]}}"#, events.join(","));
                    let answer: Batch = self.send("/events/batch", body).await?;
                    self.posted.ids.extend(answer.data.into_iter().map(|one| one.id));
                }
            }
        }
    }

    async fn send<T: serde::de::DeserializeOwned>(&mut self, path: &str, body: String) -> anyhow::Result<T> {
        loop {
            let sent = Instant::now();
            let request = self.client.post(format!("{}{path}", self.api));
            let answer = request.header("content-type", "application/json").body(body.clone()).send().await?;
            let status = answer.status();
            if status == reqwest::StatusCode::SERVICE_UNAVAILABLE {
                self.posted.refused += 1;
                // A full channel: the next commit makes room.
                tokio::time::sleep(Duration::from_millis(20)).await;
                continue;
            }
            let text = answer.text().await?;
            anyhow::ensure!(status.is_success(), "POST {path} was answered with {status}: {text}");
            let micros = u64::try_from(sent.elapsed().as_micros()).unwrap_or(u64::MAX);
            self.posted.latency.saturating_record(micros);
            return serde_json::from_str(&text).with_context(|| format!("the answer to POST {path}: {text}"));
        }
    }
}

fn event(number: u32, payload_bytes: usize) -> String {
    format!(r#"{{"event_type":"bench.event","source":"bench","payload":{}}}"#, payload(number, payload_bytes))
}

/// A JSON object of exactly so many bytes, where they suffice.
pub(crate) fn payload(number: u32, bytes: usize) -> String {
    let head = format!(r#"{{"n":{number},"pad":""#);
    let pad = bytes.saturating_sub(head.len() + 2);
    format!(r#"{head}{}"}}"#, "x".repeat(pad))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn payloads_have_the_size_that_was_asked_for() {
        for bytes in [32, 1024, 100_000] {
            let text = payload(4_000_000_000, bytes);
            assert_eq!(text.len(), bytes);
            assert!(serde_json::from_str::<serde_json::Value>(&text).unwrap().is_object());
        }
    }
}
