//! Lanes: one for each endpoint, with what waits for it and what is in flight to it. They decide which work
//! may start, so that no endpoint and no group takes what others need. No I/O, and no clock of its own.
//!
//! The rules: an endpoint takes another permit only while it holds fewer than a quarter of the free ones, and
//! a group only while it holds fewer than all of the free ones (each at least one). So many slow endpoints
//! always leave some for the rest, and one busy endpoint alone still gets a fifth of all.
//!
//! What is live or due comes first: work of feeds with a single endpoint (catch-ups, replays, redrives) starts only
//! where nothing else waits for its endpoint, and only as much as live traffic does not feel ([`Background`]).

use std::collections::{HashMap, HashSet, VecDeque};
use std::time::{Duration, Instant};

use eventrail_core::ids::EndpointId;

use crate::background::Background;
use crate::breaker::Permission;
use crate::lane::{HARD_LIMIT, Lane, Limits, PAUSE};
use crate::work::{Origin, Work};

/// Work that waits for one endpoint before its feed is left unread.
pub(crate) const SOFT_LIMIT: usize = 256;

/// How long an endpoint that held up others is remembered.
const LAGS_FOR: Duration = Duration::from_secs(5);

/// What became of work that was put into a lane.
pub(crate) enum Put {
    /// It waits for its turn, which comes soon.
    Waits,
    /// The endpoint can't take it now; it had better come back at this time.
    Refused(Work, Instant),
}

/// Which of an endpoint's two queues work waits in.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Class {
    Prompt,
    Background,
}

impl Class {
    pub(crate) fn of(work: &Work) -> Self {
        if work.is_background() { Self::Background } else { Self::Prompt }
    }
}

/// How an attempt ended, as far as the lane is concerned.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Ended {
    Well,
    Badly,
    /// Badly, and the receiver wants to be left alone until then.
    SlowDown(Instant),
    /// There was no request.
    Untried,
}

pub(crate) struct Lanes {
    lanes: HashMap<EndpointId, Lane>,
    /// Lanes whose endpoint has a rate limit.
    rated: HashSet<EndpointId>,
    /// Lanes with waiting work that may be able to start, each once.
    ring: VecDeque<EndpointId>,
    /// Lanes with nothing but background work, for which there is no room now.
    held_back: VecDeque<EndpointId>,
    most: usize,
    in_flight: usize,
    background: Background,
    in_flight_of_group: HashMap<i64, usize>,
    waiting: usize,
}

impl Lanes {
    /// `most`: attempts under way at once. For `start` see [`Background::new`].
    pub(crate) fn new(most: usize, start: Instant) -> Self {
        Self {
            lanes: HashMap::new(),
            rated: HashSet::new(),
            ring: VecDeque::new(),
            held_back: VecDeque::new(),
            most,
            in_flight: 0,
            background: Background::new(most, start),
            in_flight_of_group: HashMap::new(),
            waiting: 0,
        }
    }

    pub(crate) fn in_flight(&self) -> usize {
        self.in_flight
    }

    #[cfg(test)]
    fn waiting(&self) -> usize {
        self.waiting
    }

    pub(crate) fn open_breakers(&self) -> usize {
        self.lanes.values().filter(|lane| lane.breaker.is_open()).count()
    }

    /// The endpoints that are to be shown with an open breaker.
    pub(crate) fn shown_open(&self, now: Instant) -> Vec<EndpointId> {
        let open = self.lanes.iter().filter(|(_, lane)| lane.breaker.shows_open(now));
        let mut open: Vec<EndpointId> = open.map(|(endpoint, _)| *endpoint).collect();
        open.sort_unstable();
        open
    }

    /// How much more work of a class an endpoint's lane wants; `None` if the endpoint can't be tried now.
    pub(crate) fn room(&self, endpoint: EndpointId, class: Class, now: Instant) -> Option<usize> {
        let Some(lane) = self.lanes.get(&endpoint) else { return Some(SOFT_LIMIT) };
        let waits = match class {
            Class::Prompt => lane.waiting.len(),
            Class::Background => lane.background.len(),
        };
        match lane.permission(now) {
            Permission::Yes => Some(lane.most_waiting().min(SOFT_LIMIT).saturating_sub(waits)),
            Permission::Probe => Some(1_usize.saturating_sub(waits)),
            Permission::Wait | Permission::NotBefore(_) => None,
        }
    }

    /// Puts work into its endpoint's lane. What a feed with a single endpoint brings is never refused: that feed is
    /// read only as there is room.
    pub(crate) fn put(&mut self, work: Work, limits: &Limits, now: Instant) -> Put {
        let lane = self.lanes.entry(work.endpoint_id).or_default();
        lane.limits = *limits;
        if limits.rate_per_second.is_some() {
            self.rated.insert(work.endpoint_id);
        }
        let class = Class::of(&work);
        if class == Class::Prompt {
            self.background.live_came(now);
        }
        if !matches!(work.origin, Origin::Single(..)) {
            let back_at = match lane.permission(now) {
                Permission::NotBefore(at) => Some(at),
                Permission::Wait => Some(lane.breaker.back_at(now) + PAUSE),
                Permission::Probe if !lane.waiting.is_empty() => Some(now + PAUSE),
                _ if lane.waiting.len() >= HARD_LIMIT => Some(now + PAUSE),
                _ => lane.paced(now),
            };
            if let Some(at) = back_at {
                return Put::Refused(work, at);
            }
        }
        self.waiting += 1;
        let endpoint = work.endpoint_id;
        match class {
            Class::Prompt => lane.waiting.push_back(work),
            Class::Background => lane.background.push_back(work),
        }
        Self::enter(&mut self.ring, endpoint, lane);
        Put::Waits
    }

    /// The next work that may start, taken out and counted as in flight; `None` if nothing may.
    pub(crate) fn start_next(&mut self, now: Instant) -> Option<Work> {
        if !self.held_back.is_empty()
            && self.background.may_start(now)
            && let Some(endpoint) = self.held_back.pop_front()
            && let Some(lane) = self.lanes.get_mut(&endpoint)
        {
            lane.is_held_back = false;
            Self::enter(&mut self.ring, endpoint, lane);
        }
        for _ in 0..self.ring.len() {
            let free = self.most.saturating_sub(self.in_flight);
            if free == 0 {
                return None;
            }
            let endpoint = self.ring.pop_front()?;
            let Some(lane) = self.lanes.get_mut(&endpoint) else { continue };
            let of_group = self.in_flight_of_group.entry(lane.limits.group_id).or_default();
            let allowed = matches!(lane.permission(now), Permission::Yes | Permission::Probe)
                && (lane.turns > 0 || lane.limits.rate_per_second.is_none());
            if lane.is_empty() || !allowed || lane.in_flight >= lane.limits.max_in_flight {
                // It comes back when its attempt ends, or when its time has come.
                lane.in_ring = false;
                continue;
            }
            if lane.waiting.is_empty() {
                if lane.background_in_flight >= (lane.limits.max_in_flight / 2).max(1) {
                    lane.in_ring = false;
                    continue;
                }
                if !self.background.may_start(now) {
                    lane.in_ring = false;
                    if !std::mem::replace(&mut lane.is_held_back, true) {
                        self.held_back.push_back(endpoint);
                    }
                    continue;
                }
            }
            if lane.in_flight >= (free / 4).max(1) || *of_group >= free.max(1) {
                self.ring.push_back(endpoint);
                continue;
            }
            let Some(work) = lane.take() else { continue };
            if work.is_background() {
                lane.background_in_flight += 1;
                self.background.started();
            }
            lane.breaker.started();
            lane.turns = lane.turns.saturating_sub(1);
            lane.in_flight += 1;
            *of_group += 1;
            self.in_flight += 1;
            self.waiting -= 1;
            self.ring.push_back(endpoint);
            return Some(work);
        }
        None
    }

    /// Whether live work has come in lately.
    pub(crate) fn is_live_coming_in(&self, now: Instant) -> bool {
        self.background.is_beside_live(now)
    }

    /// The first attempt of a live delivery starts, so long after its event was accepted.
    pub(crate) fn live_started(&mut self, delay: Duration, now: Instant) {
        self.background.live_started(delay, now);
    }

    /// An attempt has ended. Answers the work that the endpoint's breaker, just opened, sends away.
    pub(crate) fn ended(
        &mut self,
        (endpoint, class): (EndpointId, Class),
        how: Ended,
        now: Instant,
    ) -> Vec<(Work, Instant)> {
        if class == Class::Background {
            self.background.ended();
        }
        let Some(lane) = self.lanes.get_mut(&endpoint) else { return Vec::new() };
        lane.in_flight = lane.in_flight.saturating_sub(1);
        if class == Class::Background {
            lane.background_in_flight = lane.background_in_flight.saturating_sub(1);
        }
        self.in_flight = self.in_flight.saturating_sub(1);
        if let Some(of_group) = self.in_flight_of_group.get_mut(&lane.limits.group_id) {
            *of_group = of_group.saturating_sub(1);
        }
        match how {
            Ended::Well => lane.breaker.succeeded(),
            Ended::Untried => lane.breaker.untried(),
            Ended::Badly => {
                lane.breaker.failed(now);
            }
            Ended::SlowDown(until) => {
                lane.breaker.failed(now);
                lane.quiet_until = Some(lane.quiet_until.map_or(until, |at| at.max(until)));
            }
        }
        let away = match lane.permission(now) {
            Permission::NotBefore(at) => send_away(&mut lane.waiting, at, |_| true),
            _ => Vec::new(),
        };
        self.waiting -= away.len();
        Self::enter(&mut self.ring, endpoint, lane);
        away
    }

    /// The endpoint holds up others, and will for a while.
    pub(crate) fn note_lag(&mut self, endpoint: EndpointId, now: Instant) {
        if let Some(lane) = self.lanes.get_mut(&endpoint) {
            lane.lags_until = Some(now + LAGS_FOR);
        }
    }

    /// Whether the endpoint held up others lately, and has not caught up.
    pub(crate) fn lags(&self, endpoint: EndpointId, now: Instant) -> bool {
        self.lanes.get(&endpoint).is_some_and(|lane| lane.lags(now))
    }

    /// Lanes that wait for turns of a shared rate, and how many each can use. Each is answered by
    /// [`Self::grant`].
    pub(crate) fn want_turns(&mut self, now: Instant) -> Vec<(EndpointId, usize)> {
        let mut wanted = Vec::new();
        for endpoint in &self.rated {
            let Some(lane) = self.lanes.get_mut(endpoint) else { continue };
            let due = lane.more_turns_at.is_none_or(|at| at <= now);
            if due
                && lane.limits.rate_per_second.is_some()
                && !lane.asked_for_turns
                && lane.turns == 0
                && !lane.is_empty()
            {
                lane.asked_for_turns = true;
                wanted.push((*endpoint, lane.waiting.len() + lane.background.len()));
            }
        }
        wanted
    }

    pub(crate) fn grant(&mut self, endpoint: EndpointId, turns: usize, more_at: Instant) {
        if let Some(lane) = self.lanes.get_mut(&endpoint) {
            lane.turns += turns;
            lane.more_turns_at = Some(more_at);
            lane.asked_for_turns = false;
            Self::enter(&mut self.ring, endpoint, lane);
        }
    }

    /// Takes out work that has waited too long, with when to come back, and lets lanes whose time has come
    /// into the ring. Lanes without anything to remember are dropped.
    pub(crate) fn sweep(&mut self, now: Instant, too_long: impl Fn(&Work) -> bool) -> Vec<(Work, Instant)> {
        let mut away = Vec::new();
        for (endpoint, lane) in &mut self.lanes {
            let back_at = lane.breaker.back_at(now).max(lane.quiet_until.unwrap_or(now)).max(now + PAUSE);
            for queue in [&mut lane.waiting, &mut lane.background] {
                if queue.iter().any(&too_long) {
                    away.extend(send_away(queue, back_at, &too_long));
                }
            }
            Self::enter(&mut self.ring, *endpoint, lane);
        }
        self.waiting -= away.len();
        self.lanes.retain(|_, lane| !lane.is_idle(now));
        let lanes = &self.lanes;
        self.rated.retain(|endpoint| lanes.contains_key(endpoint));
        away
    }

    /// Takes out background work of feeds that were ended by hand.
    pub(crate) fn drop_background(&mut self, ended: impl Fn(&Work) -> bool) -> Vec<Work> {
        let mut dropped = Vec::new();
        for lane in self.lanes.values_mut().filter(|lane| !lane.background.is_empty()) {
            let (gone, stay): (VecDeque<Work>, VecDeque<Work>) =
                std::mem::take(&mut lane.background).into_iter().partition(&ended);
            lane.background = stay;
            dropped.extend(gone);
        }
        self.waiting -= dropped.len();
        dropped
    }

    /// Takes out everything that waits.
    pub(crate) fn clear(&mut self) -> Vec<Work> {
        if std::mem::take(&mut self.waiting) == 0 {
            return Vec::new();
        }
        let queues = self.lanes.values_mut().flat_map(|lane| [&mut lane.waiting, &mut lane.background]);
        queues.flat_map(std::mem::take).collect()
    }

    fn enter(ring: &mut VecDeque<EndpointId>, endpoint: EndpointId, lane: &mut Lane) {
        if !lane.in_ring && !lane.is_empty() {
            lane.in_ring = true;
            ring.push_back(endpoint);
        }
    }
}

fn send_away(
    queue: &mut VecDeque<Work>,
    back_at: Instant,
    which: impl Fn(&Work) -> bool,
) -> Vec<(Work, Instant)> {
    let (away, stay): (VecDeque<Work>, VecDeque<Work>) = std::mem::take(queue).into_iter().partition(which);
    *queue = stay;
    away.into_iter().map(|work| (work, back_at)).collect()
}

#[cfg(test)]
mod tests;
