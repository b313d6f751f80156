//! The private stack of a test: there in a moment, independent of its neighbours, gone without a trace.
#![allow(clippy::unwrap_used, reason = "in a test a panic is the report")]

use std::collections::HashSet;
use std::time::{Duration, Instant};

use eventrail_core::db;
use eventrail_core::db::lines::Lines;
use eventrail_core::rail::intake::IdleFor;
use eventrail_core::rail::keys::CONSUMER_GROUP;
use eventrail_core::rail::{self, intake};
use eventrail_core::testing::{CuttingProxy, Stack, eventually};

#[tokio::test]
async fn a_stack_has_the_schema_survives_kills_and_leaves_nothing_behind() {
    let mut stack = Stack::start().await;
    assert!(db::migrate::is_current(&stack.pool).await.unwrap());
    assert!(stack.deliveries().await.is_empty());
    stack.assert_settled().await;

    stack.postgres.kill().await;
    stack.redis.kill().await;
    stack.postgres.restart().await.unwrap();
    stack.redis.restart().await.unwrap();
    eventually(async || db::migrate::is_current(&stack.pool).await).await;
    stack.assert_settled().await;

    let directory = stack.directory().to_owned();
    assert!(directory.exists());
    drop(stack);
    assert!(!directory.exists());
}

#[tokio::test]
async fn a_second_stack_is_quick_because_the_schema_is_copied() {
    let _first = Stack::start().await;
    let before = Instant::now();
    let _second = Stack::start().await;
    assert!(before.elapsed() < Duration::from_secs(5), "took {:?}", before.elapsed());
}

#[tokio::test]
#[should_panic(expected = "eventrail.{default}.retry has 1 members")]
async fn what_is_stuck_is_reported() {
    let stack = Stack::start().await;
    let mut redis = stack.redis_connection().await;
    let key = stack.keys().retry(&"default".parse().unwrap());
    redis::cmd("ZADD").arg(key).arg(1).arg("member").exec_async(&mut redis).await.unwrap();
    stack.assert_settled_within(Duration::from_millis(50)).await;
}

#[tokio::test]
async fn postgres_can_be_cut_off_and_comes_back() {
    let stack = Stack::start().await;
    let (proxy, url) = CuttingProxy::for_url(&stack.postgres.url()).await;
    let pool = db::pool(db::connect_options(&url, "test").unwrap(), 2);
    assert!(db::migrate::is_current(&pool).await.unwrap());
    proxy.cut();
    assert!(db::migrate::is_current(&pool).await.is_err());
    proxy.mend();
    eventually(async || db::migrate::is_current(&pool).await).await;
}

#[tokio::test]
async fn our_connections_commit_synchronously_whatever_the_database_says() {
    let stack = Stack::start().await;
    let lax = "alter database eventrail set synchronous_commit = off";
    sqlx::query(lax).execute(&stack.pool).await.unwrap();
    let pool = db::pool(db::connect_options(&stack.postgres.url(), "test").unwrap(), 1);
    let setting: String = sqlx::query_scalar("show synchronous_commit").fetch_one(&pool).await.unwrap();
    assert_eq!(setting, "on");
}

#[tokio::test]
async fn our_connections_compile_nothing_whatever_the_database_says() {
    let stack = Stack::start().await;
    sqlx::query("alter database eventrail set jit = on").execute(&stack.pool).await.unwrap();
    let pool = db::pool(db::connect_options(&stack.postgres.url(), "test").unwrap(), 1);
    let mut line = Lines::beside(&pool, 1).take().await.unwrap();
    let setting: String = sqlx::query_scalar("show jit").fetch_one(&mut *line).await.unwrap();
    assert_eq!(setting, "off");
}

#[tokio::test]
async fn a_consumer_lives_on_while_redis_is_full() {
    let stack = Stack::start().await;
    let (keys, name) = (stack.keys(), "dispatcher@host-1");
    let mut consumer = rail::connection(&stack.redis_client).unwrap();
    let minute = Duration::from_secs(60);
    intake::announce(&mut consumer, &keys, name, minute).await.unwrap();
    let mut redis = stack.redis_connection().await;
    redis::cmd("CONFIG").arg(&["SET", "maxmemory", "1"]).exec_async(&mut redis).await.unwrap();
    intake::announce(&mut consumer, &keys, name, 10 * minute).await.unwrap();
    let left: u64 = redis::cmd("TTL").arg(keys.alive(name)).query_async(&mut redis).await.unwrap();
    assert!(left > 60, "{left} s");
    assert!(intake::announce(&mut consumer, &keys, "another", minute).await.is_err(), "it is full");
}

#[tokio::test]
async fn what_a_consumer_holds_is_taken_over_once_it_was_missed_twice() {
    let stack = Stack::start().await;
    let (keys, stream, living) = (stack.keys(), "a-stream", "dispatcher@host-1");
    let mut redis = stack.redis_connection().await;
    let mut pipeline = redis::pipe();
    pipeline.cmd("XGROUP").arg(&["CREATE", stream, CONSUMER_GROUP, "0", "MKSTREAM"]).ignore();
    pipeline.cmd("XADD").arg(&[stream, "1-0", "event", "one"]).ignore();
    pipeline.cmd("XREADGROUP").arg(&["GROUP", CONSUMER_GROUP, living, "STREAMS", stream, ">"]).ignore();
    pipeline.exec_async(&mut redis).await.unwrap();
    let idle = IdleFor { of_dead: Duration::ZERO, of_living: Duration::from_secs(3600) };
    let mut other = rail::connection(&stack.redis_client).unwrap();
    let mut round = async |missed: &HashSet<String>| {
        let taken = intake::take_over(&mut other, &keys, stream, "another", missed, idle, 10).await.unwrap();
        (taken.reads.len(), taken.missing)
    };
    let nobody = HashSet::new();
    let it = HashSet::from([living.to_owned()]);
    let mut consumer = rail::connection(&stack.redis_client).unwrap();
    let second = Duration::from_secs(1);
    intake::announce(&mut consumer, &keys, living, second).await.unwrap();
    assert_eq!(round(&it).await, (0, nobody.clone()), "it is there");

    // A Redis that stands still for longer than that lets the announcement run out, though its consumer lives.
    stack.redis.freeze();
    let announced = intake::announce(&mut consumer, &keys, living, second);
    assert!(tokio::time::timeout(2 * second, announced).await.is_err(), "no answer");
    stack.redis.thaw();
    assert_eq!(round(&nobody).await, (0, it.clone()), "missed for the first time");
    intake::announce(&mut consumer, &keys, living, 600 * second).await.unwrap();
    assert_eq!(round(&it).await, (0, nobody.clone()), "it is back");

    redis::cmd("DEL").arg(keys.alive(living)).exec_async(&mut redis).await.unwrap();
    let (taken, missing) = round(&nobody).await;
    assert_eq!((taken, &missing), (0, &it));
    assert_eq!(round(&missing).await.0, 1, "missed twice");
}

#[tokio::test]
async fn what_a_consumer_leaves_that_signs_off_is_taken_over_at_once() {
    let stack = Stack::start().await;
    let (keys, stream, leaving) = (stack.keys(), "a-stream", "dispatcher@host-1");
    let mut redis = rail::connection(&stack.redis_client).unwrap();
    let mut pipeline = redis::pipe();
    pipeline.cmd("XGROUP").arg(&["CREATE", stream, CONSUMER_GROUP, "0", "MKSTREAM"]).ignore();
    pipeline.cmd("XADD").arg(&[stream, "1-0", "event", "one"]).ignore();
    pipeline.cmd("XREADGROUP").arg(&["GROUP", CONSUMER_GROUP, leaving, "STREAMS", stream, ">"]).ignore();
    pipeline.exec_async(&mut redis).await.unwrap();
    intake::announce(&mut redis, &keys, leaving, Duration::from_secs(60)).await.unwrap();
    intake::sign_off(&mut redis, &keys, leaving).await.unwrap();
    let idle = IdleFor { of_dead: Duration::ZERO, of_living: Duration::from_secs(3600) };
    let taken =
        intake::take_over(&mut redis, &keys, stream, "another", &HashSet::new(), idle, 10).await.unwrap();
    assert_eq!(taken.reads.len(), 1);
}
