//! Queries, names and ids of requests. Unknown query parameters are refused, for a mistyped filter must not
//! widen what it filters; malformed names and ids are simply not found.

use axum::extract::FromRequestParts;
use axum::http::request::Parts;
use chrono::{DateTime, Utc};
use eventrail_core::event::IdempotencyKey;
use eventrail_core::group::GroupName;
use eventrail_core::ids::{EndpointId, EventId, ReplayId};
use serde::de::{DeserializeOwned, Error as _};
use serde::{Deserialize, Deserializer};
use utoipa::IntoParams;

use crate::problem::{Kind, Problem};

/// A query of known parameters only; `T` denies unknown fields.
pub(crate) struct Query<T>(pub(crate) T);

impl<T: DeserializeOwned, S: Send + Sync> FromRequestParts<S> for Query<T> {
    type Rejection = Problem;

    async fn from_request_parts(parts: &mut Parts, _: &S) -> Result<Self, Problem> {
        axum::extract::Query::try_from_uri(&parts.uri).map(|query| Self(query.0)).map_err(|rejection| {
            let text = rejection.body_text();
            let detail = text.strip_prefix("Failed to deserialize query string: ").unwrap_or(&text);
            Problem::new(Kind::InvalidQuery, detail.to_owned())
        })
    }
}

/// For routes without parameters.
pub(crate) struct NoQuery;

impl<S: Send + Sync> FromRequestParts<S> for NoQuery {
    type Rejection = Problem;

    async fn from_request_parts(parts: &mut Parts, _: &S) -> Result<Self, Problem> {
        match parts.uri.query() {
            None | Some("") => Ok(Self),
            Some(_) => Err(Problem::new(Kind::InvalidQuery, "This route takes no query parameters")),
        }
    }
}

/// A page of a list.
#[derive(Debug, Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub(crate) struct PageQuery {
    /// So many at most; 50 by default.
    #[param(value_type = i64, required = false, minimum = 1, maximum = 500)]
    limit: Option<i64>,
    /// The `next_cursor` of the page before.
    #[param(value_type = String, required = false)]
    pub(crate) cursor: Option<String>,
}

impl PageQuery {
    /// For lists that have filters as well: Serde can't refuse unknown names through a flattened struct.
    pub(crate) fn new(limit: Option<i64>, cursor: Option<String>) -> Self {
        Self { limit, cursor }
    }

    pub(crate) fn limit(&self) -> Result<i64, Problem> {
        match self.limit.unwrap_or(50) {
            limit @ 1..=500 => Ok(limit),
            _ => Err(Problem::new(Kind::InvalidQuery, "`limit` must be 1 to 500")),
        }
    }

    /// The place where the last page ended.
    pub(crate) fn after<T>(&self, read: impl Fn(&str) -> Option<T>) -> Result<Option<T>, Problem> {
        let Some(cursor) = &self.cursor else { return Ok(None) };
        let place = read(cursor).ok_or_else(|| {
            Problem::new(Kind::InvalidQuery, "`cursor` must be a `next_cursor` of this list")
        })?;
        Ok(Some(place))
    }
}

/// A time: RFC 3339 with any offset. In a query a `+` that was not escaped has become a space.
pub(crate) struct Time(pub(crate) DateTime<Utc>);

impl<'de> Deserialize<'de> for Time {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = String::deserialize(deserializer)?;
        let read = DateTime::parse_from_rfc3339(&text).or_else(|error| match text.rsplit_once(' ') {
            Some((time, offset)) => DateTime::parse_from_rfc3339(&format!("{time}+{offset}")),
            None => Err(error),
        });
        let at = read.map_err(|_| D::Error::custom("times are RFC 3339, such as 2026-01-31T12:00:00Z"))?;
        // There is nothing before 1970, and ids can't say so.
        Ok(Self(at.to_utc().max(DateTime::UNIX_EPOCH)))
    }
}

pub(crate) fn group_name(text: &str) -> Result<GroupName, Problem> {
    text.parse().map_err(|_| no_such_group())
}

pub(crate) fn no_such_group() -> Problem {
    Problem::not_found("There is no group of this name")
}

pub(crate) fn endpoint_id(text: &str) -> Result<EndpointId, Problem> {
    text.parse().map_err(|_| no_such_endpoint())
}

pub(crate) fn no_such_endpoint() -> Problem {
    Problem::not_found("The group has no endpoint with this id")
}

pub(crate) fn event_id(text: &str) -> Result<EventId, Problem> {
    text.parse().map_err(|_| no_such_event())
}

pub(crate) fn no_such_event() -> Problem {
    Problem::not_found("There is no event with this id")
}

pub(crate) fn replay_id(text: &str) -> Result<ReplayId, Problem> {
    text.parse().map_err(|_| no_such_replay())
}

pub(crate) fn no_such_replay() -> Problem {
    Problem::not_found("There is no replay with this id")
}

/// The request's `Idempotency-Key`, if it has one.
pub(crate) struct KeyHeader(pub(crate) Option<IdempotencyKey>);

impl<S: Send + Sync> FromRequestParts<S> for KeyHeader {
    type Rejection = Problem;

    async fn from_request_parts(parts: &mut Parts, _: &S) -> Result<Self, Problem> {
        let refuse = |detail: String| Problem::new(Kind::InvalidIdempotencyKey, detail);
        let mut values = parts.headers.get_all("idempotency-key").iter();
        let Some(value) = values.next() else { return Ok(Self(None)) };
        if values.next().is_some() {
            return Err(refuse("Send one Idempotency-Key".into()));
        }
        let text = value.to_str().unwrap_or_default();
        text.parse().map(|key| Self(Some(key))).map_err(|error| refuse(format!("{error}")))
    }
}
