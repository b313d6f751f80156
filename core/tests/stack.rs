//! The private stack of a test: there in a moment, independent of its neighbours, gone without a trace.
#![allow(clippy::unwrap_used, reason = "in a test a panic is the report")]

use std::time::{Duration, Instant};

use eventrail_core::db;
use eventrail_core::db::lines::Lines;
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
