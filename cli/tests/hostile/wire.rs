//! Servers below HTTP, and the bytes that hostile ones send.

use std::net::{Ipv4Addr, SocketAddr};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::net::{TcpListener, TcpSocket, TcpStream};
use tokio::task::JoinSet;
use tokio_util::task::AbortOnDropHandle;

/// Between the bytes of a slow one.
pub(crate) async fn drip() {
    // That it is slow is what is tried.
    tokio::time::sleep(Duration::from_secs(1)).await;
}

/// What servers send and receive on.
pub(crate) trait Stream: AsyncRead + AsyncWrite + Unpin + Send {}

impl<S: AsyncRead + AsyncWrite + Unpin + Send> Stream for S {}

/// A server on a loopback port of its own, and what it has seen.
pub(crate) struct Server {
    pub(crate) address: SocketAddr,
    pub(crate) connections: Arc<AtomicUsize>,
    /// Bytes that its connections took from it.
    pub(crate) written: Arc<AtomicU64>,
    _serving: AbortOnDropHandle<()>,
}

impl Server {
    /// Does this with each connection; its buffers are small, so that what is written has mostly been read.
    pub(crate) fn start<F, Fut>(act: F) -> Self
    where
        F: Fn(Wire<TcpStream>) -> Fut + Send + 'static,
        Fut: Future<Output = std::io::Result<()>> + Send + 'static,
    {
        let listener = listen(1024);
        let address = listener.local_addr().unwrap();
        let (connections, written) = (Arc::new(AtomicUsize::new(0)), Arc::new(AtomicU64::new(0)));
        let (count, bytes) = (Arc::clone(&connections), Arc::clone(&written));
        let serving = tokio::spawn(async move {
            let mut open = JoinSet::new();
            while let Ok((stream, _)) = listener.accept().await {
                count.fetch_add(1, Ordering::Relaxed);
                let _ = stream.set_nodelay(true);
                open.spawn(act(Wire { stream, written: Arc::clone(&bytes) }));
            }
        });
        Self { address, connections, written, _serving: AbortOnDropHandle::new(serving) }
    }
}

pub(crate) fn listen(backlog: u32) -> TcpListener {
    let socket = TcpSocket::new_v4().unwrap();
    socket.set_send_buffer_size(16 << 10).unwrap();
    socket.set_recv_buffer_size(8 << 10).unwrap();
    socket.bind((Ipv4Addr::LOCALHOST, 0).into()).unwrap();
    socket.listen(backlog).unwrap()
}

/// One connection, which counts what it sends.
pub(crate) struct Wire<S> {
    pub(crate) stream: S,
    pub(crate) written: Arc<AtomicU64>,
}

impl<S: Stream> Wire<S> {
    pub(crate) async fn send(&mut self, bytes: &[u8]) -> std::io::Result<()> {
        self.stream.write_all(bytes).await?;
        self.stream.flush().await?;
        self.written.fetch_add(bytes.len() as u64, Ordering::Relaxed);
        Ok(())
    }

    /// Until the other side has had enough.
    pub(crate) async fn send_for_ever(&mut self, bytes: &[u8]) -> std::io::Result<()> {
        loop {
            self.send(bytes).await?;
        }
    }

    /// A byte each second.
    pub(crate) async fn drip(&mut self, bytes: &[u8]) -> std::io::Result<()> {
        for byte in bytes {
            self.send(&[*byte]).await?;
            drip().await;
        }
        Ok(())
    }

    /// Reads what comes until the other side closes.
    pub(crate) async fn rest(&mut self) -> std::io::Result<()> {
        let mut some = [0; 4096];
        while self.stream.read(&mut some).await? > 0 {}
        Ok(())
    }

    /// One request of HTTP/1.1, with its body.
    pub(crate) async fn request(&mut self) -> std::io::Result<()> {
        let mut all = Vec::new();
        let mut some = [0; 4096];
        loop {
            let bytes = self.stream.read(&mut some).await?;
            if bytes == 0 {
                return Err(std::io::ErrorKind::UnexpectedEof.into());
            }
            all.extend_from_slice(&some[..bytes]);
            let Some(head) = all.windows(4).position(|window| window == b"\r\n\r\n") else { continue };
            let text = String::from_utf8_lossy(&all[..head]).to_ascii_lowercase();
            let length = text.lines().find_map(|line| line.strip_prefix("content-length: ")?.parse().ok());
            if all.len() >= head + 4 + length.unwrap_or(0) {
                return Ok(());
            }
        }
    }
}

/// Zeros that deflate has made a thousandth of, in the frame of gzip (RFC 1951 and 1952).
pub(crate) fn gzip_bomb(zeros: u32) -> Vec<u8> {
    let mut bits = Bits::default();
    // One last block with the fixed codes: a literal 0, then as often as need be "258 bytes from one back".
    bits.push(0b1, 1);
    bits.push(0b01, 2);
    bits.push_code(0b0011_0000, 8);
    for _ in 0..zeros / 258 {
        bits.push_code(0b1100_0101, 8);
        bits.push_code(0, 5);
    }
    bits.push_code(0, 7);
    let mut bomb = vec![0x1f, 0x8b, 8, 0, 0, 0, 0, 0, 0, 255];
    bomb.extend(bits.bytes);
    // Whoever gets as far as the checksum has lost already.
    bomb.extend([0; 4]);
    bomb.extend((zeros / 258 * 258 + 1).to_le_bytes());
    bomb
}

#[derive(Default)]
struct Bits {
    bytes: Vec<u8>,
    used: u32,
}

impl Bits {
    /// Numbers go in from their lowest bit on.
    fn push(&mut self, number: u32, count: u32) {
        for n in 0..count {
            if self.used.is_multiple_of(8) {
                self.bytes.push(0);
            }
            *self.bytes.last_mut().unwrap() |= ((number >> n & 1) as u8) << (self.used % 8);
            self.used += 1;
        }
    }

    /// Codes from their highest.
    fn push_code(&mut self, code: u32, count: u32) {
        self.push(code.reverse_bits() >> (32 - count), count);
    }
}
