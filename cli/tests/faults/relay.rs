//! The relay dies, stops, or is two.

use eventrail_core::testing::{CuttingProxy, eventually_within};

use crate::traffic::{Traffic, post_all};
use crate::world::{LONG, World, leader, until_says};

#[tokio::test]
async fn a_leading_dispatcher_killed_under_traffic_is_followed_by_another() {
    let world = World::start().await;
    let api = world.api(&[]).await;
    let mut dispatchers = vec![world.dispatcher(&[]).await, world.dispatcher(&[]).await];
    let traffic = Traffic::start(&api.client());
    for round in 1..=2 {
        traffic.more(100).await;
        let leading = leader(&[&dispatchers[0], &dispatchers[1]], &world.invariants).await;
        dispatchers.swap_remove(leading).kill9().await;
        // The lease of the dead runs out, what it held is taken over.
        world.heals(&format!("kill -9 {round} of the leader"), &traffic.so_far()).await;
        dispatchers.push(world.dispatcher(&[]).await);
    }
    let events = traffic.stop().await;
    // Requests that were under way, or done and not recorded, are made again: for each kill at most what one
    // dispatcher may hold of three endpoints, far less in practice.
    let figures = world.settles(&events, 0).await;
    assert!(figures.duplicates < figures.deliveries / 4, "{figures:?}");
}

#[tokio::test]
async fn a_relay_killed_after_its_append_and_before_it_knew_is_followed_from_the_streams_tail() {
    let world = World::start().await;
    let api = world.api(&[]).await;
    let (redis, url) = CuttingProxy::for_url(&world.stack.redis.url()).await;
    let deaf = world.dispatcher(&[("REDIS_URL", &url)]).await;
    let mut events = post_all(&api.client(), 0..5).await;
    world.heals("nothing yet", &events).await;
    // Appends reach Redis; the dispatcher hears neither that nor of any entry.
    redis.swallow_answers();
    events.extend(post_all(&api.client(), 5..30).await);
    let mut connection = world.stack.redis_connection().await;
    for (_, stream) in world.invariants.live_streams().await.unwrap() {
        eventually_within(LONG, async || {
            let length: usize = redis::cmd("XLEN")
                .arg(&stream)
                .query_async(&mut connection)
                .await
                .map_err(|e| e.to_string())?;
            if length > 0 { Ok(()) } else { Err(format!("{stream} is empty")) }
        })
        .await;
    }
    deaf.kill9().await;
    let _next = world.dispatcher(&[]).await;
    let figures = world.settles(&events, 0).await;
    assert_eq!(figures.duplicates, 0, "the dead one had read nothing, so nothing was sent twice");
}

#[tokio::test]
async fn an_append_that_arrives_when_another_relay_has_gone_on_adds_nothing() {
    let world = World::start().await;
    let api = world.api(&[]).await;
    let (redis, url) = CuttingProxy::for_url(&world.stack.redis.url()).await;
    let stalled = world.dispatcher(&[("REDIS_URL", &url)]).await;
    let mut events = post_all(&api.client(), 0..5).await;
    world.heals("nothing yet", &events).await;
    // The relay has read the log and its append is on the wire, where it stays.
    redis.stall();
    events.extend(post_all(&api.client(), 5..30).await);
    until_says(&stalled, "relay step failed").await;
    stalled.kill9().await;
    let _next = world.dispatcher(&[]).await;
    world.heals("kill -9 between read and append", &events).await;
    events.extend(post_all(&api.client(), 30..40).await);
    world.heals("that", &events).await;
    // Now the bytes of the dead arrive.
    redis.mend();
    events.extend(post_all(&api.client(), 40..50).await);
    let figures = world.settles(&events, 0).await;
    assert_eq!(figures.duplicates, 0, "the dead one had read nothing, so nothing was sent twice");
}

#[tokio::test]
async fn two_relays_at_once_leave_no_holes() {
    let world = World::start().await;
    let api = world.api(&[]).await;
    let dispatchers = [world.dispatcher(&[]).await, world.dispatcher(&[]).await];
    let both = [&dispatchers[0], &dispatchers[1]];
    let traffic = Traffic::start(&api.client());
    for _ in 0..2 {
        traffic.more(50).await;
        let paused = leader(&both, &world.invariants).await;
        both[paused].sigstop();
        eventually_within(LONG, async || match leader(&both, &world.invariants).await {
            now if now != paused => Ok(()),
            _ => Err("the paused one still leads"),
        })
        .await;
        traffic.more(50).await;
        // It wakes up in the middle of a step, believing that it leads.
        both[paused].sigcont();
        traffic.more(50).await;
    }
    let events = traffic.stop().await;
    let figures = world.settles(&events, 0).await;
    // What the paused one had in hand was sent by the other after it was taken for dead.
    assert!(figures.duplicates < figures.deliveries / 4, "{figures:?}");
}

#[tokio::test]
async fn a_settle_pass_of_a_relay_that_lost_its_lease_settles_nothing_that_is_not() {
    let world = World::start().await;
    let api = world.api(&[]).await;
    let first = world.dispatcher(&[]).await;
    let mut events = post_all(&api.client(), 0..5).await;
    world.settles(&events, 0).await;
    let second = world.dispatcher(&[]).await;

    // Nobody can write a settled position for now; the leader stands in the middle of its pass.
    let locked = world.invariants.lock_feeds().await.unwrap();
    events.extend(post_all(&api.client(), 5..10).await);
    world.heals("nothing yet", &events).await;
    eventually_within(LONG, async || match world.invariants.waiting_to_settle().await {
        Ok(1..) => Ok(()),
        Ok(_) => Err("nobody settles".to_owned()),
        Err(error) => Err(error.to_string()),
    })
    .await;
    // Until its lease is over and the other one has appended what nobody has answered yet.
    world.hold_all();
    let arrived = world.receiver.count();
    let held = post_all(&api.client(), 10..20).await;
    world.receiver.wait_for(arrived + World::owed(&held)).await;
    until_says(&second, "relay leads").await;
    locked.rollback().await.unwrap();
    eventually_within(LONG, async || match world.invariants.waiting_to_settle().await {
        Ok(0) => Ok(()),
        Ok(some) => Err(format!("{some} settle")),
        Err(error) => Err(error.to_string()),
    })
    .await;
    assert_eq!(world.invariants.settled_without_outcome().await.unwrap(), [""; 0]);

    // The proof: both relays and all of Redis are lost, and what was not settled comes again.
    first.kill9().await;
    second.kill9().await;
    let mut redis = world.stack.redis_connection().await;
    redis::cmd("FLUSHALL").exec_async(&mut redis).await.unwrap();
    world.answer_all();
    let _third = world.dispatcher(&[]).await;
    let owed = World::owed(&held);
    events.extend(held);
    let figures = world.settles(&events, 0).await;
    assert_eq!(figures.duplicates, owed, "exactly those that were under way when both were killed");
}
