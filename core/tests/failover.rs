//! What one server has shown is not written on another: after a failover that lost the last commits, positions are
//! given again.
#![allow(clippy::unwrap_used, reason = "in a test a panic is the report")]

use std::time::Duration;

use eventrail_core::db::feed::{self, Cursor, Progress};
use eventrail_core::db::lease::{self, Incarnation};
use eventrail_core::db::parking::{self, Overwhelmed, Parking};
use eventrail_core::db::tail::{self, Place};
use eventrail_core::ids::EndpointId;
use eventrail_core::testing::{Stack, eventually};

const LIVE: i64 = 1;

/// An endpoint of the default group, and a catch-up feed of it up to position 20.
async fn make_endpoint(stack: &Stack) -> (EndpointId, i64) {
    sqlx::query_as(
        "with made as (
             insert into endpoint (id, group_id, url, version) values (gen_random_uuid(), 1, 'http://127.0.0.1:9', 1)
             returning id
         )
         insert into feed (group_id, kind, ask, endpoint_id, from_position, to_position, settled_position)
         select 1, 'catch_up', 1, id, 10, 20, 10 from made returning endpoint_id, id",
    )
    .fetch_one(&stack.pool)
    .await
    .unwrap()
}

async fn server(stack: &Stack) -> Incarnation {
    lease::take(&stack.pool, "test", Duration::from_secs(3600)).await.unwrap().unwrap()
}

/// What there is of the settled position of the live feed, of ended feeds and of parked endpoints.
async fn written(stack: &Stack) -> (i64, i64, i64) {
    sqlx::query_as(
        "select (select settled_position from feed where id = $1), (select count(*) from feed where status = 'done'),
                (select count(*) from parked)",
    )
    .bind(LIVE)
    .fetch_one(&stack.pool)
    .await
    .unwrap()
}

#[tokio::test]
async fn what_was_seen_on_another_server_settles_ends_and_parks_nothing() {
    let mut stack = Stack::start().await;
    let (endpoint_id, catch_up) = make_endpoint(&stack).await;
    let (settled, ..) = written(&stack).await;
    let write = async |stack: &Stack, seen_on| {
        let cursor = Cursor { id: LIVE, epoch: 0, settled_position: settled + 7 };
        feed::settle(&stack.pool, seen_on, &[Progress { cursor, scanned_position: 0 }]).await.unwrap();
        feed::finish(&stack.pool, seen_on, &[(catch_up, 0)]).await.unwrap();
        let endpoint = Overwhelmed { endpoint_id, group_id: 1, disabled: false };
        let parking = Parking { feed_id: LIVE, epoch: 0, from: settled + 7, endpoint };
        parking::park(&stack.pool, seen_on, &[parking]).await.unwrap();
    };
    let before = server(&stack).await;
    stack.postgres.restart().await.unwrap();
    eventually(async || feed::cursors(&stack.pool, &[]).await).await;
    write(&stack, before).await;
    assert_eq!(written(&stack).await, (settled, 0, 0));
    let now = server(&stack).await;
    assert_ne!(now, before);
    write(&stack, now).await;
    assert_eq!(written(&stack).await, (settled + 7, 1, 1));
}

#[tokio::test]
async fn whoever_reads_the_log_is_told_which_server_has_shown_it() {
    let mut stack = Stack::start().await;
    stack.append_past(0, "order.paid", 2).await;
    let before = server(&stack).await;
    stack.postgres.restart().await.unwrap();
    let start = Place::unpruned(0);
    let head = eventually(async || tail::read_head(&stack.pool, start, 10).await).await;
    let now = server(&stack).await;
    assert_ne!(now, before);
    assert_eq!((head.incarnation, head.events.len()), (now, 2));
    let range = tail::read_range(&stack.pool, start, i64::MAX, 10).await.unwrap();
    assert_eq!(range.iter().map(|one| one.incarnation).collect::<Vec<_>>(), [now; 2]);
    // Also where there is nothing to be read.
    let end = Place::of(&range[1].event);
    let head = tail::read_head(&stack.pool, end, 10).await.unwrap();
    assert_eq!((head.incarnation, head.events.len()), (now, 0));
}
