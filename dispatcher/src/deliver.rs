//! The story of one attempt: check, sign, send, read, classify, decide. What it answers is recorded by
//! [`crate::record`]; a receiver that behaves badly is an outcome, never an error.

use std::time::Duration;

use chrono::{DateTime, TimeDelta, Utc};
use eventrail_core::db::delivery::{Attempt, Record, Status};
use eventrail_core::ids::ReplayId;
use eventrail_core::metrics as names;
use eventrail_core::retry::retry_after;
use eventrail_core::signature::{self, WEBHOOK_ID, WEBHOOK_SIGNATURE, WEBHOOK_TIMESTAMP};
use eventrail_core::verdict::{AttemptResult, Failure, Verdict, verdict};
use tokio::time::Instant;

use crate::classify::classify;
use crate::clock;
use crate::event::Event;
use crate::http_client::{Client, NotAnswered, Received};
use crate::recipients::Target;
use crate::work::{Origin, Work};

/// What all attempts share.
pub(crate) struct Courier {
    pub(crate) client: Client,
    /// The longest that a receiver may ask us to wait.
    pub(crate) longest_retry_after: Duration,
}

/// How an attempt ended, for the lanes and the recorder.
pub(crate) struct Outcome {
    pub(crate) work: Work,
    pub(crate) record: Record,
    pub(crate) verdict: Verdict,
}

struct Answer {
    result: AttemptResult,
    detail: Option<String>,
    body: Option<Vec<u8>>,
}

/// Attempts one delivery. Ends within the endpoint's timeout.
pub(crate) async fn deliver(courier: &Courier, target: &Target, work: Work) -> Outcome {
    let (attempt, result) = attempt(courier, target, &work.event, &Order::of(&work)).await;
    let retries_done = u32::try_from(work.attempts_done).unwrap_or(0);
    let jitter = rand::random::<f64>();
    let verdict = verdict(&result, retries_done, &target.policy, courier.longest_retry_after, jitter);
    measure(&work, &attempt, verdict);
    log(target, &work, &attempt, verdict);
    let (status, next_attempt_at) = match verdict {
        Verdict::Delivered => (Status::Delivered, None),
        Verdict::Dead | Verdict::Gone => (Status::Dead, None),
        Verdict::Retry { after, .. } => {
            (Status::Retrying, Some(clock::now() + TimeDelta::from_std(after).unwrap_or(TimeDelta::days(30))))
        }
    };
    let record = Record {
        event_id: work.event.id,
        endpoint_id: target.id,
        group_id: target.group_id,
        feed_id: work.feed_id,
        replay_id: work.replay_id,
        ask: work.ask,
        status,
        next_attempt_at,
        last_error: attempt.error.map(Failure::as_str),
        attempt: Some(attempt),
    };
    Outcome { work, record, verdict }
}

/// Which attempt it is, and why it is made.
pub(crate) struct Order {
    /// From 1 on, of this ask.
    pub(crate) number: i32,
    pub(crate) trigger: &'static str,
    pub(crate) resend: Option<ReplayId>,
}

impl Order {
    fn of(work: &Work) -> Self {
        Self { number: work.attempts_done + 1, trigger: work.trigger(), resend: work.resend }
    }
}

/// Makes one signed request and reads its answer.
pub(crate) async fn attempt(
    courier: &Courier,
    target: &Target,
    event: &Event,
    order: &Order,
) -> (Attempt, AttemptResult) {
    let started_at = clock::now();
    let started = Instant::now();
    let answer = send(courier, target, event, order, started_at).await;
    let attempt = Attempt {
        started_at,
        duration_ms: i32::try_from(started.elapsed().as_millis()).unwrap_or(i32::MAX),
        status_code: answer.result.status_code,
        error: answer.result.failure,
        error_detail: answer.detail,
        response_body: answer.body,
        trigger: order.trigger,
    };
    (attempt, answer.result)
}

async fn send(
    courier: &Courier,
    target: &Target,
    event: &Event,
    order: &Order,
    now: DateTime<Utc>,
) -> Answer {
    let deadline = Instant::now() + target.timeout;
    // Standard Webhooks 1.0.0, "Webhook metadata" and "Signature scheme".
    let timestamp = now.timestamp();
    let signatures = signature::sign(&event.id_text, timestamp, &event.body, target.signing_keys(now));
    let (timestamp, number) = (timestamp.to_string(), order.number.to_string());
    let replay = order.resend.map(|replay| replay.to_string());
    let own = [
        (WEBHOOK_ID, event.id_text.as_str()),
        (WEBHOOK_TIMESTAMP, &timestamp),
        (WEBHOOK_SIGNATURE, &signatures),
        ("eventrail-attempt", &number),
        ("eventrail-replay", replay.as_deref().unwrap_or_default()),
    ];
    let own = if replay.is_some() { &own[..] } else { &own[..own.len() - 1] };
    match courier.client.post(&target.destination, own, &event.body, deadline).await {
        Ok(received) => Answer::of(received),
        Err(error) => {
            let failed =
                |what| (Failure::Timeout, format!("no {what} within {} ms", target.timeout.as_millis()));
            let (failure, detail) = match &error {
                NotAnswered::NoConnection => failed("connection"),
                NotAnswered::NoAnswer => failed("answer"),
                NotAnswered::Unsent(error) | NotAnswered::Failed(error) => classify(&**error),
            };
            Answer::failed(failure, detail)
        }
    }
}

impl Answer {
    /// A 2xx whose body stalls or overflows is delivered.
    fn of(received: Received) -> Self {
        let detail = received.cut.map(|cut| match &cut {
            NotAnswered::NoConnection | NotAnswered::NoAnswer => {
                format!("body: {}: not all of it in time", Failure::Timeout)
            }
            NotAnswered::Unsent(error) | NotAnswered::Failed(error) => {
                let (failure, detail) = classify(&**error);
                format!("body: {failure}: {detail}")
            }
        });
        let failure = (!(200..300).contains(&received.status)).then_some(Failure::Status);
        let retry_after = received.retry_after.and_then(|value| retry_after(&value, clock::now()));
        Self {
            result: AttemptResult { status_code: Some(received.status), failure, retry_after },
            detail,
            body: (!received.body.is_empty()).then_some(received.body),
        }
    }

    fn failed(failure: Failure, detail: String) -> Self {
        Self {
            result: AttemptResult { status_code: None, failure: Some(failure), retry_after: None },
            detail: Some(detail),
            body: None,
        }
    }
}

fn measure(work: &Work, attempt: &Attempt, verdict: Verdict) {
    let label = attempt.error.map_or("success", Failure::as_str);
    metrics::counter!(names::ATTEMPTS, "result" => label).increment(1);
    metrics::histogram!(names::ATTEMPT_SECONDS).record(f64::from(attempt.duration_ms) / 1000.0);
    // What was deferred, or is sent again, says how long an endpoint was away, or how old an event is.
    let is_new = matches!(work.origin, Origin::Live(_)) && work.resend.is_none();
    if verdict == Verdict::Delivered && is_new {
        let latency = (clock::now() - work.event.created_at).to_std().unwrap_or_default();
        metrics::histogram!(names::DELIVERY_LATENCY_SECONDS).record(latency.as_secs_f64());
    }
}

/// One line for each attempt: those that failed at `info`, the others at `debug`.
fn log(target: &Target, work: &Work, attempt: &Attempt, verdict: Verdict) {
    macro_rules! line {
        ($level:ident, $text:literal) => {
            tracing::$level!(
                event.id = %work.event.id,
                delivery.endpoint_id = %target.id,
                delivery.group = %target.group,
                attempt = work.attempts_done + 1,
                status = attempt.status_code,
                error = attempt.error.map(Failure::as_str),
                detail = attempt.error_detail.as_deref(),
                duration_ms = attempt.duration_ms,
                $text
            )
        };
    }
    match verdict {
        Verdict::Delivered => line!(debug, "delivered"),
        Verdict::Retry { .. } => line!(info, "attempt failed, will be retried"),
        Verdict::Dead => line!(warn, "attempt failed, delivery is dead"),
        Verdict::Gone => line!(warn, "410 Gone: endpoint is disabled, delivery is dead"),
    }
}
