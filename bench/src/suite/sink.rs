//! Where everything is delivered to: any number of endpoints (`/e/0`, `/e/1`, …), each with a manner of its own, on
//! one thread of its own so that its work can be told apart. What was answered with 2xx is in the [`Ledger`].

use std::collections::HashMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use anyhow::Context as _;
use eventrail_core::ids::EventId;
use eventrail_core::signature::WEBHOOK_ID;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};

use super::wire::Message;
use crate::receiver::THREAD;

const ROOM: usize = 16 << 10;

/// How an endpoint answers.
#[derive(Debug, Clone, Copy, Default)]
pub(super) enum Manner {
    #[default]
    Prompt,
    /// Every so many requests one is answered with 503.
    FailsOneIn(u64),
    Slow(Duration),
    /// Ends the connection instead of answering.
    Dead,
}

pub(super) struct Sink {
    address: std::net::SocketAddr,
    pub(super) ledger: Arc<Ledger>,
}

impl Sink {
    /// Serves on a free port until the process ends.
    pub(super) fn start() -> anyhow::Result<Self> {
        let listener = std::net::TcpListener::bind("127.0.0.1:0").context("no free port")?;
        listener.set_nonblocking(true)?;
        let address = listener.local_addr()?;
        let ledger = Arc::new(Ledger::default());
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
        let of_thread = Arc::clone(&ledger);
        std::thread::Builder::new().name(THREAD.into()).spawn(move || {
            runtime.block_on(async {
                let listener = TcpListener::from_std(listener)?;
                loop {
                    let (stream, _) = listener.accept().await?;
                    let ledger = Arc::clone(&of_thread);
                    tokio::spawn(async move { serve(stream, &ledger).await });
                }
                #[expect(unreachable_code, reason = "says of what type the block is")]
                anyhow::Ok(())
            })
        })?;
        Ok(Self { address, ledger })
    }

    pub(super) fn url(&self, endpoint: u32) -> String {
        format!("http://{}/e/{endpoint}", self.address)
    }
}

async fn serve(mut stream: TcpStream, ledger: &Ledger) -> anyhow::Result<()> {
    stream.set_nodelay(true)?;
    let mut buffer = Vec::with_capacity(ROOM);
    loop {
        let Some(request) = Message::parse(&buffer)? else {
            if stream.read_buf(&mut buffer).await? == 0 {
                return Ok(());
            }
            continue;
        };
        let asked = Asked::read(&request);
        let length = request.length();
        buffer.drain(..length);
        let answer: &[u8] = match asked.map(|asked| (asked, ledger.meet(asked))) {
            None => b"HTTP/1.1 400 Bad Request\r\ncontent-length: 0\r\n\r\n",
            Some((_, Manner::Dead)) => return Ok(()),
            Some((_, Manner::FailsOneIn(_))) => {
                b"HTTP/1.1 503 Service Unavailable\r\ncontent-length: 0\r\n\r\n"
            }
            Some((asked, Manner::Slow(time))) => {
                tokio::time::sleep(time).await;
                ledger.enter(asked);
                b"HTTP/1.1 204 No Content\r\n\r\n"
            }
            Some((_, Manner::Prompt)) => b"HTTP/1.1 204 No Content\r\n\r\n",
        };
        stream.write_all(answer).await?;
    }
}

/// A request: for which endpoint, with which event.
#[derive(Clone, Copy)]
struct Asked {
    endpoint: usize,
    id: EventId,
}

impl Asked {
    fn read(request: &Message<'_>) -> Option<Self> {
        let path = request.first_line().split(' ').nth(1)?;
        let endpoint = path.strip_prefix("/e/")?.parse().ok()?;
        Some(Self { endpoint, id: request.header(WEBHOOK_ID)?.parse().ok()? })
    }
}

/// What was received, by endpoint and event.
#[derive(Default)]
pub(super) struct Ledger {
    books: Mutex<Vec<Book>>,
    /// Deliveries received at least once since the last [`Self::forget`].
    received: AtomicU64,
}

#[derive(Default)]
struct Book {
    manner: Manner,
    requests: u64,
    receipts: HashMap<EventId, Receipt>,
}

struct Receipt {
    first_at: Instant,
    times: u32,
}

/// What has become of some events at some endpoints.
pub(super) struct Arrivals {
    /// When each delivery was received first, sorted.
    pub(super) times: Vec<Instant>,
    pub(super) missing: u64,
    /// Receipts beyond the first of a delivery.
    pub(super) duplicates: u64,
}

impl Ledger {
    fn books(&self) -> MutexGuard<'_, Vec<Book>> {
        self.books.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn with_book<T>(&self, endpoint: usize, f: impl FnOnce(&mut Book) -> T) -> T {
        let mut books = self.books();
        if books.len() <= endpoint {
            books.resize_with(endpoint + 1, Book::default);
        }
        f(&mut books[endpoint])
    }

    pub(super) fn set_manner(&self, endpoint: u32, manner: Manner) {
        self.with_book(endpoint as usize, |book| book.manner = manner);
    }

    /// How this request is answered; one that is answered at once with 2xx is entered.
    fn meet(&self, asked: Asked) -> Manner {
        let (answer, is_new) = self.with_book(asked.endpoint, |book| {
            book.requests += 1;
            let answer = match book.manner {
                Manner::FailsOneIn(share) if !book.requests.is_multiple_of(share) => Manner::Prompt,
                other => other,
            };
            (answer, matches!(answer, Manner::Prompt) && book.enter(asked.id))
        });
        self.received.fetch_add(u64::from(is_new), Ordering::Relaxed);
        answer
    }

    fn enter(&self, asked: Asked) {
        let is_new = self.with_book(asked.endpoint, |book| book.enter(asked.id));
        self.received.fetch_add(u64::from(is_new), Ordering::Relaxed);
    }

    /// How many deliveries were received at least once.
    pub(super) fn received(&self) -> u64 {
        self.received.load(Ordering::Relaxed)
    }

    /// Begins anew, with the same manners.
    pub(super) fn forget(&self) {
        let mut books = self.books();
        books.iter_mut().for_each(|book| book.receipts.clear());
        self.received.store(0, Ordering::Relaxed);
    }

    pub(super) fn arrivals(&self, endpoints: &[u32], ids: &[EventId]) -> Arrivals {
        let books = self.books();
        let mut arrivals =
            Arrivals { times: Vec::with_capacity(endpoints.len() * ids.len()), missing: 0, duplicates: 0 };
        for endpoint in endpoints {
            let book = books.get(*endpoint as usize);
            for id in ids {
                match book.and_then(|book| book.receipts.get(id)) {
                    None => arrivals.missing += 1,
                    Some(receipt) => {
                        arrivals.times.push(receipt.first_at);
                        arrivals.duplicates += u64::from(receipt.times - 1);
                    }
                }
            }
        }
        arrivals.times.sort_unstable();
        arrivals
    }

    /// When this delivery was received first.
    pub(super) fn first_at(&self, endpoint: u32, id: EventId) -> Option<Instant> {
        Some(self.books().get(endpoint as usize)?.receipts.get(&id)?.first_at)
    }
}

impl Book {
    fn enter(&mut self, id: EventId) -> bool {
        let receipt = self.receipts.entry(id).or_insert(Receipt { first_at: Instant::now(), times: 0 });
        receipt.times += 1;
        receipt.times == 1
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn missing_and_duplicate_deliveries_are_counted_for_each_endpoint() {
        let ledger = Ledger::default();
        let ids: Vec<EventId> = (0..3).map(|_| EventId::generate()).collect();
        for (endpoint, id) in [(0, ids[0]), (0, ids[1]), (1, ids[0]), (0, ids[1]), (1, ids[0])] {
            assert!(matches!(ledger.meet(Asked { endpoint, id }), Manner::Prompt));
        }
        let arrivals = ledger.arrivals(&[0, 1], &ids);
        assert_eq!((arrivals.times.len(), arrivals.missing, arrivals.duplicates), (3, 3, 2));
        assert_eq!(ledger.received(), 3);
        assert!(ledger.first_at(1, ids[0]).is_some() && ledger.first_at(1, ids[1]).is_none());
        ledger.forget();
        assert_eq!((ledger.received(), ledger.arrivals(&[0], &ids).missing), (0, 3));
    }

    #[test]
    fn one_in_ten_fails_and_is_not_entered() {
        let ledger = Ledger::default();
        ledger.set_manner(0, Manner::FailsOneIn(10));
        let failed = (0..100)
            .map(|_| ledger.meet(Asked { endpoint: 0, id: EventId::generate() }))
            .filter(|answer| matches!(answer, Manner::FailsOneIn(_)))
            .count();
        assert_eq!((failed, ledger.received()), (10, 90));
    }
}
