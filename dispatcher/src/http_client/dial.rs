//! From a URL to a connection that may be used: addresses found, each of them judged by the egress policy, one of
//! them connected to, and TLS spoken. What is dialled is exactly what was judged, so a name that changes its
//! address in between gains nothing.

use std::io;
use std::net::{IpAddr, SocketAddr};
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use eventrail_core::egress::{Denied, EgressPolicy};
use futures_util::stream::{FuturesUnordered, StreamExt as _};
use http::Uri;
use rustls::pki_types::ServerName;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;

use super::meter::{Meter, Metered};
use super::names::{Names, Unresolved};

const CONNECT_DEADLINE: Duration = Duration::from_secs(5);
const HANDSHAKE_DEADLINE: Duration = Duration::from_secs(5);
/// The next address is tried beside one that has not answered for so long (RFC 8305, section 5).
const STAGGER: Duration = Duration::from_millis(250);
/// A name may have hundreds; no more are bothered with one delivery.
const MOST_ADDRESSES: usize = 8;
/// Connections that rest are asked now and then whether somebody is still there.
const KEEPALIVE: Duration = Duration::from_secs(15);

/// Why there is no connection.
#[derive(Debug, thiserror::Error)]
pub(crate) enum NotReached {
    #[error(transparent)]
    Unresolved(#[from] Unresolved),
    #[error(transparent)]
    Denied(#[from] Denied),
    #[error("{0}")]
    Refused(io::Error),
    #[error("no connection within {} s", CONNECT_DEADLINE.as_secs())]
    NotInTime,
    #[error("TLS handshake: {0}")]
    Handshake(io::Error),
    #[error("TLS handshake not done within {} s", HANDSHAKE_DEADLINE.as_secs())]
    HandshakeNotInTime,
}

pub(super) struct Dialer {
    policy: Arc<EgressPolicy>,
    names: Names,
    tls: TlsConnector,
}

impl Dialer {
    pub(super) fn new(policy: Arc<EgressPolicy>, tls: rustls::ClientConfig) -> Self {
        Self { policy, names: Names::of_this_machine(), tls: TlsConnector::from(Arc::new(tls)) }
    }

    pub(super) async fn dial(&self, uri: &Uri) -> Result<Link, NotReached> {
        let is_tls = uri.scheme() == Some(&http::uri::Scheme::HTTPS);
        let host = uri.host().unwrap_or_default().trim_start_matches('[').trim_end_matches(']');
        let port = uri.port_u16().unwrap_or(if is_tls { 443 } else { 80 });
        let addresses: Arc<[IpAddr]> = match host.parse::<IpAddr>() {
            Ok(address) => Arc::new([address]),
            Err(_) => self.names.resolve(host).await?,
        };
        self.policy.check_all(&addresses)?;
        let connecting = tokio::time::timeout(CONNECT_DEADLINE, connect(&addresses, port));
        let stream = connecting.await.map_err(|_| NotReached::NotInTime)?.map_err(NotReached::Refused)?;
        let meter = Meter::new();
        let stream = Metered { stream, meter: meter.clone() };
        if !is_tls {
            meter.connected(false);
            return Ok(Link { stream: Stream::Plain(stream), meter });
        }
        let not_a_name = |_| NotReached::Handshake(io::Error::other("no certificate can be for this name"));
        let name = ServerName::try_from(host.to_owned()).map_err(not_a_name)?;
        let shaking = tokio::time::timeout(HANDSHAKE_DEADLINE, self.tls.connect(name, stream)).await;
        let stream = shaking.map_err(|_| NotReached::HandshakeNotInTime)?.map_err(NotReached::Handshake)?;
        meter.connected(stream.get_ref().1.alpn_protocol() == Some(b"h2"));
        Ok(Link { stream: Stream::Tls(Box::new(stream)), meter })
    }
}

/// The first of the addresses that answers.
async fn connect(addresses: &[IpAddr], port: u16) -> io::Result<TcpStream> {
    let mut rest = addresses.iter().take(MOST_ADDRESSES);
    let mut attempts = FuturesUnordered::new();
    let mut failed = None;
    loop {
        match rest.next() {
            Some(address) => attempts.push(TcpStream::connect(SocketAddr::new(*address, port))),
            None if attempts.is_empty() => {
                return Err(failed.unwrap_or_else(|| io::Error::other("there is no address")));
            }
            None => {}
        }
        tokio::select! {
            Some(tried) = attempts.next() => match tried {
                Ok(stream) => {
                    prepare(&stream);
                    return Ok(stream);
                }
                Err(error) => failed = Some(error),
            },
            () = tokio::time::sleep(STAGGER), if rest.len() > 0 => {}
        }
    }
}

fn prepare(stream: &TcpStream) {
    let keepalive =
        socket2::TcpKeepalive::new().with_time(KEEPALIVE).with_interval(KEEPALIVE).with_retries(3);
    let set =
        stream.set_nodelay(true).and_then(|()| socket2::SockRef::from(stream).set_tcp_keepalive(&keepalive));
    if let Err(error) = set {
        tracing::debug!(%error, "a connection could not be set up as it should");
    }
}

/// A connection to a receiver.
pub(super) struct Link {
    stream: Stream,
    meter: Meter,
}

enum Stream {
    Plain(Metered<TcpStream>),
    Tls(Box<TlsStream<Metered<TcpStream>>>),
}

impl Link {
    pub(super) fn meter(&self) -> &Meter {
        &self.meter
    }
}

/// Hands a call on to whichever stream it is.
macro_rules! either {
    ($self:ident, $stream:ident => $call:expr) => {
        match &mut $self.get_mut().stream {
            Stream::Plain(plain) => {
                let $stream = Pin::new(plain);
                $call
            }
            Stream::Tls(tls) => {
                let $stream = Pin::new(tls);
                $call
            }
        }
    };
}

impl AsyncRead for Link {
    fn poll_read(
        self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        either!(self, stream => stream.poll_read(context, buffer))
    }
}

impl AsyncWrite for Link {
    fn poll_write(self: Pin<&mut Self>, context: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        either!(self, stream => stream.poll_write(context, bytes))
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        context: &mut Context<'_>,
        slices: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        either!(self, stream => stream.poll_write_vectored(context, slices))
    }

    fn is_write_vectored(&self) -> bool {
        true
    }

    fn poll_flush(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        either!(self, stream => stream.poll_flush(context))
    }

    fn poll_shutdown(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        either!(self, stream => stream.poll_shutdown(context))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::VecDeque;
    use std::net::{Ipv4Addr, TcpListener};
    use std::sync::Mutex;

    /// A dialer that may reach 127.0.0.0/28, and whose names answer this list after list.
    fn dialer(answers: Vec<Vec<IpAddr>>) -> Dialer {
        let answers = Mutex::new(VecDeque::from(answers));
        let names = Names::looked_up_by(move |_| Ok(answers.lock().unwrap().pop_front().unwrap()));
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let tls = rustls::ClientConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()
            .unwrap()
            .with_root_certificates(rustls::RootCertStore::empty())
            .with_no_client_auth();
        let policy = Arc::new(EgressPolicy::new(vec!["127.0.0.0/28".parse().unwrap()]));
        Dialer { names, ..Dialer::new(policy, tls) }
    }

    fn address(last: u8) -> IpAddr {
        Ipv4Addr::new(127, 0, 0, last).into()
    }

    /// Listeners at these addresses of loopback, all with one port; they never wait.
    fn listeners<const N: usize>(at: [u8; N]) -> ([TcpListener; N], u16) {
        loop {
            let first = TcpListener::bind((address(at[0]), 0)).unwrap();
            let port = first.local_addr().unwrap().port();
            let rest = at[1..].iter().filter_map(|last| TcpListener::bind((address(*last), port)).ok());
            let all: Vec<_> = std::iter::once(first).chain(rest).collect();
            if let Ok(all) = <[TcpListener; N]>::try_from(all) {
                all.iter().for_each(|listener| listener.set_nonblocking(true).unwrap());
                return (all, port);
            }
        }
    }

    /// Whether somebody has connected by now.
    fn was_reached(listener: &TcpListener) -> bool {
        listener.accept().is_ok()
    }

    fn uri(port: u16) -> Uri {
        format!("http://receiver.example:{port}/hook").parse().unwrap()
    }

    #[tokio::test]
    async fn one_forbidden_address_among_allowed_ones_spoils_the_name() {
        let ([allowed, forbidden], port) = listeners([1, 77]);
        for (answer, why) in [
            (vec![address(1), address(77)], "127.0.0.77 is a loopback address"),
            (vec![address(77), address(1)], "127.0.0.77 is a loopback address"),
            (vec![address(1), "169.254.169.254".parse().unwrap()], "a cloud metadata address"),
            (vec![address(1), "::ffff:10.0.0.1".parse().unwrap()], "a private address"),
        ] {
            let error = dialer(vec![answer]).dial(&uri(port)).await.err().unwrap();
            assert!(matches!(error, NotReached::Denied(_)), "{error}");
            assert!(error.to_string().contains(why), "{error}");
        }
        assert!(!was_reached(&allowed), "not even the allowed one");
        assert!(!was_reached(&forbidden));
    }

    #[tokio::test]
    async fn a_name_that_rebinds_is_judged_at_each_connection_and_dialled_as_it_was_judged() {
        let ([allowed, forbidden], port) = listeners([1, 77]);
        let dialer = dialer(vec![vec![address(1)], vec![address(77)], vec![address(1)]]);
        let link = dialer.dial(&uri(port)).await.ok().unwrap();
        let Stream::Plain(plain) = &link.stream else { panic!("no TLS was asked for") };
        assert_eq!(plain.stream.peer_addr().unwrap(), allowed.local_addr().unwrap());
        // Asked once: a second answer, between the judgement and the connection, is never heard.
        assert!(matches!(dialer.dial(&uri(port)).await, Err(NotReached::Denied(_))));
        assert!(dialer.dial(&uri(port)).await.is_ok(), "the third answer is allowed again");
        assert!(!was_reached(&forbidden));
    }

    #[tokio::test]
    async fn of_a_hundred_addresses_eight_are_tried() {
        let ([good], port) = listeners([9]);
        // Nobody listens at the others with this port, so each refuses at once.
        let dead = (0..100).map(|n| address(1 + n % 8));
        let good_within: Vec<IpAddr> = dead.clone().take(7).chain([address(9)]).chain(dead.clone()).collect();
        assert!(dialer(vec![good_within]).dial(&uri(port)).await.is_ok());
        assert!(was_reached(&good));
        let good_beyond: Vec<IpAddr> = dead.chain([address(9)]).collect();
        let error = dialer(vec![good_beyond]).dial(&uri(port)).await.err().unwrap();
        assert!(matches!(error, NotReached::Refused(_)), "{error}");
        assert!(!was_reached(&good));
    }

    #[tokio::test]
    async fn an_address_in_a_url_is_judged_too() {
        for url in
            ["http://169.254.169.254/latest/meta-data", "http://[::ffff:127.0.0.77]/", "https://10.0.0.1/"]
        {
            let error = dialer(Vec::new()).dial(&url.parse().unwrap()).await.err().unwrap();
            assert!(matches!(error, NotReached::Denied(_)), "{url}: {error}");
        }
    }
}
