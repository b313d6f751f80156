//! What is shown of a replay.

use chrono::{DateTime, Utc};
use eventrail_core::db::replay::Replay;
use eventrail_core::db::replay_progress::Progress;
use eventrail_core::ids::{EndpointId, ReplayId};
use serde::Serialize;
use utoipa::ToSchema;

use super::events::{micros, micros_or_null};
use super::lists::ListedEventView;
use crate::openapi::schema;

/// What a replay would bring.
#[derive(Serialize, ToSchema)]
pub(super) struct ReplayPreview {
    /// Events.
    pub(super) matched: i64,
    /// Deliveries, over all endpoints. With `only_missing` those that were made before are among them.
    pub(super) owed: i64,
    pub(super) endpoints: usize,
    /// The first of the events.
    pub(super) sample: Vec<ListedEventView>,
}

/// A replay or redrive, with its progress.
#[derive(Serialize, ToSchema)]
pub(super) struct ReplayView {
    #[schema(value_type = schema::ReplayId)]
    id: ReplayId,
    #[schema(value_type = schema::ReplayKind)]
    kind: String,
    #[schema(value_type = schema::ReplayStatus)]
    status: &'static str,
    /// `*` for all groups.
    #[schema(value_type = schema::GroupOrAll)]
    group: String,
    #[schema(value_type = Option<schema::EndpointId>)]
    endpoint_id: Option<EndpointId>,
    #[schema(value_type = Option<schema::Pattern>)]
    event_type: Option<String>,
    #[schema(value_type = Option<schema::Source>)]
    source: Option<String>,
    /// Of a redrive: the error of its dead letters.
    #[schema(value_type = Option<schema::Fingerprint>)]
    error: Option<String>,
    #[serde(serialize_with = "micros_or_null")]
    from: Option<DateTime<Utc>>,
    #[serde(serialize_with = "micros_or_null")]
    to: Option<DateTime<Utc>>,
    limit: Option<i64>,
    only_missing: bool,
    rate_per_second: Option<i32>,
    /// Events that it brings; of a redrive, dead letters.
    matched: i64,
    /// Deliveries, over all endpoints.
    owed: i64,
    /// Events that were handed to all of its endpoints so far.
    published: i64,
    delivered: i64,
    /// Deliveries that failed and are tried again.
    retrying: i64,
    dead: i64,
    /// Deliveries that need not be made: made before (with `only_missing`), taken over by a later replay or retry,
    /// or of a deleted endpoint.
    skipped: i64,
    /// Deliveries a second that came to an end, on average.
    settled_per_second: f64,
    /// At the average so far; null unless it runs and has begun.
    #[serde(serialize_with = "micros_or_null")]
    estimated_end_at: Option<DateTime<Utc>>,
    #[serde(serialize_with = "micros")]
    created_at: DateTime<Utc>,
    #[serde(serialize_with = "micros_or_null")]
    cancelled_at: Option<DateTime<Utc>>,
    /// When the last was sent for the first time; some may still be retried.
    #[serde(serialize_with = "micros_or_null")]
    finished_at: Option<DateTime<Utc>>,
}

impl ReplayView {
    pub(super) fn new(replay: Replay, progress: &Progress) -> Self {
        let rate = progress.rate(replay.created_at);
        Self {
            status: progress.status.as_str(),
            published: progress.published,
            delivered: progress.delivered,
            retrying: progress.retrying,
            dead: progress.dead,
            skipped: progress.skipped,
            settled_per_second: (rate * 10.0).round() / 10.0,
            estimated_end_at: progress.estimated_end_at(replay.created_at, replay.owed),
            finished_at: progress.finished_at,
            id: replay.id,
            kind: replay.kind,
            group: replay.group_name,
            endpoint_id: replay.endpoint_id,
            event_type: replay.event_type,
            source: replay.source,
            error: replay.error,
            from: replay.from_at,
            to: replay.to_at,
            limit: replay.event_limit,
            only_missing: replay.only_missing,
            rate_per_second: replay.rate_per_second,
            matched: replay.matched,
            owed: replay.owed,
            created_at: replay.created_at,
            cancelled_at: replay.cancelled_at,
        }
    }
}
