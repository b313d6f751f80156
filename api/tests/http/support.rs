//! An API in this process, on servers of its own.

use std::sync::{Arc, OnceLock};

use chrono::DateTime;
use eventrail_api::Deps;
use eventrail_core::config::{ApiConfig, Auth};
use eventrail_core::db;
use eventrail_core::db::delivery::Attempt;
use eventrail_core::egress::EgressPolicy;
use eventrail_core::ids::{EndpointId, EventId, ReplayId};
use eventrail_core::ping::{Pinged, Pinger};
use eventrail_core::rail::{self, doorbell::Doorbell, probe::Probe};
use eventrail_core::testing::{Api, Reply, Stack};
use eventrail_core::verdict::Failure;
use metrics_exporter_prometheus::PrometheusHandle;
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;

pub(crate) struct Options {
    pub(crate) admin_token: Option<String>,
    pub(crate) egress_allow: &'static str,
    /// Where PostgreSQL is, if not at the stack's own address.
    pub(crate) database_url: Option<String>,
    pub(crate) max_event_bytes: u64,
    pub(crate) max_batch_bytes: u64,
}

impl Default for Options {
    fn default() -> Self {
        Self {
            admin_token: None,
            egress_allow: "127.0.0.0/8",
            database_url: None,
            max_event_bytes: 256 << 10,
            max_batch_bytes: 8 << 20,
        }
    }
}

/// An API that serves until it is stopped.
pub(crate) struct Server {
    pub(crate) api: Api,
    shutdown: CancellationToken,
    serving: JoinHandle<anyhow::Result<()>>,
}

impl Server {
    pub(crate) async fn start(stack: &Stack) -> Self {
        Self::start_with(stack, Options::default()).await
    }

    pub(crate) async fn start_with(stack: &Stack, options: Options) -> Self {
        let url = options.database_url.unwrap_or_else(|| stack.postgres.url());
        let pool = db::pool(db::connect_options(&url, "eventrail-api").unwrap(), 10);
        let redis = rail::connection(&stack.redis_client).unwrap();
        let (doorbell, ringing) = Doorbell::new(redis.clone(), stack.prefix());
        tokio::spawn(ringing);
        let deps = Deps {
            pool,
            redis: Probe::new(redis, &stack.keys()),
            doorbell,
            egress: EgressPolicy::new(
                options.egress_allow.split(',').filter_map(|net| net.parse().ok()).collect(),
            ),
            admin_token: options.admin_token,
            prometheus: prometheus(),
            pinger: Arc::new(Echo),
            vault: Arc::new(
                eventrail_core::config::vault_with(eventrail_core::testing::SECRETS_KEY).unwrap(),
            ),
        };
        let config = ApiConfig {
            listen: "127.0.0.1:0".parse().unwrap(),
            auth: Auth::On,
            max_event_bytes: options.max_event_bytes,
            max_batch_bytes: options.max_batch_bytes,
            max_connections: 1000,
        };
        let listener = eventrail_api::bind(config.listen).await.unwrap();
        let base = format!("http://{}", listener.local_addr().unwrap());
        let shutdown = CancellationToken::new();
        let serving = tokio::spawn(eventrail_api::serve_on(listener, config, deps, shutdown.clone()));
        Self { api: Api::new(base), shutdown, serving }
    }

    /// Stops it in order; all that it had taken is answered and stored.
    pub(crate) async fn stop(self) {
        self.shutdown.cancel();
        self.serving.await.unwrap().unwrap();
    }
}

/// One recorder for a process, however many tests run in it.
fn prometheus() -> PrometheusHandle {
    static HANDLE: OnceLock<PrometheusHandle> = OnceLock::new();
    HANDLE.get_or_init(|| eventrail_core::metrics::install().unwrap()).clone()
}

/// The dispatcher sends pings; where there is none, each is answered at once.
struct Echo;

impl Pinger for Echo {
    fn ping(&self, _: EndpointId) -> Pinged {
        let attempt = Attempt {
            started_at: DateTime::UNIX_EPOCH,
            duration_ms: 5,
            status_code: Some(500),
            error: Some(Failure::Status),
            error_detail: None,
            response_body: Some(b"no".to_vec()),
            trigger: "test",
        };
        Box::pin(async move { Ok(Some((EventId::generate(), attempt))) })
    }
}

/// An `ADMIN_TOKEN`.
pub(crate) const ADMIN: &str = "the-token-of-the-first-operator";

/// Makes a key; answers its id and the key itself.
pub(crate) async fn make_key(admin: &Api, body: &serde_json::Value) -> (String, String) {
    let made = admin.post("/api-keys", body).await.expect(201).body;
    let text = |field: &str| made[field].as_str().unwrap().to_owned();
    (text("id"), text("key"))
}

/// Posts these bytes as JSON.
pub(crate) async fn post_raw(api: &Api, path: &str, body: impl Into<reqwest::Body>) -> Reply {
    let request = api.request("POST", path).header("content-type", "application/json").body(body);
    Api::send(request).await.unwrap()
}

/// Asserts that it is a problem of this kind, in full dress.
#[track_caller]
pub(crate) fn assert_problem(reply: &Reply, status: u16, slug: &str) {
    assert_eq!(reply.status, status, "{}", reply.text);
    assert_eq!(reply.header("content-type"), "application/problem+json", "{}", reply.text);
    assert_eq!(reply.body["type"], format!("/problems#{slug}"), "{}", reply.text);
    assert_eq!(reply.body["status"], status);
    assert!(reply.body["title"].is_string() && reply.body["detail"].is_string(), "{}", reply.text);
    assert_eq!(reply.body["request_id"], reply.header("x-request-id"));
}

/// The pointers of a 422.
pub(crate) fn pointers(reply: &Reply) -> Vec<&str> {
    let errors = reply.body["errors"].as_array().map(Vec::as_slice).unwrap_or_default();
    errors.iter().map(|error| error["pointer"].as_str().unwrap()).collect()
}

/// Everything that a refused request could have changed.
pub(crate) async fn state_of_the_record(stack: &Stack) -> (i64, i64, i64, i64, i64, i64) {
    sqlx::query_as(
        "select (select count(*) from event), (select count(*) from idempotency_key),
                (select count(*) from consumer_group where deleted_at is null),
                (select count(*) from endpoint), (select count(*) from subscription),
                (select version from topology)",
    )
    .fetch_one(&stack.pool)
    .await
    .unwrap()
}

/// A delivery as a dispatcher would have recorded it; dead ones of this replay, if any is given.
pub(crate) async fn record(
    stack: &Stack,
    (event, endpoint): (&str, &str),
    status: &str,
    error: &str,
    replay: Option<&str>,
) {
    sqlx::query(
        "insert into delivery as d (event_id, endpoint_id, group_id, feed_id, ask, status, attempt_count,
                attempt_total, next_attempt_at, last_status_code, last_error, replay_id)
         select $1, e.id, e.group_id, 1, coalesce((select ask from replay where id = $5), 1), $3, 1, 1,
                case when $3 in ('pending', 'retrying') then now() end,
                case when $4 ~ '^[0-9]' then $4::int end, case when $4 ~ '^[0-9]' then 'status' else $4 end, $5
         from endpoint e where e.id = $2
         on conflict (event_id, endpoint_id) do update set ask = excluded.ask, status = excluded.status,
                next_attempt_at = excluded.next_attempt_at, last_error = excluded.last_error,
                last_status_code = excluded.last_status_code, replay_id = excluded.replay_id",
    )
    .bind(event.parse::<EventId>().unwrap())
    .bind(endpoint.parse::<EndpointId>().unwrap())
    .bind(status)
    .bind(error)
    .bind(replay.map(|id| id.parse::<ReplayId>().unwrap()))
    .execute(&stack.pool)
    .await
    .unwrap();
}
