//! Events: one posted, one read.

use axum::extract::{Path, Request, State};
use axum::http::{HeaderValue, StatusCode, header};
use axum::response::{IntoResponse, Response};
use bytes::Bytes;
use chrono::{DateTime, SecondsFormat, Utc};
use eventrail_core::db::event_list::{self, Scope};
use eventrail_core::db::log::{self, Appended, NewEvent, Stored};
use eventrail_core::event::{EventType, IdempotencyKey, Source};
use eventrail_core::ids::EventId;
use eventrail_core::payload;
use serde::{Deserialize, Deserializer, Serialize, Serializer};
use serde_json::value::RawValue;
use utoipa::ToSchema;

use crate::Api;
use crate::body::{self, Object};
use crate::caller::{Reader, Sender};
use crate::extract::{KeyHeader, NoQuery, event_id, no_such_event};
use crate::openapi::params::EventPath;
use crate::openapi::schema;
use crate::problem::{FieldError, Kind, Problem};

#[derive(Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
struct EventBody<'a> {
    #[schema(value_type = schema::PostedType)]
    event_type: Option<EventType>,
    #[schema(value_type = schema::Source)]
    source: Option<Source>,
    /// Any JSON value that every parser reads (I-JSON: no halves of characters, no number beyond a double); it is
    /// delivered as it stands.
    #[serde(borrow, default, deserialize_with = "given")]
    #[schema(value_type = serde_json::Value, required)]
    payload: Option<&'a RawValue>,
}

/// Any JSON value as it stands; `null` is one.
pub(super) fn given<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<&'de RawValue>, D::Error> {
    <&RawValue>::deserialize(deserializer).map(Some)
}

/// The parts of an event as they came in, somewhere (`pointer`) in a body.
pub(super) struct Parts<'a> {
    pub(super) event_type: Option<EventType>,
    pub(super) source: Option<Source>,
    pub(super) payload: Option<&'a RawValue>,
    pub(super) key: Option<IdempotencyKey>,
}

impl Parts<'_> {
    /// The event, or what is wrong with it. Its payload is a slice of `body`, not a copy.
    pub(super) fn event(self, body: &Bytes, pointer: &str) -> Result<NewEvent, Vec<FieldError>> {
        if let (Some(event_type), Some(source), Some(payload)) =
            (&self.event_type, &self.source, self.payload)
            && !event_type.is_operational()
        {
            payload::check(payload.get().as_bytes())
                .map_err(|error| vec![FieldError::new(format!("{pointer}/payload"), error.to_string())])?;
            let payload = body.slice_ref(payload.get().as_bytes());
            return Ok(NewEvent::new(event_type.clone(), source.clone(), payload, self.key));
        }
        let mut errors = Vec::new();
        let missing = [
            ("event_type", self.event_type.is_none()),
            ("source", self.source.is_none()),
            ("payload", self.payload.is_none()),
        ];
        for (name, _) in missing.iter().filter(|(_, is_missing)| *is_missing) {
            errors.push(FieldError::new(format!("{pointer}/{name}"), "is required"));
        }
        if self.event_type.is_some_and(|event_type| event_type.is_operational()) {
            let detail = "must not begin with `eventrail`: those events are EventRail's own";
            errors.push(FieldError::new(format!("{pointer}/event_type"), detail));
        }
        Err(errors)
    }
}

#[derive(Serialize, ToSchema)]
struct EventAnswer<'a> {
    #[schema(value_type = schema::EventId)]
    id: EventId,
    #[schema(value_type = schema::EventType)]
    event_type: &'a str,
    #[schema(value_type = schema::Source)]
    source: &'a str,
    #[serde(serialize_with = "micros")]
    created_at: DateTime<Utc>,
}

pub(super) fn micros_or_null<S: Serializer>(
    at: &Option<DateTime<Utc>>,
    serializer: S,
) -> Result<S::Ok, S::Error> {
    match at {
        Some(at) => micros(at, serializer),
        None => serializer.serialize_none(),
    }
}

/// RFC 3339 in UTC with microseconds, as everywhere.
pub(super) fn micros<S: Serializer>(at: &DateTime<Utc>, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.serialize_str(&at.to_rfc3339_opts(SecondsFormat::Micros, true))
}

/// Post an event
///
/// It is stored before the answer. With an `Idempotency-Key` it is stored once, however often it is sent:
/// then the answer is a 200 with the header `idempotent-replayed`.
#[utoipa::path(
    post,
    path = "/events",
    tag = "events",
    params(("Idempotency-Key" = Option<schema::IdempotencyKey>, Header, description = "One for each event of a source")),
    request_body = EventBody<'_>,
    responses(
        (status = 201, description = "Stored", body = EventAnswer<'_>),
        (status = 200, description = "Stored before, under this key", body = EventAnswer<'_>,
            headers(("idempotent-replayed" = bool, description = "`true`"))),
        (status = 422, description = "invalid-idempotency-key, idempotency-key-reused"),
        (status = 503, description = "overloaded, outcome-unknown"),
    )
)]
pub(super) async fn create_event(
    Sender(caller): Sender,
    State(api): State<Api>,
    _: NoQuery,
    KeyHeader(key): KeyHeader,
    request: Request,
) -> Result<Response, Problem> {
    let body = body::read(request, api.config.max_event_bytes as usize).await?;
    let event = event_of(&body, key)?;
    let (event_type, source) = (event.event_type.clone(), event.source.clone());
    caller.may_send_as(&source)?;
    let appended = api.ingest.append(vec![event], body.len()).await?;
    let answer = |stored: &Stored| {
        let answer = EventAnswer {
            id: stored.id,
            event_type: event_type.as_str(),
            source: source.as_str(),
            created_at: stored.created_at,
        };
        json(&answer)
    };
    match appended.first() {
        Some(Appended::Created(stored)) => Ok((StatusCode::CREATED, answer(stored)).into_response()),
        Some(Appended::Duplicate(stored)) => {
            Ok(([("idempotent-replayed", "true")], answer(stored)).into_response())
        }
        Some(Appended::Conflict(stored)) => Err(reused(stored.id)),
        None => Err(Problem::new(Kind::Internal, "The event got no answer")),
    }
}

/// What a body comes to.
pub(crate) fn event_of(body: &Bytes, key: Option<IdempotencyKey>) -> Result<NewEvent, Problem> {
    let Object(EventBody { event_type, source, payload }) = body::parse(body)?;
    Parts { event_type, source, payload, key }.event(body, "").map_err(Problem::fields)
}

fn reused(first: EventId) -> Problem {
    let detail = "This source has used the key for an event with another type or payload; nothing was stored";
    Problem::new(Kind::IdempotencyKeyReused, detail).existing("event_id", first.to_string())
}

/// A body of JSON.
pub(super) fn json(value: &impl Serialize) -> Response {
    match serde_json::to_vec(value) {
        Ok(bytes) => {
            let kind = HeaderValue::from_static("application/json");
            ([(header::CONTENT_TYPE, kind)], bytes).into_response()
        }
        Err(error) => {
            tracing::error!(%error, "an answer could not be written");
            Problem::new(Kind::Internal, "The answer could not be written").into_response()
        }
    }
}

#[derive(Serialize, ToSchema)]
struct EventView<'a> {
    #[schema(value_type = schema::EventId)]
    id: EventId,
    /// Its place in the log.
    position: i64,
    #[schema(value_type = schema::EventType)]
    event_type: &'a str,
    #[schema(value_type = schema::Source)]
    source: &'a str,
    #[serde(serialize_with = "micros")]
    created_at: DateTime<Utc>,
    #[schema(value_type = serde_json::Value)]
    payload: Box<RawValue>,
}

/// Read an event
#[utoipa::path(
    get,
    path = "/events/{id}",
    tag = "events",
    params(EventPath),
    responses((status = 200, description = "The event with its payload", body = EventView<'_>))
)]
pub(super) async fn get_event(
    Reader(scope): Reader,
    State(api): State<Api>,
    Path(id): Path<String>,
    _: NoQuery,
) -> Result<Response, Problem> {
    let id = event_id(&id)?;
    if scope != Scope::All && !event_list::is_visible(&api.reads, &scope, id).await? {
        return Err(no_such_event());
    }
    let event = log::get_event(&api.reads, id).await?.ok_or_else(no_such_event)?;
    // It was valid JSON when it was stored.
    let payload = String::from_utf8(event.payload).ok().and_then(|text| RawValue::from_string(text).ok());
    let payload = payload.ok_or_else(|| Problem::new(Kind::Internal, "The stored payload is not JSON"))?;
    Ok(json(&EventView {
        id: event.id,
        position: event.position,
        event_type: &event.event_type,
        source: &event.source,
        created_at: event.created_at,
        payload,
    }))
}
