//! The private servers, on real binaries: they remember, they come back, and they leave nobody behind.
#![allow(clippy::unwrap_used, reason = "in a test a panic is the report")]

use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use eventrail_core::servers::{Binaries, Postgres, PostgresOptions, Redis, RedisOptions};
use sqlx::Connection;

struct TempDir(PathBuf);

impl TempDir {
    fn new() -> Self {
        let path = std::env::temp_dir().join(format!("eventrail-servers-{}", uuid::Uuid::new_v4()));
        std::fs::create_dir(&path).unwrap();
        Self(path)
    }

    fn path(&self) -> &Path {
        &self.0
    }
}

impl Drop for TempDir {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.0);
    }
}

async fn execute(postgres: &Postgres, sql: &'static str) {
    let mut connection = sqlx::PgConnection::connect(&postgres.url()).await.unwrap();
    sqlx::raw_sql(sql).execute(&mut connection).await.unwrap();
}

async fn count(postgres: &Postgres) -> i64 {
    let mut connection = sqlx::PgConnection::connect(&postgres.url()).await.unwrap();
    sqlx::query_scalar("select count(*) from kept").fetch_one(&mut connection).await.unwrap()
}

async fn ask(redis: &Redis, command: &[&str]) -> redis::RedisResult<Option<String>> {
    let client = redis::Client::open(redis.url())?;
    let mut connection = client.get_multiplexed_async_connection().await?;
    redis::cmd(command[0]).arg(&command[1..]).query_async(&mut connection).await
}

#[tokio::test]
async fn postgres_keeps_what_was_committed_over_a_stop_a_kill_and_a_new_owner() {
    let directory = TempDir::new();
    let binaries = Binaries::find().unwrap();
    let mut postgres =
        Postgres::start(&binaries, directory.path(), PostgresOptions::for_tests()).await.unwrap();
    let url = postgres.url();
    execute(&postgres, "create table kept (n int); insert into kept values (1)").await;

    postgres.stop().await;
    assert!(sqlx::PgConnection::connect(&url).await.is_err(), "stopped");
    postgres.restart().await.unwrap();
    assert_eq!(count(&postgres).await, 1);

    postgres.kill().await;
    assert!(directory.path().join("postgres/postmaster.pid").exists(), "a kill leaves the pid file behind");
    postgres.restart().await.unwrap();
    assert_eq!(count(&postgres).await, 1);
    assert_eq!(postgres.url(), url, "the port is remembered");

    postgres.kill().await;
    drop(postgres);
    let again = Postgres::start(&binaries, directory.path(), PostgresOptions::for_tests()).await.unwrap();
    assert_eq!(count(&again).await, 1);
    assert_eq!(again.url(), url);
}

#[tokio::test]
async fn a_durable_postgres_wants_its_password() {
    let directory = TempDir::new();
    let binaries = Binaries::find().unwrap();
    let postgres = Postgres::start(&binaries, directory.path(), PostgresOptions::durable()).await.unwrap();
    execute(&postgres, "create table kept (n int)").await;
    assert_eq!(count(&postgres).await, 0);
    let stranger = format!("postgres://eventrail:guess@127.0.0.1:{}/eventrail", postgres.port());
    assert!(sqlx::PgConnection::connect(&stranger).await.is_err());
}

#[tokio::test]
async fn postgres_that_outlived_its_owner_is_stopped_and_a_foreign_process_with_its_pid_is_left_alone() {
    let directory = TempDir::new();
    let binaries = Binaries::find().unwrap();
    let first = Postgres::start(&binaries, directory.path(), PostgresOptions::for_tests()).await.unwrap();
    execute(&first, "create table kept (n int); insert into kept values (1)").await;
    let second = Postgres::start(&binaries, directory.path(), PostgresOptions::for_tests()).await.unwrap();
    assert_eq!(count(&second).await, 1);
    drop(first);
    drop(second);

    let pid_file = directory.path().join("postgres/postmaster.pid");
    std::fs::write(&pid_file, format!("{}\n", std::process::id())).unwrap();
    let third = Postgres::start(&binaries, directory.path(), PostgresOptions::for_tests()).await.unwrap();
    assert_eq!(count(&third).await, 1);
}

#[tokio::test]
async fn redis_comes_back_empty_without_persistence_and_full_with_it() {
    let directory = TempDir::new();
    let binaries = Binaries::find().unwrap();
    for persistence in [false, true] {
        let options = RedisOptions { persistence, ..RedisOptions::default() };
        let mut redis = Redis::start(&binaries, directory.path(), options).await.unwrap();
        let url = redis.url();
        ask(&redis, &["SET", "k", "v"]).await.unwrap();
        redis.stop().await;
        assert!(ask(&redis, &["GET", "k"]).await.is_err(), "stopped");
        redis.restart().await.unwrap();
        assert_eq!(redis.url(), url);
        let expected = persistence.then(|| "v".to_owned());
        assert_eq!(ask(&redis, &["GET", "k"]).await.unwrap(), expected);
        redis.kill().await;
        redis.restart().await.unwrap();
    }
}

#[tokio::test]
async fn redis_can_be_rolled_back_to_a_snapshot_takes_arguments_and_a_password() {
    let directory = TempDir::new();
    let binaries = Binaries::find().unwrap();
    let options = RedisOptions {
        password: true,
        arguments: vec!["--maxmemory".into(), "64mb".into()],
        ..RedisOptions::default()
    };
    let mut redis = Redis::start(&binaries, directory.path(), options).await.unwrap();
    let info = ask(&redis, &["INFO", "memory"]).await.unwrap().unwrap();
    assert!(info.contains("maxmemory:67108864") && info.contains("maxmemory_policy:noeviction"), "{info}");
    let stranger = redis::Client::open(format!("redis://127.0.0.1:{}", redis.port())).unwrap();
    let mut stranger = stranger.get_multiplexed_async_connection().await.unwrap();
    assert!(redis::cmd("GET").arg("k").query_async::<Option<String>>(&mut stranger).await.is_err());

    ask(&redis, &["SET", "k", "old"]).await.unwrap();
    ask(&redis, &["SAVE"]).await.unwrap();
    ask(&redis, &["SET", "k", "new"]).await.unwrap();
    redis.kill().await;
    redis.restart().await.unwrap();
    assert_eq!(ask(&redis, &["GET", "k"]).await.unwrap().as_deref(), Some("old"));
}

#[tokio::test]
async fn redis_that_outlived_its_owner_is_stopped() {
    let directory = TempDir::new();
    let binaries = Binaries::find().unwrap();
    let first = Redis::start(&binaries, directory.path(), RedisOptions::default()).await.unwrap();
    ask(&first, &["SET", "k", "v"]).await.unwrap();
    let second = Redis::start(&binaries, directory.path(), RedisOptions::default()).await.unwrap();
    assert_eq!(ask(&second, &["GET", "k"]).await.unwrap(), None);
    drop(first);
    assert_eq!(ask(&second, &["GET", "k"]).await.unwrap(), None, "the first one's end does not touch it");
}

#[tokio::test]
async fn a_server_that_cannot_start_says_why_with_its_log() {
    let directory = TempDir::new();
    let binaries = Binaries::find().unwrap();
    let mut options = PostgresOptions::for_tests();
    options.settings.push(("no_such_setting".into(), "1".into()));
    let before = Instant::now();
    let Err(error) = Postgres::start(&binaries, directory.path(), options).await else {
        panic!("it started")
    };
    assert!(
        error.to_string().contains("unrecognized configuration parameter \"no_such_setting\""),
        "{error}"
    );
    assert!(before.elapsed() < Duration::from_secs(30));
}
