//! One connection of HTTP/1.1: a request is written and its answer read, by whoever holds the connection. There is no
//! task beside it and nothing is handed over, so that a delivery costs one write and one read.

mod body;
mod head;

use std::future::poll_fn;
use std::io::{self, IoSlice};
use std::pin::Pin;
use std::task::{Context, Poll, Waker, ready};

use bytes::{Buf as _, BytesMut};
use tokio::io::{AsyncRead as _, AsyncWrite as _, ReadBuf};
use tokio_util::io::poll_read_buf;

use self::body::{Decoder, Flaw, Progress};
use self::head::{Parsed, may_end, parse};
use super::TooMuch;
use super::dial::Link;
use super::taken::Taken;

pub(crate) use self::head::{Head, Malformed};

/// Most answers fit into this.
const READ_BYTES: usize = 4 << 10;
/// The most memory that a connection keeps while it rests.
const MOST_AT_REST: usize = 2 * READ_BYTES;

/// Why there is no answer, or not all of it.
#[derive(Debug, thiserror::Error)]
pub(crate) enum Broken {
    /// Not a byte of the request was written.
    #[error("connection error")]
    Unsent(#[source] io::Error),
    #[error("connection error")]
    Io(#[source] io::Error),
    #[error("connection closed before message completed")]
    Closed,
    #[error(transparent)]
    Malformed(#[from] Malformed),
    #[error(transparent)]
    TooMuch(#[from] TooMuch),
}

impl From<Flaw> for Broken {
    fn from(flaw: Flaw) -> Self {
        match flaw {
            Flaw::TooMuch(flaw) => flaw.into(),
            Flaw::Malformed(flaw) => flaw.into(),
        }
    }
}

pub(super) struct Http1 {
    link: Link,
    came: Came,
    /// Nothing is on its way in either direction, and both sides want to go on.
    is_at_rest: bool,
}

/// What came and belongs to nothing yet.
#[derive(Default)]
struct Came {
    buffer: BytesMut,
    /// No head ends in so much of it.
    scanned: usize,
}

/// A request on its way out.
struct Outgoing<'a> {
    head: &'a [u8],
    body: &'a [u8],
    written: usize,
}

impl Http1 {
    pub(super) fn new(link: Link) -> Self {
        Self { link, came: Came::default(), is_at_rest: true }
    }

    /// Whether another request can be made on it, as far as is known here.
    pub(super) fn can_rest(&self) -> bool {
        self.is_at_rest && self.came.buffer.is_empty()
    }

    /// Gives back memory that a long answer took.
    pub(super) fn lie_down(&mut self) {
        if self.came.buffer.capacity() > MOST_AT_REST {
            self.came.buffer = BytesMut::new();
        }
    }

    /// Whether the receiver has neither closed it since nor sent what nobody asked for.
    pub(super) fn is_quiet(&mut self) -> bool {
        let mut byte = [0; 1];
        let mut nothing = ReadBuf::new(&mut byte);
        let mut context = Context::from_waker(Waker::noop());
        Pin::new(&mut self.link).poll_read(&mut context, &mut nothing).is_pending()
    }

    /// Writes a request and reads the head of its answer. An answer that comes before all is written counts; the rest is
    /// then not written.
    ///
    /// # Errors
    /// There is no answer, or none of HTTP/1.
    pub(super) async fn ask(&mut self, head: &[u8], body: &[u8]) -> Result<Head, Broken> {
        self.is_at_rest = false;
        let mut outgoing = Outgoing { head, body, written: 0 };
        let mut failed = None;
        let answer = poll_fn(|context| {
            if failed.is_none()
                && let Poll::Ready(Err(error)) = outgoing.poll_write(&mut self.link, context)
            {
                // An answer may have come all the same: who refuses a request need not read it.
                failed = Some(error);
            }
            loop {
                if let Some(head) = self.came.next_head()? {
                    return Poll::Ready(Ok(head));
                }
                match self.poll_fill(context) {
                    Poll::Ready(Ok(0)) => {
                        let closed = failed.take().map_or(Broken::Closed, |error| outgoing.broken(error));
                        return Poll::Ready(Err(closed));
                    }
                    Poll::Ready(Ok(_)) => {}
                    Poll::Ready(Err(error)) => return Poll::Ready(Err(outgoing.broken(error))),
                    Poll::Pending => {
                        let failed = failed.take().map(|error| Err(outgoing.broken(error)));
                        return failed.map_or(Poll::Pending, Poll::Ready);
                    }
                }
            }
        })
        .await?;
        self.is_at_rest = answer.keeps_alive && outgoing.is_written();
        Ok(answer)
    }

    /// Reads the body that belongs to this head.
    ///
    /// # Errors
    /// Not all of it came, or it is more than is read of one: what came is in `taken`.
    pub(super) async fn read_body(&mut self, head: &Head, taken: &mut Taken) -> Result<(), Broken> {
        let stays = std::mem::take(&mut self.is_at_rest);
        let mut decoder = Decoder::new(head.framing);
        while decoder.decode(&mut self.came.buffer, taken)? == Progress::NeedsMore {
            if poll_fn(|context| self.poll_fill(context)).await.map_err(Broken::Io)? == 0 {
                return if decoder.may_end() { Ok(()) } else { Err(Broken::Closed) };
            }
        }
        self.is_at_rest = stays;
        // The next answer may be as long.
        self.link.meter().ended();
        Ok(())
    }

    /// Reads what has come into the buffer; 0 at the end.
    fn poll_fill(&mut self, context: &mut Context<'_>) -> Poll<io::Result<usize>> {
        self.came.buffer.reserve(READ_BYTES);
        poll_read_buf(Pin::new(&mut self.link), context, &mut self.came.buffer)
    }
}

impl Came {
    /// The next head that is no interim one, taken out of it.
    fn next_head(&mut self) -> Result<Option<Head>, Malformed> {
        // What can't be the beginning of a head is seen at once, all else once its end may have come: so a head that
        // comes byte by byte is not read again for each.
        while !self.buffer.is_empty()
            && (self.scanned == 0
                || may_end(&self.buffer, self.scanned)
                || self.buffer.len() >= super::MOST_BYTES)
        {
            match parse(&self.buffer)? {
                Parsed::Partial => break,
                Parsed::Interim(length) => {
                    self.buffer.advance(length);
                    self.scanned = 0;
                }
                Parsed::Final(head) => {
                    self.buffer.advance(head.length);
                    self.scanned = 0;
                    return Ok(Some(head));
                }
            }
        }
        self.scanned = self.buffer.len();
        Ok(None)
    }
}

impl Outgoing<'_> {
    fn is_written(&self) -> bool {
        self.written == self.head.len() + self.body.len()
    }

    fn broken(&self, error: io::Error) -> Broken {
        if self.written == 0 { Broken::Unsent(error) } else { Broken::Io(error) }
    }

    fn poll_write(&mut self, link: &mut Link, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        while !self.is_written() {
            let head = self.head.get(self.written..).unwrap_or_default();
            let body = &self.body[self.written.saturating_sub(self.head.len())..];
            let slices = [IoSlice::new(head), IoSlice::new(body)];
            let slices = if head.is_empty() { &slices[1..] } else { &slices[..] };
            match ready!(Pin::new(&mut *link).poll_write_vectored(context, slices))? {
                0 => return Poll::Ready(Err(io::ErrorKind::WriteZero.into())),
                written => self.written += written,
            }
        }
        Pin::new(link).poll_flush(context)
    }
}

/// What is read of an answer. For `fuzz/`.
#[derive(Debug, PartialEq, Eq)]
pub struct ReadAnswer {
    pub status: u16,
    pub body: Vec<u8>,
    /// Whether the body has ended.
    pub is_whole: bool,
    /// Bytes behind it.
    pub left: usize,
}

/// Reads an answer that comes in these pieces; `None` if its head has not ended. For `fuzz/`.
///
/// # Errors
/// It is none, or too much.
pub fn read_answer(pieces: &[&[u8]]) -> Result<Option<ReadAnswer>, Box<dyn std::error::Error>> {
    let (mut came, mut taken) = (Came::default(), Taken::at_most(super::MOST_BYTES));
    let (mut answer, mut is_whole) = (None, false);
    for piece in pieces {
        came.buffer.extend_from_slice(piece);
        if answer.is_none() {
            answer = came.next_head()?.map(|head| (head.status, Decoder::new(head.framing)));
        }
        if let Some((_, decoder)) = &mut answer {
            is_whole = decoder.decode(&mut came.buffer, &mut taken)? == Progress::Done;
        }
    }
    let left = came.buffer.len();
    Ok(answer.map(|(status, _)| ReadAnswer { status, body: taken.kept, is_whole, left }))
}
