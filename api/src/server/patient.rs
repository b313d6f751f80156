//! Patience with those who don't read their answers, and with those who say nothing: a connection that has taken
//! nothing of what it is sent for a while, or on which nothing has moved for long, is closed.

use std::io;
use std::pin::Pin;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::time::{Instant, Sleep, sleep, sleep_until};

pub(super) struct Patient<S> {
    stream: S,
    /// How long it may take nothing of what it is sent.
    for_writes: Duration,
    stalled: Option<Pin<Box<Sleep>>>,
    /// How long nothing may move. Longer than a request may take.
    for_rest: Duration,
    moved_at: Instant,
    resting: Option<Pin<Box<Sleep>>>,
}

impl<S> Patient<S> {
    pub(super) fn new(stream: S, for_writes: Duration, for_rest: Duration) -> Self {
        Self { stream, for_writes, stalled: None, for_rest, moved_at: Instant::now(), resting: None }
    }

    /// An error in place of waiting for too long.
    fn judge<T>(&mut self, context: &mut Context<'_>, written: Poll<io::Result<T>>) -> Poll<io::Result<T>> {
        if written.is_ready() {
            self.stalled = None;
            self.moved_at = Instant::now();
            return written;
        }
        let patience = self.for_writes;
        let stalled = self.stalled.get_or_insert_with(|| Box::pin(sleep(patience)));
        stalled.as_mut().poll(context).map(|()| Err(io::ErrorKind::TimedOut.into()))
    }

    /// Ready when nothing has moved for too long.
    fn poll_rested(&mut self, context: &mut Context<'_>) -> Poll<()> {
        loop {
            let until = self.moved_at + self.for_rest;
            let resting = self.resting.get_or_insert_with(|| Box::pin(sleep_until(until)));
            ready!(resting.as_mut().poll(context));
            if Instant::now() >= until {
                return Poll::Ready(());
            }
            resting.as_mut().reset(until);
        }
    }
}

impl<S: AsyncRead + Unpin> AsyncRead for Patient<S> {
    fn poll_read(
        self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        if let Poll::Ready(read) = Pin::new(&mut this.stream).poll_read(context, buffer) {
            this.moved_at = Instant::now();
            return Poll::Ready(read);
        }
        this.poll_rested(context).map(|()| Err(io::ErrorKind::TimedOut.into()))
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for Patient<S> {
    fn poll_write(self: Pin<&mut Self>, context: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        let this = self.get_mut();
        let written = Pin::new(&mut this.stream).poll_write(context, bytes);
        this.judge(context, written)
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        context: &mut Context<'_>,
        slices: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let this = self.get_mut();
        let written = Pin::new(&mut this.stream).poll_write_vectored(context, slices);
        this.judge(context, written)
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }

    fn poll_flush(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        let flushed = Pin::new(&mut this.stream).poll_flush(context);
        this.judge(context, flushed)
    }

    fn poll_shutdown(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.get_mut().stream).poll_shutdown(context)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};

    const SHORT: Duration = Duration::from_millis(50);
    const LONG: Duration = Duration::from_secs(3600);

    #[tokio::test]
    async fn who_takes_nothing_for_too_long_is_given_up() {
        let (ours, mut theirs) = tokio::io::duplex(1000);
        let mut patient = Patient::new(ours, SHORT, LONG);
        for _ in 0..3 {
            patient.write_all(&[1; 1000]).await.unwrap();
            theirs.read_exact(&mut [0; 1000]).await.unwrap();
        }
        let error = patient.write_all(&[1; 1001]).await.unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::TimedOut);
    }

    #[tokio::test]
    async fn who_says_nothing_for_too_long_is_given_up() {
        let (ours, mut theirs) = tokio::io::duplex(1000);
        let mut patient = Patient::new(ours, LONG, SHORT);
        theirs.write_all(&[1; 10]).await.unwrap();
        patient.read_exact(&mut [0; 10]).await.unwrap();
        assert_eq!(patient.read_u8().await.unwrap_err().kind(), io::ErrorKind::TimedOut);
    }
}
