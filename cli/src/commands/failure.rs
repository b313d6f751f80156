//! What can go wrong with an operator's command, on one line each, and the exit code that stands for it.

use std::error::Error as _;

use reqwest::StatusCode;
use serde::Deserialize;
use url::Url;

use crate::printable::printable;

/// The command can't be carried out as it was given: exit code 2.
#[derive(Debug, thiserror::Error)]
#[error("{0}")]
pub(crate) struct Usage(pub(crate) String);

/// Ctrl-C while watching; the text says what goes on without us. Exit code 130, as shells have it.
#[derive(Debug, thiserror::Error)]
#[error("{0}")]
pub(crate) struct Interrupted(pub(crate) String);

/// The exit code of an error: 2 for how it was asked, 1 for what the API refused or could not do.
pub(crate) fn exit_code(error: &anyhow::Error) -> u8 {
    if error.is::<Usage>() {
        2
    } else if error.is::<Interrupted>() {
        130
    } else {
        1
    }
}

/// Whoever reads our output has closed it, as `head` does: nobody is left to complain to.
pub(crate) fn is_closed_output(error: &anyhow::Error) -> bool {
    let io = error.downcast_ref::<std::io::Error>();
    io.is_some_and(|error| error.kind() == std::io::ErrorKind::BrokenPipe)
}

/// Why there is no answer that could be used.
#[derive(Debug, thiserror::Error)]
pub(crate) enum ApiError {
    #[error("{url} can't be reached: {reason} (EVENTRAIL_URL or --url says where the API is)")]
    Unreachable { url: String, reason: String },
    #[error("{text}")]
    Refused { status: StatusCode, text: String },
    #[error("{0} does not answer as EventRail's API does (EVENTRAIL_URL or --url says where it is)")]
    Foreign(String),
}

/// A refusal as the API describes it (RFC 9457).
#[derive(Deserialize)]
struct Problem {
    title: String,
    #[serde(default)]
    detail: String,
    #[serde(default)]
    request_id: String,
    #[serde(default)]
    errors: Vec<FieldError>,
    endpoint_id: Option<String>,
    event_id: Option<String>,
}

#[derive(Deserialize)]
struct FieldError {
    pointer: String,
    detail: String,
}

impl ApiError {
    pub(super) fn unreachable(base: &Url, error: &reqwest::Error) -> Self {
        let mut reason = "the connection broke off".to_owned();
        if error.is_timeout() {
            "no answer in time".clone_into(&mut reason);
        } else {
            // The innermost source has the words of the system, such as "Connection refused".
            let mut source = error.source();
            while let Some(inner) = source {
                reason = inner.to_string();
                source = inner.source();
            }
            if let Some((words, _)) = reason.split_once(" (os error") {
                reason.truncate(words.len());
            }
        }
        Self::Unreachable { url: base.to_string(), reason: printable(&reason) }
    }

    pub(super) fn refused(base: &Url, status: StatusCode, text: &str, has_key: bool) -> Self {
        let Ok(problem) = serde_json::from_str::<Problem>(text) else {
            if status.is_redirection() || status.is_success() {
                return Self::Foreign(base.to_string());
            }
            let text =
                format!("{base} answered {status}, and not as EventRail does: is there a proxy between?");
            return Self::Refused { status, text };
        };
        let mut line = problem.line();
        if status == StatusCode::UNAUTHORIZED && !has_key {
            line.push_str(" (no key was sent: set EVENTRAIL_KEY, or EVENTRAIL_KEY_FILE)");
        }
        if status.is_server_error() && !problem.request_id.is_empty() {
            line.push_str(&format!(" (request {})", problem.request_id));
        }
        Self::Refused { status, text: printable(&line) }
    }

    pub(crate) fn is_not_found(&self) -> bool {
        matches!(self, Self::Refused { status, .. } if *status == StatusCode::NOT_FOUND)
    }

    /// Trying again may well succeed.
    pub(crate) fn may_pass(&self) -> bool {
        match self {
            Self::Unreachable { .. } => true,
            Self::Refused { status, .. } => {
                status.is_server_error() || *status == StatusCode::TOO_MANY_REQUESTS
            }
            Self::Foreign(_) => false,
        }
    }
}

impl Problem {
    fn line(&self) -> String {
        let mut line = self.title.clone();
        if self.errors.len() > 1 {
            let fields = self.errors.iter().map(|field| format!("{}: {}", field.pointer, field.detail));
            line = format!("{line}: {}", fields.collect::<Vec<_>>().join("; "));
        } else if !self.detail.is_empty() && self.detail != line {
            line = format!("{line}: {}", self.detail);
        }
        for existing in [&self.endpoint_id, &self.event_id].into_iter().flatten() {
            if !line.contains(existing) {
                line.push_str(&format!(" ({existing})"));
            }
        }
        line
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn said(status: u16, text: &str, has_key: bool) -> String {
        let base = Url::parse("http://127.0.0.1:8080").unwrap();
        ApiError::refused(&base, StatusCode::from_u16(status).unwrap(), text, has_key).to_string()
    }

    #[test]
    fn a_refusal_is_one_line_that_says_what_to_change() {
        let cases = [
            (
                422,
                r#"{"title":"Some fields can't be used","detail":"/url: must begin with https:// or http://",
                    "errors":[{"pointer":"/url","detail":"must begin with https:// or http://"}]}"#,
                "Some fields can't be used: /url: must begin with https:// or http://",
            ),
            (
                422,
                r#"{"title":"Some fields can't be used","detail":"2 fields can't be used",
                    "errors":[{"pointer":"/a","detail":"is wrong"},{"pointer":"/b","detail":"too"}]}"#,
                "Some fields can't be used: /a: is wrong; /b: too",
            ),
            (
                409,
                r#"{"title":"The group has an endpoint with this URL","detail":"","endpoint_id":"ep_1"}"#,
                "The group has an endpoint with this URL (ep_1)",
            ),
            (
                500,
                r#"{"title":"A bug of ours","detail":"It is logged","request_id":"abc"}"#,
                "A bug of ours: It is logged (request abc)",
            ),
            (404, "{\"title\":\"a\\u001b[2J\"}", "a\\u{1b}[2J"),
            (
                302,
                "<html>",
                "http://127.0.0.1:8080/ does not answer as EventRail's API does (EVENTRAIL_URL or --url says where it is)",
            ),
        ];
        for (status, text, expected) in cases {
            assert_eq!(said(status, text, true), expected);
        }
        let without_key = said(401, r#"{"title":"A key is needed","detail":"Send one"}"#, false);
        assert!(without_key.ends_with("(no key was sent: set EVENTRAIL_KEY, or EVENTRAIL_KEY_FILE)"));
        assert!(said(502, "<html>", true).contains("answered 502 Bad Gateway"));
    }
}
