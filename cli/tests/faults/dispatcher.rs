//! A dispatcher dies or is stopped in the middle of its deliveries.

use std::time::Duration;

use eventrail_core::testing::{Answer, CuttingProxy, eventually_within};

use crate::traffic::post_all;
use crate::world::{DEFAULT, LONG, ORDERS, USERS, World, leader, until_says};

#[tokio::test]
async fn requests_under_way_at_a_kill_are_made_again_under_the_same_webhook_id() {
    let world = World::start().await;
    let api = world.api(&[]).await;
    let dispatchers = [world.dispatcher(&[]).await, world.dispatcher(&[]).await];
    let leading = leader(&[&dispatchers[0], &dispatchers[1]], &world.invariants).await;
    let [first, second] = dispatchers;
    let (victim, _other) = if leading == 0 { (first, second) } else { (second, first) };
    world.hold_all();
    let events = post_all(&api.client(), 0..20).await;
    let owed = World::owed(&events);
    let held = world.receiver.wait_for(owed).await;
    assert_eq!(held.len(), owed);
    world.answer_all();
    victim.kill9().await;
    // Requests that the other one held are answered; those of the dead go nowhere.
    world.receiver.release();
    let figures = world.settles(&events, 0).await;
    // Each request of the dead is made once more by the other, and nothing else is.
    assert!((1..=owed).contains(&figures.duplicates), "{figures:?}");
    for (id, requests) in world.requests_by_event(ORDERS) {
        assert!(requests.len() <= 2, "{id} came {} times", requests.len());
        assert!(requests.iter().all(|request| request.body == requests[0].body));
        assert!(requests.iter().all(|request| request.header("eventrail-attempt") == "1"));
    }
    // An attempt that nobody lived to record is none.
    assert!(world.stack.deliveries().await.iter().all(|row| row.attempt_count == 1));
}

#[tokio::test]
async fn outcomes_recorded_but_not_settled_by_a_dispatcher_that_died_are_not_sent_again() {
    let world = World::start().await;
    let api = world.api(&[]).await;
    let (redis, url) = CuttingProxy::for_url(&world.stack.redis.url()).await;
    let first = world.dispatcher(&[("REDIS_URL", &url)]).await;
    world.hold_all();
    // One endpoint fails: its retries are rows that no ZSET knows of.
    world.receiver.always(ORDERS, Answer::hold(500));
    let events = post_all(&api.client(), 0..20).await;
    world.receiver.wait_for(World::owed(&events)).await;
    redis.cut();
    world.receiver.release();
    eventually_within(LONG, async || {
        let rows = world.stack.deliveries().await.len();
        if rows == World::owed(&events) { Ok(()) } else { Err(format!("{rows} outcomes recorded")) }
    })
    .await;
    until_says(&first, "Redis not settled").await;
    first.kill9().await;
    world.answer_all();

    let _next = world.dispatcher(&[]).await;
    let figures = world.settles(&events, events.len()).await;
    assert_eq!(figures.duplicates, 0, "what was recorded was looked up");
    for (path, each) in [(DEFAULT, 1), (ORDERS, 2), (USERS, 1)] {
        assert!(world.requests_by_event(path).values().all(|requests| requests.len() == each), "{path}");
    }
}

#[tokio::test]
async fn a_stopped_dispatcher_finishes_what_it_has_sent_while_another_goes_on() {
    let world = World::start().await;
    let api = world.api(&[]).await;
    let first = world.dispatcher(&[]).await;
    leader(&[&first], &world.invariants).await;
    world.hold_all();
    let mut events = post_all(&api.client(), 0..20).await;
    let held = World::owed(&events);
    world.receiver.wait_for(held).await;
    let second = world.dispatcher(&[]).await;
    world.answer_all();
    let meanwhile = async {
        // The lease is given up, not waited for: the other one delivers while the first one's requests are held.
        leader(&[&second], &world.invariants).await;
        let more = post_all(&api.client(), 20..40).await;
        world.heals("SIGTERM, requests still held", &more).await;
        world.receiver.release();
        more
    };
    let (status, more) = tokio::join!(first.sigterm(), meanwhile);
    assert!(status.success(), "{status}");
    events.extend(more);
    let figures = world.settles(&events, 0).await;
    assert_eq!(figures.duplicates, 0, "attempts under way were finished and counted");
}

#[tokio::test]
async fn attempts_that_a_stop_cuts_off_count_for_nothing_and_another_makes_them() {
    let world = World::start().await;
    let api = world.api(&[]).await;
    // The drain is as long as the default timeout of an attempt; the endpoints have a longer one.
    let first = world.dispatcher(&[("ATTEMPT_TIMEOUT_MS", "1000")]).await;
    world.hold_all();
    let events = post_all(&api.client(), 0..20).await;
    let owed = World::owed(&events);
    world.receiver.wait_for(owed).await;
    let _second = world.dispatcher(&[]).await;
    world.answer_all();
    let status = first.sigterm().await;
    assert!(status.success(), "{status}");
    let figures = world.settles(&events, 0).await;
    assert_eq!(figures.duplicates, owed, "each was begun once and then made once");
    assert!(world.stack.deliveries().await.iter().all(|row| row.attempt_count == 1));
}

#[tokio::test]
async fn a_stopped_dispatcher_gives_back_the_retries_that_it_had_claimed() {
    let world = World::start().await;
    let api = world.api(&[]).await;
    let first = world.dispatcher(&[("ATTEMPT_TIMEOUT_MS", "1000")]).await;
    // The first attempts fail, the second ones are held.
    for (path, times) in [(DEFAULT, 3), (ORDERS, 3), (USERS, 1)] {
        world.receiver.script(path, (0..times).map(|_| Answer::status(500)));
    }
    world.hold_all();
    let events = post_all(&api.client(), 0..3).await;
    let owed = World::owed(&events);
    world.receiver.wait_for(2 * owed).await;
    let _second = world.dispatcher(&[]).await;
    world.answer_all();
    let status = first.sigterm().await;
    assert!(status.success(), "{status}");
    let figures = world.settles(&events, owed).await;
    assert_eq!(figures.duplicates, owed, "the second attempts were begun once and then made once");
}

#[tokio::test]
async fn retries_under_way_at_a_kill_are_made_by_another_within_their_lease() {
    let world = World::start().await;
    let api = world.api(&[]).await;
    let first = world.dispatcher(&[]).await;
    for (path, times) in [(DEFAULT, 3), (ORDERS, 3), (USERS, 1)] {
        world.receiver.script(path, (0..times).map(|_| Answer::status(500)));
    }
    world.hold_all();
    let events = post_all(&api.client(), 0..3).await;
    let owed = World::owed(&events);
    world.receiver.wait_for(2 * owed).await;
    let _second = world.dispatcher(&[]).await;
    world.answer_all();
    first.kill9().await;
    let figures = world.settles(&events, owed).await;
    assert_eq!(figures.duplicates, owed, "the second attempts were begun once and then made once");
    assert!(world.stack.deliveries().await.iter().all(|row| row.attempt_count == 2));
}

#[tokio::test]
async fn a_retry_that_takes_longer_than_its_lease_is_not_tried_twice() {
    let world = World::start().await;
    let api = world.api(&[]).await;
    let _dispatchers = (world.dispatcher(&[]).await, world.dispatcher(&[]).await);
    for (path, times) in [(DEFAULT, 3), (ORDERS, 3), (USERS, 1)] {
        world.receiver.script(path, (0..times).map(|_| Answer::status(500)));
        world.receiver.always(path, Answer::status(200).after(Duration::from_secs(16)));
    }
    let events = post_all(&api.client(), 0..3).await;
    let figures = world.settles(&events, World::owed(&events)).await;
    assert_eq!(figures.duplicates, 0, "the lease was renewed");
}

#[tokio::test]
async fn a_dispatcher_that_was_frozen_for_long_sends_nothing_of_what_others_have_taken_over() {
    let world = World::start().await;
    let api = world.api(&[]).await;
    let first = world.dispatcher(&[("MAX_IN_FLIGHT", "8")]).await;
    world.hold_all();
    let events = post_all(&api.client(), 0..100).await;
    world.has_read(&events).await;
    world.receiver.wait_for(3).await;
    first.sigstop();
    world.answer_all();
    let _second = world.dispatcher(&[]).await;
    world.heals("a frozen dispatcher", &events).await;
    first.sigcont();
    until_says(&first, "what waits here is left").await;
    world.receiver.release();
    let figures = world.settles(&events, 0).await;
    assert!((1..=8).contains(&figures.duplicates), "only what was under way: {figures:?}");
}
