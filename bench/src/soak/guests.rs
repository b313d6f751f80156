//! Who receives: endpoints of several groups, each with a manner of its own, and a book of what each is owed and
//! has got. What is settled is forgotten, so that the book stays small however long it is kept.

use std::collections::HashSet;
use std::fmt::Write as _;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use anyhow::Context as _;
use axum::Router;
use axum::extract::{Path, State};
use axum::http::{HeaderMap, StatusCode};
use axum::routing::post;
use axum::serve::ListenerExt as _;
use eventrail_core::ids::EventId;
use eventrail_core::signature::WEBHOOK_ID;
use tokio::sync::Notify;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Manner {
    Steady,
    /// Fails one request in five.
    Flaky,
    Slow,
    /// Away for one minute in four.
    Away,
    /// Nobody listens.
    Dead,
}

pub(crate) struct Guest {
    pub(crate) name: &'static str,
    pub(crate) group: &'static str,
    /// Types of events that it is subscribed to; none for all.
    pub(crate) event_types: &'static [&'static str],
    pub(crate) manner: Manner,
}

pub(crate) const EVENT_TYPES: [&str; 4] = ["soak.order", "soak.user", "soak.invoice", "soak.login"];

pub(crate) const GUESTS: [Guest; 6] = [
    Guest { name: "steady", group: "default", event_types: &[], manner: Manner::Steady },
    Guest { name: "flaky", group: "default", event_types: &["soak.order"], manner: Manner::Flaky },
    Guest { name: "slow", group: "orders", event_types: &["soak.order"], manner: Manner::Slow },
    Guest {
        name: "away",
        group: "orders",
        event_types: &["soak.user", "soak.invoice"],
        manner: Manner::Away,
    },
    Guest { name: "twin", group: "audit", event_types: &[], manner: Manner::Steady },
    Guest { name: "dead", group: "audit", event_types: &[], manner: Manner::Dead },
];

/// Somebody who comes and goes; nobody counts what they get.
pub(crate) const VISITOR: &str = "visitor";

const SLOW: Duration = Duration::from_millis(100);

pub(crate) struct Guests {
    address: SocketAddr,
    books: [Book; GUESTS.len()],
    since: Instant,
    changed: Notify,
}

#[derive(Default)]
struct Book {
    requests: AtomicU64,
    /// Deliveries made again on purpose.
    resent: AtomicU64,
    balance: Mutex<Balance>,
}

#[derive(Default)]
struct Balance {
    received: u64,
    /// Accepted by the API, and not received yet.
    owed: HashSet<EventId>,
    /// Received, and not known as accepted: the API's answer is still on its way, or it came twice.
    early: HashSet<EventId>,
}

impl Guests {
    /// Serves on a free port and a thread of its own until the process ends.
    pub(crate) fn welcome() -> anyhow::Result<Arc<Self>> {
        let listener =
            std::net::TcpListener::bind("127.0.0.1:0").context("the receivers found no free port")?;
        listener.set_nonblocking(true)?;
        let guests = Arc::new(Self {
            address: listener.local_addr()?,
            books: Default::default(),
            since: Instant::now(),
            changed: Notify::new(),
        });
        let router = Router::new().route("/{name}", post(receive)).with_state(Arc::clone(&guests));
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
        std::thread::Builder::new().name("guests".into()).spawn(move || {
            runtime.block_on(async {
                let listener = tokio::net::TcpListener::from_std(listener)?;
                let listener = listener.tap_io(|stream| drop(stream.set_nodelay(true)));
                axum::serve(listener, router).await
            })
        })?;
        Ok(guests)
    }

    pub(crate) fn url(&self, name: &str) -> String {
        match GUESTS.iter().find(|guest| guest.name == name) {
            Some(Guest { manner: Manner::Dead, .. }) => "http://127.0.0.1:1/".to_owned(),
            _ => format!("http://{}/{name}", self.address),
        }
    }

    /// Notes who is owed an event that the API has accepted.
    pub(crate) fn accepted(&self, id: EventId, event_type: &str) {
        for (guest, book) in GUESTS.iter().zip(&self.books) {
            let wants = guest.event_types.is_empty() || guest.event_types.contains(&event_type);
            if wants && guest.manner != Manner::Dead {
                book.balance().accepted(id);
            }
        }
    }

    /// Waits until nobody is owed anything.
    pub(crate) async fn settled(&self) {
        while self.books.iter().any(|book| !book.balance().owed.is_empty()) {
            self.changed.notified().await;
        }
    }

    pub(crate) fn report(&self) -> String {
        let mut text = format!(
            "{:<10}{:<10}{:>12}{:>12}{:>12}{:>12}{:>12}\n",
            "endpoint", "group", "requests", "received", "missing", "duplicates", "replayed"
        );
        for (guest, book) in GUESTS.iter().zip(&self.books) {
            let balance = book.balance();
            let missing = match guest.manner {
                // It is owed what nobody can bring: its backlog is kept for it.
                Manner::Dead => "kept".to_owned(),
                _ => balance.owed.len().to_string(),
            };
            let _ = writeln!(
                text,
                "{:<10}{:<10}{:>12}{:>12}{:>12}{:>12}{:>12}",
                guest.name,
                guest.group,
                book.requests.load(Ordering::Relaxed),
                balance.received,
                missing,
                balance.early.len(),
                book.resent.load(Ordering::Relaxed),
            );
        }
        text
    }
}

impl Book {
    fn balance(&self) -> MutexGuard<'_, Balance> {
        self.balance.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Balance {
    fn accepted(&mut self, id: EventId) {
        if !self.early.remove(&id) {
            self.owed.insert(id);
        }
    }

    /// What is sent again on purpose may come before the live delivery, which is not made any more then.
    fn received(&mut self, id: EventId, is_resent: bool) {
        if self.owed.remove(&id) {
            self.received += 1;
        } else if !is_resent {
            self.received += 1;
            self.early.insert(id);
        }
    }
}

async fn receive(
    State(guests): State<Arc<Guests>>,
    Path(name): Path<String>,
    headers: HeaderMap,
) -> StatusCode {
    let Some(index) = GUESTS.iter().position(|guest| guest.name == name) else {
        return if name == VISITOR { StatusCode::NO_CONTENT } else { StatusCode::NOT_FOUND };
    };
    let book = &guests.books[index];
    let request = book.requests.fetch_add(1, Ordering::Relaxed);
    let is_served = match GUESTS[index].manner {
        Manner::Steady => true,
        Manner::Flaky => request % 5 != 0,
        Manner::Slow => {
            tokio::time::sleep(SLOW).await;
            true
        }
        Manner::Away => guests.since.elapsed().as_secs() % 240 < 180,
        Manner::Dead => false,
    };
    if !is_served {
        return StatusCode::SERVICE_UNAVAILABLE;
    }
    let Some(id) = headers.get(WEBHOOK_ID).and_then(|id| id.to_str().ok()?.parse().ok()) else {
        return StatusCode::BAD_REQUEST;
    };
    let is_resent = headers.contains_key("eventrail-replay");
    book.resent.fetch_add(u64::from(is_resent), Ordering::Relaxed);
    book.balance().received(id, is_resent);
    guests.changed.notify_one();
    StatusCode::NO_CONTENT
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_balance_is_even_in_either_order_and_shows_what_came_twice() {
        let mut balance = Balance::default();
        let [one, other, third] = [EventId::generate(), EventId::generate(), EventId::generate()];
        balance.accepted(one);
        balance.received(other, false);
        balance.received(one, false);
        balance.accepted(other);
        assert!(balance.owed.is_empty() && balance.early.is_empty());
        balance.received(one, true);
        assert!(balance.early.is_empty());
        balance.received(one, false);
        balance.accepted(third);
        balance.accepted(EventId::generate());
        balance.received(third, true);
        assert_eq!((balance.received, balance.owed.len(), balance.early.len()), (4, 1, 1));
    }
}
