//! Group commit: handlers hand their events to one writer, which commits all that has queued in one call;
//! while it commits, the next batch gathers. There is no timer: an idle system commits one event at once, a
//! busy one hundreds per flush of the disk.
//!
//! A 2xx relies on [`Ingest::append`] returning `Ok`, and that on PostgreSQL having said that it committed.
//! A unit (one request) is never split across commits.

use std::sync::Arc;
use std::time::Duration;

use eventrail_core::db::log::{self, Appended, NewEvent};
use eventrail_core::metrics::{
    EVENTS_ACCEPTED, EVENTS_DUPLICATE, INGEST_BATCH_EVENTS, INGEST_COMMIT_SECONDS,
};
use eventrail_core::rail::doorbell::Doorbell;
use sqlx::postgres::PgConnectOptions;
use tokio::sync::{OwnedSemaphorePermit, Semaphore, mpsc, oneshot};
use tokio::time::{Instant, timeout};

use self::link::Link;
use crate::kinds::Kinds;
use crate::problem::{Kind, Problem};

mod link;

/// Requests that may wait for the writer.
const QUEUED_UNITS: usize = 8192;
/// Bytes that may wait for the writer, in KiB.
const QUEUED_KIB: usize = 64 << 10;
/// One commit takes no more than this, unless a single request has more.
const COMMIT_EVENTS: usize = 500;
const COMMIT_BYTES: usize = 8 << 20;
/// A commit that takes longer is given up; its outcome is unknown.
const COMMIT_DEADLINE: Duration = Duration::from_secs(10);

/// Why events were not, or may not have been, stored.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum NotStored {
    /// Too much is waiting already.
    Full,
    /// Nothing was stored: PostgreSQL is away or refused.
    Unavailable,
    /// The commit was sent and no answer came.
    Unknown,
    /// Nothing was stored, and would not be the next time either.
    Broken,
}

impl From<NotStored> for Problem {
    fn from(reason: NotStored) -> Self {
        match reason {
            NotStored::Full => {
                Self::new(Kind::Overloaded, "Too many events are waiting to be stored; nothing was stored")
            }
            NotStored::Unavailable => {
                Self::new(Kind::Unavailable, "PostgreSQL can't be reached; nothing was stored")
            }
            NotStored::Unknown => Self::new(
                Kind::OutcomeUnknown,
                "PostgreSQL did not confirm the commit; repeat it with the same Idempotency-Key",
            ),
            NotStored::Broken => {
                Self::new(Kind::Internal, "PostgreSQL refused the events; nothing was stored")
            }
        }
    }
}

type Answer = Result<Vec<Appended>, NotStored>;

/// One request's events: committed together.
struct Unit {
    events: Vec<NewEvent>,
    bytes: usize,
    answer: oneshot::Sender<Answer>,
    _room: OwnedSemaphorePermit,
}

/// The handlers' end.
#[derive(Clone)]
pub(crate) struct Ingest {
    queue: mpsc::Sender<Unit>,
    room: Arc<Semaphore>,
}

impl Ingest {
    /// The handlers' end and the writer, which the caller runs; it ends when all handlers' ends are gone
    /// and the queue is empty.
    pub(crate) fn new(options: PgConnectOptions, doorbell: Doorbell) -> (Self, Writer) {
        let (queue, waiting) = mpsc::channel(QUEUED_UNITS);
        let room = Arc::new(Semaphore::new(QUEUED_KIB));
        let writer =
            Writer { waiting, carried: None, link: Link::new(options), doorbell, kinds: Kinds::default() };
        (Self { queue, room }, writer)
    }

    /// Commits these events together; `bytes` is the size of their request. One answer for each, in order.
    pub(crate) async fn append(&self, events: Vec<NewEvent>, bytes: usize) -> Answer {
        // A request over the whole room (a very large MAX_BATCH_BYTES) takes all of it.
        let kib = (bytes / 1024 + 1).min(QUEUED_KIB) as u32;
        let room = Arc::clone(&self.room).try_acquire_many_owned(kib).map_err(|_| NotStored::Full)?;
        let (answer, answered) = oneshot::channel();
        let unit = Unit { events, bytes, answer, _room: room };
        self.queue.try_send(unit).map_err(|error| match error {
            mpsc::error::TrySendError::Full(_) => NotStored::Full,
            mpsc::error::TrySendError::Closed(_) => NotStored::Unavailable,
        })?;
        answered.await.unwrap_or(Err(NotStored::Unknown))
    }
}

/// The one that commits.
pub(crate) struct Writer {
    waiting: mpsc::Receiver<Unit>,
    /// Taken from the queue, but too much for the batch at hand.
    carried: Option<Unit>,
    link: Link,
    doorbell: Doorbell,
    kinds: Kinds,
}

impl Writer {
    /// What it has seen.
    pub(crate) fn kinds(&self) -> Kinds {
        self.kinds.clone()
    }

    pub(crate) async fn run(mut self) {
        let mut units = Vec::new();
        while self.gather(&mut units).await {
            self.commit(&mut units).await;
        }
    }

    /// Waits for one unit, and takes what else is there; false when no more will come.
    async fn gather(&mut self, units: &mut Vec<Unit>) -> bool {
        let first = match self.carried.take() {
            Some(unit) => unit,
            None => match self.waiting.recv().await {
                Some(unit) => unit,
                None => return false,
            },
        };
        let (mut events, mut bytes) = (first.events.len(), first.bytes);
        units.push(first);
        while let Ok(unit) = self.waiting.try_recv() {
            events += unit.events.len();
            bytes += unit.bytes;
            if events > COMMIT_EVENTS || bytes > COMMIT_BYTES {
                self.carried = Some(unit);
                break;
            }
            units.push(unit);
        }
        true
    }

    async fn commit(&mut self, units: &mut Vec<Unit>) {
        match self.append(units).await {
            Err(NotStored::Broken) if units.len() > 1 => {
                // One of them is refused for what it is. Alone it can't hold up the others.
                for unit in units.drain(..) {
                    let answer = self.append(std::slice::from_ref(&unit)).await;
                    let _ = unit.answer.send(answer);
                }
            }
            Ok(mut appended) => {
                for unit in units.drain(..).rev() {
                    let own = appended.split_off(appended.len() - unit.events.len());
                    let _ = unit.answer.send(Ok(own));
                }
            }
            Err(reason) => {
                for unit in units.drain(..) {
                    let _ = unit.answer.send(Err(reason));
                }
            }
        }
    }

    /// One commit of all these units.
    async fn append(&mut self, units: &[Unit]) -> Answer {
        let started = Instant::now();
        let Some(connection) = self.link.connection().await else { return Err(NotStored::Unavailable) };
        let events: Vec<&NewEvent> = units.iter().flat_map(|unit| &unit.events).collect();
        let outcome = match timeout(COMMIT_DEADLINE, log::append_events(connection, &events)).await {
            Ok(Ok(appended)) => Ok(appended),
            Ok(Err(error)) => Err(self.failed(&error)),
            Err(_) => {
                tracing::error!("a commit took longer than {COMMIT_DEADLINE:?}; its outcome is unknown");
                Err(NotStored::Unknown)
            }
        };
        let Ok(appended) = outcome else {
            self.link.lost();
            return outcome;
        };
        metrics::histogram!(INGEST_COMMIT_SECONDS).record(started.elapsed().as_secs_f64());
        metrics::histogram!(INGEST_BATCH_EVENTS).record(events.len() as f64);
        self.link.used();
        self.count(&appended);
        self.kinds.note(&events, &appended);
        Ok(appended)
    }

    fn count(&self, appended: &[Appended]) {
        let of = |matches: fn(&Appended) -> bool| appended.iter().filter(|one| matches(one)).count() as u64;
        let created = of(|one| matches!(one, Appended::Created(_)));
        metrics::counter!(EVENTS_ACCEPTED).increment(created);
        metrics::counter!(EVENTS_DUPLICATE).increment(of(|one| matches!(one, Appended::Duplicate(_))));
        if created > 0 {
            self.doorbell.ring();
        }
    }

    /// What a failed call means for its events.
    fn failed(&self, error: &sqlx::Error) -> NotStored {
        let code = error.as_database_error().and_then(|error| error.code());
        let reason = meaning(code.as_deref());
        match reason {
            NotStored::Broken => tracing::error!(%error, "PostgreSQL refused events"),
            reason => tracing::warn!(%error, ?reason, "a commit of events failed"),
        }
        reason
    }
}

/// By SQLSTATE. An error that PostgreSQL reports means that it rolled back, but for its own shutdown
/// (57P01..57P03), where the report may overtake a commit. Data (22), constraints (23) and limits (54)
/// are about the events themselves.
fn meaning(code: Option<&str>) -> NotStored {
    match code {
        None => NotStored::Unknown,
        Some(code) if code.starts_with("57P") => NotStored::Unknown,
        Some(code) if ["22", "23", "54"].iter().any(|class| code.starts_with(class)) => NotStored::Broken,
        Some(_) => NotStored::Unavailable,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_a_reported_rollback_counts_as_not_stored() {
        for (code, expected) in [
            (None, NotStored::Unknown),
            (Some("57P01"), NotStored::Unknown),
            (Some("57014"), NotStored::Unavailable),
            (Some("55P03"), NotStored::Unavailable),
            (Some("25006"), NotStored::Unavailable),
            (Some("53100"), NotStored::Unavailable),
            (Some("42883"), NotStored::Unavailable),
            (Some("22021"), NotStored::Broken),
            (Some("23514"), NotStored::Broken),
            (Some("54000"), NotStored::Broken),
        ] {
            assert_eq!(meaning(code), expected, "{code:?}");
        }
    }
}
