//! Hostile receivers that speak plain HTTP/1.1, or nothing at all.

use std::time::Duration;

use eventrail_core::testing::Receiver;
use tokio::net::TcpStream;

use crate::table::{Hostile, answered, failed, try_all};
use crate::wire::{Server, drip, gzip_bomb, listen};

const OK: &[u8] = b"HTTP/1.1 200 OK\r\n";

/// Answers each request with this, for as long as the connection is kept.
fn answers(bytes: impl Into<Vec<u8>>) -> Server {
    let bytes = bytes.into();
    Server::start(move |mut wire| {
        let bytes = bytes.clone();
        async move {
            loop {
                wire.request().await?;
                wire.send(&bytes).await?;
            }
        }
    })
}

/// Reads a request, sends the beginning, and then the rest again and again.
fn floods(beginning: &'static [u8], rest: impl Into<Vec<u8>>) -> Server {
    let rest = rest.into();
    Server::start(move |mut wire| {
        let rest = rest.clone();
        async move {
            wire.request().await?;
            wire.send(beginning).await?;
            wire.send_for_ever(&rest).await
        }
    })
}

/// Reads a request, sends the beginning, and the rest a byte a second.
fn drips(beginning: &'static [u8], rest: &'static [u8]) -> Server {
    Server::start(move |mut wire| async move {
        wire.request().await?;
        wire.send(beginning).await?;
        wire.drip(rest).await
    })
}

/// A listener whose queue is full, so that further connections get no answer at all.
async fn never_accepts() -> (tokio::net::TcpListener, Vec<TcpStream>) {
    let listener = listen(1);
    let address = listener.local_addr().unwrap();
    let mut queue = Vec::new();
    // The queue is full when a connection gets no answer; one that is slow for another reason only fills it less.
    while let Ok(stream) = tokio::time::timeout(Duration::from_millis(500), TcpStream::connect(address)).await
    {
        queue.push(stream.unwrap());
    }
    (listener, queue)
}

#[tokio::test]
async fn receivers_that_stall_are_cut_at_their_timeout() {
    let (full, _queue) = never_accepts().await;
    let no_answer = || failed("timeout", "no answer within 4000 ms");
    let reads_nothing = Server::start(|wire| async move {
        let _wire = wire;
        std::future::pending().await
    });
    let reads_all = Server::start(|mut wire| async move { wire.rest().await });
    let reads_slowly = Server::start(|mut wire| async move {
        use tokio::io::AsyncReadExt as _;
        while wire.stream.read_u8().await.is_ok() {
            drip().await;
        }
        Ok(())
    });
    let interim = Server::start(|mut wire| async move {
        wire.request().await?;
        loop {
            wire.send(b"HTTP/1.1 103 Early Hints\r\n\r\n").await?;
            drip().await;
        }
    });
    let body = b"content-length: 500\r\n\r\n";
    let ok_head: &'static [u8] = [OK, body].concat().leak();
    let failed_head: &'static [u8] = [&b"HTTP/1.1 500 No\r\n"[..], body].concat().leak();
    try_all(
        vec![
            Hostile::at(
                "never accepts",
                full.local_addr().unwrap(),
                failed("timeout", "no connection within 4000 ms"),
            ),
            Hostile::at(
                "never accepts, with patience",
                full.local_addr().unwrap(),
                failed("timeout", "no connection within 5 s"),
            )
            .with_timeout(20_000),
            Hostile::new("accepts and never reads", reads_nothing, no_answer()),
            Hostile::new("reads a byte a second", reads_slowly, no_answer()),
            Hostile::new("reads and never answers", reads_all, no_answer()),
            Hostile::new(
                "the head a byte a second",
                drips(b"", b"HTTP/1.1 200 OK\r\nx-slow: yes\r\n"),
                no_answer(),
            ),
            Hostile::new("interim answers a second apart", interim, no_answer()),
            Hostile::new(
                "the body a byte a second",
                drips(ok_head, &[b'x'; 60]),
                answered(200, "body: timeout"),
            ),
            Hostile::new(
                "the body of a failure a byte a second",
                drips(failed_head, &[b'x'; 60]),
                answered(500, "body: timeout"),
            ),
        ],
        3,
        &[],
    )
    .await;
}

#[tokio::test]
async fn receivers_that_send_too_much_or_nonsense_are_cut_off() {
    let more = "more than is read of an answer";
    let huge_head = [OK, b"x-huge: ", &[b'x'; 16 << 10]].concat();
    let chunked = b"transfer-encoding: chunked\r\n\r\n";
    let broken = |chunk: &[u8]| answers([OK, chunked, chunk].concat());
    let endless: &'static [u8] = [OK, chunked].concat().leak();
    let chunk = [b"2000\r\n", &[b'x'; 0x2000][..], b"\r\n"].concat();
    let tiny = [b"8\r\nxxxxxxxx\r\n".repeat(300), b"0\r\n\r\n".to_vec()].concat();
    let bomb = gzip_bomb(8 << 20);
    let bomb_head = format!("content-encoding: gzip\r\ncontent-length: {}\r\n\r\n", bomb.len());
    try_all(
        vec![
            Hostile::new("an endless body", floods(endless, chunk), answered(200, more)),
            Hostile::new("a body in tiny pieces", broken(&tiny), answered(200, more)),
            Hostile::new(
                "a body without an end",
                floods(b"HTTP/1.0 200 OK\r\n\r\n", [b'x'; 8192]),
                answered(200, more),
            ),
            Hostile::new("a huge head", floods(b"", huge_head), failed("protocol", "too large")),
            Hostile::new(
                "endless headers",
                floods(OK, "x-more: yes\r\n".repeat(500)),
                failed("protocol", ""),
            ),
            Hostile::new(
                "a storm of 100s",
                floods(b"", "HTTP/1.1 100 Continue\r\n\r\n".repeat(300)),
                failed("protocol", more),
            ),
            Hostile::new(
                "a storm of 103s",
                floods(b"", "HTTP/1.1 103 Early Hints\r\nlink: </x>\r\n\r\n".repeat(200)),
                failed("protocol", more),
            ),
            Hostile::new("a chunk of no size", broken(b"xyz\r\n"), answered(200, "body: protocol")),
            Hostile::new(
                "a chunk beyond all sizes",
                broken(b"fffffffffffffffff\r\n"),
                answered(200, "body: protocol"),
            ),
            Hostile::new(
                "an endless chunk extension",
                floods(endless, "5;x=".to_owned() + &"y".repeat(9000)),
                answered(200, "body: "),
            ),
            Hostile::new(
                "two lengths",
                answers([OK, b"content-length: 1\r\ncontent-length: 2\r\n\r\nab"].concat()),
                failed("protocol", "content-length"),
            ),
            Hostile::new(
                "a gzip bomb",
                answers([OK, bomb_head.as_bytes(), &bomb].concat()),
                answered(200, ""),
            )
            .keeping(&[0x1f, 0x8b, 8]),
        ],
        3,
        &[],
    )
    .await;
}

#[tokio::test]
async fn receivers_that_point_elsewhere_or_hang_up_gain_nothing() {
    let elsewhere = Receiver::start().await;
    let redirect = |status: u16, to: &str| {
        answers(format!("HTTP/1.1 {status} Moved\r\nlocation: {to}\r\ncontent-length: 0\r\n\r\n"))
    };
    let resets = Server::start(|mut wire| async move {
        wire.request().await?;
        wire.stream.set_zero_linger()
    });
    let resets_within = Server::start(|mut wire| async move {
        wire.request().await?;
        wire.send(b"HTTP/1.1 200 OK\r\ncontent-le").await?;
        wire.stream.set_zero_linger()
    });
    let closes = Server::start(|mut wire| async move { wire.request().await });
    let metadata = "http://169.254.169.254/latest/meta-data/iam/security-credentials/";
    let later = |value: &str| {
        answers(format!("HTTP/1.1 503 Later\r\nretry-after: {value}\r\ncontent-length: 0\r\n\r\n"))
    };
    try_all(
        vec![
            Hostile::new("redirects to the metadata address", redirect(307, metadata), answered(307, "")),
            Hostile::new(
                "redirects to another server",
                redirect(302, &elsewhere.url("/x")),
                answered(302, ""),
            ),
            Hostile::new("redirects to itself", redirect(308, "/"), answered(308, "")),
            Hostile::new("resets after the request", resets, failed("reset", "reset by peer")),
            Hostile::new("resets within the head", resets_within, failed("reset", "reset by peer")),
            Hostile::new(
                "closes after the request",
                closes,
                failed("reset", "closed before message completed"),
            ),
            Hostile::new("retry-after of 10^30 s", later(&format!("1{}", "0".repeat(30))), answered(503, "")),
            Hostile::new(
                "retry-after in the year 9999",
                later("Fri, 31 Dec 9999 23:59:59 GMT"),
                answered(503, ""),
            ),
            Hostile::new("retry-after of -1", later("-1"), answered(503, "")),
            Hostile::new("retry-after of no number", later("1e9 weeks"), answered(503, "")),
        ],
        3,
        &[],
    )
    .await;
    assert_eq!(elsewhere.count(), 0, "nothing was sent to where the redirect pointed");
}
