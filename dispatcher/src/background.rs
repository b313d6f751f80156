//! How much background work (replays, redrives, catch-ups) may start beside live traffic: as much as live traffic
//! does not feel. What is told here of live deliveries is how long after its acceptance each one started. While
//! that stays near what was usual lately, background work goes a little faster; as soon as it does not, much slower. No I/O, and no clock of its own.

use std::collections::VecDeque;
use std::time::{Duration, Instant};

/// Of all permits, background work holds at most this part: while live work comes in, and otherwise.
const SHARE_BESIDE_LIVE: usize = 16;
const SHARE_ALONE: usize = 2;
/// Live work is taken to be coming in for so long after the last of it.
const LIVE_FOR: Duration = Duration::from_secs(1);
/// Delays are looked at in windows.
const WINDOW: Duration = Duration::from_millis(200);
/// Of so many windows, the better third is what live traffic is used to: the single best may be luck.
const REMEMBERED: usize = 600;
/// A delay above that by this factor, and by this time, is felt.
const FELT_FACTOR: f64 = 1.3;
const FELT_ABOVE: Duration = Duration::from_millis(1);
/// Background work that starts in a second, beside live work: it never stops altogether.
const LEAST: f64 = 200.0;
const MOST: f64 = 100_000.0;
/// Turns that were not taken are kept for so long.
const KEPT: Duration = Duration::from_millis(20);

pub(crate) struct Background {
    permits: usize,
    in_flight: usize,
    live_until: Option<Instant>,
    /// Delays of the window, in seconds, and when it ends.
    delays: Vec<f64>,
    window_ends: Option<Instant>,
    /// The delays of the last windows.
    windows: VecDeque<f64>,
    per_second: f64,
    turns: f64,
    turned_at: Option<Instant>,
}

impl Background {
    /// `permits`: attempts of any kind under way at once.
    pub(crate) fn new(permits: usize) -> Self {
        Self {
            permits,
            in_flight: 0,
            live_until: None,
            delays: Vec::new(),
            window_ends: None,
            windows: VecDeque::with_capacity(REMEMBERED),
            per_second: LEAST,
            turns: 0.0,
            turned_at: None,
        }
    }

    /// Live work has come in, or a retry is due.
    pub(crate) fn live_came(&mut self, now: Instant) {
        self.live_until = Some(now + LIVE_FOR);
    }

    /// Whether live work has come in lately.
    pub(crate) fn is_beside_live(&self, now: Instant) -> bool {
        self.live_until.is_some_and(|until| until > now)
    }

    /// The first attempt of a live delivery starts, so long after its event was accepted.
    pub(crate) fn live_started(&mut self, delay: Duration, now: Instant) {
        if self.window_ends.is_some_and(|end| end <= now) {
            self.adapt();
        }
        self.window_ends.get_or_insert(now + WINDOW);
        self.delays.push(delay.as_secs_f64());
    }

    /// Whether one more may start now; it is told by [`Self::started`] if it does.
    pub(crate) fn may_start(&mut self, now: Instant) -> bool {
        if !self.is_beside_live(now) {
            return self.in_flight < (self.permits / SHARE_ALONE).max(1);
        }
        let since = now.saturating_duration_since(self.turned_at.unwrap_or(now));
        let most = (self.per_second * KEPT.as_secs_f64()).max(1.0);
        self.turns = (self.turns + since.as_secs_f64() * self.per_second).min(most);
        self.turned_at = Some(now);
        self.turns >= 1.0 && self.in_flight < (self.permits / SHARE_BESIDE_LIVE).max(1)
    }

    pub(crate) fn started(&mut self) {
        self.turns = (self.turns - 1.0).max(0.0);
        self.in_flight += 1;
    }

    pub(crate) fn ended(&mut self) {
        self.in_flight = self.in_flight.saturating_sub(1);
    }

    /// A window is over: faster, or slower.
    fn adapt(&mut self) {
        self.window_ends = None;
        let mut delays = std::mem::take(&mut self.delays);
        delays.sort_unstable_by(f64::total_cmp);
        // Of few, the worst; of many, not the odd one that something else held up.
        let Some(delay) = delays.get(delays.len() * 4 / 5).copied() else { return };
        if self.windows.len() == REMEMBERED {
            self.windows.pop_front();
        }
        self.windows.push_back(delay);
        let mut windows: Vec<f64> = self.windows.iter().copied().collect();
        let (_, usual, _) = windows.select_nth_unstable_by(self.windows.len() / 3, f64::total_cmp);
        let is_felt = delay > *usual * FELT_FACTOR + FELT_ABOVE.as_secs_f64();
        self.per_second = if is_felt {
            (self.per_second * 0.6).max(LEAST)
        } else {
            (self.per_second * 1.05 + 20.0).min(MOST)
        };
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Lets live deliveries start every two milliseconds, each with a delay that grows with the background work
    /// beyond what the machine can do; answers how much background work started in the last second.
    fn beside_live(seconds: u64, machine_per_second: f64) -> usize {
        let (start, mut background) = (Instant::now(), Background::new(512));
        let (mut started, mut queued) = (0, 0.0_f64);
        for step in 0..seconds * 500 {
            let now = start + Duration::from_millis(2 * step);
            background.live_came(now);
            queued = (queued - machine_per_second / 500.0).max(0.0);
            background.live_started(Duration::from_secs_f64(0.003 + queued / machine_per_second), now);
            while background.may_start(now) {
                background.started();
                background.ended();
                queued += 1.0;
                started += usize::from(step >= (seconds - 1) * 500);
            }
        }
        started
    }

    #[test]
    fn it_takes_what_live_traffic_does_not_feel() {
        let started = beside_live(30, 2_000.0);
        assert!((500..2_200).contains(&started), "{started} in the last second of a machine that does 2000");
        let started = beside_live(30, 100.0);
        assert!((150..=230).contains(&started), "{started} in the last second of a machine that does 100");
    }

    #[test]
    fn it_never_stops_altogether_and_is_free_where_nothing_is_live() {
        let (start, mut background) = (Instant::now(), Background::new(512));
        for step in 0..5_000_u32 {
            let now = start + Duration::from_millis(2) * step;
            background.live_came(now);
            background.live_started(Duration::from_millis(u64::from(step)), now);
        }
        let now = start + Duration::from_secs(10);
        let mut started = 0;
        for step in 0..50 {
            while background.may_start(now + Duration::from_millis(19) * step) {
                background.started();
                background.ended();
                started += 1;
            }
        }
        assert!((150..=200).contains(&started), "{started} in a second");
        let later = now + Duration::from_secs(10);
        while background.may_start(later) {
            background.started();
        }
        assert_eq!(background.in_flight, 256, "half of the permits");
    }
}
