//! The rate at which a replay is published: what has not been used of it is kept for a fraction of a second only,
//! so that a pause is not followed by a burst. Pure: time is an argument.

use std::time::{Duration, Instant};

/// Unused turns are kept for this long.
const KEPT: Duration = Duration::from_millis(500);

#[derive(Debug, Clone, Copy)]
pub(super) struct Pace {
    per_second: f64,
    turns: f64,
    at: Instant,
}

impl Pace {
    pub(super) fn new(per_second: u32, now: Instant) -> Self {
        Self { per_second: f64::from(per_second.max(1)), turns: 0.0, at: now }
    }

    /// How many deliveries may be published now.
    pub(super) fn allowed(&mut self, now: Instant) -> usize {
        let earned = now.saturating_duration_since(self.at).as_secs_f64() * self.per_second;
        let most = (self.per_second * KEPT.as_secs_f64()).max(1.0);
        self.turns = (self.turns + earned).min(most);
        self.at = now;
        self.turns as usize
    }

    pub(super) fn used(&mut self, deliveries: usize) {
        self.turns -= deliveries as f64;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn over_time_as_many_are_published_as_the_rate_says() {
        let start = Instant::now();
        let mut pace = Pace::new(50, start);
        let mut published = 0;
        for step in 1..=1000_u32 {
            let allowed = pace.allowed(start + Duration::from_millis(13) * step);
            pace.used(allowed);
            published += allowed;
        }
        assert!((649..=650).contains(&published), "{published} in 13 seconds");
    }

    #[test]
    fn a_pause_is_not_made_up_for() {
        let start = Instant::now();
        let mut pace = Pace::new(10, start);
        assert_eq!(pace.allowed(start), 0);
        assert_eq!(pace.allowed(start + Duration::from_secs(60)), 5);
        let mut slow = Pace::new(1, start);
        assert_eq!(slow.allowed(start + Duration::from_secs(60)), 1);
    }
}
