//! The names of all metrics, in one place; `dashboards/grafana` is held against it by a test.
//! Labels are bounded: groups at most, never endpoints or event types.

use std::time::Duration;

pub use metrics_exporter_prometheus::PrometheusHandle;

use crate::db::delivery::Status;
use crate::verdict::Failure;

pub const EVENTS_ACCEPTED: &str = "eventrail_events_accepted_total";
pub const EVENTS_DUPLICATE: &str = "eventrail_events_duplicate_total";
pub const INGEST_BATCH_EVENTS: &str = "eventrail_ingest_batch_events";
pub const INGEST_COMMIT_SECONDS: &str = "eventrail_ingest_commit_seconds";
pub const HTTP_REQUESTS: &str = "eventrail_http_requests_total";
pub const HTTP_REQUEST_SECONDS: &str = "eventrail_http_request_seconds";
pub const RELAY_LEADER: &str = "eventrail_relay_leader";
pub const RELAY_EVENTS: &str = "eventrail_relay_events_total";
pub const RELAY_ENTRIES_APPENDED: &str = "eventrail_relay_entries_appended_total";
pub const RELAY_APPENDS_REFUSED: &str = "eventrail_relay_appends_refused_total";
pub const RELAY_STEPS_FAILED: &str = "eventrail_relay_steps_failed_total";
pub const FEED_LAG_EVENTS: &str = "eventrail_feed_lag_events";
pub const FEED_STREAM_ENTRIES: &str = "eventrail_feed_stream_entries";
pub const ATTEMPTS: &str = "eventrail_attempts_total";
pub const ATTEMPT_SECONDS: &str = "eventrail_attempt_seconds";
pub const IN_FLIGHT: &str = "eventrail_attempts_in_flight";
pub const DELIVERIES: &str = "eventrail_deliveries_total";
pub const DELIVERY_LATENCY_SECONDS: &str = "eventrail_delivery_latency_seconds";
pub const RECORD_BATCH_OUTCOMES: &str = "eventrail_record_batch_outcomes";
pub const RECORD_COMMIT_SECONDS: &str = "eventrail_record_commit_seconds";
pub const ENTRIES_CLAIMED: &str = "eventrail_entries_claimed_total";
pub const RETRIES_CLAIMED: &str = "eventrail_retries_claimed_total";
pub const ENDPOINTS_PARKED: &str = "eventrail_endpoints_parked";
pub const ENDPOINTS_SEALED: &str = "eventrail_endpoints_sealed";
pub const RETENTION_HELD_DAYS: &str = "eventrail_retention_held_days";
pub const RETENTION_DROPPED_DAYS: &str = "eventrail_retention_dropped_days_total";
pub const DELIVERIES_EXPIRED: &str = "eventrail_deliveries_expired_total";
pub const BREAKERS_OPEN: &str = "eventrail_breakers_open";
pub const POSTGRES_UP: &str = "eventrail_postgres_up";
pub const REDIS_UP: &str = "eventrail_redis_up";

/// All of them, with their help texts.
pub const ALL: &[(&str, &str)] = &[
    (EVENTS_ACCEPTED, "Events committed to the log."),
    (EVENTS_DUPLICATE, "Events answered from their idempotency key."),
    (INGEST_BATCH_EVENTS, "Events in one group commit."),
    (INGEST_COMMIT_SECONDS, "Duration of one group commit."),
    (HTTP_REQUESTS, "Requests answered, by route and status."),
    (HTTP_REQUEST_SECONDS, "Time to answer a request, by route."),
    (RELAY_LEADER, "1 where this process leads the relay."),
    (RELAY_EVENTS, "Events that the relay has read from the log."),
    (RELAY_ENTRIES_APPENDED, "Entries appended to streams."),
    (RELAY_APPENDS_REFUSED, "Appends refused because the stream's tail was not the expected one."),
    (RELAY_STEPS_FAILED, "Steps of the relay that PostgreSQL or Redis did not let it finish."),
    (FEED_LAG_EVENTS, "Positions between the head of the log and what a group's live feed has settled."),
    (FEED_STREAM_ENTRIES, "Entries in a group's live stream."),
    (ATTEMPTS, "HTTP requests made to endpoints, by result."),
    (ATTEMPT_SECONDS, "Duration of one HTTP request to an endpoint."),
    (IN_FLIGHT, "HTTP requests to endpoints under way."),
    (DELIVERIES, "Outcomes recorded, by status."),
    (
        DELIVERY_LATENCY_SECONDS,
        "From the event's commit to its delivery, where the live feed's first attempt did it.",
    ),
    (RECORD_BATCH_OUTCOMES, "Outcomes in one commit of the recorder."),
    (RECORD_COMMIT_SECONDS, "Duration of one commit of the recorder."),
    (ENTRIES_CLAIMED, "Entries taken over from dispatchers that died."),
    (RETRIES_CLAIMED, "Due retries claimed."),
    (ENDPOINTS_PARKED, "Endpoints that their live feed leaves out for now."),
    (ENDPOINTS_SEALED, "Endpoints that are sent nothing because their secrets can't be opened here."),
    (
        RETENTION_HELD_DAYS,
        "Days of the log that are kept past their time because a group is owed something of them.",
    ),
    (RETENTION_DROPPED_DAYS, "Days of the log that were dropped."),
    (DELIVERIES_EXPIRED, "Deliveries that were still owed when their day was dropped."),
    (BREAKERS_OPEN, "Endpoints whose circuit breaker is open in this process."),
    (POSTGRES_UP, "1 while PostgreSQL lets this dispatcher write, asked every two seconds."),
    (REDIS_UP, "1 while Redis answers this dispatcher, asked every second."),
];

/// Shows a dispatcher's counters before there is anything to count: a counter that Prometheus first sees at 1 has
/// not grown, for all that it knows.
pub fn begin_counters_of_dispatcher() {
    let plain = [
        RELAY_APPENDS_REFUSED,
        RELAY_STEPS_FAILED,
        ENTRIES_CLAIMED,
        RETENTION_DROPPED_DAYS,
        DELIVERIES_EXPIRED,
    ];
    for name in plain {
        metrics::counter!(name).increment(0);
    }
    for status in Status::ALL {
        metrics::counter!(DELIVERIES, "status" => status.as_str()).increment(0);
    }
    for result in Failure::ALL.map(Failure::as_str).into_iter().chain(["success"]) {
        metrics::counter!(ATTEMPTS, "result" => result).increment(0);
    }
}

/// The recorder keeps each sample of a histogram until somebody asks for `/metrics`, or it is told to add them up.
/// Where nobody asks, a busy process would keep a hundred bytes for each event that it has seen.
const ADD_UP_EVERY: Duration = Duration::from_secs(5);

/// Installs the process's recorder; render it for `/metrics`.
///
/// # Errors
/// A recorder is installed already.
pub fn install() -> anyhow::Result<PrometheusHandle> {
    use metrics_exporter_prometheus::{Matcher, PrometheusBuilder};
    const SECONDS: &[f64] =
        &[0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 120.0];
    const SIZES: &[f64] = &[1.0, 2.0, 5.0, 10.0, 25.0, 50.0, 100.0, 250.0, 500.0, 1000.0];
    let handle = PrometheusBuilder::new()
        .set_buckets_for_metric(Matcher::Suffix("_seconds".into()), SECONDS)?
        .set_buckets(SIZES)?
        .install_recorder()?;
    for (name, help) in ALL {
        let help = *help;
        if name.ends_with("_total") {
            metrics::describe_counter!(*name, help);
        } else if name.ends_with("_seconds") || name.contains("_batch_") {
            metrics::describe_histogram!(*name, help);
        } else {
            metrics::describe_gauge!(*name, help);
        }
    }
    let recorded = handle.clone();
    // A thread, since this outlives whatever runs in the process.
    #[expect(clippy::disallowed_methods, reason = "no runtime's thread, and nobody waits for it")]
    let add_up = move || {
        loop {
            std::thread::sleep(ADD_UP_EVERY);
            recorded.run_upkeep();
        }
    };
    std::thread::Builder::new().name("metrics".into()).spawn(add_up)?;
    Ok(handle)
}
