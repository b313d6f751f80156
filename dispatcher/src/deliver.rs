//! The story of one attempt: check, sign, send, read, classify, decide. What it answers is recorded by
//! [`crate::record`]; a receiver that behaves badly is an outcome, never an error.

use std::time::Duration;

use chrono::{DateTime, TimeDelta, Utc};
use eventrail_core::db::delivery::{Attempt, Record, Status};
use eventrail_core::ids::ReplayId;
use eventrail_core::metrics as names;
use eventrail_core::retry::retry_after;
use eventrail_core::signature;
use eventrail_core::verdict::{AttemptResult, Failure, Verdict, verdict};
use http::header::{ACCEPT, CONTENT_TYPE, RETRY_AFTER, USER_AGENT};
use http::{HeaderMap, HeaderName, HeaderValue, Request, Response};
use http_body_util::{BodyExt as _, Full};
use hyper::body::Incoming;
use hyper_util::client::legacy::connect::capture_connection;
use tokio::time::{Instant, timeout_at};

use crate::classify::classify;
use crate::clock;
use crate::event::Event;
use crate::http_client::{Client, H2_STREAM_WINDOW, MOST_BYTES, Meter, TooMuch};
use crate::recipients::Target;
use crate::work::{Origin, Work};

/// So much of an answer's body is kept.
const KEEP_BYTES: usize = 4 * 1024;
/// What a piece of a body counts for at least: thousands of tiny chunks take more time than their bytes do.
const PIECE_BYTES: usize = 256;

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
    let mut request = Request::new(Full::new(event.body.clone()));
    *request.method_mut() = http::Method::POST;
    *request.headers_mut() = headers(target, event, order, now);
    match target.url.as_str().parse() {
        Ok(uri) => *request.uri_mut() = uri,
        Err(error) => {
            return Answer::failed(Failure::Protocol, format!("the URL can't be asked for: {error}"));
        }
    }
    let connection = capture_connection(&mut request);
    match timeout_at(deadline, courier.client.request(request)).await {
        Ok(Ok(response)) => read(response, deadline).await,
        Ok(Err(error)) => {
            let (failure, detail) = classify(&error);
            Answer::failed(failure, detail)
        }
        Err(_) => {
            let what = if connection.connection_metadata().is_some() { "answer" } else { "connection" };
            Answer::failed(Failure::Timeout, format!("no {what} within {} ms", target.timeout.as_millis()))
        }
    }
}

/// Standard Webhooks 1.0.0, "Webhook metadata" and "Signature scheme".
fn headers(target: &Target, event: &Event, order: &Order, now: DateTime<Utc>) -> HeaderMap {
    let timestamp = now.timestamp();
    let mut headers = target.headers.clone();
    let mut put = |name: HeaderName, value: &str| {
        if let Ok(value) = HeaderValue::from_str(value) {
            headers.insert(name, value);
        }
    };
    let signatures = signature::sign(&event.id_text, timestamp, &event.body, &target.signing_keys(now));
    put(HeaderName::from_static("webhook-id"), &event.id_text);
    put(HeaderName::from_static("webhook-timestamp"), &timestamp.to_string());
    put(HeaderName::from_static("webhook-signature"), &signatures);
    put(HeaderName::from_static("eventrail-attempt"), &order.number.to_string());
    put(HeaderName::from_static("eventrail-group"), target.group.as_ref());
    if let Some(replay) = order.resend {
        put(HeaderName::from_static("eventrail-replay"), &replay.to_string());
    }
    headers.insert(CONTENT_TYPE, HeaderValue::from_static("application/json"));
    headers.entry(ACCEPT).or_insert(HeaderValue::from_static("*/*"));
    headers.insert(USER_AGENT, HeaderValue::from_static(concat!("EventRail/", env!("CARGO_PKG_VERSION"))));
    headers
}

/// Reads an answer's head and the beginning of its body. A 2xx whose body stalls or overflows is delivered.
async fn read(response: Response<Incoming>, deadline: Instant) -> Answer {
    let (head, body) = response.into_parts();
    let wait = head
        .headers
        .get(RETRY_AFTER)
        .and_then(|value| value.to_str().ok())
        .and_then(|value| retry_after(value, clock::now()));
    let (kept, detail) = read_body(body, head.extensions.get::<Meter>(), deadline).await;
    let failure = (!head.status.is_success()).then_some(Failure::Status);
    Answer {
        result: AttemptResult { status_code: Some(head.status.as_u16()), failure, retry_after: wait },
        detail: detail.map(|detail| format!("body: {detail}")),
        body: (!kept.is_empty()).then_some(kept),
    }
}

/// The beginning of a body, and why it was not read to its end.
async fn read_body(
    mut body: Incoming,
    meter: Option<&Meter>,
    deadline: Instant,
) -> (Vec<u8>, Option<String>) {
    let is_h2 = meter.is_some_and(Meter::is_h2);
    let most = if is_h2 { H2_STREAM_WINDOW as usize } else { MOST_BYTES };
    let (mut kept, mut read) = (Vec::new(), 0);
    meter.inspect(|meter| meter.answered());
    while read < most {
        match timeout_at(deadline, body.frame()).await {
            Ok(Some(Ok(frame))) => {
                let chunk = frame.into_data().unwrap_or_default();
                let room = KEEP_BYTES - kept.len();
                kept.extend_from_slice(&chunk[..chunk.len().min(room)]);
                read += chunk.len().max(PIECE_BYTES);
                meter.inspect(|meter| meter.took(chunk.len()));
            }
            Ok(None) => {
                meter.inspect(|meter| meter.ended());
                return (kept, None);
            }
            Ok(Some(Err(error))) => {
                let (failure, detail) = classify(&error);
                return (kept, Some(format!("{failure}: {detail}")));
            }
            Err(_) => return (kept, Some(format!("{}: not all of it in time", Failure::Timeout))),
        }
    }
    (kept, Some(format!("{}: {TooMuch}", Failure::Protocol)))
}

impl Answer {
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
