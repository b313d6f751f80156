//! Whose turn it is, by hand and by chance.

use super::*;
use std::sync::Arc;

use eventrail_core::db::tail::LoggedEvent;
use eventrail_core::feed::FeedKind;
use eventrail_core::ids::EventId;

use crate::event::Event;
use crate::work::HeldEntry;

fn work(endpoint: EndpointId, now: Instant) -> Work {
    let event = LoggedEvent {
        position: 1,
        id: EventId::generate(),
        event_type: "a".into(),
        source: "s".into(),
        payload: Some(b"1".to_vec()),
        created_at: chrono::DateTime::UNIX_EPOCH,
        group_id: None,
    };
    Work {
        event: Arc::new(Event::new(&event).unwrap()),
        endpoint_id: endpoint,
        group_id: 1,
        group: "g".parse().unwrap(),
        feed_id: 1,
        replay_id: None,
        resend: None,
        ask: 1,
        attempts_done: 0,
        origin: Origin::Retry,
        taken_at: now,
    }
}

fn limits(group_id: i64, max_in_flight: usize) -> Limits {
    Limits { group_id, max_in_flight, rate_per_second: None }
}

fn fill(lanes: &mut Lanes, endpoint: EndpointId, group: i64, count: usize, now: Instant) {
    for _ in 0..count {
        assert!(matches!(lanes.put(work(endpoint, now), &limits(group, 1000), now), Put::Waits));
    }
}

fn start_all(lanes: &mut Lanes, now: Instant) -> HashMap<EndpointId, usize> {
    let mut started = HashMap::new();
    while let Some(work) = lanes.start_next(now) {
        *started.entry(work.endpoint_id).or_default() += 1;
    }
    started
}

#[test]
fn one_busy_endpoint_gets_a_fifth_of_all_permits() {
    let (now, busy) = (Instant::now(), EndpointId::generate());
    let mut lanes = Lanes::new(500, now);
    fill(&mut lanes, busy, 1, 600, now);
    assert_eq!(start_all(&mut lanes, now)[&busy], 100);
}

#[test]
fn a_thousand_slow_endpoints_of_one_group_leave_permits_for_another_group() {
    let now = Instant::now();
    let mut lanes = Lanes::new(512, now);
    for _ in 0..1000 {
        fill(&mut lanes, EndpointId::generate(), 1, 5, now);
    }
    let slow: usize = start_all(&mut lanes, now).values().sum();
    assert_eq!((slow, lanes.in_flight()), (256, 256));
    let other = EndpointId::generate();
    fill(&mut lanes, other, 2, 5, now);
    assert_eq!(start_all(&mut lanes, now)[&other], 5);
}

#[test]
fn live_work_comes_before_replays_and_leaves_them_a_share() {
    let (now, endpoint) = (Instant::now(), EndpointId::generate());
    let mut lanes = Lanes::new(512, now);
    let replayed = |now| {
        let entry = HeldEntry::new("s".into(), 1, 1, 1);
        Work { origin: Origin::Single(FeedKind::Replay, entry), ..work(endpoint, now) }
    };
    for _ in 0..100 {
        lanes.put(replayed(now), &limits(1, 1000), now);
    }
    fill(&mut lanes, endpoint, 1, 20, now);
    let started = |lanes: &mut Lanes, now| -> Vec<bool> {
        std::iter::from_fn(|| lanes.start_next(now)).map(|work| work.is_background()).collect()
    };
    assert_eq!(started(&mut lanes, now), [false; 20]);
    let soon = now + Duration::from_millis(20);
    assert_eq!(started(&mut lanes, soon), [true; 4], "a few beside live work");
    let later = now + Duration::from_secs(2);
    assert!(lanes.start_next(later).is_some_and(|work| work.is_background()), "more while none comes in");
    lanes.ended((endpoint, Class::Background), Ended::Well, later);
    fill(&mut lanes, endpoint, 1, 1, later);
    assert!(lanes.start_next(later).is_some_and(|work| !work.is_background()));
}

#[test]
fn an_endpoints_own_limit_holds() {
    let (now, endpoint) = (Instant::now(), EndpointId::generate());
    let mut lanes = Lanes::new(512, now);
    for _ in 0..10 {
        lanes.put(work(endpoint, now), &limits(1, 2), now);
    }
    assert_eq!(start_all(&mut lanes, now)[&endpoint], 2);
    lanes.ended((endpoint, Class::Prompt), Ended::Well, now);
    assert_eq!(start_all(&mut lanes, now)[&endpoint], 1);
    assert_eq!(lanes.waiting(), 7);
}

#[test]
fn an_open_breaker_sends_waiting_work_away_and_lets_one_probe_through() {
    let (now, endpoint) = (Instant::now(), EndpointId::generate());
    let mut lanes = Lanes::new(512, now);
    fill(&mut lanes, endpoint, 1, 50, now);
    let mut away = Vec::new();
    for _ in 0..20 {
        lanes.start_next(now).unwrap();
        away.extend(lanes.ended((endpoint, Class::Prompt), Ended::Badly, now));
    }
    assert_eq!((away.len(), lanes.open_breakers(), lanes.waiting()), (30, 1, 0));
    assert!(matches!(lanes.put(work(endpoint, now), &limits(1, 100), now), Put::Refused(..)));
    let later = now + Duration::from_secs(6);
    fill(&mut lanes, endpoint, 1, 1, later);
    assert!(matches!(lanes.put(work(endpoint, now), &limits(1, 100), later), Put::Refused(..)));
    assert!(lanes.start_next(later).is_some());
    assert!(lanes.start_next(later).is_none());
    lanes.ended((endpoint, Class::Prompt), Ended::Well, later);
    assert_eq!((lanes.open_breakers(), lanes.room(endpoint, Class::Prompt, later)), (0, Some(SOFT_LIMIT)));
}

#[test]
fn a_receiver_that_asks_for_quiet_gets_it() {
    let (now, endpoint) = (Instant::now(), EndpointId::generate());
    let mut lanes = Lanes::new(512, now);
    fill(&mut lanes, endpoint, 1, 2, now);
    lanes.start_next(now).unwrap();
    let until = now + Duration::from_secs(7);
    assert_eq!(lanes.ended((endpoint, Class::Prompt), Ended::SlowDown(until), now).len(), 1);
    assert!(matches!(lanes.put(work(endpoint, now), &limits(1, 9), now), Put::Refused(_, at) if at == until));
    assert!(matches!(lanes.put(work(endpoint, now), &limits(1, 9), until), Put::Waits));
}

#[test]
fn a_rated_lane_starts_as_many_as_it_has_turns() {
    let (now, endpoint) = (Instant::now(), EndpointId::generate());
    let mut lanes = Lanes::new(512, now);
    let rated = Limits { rate_per_second: Some(50), ..limits(1, 100) };
    for _ in 0..10 {
        lanes.put(work(endpoint, now), &rated, now);
    }
    assert!(start_all(&mut lanes, now).is_empty());
    assert_eq!(lanes.want_turns(now), [(endpoint, 10)]);
    assert!(lanes.want_turns(now).is_empty(), "asked already");
    let later = now + Duration::from_millis(20);
    lanes.grant(endpoint, 3, later);
    assert_eq!(start_all(&mut lanes, now)[&endpoint], 3);
    assert!(lanes.want_turns(now).is_empty(), "not before its time");
    assert_eq!(lanes.want_turns(later), [(endpoint, 7)]);
}

#[test]
fn what_a_rate_has_no_room_for_comes_back_at_that_rate() {
    let (now, endpoint) = (Instant::now(), EndpointId::generate());
    let mut lanes = Lanes::new(512, now);
    let rated = Limits { rate_per_second: Some(10), ..limits(1, 100) };
    for _ in 0..20 {
        assert!(matches!(lanes.put(work(endpoint, now), &rated, now), Put::Waits));
    }
    for n in 0..10_u32 {
        let Put::Refused(_, at) = lanes.put(work(endpoint, now), &rated, now) else { panic!("{n}") };
        assert_eq!(at - now, PAUSE + Duration::from_millis(100) * n);
    }
}
