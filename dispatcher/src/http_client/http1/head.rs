//! The head of an answer (RFC 9112, sections 4 to 6), and where its body ends. Pure.

use super::body::Framing;

/// The longest head that is read.
const MAX_BYTES: usize = super::super::MOST_BYTES;
const MAX_HEADERS: usize = 100;

const TOO_LARGE: Malformed = Malformed("message head is too large");
const BAD_LENGTH: Malformed = Malformed("invalid content-length parsed");

/// An answer that is none.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub(crate) struct Malformed(pub(super) &'static str);

#[derive(Debug, PartialEq, Eq)]
pub(super) enum Parsed {
    /// There must be more of it.
    Partial,
    /// An interim answer (1xx), so many bytes long. The real one follows.
    Interim(usize),
    Final(Head),
}

#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Head {
    /// Bytes up to its body.
    pub(super) length: usize,
    pub(crate) status: u16,
    pub(crate) retry_after: Option<String>,
    pub(super) framing: Framing,
    /// Whether the receiver lets the connection serve another request.
    pub(super) keeps_alive: bool,
}

impl Head {
    pub(super) fn is_success(&self) -> bool {
        (200..300).contains(&self.status)
    }
}

/// Whether a head may end within `bytes`, of which all before `from` was looked at before.
pub(super) fn may_end(bytes: &[u8], from: usize) -> bool {
    let rest = &bytes[from.saturating_sub(2).min(bytes.len())..];
    rest.windows(2).any(|two| two == b"\n\n") || rest.windows(3).any(|three| three == b"\n\r\n")
}

/// Reads a head from its beginning.
///
/// # Errors
/// It is none, or longer than any that is read.
pub(super) fn parse(bytes: &[u8]) -> Result<Parsed, Malformed> {
    let mut headers = [httparse::EMPTY_HEADER; MAX_HEADERS];
    let mut response = httparse::Response::new(&mut headers);
    let length = match response.parse(bytes).map_err(malformed)? {
        httparse::Status::Complete(length) => length,
        httparse::Status::Partial if bytes.len() >= MAX_BYTES => return Err(TOO_LARGE),
        httparse::Status::Partial => return Ok(Parsed::Partial),
    };
    let status = response.code.unwrap_or_default();
    match status {
        // 101 would turn the connection into one of another kind, which nobody has asked for.
        100 | 102..=199 => return Ok(Parsed::Interim(length)),
        0..100 => return Err(Malformed("invalid HTTP status-code parsed")),
        _ => {}
    }
    let is_1_1 = response.version == Some(1);
    let mut fields = Fields::default();
    for header in response.headers.iter() {
        fields.read(header)?;
    }
    let has_no_body = matches!(status, 101 | 204 | 304);
    let framing = match (fields.transfer, fields.length) {
        _ if has_no_body => Framing::Length(0),
        (Transfer::Chunked, _) if is_1_1 => Framing::Chunked,
        (Transfer::None, Some(length)) => Framing::Length(length),
        // Neither a length nor chunks that end: the body ends with the connection.
        _ => Framing::UntilClose,
    };
    // Who sends both a length and a coding may be two servers that do not agree; and where there can be no body, but its
    // length is told, it may come all the same.
    let is_plain = match (fields.transfer, fields.length.unwrap_or(0)) {
        (Transfer::None, length) => length == 0 || !has_no_body,
        _ => fields.length.is_none() && !has_no_body,
    };
    let stays = !fields.closes && (is_1_1 || fields.stays) && status != 101;
    let keeps_alive = stays && is_plain && framing != Framing::UntilClose;
    Ok(Parsed::Final(Head { length, status, retry_after: fields.retry_after, framing, keeps_alive }))
}

fn malformed(error: httparse::Error) -> Malformed {
    match error {
        httparse::Error::TooManyHeaders => TOO_LARGE,
        httparse::Error::Version => Malformed("invalid HTTP version parsed"),
        httparse::Error::Status => Malformed("invalid HTTP status-code parsed"),
        httparse::Error::HeaderName
        | httparse::Error::HeaderValue
        | httparse::Error::NewLine
        | httparse::Error::Token => Malformed("invalid HTTP header parsed"),
    }
}

#[derive(Debug, Default, Clone, Copy, PartialEq, Eq)]
enum Transfer {
    #[default]
    None,
    Chunked,
    /// It ends with the connection.
    Other,
}

/// What the headers say of the message.
#[derive(Default)]
struct Fields {
    length: Option<u64>,
    transfer: Transfer,
    closes: bool,
    stays: bool,
    retry_after: Option<String>,
}

impl Fields {
    fn read(&mut self, header: &httparse::Header<'_>) -> Result<(), Malformed> {
        let is = |name: &str| header.name.eq_ignore_ascii_case(name);
        let parts = || header.value.split(|byte| *byte == b',').map(<[u8]>::trim_ascii);
        if is("content-length") {
            for part in parts() {
                let length = length(part)?;
                if self.length.is_some_and(|before| before != length) {
                    return Err(BAD_LENGTH);
                }
                self.length = Some(length);
            }
        } else if is("transfer-encoding") {
            // The last coding says how the body ends; what others did to it is not undone here.
            let is_chunked = parts().next_back().is_some_and(|last| last.eq_ignore_ascii_case(b"chunked"));
            self.transfer = if is_chunked { Transfer::Chunked } else { Transfer::Other };
        } else if is("connection") {
            self.closes |= parts().any(|part| part.eq_ignore_ascii_case(b"close"));
            self.stays |= parts().any(|part| part.eq_ignore_ascii_case(b"keep-alive"));
        } else if is("retry-after") {
            self.retry_after = std::str::from_utf8(header.value).ok().map(ToOwned::to_owned);
        }
        Ok(())
    }
}

/// Digits and nothing else (RFC 9110, section 8.6).
fn length(value: &[u8]) -> Result<u64, Malformed> {
    let digits =
        std::str::from_utf8(value).ok().filter(|text| text.bytes().all(|byte| byte.is_ascii_digit()));
    digits.and_then(|digits| digits.parse().ok()).ok_or(BAD_LENGTH)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn head(text: &str) -> Head {
        match parse(text.as_bytes()) {
            Ok(Parsed::Final(head)) => head,
            other => panic!("{text:?}: {other:?}"),
        }
    }

    #[test]
    fn a_body_ends_where_the_head_says() {
        for (text, framing, keeps_alive) in [
            ("HTTP/1.1 200 OK\r\ncontent-length: 5\r\n\r\n", Framing::Length(5), true),
            ("HTTP/1.1 200 OK\nContent-Length: 5, 5\n\n", Framing::Length(5), true),
            ("HTTP/1.1 200 OK\r\ntransfer-encoding: Chunked\r\n\r\n", Framing::Chunked, true),
            ("HTTP/1.1 204 No\r\n\r\n", Framing::Length(0), true),
            ("HTTP/1.1 304 No\r\ncontent-length: 9\r\n\r\n", Framing::Length(0), false),
            ("HTTP/1.1 204 No\r\ncontent-length: 0\r\n\r\n", Framing::Length(0), true),
            ("HTTP/1.1 204 No\r\ntransfer-encoding: chunked\r\n\r\n", Framing::Length(0), false),
            ("HTTP/1.1 200 OK\r\n\r\n", Framing::UntilClose, false),
            ("HTTP/1.1 200 OK\r\ntransfer-encoding: gzip\r\n\r\n", Framing::UntilClose, false),
            ("HTTP/1.1 200 OK\r\ntransfer-encoding: gzip, chunked\r\n\r\n", Framing::Chunked, true),
            ("HTTP/1.1 200 OK\r\ntransfer-encoding: chunked, gzip\r\n\r\n", Framing::UntilClose, false),
            (
                "HTTP/1.1 200 OK\r\nte: x\r\nconnection: x, Close\r\ncontent-length: 0\r\n\r\n",
                Framing::Length(0),
                false,
            ),
            ("HTTP/1.0 200 OK\r\ncontent-length: 0\r\n\r\n", Framing::Length(0), false),
            (
                "HTTP/1.0 200 OK\r\nconnection: keep-alive\r\ncontent-length: 0\r\n\r\n",
                Framing::Length(0),
                true,
            ),
            ("HTTP/1.0 200 OK\r\ntransfer-encoding: chunked\r\n\r\n", Framing::UntilClose, false),
            ("HTTP/1.1 101 Switch\r\nupgrade: x\r\n\r\n", Framing::Length(0), false),
        ] {
            let head = head(text);
            assert_eq!(
                (head.framing, head.keeps_alive, head.length),
                (framing, keeps_alive, text.len()),
                "{text:?}"
            );
        }
    }

    #[test]
    fn who_sends_a_length_and_chunks_gets_no_second_request() {
        let both = head("HTTP/1.1 200 OK\r\ncontent-length: 5\r\ntransfer-encoding: chunked\r\n\r\n");
        assert_eq!((both.framing, both.keeps_alive), (Framing::Chunked, false));
    }

    #[test]
    fn interim_answers_are_passed_over_and_parts_are_no_answers() {
        let early = b"HTTP/1.1 103 Early\r\nlink: x\r\n\r\n";
        assert_eq!(parse(early), Ok(Parsed::Interim(early.len())));
        for end in 0..early.len() {
            assert_eq!(parse(&early[..end]), Ok(Parsed::Partial), "{end}");
        }
    }

    #[test]
    fn nonsense_is_told_apart() {
        for (text, why) in [
            ("HTTP/1.1 200 OK\r\ncontent-length: 1\r\ncontent-length: 2\r\n\r\n", "content-length"),
            ("HTTP/1.1 200 OK\r\ncontent-length: +1\r\n\r\n", "content-length"),
            ("HTTP/1.1 200 OK\r\ncontent-length: \r\n\r\n", "content-length"),
            ("HTTP/1.1 200 OK\r\ncontent-length: 99999999999999999999\r\n\r\n", "content-length"),
            ("HTTP/1.1 099 No\r\n\r\n", "status-code"),
            ("HTTP/2 200 OK\r\n\r\n", "version"),
            ("\x15\x03\x01\0\x02", "version"),
            ("HTTP/1.1 200 OK\r\na b: c\r\n\r\n", "header"),
            (&format!("HTTP/1.1 200 OK\r\n{}\r\n", "a: b\r\n".repeat(101)), "too large"),
            (&format!("HTTP/1.1 200 OK\r\na: {}", "b".repeat(MAX_BYTES)), "too large"),
        ] {
            let error = parse(text.as_bytes()).unwrap_err().to_string();
            assert!(error.contains(why), "{text:?}: {error}");
        }
    }

    #[test]
    fn the_end_of_a_head_is_found_wherever_it_was_cut() {
        for text in ["HTTP/1.1 200 OK\r\na: b\r\n\r\nrest", "HTTP/1.1 200 OK\na: b\n\nrest"] {
            let bytes = text.as_bytes();
            let ends = |end: usize, from: usize| may_end(&bytes[..end], from);
            let first = (0..=bytes.len()).find(|end| ends(*end, 0)).unwrap();
            assert_eq!(&text[first..], "rest");
            assert!((0..first).all(|from| ends(first, from)), "{text:?}");
        }
    }
}
