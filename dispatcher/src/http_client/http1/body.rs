//! From what a connection brings to the body of an answer (RFC 9112, sections 6 and 7). Pure.

use bytes::{Buf as _, BytesMut};

use super::super::TooMuch;
use super::super::taken::Taken;
use super::head::Malformed;

/// The longest line between chunks: a size with its extensions, or a trailer.
const LONGEST_LINE: usize = 4096;

/// Where a body ends.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Framing {
    Length(u64),
    Chunked,
    UntilClose,
}

/// What is to come of a body.
#[derive(Debug)]
pub(super) struct Decoder(State);

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum State {
    Bytes(u64),
    UntilClose,
    ChunkSize,
    Chunk(u64),
    ChunkEnd,
    Trailers,
    Done,
}

#[derive(Debug, PartialEq, Eq)]
pub(super) enum Progress {
    NeedsMore,
    Done,
}

#[derive(Debug, thiserror::Error)]
pub(super) enum Flaw {
    #[error(transparent)]
    TooMuch(#[from] TooMuch),
    #[error(transparent)]
    Malformed(#[from] Malformed),
}

impl Decoder {
    pub(super) fn new(framing: Framing) -> Self {
        Self(match framing {
            Framing::Length(0) => State::Done,
            Framing::Length(length) => State::Bytes(length),
            Framing::Chunked => State::ChunkSize,
            Framing::UntilClose => State::UntilClose,
        })
    }

    /// Moves what belongs to the body from the front of `buffer` to `taken`, as far as it has come.
    ///
    /// # Errors
    /// It is no body, or more than is read of one.
    pub(super) fn decode(&mut self, buffer: &mut BytesMut, taken: &mut Taken) -> Result<Progress, Flaw> {
        loop {
            self.0 = match self.0 {
                State::Done => return Ok(Progress::Done),
                _ if buffer.is_empty() => return Ok(Progress::NeedsMore),
                State::UntilClose => {
                    take(buffer, u64::MAX, taken)?;
                    State::UntilClose
                }
                State::Bytes(left) => match left - take(buffer, left, taken)? {
                    0 => State::Done,
                    left => State::Bytes(left),
                },
                State::Chunk(left) => match left - take(buffer, left, taken)? {
                    0 => State::ChunkEnd,
                    left => State::Chunk(left),
                },
                State::ChunkSize => match line(buffer)?.map(|line| chunk_size(&line)).transpose()? {
                    None => return Ok(Progress::NeedsMore),
                    Some(0) => State::Trailers,
                    Some(size) => State::Chunk(size),
                },
                State::ChunkEnd => match line(buffer)? {
                    None => return Ok(Progress::NeedsMore),
                    Some(line) if line.is_empty() => State::ChunkSize,
                    Some(_) => return Err(Malformed("a chunk is longer than its size").into()),
                },
                State::Trailers => match line(buffer)? {
                    None => return Ok(Progress::NeedsMore),
                    Some(line) if line.is_empty() => State::Done,
                    Some(_) => State::Trailers,
                },
            };
        }
    }

    /// The connection has ended. Answers whether that is the body's end.
    pub(super) fn may_end(&self) -> bool {
        matches!(self.0, State::UntilClose | State::Done)
    }
}

fn take(buffer: &mut BytesMut, most: u64, taken: &mut Taken) -> Result<u64, TooMuch> {
    let length = usize::try_from(most).unwrap_or(usize::MAX).min(buffer.len());
    let added = taken.add(&buffer[..length]);
    buffer.advance(length);
    added.map(|()| length as u64)
}

/// The next line without its end, once all of it is there.
fn line(buffer: &mut BytesMut) -> Result<Option<BytesMut>, Malformed> {
    match buffer.iter().take(LONGEST_LINE).position(|byte| *byte == b'\n') {
        Some(end) => {
            let mut line = buffer.split_to(end + 1);
            line.truncate(end);
            if line.last() == Some(&b'\r') {
                line.truncate(end - 1);
            }
            Ok(Some(line))
        }
        None if buffer.len() >= LONGEST_LINE => Err(Malformed("a line between chunks is too long")),
        None => Ok(None),
    }
}

/// Hexadecimal digits, and extensions that mean nothing here (section 7.1).
fn chunk_size(line: &[u8]) -> Result<u64, Malformed> {
    let digits = line.iter().take_while(|byte| byte.is_ascii_hexdigit()).count();
    let rest = line[digits..].trim_ascii_start();
    let text = std::str::from_utf8(&line[..digits]).unwrap_or_default();
    match u64::from_str_radix(text, 16) {
        Ok(size) if digits <= 15 && (rest.is_empty() || rest[0] == b';') => Ok(size),
        _ => Err(Malformed("invalid chunk size")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MOST: usize = 64 << 10;

    /// What is taken of these bytes if they come in pieces of this size, and what is left of them.
    fn decoded(framing: Framing, bytes: &[u8], piece: usize) -> Result<(Progress, Vec<u8>, Vec<u8>), Flaw> {
        let (mut decoder, mut taken) = (Decoder::new(framing), Taken::at_most(MOST));
        let (mut buffer, mut progress) = (BytesMut::new(), Progress::NeedsMore);
        for piece in bytes.chunks(piece) {
            buffer.extend_from_slice(piece);
            progress = decoder.decode(&mut buffer, &mut taken)?;
        }
        Ok((progress, taken.kept, buffer.to_vec()))
    }

    #[test]
    fn bodies_are_the_same_however_they_are_cut() {
        for (framing, bytes, body, left) in [
            (Framing::Length(5), "helloHTTP", "hello", "HTTP"),
            (
                Framing::Chunked,
                "5\r\nhello\r\n2;a=b\r\n, \r\nA\nworldworld\n0\r\n\r\nHTTP",
                "hello, worldworld",
                "HTTP",
            ),
            (Framing::Chunked, "0\r\nx-sum: 1\r\ny: 2\r\n\r\n", "", ""),
            (Framing::Length(0), "HTTP", "", "HTTP"),
        ] {
            for piece in 1..=bytes.len() {
                let (progress, kept, rest) = decoded(framing, bytes.as_bytes(), piece).unwrap();
                assert_eq!(progress, Progress::Done, "{bytes:?} in pieces of {piece}");
                assert_eq!((kept.as_slice(), rest.as_slice()), (body.as_bytes(), left.as_bytes()));
            }
        }
    }

    #[test]
    fn a_body_without_an_end_of_its_own_ends_with_the_connection() {
        for (framing, bytes, may_end) in [
            (Framing::UntilClose, "all there is", true),
            (Framing::Length(20), "part of it", false),
            (Framing::Chunked, "5\r\nhello\r\n0\r\n", false),
        ] {
            let (mut decoder, mut taken) = (Decoder::new(framing), Taken::at_most(MOST));
            let mut buffer = BytesMut::from(bytes);
            assert_eq!(decoder.decode(&mut buffer, &mut taken).unwrap(), Progress::NeedsMore, "{bytes:?}");
            assert_eq!(decoder.may_end(), may_end, "{bytes:?}");
        }
    }

    #[test]
    fn broken_chunks_are_refused() {
        for bytes in [
            "xyz\r\n",
            "\r\n",
            "-1\r\n",
            "0x5\r\n",
            "5 5\r\n",
            "fffffffffffffffff\r\n",
            "1\r\nab\r\n",
            "1\r\na0\r\n",
        ] {
            assert!(
                matches!(decoded(Framing::Chunked, bytes.as_bytes(), 64), Err(Flaw::Malformed(_))),
                "{bytes:?}"
            );
        }
        let endless = format!("5;x={}", "y".repeat(LONGEST_LINE));
        assert!(matches!(decoded(Framing::Chunked, endless.as_bytes(), 1000), Err(Flaw::Malformed(_))));
    }

    #[test]
    fn no_more_is_read_than_an_answer_may_have() {
        let long = vec![b'x'; MOST];
        for framing in [Framing::UntilClose, Framing::Length(1 << 40)] {
            assert!(matches!(decoded(framing, &long, 5000), Err(Flaw::TooMuch(_))));
            let (_, kept, _) = decoded(framing, &long[..MOST - 1], 5000).unwrap();
            assert_eq!(kept.len(), 4096);
        }
        let tiny = "1\r\nx\r\n".repeat(300);
        assert!(matches!(decoded(Framing::Chunked, tiny.as_bytes(), MOST), Err(Flaw::TooMuch(_))));
    }
}
