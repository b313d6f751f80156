//! The circuit breaker of one endpoint, as a value: time is an argument.

use std::time::{Duration, Instant};

const OPENS_AFTER: u32 = 20;
const FIRST_PAUSE: Duration = Duration::from_secs(5);
const LONGEST_PAUSE: Duration = Duration::from_secs(300);

#[derive(Debug, Default)]
pub(crate) struct Breaker {
    failures: u32,
    open: Option<Open>,
}

#[derive(Debug)]
struct Open {
    until: Instant,
    pause: Duration,
    probing: bool,
}

/// Whether an attempt may be made now.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Permission {
    Yes,
    /// One, to see whether the endpoint is back.
    Probe,
    /// Not before this time.
    NotBefore(Instant),
    /// A probe is under way.
    Wait,
}

impl Breaker {
    pub(crate) fn ask(&self, now: Instant) -> Permission {
        match &self.open {
            None => Permission::Yes,
            Some(open) if open.probing => Permission::Wait,
            Some(open) if open.until <= now => Permission::Probe,
            Some(open) => Permission::NotBefore(open.until),
        }
    }

    pub(crate) fn is_open(&self) -> bool {
        self.open.is_some()
    }

    /// Whether people are told that it is open: not any more when nobody has tried the endpoint for long, for
    /// then another dispatcher may have found it well.
    pub(crate) fn shows_open(&self, now: Instant) -> bool {
        self.open.as_ref().is_some_and(|open| open.probing || now < open.until + LONGEST_PAUSE)
    }

    /// Nothing worth remembering.
    pub(crate) fn is_clean(&self) -> bool {
        self.failures == 0 && self.open.is_none()
    }

    /// Until when a delivery that may not be tried now had better wait.
    pub(crate) fn back_at(&self, now: Instant) -> Instant {
        self.open.as_ref().map_or(now, |open| open.until.max(now))
    }

    /// An attempt begins; with an open breaker it is the probe.
    pub(crate) fn started(&mut self) {
        if let Some(open) = &mut self.open {
            open.probing = true;
        }
    }

    pub(crate) fn succeeded(&mut self) {
        *self = Self::default();
    }

    /// What had begun made no attempt after all.
    pub(crate) fn untried(&mut self) {
        if let Some(open) = &mut self.open {
            open.probing = false;
        }
    }

    /// An attempt failed; true if this opened the breaker.
    pub(crate) fn failed(&mut self, now: Instant) -> bool {
        self.failures = self.failures.saturating_add(1);
        match &mut self.open {
            Some(open) if open.probing => {
                let pause = (open.pause * 2).min(LONGEST_PAUSE);
                *open = Open { until: now + pause, pause, probing: false };
                false
            }
            // An attempt that began before the breaker opened.
            Some(_) => false,
            None if self.failures >= OPENS_AFTER => {
                self.open = Some(Open { until: now + FIRST_PAUSE, pause: FIRST_PAUSE, probing: false });
                true
            }
            None => false,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_opens_after_twenty_failures_probes_once_and_doubles_its_pause() {
        let start = Instant::now();
        let mut breaker = Breaker::default();
        for _ in 0..19 {
            assert!(!breaker.failed(start));
        }
        assert_eq!(breaker.ask(start), Permission::Yes);
        assert!(breaker.failed(start));
        assert_eq!(breaker.ask(start), Permission::NotBefore(start + FIRST_PAUSE));
        let later = start + FIRST_PAUSE;
        assert_eq!(breaker.ask(later), Permission::Probe);
        breaker.started();
        assert_eq!(breaker.ask(later), Permission::Wait);
        assert!(!breaker.failed(later));
        assert_eq!(breaker.ask(later), Permission::NotBefore(later + 2 * FIRST_PAUSE));
        breaker.started();
        breaker.succeeded();
        assert_eq!(breaker.ask(later), Permission::Yes);
    }

    #[test]
    fn a_success_in_between_starts_the_count_anew() {
        let now = Instant::now();
        let mut breaker = Breaker::default();
        for _ in 0..19 {
            breaker.failed(now);
        }
        breaker.succeeded();
        assert!(!breaker.failed(now));
        assert!(!breaker.is_open());
    }

    #[test]
    fn the_pause_has_a_bound() {
        let mut now = Instant::now();
        let mut breaker = Breaker::default();
        for _ in 0..20 {
            breaker.failed(now);
        }
        for _ in 0..20 {
            now = breaker.back_at(now);
            breaker.started();
            breaker.failed(now);
            assert!(breaker.back_at(now) - now <= LONGEST_PAUSE);
        }
    }

    #[test]
    fn it_is_shown_open_until_it_closes_or_nobody_has_tried_for_long() {
        let start = Instant::now();
        let mut breaker = Breaker::default();
        for _ in 0..20 {
            assert!(!breaker.shows_open(start));
            breaker.failed(start);
        }
        assert!(breaker.shows_open(start + FIRST_PAUSE + Duration::from_secs(60)));
        let much_later = start + FIRST_PAUSE + LONGEST_PAUSE;
        assert!(!breaker.shows_open(much_later));
        breaker.started();
        assert!(breaker.shows_open(much_later), "a probe is under way");
        breaker.succeeded();
        assert!(!breaker.shows_open(start));
    }
}
