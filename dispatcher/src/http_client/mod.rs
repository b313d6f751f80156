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
mod tests;
