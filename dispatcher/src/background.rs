//! How much background work (replays, redrives, catch-ups) may start beside live traffic: as much as live traffic
//! does not feel. What is told here of live deliveries is how long after its acceptance each one started. What is
//! usual shows in calm windows, in which no background work starts, one in every few seconds. While live deliveries
//! start about as soon as in those, background work goes a little faster; the later they start, the slower it goes.
//! No I/O, and no clock of its own.

use std::collections::VecDeque;
use std::time::{Duration, Instant};

use chrono::{DateTime, Utc};

/// Of all permits, background work holds at most this part: while live work comes in, and otherwise.
const SHARE_BESIDE_LIVE: usize = 16;
const SHARE_ALONE: usize = 2;
/// Live work is taken to be coming in for so long after the last of it.
const LIVE_FOR: Duration = Duration::from_secs(1);
/// Delays are looked at in windows.
const WINDOW: Duration = Duration::from_millis(200);
/// One window in so many is calm.
const CALM_EVERY: u32 = 20;
/// The middle one of so many calm windows is what is usual.
const CALM_REMEMBERED: usize = 15;
/// What is taken for usual before there was a calm window with live work in it, and at most: later ones are of a
/// backlog, beside which nothing is to be added. In seconds.
const USUAL_AT_FIRST: f64 = 0.01;
const USUAL_AT_MOST: f64 = 0.05;
/// A delay may grow by this part of what is usual, and by so many seconds in any case.
const MAY_GROW_BY: f64 = 0.12;
const MAY_GROW_BY_SECONDS: f64 = 0.000_25;
/// How much a window counts against those before it.
const WEIGHT: f64 = 0.25;
/// From one window to the next, the rate grows by at most this part, and shrinks to no less than that.
const GROWS_BY: f64 = 0.04;
const SHRINKS_TO: f64 = 0.9;
/// Background work that starts in a second, beside live work: it never stops altogether.
const LEAST: f64 = 200.0;
const MOST: f64 = 100_000.0;
/// From one calm window to the next.
const ROUND: Duration = WINDOW.saturating_mul(CALM_EVERY);
/// Turns that were not taken are kept for so long.
const KEPT: Duration = Duration::from_millis(20);

pub(crate) struct Background {
    permits: usize,
    in_flight: usize,
    live_until: Option<Instant>,
    /// Windows are counted from here.
    start: Instant,
    window: u32,
    /// Delays of the window, in seconds.
    delays: Vec<f64>,
    /// Background work that has started in it.
    started: u32,
    /// The delays of the last calm windows.
    calm: VecDeque<f64>,
    /// The delay of the others, smoothed.
    delay: Option<f64>,
    per_second: f64,
    turns: f64,
    turned_at: Option<Instant>,
}

/// When the round began that `now` is in, by the time that all dispatchers share.
pub(crate) fn round_began(now: Instant, shared: DateTime<Utc>) -> Instant {
    let since = u64::try_from(shared.timestamp_millis()).unwrap_or_default() % (ROUND.as_millis() as u64);
    now.checked_sub(Duration::from_millis(since)).unwrap_or(now)
}

impl Background {
    /// `permits`: attempts of any kind under way at once. Windows are counted from `start`: dispatchers that count
    /// from the same have their calm windows together.
    pub(crate) fn new(permits: usize, start: Instant) -> Self {
        Self {
            permits,
            in_flight: 0,
            live_until: None,
            start,
            window: 0,
            delays: Vec::new(),
            started: 0,
            calm: VecDeque::with_capacity(CALM_REMEMBERED),
            delay: None,
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
        self.turn_window(now);
        self.delays.push(delay.as_secs_f64());
    }

    /// Whether one more may start now; it is told by [`Self::started`] if it does.
    pub(crate) fn may_start(&mut self, now: Instant) -> bool {
        if !self.is_beside_live(now) {
            return self.in_flight < (self.permits / SHARE_ALONE).max(1);
        }
        self.turn_window(now);
        let since = now.saturating_duration_since(self.turned_at.unwrap_or(now));
        let most = (self.per_second * KEPT.as_secs_f64()).max(1.0);
        self.turns = (self.turns + since.as_secs_f64() * self.per_second).min(most);
        self.turned_at = Some(now);
        !self.is_calm() && self.turns >= 1.0 && self.in_flight < (self.permits / SHARE_BESIDE_LIVE).max(1)
    }

    pub(crate) fn started(&mut self) {
        self.turns = (self.turns - 1.0).max(0.0);
        self.in_flight += 1;
        self.started += 1;
    }

    pub(crate) fn ended(&mut self) {
        self.in_flight = self.in_flight.saturating_sub(1);
    }

    fn is_calm(&self) -> bool {
        self.window % CALM_EVERY == CALM_EVERY - 1
    }

    /// Looks at the window that is over, if one is.
    fn turn_window(&mut self, now: Instant) {
        let since = now.saturating_duration_since(self.start).as_millis() / WINDOW.as_millis();
        let window = u32::try_from(since % u128::from(u32::MAX)).unwrap_or_default();
        if window == self.window {
            return;
        }
        let mut delays = std::mem::take(&mut self.delays);
        delays.sort_unstable_by(f64::total_cmp);
        // Of few, the worst; of many, not the odd one that something else held up.
        if let Some(delay) = delays.get(delays.len() * 4 / 5) {
            if self.is_calm() { self.note_calm(*delay) } else { self.adapt(*delay) }
        }
        (self.window, self.started) = (window, 0);
    }

    fn note_calm(&mut self, delay: f64) {
        if self.calm.len() == CALM_REMEMBERED {
            self.calm.pop_front();
        }
        self.calm.push_back(delay);
    }

    /// Faster, or slower.
    fn adapt(&mut self, delay: f64) {
        let smooth = self.delay.map_or(delay, |before| before + WEIGHT * (delay - before));
        self.delay = Some(smooth);
        let usual = self.usual();
        let may_grow = (usual * MAY_GROW_BY).max(MAY_GROW_BY_SECONDS);
        let factor = 1.0 + GROWS_BY * (1.0 - (smooth - usual) / may_grow);
        let is_used = f64::from(self.started) > self.per_second * WINDOW.as_secs_f64() / 2.0;
        if factor < 1.0 || is_used {
            self.per_second = (self.per_second * factor.clamp(SHRINKS_TO, 1.0 + GROWS_BY)).clamp(LEAST, MOST);
        }
    }

    fn usual(&self) -> f64 {
        let mut calm: Vec<f64> = self.calm.iter().copied().collect();
        calm.sort_unstable_by(f64::total_cmp);
        calm.get(calm.len() / 2).copied().unwrap_or(USUAL_AT_FIRST).min(USUAL_AT_MOST)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Lets live deliveries start every two milliseconds, each with a delay that grows with the background work
    /// beyond what the machine can do; answers how much background work started in each second of the second half.
    fn beside_live(seconds: u64, machine_per_second: f64) -> usize {
        let start = Instant::now();
        let mut background = Background::new(512, start);
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
                started += usize::from(step >= seconds * 250);
            }
        }
        started / (seconds as usize / 2)
    }

    #[test]
    fn it_takes_what_live_traffic_does_not_feel() {
        let started = beside_live(60, 2_000.0);
        assert!((1_200..2_100).contains(&started), "{started} in a second of a machine that does 2000");
        let started = beside_live(60, 100.0);
        assert!((150..=200).contains(&started), "{started} in a second of a machine that does 100");
    }

    #[test]
    fn it_does_not_get_used_to_what_it_does_itself() {
        let [short, long] = [beside_live(60, 1_000.0), beside_live(1_800, 1_000.0)];
        assert!(long < short * 11 / 10, "{short} and {long} in a second");
    }

    #[test]
    fn it_never_stops_altogether_and_is_free_where_nothing_is_live() {
        let start = Instant::now();
        let mut background = Background::new(512, start);
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

    #[test]
    fn beside_a_backlog_there_is_no_more_than_the_least() {
        let start = Instant::now();
        let mut background = Background::new(512, start);
        let mut started = 0;
        for step in 0..30_000_u32 {
            let now = start + Duration::from_millis(1) * step;
            background.live_came(now);
            background.live_started(Duration::from_secs(5), now);
            while background.may_start(now) {
                background.started();
                background.ended();
                started += u32::from(step >= 20_000);
            }
        }
        assert!((1_800..=2_000).contains(&started), "{started} in ten seconds");
    }

    #[test]
    fn in_a_calm_window_nothing_starts() {
        let start = Instant::now();
        let mut background = Background::new(512, start);
        let mut resting = Duration::ZERO;
        for step in 0..4_000_u32 {
            let now = start + Duration::from_millis(1) * step;
            background.live_came(now);
            background.live_started(Duration::from_millis(3), now);
            let in_calm = now - start >= ROUND - WINDOW;
            while background.may_start(now) {
                assert!(!in_calm, "one started {:?} after the start", now - start);
                background.started();
                background.ended();
            }
            resting += Duration::from_millis(u64::from(in_calm));
        }
        assert_eq!(resting, WINDOW);
    }
}
