//! The whole system for one test, and what tests ask it often.

use std::time::Duration;

use eventrail_core::ids::{EndpointId, EventId};
use eventrail_core::secret::Secret;
use eventrail_core::signature;
use eventrail_core::testing::{
    Api, AttemptRow, Endpoint, EventrailProcess, Receiver, Request, Stack, eventually_within,
};
use serde_json::{Value, json};

const BINARY: &str = env!("CARGO_BIN_EXE_eventrail");

/// For thousands of deliveries by a debug build, on a machine that is busy with other tests.
pub(crate) const LONG: Duration = Duration::from_secs(150);

/// API, dispatchers, their servers, and a receiver.
pub(crate) struct Rail {
    pub(crate) api: Api,
    pub(crate) receiver: Receiver,
    pub(crate) dispatchers: Vec<EventrailProcess>,
    _api_process: EventrailProcess,
    pub(crate) stack: Stack,
}

impl Rail {
    /// With one dispatcher, which has these settings.
    pub(crate) async fn start(environment: &[(&str, &str)]) -> Self {
        let mut rail = Self::without_dispatcher().await;
        rail.add_dispatcher(environment).await;
        rail
    }

    pub(crate) async fn without_dispatcher() -> Self {
        let stack = Stack::start().await;
        let api_process = EventrailProcess::api(BINARY, &stack, &[]).await;
        let receiver = Receiver::start().await;
        Self {
            api: api_process.client(),
            receiver,
            dispatchers: Vec::new(),
            _api_process: api_process,
            stack,
        }
    }

    pub(crate) async fn add_dispatcher(&mut self, environment: &[(&str, &str)]) {
        self.dispatchers.push(EventrailProcess::dispatcher(BINARY, &self.stack, environment).await);
    }

    /// An endpoint for all events at a path of the receiver.
    pub(crate) async fn endpoint(&self, group: &str, path: &str) -> Endpoint {
        self.endpoint_with(group, path, json!({})).await
    }

    pub(crate) async fn endpoint_with(&self, group: &str, path: &str, more: Value) -> Endpoint {
        let mut body = more;
        body["url"] = self.receiver.url(path).into();
        self.api.create_endpoint_with(group, &body).await
    }

    /// Posts events in batches; answers their ids in the order of the log.
    pub(crate) async fn post(&self, event_type: &str, count: usize) -> Vec<String> {
        let events: Vec<Value> = (0..count)
            .map(|n| json!({ "event_type": event_type, "source": "test", "payload": { "n": n } }))
            .collect();
        let mut ids = Vec::with_capacity(count);
        for batch in events.chunks(1000) {
            ids.extend(self.api.post_batch(batch).await);
        }
        ids
    }

    /// Waits until a path has had `count` requests; answers them.
    pub(crate) async fn arrived(&self, path: &str, count: usize) -> Vec<Request> {
        eventually_within(LONG, async || match self.receiver.count_to(path) {
            arrived if arrived >= count => Ok(()),
            arrived => Err(format!("{arrived} of {count} requests to {path}")),
        })
        .await;
        self.receiver.requests_to(path)
    }

    pub(crate) async fn attempts(&self, event: &str, endpoint: &Endpoint) -> Vec<AttemptRow> {
        self.stack.attempts(event_id(event), endpoint_id(endpoint)).await
    }

    /// Asks until the statement, given the endpoint's id, answers true.
    pub(crate) async fn until(&self, endpoint: &Endpoint, statement: &'static str) {
        eventually_within(LONG, async || {
            let holds: bool = self.ask(endpoint, statement).await;
            holds.then_some(()).ok_or(statement)
        })
        .await;
    }

    /// What the statement answers, given the endpoint's id.
    pub(crate) async fn ask<T>(&self, endpoint: &Endpoint, statement: &'static str) -> T
    where
        T: Send + Unpin + for<'r> sqlx::Decode<'r, sqlx::Postgres> + sqlx::Type<sqlx::Postgres>,
    {
        let asked = sqlx::query_scalar(statement).bind(endpoint_id(endpoint));
        asked.fetch_one(&self.stack.pool).await.unwrap()
    }

    pub(crate) async fn until_parked(&self, endpoint: &Endpoint) {
        self.until(endpoint, "select exists (select from parked where endpoint_id = $1)").await;
    }

    /// Waits until the group's live feed has settled all of the log.
    pub(crate) async fn until_feed_settled(&self, group: &str) {
        eventually_within(LONG, async || {
            let left: i64 = sqlx::query_scalar(
                "select count(*) from event where position > (select settled_position from feed f
                 join consumer_group g on g.id = f.group_id
                 where g.name = $1 and g.deleted_at is null and f.kind = 'live' and f.status = 'active')",
            )
            .bind(group)
            .fetch_one(&self.stack.pool)
            .await
            .unwrap();
            if left == 0 { Ok(()) } else { Err(format!("{left} events are not settled in {group}")) }
        })
        .await;
    }

    /// Changes the endpoint behind the API's back; the statement gets its id.
    pub(crate) async fn change(&self, endpoint: &Endpoint, statement: &'static str, value: &str) {
        let mut change = self.stack.pool.begin().await.unwrap();
        sqlx::query("select lock_log()").execute(&mut *change).await.unwrap();
        let changed = sqlx::query(statement).bind(endpoint_id(endpoint)).bind(value);
        assert_eq!(changed.execute(&mut *change).await.unwrap().rows_affected(), 1);
        change.commit().await.unwrap();
    }

    /// Keys of Redis that match a pattern.
    pub(crate) async fn keys(&self, pattern: &str) -> Vec<String> {
        let mut redis = self.stack.redis_connection().await;
        redis::cmd("KEYS").arg(pattern).query_async(&mut redis).await.unwrap()
    }

    /// Nothing is left to do, no task has panicked, and all dispatchers stop when they are asked to.
    pub(crate) async fn end(self) {
        self.stack.assert_settled_within(LONG).await;
        self.stop().await;
    }

    /// The second half of [`Rail::end`], for tests that leave something to do.
    pub(crate) async fn stop(self) {
        for dispatcher in self.dispatchers {
            let log = dispatcher.log();
            for word in ["panicked", "ERROR"] {
                assert!(!log.contains(word), "the dispatcher's log has {word}");
            }
            assert!(dispatcher.sigterm().await.success());
        }
    }
}

pub(crate) fn event_id(text: &str) -> EventId {
    text.parse().unwrap()
}

pub(crate) fn endpoint_id(endpoint: &Endpoint) -> EndpointId {
    endpoint.id.parse().unwrap()
}

/// Panics unless exactly these events have arrived, each once, with a signature that verifies.
pub(crate) fn assert_exactly_once(requests: &[Request], events: &[String], endpoint: &Endpoint) {
    let mut arrived: Vec<&str> = requests.iter().map(Request::webhook_id).collect();
    let mut expected: Vec<&str> = events.iter().map(String::as_str).collect();
    arrived.sort_unstable();
    expected.sort_unstable();
    let twice = arrived.windows(2).filter(|pair| pair[0] == pair[1]).count();
    assert_eq!((arrived.len(), twice), (expected.len(), 0), "arrived, and of these more than once");
    assert!(arrived == expected, "other events have arrived than were owed");
    assert_signed(requests, endpoint);
}

pub(crate) fn assert_signed(requests: &[Request], endpoint: &Endpoint) {
    let secrets: [Secret; 1] = [endpoint.secret.parse().unwrap()];
    for request in requests {
        let verified = signature::verify(
            &secrets,
            request.webhook_id(),
            request.header("webhook-timestamp"),
            request.header("webhook-signature"),
            &request.body,
            request.received_at.timestamp(),
        );
        assert_eq!(verified, Ok(()), "{request:?}");
    }
}
