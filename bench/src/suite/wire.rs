//! HTTP/1.1 as far as a generator and a receiver need it: keep-alive, one request at a time on a connection,
//! bodies with a `content-length`. A whole client would take more of the machine than what is measured.

use anyhow::Context as _;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;

/// Room for an ordinary head and body; more is made where it is needed.
const ROOM: usize = 8 << 10;
/// A head or body that is longer than this is none that we asked for.
const MOST: usize = 16 << 20;

/// A message at the beginning of a buffer.
pub(super) struct Message<'a> {
    pub(super) head: &'a [u8],
    pub(super) body: &'a [u8],
}

impl<'a> Message<'a> {
    /// `None` while it is not all there.
    pub(super) fn parse(buffer: &'a [u8]) -> anyhow::Result<Option<Self>> {
        let Some(end) = buffer.windows(4).position(|four| four == b"\r\n\r\n") else { return Ok(None) };
        let (head, rest) = (&buffer[..end], &buffer[end + 4..]);
        let length = match header(head, "content-length") {
            Some(text) => text.parse().context("a content-length")?,
            None => {
                anyhow::ensure!(header(head, "transfer-encoding").is_none(), "a body without a length");
                0
            }
        };
        anyhow::ensure!(length <= MOST, "a body of {length} bytes");
        Ok((rest.len() >= length).then(|| Self { head, body: &rest[..length] }))
    }

    pub(super) fn length(&self) -> usize {
        self.head.len() + 4 + self.body.len()
    }

    /// The first line: of a request or of an answer.
    pub(super) fn first_line(&self) -> &'a str {
        let line = self.head.split(|byte| *byte == b'\r').next().unwrap_or_default();
        std::str::from_utf8(line).unwrap_or_default()
    }

    pub(super) fn header(&self, name: &str) -> Option<&'a str> {
        header(self.head, name)
    }
}

fn header<'a>(head: &'a [u8], name: &str) -> Option<&'a str> {
    let line = head.split(|byte| *byte == b'\n').skip(1).find(|line| {
        line.get(name.len()) == Some(&b':') && line[..name.len()].eq_ignore_ascii_case(name.as_bytes())
    })?;
    Some(std::str::from_utf8(&line[name.len() + 1..]).ok()?.trim())
}

/// A connection to the API.
pub(super) struct Connection {
    stream: TcpStream,
    request: Vec<u8>,
    answer: Vec<u8>,
}

impl Connection {
    pub(super) async fn open(address: &str) -> anyhow::Result<Self> {
        let stream = TcpStream::connect(address).await.with_context(|| format!("connecting to {address}"))?;
        stream.set_nodelay(true)?;
        Ok(Self { stream, request: Vec::with_capacity(ROOM), answer: Vec::with_capacity(ROOM) })
    }

    /// Posts JSON. Answers the status and the body.
    pub(super) async fn post(
        &mut self,
        path: &str,
        key: Option<&str>,
        body: &str,
    ) -> anyhow::Result<(u16, &str)> {
        self.request.clear();
        let length = body.len().to_string();
        for part in ["POST ", path, " HTTP/1.1\r\nhost: eventrail\r\ncontent-type: application/json\r\n"] {
            self.request.extend_from_slice(part.as_bytes());
        }
        if let Some(key) = key {
            for part in ["idempotency-key: ", key, "\r\n"] {
                self.request.extend_from_slice(part.as_bytes());
            }
        }
        for part in ["content-length: ", &length, "\r\n\r\n", body] {
            self.request.extend_from_slice(part.as_bytes());
        }
        self.stream.write_all(&self.request).await?;
        self.answer.clear();
        while Message::parse(&self.answer)?.is_none() {
            let read = self.stream.read_buf(&mut self.answer).await?;
            anyhow::ensure!(read > 0, "the API has closed a connection");
        }
        let message = Message::parse(&self.answer)?.context("an answer")?;
        let status = message.first_line().split(' ').nth(1).and_then(|text| text.parse().ok());
        Ok((status.context("an answer without a status")?, std::str::from_utf8(message.body)?))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_message_is_read_once_all_of_it_is_there() {
        let text =
            b"POST /e/3 HTTP/1.1\r\nHost: a\r\nContent-Length: 5\r\nwebhook-id: evt_1\r\n\r\nhelloPOST";
        for cut in 0..text.len() - 4 {
            assert!(Message::parse(&text[..cut]).unwrap().is_none(), "{cut}");
        }
        let message = Message::parse(text).unwrap().unwrap();
        assert_eq!((message.first_line(), message.body), ("POST /e/3 HTTP/1.1", &b"hello"[..]));
        assert_eq!(message.header("webhook-id"), Some("evt_1"));
        assert_eq!(message.header("webhook"), None);
        assert_eq!(message.length(), text.len() - 4);
    }

    #[test]
    fn what_has_no_length_is_refused_and_not_waited_for() {
        assert!(Message::parse(b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n").is_err());
        assert!(Message::parse(b"HTTP/1.1 200 OK\r\ncontent-length: 99999999999\r\n\r\n").is_err());
        assert!(Message::parse(b"HTTP/1.1 204 No Content\r\n\r\n").unwrap().is_some());
    }
}
