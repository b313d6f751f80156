//! Many events in one request: all are committed together, or none.

use std::fmt;

use axum::extract::{Request, State};
use axum::response::Response;
use bytes::Bytes;
use eventrail_core::db::log::{Appended, NewEvent};
use eventrail_core::event::{EventType, IdempotencyKey, Source};
use eventrail_core::ids::EventId;
use serde::de::{SeqAccess, Visitor};
use serde::{Deserialize, Deserializer, Serialize};
use serde_json::value::RawValue;
use utoipa::ToSchema;

use super::events::{Parts, given, json};
use crate::Api;
use crate::body::{self, Object};
use crate::caller::Sender;
use crate::extract::{KeyHeader, NoQuery};
use crate::openapi::schema;
use crate::problem::{Kind, Problem};

const MAX_EVENTS: usize = 1000;

#[derive(Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
struct BatchBody<'a> {
    #[serde(borrow)]
    #[schema(value_type = Vec<BatchEvent<'_>>, min_items = 1, max_items = 1000)]
    events: Option<Events<'a>>,
}

#[derive(Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
struct BatchEvent<'a> {
    #[schema(value_type = schema::PostedType)]
    event_type: Option<EventType>,
    #[schema(value_type = schema::Source)]
    source: Option<Source>,
    /// Any JSON value; it is delivered as it stands.
    #[serde(borrow, default, deserialize_with = "given")]
    #[schema(value_type = serde_json::Value, required)]
    payload: Option<&'a RawValue>,
    #[schema(value_type = Option<schema::IdempotencyKey>)]
    idempotency_key: Option<IdempotencyKey>,
}

/// A list that is refused where it grows too long, not after all of it is in memory.
struct Events<'a>(Vec<BatchEvent<'a>>);

impl<'de: 'a, 'a> Deserialize<'de> for Events<'a> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Bounded;

        impl<'de> Visitor<'de> for Bounded {
            type Value = Events<'de>;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a list of events")
            }

            fn visit_seq<A: SeqAccess<'de>>(self, mut seq: A) -> Result<Events<'de>, A::Error> {
                let mut events = Vec::new();
                while let Some(Object(event)) = seq.next_element()? {
                    if events.len() == MAX_EVENTS {
                        let detail = format!("must hold at most {MAX_EVENTS} events");
                        return Err(serde::de::Error::custom(detail));
                    }
                    events.push(event);
                }
                Ok(Events(events))
            }
        }

        deserializer.deserialize_seq(Bounded)
    }
}

#[derive(Serialize, ToSchema)]
#[schema(as = BatchAnswer)]
struct Answer {
    /// One for each event, in their order.
    data: Vec<AnswerItem>,
}

#[derive(Serialize, ToSchema)]
#[schema(as = BatchAnswerItem)]
struct AnswerItem {
    /// With `duplicate` and `conflict` the first event's.
    #[schema(value_type = schema::EventId)]
    id: EventId,
    /// `conflict`: the key stands for an event with another type or payload, and nothing was stored.
    #[schema(value_type = BatchStatus)]
    status: &'static str,
}

#[derive(ToSchema)]
#[schema(rename_all = "snake_case")]
#[expect(dead_code, reason = "the schema of three words")]
enum BatchStatus {
    Created,
    Duplicate,
    Conflict,
}

impl From<&Appended> for AnswerItem {
    fn from(appended: &Appended) -> Self {
        match appended {
            Appended::Created(stored) => Self { id: stored.id, status: "created" },
            Appended::Duplicate(stored) => Self { id: stored.id, status: "duplicate" },
            Appended::Conflict(stored) => Self { id: stored.id, status: "conflict" },
        }
    }
}

/// Post up to 1000 events
///
/// All are committed together, or none: one that can't be used refuses the batch. Keys are the events' own.
#[utoipa::path(
    post,
    path = "/events/batch",
    tag = "events",
    request_body = BatchBody<'_>,
    responses(
        (status = 200, description = "All are stored", body = Answer),
        (status = 422, description = "invalid-idempotency-key"),
        (status = 503, description = "overloaded, outcome-unknown"),
    )
)]
pub(super) async fn create_events(
    Sender(caller): Sender,
    State(api): State<Api>,
    _: NoQuery,
    KeyHeader(key): KeyHeader,
    request: Request,
) -> Result<Response, Problem> {
    if key.is_some() {
        let detail = "A batch has no key of its own: give each event its `idempotency_key`";
        return Err(Problem::new(Kind::InvalidIdempotencyKey, detail));
    }
    let body = body::read(request, api.config.max_batch_bytes as usize).await?;
    let events = events_of(&body)?;
    for event in &events {
        caller.may_send_as(&event.source)?;
    }
    let appended = api.ingest.append(events, body.len()).await?;
    Ok(json(&Answer { data: appended.iter().map(AnswerItem::from).collect() }))
}

/// What a body comes to: at least one event, and all of them can be used.
pub(crate) fn events_of(body: &Bytes) -> Result<Vec<NewEvent>, Problem> {
    let Some(Events(given)) = body::parse::<Object<BatchBody<'_>>>(body)?.0.events else {
        return Err(Problem::field("/events", "is required"));
    };
    if given.is_empty() {
        return Err(Problem::field("/events", "must hold at least one event"));
    }
    let mut events = Vec::with_capacity(given.len());
    let mut errors = Vec::new();
    for (index, BatchEvent { event_type, source, payload, idempotency_key: key }) in
        given.into_iter().enumerate()
    {
        match (Parts { event_type, source, payload, key }).event(body, &format!("/events/{index}")) {
            Ok(event) => events.push(event),
            Err(wrong) => errors.extend(wrong),
        }
    }
    if errors.is_empty() { Ok(events) } else { Err(Problem::fields(errors)) }
}
