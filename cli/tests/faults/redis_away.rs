//! Redis loses all, some, or one stream, or is away.

use eventrail_core::testing::{Answer, CuttingProxy, Stack, StackOptions, eventually_within};
use redis::aio::MultiplexedConnection;

use crate::traffic::{Traffic, post_all};
use crate::world::{DEFAULT, LONG, ORDERS, USERS, World, leader, until_says};

/// Flushes everything; answers how many entries stood in the streams at that moment.
async fn flush(stack: &Stack, streams: &[(i64, String)]) -> usize {
    let mut connection = stack.redis_connection().await;
    let mut pipeline = redis::pipe();
    pipeline.atomic();
    for (_, stream) in streams {
        pipeline.cmd("XLEN").arg(stream);
    }
    pipeline.cmd("FLUSHALL").ignore();
    let lengths: Vec<usize> = pipeline.query_async(&mut connection).await.unwrap();
    lengths.iter().sum()
}

/// Makes the next so many requests to each endpoint fail; answers how many that are.
fn fail_some(world: &World, times: usize) -> usize {
    for path in [DEFAULT, ORDERS, USERS] {
        world.receiver.script(path, (0..times).map(|_| Answer::status(500)));
    }
    3 * times
}

#[tokio::test]
async fn flushes_in_the_middle_of_traffic_with_retries_scheduled_lose_nothing() {
    let world = World::start().await;
    let api = world.api(&[]).await;
    let _dispatchers = (world.dispatcher(&[]).await, world.dispatcher(&[]).await);
    let streams = world.invariants.live_streams().await.unwrap();
    let traffic = Traffic::start(&api.client());
    let (mut failures, mut flushed) = (0, 0);
    for round in 1..=5 {
        // Fewer failures in a row than open the breaker.
        failures += fail_some(&world, 10);
        traffic.more(60).await;
        flushed += flush(&world.stack, &streams).await;
        traffic.more(20).await;
        world.heals(&format!("FLUSHALL {round}"), &traffic.so_far()).await;
    }
    let events = traffic.stop().await;
    let figures = world.settles(&events, failures).await;
    // One dispatcher may send what the other has in hand at a flush: at most what stood in the streams then, for
    // the two targets that an entry may have. The retries that they both know of are duplicates in the same way.
    assert!(figures.duplicates <= 2 * flushed + failures, "{figures:?}, {flushed} entries flushed");
}

#[tokio::test]
async fn one_dispatcher_alone_sends_nothing_twice_over_any_number_of_flushes() {
    let world = World::start().await;
    let api = world.api(&[]).await;
    let _dispatcher = world.dispatcher(&[]).await;
    let streams = world.invariants.live_streams().await.unwrap();
    let traffic = Traffic::start(&api.client());
    for _ in 0..20 {
        traffic.more(10).await;
        flush(&world.stack, &streams).await;
    }
    let events = traffic.stop().await;
    let figures = world.settles(&events, 0).await;
    assert_eq!(figures.duplicates, 0, "what it has in hand it knows, what is recorded it looks up");
}

#[tokio::test]
async fn a_flush_while_all_is_idle_is_healed_by_the_next_event() {
    let world = World::start().await;
    let api = world.api(&[]).await;
    let _dispatcher = world.dispatcher(&[]).await;
    let mut events = post_all(&api.client(), 0..10).await;
    world.settles(&events, 0).await;
    for round in 1..=3 {
        let streams = world.invariants.live_streams().await.unwrap();
        assert_eq!(flush(&world.stack, &streams).await, 0, "idle");
        events.extend(post_all(&api.client(), 10 * round..10 * round + 10).await);
        world.heals("an idle flush", &events).await;
    }
    let figures = world.settles(&events, 0).await;
    assert_eq!(figures.duplicates, 0);
}

#[tokio::test]
async fn retries_that_a_flush_takes_from_an_idle_system_are_made_all_the_same() {
    let world = World::start().await;
    let api = world.api(&[]).await;
    let _dispatcher = world.dispatcher(&[("BASE_BACKOFF_MS", "1500")]).await;
    for path in [DEFAULT, ORDERS, USERS] {
        world.receiver.script(path, (0..5).map(|_| Answer::status(500)));
    }
    let events = post_all(&api.client(), 0..15).await;
    // All have been tried: ten deliveries of each group's endpoint arrived, five wait for their retry.
    eventually_within(LONG, async || {
        let rows = world.stack.deliveries().await.len();
        if rows == World::owed(&events) { Ok(()) } else { Err(format!("{rows} tried")) }
    })
    .await;
    flush(&world.stack, &world.invariants.live_streams().await.unwrap()).await;
    let figures = world.settles(&events, 15).await;
    assert_eq!(figures.duplicates, 0);
    assert!(world.stack.deliveries().await.iter().all(|row| row.attempt_count <= 2));
}

#[tokio::test]
async fn a_flush_while_no_dispatcher_runs_loses_nothing() {
    let world = World::start().await;
    let api = world.api(&[]).await;
    let first = world.dispatcher(&[]).await;
    world.hold_all();
    let mut events = post_all(&api.client(), 0..20).await;
    let held = World::owed(&events);
    world.receiver.wait_for(held).await;
    first.kill9().await;
    events.extend(post_all(&api.client(), 20..40).await);
    flush(&world.stack, &world.invariants.live_streams().await.unwrap()).await;
    world.answer_all();
    let _second = world.dispatcher(&[]).await;
    let figures = world.settles(&events, 0).await;
    assert_eq!(figures.duplicates, held, "those that were under way when it was killed");
}

#[tokio::test]
async fn a_redis_that_comes_back_empty_is_filled_again() {
    let mut world = World::start().await;
    let api = world.api(&[]).await;
    let _dispatchers = (world.dispatcher(&[]).await, world.dispatcher(&[]).await);
    let traffic = Traffic::start(&api.client());
    for round in 1..=2 {
        traffic.more(80).await;
        world.stack.redis.kill().await;
        // The API needs no Redis to accept events.
        traffic.more(80).await;
        world.stack.redis.restart().await.unwrap();
        world.heals(&format!("restart {round} of Redis"), &traffic.so_far()).await;
    }
    let events = traffic.stop().await;
    let figures = world.settles(&events, 0).await;
    // What one dispatcher had sent and not recorded when Redis died, the other may send as well.
    assert!(figures.duplicates < figures.deliveries / 4, "{figures:?}");
}

#[tokio::test]
async fn a_redis_that_comes_back_from_an_older_snapshot_is_brought_up_to_date() {
    let mut world = World::start().await;
    let api = world.api(&[]).await;
    let _dispatcher = world.dispatcher(&[]).await;
    // The snapshot holds entries, pending and new, and leased and waiting retries.
    let mut failures = fail_some(&world, 5);
    let traffic = Traffic::start(&api.client());
    traffic.more(60).await;
    let mut redis: MultiplexedConnection = world.stack.redis_connection().await;
    redis::cmd("SAVE").exec_async(&mut redis).await.unwrap();
    failures += fail_some(&world, 5);
    traffic.more(120).await;
    world.stack.redis.kill().await;
    traffic.more(30).await;
    world.stack.redis.restart().await.unwrap();
    world.heals("a rollback of Redis", &traffic.so_far()).await;
    let events = traffic.stop().await;
    let figures = world.settles(&events, failures).await;
    // What had its outcome was looked up, what was in hand was known: nothing was sent twice.
    assert_eq!(figures.duplicates, 0);
}

#[tokio::test]
async fn a_rollback_while_all_is_idle_is_noticed_by_the_next_append() {
    let mut world = World::start().await;
    let api = world.api(&[]).await;
    let first = world.dispatcher(&[]).await;
    leader(&[&first], &world.invariants).await;
    world.hold_all();
    let mut events = post_all(&api.client(), 0..10).await;
    world.receiver.wait_for(World::owed(&events)).await;
    // Pending entries of the first are in the snapshot, and are long settled when it comes back.
    let mut redis = world.stack.redis_connection().await;
    redis::cmd("SAVE").exec_async(&mut redis).await.unwrap();
    world.answer_all();
    world.receiver.release();
    events.extend(post_all(&api.client(), 10..30).await);
    world.settles(&events, 0).await;
    world.stack.redis.restart().await.unwrap();
    events.extend(post_all(&api.client(), 30..40).await);
    world.heals("a rollback of Redis", &events).await;
    let figures = world.settles(&events, 0).await;
    assert_eq!(figures.duplicates, 0);
}

#[tokio::test]
async fn a_stream_deleted_under_traffic_is_made_again() {
    let world = World::start().await;
    let api = world.api(&[]).await;
    let _dispatcher = world.dispatcher(&[]).await;
    let streams = world.invariants.live_streams().await.unwrap();
    let mut redis = world.stack.redis_connection().await;
    let traffic = Traffic::start(&api.client());
    for round in 0..6 {
        traffic.more(30).await;
        redis::cmd("DEL").arg(&streams[round % 2].1).exec_async(&mut redis).await.unwrap();
    }
    world.heals("DEL", &traffic.so_far()).await;
    let events = traffic.stop().await;
    let figures = world.settles(&events, 0).await;
    assert_eq!(figures.duplicates, 0, "one dispatcher knows what it has in hand");
}

#[tokio::test]
async fn a_redis_consumer_group_destroyed_under_traffic_is_made_again_from_the_start() {
    let world = World::start_with(StackOptions::default()).await;
    let api = world.api(&[]).await;
    let dispatcher = world.dispatcher(&[]).await;
    until_says(&dispatcher, "relay leads").await;
    let streams = world.invariants.live_streams().await.unwrap();
    let mut redis = world.stack.redis_connection().await;
    let traffic = Traffic::start(&api.client());
    for round in 0..6 {
        traffic.more(30).await;
        let _: redis::RedisResult<i64> = redis::cmd("XGROUP")
            .arg("DESTROY")
            .arg(&streams[round % 2].1)
            .arg("eventrail")
            .query_async(&mut redis)
            .await;
    }
    world.heals("XGROUP DESTROY", &traffic.so_far()).await;
    let events = traffic.stop().await;
    let figures = world.settles(&events, 0).await;
    assert_eq!(figures.duplicates, 0, "one dispatcher knows what it has in hand");
}

/// The kernel gives such a connection up after ten seconds (`TCP_USER_TIMEOUT`). The proxy, like a load balancer
/// whose backend hangs, goes on acknowledging what it gets, so the dispatcher must give it up itself.
#[tokio::test]
async fn a_redis_that_vanishes_without_a_word_and_is_replaced_is_found_again() {
    let world = World::start().await;
    let api = world.api(&[]).await;
    let (redis, url) = CuttingProxy::for_url(&world.stack.redis.url()).await;
    let _dispatcher = world.dispatcher(&[("REDIS_URL", &url)]).await;
    let traffic = Traffic::start(&api.client());
    traffic.more(60).await;
    redis.abandon();
    traffic.more(60).await;
    let events = traffic.stop().await;
    let figures = world.settles(&events, 0).await;
    assert_eq!(figures.duplicates, 0);
}
