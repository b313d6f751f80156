//! What went wrong with a request, told apart by the chain of its error. Pure: an error in, a word out.

use std::error::Error;
use std::io::ErrorKind;

use eventrail_core::verdict::Failure;

use crate::http_client::{Broken, NotReached, TooMuch};

/// A failure's kind, and its chain of causes as one line.
pub(crate) fn classify(error: &(dyn Error + 'static)) -> (Failure, String) {
    (kind(error), detail(error))
}

fn kind(error: &(dyn Error + 'static)) -> Failure {
    if let Some(not_reached) = cause::<NotReached>(error) {
        return match not_reached {
            NotReached::Unresolved(_) => Failure::Dns,
            NotReached::Denied(_) => Failure::EgressDenied,
            // The system's own patience may end before ours.
            NotReached::Refused(error) if error.kind() == ErrorKind::TimedOut => Failure::Timeout,
            NotReached::Refused(_) => Failure::Connect,
            NotReached::NotInTime | NotReached::HandshakeNotInTime => Failure::Timeout,
            NotReached::Handshake(_) => Failure::Tls,
        };
    }
    if cause::<TooMuch>(error).is_some() {
        return Failure::Protocol;
    }
    // Receivers that want a certificate of ours say so when the handshake is done for us.
    if cause::<rustls::Error>(error).is_some() {
        return Failure::Tls;
    }
    match cause::<h2::Error>(error) {
        Some(h2) if h2.is_remote() => return Failure::Reset,
        Some(h2) if !h2.is_io() => return Failure::Protocol,
        _ => {}
    }
    match io_kind(error) {
        Some(ErrorKind::TimedOut) => return Failure::Timeout,
        Some(
            ErrorKind::ConnectionReset
            | ErrorKind::BrokenPipe
            | ErrorKind::ConnectionAborted
            | ErrorKind::NotConnected
            | ErrorKind::UnexpectedEof,
        ) => return Failure::Reset,
        _ => {}
    }
    match cause::<Broken>(error) {
        // Of other kinds, such as a host that can't be reached any more.
        Some(Broken::Closed | Broken::Io(_) | Broken::Unsent(_)) => return Failure::Reset,
        Some(_) => return Failure::Protocol,
        None => {}
    }
    match cause::<hyper::Error>(error) {
        Some(http) if http.is_timeout() => Failure::Timeout,
        Some(http) if http.is_incomplete_message() || http.is_closed() || http.is_canceled() => {
            Failure::Reset
        }
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

/// The chain, at most 500 bytes long.
fn detail(error: &(dyn Error + 'static)) -> String {
    let mut parts: Vec<String> = Vec::new();
    let mut next = Some(error);
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
        text = "request failed".into();
    }
    if text.len() > 500 {
        let end = (0..=500).rev().find(|&end| text.is_char_boundary(end)).unwrap_or(0);
        text.truncate(end);
    }
    text
}
