//! An endpoint as people see it: its state, its details, its secrets, and how it answered when it was tried.

use serde_json::Value;

use super::output::Look;
use super::retry;
use super::table::{Cell, Tone, render, render_details, whole};
use crate::printable::shortened as first_of;

/// Of a receiver's answer.
const SHOWN_CHARACTERS: usize = 200;

/// Whether it is delivered to, and if not, why.
pub(super) fn state(endpoint: &Value) -> Cell {
    let status = endpoint["status"].as_str().unwrap_or_default();
    let breaker = endpoint["breaker"].as_str().filter(|breaker| *breaker != "closed");
    if status == "active" && !endpoint["parked_at"].is_null() {
        return Cell::state("parked", None);
    }
    if let (true, Some(breaker)) = (status == "active", breaker) {
        return Cell::new(&format!("breaker {breaker}"), Tone::Bad);
    }
    Cell::state(status, endpoint["disabled_reason"].as_str())
}

pub(super) fn details(look: &Look, endpoint: &Value) -> String {
    let time = |member: &str| endpoint[member].as_str().map(|time| look.times.long(time)).unwrap_or_default();
    let or_all = |member: &str| match endpoint[member].as_array() {
        Some(texts) if !texts.is_empty() => Cell::texts(endpoint, member),
        _ => Cell::plain("all"),
    };
    let headers = endpoint["headers"].as_object();
    let headers = headers
        .into_iter()
        .flatten()
        .filter_map(|(name, value)| value.as_str().map(|value| format!("{name}: {value}")));
    let mut details = vec![
        ("endpoint", Cell::text(endpoint, "id")),
        ("group", Cell::text(endpoint, "group")),
        ("url", Cell::text(endpoint, "url")),
        ("description", Cell::text(endpoint, "description")),
        ("state", state(endpoint)),
        ("parked since", Cell::plain(&time("parked_at"))),
        ("event types", or_all("event_types")),
        ("sources", or_all("sources")),
        ("headers", Cell::plain(&headers.collect::<Vec<_>>().join(", "))),
        ("credentials", Cell::text(&endpoint["auth"], "type")),
        ("timeout, ms", Cell::count(endpoint, "timeout_ms")),
        ("most in flight", Cell::count(endpoint, "max_in_flight")),
        ("rate per second", Cell::count(endpoint, "rate_per_second")),
        ("retries", Cell::plain(&retry::describe(&endpoint["retry"]))),
        ("created", Cell::plain(&time("created_at"))),
        ("changed", Cell::plain(&time("updated_at"))),
    ];
    if endpoint["secret"].is_string() {
        details.push(("secret", Cell::text(endpoint, "secret")));
    }
    render_details(look, &details)
}

pub(super) fn secrets(look: &Look, answer: &Value) -> String {
    let rows = answer["secrets"].as_array().into_iter().flatten().map(|one| {
        let until = one["expires_at"].as_str().map(|time| look.times.short(time));
        vec![Cell::text(one, "secret"), Cell::plain(until.as_deref().unwrap_or("it is replaced"))]
    });
    render(look, &[whole("SECRET"), whole("SIGNS UNTIL")], &rows.collect::<Vec<_>>())
}

/// What came of a test.
pub(super) fn tried(look: &Look, tried: &Value) -> String {
    let (verdict, tone) =
        if tried["delivered"] == true { ("delivered", Tone::Good) } else { ("failed", Tone::Bad) };
    let code = tried["status_code"].as_i64().map(|code| code.to_string()).unwrap_or_default();
    let took = tried["duration_ms"].as_i64().map(|took| format!("{took} ms")).unwrap_or_default();
    let said = first_of(tried["response_body"].as_str().unwrap_or_default(), SHOWN_CHARACTERS);
    let details = [
        ("verdict", Cell::new(verdict, tone)),
        ("status code", Cell::plain(&code)),
        ("error", Cell::text(tried, "error")),
        ("detail", Cell::text(tried, "error_detail")),
        ("took", Cell::plain(&took)),
        ("it answered", Cell::plain(&said)),
        ("webhook-id", Cell::text(tried, "event_id")),
    ];
    render_details(look, &details)
}
