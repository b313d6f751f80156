//! The receiver that everything is delivered to: counts by `webhook-id`, and does nothing else, on a thread
//! of its own, so that its work can be told apart.

use std::collections::HashMap;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant, SystemTime};

use anyhow::Context as _;
use axum::Router;
use axum::body::Bytes;
use axum::extract::State;
use axum::http::{HeaderMap, StatusCode};
use axum::routing::post;
use axum::serve::ListenerExt as _;
use eventrail_core::ids::EventId;
use eventrail_core::signature::WEBHOOK_ID;
use tokio::sync::Notify;

/// Name of its thread, by which [`crate::cpu`] finds it.
pub(crate) const THREAD: &str = "receiver";

pub(crate) struct Receiver {
    address: SocketAddr,
    /// What the rail has delivered.
    pub(crate) rail: Arc<Ledger>,
    /// What the bare loop has posted.
    pub(crate) bare: Arc<Ledger>,
}

impl Receiver {
    /// Serves on a free port until the process ends.
    pub(crate) fn start() -> anyhow::Result<Self> {
        let listener =
            std::net::TcpListener::bind("127.0.0.1:0").context("the receiver found no free port")?;
        listener.set_nonblocking(true)?;
        let address = listener.local_addr()?;
        let (rail, bare) = (Arc::new(Ledger::default()), Arc::new(Ledger::default()));
        let router = Router::new()
            .route("/rail", post(receive).with_state(Arc::clone(&rail)))
            .route("/bare", post(receive).with_state(Arc::clone(&bare)));
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
        std::thread::Builder::new().name(THREAD.into()).spawn(move || {
            runtime.block_on(async {
                let listener = tokio::net::TcpListener::from_std(listener)?;
                let listener = listener.tap_io(|stream| drop(stream.set_nodelay(true)));
                axum::serve(listener, router).await
            })
        })?;
        Ok(Self { address, rail, bare })
    }

    pub(crate) fn rail_url(&self) -> String {
        format!("http://{}/rail", self.address)
    }

    pub(crate) fn bare_url(&self) -> String {
        format!("http://{}/bare", self.address)
    }
}

async fn receive(State(ledger): State<Arc<Ledger>>, headers: HeaderMap, body: Bytes) -> StatusCode {
    let id = headers.get(WEBHOOK_ID).and_then(|id| id.to_str().ok()?.parse().ok());
    match id {
        Some(id) => {
            ledger.enter(id, body.len());
            StatusCode::NO_CONTENT
        }
        None => StatusCode::BAD_REQUEST,
    }
}

/// All that was received, by id.
pub(crate) struct Ledger {
    entries: Mutex<HashMap<EventId, Entry>>,
    changed: Notify,
    /// Both clocks at one moment, to compare receipts with the times in ids.
    start: (Instant, SystemTime),
}

#[derive(Clone, Copy)]
struct Entry {
    first_at: Instant,
    last_at: Instant,
    times: u32,
    bytes: usize,
}

/// What has become of some ids.
pub(crate) struct Receipts {
    pub(crate) count: usize,
    /// Requests beyond the first for an id.
    pub(crate) duplicates: u64,
    pub(crate) first_at: Instant,
    pub(crate) last_at: Instant,
    /// When one of them was received for the last time.
    pub(crate) repeated_at: Instant,
    /// From the event's commit (the time in its id) to its receipt, in the order received.
    pub(crate) latencies: Vec<Duration>,
    pub(crate) mean_bytes: usize,
}

impl Default for Ledger {
    fn default() -> Self {
        let start = (Instant::now(), SystemTime::now());
        Self { entries: Mutex::default(), changed: Notify::new(), start }
    }
}

impl Ledger {
    fn entries(&self) -> MutexGuard<'_, HashMap<EventId, Entry>> {
        self.entries.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn enter(&self, id: EventId, bytes: usize) {
        let now = Instant::now();
        let new = Entry { first_at: now, last_at: now, times: 0, bytes };
        let mut entries = self.entries();
        let entry = entries.entry(id).or_insert(new);
        entry.times += 1;
        entry.last_at = now;
        drop(entries);
        self.changed.notify_one();
    }

    /// Waits until each of these has been received.
    pub(crate) async fn received_all(&self, ids: &[EventId]) {
        let mut rest = ids;
        loop {
            let known = {
                let entries = self.entries();
                rest.iter().take_while(|id| entries.contains_key(id)).count()
            };
            rest = &rest[known..];
            if rest.is_empty() {
                return;
            }
            self.changed.notified().await;
        }
    }

    pub(crate) fn missing(&self, ids: &[EventId]) -> Vec<EventId> {
        let entries = self.entries();
        ids.iter().filter(|id| !entries.contains_key(id)).copied().collect()
    }

    pub(crate) fn receipts(&self, ids: &[EventId]) -> Receipts {
        let entries = self.entries();
        let mut received: Vec<(EventId, Entry)> =
            ids.iter().filter_map(|id| Some((*id, *entries.get(id)?))).collect();
        received.sort_by_key(|(_, entry)| entry.first_at);
        let at = |entry: Option<&(EventId, Entry)>| entry.map_or(self.start.0, |(_, entry)| entry.first_at);
        Receipts {
            count: received.len(),
            duplicates: received.iter().map(|(_, entry)| u64::from(entry.times - 1)).sum(),
            first_at: at(received.first()),
            last_at: at(received.last()),
            repeated_at: received.iter().map(|(_, entry)| entry.last_at).max().unwrap_or(self.start.0),
            latencies: received.iter().map(|(id, entry)| self.latency(*id, entry.first_at)).collect(),
            mean_bytes: received.iter().map(|(_, entry)| entry.bytes).sum::<usize>() / received.len().max(1),
        }
    }

    fn latency(&self, id: EventId, at: Instant) -> Duration {
        // RFC 9562, section 5.7: the first 48 bits are milliseconds since 1970; the log puts the microseconds
        // into the twelve that follow the version.
        let bits = id.0.as_u128();
        let millis = u64::try_from(bits >> 80).unwrap_or(u64::MAX);
        let micros = u64::try_from((bits >> 64) & 0xfff).unwrap_or_default();
        let received = self.start.1 + at.duration_since(self.start.0);
        let since_1970 = received.duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
        since_1970.saturating_sub(Duration::from_millis(millis) + Duration::from_micros(micros))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn missing_and_duplicate_deliveries_are_told_exactly() {
        let ledger = Ledger::default();
        let ids: Vec<EventId> = (0..3).map(|_| EventId::generate()).collect();
        for (id, bytes) in [(ids[1], 10), (ids[0], 20), (ids[1], 10)] {
            ledger.enter(id, bytes);
        }
        ledger.received_all(&ids[..2]).await;
        assert_eq!(ledger.missing(&ids), [ids[2]]);
        let receipts = ledger.receipts(&ids);
        assert_eq!((receipts.count, receipts.duplicates, receipts.mean_bytes), (2, 1, 15));
        assert!(receipts.latencies.iter().all(|latency| *latency < Duration::from_secs(10)));
    }
}
