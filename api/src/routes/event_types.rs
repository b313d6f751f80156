//! Event types and sources that were seen.

use axum::extract::State;
use axum::response::Response;
use chrono::{DateTime, Utc};
use eventrail_core::db::event_kind::{self, EventKind};
use serde::Serialize;
use utoipa::ToSchema;

use super::Page;
use super::events::{json, micros};
use crate::Api;
use crate::caller::Reader;
use crate::extract::{PageQuery, Query};
use crate::openapi::schema;
use crate::problem::Problem;

#[derive(Serialize, ToSchema)]
struct EventTypeView {
    #[schema(value_type = schema::EventType)]
    event_type: String,
    #[schema(value_type = schema::Source)]
    source: String,
    #[serde(serialize_with = "micros")]
    last_at: DateTime<Utc>,
}

impl From<EventKind> for EventTypeView {
    fn from(kind: EventKind) -> Self {
        Self { event_type: kind.event_type, source: kind.source, last_at: kind.last_at }
    }
}

/// List the event types that were seen
///
/// With the source that sent them and the last time, by type. It is some seconds behind. Producers see those of
/// their sources, subscribers those that the endpoints of their groups are subscribed to.
#[utoipa::path(
    get,
    path = "/event-types",
    tag = "events",
    params(PageQuery),
    responses((status = 200, description = "A page of types and sources", body = Page<EventTypeView>))
)]
pub(super) async fn list_event_types(
    Reader(scope): Reader,
    State(api): State<Api>,
    Query(page): Query<PageQuery>,
) -> Result<Response, Problem> {
    let limit = page.limit()?;
    let after = page.after(read_cursor)?;
    let kinds = event_kind::list(&api.reads, &scope, after, limit + 1).await?;
    let page = Page::of_stretch(kinds, limit, write_cursor, |kind| write_cursor(&kind));
    Ok(json(&page.map(EventTypeView::from)))
}

/// In hexadecimal, for sources may hold what means something in a URL.
fn write_cursor(kind: &EventKind) -> String {
    cursor_after(&kind.event_type, &kind.source)
}

pub(crate) fn cursor_after(event_type: &str, source: &str) -> String {
    let pair = format!("{event_type} {source}");
    pair.bytes().map(|byte| format!("{byte:02x}")).collect()
}

pub(crate) fn read_cursor(cursor: &str) -> Option<(String, String)> {
    let digits: Vec<u8> = cursor.bytes().map(|byte| (byte as char).to_digit(16)).try_fold(
        Vec::new(),
        |mut digits, digit| {
            digits.push(digit? as u8);
            Some(digits)
        },
    )?;
    let bytes = digits.chunks(2).map(|pair| match pair {
        [high, low] => Some(high << 4 | low),
        _ => None,
    });
    let text = String::from_utf8(bytes.collect::<Option<_>>()?).ok()?;
    let (event_type, source) = text.split_once(' ')?;
    let is_plain = text.bytes().all(|byte| (b' '..=b'~').contains(&byte));
    is_plain.then(|| (event_type.to_owned(), source.to_owned()))
}
