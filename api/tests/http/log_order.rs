//! Positions are commit-ordered: whoever sees one sees all below it, however late a writer commits.

use std::time::Duration;

use eventrail_core::db::log::{Appended, NewEvent, append_events};
use eventrail_core::testing::Stack;
use serde_json::json;

use crate::support::Server;

fn event(n: usize) -> NewEvent {
    NewEvent::new("a.b".parse().unwrap(), "s".parse().unwrap(), n.to_string().into_bytes().into(), None)
}

/// Three writers that hold their commit back, three over HTTP, and a tail that reads all the while.
#[tokio::test]
async fn a_tail_never_skips_an_event_of_a_writer_that_commits_late() {
    const ROUNDS: usize = 40;
    let stack = Stack::start().await;
    let Server { api, .. } = &Server::start(&stack).await;
    let mut writers = tokio::task::JoinSet::new();
    for writer in 0..3_usize {
        let pool = stack.pool.clone();
        writers.spawn(async move {
            for round in 0..ROUNDS {
                let mut transaction = pool.begin().await.unwrap();
                let events: Vec<NewEvent> = (0..=writer).map(event).collect();
                let events: Vec<&NewEvent> = events.iter().collect();
                let appended = append_events(&mut transaction, &events).await.unwrap();
                assert!(appended.iter().all(|one| matches!(one, Appended::Created(_))));
                // A commit that is late, which is the point of this test.
                tokio::time::sleep(Duration::from_millis((round % 7) as u64)).await;
                if round % 10 == 9 {
                    transaction.rollback().await.unwrap();
                } else {
                    transaction.commit().await.unwrap();
                }
            }
        });
        let api = api.clone();
        writers.spawn(async move {
            for round in 0..ROUNDS {
                api.post_event("a.b", "http", json!(round)).await;
            }
        });
    }
    let tail = tokio::spawn(tail(stack.pool.clone(), ROUNDS * 3 + (1 + 2 + 3) * ROUNDS * 9 / 10));
    writers.join_all().await;
    let seen =
        tokio::time::timeout(Duration::from_secs(30), tail).await.expect("the tail missed some").unwrap();
    let all: Vec<i64> = sqlx::query_scalar("select position from event order by position")
        .fetch_all(&stack.pool)
        .await
        .unwrap();
    assert_eq!(seen, all);
}

/// Reads from a cursor, as the relay does, until it has seen so many.
async fn tail(pool: sqlx::PgPool, expected: usize) -> Vec<i64> {
    let mut seen = Vec::new();
    while seen.len() < expected {
        let cursor = seen.last().copied().unwrap_or(0);
        let next: Vec<i64> =
            sqlx::query_scalar("select position from event where position > $1 order by position")
                .bind(cursor)
                .fetch_all(&pool)
                .await
                .unwrap();
        seen.extend(next);
    }
    seen
}

#[tokio::test]
async fn a_change_of_the_topology_is_ordered_among_the_events() {
    let stack = Stack::start().await;
    let Server { api, .. } = &Server::start(&stack).await;
    let posting = {
        let api = api.clone();
        tokio::spawn(async move {
            for n in 0..60 {
                api.post_event("a.b", "s", json!(n)).await;
            }
        })
    };
    for n in 0..10 {
        let endpoint = api.create_endpoint("default", &format!("http://127.0.0.1:9/{n}")).await;
        let path = format!("/consumer-groups/default/endpoints/{}", endpoint.id);
        let _ = api.delete(&path).await.expect(204);
    }
    posting.await.unwrap();
    let shared: i64 = sqlx::query_scalar(
        "select count(*) from event e join subscription s on e.position in (s.from_position, s.to_position)",
    )
    .fetch_one(&stack.pool)
    .await
    .unwrap();
    assert_eq!(shared, 0, "no event has the position of a change");
}
