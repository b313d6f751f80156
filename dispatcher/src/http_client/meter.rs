//! How much a receiver may send for one request, whatever it consists of: the head, interim answers (1xx), the
//! body, or frames of HTTP/2 that belong to no request. Who sends more loses the connection.
//!
//! A connection of HTTP/1.1 has one request at a time: [`MOST_BYTES`] for each. One of HTTP/2 has many: there the
//! flow control bounds each body, and the meter what no answer accounts for.

use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::task::{Context, Poll, ready};

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

use super::MOST_BYTES;

/// What a connection of HTTP/2 may send beyond its answers.
const MOST_BESIDES: usize = 1 << 20;
/// What a frame of HTTP/2 may cost besides its content.
const FRAME_BYTES: usize = 64;

#[derive(Debug, thiserror::Error)]
#[error("the receiver sends more than is read of an answer")]
pub(crate) struct TooMuch;

/// Shared by a connection and those who read answers from it.
#[derive(Clone)]
pub(super) struct Meter(Arc<Shared>);

struct Shared {
    left: AtomicUsize,
    /// Bytes that went the other way, ours.
    sent: AtomicUsize,
    is_h2: AtomicBool,
}

impl Meter {
    /// For a new connection, its TLS handshake included.
    pub(super) fn new() -> Self {
        let (left, sent) = (AtomicUsize::new(MOST_BYTES), AtomicUsize::new(0));
        Self(Arc::new(Shared { left, sent, is_h2: AtomicBool::new(false) }))
    }

    /// The connection is made.
    pub(super) fn connected(&self, is_h2: bool) {
        self.0.is_h2.store(is_h2, Ordering::Relaxed);
        self.0.left.store(self.most(), Ordering::Relaxed);
    }

    pub(super) fn is_h2(&self) -> bool {
        self.0.is_h2.load(Ordering::Relaxed)
    }

    /// The head of an answer has arrived.
    pub(super) fn answered(&self) {
        if self.is_h2() {
            self.give_back(super::http2::HEADER_BYTES as usize);
        }
    }

    /// So much of an answer's body has arrived.
    pub(super) fn took(&self, bytes: usize) {
        if self.is_h2() {
            self.give_back(bytes + FRAME_BYTES);
        }
    }

    /// All of an answer has arrived: the connection's next request has as much again.
    pub(super) fn ended(&self) {
        if !self.is_h2() {
            self.0.left.store(MOST_BYTES, Ordering::Relaxed);
        }
    }

    fn most(&self) -> usize {
        if self.is_h2() { MOST_BESIDES } else { MOST_BYTES }
    }

    fn give_back(&self, bytes: usize) {
        let most = self.most();
        let add = |left: usize| Some(left.saturating_add(bytes).min(most));
        let _ = self.0.left.fetch_update(Ordering::Relaxed, Ordering::Relaxed, add);
    }

    /// How many bytes were ever written to the connection, TLS included.
    pub(super) fn sent(&self) -> usize {
        self.0.sent.load(Ordering::Relaxed)
    }

    fn wrote(&self, written: &Poll<io::Result<usize>>) {
        if let Poll::Ready(Ok(bytes)) = written {
            self.0.sent.fetch_add(*bytes, Ordering::Relaxed);
        }
    }

    fn left(&self) -> usize {
        self.0.left.load(Ordering::Relaxed)
    }

    fn read(&self, bytes: usize) {
        let subtract = |left: usize| Some(left.saturating_sub(bytes));
        let _ = self.0.left.fetch_update(Ordering::Relaxed, Ordering::Relaxed, subtract);
    }
}

/// A connection that is read no further than its meter allows.
pub(super) struct Metered<S> {
    pub(super) stream: S,
    pub(super) meter: Meter,
}

impl<S: AsyncRead + Unpin> AsyncRead for Metered<S> {
    fn poll_read(
        self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        let left = this.meter.left();
        if left == 0 && buffer.remaining() > 0 {
            return Poll::Ready(Err(io::Error::other(TooMuch)));
        }
        // Nearly always there is enough left for all of the buffer, which then needs no zeros before it is filled.
        let bytes = if left >= buffer.remaining() {
            let before = buffer.filled().len();
            ready!(Pin::new(&mut this.stream).poll_read(context, buffer))?;
            buffer.filled().len() - before
        } else {
            let mut part = ReadBuf::new(buffer.initialize_unfilled_to(left));
            ready!(Pin::new(&mut this.stream).poll_read(context, &mut part))?;
            let bytes = part.filled().len();
            buffer.advance(bytes);
            bytes
        };
        this.meter.read(bytes);
        Poll::Ready(Ok(()))
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for Metered<S> {
    fn poll_write(self: Pin<&mut Self>, context: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        let this = self.get_mut();
        let written = Pin::new(&mut this.stream).poll_write(context, bytes);
        this.meter.wrote(&written);
        written
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        context: &mut Context<'_>,
        slices: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let this = self.get_mut();
        let written = Pin::new(&mut this.stream).poll_write_vectored(context, slices);
        this.meter.wrote(&written);
        written
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }

    fn poll_flush(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.get_mut().stream).poll_flush(context)
    }

    fn poll_shutdown(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.get_mut().stream).poll_shutdown(context)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use tokio::io::AsyncReadExt as _;

    /// What can be read of an endless stream.
    async fn taken(meter: &Meter) -> usize {
        let mut metered = Metered { stream: tokio::io::repeat(1), meter: meter.clone() };
        let (mut all, mut buffer) = (0, [0; 5000]);
        loop {
            match metered.read(&mut buffer).await {
                Ok(bytes) => all += bytes,
                Err(error) => {
                    assert!(error.get_ref().unwrap().is::<TooMuch>());
                    return all;
                }
            }
        }
    }

    #[tokio::test]
    async fn each_answer_of_http_1_has_64_kib() {
        let meter = Meter::new();
        assert_eq!(taken(&meter).await, MOST_BYTES, "the handshake");
        meter.connected(false);
        meter.answered();
        meter.took(4000);
        assert_eq!(taken(&meter).await, MOST_BYTES);
        assert_eq!(taken(&meter).await, 0, "until it has ended");
        meter.ended();
        assert_eq!(taken(&meter).await, MOST_BYTES);
    }

    #[tokio::test]
    async fn http_2_has_what_its_answers_account_for_and_a_mebibyte() {
        let meter = Meter::new();
        meter.connected(true);
        meter.answered();
        assert_eq!(taken(&meter).await, MOST_BESIDES, "no more than at the beginning");
        meter.ended();
        assert_eq!(taken(&meter).await, 0);
        meter.took(10_000);
        assert_eq!(taken(&meter).await, 10_000 + FRAME_BYTES);
    }
}
