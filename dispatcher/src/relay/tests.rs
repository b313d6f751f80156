//! The relay, step by step.
#![allow(clippy::unwrap_used, reason = "in a test a panic is the report")]

use bytes::Bytes;
use eventrail_core::db::log::{self, NewEvent};
use eventrail_core::event::{EventType, Source};
use eventrail_core::ids::EventId;
use eventrail_core::rail::entry;
use eventrail_core::testing::{Stack, eventually, make_endpoint};
use redis::Value;

use super::*;

const FAR: Duration = Duration::from_secs(3600);

async fn relay(stack: &Stack) -> Relay {
    relay_with(stack, 1000).await
}

/// A relay with such a window, whose lease was taken for longer than the test lasts.
async fn relay_with(stack: &Stack, window: u32) -> Relay {
    let config = RelayConfig { holder: "test".into(), window, keys: stack.keys() };
    let (hints, _) = mpsc::unbounded_channel();
    let cache = Arc::new(EventCache::new(1_000_000));
    let mut relay =
        Relay::new(stack.pool.clone(), Link::new(&stack.redis.url()).unwrap(), config, hints, cache);
    assert!(relay.lead().await.unwrap());
    relay.renew_at = Instant::now() + FAR;
    relay
}

async fn publish(stack: &Stack) {
    let (kind, source) = ("order.paid".parse().unwrap(), "shop".parse().unwrap());
    let event = NewEvent::new(kind, source, Bytes::from_static(b"{}"), None);
    log::append_events(&mut stack.pool.acquire().await.unwrap(), &[&event]).await.unwrap();
}

/// The events in the stream of the moment, and those of the log.
async fn streamed_and_logged(stack: &Stack) -> anyhow::Result<(Vec<EventId>, Vec<EventId>)> {
    let (_, stream) = stack.invariants().live_streams().await?.remove(0);
    let mut redis = stack.redis_connection().await;
    let entries: Vec<Value> =
        redis::cmd("XRANGE").arg(stream).arg("-").arg("+").query_async(&mut redis).await?;
    let entries = entries.iter().filter_map(|item| match entry::parse(item) {
        Some(entry::Read::Entry(entry)) => Some(entry.event_id),
        _ => None,
    });
    let logged = sqlx::query_scalar("select id from event order by position").fetch_all(&stack.pool).await?;
    Ok((entries.collect(), logged))
}

/// A log of four events, all of them appended by a relay of its own.
async fn four_appended() -> (Stack, Relay) {
    let stack = Stack::start().await;
    make_endpoint(&stack.pool, "http://127.0.0.1:9/".parse().unwrap()).await;
    let mut relay = relay(&stack).await;
    for _ in 0..4 {
        publish(&stack).await;
    }
    appends_all(&mut relay, &stack).await;
    (stack, relay)
}

/// Drives the relay, as the supervisor does, until the stream of the moment has what the log has.
async fn appends_all(relay: &mut Relay, stack: &Stack) {
    eventually(async || {
        if let Err(error) = relay.step().await {
            relay.forget();
            return Err(error);
        }
        let (streamed, logged) = streamed_and_logged(stack).await?;
        anyhow::ensure!(streamed == logged, "the stream has {streamed:?}, the log {logged:?}");
        Ok(())
    })
    .await;
}

/// Connections that have rested for so long that those which are lost are replaced without a word.
fn rest(relay: &mut Relay, stack: &Stack) {
    relay.lines = Lines::beside(&stack.pool, 1);
}

/// The server comes back without the last `count` commits, as after a failover to a replica that lagged.
async fn fail_over(stack: &mut Stack, count: i64) {
    stack.postgres.restart().await.unwrap();
    let lose = "with kept as (select max(position) - $1 as last from event),
         lost as (delete from event e using kept k where e.position > k.last)
         select setval('log_position', last) from kept";
    eventually(async || sqlx::query(lose).bind(count).execute(&stack.pool).await).await;
}

#[tokio::test]
async fn an_event_at_a_position_that_was_given_again_is_appended_before_the_lease_is_renewed() {
    let (mut stack, mut relay) = four_appended().await;
    fail_over(&mut stack, 1).await;
    // The first of them takes the place of the one that was lost.
    publish(&stack).await;
    publish(&stack).await;
    rest(&mut relay, &stack);
    assert!(relay.step().await.is_err(), "the relay goes on with what it read elsewhere");
    relay.forget();
    appends_all(&mut relay, &stack).await;
}

#[tokio::test]
async fn a_feed_that_lags_is_not_read_for_on_another_server() {
    let (mut stack, mut relay) = four_appended().await;
    // Two more, which are lost now, were seen at the head while the stream had no room.
    relay.head.position += 2;
    fail_over(&mut stack, 1).await;
    for _ in 0..3 {
        publish(&stack).await;
    }
    rest(&mut relay, &stack);
    let lagging = relay.help_lagging().await;
    assert!(lagging.is_err(), "it is read for as if nothing had been lost");
    relay.forget();
    appends_all(&mut relay, &stack).await;
}

#[tokio::test]
async fn a_backlog_is_read_on_whenever_its_stream_has_had_room() {
    // More than two reads of the log, and a stream with room for one append.
    const EVENTS: usize = 2 * BATCH + BATCH / 2;
    let stack = Stack::start().await;
    make_endpoint(&stack.pool, "http://127.0.0.1:9/".parse().unwrap()).await;
    let (kind, source): (EventType, Source) = ("order.paid".parse().unwrap(), "shop".parse().unwrap());
    let event = NewEvent::new(kind, source, Bytes::from_static(b"{}"), None);
    for _ in 0..EVENTS / 50 {
        log::append_events(&mut stack.pool.acquire().await.unwrap(), &[&event; 50]).await.unwrap();
    }
    let mut relay = relay_with(&stack, BATCH as u32).await;
    let mut redis = stack.redis_connection().await;
    let (_, stream) = stack.invariants().live_streams().await.unwrap().remove(0);
    let mut appended = 0;
    while appended < EVENTS {
        let step = relay.step().await.unwrap();
        let head = relay.head.position;
        let may_rest = relay.feeds.values().all(|feed| !feed.needs(head));
        assert!(step == Step::Worked || may_rest, "the relay rests with {appended} of {EVENTS} appended");
        appended += redis::cmd("XLEN").arg(&stream).query_async::<usize>(&mut redis).await.unwrap();
        // As dispatchers do; the tail stays.
        redis::cmd("XTRIM").arg(&stream).arg("MAXLEN").arg(0).exec_async(&mut redis).await.unwrap();
    }
    assert_eq!(appended, EVENTS);
}
