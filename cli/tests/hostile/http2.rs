//! Hostile receivers that speak HTTP/2, frame by frame (RFC 9113).

use tokio::io::AsyncReadExt as _;
use tokio::net::TcpStream;
use tokio_rustls::server::TlsStream;

use crate::table::{Hostile, answered, failed, try_all};
use crate::tls::{Authority, Certificate};
use crate::wire::{Server, Wire};

const DATA: u8 = 0;
const HEADERS: u8 = 1;
const RST_STREAM: u8 = 3;
const SETTINGS: u8 = 4;
const PING: u8 = 6;
const GOAWAY: u8 = 7;
const CONTINUATION: u8 = 9;
const END_STREAM: u8 = 1;
const END_HEADERS: u8 = 4;
const ACK: u8 = 1;
/// `:status: 200` and `:status: 204`, by their place in HPACK's table.
const STATUS_200: u8 = 0x88;
const STATUS_204: u8 = 0x89;

pub(crate) fn frame(kind: u8, flags: u8, stream: u32, payload: &[u8]) -> Vec<u8> {
    let length = u32::try_from(payload.len()).unwrap().to_be_bytes();
    [&length[1..], &[kind, flags], &stream.to_be_bytes(), payload].concat()
}

/// `:status: <status>` as a literal without indexing.
fn status(status: &str) -> Vec<u8> {
    [&[0x08, 3], status.as_bytes()].concat()
}

type Tls = Wire<TlsStream<TcpStream>>;

/// The connection's beginning.
async fn preface(wire: &mut Tls) -> std::io::Result<()> {
    let mut preface = [0; 24];
    wire.stream.read_exact(&mut preface).await?;
    assert_eq!(&preface, b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n");
    wire.send(&frame(SETTINGS, 0, 0, &[])).await
}

/// Reads frames up to the end of the next request; answers its stream.
async fn request(wire: &mut Tls) -> std::io::Result<u32> {
    loop {
        let mut head = [0; 9];
        wire.stream.read_exact(&mut head).await?;
        let length = u32::from_be_bytes([0, head[0], head[1], head[2]]);
        let mut payload = vec![0; length as usize];
        wire.stream.read_exact(&mut payload).await?;
        let stream = u32::from_be_bytes([head[5], head[6], head[7], head[8]]);
        match head[3] {
            HEADERS | DATA if head[4] & END_STREAM != 0 => return Ok(stream),
            DATA => {
                // As much again may be sent, on the stream and on the connection.
                let more = length.to_be_bytes();
                wire.send(&[frame(8, 0, 0, &more), frame(8, 0, stream, &more)].concat()).await?;
            }
            SETTINGS if head[4] & ACK == 0 => wire.send(&frame(SETTINGS, ACK, 0, &[])).await?,
            PING if head[4] & ACK == 0 => wire.send(&frame(PING, ACK, 0, &payload)).await?,
            _ => {}
        }
    }
}

/// A server that answers the first request of each connection with frames made for its stream, and then, until the
/// other side has had enough, with those of `for_ever`.
fn server(
    authority: &Authority,
    first: impl Fn(u32) -> Vec<u8> + Clone + Send + Sync + 'static,
    for_ever: impl Fn(u32) -> Vec<u8> + Clone + Send + Sync + 'static,
) -> Server {
    authority.server(Certificate::Good, &["h2"], move |mut wire| {
        let (first, for_ever) = (first.clone(), for_ever.clone());
        async move {
            preface(&mut wire).await?;
            let stream = request(&mut wire).await?;
            wire.send(&first(stream)).await?;
            let again = for_ever(stream);
            if again.is_empty() {
                return wire.rest().await;
            }
            let Wire { stream: tls, written } = wire;
            let (mut reads, writes) = tokio::io::split(tls);
            let mut out = Wire { stream: tokio::io::join(tokio::io::empty(), writes), written };
            // What comes back is read, or the other side would wait for that.
            let read = async { tokio::io::copy(&mut reads, &mut tokio::io::sink()).await.map(|_| ()) };
            tokio::select! {
                ended = out.send_for_ever(&again) => ended,
                ended = read => ended,
            }
        }
    })
}

fn goaway(code: u32) -> impl Fn(u32) -> Vec<u8> + Clone {
    move |_| frame(GOAWAY, 0, 0, &[0_u32.to_be_bytes(), code.to_be_bytes()].concat())
}

fn reset(code: u32) -> impl Fn(u32) -> Vec<u8> + Clone {
    move |stream| frame(RST_STREAM, 0, stream, &code.to_be_bytes())
}

fn nothing(_: u32) -> Vec<u8> {
    Vec::new()
}

#[tokio::test]
async fn receivers_that_misuse_http_2_are_cut_off_and_told_apart() {
    let authority = Authority::new();
    let fine = authority.server(Certificate::Good, &["h2"], |mut wire| async move {
        preface(&mut wire).await?;
        loop {
            let stream = request(&mut wire).await?;
            wire.send(&frame(HEADERS, END_HEADERS | END_STREAM, stream, &[STATUS_204])).await?;
        }
    });
    let silent = authority.server(Certificate::Good, &["h2"], |mut wire| async move { wire.rest().await });
    let goes_away_at_once = authority.server(Certificate::Good, &["h2"], |mut wire| async move {
        preface(&mut wire).await?;
        wire.send(&goaway(0)(0)).await?;
        wire.rest().await
    });
    let on = |first: fn(u32) -> Vec<u8>, for_ever: fn(u32) -> Vec<u8>| server(&authority, first, for_ever);
    let head = |stream: u32| frame(HEADERS, END_HEADERS, stream, &[STATUS_200]);
    let pings = |_: u32| frame(PING, 0, 0, &[7; 8]).repeat(500);
    let settings = |_: u32| frame(SETTINGS, 0, 0, &[]).repeat(500);
    let data = |stream: u32| frame(DATA, 0, stream, &[b'x'; 16 << 10]);
    let empty_data = |stream: u32| frame(DATA, 0, stream, &[]).repeat(500);
    let resets = |stream: u32| frame(RST_STREAM, 0, stream, &8_u32.to_be_bytes()).repeat(500);
    let open_head = |stream: u32| frame(HEADERS, 0, stream, &[STATUS_200]);
    let more_head = |stream: u32| {
        frame(CONTINUATION, 0, stream, &[&[0, 1, b'x', 127, 201, 30][..], &[b'y'; 4000]].concat())
    };
    let interim = |stream: u32| frame(HEADERS, END_HEADERS, stream, &status("103")).repeat(100);
    let half_body = |stream: u32| {
        [frame(HEADERS, END_HEADERS, stream, &[STATUS_200]), frame(DATA, 0, stream, b"hello")].concat()
    };
    let half_then_reset = |stream: u32| {
        [
            frame(HEADERS, END_HEADERS, stream, &[STATUS_200]),
            frame(DATA, 0, stream, b"hello"),
            frame(RST_STREAM, 0, stream, &2_u32.to_be_bytes()),
        ]
        .concat()
    };
    let unasked = |_: u32| frame(HEADERS, END_HEADERS | END_STREAM, 9_999, &[STATUS_204]);
    let garbage = |_: u32| vec![0xff; 64];
    let all = vec![
        Hostile::new("h2 as it should be", fine, answered(204, "")),
        Hostile::new("h2 that says nothing", silent, failed("timeout", "no answer within 4000 ms")),
        Hostile::new("GOAWAY before the request", goes_away_at_once, failed("reset", "")),
        Hostile::new("GOAWAY after the request", server(&authority, goaway(0), nothing), failed("reset", "")),
        Hostile::new("GOAWAY to calm us", server(&authority, goaway(11), nothing), failed("reset", "")),
        Hostile::new(
            "a flood of GOAWAYs",
            server(&authority, nothing, move |_| goaway(0)(0).repeat(500)),
            failed("reset", ""),
        ),
        Hostile::new("RST_STREAM", server(&authority, reset(8), nothing), failed("reset", "")),
        Hostile::new("RST_STREAM, refused", server(&authority, reset(7), nothing), failed("reset", "")),
        Hostile::new("a flood of RST_STREAMs", server(&authority, reset(8), resets), failed("reset", "")),
        Hostile::new("a flood of PINGs", on(nothing, pings), failed("protocol", "")),
        Hostile::new("a flood of SETTINGS", on(nothing, settings), failed("protocol", "")),
        Hostile::new("a flood of interim answers", on(nothing, interim), failed("protocol", "")),
        Hostile::new("endless header frames", on(open_head, more_head), failed("protocol", "")),
        Hostile::new("an endless h2 body", on(head, data), answered(200, "body: ")),
        Hostile::new("endless empty frames", on(head, empty_data), answered(200, "body: ")),
        Hostile::new("an h2 body that stalls", on(half_body, nothing), answered(200, "body: timeout")),
        Hostile::new("an h2 body that is reset", on(half_then_reset, nothing), answered(200, "body: reset")),
        Hostile::new("an answer nobody asked for", on(unasked, nothing), failed("protocol", "")),
        Hostile::new("frames of nonsense", on(garbage, nothing), failed("protocol", "")),
    ];
    let all = all.into_iter().map(Hostile::with_tls).collect();
    try_all(all, 1, &[("SSL_CERT_FILE", &authority.file())]).await;
}
