//! Which event types come from which sources, noted beside the log for people who choose what to listen to.
//! Best effort: what a process that dies had not written yet is noted with the next such event.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use chrono::{DateTime, Utc};
use eventrail_core::db::event_kind::{self, EventKind};
use eventrail_core::db::log::{Appended, NewEvent};
use eventrail_core::event::{EventType, Source};
use sqlx::PgPool;
use tokio_util::sync::CancellationToken;

const WRITE_EVERY: Duration = Duration::from_secs(2);
const WRITE_DEADLINE: Duration = Duration::from_secs(2);
/// Beyond so many pairs in one round, further ones wait for their next event.
const MOST_PAIRS: usize = 1000;

type Seen = HashMap<(EventType, Source), DateTime<Utc>>;

#[derive(Clone, Default)]
pub(crate) struct Kinds {
    seen: Arc<Mutex<Seen>>,
}

impl Kinds {
    /// Notes those that were created.
    pub(crate) fn note(&self, events: &[&NewEvent], appended: &[Appended]) {
        let mut seen = self.seen.lock().unwrap_or_else(PoisonError::into_inner);
        for (event, appended) in events.iter().zip(appended) {
            let Appended::Created(stored) = appended else { continue };
            let pair = (event.event_type.clone(), event.source.clone());
            if seen.len() < MOST_PAIRS || seen.contains_key(&pair) {
                seen.insert(pair, stored.created_at);
            }
        }
    }

    /// Writes what was noted, now and then, and once more at the stop.
    pub(crate) async fn run(self, pool: PgPool, stop: CancellationToken) {
        loop {
            let is_last = tokio::select! {
                () = stop.cancelled() => true,
                () = tokio::time::sleep(WRITE_EVERY) => false,
            };
            match tokio::time::timeout(WRITE_DEADLINE, self.write(&pool)).await {
                Ok(Ok(())) => {}
                Ok(Err(error)) => tracing::debug!(%error, "event types were not noted"),
                Err(_) => tracing::debug!("event types were not noted in time"),
            }
            if is_last {
                return;
            }
        }
    }

    async fn write(&self, pool: &PgPool) -> sqlx::Result<()> {
        let seen = std::mem::take(&mut *self.seen.lock().unwrap_or_else(PoisonError::into_inner));
        if seen.is_empty() {
            return Ok(());
        }
        let kind = |((event_type, source), last_at): ((EventType, Source), DateTime<Utc>)| EventKind {
            event_type: event_type.to_string(),
            source: source.to_string(),
            last_at,
        };
        let kinds: Vec<EventKind> = seen.into_iter().map(kind).collect();
        event_kind::touch(pool, &kinds).await
    }
}
