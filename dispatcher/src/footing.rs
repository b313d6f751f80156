//! Whether it is wise to start an attempt: its outcome must soon be on the record, and the work must still be ours.
//! Whatever a dispatcher does beyond that is done again by another if it dies, or is taken for dead.

use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

/// A commit that takes longer is a rare one. What is sent meanwhile can't be recorded yet.
const LONG_COMMIT: Duration = Duration::from_millis(500);
/// Without a word from Redis for so long a consumer is about to be taken for dead. Shorter than the time for which it
/// announces itself.
pub(crate) const CUT_OFF_AFTER: Duration = Duration::from_secs(3);

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Ground {
    Firm,
    /// Nothing is to be started for now; what waits may wait.
    Unsure,
    /// Others may have taken over what waits here.
    Lost,
}

#[derive(Default)]
pub(crate) struct Footing(Mutex<State>);

#[derive(Default)]
struct State {
    writing_since: Option<Instant>,
    /// When the last announcement began that Redis answered.
    heard_at: Option<Instant>,
    /// The one before that had run out by then, which nobody has asked about since.
    was_lost: bool,
}

impl Footing {
    pub(crate) fn begin_to_write(&self, now: Instant) {
        self.state().writing_since = Some(now);
    }

    pub(crate) fn has_written(&self) {
        self.state().writing_since = None;
    }

    /// Redis has answered an announcement that began then.
    pub(crate) fn heard(&self, began: Instant) {
        let mut state = self.state();
        state.was_lost |= state.heard_at.is_some_and(|at| is_cut_off(at, began));
        state.heard_at = Some(began);
    }

    /// What was lost is told at least once, even if it is over by now.
    pub(crate) fn look(&self, now: Instant) -> Ground {
        let mut state = self.state();
        if std::mem::take(&mut state.was_lost) || state.heard_at.is_some_and(|at| is_cut_off(at, now)) {
            return Ground::Lost;
        }
        let stuck = |since| now.saturating_duration_since(since) > LONG_COMMIT;
        if state.heard_at.is_none() || state.writing_since.is_some_and(stuck) {
            return Ground::Unsure;
        }
        Ground::Firm
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn is_cut_off(heard_at: Instant, now: Instant) -> bool {
    now.saturating_duration_since(heard_at) > CUT_OFF_AFTER
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND: Duration = Duration::from_secs(1);

    #[test]
    fn nothing_is_started_before_redis_has_heard_of_us_nor_while_a_commit_takes_long() {
        let (footing, now) = (Footing::default(), Instant::now());
        assert_eq!(footing.look(now), Ground::Unsure);
        footing.heard(now);
        assert_eq!(footing.look(now), Ground::Firm);
        footing.begin_to_write(now);
        assert_eq!(footing.look(now + SECOND / 4), Ground::Firm);
        assert_eq!(footing.look(now + SECOND), Ground::Unsure);
        footing.has_written();
        assert_eq!(footing.look(now + SECOND), Ground::Firm);
    }

    #[test]
    fn a_silence_is_told_also_when_it_is_over_and_then_no_more() {
        let (footing, now) = (Footing::default(), Instant::now());
        footing.heard(now);
        assert_eq!(footing.look(now + 4 * SECOND), Ground::Lost);
        footing.heard(now + 8 * SECOND);
        assert_eq!(footing.look(now + 8 * SECOND), Ground::Lost);
        assert_eq!(footing.look(now + 8 * SECOND), Ground::Firm);
        footing.heard(now + 9 * SECOND);
        assert_eq!(footing.look(now + 9 * SECOND), Ground::Firm);
    }
}
