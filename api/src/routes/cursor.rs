//! The cursor of a group's live feed, moved by hand.

use axum::extract::State;
use axum::response::Response;
use chrono::DateTime;
use eventrail_core::db::cursor::{self, Cursor, CursorTarget};
use eventrail_core::group::GroupName;
use serde::{Deserialize, Deserializer, Serialize};
use utoipa::ToSchema;

use super::events::json;
use crate::Api;
use crate::body::Json;
use crate::caller::Insider;
use crate::extract::{NoQuery, no_such_group};
use crate::openapi::schema;
use crate::problem::Problem;

const EXPECTED: &str = "must be \"0\", \"$\", a position of the log, a time (RFC 3339) or an event's id";

/// Where the feed is to begin.
pub(crate) struct StartId(pub(crate) CursorTarget);

impl<'de> Deserialize<'de> for StartId {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let found = match serde_json::Value::deserialize(deserializer)? {
            serde_json::Value::String(text) => parse(&text),
            serde_json::Value::Number(number) => number.as_i64().and_then(position),
            _ => None,
        };
        found.map(Self).ok_or_else(|| serde::de::Error::custom(EXPECTED))
    }
}

fn parse(text: &str) -> Option<CursorTarget> {
    if text == "$" {
        return Some(CursorTarget::End);
    }
    if let Ok(id) = text.parse() {
        return Some(CursorTarget::Event(id));
    }
    let is_number = !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit());
    if is_number {
        return text.parse().ok().and_then(position);
    }
    DateTime::parse_from_rfc3339(text).ok().map(|at| CursorTarget::At(at.to_utc()))
}

fn position(number: i64) -> Option<CursorTarget> {
    match number {
        0 => Some(CursorTarget::Start),
        1.. => Some(CursorTarget::After(number)),
        _ => None,
    }
}

#[derive(Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct CursorBody {
    /// `default` by default.
    #[schema(value_type = Option<schema::GroupName>)]
    group: Option<GroupName>,
    #[schema(value_type = schema::StartId)]
    start_id: Option<StartId>,
    /// Going back: only what was not delivered before.
    #[serde(default)]
    only_missing: bool,
    /// Only say what it would do.
    #[serde(default)]
    dry_run: bool,
}

#[derive(Serialize, ToSchema)]
struct CursorView {
    #[schema(value_type = schema::GroupName)]
    group: String,
    /// Where the cursor was: as `start_id`, with `only_missing`, it takes the move back.
    previous: i64,
    /// Where it is: all up to this position counts as settled.
    position: i64,
    /// Events of the log between the two, which come again or are skipped.
    events: i64,
}

/// Move a group's cursor
///
/// Back to have history sent again, to those who are subscribed now and with the header `eventrail-replay` unless
/// `only_missing` leaves out what was delivered before; or forward, to skip a backlog. `start_id` is `"0"` (all
/// that is kept), `"$"` (only what comes), a position (what comes after it), a time, or the id of the first event
/// to be sent. Retries that are scheduled go on.
#[utoipa::path(
    post,
    path = "/consumer-groups/set-cursor",
    tag = "replays",
    request_body = CursorBody,
    responses(
        (status = 200, description = "Moved, or what that would do (`dry_run`)", body = CursorView),
        (status = 404, description = "not-found"),
    )
)]
pub(super) async fn set_cursor(
    Insider(caller): Insider,
    State(api): State<Api>,
    _: NoQuery,
    Json(body): Json<CursorBody>,
) -> Result<Response, Problem> {
    let StartId(target) = body.start_id.ok_or_else(|| Problem::field("/start_id", "is required"))?;
    let group = body.group.unwrap_or_else(GroupName::default_group);
    caller.may_enter(group.as_str())?;
    let cursor = if body.dry_run {
        cursor::preview(&api.reads, &group, target, body.only_missing).await?
    } else {
        let author = caller.author("set_cursor");
        let cursor = cursor::set(&api.pool, &author, &group, target, body.only_missing).await?;
        api.doorbell.ring();
        cursor
    };
    match cursor {
        Cursor::Moved(moved) => Ok(json(&CursorView {
            group: group.to_string(),
            previous: moved.previous,
            position: moved.position,
            events: moved.events,
        })),
        Cursor::NoSuchGroup => Err(no_such_group()),
        Cursor::NoSuchEvent => Err(Problem::field("/start_id", "is no event that is kept")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_start_is_a_sign_a_position_a_time_or_an_event() {
        let read = |text: &str| serde_json::from_str::<StartId>(text).ok().map(|start| start.0);
        let event = "evt_01h455vb4pex5vsknk084sn02q";
        for (text, expected) in [
            ("\"0\"".to_owned(), CursorTarget::Start),
            ("0".to_owned(), CursorTarget::Start),
            ("\"$\"".to_owned(), CursorTarget::End),
            ("\"17\"".to_owned(), CursorTarget::After(17)),
            ("17".to_owned(), CursorTarget::After(17)),
            ("\"1970-01-01T01:00:00+01:00\"".to_owned(), CursorTarget::At(DateTime::UNIX_EPOCH)),
            (format!("\"{event}\""), CursorTarget::Event(event.parse().unwrap())),
        ] {
            assert_eq!(read(&text), Some(expected), "{text}");
        }
        for text in [
            "\"\"",
            "\"-1\"",
            "-1",
            "1.5",
            "\"+5\"",
            "true",
            "\"now\"",
            "\"9223372036854775808\"",
            "\"ep_1\"",
        ] {
            assert_eq!(read(text), None, "{text}");
        }
    }
}
