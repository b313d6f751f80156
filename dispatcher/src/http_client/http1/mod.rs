//! One connection of HTTP/1.1: a request is written and its answer read, by whoever holds the connection. There is no
//! task beside it and nothing is handed over, so that a delivery costs one write and one read.

mod body;
mod head;

use std::future::poll_fn;
use std::io::{self, IoSlice};
use std::pin::{Pin, pin};
use std::task::{Context, Poll, Waker, ready};

use bytes::{Buf as _, BytesMut};
use tokio::io::{AsyncRead as _, AsyncWrite as _, ReadBuf};
use tokio::task::unconstrained;
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
    /// It has brought an answer before.
    has_served: bool,
}

/// What came and belongs to nothing yet.
#[derive(Default)]
struct Came {
    buffer: BytesMut,
    /// No head ends in so much of it.
    scanned: usize,
}

/// A request on its way out.
pub(super) struct Outgoing<'a> {
    head: &'a [u8],
    body: &'a [u8],
    written: usize,
    /// All of it has left, what TLS keeps for a while included.
    is_out: bool,
}

impl Http1 {
    pub(super) fn new(link: Link) -> Self {
        Self { link, came: Came::default(), is_at_rest: true, has_served: false }
    }

    /// Whether another request can be made on it, as far as is known here.
    pub(super) fn can_rest(&self) -> bool {
        self.is_at_rest && self.came.buffer.is_empty()
    }

    /// Gives back memory that a long answer took.
    pub(super) fn lie_down(&mut self) {
        // What was read of the buffer is not in its capacity, but is still there.
        if self.came.buffer.capacity() > MOST_AT_REST || self.came.buffer.try_reclaim(MOST_AT_REST + 1) {
            self.came.buffer = BytesMut::new();
        }
    }

    /// Whether the receiver has neither closed it since nor sent what nobody asked for.
    pub(super) fn is_quiet(&mut self) -> bool {
        let mut byte = [0; 1];
        let mut nothing = ReadBuf::new(&mut byte);
        // Beyond what one task may do at once, tokio would say that nothing has come, without having looked.
        let look =
            unconstrained(poll_fn(|context| Pin::new(&mut self.link).poll_read(context, &mut nothing)));
        pin!(look).poll(&mut Context::from_waker(Waker::noop())).is_pending()
    }

    /// Writes a request and reads the head of its answer, which may come before all is written.
    ///
    /// # Errors
    /// There is no answer, or none of HTTP/1.
    pub(super) async fn ask(&mut self, outgoing: &mut Outgoing<'_>) -> Result<Head, Broken> {
        self.is_at_rest = false;
        let sent_before = self.link.meter().sent();
        let broken = |link: &Link, error| match link.meter().sent() == sent_before {
            true => Broken::Unsent(error),
            false => Broken::Io(error),
        };
        let mut failed = None;
        poll_fn(|context| {
            if failed.is_none()
                && let Poll::Ready(Err(error)) = outgoing.poll_write(&mut self.link, context)
            {
                // An answer may have come all the same: who refuses a request need not read it. But not to one of which
                // nothing was sent, on a connection that has rested.
                if self.has_served && self.link.meter().sent() == sent_before {
                    return Poll::Ready(Err(Broken::Unsent(error)));
                }
                failed = Some(error);
            }
            loop {
                if let Some(head) = self.came.next_head()? {
                    return Poll::Ready(Ok(head));
                }
                match self.poll_fill(context) {
                    Poll::Ready(Ok(0)) => {
                        let failed = failed.take().map(|error| broken(&self.link, error));
                        return Poll::Ready(Err(failed.unwrap_or(Broken::Closed)));
                    }
                    Poll::Ready(Ok(_)) => {}
                    Poll::Ready(Err(error)) => return Poll::Ready(Err(broken(&self.link, error))),
                    Poll::Pending => {
                        let failed = failed.take().map(|error| Err(broken(&self.link, error)));
                        return failed.map_or(Poll::Pending, Poll::Ready);
                    }
                }
            }
        })
        .await
    }

    /// Reads the body that belongs to this head, while the rest of the request is written: who confirms a delivery
    /// before all of it has come still gets all of it.
    ///
    /// # Errors
    /// Not all of it came, or it is more than is read of one: what came is in `taken`.
    pub(super) async fn read_body(
        &mut self,
        head: &Head,
        outgoing: &mut Outgoing<'_>,
        taken: &mut Taken,
    ) -> Result<(), Broken> {
        let mut decoder = Decoder::new(head.framing);
        let mut failed = false;
        while decoder.decode(&mut self.came.buffer, taken)? == Progress::NeedsMore {
            let filled = poll_fn(|context| {
                failed =
                    failed || matches!(outgoing.poll_write(&mut self.link, context), Poll::Ready(Err(_)));
                self.poll_fill(context)
            });
            if filled.await.map_err(Broken::Io)? == 0 {
                return if decoder.may_end() { Ok(()) } else { Err(Broken::Closed) };
            }
        }
        if head.is_success() && !failed {
            let _ = poll_fn(|context| outgoing.poll_write(&mut self.link, context)).await;
        }
        self.is_at_rest = head.keeps_alive && outgoing.is_out;
        self.has_served = true;
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

impl<'a> Outgoing<'a> {
    pub(super) fn new(head: &'a [u8], body: &'a [u8]) -> Self {
        Self { head, body, written: 0, is_out: false }
    }

    fn poll_write(&mut self, link: &mut Link, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        if self.is_out {
            return Poll::Ready(Ok(()));
        }
        while self.written < self.head.len() + self.body.len() {
            let head = self.head.get(self.written..).unwrap_or_default();
            let body = &self.body[self.written.saturating_sub(self.head.len())..];
            let slices = [IoSlice::new(head), IoSlice::new(body)];
            let slices = if head.is_empty() { &slices[1..] } else { &slices[..] };
            match ready!(Pin::new(&mut *link).poll_write_vectored(context, slices))? {
                0 => return Poll::Ready(Err(io::ErrorKind::WriteZero.into())),
                written => self.written += written,
            }
        }
        ready!(Pin::new(link).poll_flush(context))?;
        self.is_out = true;
        Poll::Ready(Ok(()))
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
