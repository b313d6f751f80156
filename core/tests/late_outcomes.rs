//! Outcomes that come late: an attempt is kept, and the row stays as it is.
#![allow(clippy::unwrap_used, reason = "in a test a panic is the report")]

use chrono::{DateTime, Utc};
use eventrail_core::db::delivery::{self, Attempt, Record, Status};
use eventrail_core::ids::{EndpointId, EventId};
use eventrail_core::testing::Stack;
use eventrail_core::verdict::Failure;

fn outcome((event_id, endpoint_id): (EventId, EndpointId), ask: i64, code: u16) -> Record {
    let is_dead = code != 200;
    Record {
        event_id,
        endpoint_id,
        group_id: 1,
        feed_id: 1,
        replay_id: None,
        ask,
        status: if is_dead { Status::Dead } else { Status::Delivered },
        next_attempt_at: None,
        last_error: is_dead.then_some("status"),
        attempt: Some(Attempt {
            started_at: Utc::now(),
            duration_ms: 1,
            status_code: Some(code),
            error: is_dead.then_some(Failure::Status),
            error_detail: None,
            response_body: None,
            trigger: "retry",
        }),
    }
}

#[tokio::test]
async fn a_dead_letter_stays_as_it_is_when_an_outcome_comes_late() {
    let stack = Stack::start().await;
    let key = (EventId::generate(), EndpointId::generate());
    let row = async || -> (String, Option<i32>, i32, DateTime<Utc>) {
        sqlx::query_as("select status, last_status_code, attempt_total, updated_at from delivery")
            .fetch_one(&stack.pool)
            .await
            .unwrap()
    };
    delivery::record(&stack.pool, &mut [outcome(key, 7, 503)]).await.unwrap();
    let (.., died_at) = row().await;
    for (ask, code) in [(3, 200), (7, 500), (7, 200)] {
        delivery::record(&stack.pool, &mut [outcome(key, ask, code)]).await.unwrap();
    }
    assert_eq!(row().await, ("dead".to_owned(), Some(503), 4, died_at));
    delivery::record(&stack.pool, &mut [outcome(key, 8, 200)]).await.unwrap();
    let (status, code, attempts, delivered_at) = row().await;
    assert_eq!((status.as_str(), code, attempts), ("delivered", Some(200), 5));
    assert!(delivered_at > died_at);
}
