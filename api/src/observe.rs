//! The outermost layer: gives each request its id, its span, its deadline, its metrics and its log line,
//! and writes problems out. Never logs bodies, keys or query strings.

use std::time::{Duration, Instant};

use axum::extract::{MatchedPath, Request};
use axum::http::{HeaderName, HeaderValue, Method};
use axum::middleware::Next;
use axum::response::{IntoResponse as _, Response};
use eventrail_core::metrics::{HTTP_REQUEST_SECONDS, HTTP_REQUESTS};
use tracing::Instrument as _;
use uuid::Uuid;

use crate::problem::{Kind, Problem};

/// A request gets no more time than this, its body included.
const DEADLINE: Duration = Duration::from_secs(30);

const MAX_HEADERS: usize = 100;
const MAX_HEADER_BYTES: usize = 32 << 10;

static REQUEST_ID: HeaderName = HeaderName::from_static("x-request-id");

pub(crate) async fn observe(matched: Option<MatchedPath>, request: Request, next: Next) -> Response {
    let started = Instant::now();
    let method = known_method(request.method());
    let route = matched.as_ref().map_or("", MatchedPath::as_str);
    let request_id = request_id(&request);
    let span = tracing::info_span!("request", http.method = method, http.route = route, request_id);

    let mut response = if has_bounded_head(&request) {
        let answer = tokio::time::timeout(DEADLINE, next.run(request)).instrument(span.clone());
        answer.await.unwrap_or_else(|_| {
            let detail = "The request took longer than 30 s; what it asked for may have been done";
            Problem::new(Kind::TimedOut, detail).into_response()
        })
    } else {
        let detail = format!("At most {MAX_HEADERS} headers with {MAX_HEADER_BYTES} bytes are read");
        Problem::new(Kind::HeadTooLarge, detail).into_response()
    };
    render_problem(&mut response, &request_id);
    if let Ok(id) = HeaderValue::from_str(&request_id) {
        response.headers_mut().insert(REQUEST_ID.clone(), id);
    }

    let status = response.status().as_u16();
    let elapsed = started.elapsed();
    let label = if route.is_empty() { "none".to_owned() } else { route.to_owned() };
    metrics::histogram!(HTTP_REQUEST_SECONDS, "method" => method, "route" => label.clone())
        .record(elapsed.as_secs_f64());
    metrics::counter!(HTTP_REQUESTS, "method" => method, "route" => label, "status" => status_label(status))
        .increment(1);
    span.in_scope(|| {
        if status >= 500 {
            tracing::warn!(http.status = status, duration_ms = elapsed.as_millis() as u64, "answered");
        } else {
            tracing::debug!(http.status = status, duration_ms = elapsed.as_millis() as u64, "answered");
        }
    });
    response
}

fn has_bounded_head(request: &Request) -> bool {
    let headers = request.headers();
    let bytes: usize = headers.iter().map(|(name, value)| name.as_str().len() + value.len()).sum();
    headers.len() <= MAX_HEADERS && bytes <= MAX_HEADER_BYTES
}

fn render_problem(response: &mut Response, request_id: &str) {
    if let Some(problem) = response.extensions_mut().remove::<Problem>() {
        problem.render(request_id, response);
        return;
    }
    let status = response.status();
    let is_refusal = status.is_client_error() || status.is_server_error();
    let is_ours = response.headers().get("content-type").is_some_and(|kind| kind == "application/json");
    if is_refusal && !is_ours {
        let kind = Kind::of_status(status);
        Problem::new(kind, kind.parts().2).render(request_id, response);
    }
}

/// The client's own id, if it is a plain word; a new one otherwise.
fn request_id(request: &Request) -> String {
    let plain = |text: &str| {
        (1..=64).contains(&text.len())
            && text.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"-_.:".contains(&byte))
    };
    let given = request.headers().get(&REQUEST_ID).and_then(|value| value.to_str().ok());
    match given {
        Some(text) if plain(text) => text.to_owned(),
        _ => Uuid::new_v4().simple().to_string(),
    }
}

/// Labels are bounded: a made-up method is `OTHER`.
fn known_method(method: &Method) -> &'static str {
    match *method {
        Method::GET => "GET",
        Method::POST => "POST",
        Method::DELETE => "DELETE",
        Method::HEAD => "HEAD",
        Method::PATCH => "PATCH",
        Method::PUT => "PUT",
        Method::OPTIONS => "OPTIONS",
        _ => "OTHER",
    }
}

fn status_label(status: u16) -> &'static str {
    match status {
        200 => "200",
        201 => "201",
        202 => "202",
        204 => "204",
        400 => "400",
        401 => "401",
        403 => "403",
        404 => "404",
        405 => "405",
        408 => "408",
        409 => "409",
        413 => "413",
        415 => "415",
        422 => "422",
        429 => "429",
        431 => "431",
        500 => "500",
        503 => "503",
        _ => "other",
    }
}

/// A handler panicked: a bug, and the connection goes on.
#[expect(clippy::needless_pass_by_value, reason = "the layer's interface")]
pub(crate) fn panicked(payload: Box<dyn std::any::Any + Send>) -> Response {
    let text = payload.downcast_ref::<String>().map(String::as_str);
    let text = text.or_else(|| payload.downcast_ref::<&str>().copied()).unwrap_or("no message");
    tracing::error!(panic = text, "a handler panicked");
    Problem::new(Kind::Internal, "The request failed; the log has the reason under this request_id")
        .into_response()
}
