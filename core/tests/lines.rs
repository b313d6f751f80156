//! Connections that are trusted: used again, closed when work on them failed, and no more than were asked for.
#![allow(clippy::unwrap_used, reason = "in a test a panic is the report")]

use std::pin::pin;

use eventrail_core::db::lines::{Line, Lines};
use eventrail_core::testing::Stack;
use futures_util::poll;

async fn backend(line: &mut Line) -> i32 {
    sqlx::query_scalar("select pg_backend_pid()").fetch_one(&mut **line).await.unwrap()
}

#[tokio::test]
async fn a_line_is_used_again_unless_its_work_was_cut_short() {
    let stack = Stack::start().await;
    let lines = Lines::beside(&stack.pool, 2);
    let mut line = lines.take().await.unwrap();
    let first = backend(&mut line).await;
    line.give_back();
    let mut line = lines.take().await.unwrap();
    assert_eq!(backend(&mut line).await, first);
    drop(line);
    let mut line = lines.take().await.unwrap();
    assert_ne!(backend(&mut line).await, first, "it was closed");
    line.give_back();
}

#[tokio::test]
async fn there_are_no_more_lines_than_were_asked_for() {
    let stack = Stack::start().await;
    let lines = Lines::beside(&stack.pool, 1);
    let mut only = lines.take().await.unwrap();
    let mut next = pin!(lines.take());
    assert!(poll!(&mut next).is_pending());
    let first = backend(&mut only).await;
    only.give_back();
    assert_eq!(backend(&mut next.await.unwrap()).await, first);
}

#[tokio::test]
async fn a_line_that_the_server_has_ended_is_replaced() {
    let stack = Stack::start().await;
    let lines = Lines::beside(&stack.pool, 1);
    let mut line = lines.take().await.unwrap();
    let ended = backend(&mut line).await;
    line.give_back();
    let end = sqlx::query("select pg_terminate_backend($1, 10000)").bind(ended);
    let _ = end.execute(&stack.pool).await.unwrap();

    // It may be trusted once more, and is closed then.
    let mut line = lines.take().await.unwrap();
    if sqlx::query("select 1").execute(&mut *line).await.is_err() {
        drop(line);
        line = lines.take().await.unwrap();
    }
    assert_ne!(backend(&mut line).await, ended);
    let mode: String = sqlx::query_scalar("show plan_cache_mode").fetch_one(&mut *line).await.unwrap();
    assert_eq!(mode, "force_generic_plan");
}
