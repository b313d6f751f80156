//! One endpoint's lane: what waits for it, what is in flight to it, and what it allows. [`crate::lanes`] decides
//! between lanes.

use std::collections::VecDeque;
use std::time::{Duration, Instant};

use crate::breaker::{Breaker, Permission};
use crate::work::Work;

/// Seconds' worth of work that waits for an endpoint with a rate.
const RATED_SECONDS: usize = 2;
/// How long work that finds no room had better stay away.
pub(crate) const PAUSE: Duration = Duration::from_secs(1);
/// Work that waits for one endpoint before more of it is deferred.
pub(crate) const HARD_LIMIT: usize = 2048;

/// What an endpoint allows, by its owner's word.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct Limits {
    pub(crate) group_id: i64,
    pub(crate) max_in_flight: usize,
    pub(crate) rate_per_second: Option<u32>,
}

#[derive(Default)]
pub(crate) struct Lane {
    pub(crate) limits: Limits,
    /// What a rate has no room for is sent away until then, one after the other, so that it comes back at
    /// that rate.
    pub(crate) paced_until: Option<Instant>,
    /// Requests that the shared rate allows now; asked for again when they are used up, not before this time.
    pub(crate) turns: usize,
    pub(crate) more_turns_at: Option<Instant>,
    pub(crate) asked_for_turns: bool,
    pub(crate) waiting: VecDeque<Work>,
    pub(crate) background: VecDeque<Work>,
    pub(crate) in_flight: usize,
    pub(crate) background_in_flight: usize,
    pub(crate) in_ring: bool,
    pub(crate) is_held_back: bool,
    pub(crate) breaker: Breaker,
    /// The receiver asked to be left alone until then.
    pub(crate) quiet_until: Option<Instant>,
    /// It held up others lately.
    pub(crate) lags_until: Option<Instant>,
}

impl Lane {
    /// How much may wait here before more would wait for long.
    pub(crate) fn most_waiting(&self) -> usize {
        self.limits.rate_per_second.map_or(HARD_LIMIT, |rate| rate.max(1) as usize * RATED_SECONDS)
    }

    /// When more work had better come, if so much waits already that the endpoint's rate keeps it here for long.
    pub(crate) fn paced(&mut self, now: Instant) -> Option<Instant> {
        let rate = self.limits.rate_per_second?.max(1);
        if self.waiting.len() < self.most_waiting() {
            return None;
        }
        let at = self.paced_until.unwrap_or(now).max(now + PAUSE);
        self.paced_until = Some(at + Duration::from_secs(1) / rate);
        Some(at)
    }

    pub(crate) fn permission(&self, now: Instant) -> Permission {
        match (self.breaker.ask(now), self.quiet_until) {
            (Permission::Yes | Permission::Probe, Some(until)) if until > now => Permission::NotBefore(until),
            (permission, _) => permission,
        }
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.waiting.is_empty() && self.background.is_empty()
    }

    /// Whether it held up others lately, and still has something to do.
    pub(crate) fn lags(&self, now: Instant) -> bool {
        let is_busy = self.in_flight > 0 || !self.waiting.is_empty();
        is_busy && self.lags_until.is_some_and(|until| until > now)
    }

    pub(crate) fn take(&mut self) -> Option<Work> {
        self.waiting.pop_front().or_else(|| self.background.pop_front())
    }

    pub(crate) fn is_idle(&self, now: Instant) -> bool {
        self.is_empty()
            && self.in_flight == 0
            && !self.in_ring
            && !self.breaker.is_open()
            && self.breaker.is_clean()
            && self.quiet_until.is_none_or(|until| until <= now)
    }
}
