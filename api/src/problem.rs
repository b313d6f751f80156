//! What every refusal looks like: `application/problem+json` (RFC 9457). Handlers answer with a [`Problem`];
//! [`crate::observe`] writes it out, because it knows the request's id. `docs/PROBLEMS.md` describes each
//! kind and is served at `/problems`, where the `type` of each points.

use std::borrow::Cow;
use std::time::Duration;

use axum::http::{HeaderValue, StatusCode, header};
use axum::response::{IntoResponse, Response};
use serde::Serialize;

/// The kinds of refusal. Their slugs are part of the contract.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    BadRequest,
    InvalidJson,
    InvalidQuery,
    Unauthorized,
    Forbidden,
    NotFound,
    MethodNotAllowed,
    RequestTimeout,
    NameTaken,
    UrlTaken,
    DefaultGroup,
    TooManyEndpoints,
    TooManySecrets,
    TooManyReplays,
    NotTried,
    EndpointDeleted,
    BodyTooLarge,
    UnsupportedMediaType,
    InvalidFields,
    InvalidIdempotencyKey,
    IdempotencyKeyReused,
    TooFast,
    HeadTooLarge,
    Internal,
    Overloaded,
    Unavailable,
    OutcomeUnknown,
    TimedOut,
}

impl Kind {
    pub const ALL: &[Self] = &[
        Self::BadRequest,
        Self::InvalidJson,
        Self::InvalidQuery,
        Self::Unauthorized,
        Self::Forbidden,
        Self::NotFound,
        Self::MethodNotAllowed,
        Self::RequestTimeout,
        Self::NameTaken,
        Self::UrlTaken,
        Self::DefaultGroup,
        Self::TooManyEndpoints,
        Self::TooManySecrets,
        Self::TooManyReplays,
        Self::NotTried,
        Self::EndpointDeleted,
        Self::BodyTooLarge,
        Self::UnsupportedMediaType,
        Self::InvalidFields,
        Self::InvalidIdempotencyKey,
        Self::IdempotencyKeyReused,
        Self::TooFast,
        Self::HeadTooLarge,
        Self::Internal,
        Self::Overloaded,
        Self::Unavailable,
        Self::OutcomeUnknown,
        Self::TimedOut,
    ];

    pub const fn parts(self) -> (&'static str, StatusCode, &'static str) {
        match self {
            Self::BadRequest => ("bad-request", StatusCode::BAD_REQUEST, "The request can't be read"),
            Self::InvalidJson => ("invalid-json", StatusCode::BAD_REQUEST, "The body is not JSON"),
            Self::InvalidQuery => ("invalid-query", StatusCode::BAD_REQUEST, "The query can't be used"),
            Self::Unauthorized => ("unauthorized", StatusCode::UNAUTHORIZED, "A key is needed"),
            Self::Forbidden => ("forbidden", StatusCode::FORBIDDEN, "The key does not open this"),
            Self::NotFound => ("not-found", StatusCode::NOT_FOUND, "There is no such thing"),
            Self::MethodNotAllowed => {
                ("method-not-allowed", StatusCode::METHOD_NOT_ALLOWED, "This path has no such method")
            }
            Self::RequestTimeout => {
                ("request-timeout", StatusCode::REQUEST_TIMEOUT, "The body did not arrive in time")
            }
            Self::NameTaken => ("name-taken", StatusCode::CONFLICT, "The name is taken"),
            Self::UrlTaken => ("url-taken", StatusCode::CONFLICT, "The group has an endpoint with this URL"),
            Self::DefaultGroup => ("default-group", StatusCode::CONFLICT, "The default group stays"),
            Self::TooManyEndpoints => {
                ("too-many-endpoints", StatusCode::CONFLICT, "The group has as many endpoints as it may")
            }
            Self::TooManySecrets => (
                "too-many-secrets",
                StatusCode::CONFLICT,
                "The endpoint signs with as many secrets as it may",
            ),
            Self::TooManyReplays => {
                ("too-many-replays", StatusCode::CONFLICT, "As many replays are running as may")
            }
            Self::NotTried => ("not-tried", StatusCode::CONFLICT, "The delivery is still to be tried"),
            Self::EndpointDeleted => {
                ("endpoint-deleted", StatusCode::CONFLICT, "The endpoint has been deleted")
            }
            Self::BodyTooLarge => {
                ("body-too-large", StatusCode::PAYLOAD_TOO_LARGE, "The body is over the limit")
            }
            Self::UnsupportedMediaType => {
                ("unsupported-media-type", StatusCode::UNSUPPORTED_MEDIA_TYPE, "The body must be JSON")
            }
            Self::InvalidFields => {
                ("invalid-fields", StatusCode::UNPROCESSABLE_ENTITY, "Some fields can't be used")
            }
            Self::InvalidIdempotencyKey => (
                "invalid-idempotency-key",
                StatusCode::UNPROCESSABLE_ENTITY,
                "The Idempotency-Key can't be used",
            ),
            Self::IdempotencyKeyReused => (
                "idempotency-key-reused",
                StatusCode::UNPROCESSABLE_ENTITY,
                "The Idempotency-Key stands for another event",
            ),
            Self::TooFast => ("too-fast", StatusCode::TOO_MANY_REQUESTS, "The key is used too often"),
            Self::HeadTooLarge => (
                "head-too-large",
                StatusCode::REQUEST_HEADER_FIELDS_TOO_LARGE,
                "The headers are over the limit",
            ),
            Self::Internal => ("internal", StatusCode::INTERNAL_SERVER_ERROR, "A bug of ours"),
            Self::Overloaded => ("overloaded", StatusCode::SERVICE_UNAVAILABLE, "Too much at once"),
            Self::Unavailable => {
                ("unavailable", StatusCode::SERVICE_UNAVAILABLE, "PostgreSQL can't be reached")
            }
            Self::OutcomeUnknown => {
                ("outcome-unknown", StatusCode::SERVICE_UNAVAILABLE, "Whether it was stored is unknown")
            }
            Self::TimedOut => ("timed-out", StatusCode::SERVICE_UNAVAILABLE, "It took too long"),
        }
    }

    pub fn of_slug(slug: &str) -> Option<Self> {
        Self::ALL.iter().copied().find(|kind| kind.parts().0 == slug)
    }

    /// The kind that stands for a status which the framework answered by itself.
    pub fn of_status(status: StatusCode) -> Self {
        match status {
            StatusCode::NOT_FOUND => Self::NotFound,
            StatusCode::METHOD_NOT_ALLOWED => Self::MethodNotAllowed,
            StatusCode::PAYLOAD_TOO_LARGE => Self::BodyTooLarge,
            StatusCode::UNSUPPORTED_MEDIA_TYPE => Self::UnsupportedMediaType,
            status if status.is_client_error() => Self::BadRequest,
            _ => Self::Internal,
        }
    }
}

/// One field that can't be used: an RFC 6901 pointer into the body, and what to change.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct FieldError {
    pub pointer: String,
    pub detail: String,
}

impl FieldError {
    pub fn new(pointer: impl Into<String>, detail: impl Into<String>) -> Self {
        Self { pointer: pointer.into(), detail: detail.into() }
    }
}

/// A refusal.
#[derive(Debug, Clone)]
pub struct Problem {
    pub kind: Kind,
    detail: Cow<'static, str>,
    errors: Vec<FieldError>,
    /// The thing that stands in the way: the member's name, and its id.
    existing: Option<(&'static str, String)>,
    /// After how many seconds to try again, if that is known better than "soon".
    retry_after: Option<u64>,
}

impl Problem {
    pub fn new(kind: Kind, detail: impl Into<Cow<'static, str>>) -> Self {
        Self { kind, detail: detail.into(), errors: Vec::new(), existing: None, retry_after: None }
    }

    pub fn fields(errors: Vec<FieldError>) -> Self {
        let detail = match errors.as_slice() {
            [one] if one.pointer.is_empty() => one.detail.clone(),
            [one] => format!("{}: {}", one.pointer, one.detail),
            many => format!("{} fields can't be used", many.len()),
        };
        Self { kind: Kind::InvalidFields, detail: detail.into(), errors, existing: None, retry_after: None }
    }

    pub fn field(pointer: impl Into<String>, detail: impl Into<String>) -> Self {
        Self::fields(vec![FieldError::new(pointer, detail)])
    }

    pub fn not_found(what: &'static str) -> Self {
        Self::new(Kind::NotFound, what)
    }

    /// The key may be used again after `wait`.
    pub(crate) fn too_fast(wait: Duration) -> Self {
        let problem = Self::new(Kind::TooFast, "The key has a `rate_per_second`; wait as `Retry-After` says");
        Self { retry_after: Some(wait.as_secs() + u64::from(wait.subsec_nanos() > 0)), ..problem }
    }

    /// Names what exists already, under the member `name`.
    #[must_use]
    pub fn existing(mut self, name: &'static str, id: String) -> Self {
        self.existing = Some((name, id));
        self
    }

    pub fn status(&self) -> StatusCode {
        self.kind.parts().1
    }

    /// Writes the problem into its response.
    pub(crate) fn render(&self, request_id: &str, response: &mut Response) {
        let (slug, status, title) = self.kind.parts();
        let mut body = serde_json::Map::new();
        body.insert("type".into(), format!("/problems#{slug}").into());
        body.insert("title".into(), title.into());
        body.insert("status".into(), status.as_u16().into());
        body.insert("detail".into(), self.detail.as_ref().into());
        body.insert("request_id".into(), request_id.into());
        if !self.errors.is_empty() {
            let errors = self.errors.iter();
            body.insert(
                "errors".into(),
                errors.map(|e| serde_json::json!({"pointer": e.pointer, "detail": e.detail})).collect(),
            );
        }
        if let Some((name, id)) = &self.existing {
            body.insert((*name).into(), id.as_str().into());
        }
        *response.status_mut() = status;
        *response.body_mut() = serde_json::Value::Object(body).to_string().into();
        let headers = response.headers_mut();
        headers.remove(header::CONTENT_LENGTH);
        headers.insert(header::CONTENT_TYPE, HeaderValue::from_static("application/problem+json"));
        match status {
            StatusCode::SERVICE_UNAVAILABLE | StatusCode::TOO_MANY_REQUESTS => {
                headers.insert(header::RETRY_AFTER, self.retry_after.unwrap_or(1).into());
            }
            StatusCode::UNAUTHORIZED => {
                headers.insert(header::WWW_AUTHENTICATE, HeaderValue::from_static("Bearer"));
            }
            _ => {}
        }
    }
}

impl IntoResponse for Problem {
    fn into_response(self) -> Response {
        let mut response = self.status().into_response();
        response.extensions_mut().insert(self);
        response
    }
}

impl From<sqlx::Error> for Problem {
    /// 503 where trying again helps, 500 where it is a bug. The chain is logged here, once.
    fn from(error: sqlx::Error) -> Self {
        if is_given_up(&error) {
            tracing::warn!(%error, "PostgreSQL took too long for a request");
            Self::new(Kind::TimedOut, "PostgreSQL took too long for this; narrow the filter, or try again")
        } else if is_infrastructure(&error) {
            tracing::warn!(%error, "PostgreSQL did not serve a request");
            Self::new(Kind::Unavailable, "PostgreSQL can't be reached at the moment; try again")
        } else {
            tracing::error!(%error, "PostgreSQL refused a statement");
            Self::new(Kind::Internal, "The request failed; the log has the reason under this request_id")
        }
    }
}

/// Whether the statement ran into its timeout (query_canceled).
fn is_given_up(error: &sqlx::Error) -> bool {
    matches!(error, sqlx::Error::Database(error) if error.code().as_deref() == Some("57014"))
}

/// Whether the database, not the statement, is at fault: connections, resources, operators, locks, and
/// standbys that do not write.
fn is_infrastructure(error: &sqlx::Error) -> bool {
    match error {
        sqlx::Error::Database(error) => error.code().is_some_and(|code| {
            ["08", "25", "40", "53", "55", "57", "58"].iter().any(|class| code.starts_with(class))
        }),
        sqlx::Error::RowNotFound | sqlx::Error::Decode(_) | sqlx::Error::ColumnDecode { .. } => false,
        _ => true,
    }
}
