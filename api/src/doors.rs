//! The parsers that stand between a request and the rest of the house, without a server around them: what
//! `fuzz/` calls, so that it tries the very code that producers and operators reach.

use bytes::Bytes;
use chrono::{DateTime, Utc};
use eventrail_core::db::cursor::CursorTarget;
use eventrail_core::db::log::NewEvent;
use serde::Deserialize as _;
use serde::de::IntoDeserializer as _;

use crate::body;
use crate::extract::Time;
use crate::problem::Problem;
use crate::routes::cursor::StartId;
use crate::routes::{batch, dead_letters, event_types, events};

/// The body of `POST /events`, once all of it has arrived.
///
/// # Errors
/// Why it is refused.
pub fn event(body: &Bytes) -> Result<NewEvent, Problem> {
    body::check_depth(body)?;
    events::event_of(body, None)
}

/// The body of `POST /events/batch`.
///
/// # Errors
/// Why it is refused.
pub fn events(body: &Bytes) -> Result<Vec<NewEvent>, Problem> {
    body::check_depth(body)?;
    batch::events_of(body)
}

/// The `start_id` of `POST /consumer-groups/set-cursor`, as JSON.
///
/// # Errors
/// Why it is refused.
pub fn start_id(json: &[u8]) -> Result<CursorTarget, Problem> {
    body::parse::<StartId>(json).map(|start| start.0)
}

/// A time in a query.
pub fn time(text: &str) -> Option<DateTime<Utc>> {
    let text: serde::de::value::StrDeserializer<'_, serde::de::value::Error> = text.into_deserializer();
    Time::deserialize(text).ok().map(|time| time.0)
}

/// The `cursor` of a list of deliveries or dead letters, and of one of event types: read, and written again.
pub fn list_cursors(cursor: &str) -> [Option<String>; 2] {
    let kind = event_types::read_cursor(cursor);
    [
        dead_letters::read_cursor(cursor).map(dead_letters::write_cursor),
        kind.map(|(event_type, source)| event_types::cursor_after(&event_type, &source)),
    ]
}
