//! The line that is printed for one delivery.
//!
//! What it shows was sent by anybody who can reach the port, so nothing of it reaches the terminal unescaped.

use std::borrow::Cow;
use std::fmt::Write as _;

use axum::http::{HeaderMap, StatusCode};
use chrono::{DateTime, Local};
use eventrail_core::signature::WEBHOOK_ID;
use serde::Deserialize;
use serde_json::value::RawValue;

use crate::printable::shortened;

pub(super) const ATTEMPT: &str = "eventrail-attempt";
pub(super) const GROUP: &str = "eventrail-group";
pub(super) const REPLAY: &str = "eventrail-replay";

/// Characters of the data that are shown.
const SHOWN: usize = 60;

pub(super) enum Judgement {
    Verified,
    /// No secret to verify with.
    Unverified,
    Refused(String),
}

pub(super) struct Line<'a> {
    judgement: &'a Judgement,
    id: &'a str,
    attempt: &'a str,
    replay: Option<&'a str>,
    path: &'a str,
    size: usize,
    status: StatusCode,
    duplicate: bool,
    event: Option<Event<'a>>,
}

#[derive(Deserialize)]
struct Event<'a> {
    #[serde(rename = "type", borrow)]
    event_type: Cow<'a, str>,
    #[serde(borrow)]
    source: Option<Cow<'a, str>>,
    #[serde(borrow)]
    data: &'a RawValue,
}

impl<'a> Line<'a> {
    pub(super) fn new(
        judgement: &'a Judgement,
        headers: &'a HeaderMap,
        path: &'a str,
        body: &'a [u8],
        status: StatusCode,
        duplicate: bool,
    ) -> Self {
        Self {
            judgement,
            id: super::text(headers, WEBHOOK_ID).unwrap_or("-"),
            attempt: super::text(headers, ATTEMPT).unwrap_or("-"),
            replay: super::text(headers, REPLAY),
            path,
            size: body.len(),
            status,
            duplicate,
            event: serde_json::from_slice(body).ok(),
        }
    }

    pub(super) fn show(&self, now: DateTime<Local>, colour: bool) -> String {
        let paint = |code: &str, text: &str| {
            if colour { format!("\x1b[{code}m{text}\x1b[0m") } else { text.to_owned() }
        };
        let judged = match self.judgement {
            Judgement::Verified => paint("32", "verified"),
            Judgement::Unverified => paint("33", "unverified"),
            Judgement::Refused(why) => paint("1;31", &format!("REFUSED ({why})")),
        };
        let status = paint(if self.status.is_success() { "32" } else { "31" }, self.status.as_str());
        let mut line = format!(
            "{}  {judged}  attempt {}  {}",
            now.format("%H:%M:%S%.3f"),
            printable(self.attempt),
            printable(self.id)
        );
        // Writing to a String can't fail.
        if let Some(event) = &self.event {
            let source = event.source.as_deref().unwrap_or("-");
            let _ = write!(line, "  {}  from {}", printable(&event.event_type), printable(source));
        }
        if self.path != "/" {
            let _ = write!(line, "  at {}", printable(self.path));
        }
        let _ = write!(line, "  {} bytes", self.size);
        if let Some(replay) = self.replay {
            let _ = write!(line, "  {}", paint("35", &format!("replay {}", printable(replay))));
        }
        if self.duplicate {
            let _ = write!(line, "  {}", paint("33", "duplicate"));
        }
        let data = match &self.event {
            Some(event) => printable(event.data.get()),
            None => "(not an event's JSON)".to_owned(),
        };
        let _ = write!(line, "  -> {status}  {}", paint("2", &data));
        line
    }
}

/// The first characters, escaped.
fn printable(text: &str) -> String {
    shortened(text, SHOWN)
}
