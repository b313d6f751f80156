//! What went wrong with a request, told apart by the chain of its error. Pure: an error in, a word out.

use std::error::Error;
use std::io::ErrorKind;

use eventrail_core::egress::Denied;
use eventrail_core::verdict::Failure;

use crate::http_client::Unresolved;

/// A failure's kind, and its chain of causes as one line.
pub(crate) fn classify(error: &reqwest::Error) -> (Failure, String) {
    let detail = detail(error);
    let kind = if cause::<Denied>(error).is_some() {
        Failure::EgressDenied
    } else if cause::<Unresolved>(error).is_some() {
        Failure::Dns
    } else if cause::<rustls::Error>(error).is_some() {
        Failure::Tls
    } else if error.is_timeout() {
        Failure::Timeout
    } else {
        by_io(error)
    };
    (kind, detail)
}

fn by_io(error: &reqwest::Error) -> Failure {
    let io = io_kind(error);
    // hyper has no public name for a message that ended early; its text is the only sign.
    let ended_early = || {
        let text = detail(error);
        text.contains("connection closed before message completed") || text.contains("connection reset")
    };
    match io {
        Some(ErrorKind::TimedOut) => Failure::Timeout,
        // The end of a connection that was made: the handshake was cut short.
        Some(ErrorKind::InvalidData | ErrorKind::UnexpectedEof) if error.is_connect() => Failure::Tls,
        _ if error.is_connect() => Failure::Connect,
        Some(
            ErrorKind::ConnectionReset
            | ErrorKind::BrokenPipe
            | ErrorKind::ConnectionAborted
            | ErrorKind::UnexpectedEof,
        ) => Failure::Reset,
        _ if ended_early() => Failure::Reset,
        _ => Failure::Protocol,
    }
}

/// The first cause of this type. `io::Error` hides what it wraps from `source()`, so that is looked into too.
fn cause<'a, E: Error + 'static>(error: &'a (dyn Error + 'static)) -> Option<&'a E> {
    let mut next = Some(error);
    while let Some(error) = next {
        if let Some(found) = error.downcast_ref::<E>() {
            return Some(found);
        }
        let wrapped = error.downcast_ref::<std::io::Error>().and_then(std::io::Error::get_ref);
        if let Some(found) = wrapped.and_then(|inner| cause::<E>(inner)) {
            return Some(found);
        }
        next = error.source();
    }
    None
}

/// The kind of the innermost `io::Error`: those around it, which carry it through other crates, say `Other`.
fn io_kind(error: &(dyn Error + 'static)) -> Option<ErrorKind> {
    let io = cause::<std::io::Error>(error)?;
    io.get_ref().and_then(|inner| io_kind(inner)).or_else(|| Some(io.kind()))
}

/// The chain without the URL (which may hold a token) and at most 500 bytes long.
fn detail(error: &reqwest::Error) -> String {
    let mut parts: Vec<String> = Vec::new();
    let mut next = error.source();
    while let Some(error) = next {
        let text = error.to_string();
        if parts.last().is_none_or(|last| !last.contains(&text)) {
            parts.push(text);
        }
        next = error.source();
    }
    // PostgreSQL takes no NUL in text, and a certificate may hold one.
    let mut text = parts.join(": ").replace('\0', "\u{fffd}");
    if text.is_empty() {
        text = if error.is_timeout() { "timed out".into() } else { "request failed".into() };
    }
    if text.len() > 500 {
        let end = (0..=500).rev().find(|&end| text.is_char_boundary(end)).unwrap_or(0);
        text.truncate(end);
    }
    text
}
