//! Deliveries that wait, read in parts: each once, however many there are of one instant.
#![allow(clippy::unwrap_used, reason = "in a test a panic is the report")]

use std::collections::HashSet;

use chrono::{DateTime, SubsecRound as _, TimeDelta, Utc};
use eventrail_core::db::waiting::{self, Place};
use eventrail_core::testing::Stack;
use sqlx::PgPool;

/// Thirty deliveries of two instants, made due by hand.
async fn make_thirty_wait(pool: &PgPool, at: DateTime<Utc>) {
    sqlx::query(
        "with made as (
             insert into endpoint (id, group_id, url, version)
             select gen_random_uuid(), 1, 'http://127.0.0.1:9/' || n, 1 from generate_series(1, 3) n returning id
         ), event as (
             select make_event_id((extract(epoch from $1) * 1000000)::bigint) as id, n from generate_series(1, 10) n
         )
         insert into delivery (event_id, endpoint_id, group_id, feed_id, ask, status, attempt_count, attempt_total,
                               next_attempt_at, updated_at)
         select v.id, m.id, 1, 1, 1, 'retrying', 1, 1, t.at, t.at
         from event v, made m, lateral (select $1 + (v.n / 10) * interval '1 microsecond' as at) t",
    )
    .bind(at)
    .execute(pool)
    .await
    .unwrap();
}

#[tokio::test]
async fn deliveries_of_one_instant_are_read_in_parts_each_once() {
    let stack = Stack::start().await;
    // As exact as the times of PostgreSQL.
    let at = (Utc::now() - TimeDelta::seconds(5)).trunc_subsecs(6);
    make_thirty_wait(&stack.pool, at).await;
    let end = at + TimeDelta::seconds(1);
    for by_hand in [false, true] {
        let (mut seen, mut from, mut reads) = (HashSet::new(), Place::before(at), 0);
        loop {
            let rows = if by_hand {
                waiting::made_due(&stack.pool, from, end, 7).await.unwrap()
            } else {
                waiting::falling_due(&stack.pool, from, end, 7).await.unwrap()
            };
            reads += 1;
            for row in &rows {
                assert!(seen.insert((row.event_id, row.endpoint_id)), "read twice: {row:?}");
            }
            let Some(last) = rows.last().filter(|_| rows.len() == 7) else { break };
            assert!(Place::after(last) > from, "{last:?} after {from:?}");
            from = Place::after(last);
        }
        assert_eq!((seen.len(), reads), (30, 5), "by hand: {by_hand}");
    }
}
