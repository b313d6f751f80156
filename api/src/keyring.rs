//! The keys that were used lately, so that not every request asks PostgreSQL: each is looked up again after a
//! second, so a revoked one stops within two. With each goes its rate limit, which holds for this process. Keys
//! that nobody has are remembered for a second too: who goes on sending a revoked one costs no query each time.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use eventrail_core::db::key::{self, ApiKey};
use eventrail_core::key::KeyHash;
use sqlx::PgPool;
use tokio::sync::Semaphore;

use crate::problem::{Kind, Problem};

/// A key that was read no longer ago than this is taken as it is.
const FRESH: Duration = Duration::from_secs(1);
/// While one request reads it again, the others may still use it up to this age.
const USABLE: Duration = Duration::from_millis(1800);
const READ_DEADLINE: Duration = Duration::from_millis(700);
/// Hashes of unknown keys that are remembered; when there are more, all are forgotten.
const MOST_UNKNOWN: usize = 10_000;

pub(crate) enum Found {
    Key(Arc<ApiKey>),
    /// The key may be used again after so long.
    TooFast(Duration),
    Nothing,
}

pub(crate) struct Keyring {
    /// Nothing else waits for its connections.
    pool: PgPool,
    /// Keys that are not held, guesses mostly, are looked up one after the other: they never take the last
    /// connection from those that are.
    strangers: Semaphore,
    held: Mutex<HashMap<KeyHash, Held>>,
    unknown: Mutex<Unknown>,
}

struct Held {
    key: Arc<ApiKey>,
    /// When it was asked for, not when the answer came.
    read_at: Instant,
    being_read_since: Option<Instant>,
    bucket: Bucket,
}

impl Keyring {
    pub(crate) fn new(pool: PgPool) -> Self {
        Self { pool, strangers: Semaphore::new(1), held: Mutex::default(), unknown: Mutex::default() }
    }

    /// # Errors
    /// The key must be read, and PostgreSQL does not answer in time.
    pub(crate) async fn admit(&self, hash: &KeyHash) -> Result<Found, Problem> {
        let now = Instant::now();
        let mut is_stranger = true;
        if let Some(held) = self.lock().get_mut(hash) {
            if held.is_usable(now) {
                return Ok(held.spend(now));
            }
            held.being_read_since = Some(now);
            is_stranger = false;
        }
        if self.unknown().has(hash, now) {
            return Ok(Found::Nothing);
        }
        let turn = tokio::time::timeout(READ_DEADLINE, async {
            if is_stranger { self.strangers.acquire().await.ok() } else { None }
        });
        let _turn = turn.await.map_err(|_| {
            Problem::new(Kind::Overloaded, "Too many keys that are not known yet are being looked up")
        })?;
        let read = tokio::time::timeout(READ_DEADLINE, key::by_hash(&self.pool, hash))
            .await
            .unwrap_or_else(|_| Err(sqlx::Error::PoolTimedOut));
        let mut all = self.lock();
        match read {
            Ok(Some(key)) => {
                let rate = key.rate_per_second;
                let key = Arc::new(key);
                let held = all.entry(*hash).or_insert_with(|| Held {
                    key: Arc::clone(&key),
                    read_at: now,
                    being_read_since: None,
                    bucket: Bucket::full(rate, now),
                });
                (held.key, held.read_at, held.being_read_since) = (key, now, None);
                Ok(held.spend(Instant::now()))
            }
            Ok(None) => {
                all.remove(hash);
                self.unknown().note(*hash, now);
                Ok(Found::Nothing)
            }
            Err(error) => {
                all.remove(hash);
                tracing::warn!(%error, "a key could not be looked up");
                Err(Problem::new(Kind::Unavailable, "PostgreSQL can't be reached, so the key is not known"))
            }
        }
    }

    /// Forgets a key that was revoked here.
    pub(crate) fn forget(&self, hash: &KeyHash) {
        self.lock().remove(hash);
    }

    fn unknown(&self) -> MutexGuard<'_, Unknown> {
        self.unknown.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<KeyHash, Held>> {
        self.held.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Held {
    fn is_usable(&self, now: Instant) -> bool {
        let age = now.duration_since(self.read_at);
        // A request that was to read it may have been dropped: then the next one does.
        let is_being_read =
            self.being_read_since.is_some_and(|since| now.duration_since(since) < READ_DEADLINE);
        age < FRESH || age < USABLE && is_being_read
    }

    fn spend(&mut self, now: Instant) -> Found {
        match self.key.rate_per_second.map(|rate| self.bucket.take(rate, now)) {
            Some(Err(wait)) => Found::TooFast(wait),
            Some(Ok(())) | None => Found::Key(Arc::clone(&self.key)),
        }
    }
}

/// Hashes of no key, as PostgreSQL said when it was asked.
#[derive(Default)]
struct Unknown(HashMap<KeyHash, Instant>);

impl Unknown {
    fn has(&self, hash: &KeyHash, now: Instant) -> bool {
        self.0.get(hash).is_some_and(|asked_at| now.saturating_duration_since(*asked_at) < FRESH)
    }

    fn note(&mut self, hash: KeyHash, asked_at: Instant) {
        if self.0.len() >= MOST_UNKNOWN {
            self.0.clear();
        }
        self.0.insert(hash, asked_at);
    }
}

/// A token bucket that holds what one second brings.
struct Bucket {
    tokens: f64,
    filled_at: Instant,
}

impl Bucket {
    fn full(rate: Option<i32>, now: Instant) -> Self {
        Self { tokens: f64::from(rate.unwrap_or(1)), filled_at: now }
    }

    /// Takes one token, or says how long until there is one.
    fn take(&mut self, rate: i32, now: Instant) -> Result<(), Duration> {
        let rate = f64::from(rate.max(1));
        let gained = now.saturating_duration_since(self.filled_at).as_secs_f64() * rate;
        self.tokens = (self.tokens + gained).min(rate);
        self.filled_at = self.filled_at.max(now);
        if self.tokens >= 1.0 {
            self.tokens -= 1.0;
            return Ok(());
        }
        Err(Duration::from_secs_f64((1.0 - self.tokens) / rate))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_unknown_key_is_remembered_for_a_second_and_never_too_many_are() {
        let start = Instant::now();
        let mut unknown = Unknown::default();
        unknown.note([1; 32], start);
        assert!(unknown.has(&[1; 32], start + Duration::from_millis(999)));
        assert!(!unknown.has(&[1; 32], start + FRESH));
        assert!(!unknown.has(&[2; 32], start));
        for n in 0..MOST_UNKNOWN + 5 {
            let mut hash = [0; 32];
            hash[..8].copy_from_slice(&n.to_be_bytes());
            unknown.note(hash, start);
        }
        assert!(unknown.0.len() <= MOST_UNKNOWN);
    }

    #[test]
    fn a_bucket_gives_its_rate_and_says_when_there_is_more() {
        let start = Instant::now();
        let mut bucket = Bucket::full(Some(2), start);
        assert_eq!(bucket.take(2, start), Ok(()));
        assert_eq!(bucket.take(2, start), Ok(()));
        assert_eq!(bucket.take(2, start), Err(Duration::from_millis(500)));
        assert_eq!(bucket.take(2, start + Duration::from_millis(500)), Ok(()));
        // A long rest fills it no further than to one second's worth.
        let later = start + Duration::from_secs(60);
        assert_eq!([0; 3].map(|_| bucket.take(2, later).is_ok()), [true, true, false]);
    }
}
