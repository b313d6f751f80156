//! The DLQ streams: for people with `redis-cli`. Capped; the record of dead letters is PostgreSQL.

use super::keys::{DLQ_CAP, Keys};
use crate::group::GroupName;
use crate::ids::{EndpointId, EventId};

/// One dead letter as its stream shows it.
#[derive(Debug, Clone)]
pub struct DeadLetter {
    pub event_id: EventId,
    pub endpoint_id: EndpointId,
    pub attempts: i32,
    pub last_error: String,
    pub at: chrono::DateTime<chrono::Utc>,
}

/// Adds a dead letter to a pipeline.
pub fn queue(pipeline: &mut redis::Pipeline, keys: &Keys, group: &GroupName, letter: &DeadLetter) {
    for stream in keys.dead_letters(group) {
        pipeline
            .cmd("XADD")
            .arg(stream)
            .arg("MAXLEN")
            .arg("~")
            .arg(DLQ_CAP)
            .arg("*")
            .arg("event")
            .arg(letter.event_id.to_string())
            .arg("endpoint")
            .arg(letter.endpoint_id.to_string())
            .arg("group")
            .arg(group.as_ref())
            .arg("attempts")
            .arg(letter.attempts)
            .arg("last_error")
            .arg(&letter.last_error)
            .arg("dead_at")
            .arg(letter.at.to_rfc3339_opts(chrono::SecondsFormat::Micros, true))
            .ignore();
    }
}
