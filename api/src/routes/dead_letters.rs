//! Dead letters: deliveries that were given up.

use axum::body::Body;
use axum::extract::State;
use axum::http::{HeaderMap, HeaderValue, header};
use axum::response::{IntoResponse as _, Response};
use bytes::Bytes;
use chrono::{DateTime, Utc};
use eventrail_core::db::Stretch;
use eventrail_core::db::dead_letter::{self, DeadFilter, DeadLetter, ErrorCount, Key};
use eventrail_core::group::GroupName;
use eventrail_core::ids::{EndpointId, EventId};
use eventrail_core::matching::Pattern;
use eventrail_core::verdict::Fingerprint;
use futures_util::{StreamExt as _, stream};
use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;
use utoipa::{IntoParams, ToSchema};

use super::Page;
use super::events::{json, micros};
use super::reach;
use crate::Api;
use crate::caller::{Caller, Insider};
use crate::extract::{PageQuery, Query};
use crate::openapi::schema;
use crate::problem::{Kind, Problem};

const NDJSON: &str = "application/x-ndjson";
/// A batch of a download is held in memory, with payloads.
const DOWNLOADED_AT_ONCE: i64 = 50;

#[derive(Clone, Copy, Deserialize)]
#[serde(rename_all = "snake_case")]
enum GroupBy {
    Error,
}

#[derive(Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub(super) struct DeadLettersQuery {
    /// All that you may see, by default.
    #[param(value_type = schema::GroupName, required = false)]
    group: Option<GroupName>,
    #[param(value_type = schema::EndpointId, required = false)]
    endpoint_id: Option<EndpointId>,
    /// An event type, or a pattern such as `invoice.*`.
    #[param(value_type = schema::Pattern, required = false)]
    event_type: Option<Pattern>,
    /// A status code or a kind of error, as `group_by=error` shows them.
    #[param(value_type = schema::Fingerprint, required = false)]
    error: Option<Fingerprint>,
    /// `error`: count them by their errors instead; without `limit` and `cursor`.
    #[param(inline, value_type = schema::DeadGroupBy, required = false)]
    group_by: Option<GroupBy>,
    /// So many at most; 50 by default. A download has all.
    #[param(value_type = i64, required = false, minimum = 1, maximum = 500)]
    limit: Option<i64>,
    /// The `next_cursor` of the page before.
    #[param(value_type = String, required = false)]
    cursor: Option<String>,
}

#[derive(Serialize, ToSchema)]
pub(super) struct DeadLetterView {
    #[schema(value_type = schema::EventId)]
    event_id: EventId,
    #[schema(value_type = schema::EndpointId)]
    endpoint_id: EndpointId,
    #[schema(value_type = schema::GroupName)]
    group: String,
    #[schema(value_type = schema::EventType)]
    event_type: String,
    #[schema(value_type = schema::Source)]
    source: String,
    /// Of the event.
    #[serde(serialize_with = "micros")]
    created_at: DateTime<Utc>,
    #[schema(value_type = schema::Fingerprint)]
    error: String,
    /// Of the last attempt.
    error_detail: Option<String>,
    last_status_code: Option<i32>,
    attempts: i32,
    /// When it was given up.
    #[serde(serialize_with = "micros")]
    updated_at: DateTime<Utc>,
    /// As it was posted; only in downloads.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(value_type = serde_json::Value, required = false)]
    payload: Option<Box<RawValue>>,
}

impl From<DeadLetter> for DeadLetterView {
    fn from(letter: DeadLetter) -> Self {
        // It was valid JSON when it was stored.
        let payload = letter.payload.and_then(|bytes| String::from_utf8(bytes).ok());
        Self {
            event_id: letter.event_id,
            endpoint_id: letter.endpoint_id,
            group: letter.group,
            event_type: letter.event_type,
            source: letter.source,
            created_at: letter.created_at,
            error: letter.error,
            error_detail: letter.error_detail,
            last_status_code: letter.last_status_code,
            attempts: letter.attempt_total,
            updated_at: letter.updated_at,
            payload: payload.and_then(|text| RawValue::from_string(text).ok()),
        }
    }
}

/// Dead letters with the same error.
#[derive(Serialize, ToSchema)]
struct ErrorCountView {
    #[schema(value_type = schema::Fingerprint)]
    error: String,
    count: i64,
    /// When the first and the last of them were given up.
    #[serde(serialize_with = "micros")]
    first_at: DateTime<Utc>,
    #[serde(serialize_with = "micros")]
    last_at: DateTime<Utc>,
    /// The one with the newest event.
    sample: ErrorSample,
}

#[derive(Serialize, ToSchema)]
struct ErrorSample {
    #[schema(value_type = schema::EventId)]
    event_id: EventId,
    #[schema(value_type = schema::EndpointId)]
    endpoint_id: EndpointId,
    error_detail: Option<String>,
}

impl From<ErrorCount> for ErrorCountView {
    fn from(count: ErrorCount) -> Self {
        let sample = ErrorSample {
            event_id: count.event_id,
            endpoint_id: count.endpoint_id,
            error_detail: count.error_detail,
        };
        Self {
            error: count.error,
            count: count.count,
            first_at: count.first_at,
            last_at: count.last_at,
            sample,
        }
    }
}

/// A dead letter, or with `group_by=error` how many there are of an error.
#[derive(Serialize, ToSchema)]
#[serde(untagged)]
enum DeadLetterItem {
    Letter(Box<DeadLetterView>),
    Errors(ErrorCountView),
}

/// List dead letters
///
/// Those of the newest events first; or counted by their errors (`group_by=error`); or all of them with their
/// payloads as a download, one JSON object a line (`Accept: application/x-ndjson`). Those that were put away are
/// not among them. Subscribers see those of their groups.
#[utoipa::path(
    get,
    path = "/dead-letters",
    tag = "dead letters",
    params(DeadLettersQuery),
    responses(
        (status = 200, description = "What was given up", content(
            (Page<DeadLetterItem> = "application/json"),
            (String = "application/x-ndjson"),
        )),
        (status = 404, description = "not-found"),
    )
)]
pub(super) async fn list_dead_letters(
    Insider(caller): Insider,
    State(api): State<Api>,
    headers: HeaderMap,
    Query(query): Query<DeadLettersQuery>,
) -> Result<Response, Problem> {
    let has_page = query.limit.is_some() || query.cursor.is_some();
    let page = PageQuery::new(query.limit, query.cursor);
    let (limit, before) = (page.limit()?, page.after(read_cursor)?);
    let filter =
        filter(&api, &caller, query.group, (query.endpoint_id, query.event_type, query.error)).await?;
    if query.group_by.is_some() {
        if has_page {
            let detail = "`group_by` has one page: leave out `limit` and `cursor`";
            return Err(Problem::new(Kind::InvalidQuery, detail));
        }
        let counts = dead_letter::by_error(&api.reads, &filter).await?;
        let data = counts.into_iter().map(|count| DeadLetterItem::Errors(count.into())).collect();
        return Ok(json(&Page { data, next_cursor: None }));
    }
    if wants_download(&headers) {
        return download(api, filter, before).await;
    }
    let letters = dead_letter::list(&api.reads, &filter, before, limit + 1, false).await?;
    let cursor = |letter: &DeadLetter| write_cursor((letter.event_id, letter.endpoint_id));
    let page = Page::of_stretch(letters, limit, cursor, write_cursor);
    Ok(json(&page.map(|letter| DeadLetterItem::Letter(Box::new(letter.into())))))
}

pub(crate) fn read_cursor(cursor: &str) -> Option<Key> {
    let (event, endpoint) = cursor.split_once('.')?;
    Some((event.parse().ok()?, endpoint.parse().ok()?))
}

pub(crate) fn write_cursor((event, endpoint): Key) -> String {
    format!("{event}.{endpoint}")
}

type Conditions = (Option<EndpointId>, Option<Pattern>, Option<Fingerprint>);

/// Within the group that is named, or all that the caller may see.
async fn filter(
    api: &Api,
    caller: &Caller,
    group: Option<GroupName>,
    (endpoint_id, event_type, error): Conditions,
) -> Result<DeadFilter, Problem> {
    let group = match group {
        Some(name) => Some(reach::existing(api, caller, name).await?),
        None => None,
    };
    let groups = dead_letter::groups(&api.reads, group.as_ref(), caller.groups()).await?;
    Ok(DeadFilter { groups, endpoint_id, event_type, error })
}

fn wants_download(headers: &HeaderMap) -> bool {
    let accepted = headers.get_all(header::ACCEPT).iter().filter_map(|value| value.to_str().ok());
    let mut types = accepted.flat_map(|value| value.split(',')).filter_map(|part| part.split(';').next());
    types.any(|media_type| media_type.trim().eq_ignore_ascii_case(NDJSON))
}

/// All of them, batch by batch, as the reader takes them. A connection that breaks off before the end has had an
/// error; the log has it.
async fn download(api: Api, filter: DeadFilter, before: Option<Key>) -> Result<Response, Problem> {
    // The first batch before the answer begins: most of what can go wrong does so here.
    let first = dead_letter::list(&api.reads, &filter, before, DOWNLOADED_AT_ONCE, true).await?;
    let (first, next) = lines(first);
    let rest = stream::try_unfold((api, filter, next), async |(api, filter, next)| {
        let Some(before) = next else { return Ok(None) };
        match dead_letter::list(&api.reads, &filter, Some(before), DOWNLOADED_AT_ONCE, true).await {
            Ok(batch) => {
                let (lines, next) = lines(batch);
                Ok(Some((lines, (api, filter, next))))
            }
            Err(error) => {
                tracing::warn!(%error, "a download of dead letters broke off");
                Err(error)
            }
        }
    });
    let kind = HeaderValue::from_static(NDJSON);
    let body = Body::from_stream(stream::iter([Ok(first)]).chain(rest));
    Ok(([(header::CONTENT_TYPE, kind)], body).into_response())
}

/// A batch as text, and where the next begins.
fn lines(batch: Stretch<DeadLetter, Key>) -> (Bytes, Option<Key>) {
    let is_full = batch.rows.len() as i64 >= DOWNLOADED_AT_ONCE;
    let last = batch.rows.last().map(|letter| (letter.event_id, letter.endpoint_id));
    let mut lines = Vec::new();
    for letter in batch.rows {
        let event = letter.event_id;
        match serde_json::to_vec(&DeadLetterView::from(letter)) {
            Ok(line) => lines.extend_from_slice(&line),
            Err(error) => tracing::error!(%error, event.id = %event, "a dead letter could not be written"),
        }
        lines.push(b'\n');
    }
    (lines.into(), if is_full { last } else { batch.left_at })
}

#[derive(Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub(super) struct PurgeQuery {
    #[param(value_type = schema::GroupName)]
    group: GroupName,
    #[param(value_type = schema::EndpointId, required = false)]
    endpoint_id: Option<EndpointId>,
    /// An event type, or a pattern such as `invoice.*`.
    #[param(value_type = schema::Pattern, required = false)]
    event_type: Option<Pattern>,
    /// A status code or a kind of error.
    #[param(value_type = schema::Fingerprint, required = false)]
    error: Option<Fingerprint>,
}

#[derive(Serialize, ToSchema)]
struct Purged {
    /// How many were put away.
    purged: i64,
}

/// Put dead letters away
///
/// They are no longer listed or counted, nor sent again with the others. Their deliveries and attempts can still be
/// read. Should it take too long, ask again: it goes on where it was.
#[utoipa::path(
    delete,
    path = "/dead-letters",
    tag = "dead letters",
    params(PurgeQuery),
    responses((status = 200, description = "Put away", body = Purged), (status = 404, description = "not-found"))
)]
pub(super) async fn purge_dead_letters(
    Insider(caller): Insider,
    State(api): State<Api>,
    Query(query): Query<PurgeQuery>,
) -> Result<Response, Problem> {
    let conditions = (query.endpoint_id, query.event_type, query.error);
    let filter = filter(&api, &caller, Some(query.group.clone()), conditions).await?;
    let author = caller.author("purge_dead_letters");
    let purged = dead_letter::purge(&api.pool, &author, &query.group, &filter).await?;
    Ok(json(&Purged { purged }))
}
