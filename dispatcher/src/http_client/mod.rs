//! The one HTTP client of all deliveries: no redirects, no proxies, no decompression, no connection to an address
//! that the egress policy forbids, and no more read than an answer may have.
//!
//! [`names`] asks for addresses, [`dial`] judges and connects, [`meter`] counts what comes back, [`pool`] keeps
//! connections for the next request. HTTP/1.1 is written here ([`http1`]), since it is what a delivery costs; HTTP/2 is
//! hyper's ([`http2`]).

mod destination;
mod dial;
mod http1;
mod http2;
mod meter;
mod names;
mod pool;
mod taken;

use std::error::Error;
use std::sync::Arc;

use bytes::Bytes;
use eventrail_core::egress::EgressPolicy;
use http::header::RETRY_AFTER;
use tokio::time::{Instant, timeout_at};

use self::dial::Dialer;
use self::http1::{Http1, Outgoing};
use self::http2::Http2;
use self::pool::{Connection, Pool};
use self::taken::Taken;

pub(crate) use self::destination::{Destination, OwnHeader};
pub(crate) use self::dial::NotReached;
pub(crate) use self::http1::Broken;
pub use self::http1::{ReadAnswer, read_answer};
pub(crate) use self::meter::TooMuch;

/// What is read of an answer at most, its head included.
const MOST_BYTES: usize = 64 << 10;
/// So much of an answer's body is kept.
const KEEP_BYTES: usize = 4 << 10;
/// What a piece of a body counts for at least: thousands of tiny chunks take more time than their bytes do.
const PIECE_BYTES: usize = 256;

/// An answer, with the beginning of its body.
pub(crate) struct Received {
    pub(crate) status: u16,
    pub(crate) retry_after: Option<String>,
    pub(crate) body: Vec<u8>,
    /// Why the body was not read to its end.
    pub(crate) cut: Option<NotAnswered>,
}

/// Why there is no answer.
#[derive(Debug, thiserror::Error)]
pub(crate) enum NotAnswered {
    #[error("no connection in time")]
    NoConnection,
    #[error("no answer in time")]
    NoAnswer,
    /// Nothing of the request was sent.
    #[error("request not sent")]
    Unsent(#[source] Box<dyn Error + Send + Sync>),
    #[error("request failed")]
    Failed(#[source] Box<dyn Error + Send + Sync>),
}

impl From<Broken> for NotAnswered {
    fn from(error: Broken) -> Self {
        match error {
            Broken::Unsent(_) => Self::Unsent(error.into()),
            error => Self::Failed(error.into()),
        }
    }
}

pub(crate) struct Client {
    dialer: Dialer,
    pool: Pool,
}

impl Client {
    /// Of each receiver as many connections rest as requests may be under way: all endpoints of a group may live on
    /// one host, and a connection that is closed after its request costs as much as the delivery.
    ///
    /// # Errors
    /// The TLS set-up is unusable.
    pub(crate) fn new(policy: Arc<EgressPolicy>, most_idle: usize) -> anyhow::Result<Self> {
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let mut roots = rustls::RootCertStore { roots: webpki_roots::TLS_SERVER_ROOTS.to_vec() };
        // The machine's own roots too: receivers behind a private authority.
        let native = rustls_native_certs::load_native_certs();
        roots.add_parsable_certificates(native.certs);
        let mut tls = rustls::ClientConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()?
            .with_root_certificates(roots)
            .with_no_client_auth();
        tls.alpn_protocols = vec![b"h2".to_vec(), b"http/1.1".to_vec()];
        Ok(Self { dialer: Dialer::new(policy, tls), pool: Pool::new(most_idle) })
    }

    /// Posts a body and reads the answer, all of it before `deadline`. One request is made: only where a connection
    /// had ended before any of it was sent, it is made on another.
    ///
    /// # Errors
    /// There is no answer.
    pub(crate) async fn post(
        &self,
        to: &Destination,
        own: &[OwnHeader<'_>],
        body: &Bytes,
        deadline: Instant,
    ) -> Result<Received, NotAnswered> {
        loop {
            let (connection, is_new) = match self.pool.take(&to.origin) {
                Some(connection) => (connection, false),
                // Apart, since most deliveries have no need of it and would carry its state.
                None => Box::pin(timeout_at(deadline, self.connect(to)))
                    .await
                    .map_err(|_| NotAnswered::NoConnection)??,
            };
            let answer = match connection {
                Connection::Http1(connection) => self.over_http1(connection, to, own, body, deadline).await,
                Connection::Http2(connection) => {
                    Box::pin(over_http2(connection, to, own, body, deadline)).await
                }
            };
            match answer {
                Err(NotAnswered::Unsent(_)) if !is_new => {}
                answer => return answer,
            }
        }
    }

    /// Closes connections that have rested for too long.
    pub(crate) fn sweep(&self, now: std::time::Instant) {
        self.pool.sweep(now);
    }

    /// A connection, and whether it is made for this request alone so far.
    async fn connect(&self, to: &Destination) -> Result<(Connection, bool), NotAnswered> {
        let link = self.dialer.dial(&to.uri).await.map_err(|error| NotAnswered::Failed(error.into()))?;
        if !link.meter().is_h2() {
            return Ok((Connection::Http1(Http1::new(link)), true));
        }
        let connection = Http2::begin(link).await.map_err(|error| NotAnswered::Failed(error.into()))?;
        let (shared, is_new) = self.pool.share(&to.origin, connection);
        Ok((Connection::Http2(shared), is_new))
    }

    async fn over_http1(
        &self,
        mut connection: Http1,
        to: &Destination,
        own: &[OwnHeader<'_>],
        body: &[u8],
        deadline: Instant,
    ) -> Result<Received, NotAnswered> {
        let head = to.head(own, body.len());
        let mut outgoing = Outgoing::new(&head, body);
        let answer = timeout_at(deadline, connection.ask(&mut outgoing)).await;
        let head = answer.map_err(|_| NotAnswered::NoAnswer)??;
        let mut taken = Taken::at_most(MOST_BYTES);
        let read = timeout_at(deadline, connection.read_body(&head, &mut outgoing, &mut taken)).await;
        let cut = read.map_or(Some(NotAnswered::NoAnswer), |read| read.err().map(NotAnswered::from));
        self.pool.rest(&to.origin, connection);
        Ok(Received { status: head.status, retry_after: head.retry_after, body: taken.kept, cut })
    }
}

async fn over_http2(
    mut connection: Http2,
    to: &Destination,
    own: &[OwnHeader<'_>],
    body: &Bytes,
    deadline: Instant,
) -> Result<Received, NotAnswered> {
    let answer = timeout_at(deadline, connection.ask(to, own, body.clone())).await;
    let (head, body) = answer.map_err(|_| NotAnswered::NoAnswer)??.into_parts();
    let retry_after = head.headers.get(RETRY_AFTER).and_then(|value| value.to_str().ok());
    let mut taken = Taken::at_most(http2::MOST_OF_BODY);
    let read = timeout_at(deadline, connection.read_body(body, &mut taken)).await;
    let cut = read.map_or(Some(NotAnswered::NoAnswer), Result::err);
    let retry_after = retry_after.map(ToOwned::to_owned);
    Ok(Received { status: head.status.as_u16(), retry_after, body: taken.kept, cut })
}

#[cfg(test)]
mod tests {
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
                let (mut stream, _) = listener.accept().await.unwrap();
                request(&mut stream, "body").await;
                stream.write_all(OK).await.unwrap();
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
            let serve = async {
                let (mut stream, _) = listener.accept().await.unwrap();
                request(&mut stream, "body").await;
                stream.write_all(&[OK, OK].concat()).await.unwrap();
                stream
            };
            let (stream, received) = tokio::join!(serve, post(&client, &to, b"body"));
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
        let serve = async {
            let (mut stream, _) = listener.accept().await.unwrap();
            request(&mut stream, "body").await;
            stream.write_all(OK).await.unwrap();
            stream
        };
        let (mut stream, received) = tokio::join!(serve, post(&client, &to, b"body"));
        received.unwrap();
        let now = std::time::Instant::now();
        client.sweep(now + Duration::from_secs(30));
        client.sweep(now + Duration::from_secs(61));
        stream.read_u8().await.unwrap_err();
        assert!(client.pool.take(&to.origin).is_none());
    }
}
