//! The client against receivers that speak HTTP/1.1 byte by byte.

use super::*;
use http::HeaderMap;
use std::time::Duration;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};

const OK: &[u8] = b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok";

async fn receiver() -> (TcpListener, Destination) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("http://{}/hooks", listener.local_addr().unwrap()).parse().unwrap();
    (listener, Destination::new(&url, HeaderMap::new()).unwrap())
}

fn client(most_idle: usize) -> Client {
    let policy = EgressPolicy::new(vec!["127.0.0.0/8".parse().unwrap()]);
    Client::new(Arc::new(policy), most_idle).unwrap()
}

async fn post(client: &Client, to: &Destination, body: &'static [u8]) -> Result<Received, NotAnswered> {
    let deadline = Instant::now() + Duration::from_secs(30);
    client.post(to, &[("webhook-id", "evt_1")], &Bytes::from_static(body), deadline).await
}

/// Reads one request with this body to its end.
async fn request(stream: &mut TcpStream, body: &str) -> String {
    let mut text = String::new();
    while !text.ends_with(&format!("\r\n\r\n{body}")) {
        let byte = stream.read_u8().await.unwrap();
        text.push(char::from(byte));
    }
    text
}

/// Takes a connection, reads a request on it, and answers with these bytes.
async fn answer(listener: &TcpListener, bytes: &[u8]) -> TcpStream {
    let (mut stream, _) = listener.accept().await.unwrap();
    request(&mut stream, "body").await;
    stream.write_all(bytes).await.unwrap();
    stream
}

#[tokio::test]
async fn one_connection_serves_one_request_after_another() {
    let (listener, to) = receiver().await;
    let client = client(8);
    let serve = async {
        let (mut stream, _) = listener.accept().await.unwrap();
        for body in ["first", "second", "third"] {
            let text = request(&mut stream, body).await;
            assert!(text.starts_with("POST /hooks HTTP/1.1\r\nhost: 127.0.0.1:"), "{text}");
            // In two pieces, the cut within the head.
            stream.write_all(&OK[..20]).await.unwrap();
            stream.flush().await.unwrap();
            stream.write_all(&OK[20..]).await.unwrap();
        }
        stream
    };
    let ask = async {
        for body in [&b"first"[..], b"second", b"third"] {
            let received = post(&client, &to, body).await.unwrap();
            assert_eq!((received.status, received.body.as_slice()), (200, &b"ok"[..]));
            assert!(received.cut.is_none());
        }
    };
    tokio::join!(serve, ask);
}

#[tokio::test]
async fn a_connection_that_the_receiver_has_closed_meanwhile_costs_no_attempt() {
    let (listener, to) = receiver().await;
    let client = client(8);
    for _ in 0..3 {
        let serve = async {
            let mut stream = answer(&listener, OK).await;
            stream.shutdown().await.unwrap();
            // Until the other side has closed it too, or asks on it in spite of its end.
            stream.read_u8().await.unwrap_err();
        };
        let ask = async {
            assert_eq!(post(&client, &to, b"body").await.unwrap().status, 200);
            // It comes as it would to whoever asks next: through the runtime.
            while let Some(Connection::Http1(resting)) = client.pool.take(&to.origin) {
                client.pool.rest(&to.origin, resting);
                tokio::task::yield_now().await;
            }
        };
        tokio::join!(serve, ask);
    }
}

#[tokio::test]
async fn hundreds_of_connections_that_were_closed_at_rest_cost_no_attempt() {
    const CONNECTIONS: usize = 300;
    let (listener, to) = receiver().await;
    let client = client(CONNECTIONS);
    let serve = async {
        let mut streams = Vec::new();
        for _ in 0..CONNECTIONS {
            let (mut stream, _) = listener.accept().await.unwrap();
            request(&mut stream, "body").await;
            streams.push(stream);
        }
        for stream in &mut streams {
            stream.write_all(OK).await.unwrap();
        }
        streams
    };
    let ask = futures_util::future::join_all((0..CONNECTIONS).map(|_| post(&client, &to, b"body")));
    let (streams, received) = tokio::join!(serve, ask);
    assert!(received.iter().all(Result::is_ok));
    drop(streams);
    let serving = tokio::spawn(async move {
        let (mut stream, _) = listener.accept().await.unwrap();
        request(&mut stream, "again").await;
        stream.write_all(OK).await.unwrap();
    });
    // Once the runtime has heard of it.
    tokio::task::yield_now().await;
    assert_eq!(post(&client, &to, b"again").await.unwrap().status, 200);
    serving.await.unwrap();
}

#[tokio::test]
async fn who_confirms_before_all_has_come_still_gets_all() {
    static LARGE: [u8; 8 << 20] = [b'x'; 8 << 20];
    let (listener, to) = receiver().await;
    let client = client(8);
    let serve = async {
        let (mut stream, _) = listener.accept().await.unwrap();
        stream.write_all(b"HTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n").await.unwrap();
        let mut all = 0;
        let mut buffer = vec![0; 1 << 20];
        while all < LARGE.len() {
            all += match stream.read(&mut buffer).await.unwrap() {
                0 => panic!("the request ended after {all} bytes"),
                bytes => bytes,
            };
        }
    };
    let ((), received) = tokio::join!(serve, post(&client, &to, &LARGE));
    assert_eq!(received.unwrap().status, 200);
    assert!(client.pool.take(&to.origin).is_some(), "it is as good as any other");
}

#[tokio::test]
async fn what_nobody_asked_for_ends_a_connection() {
    let (listener, to) = receiver().await;
    let client = client(8);
    for _ in 0..2 {
        let both = [OK, OK].concat();
        let (stream, received) = tokio::join!(answer(&listener, &both), post(&client, &to, b"body"));
        assert_eq!(received.unwrap().status, 200);
        drop(stream);
    }
}

#[tokio::test]
async fn an_answer_counts_that_comes_before_the_request_was_read() {
    static LARGE: [u8; 8 << 20] = [b'x'; 8 << 20];
    let (listener, to) = receiver().await;
    let client = client(8);
    let serve = async {
        let (mut stream, _) = listener.accept().await.unwrap();
        stream.write_all(b"HTTP/1.1 413 Too Large\r\ncontent-length: 0\r\n\r\n").await.unwrap();
        stream
    };
    let (_stream, received) = tokio::join!(serve, post(&client, &to, &LARGE));
    assert_eq!(received.unwrap().status, 413);
    assert!(client.pool.take(&to.origin).is_none(), "half a request is on it");
}

#[tokio::test]
async fn no_more_connections_rest_than_may() {
    let (listener, to) = receiver().await;
    let client = client(2);
    let serve = async {
        let mut streams = Vec::new();
        for _ in 0..4 {
            let (mut stream, _) = listener.accept().await.unwrap();
            request(&mut stream, "body").await;
            streams.push(stream);
        }
        for stream in &mut streams {
            stream.write_all(OK).await.unwrap();
        }
        streams
    };
    let ask = futures_util::future::join_all((0..4).map(|_| post(&client, &to, b"body")));
    let (_streams, received) = tokio::join!(serve, ask);
    assert!(received.iter().all(Result::is_ok));
    let resting = std::iter::from_fn(|| client.pool.take(&to.origin)).count();
    assert_eq!(resting, 2);
}

#[tokio::test]
async fn connections_that_rest_for_long_are_closed() {
    let (listener, to) = receiver().await;
    let client = client(8);
    let (mut stream, received) = tokio::join!(answer(&listener, OK), post(&client, &to, b"body"));
    received.unwrap();
    let now = std::time::Instant::now();
    client.sweep(now + Duration::from_secs(30));
    client.sweep(now + Duration::from_secs(61));
    stream.read_u8().await.unwrap_err();
    assert!(client.pool.take(&to.origin).is_none());
}
