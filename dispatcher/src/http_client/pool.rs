//! Connections that rest until their receiver is asked again: of HTTP/1.1 each serves one request at a time, of HTTP/2
//! one serves many.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use super::http1::Http1;
use super::http2::Http2;

/// A connection that rested for so long is closed.
const MOST_REST: Duration = Duration::from_secs(60);
const SWEEP_EVERY: Duration = Duration::from_secs(5);

pub(super) enum Connection {
    Http1(Http1),
    Http2(Http2),
}

pub(super) struct Pool {
    /// Of HTTP/1.1, to one receiver; and to all together.
    most: usize,
    most_in_all: usize,
    held: Mutex<Held>,
}

struct Held {
    /// By origin.
    of: HashMap<Arc<str>, Resting>,
    /// Those of HTTP/1.1.
    resting: usize,
    next_sweep: Instant,
}

#[derive(Default)]
struct Resting {
    /// The one that was used last comes last: it is used next, so that those which are not needed grow old.
    http1: Vec<(Http1, Instant)>,
    http2: Option<(Http2, Instant)>,
}

impl Pool {
    pub(super) fn new(most: usize) -> Self {
        let held = Held { of: HashMap::new(), resting: 0, next_sweep: Instant::now() + SWEEP_EVERY };
        Self { most, most_in_all: most.saturating_mul(4), held: Mutex::new(held) }
    }

    /// A connection that may be used, as far as is known here.
    pub(super) fn take(&self, origin: &str) -> Option<Connection> {
        loop {
            let (mut connection, since) = {
                let mut held = self.held();
                let resting = held.of.get_mut(origin)?;
                resting.http2.take_if(|(shared, _)| shared.is_closed());
                if let Some((shared, used_at)) = &mut resting.http2 {
                    *used_at = Instant::now();
                    return Some(Connection::Http2(shared.clone()));
                }
                let popped = resting.http1.pop()?;
                held.resting -= 1;
                popped
            };
            if since.elapsed() < MOST_REST && connection.is_quiet() {
                return Some(Connection::Http1(connection));
            }
        }
    }

    /// Takes a connection back after its answer.
    pub(super) fn rest(&self, origin: &Arc<str>, mut connection: Http1) {
        if !connection.can_rest() {
            return;
        }
        connection.lie_down();
        let mut held = self.held();
        let held = &mut *held;
        if held.resting >= self.most_in_all {
            return;
        }
        let resting = match held.of.get_mut(origin) {
            Some(resting) => resting,
            None => held.of.entry(Arc::clone(origin)).or_default(),
        };
        if resting.http1.len() < self.most {
            resting.http1.push((connection, Instant::now()));
            held.resting += 1;
        }
    }

    /// The connection that all requests to this origin share from now on: this one, unless another was quicker.
    /// Answers which it is.
    pub(super) fn share(&self, origin: &Arc<str>, connection: Http2) -> (Http2, bool) {
        let mut held = self.held();
        let shared = &mut held.of.entry(Arc::clone(origin)).or_default().http2;
        shared.take_if(|(shared, _)| shared.is_closed());
        let is_new = shared.is_none();
        (shared.get_or_insert_with(|| (connection, Instant::now())).0.clone(), is_new)
    }

    /// Closes what has rested for too long, or was closed by its receiver. To be called every now and then.
    pub(super) fn sweep(&self, now: Instant) {
        let mut old = Vec::new();
        let mut held = self.held();
        if now < held.next_sweep {
            return;
        }
        held.next_sweep = now + SWEEP_EVERY;
        held.of.retain(|_, resting| {
            let is_old = |since: &Instant| now.duration_since(*since) >= MOST_REST;
            let is_over = |(one, since): &mut (Http1, Instant)| is_old(since) || !one.is_quiet();
            old.extend(resting.http1.extract_if(.., is_over));
            // Requests that are under way on it go on.
            resting.http2.take_if(|(shared, used_at)| is_old(used_at) || shared.is_closed());
            !resting.http1.is_empty() || resting.http2.is_some()
        });
        held.resting -= old.len();
        // It is closed once the lock is given back.
        drop(held);
        drop(old);
    }

    fn held(&self) -> MutexGuard<'_, Held> {
        self.held.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
