//! The hostile endpoints: raw servers, on threads of their own so that they take nothing from who posts and receives.

use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use rcgen::{BasicConstraints, CertificateParams, IsCa, Issuer, KeyPair};
use rustls::pki_types::PrivateKeyDer;
use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpSocket, TcpStream};
use tokio_rustls::TlsAcceptor;

pub(super) struct Kind {
    pub(super) name: &'static str,
    act: Act,
}

#[derive(Clone, Copy)]
enum Act {
    NeverAccept,
    NeverRead,
    /// A byte a second, after the beginning.
    Drip(&'static str),
    /// The beginning, and then again and again.
    Flood(&'static str, &'static str),
    Answer(&'static str),
    Reset,
    Handshake,
    SelfSigned,
    /// HTTP/2: these frames for the first request's stream, or on for ever.
    Frames(u8, bool),
}

const fn kind(name: &'static str, act: Act) -> Kind {
    Kind { name, act }
}

const GOAWAY: u8 = 7;
const RST_STREAM: u8 = 3;
const PING: u8 = 6;

pub(super) const KINDS: &[Kind] = &[
    kind("never accepts", Act::NeverAccept),
    kind("accepts and never reads", Act::NeverRead),
    kind("sends its head a byte a second", Act::Drip("")),
    kind("sends its body a byte a second", Act::Drip("HTTP/1.1 200 OK\r\ncontent-length: 99\r\n\r\n")),
    kind(
        "sends an endless body",
        Act::Flood("HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n", "8\r\nxxxxxxxx\r\n"),
    ),
    kind(
        "sends a huge head",
        Act::Flood("HTTP/1.1 200 OK\r\nx: ", "yyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyy"),
    ),
    kind("sends a storm of 1xx", Act::Flood("", "HTTP/1.1 103 Early Hints\r\nlink: </x>\r\n\r\n")),
    kind(
        "sends broken chunks",
        Act::Answer("HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\nxyz\r\nxyz\r\n"),
    ),
    kind(
        "redirects to the metadata address",
        Act::Answer("HTTP/1.1 307 X\r\nlocation: http://169.254.169.254/\r\ncontent-length: 0\r\n\r\n"),
    ),
    kind("says 500", Act::Answer("HTTP/1.1 500 X\r\ncontent-length: 0\r\n\r\n")),
    kind(
        "asks for an absurd delay",
        Act::Answer("HTTP/1.1 503 X\r\nretry-after: 99999999999999999999\r\ncontent-length: 0\r\n\r\n"),
    ),
    kind("resets after the request", Act::Reset),
    kind("stalls in the TLS handshake", Act::Handshake),
    kind("has a self-signed certificate", Act::SelfSigned),
    kind("sends GOAWAY", Act::Frames(GOAWAY, false)),
    kind("sends a flood of RST_STREAM", Act::Frames(RST_STREAM, true)),
    kind("sends a flood of PING", Act::Frames(PING, true)),
];

/// Certificates for 127.0.0.1: one of an authority that the dispatcher trusts, one of nobody's.
pub(super) struct Tls {
    trusted: TlsAcceptor,
    self_signed: TlsAcceptor,
    directory: PathBuf,
}

impl Tls {
    pub(super) fn new() -> anyhow::Result<Self> {
        let mut authority = CertificateParams::new(Vec::new())?;
        authority.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        let authority_key = KeyPair::generate()?;
        let root = authority.self_signed(&authority_key)?;
        let issuer = Issuer::new(authority, authority_key);
        let leaf = CertificateParams::new(vec!["127.0.0.1".to_owned()])?;
        let key = KeyPair::generate()?;
        let acceptor = |certificate: &rcgen::Certificate, protocol: &str| -> anyhow::Result<TlsAcceptor> {
            let chain = vec![certificate.der().clone()];
            let key = PrivateKeyDer::try_from(key.serialize_der()).map_err(anyhow::Error::msg)?;
            let mut config =
                rustls::ServerConfig::builder().with_no_client_auth().with_single_cert(chain, key)?;
            config.alpn_protocols = vec![protocol.as_bytes().to_vec()];
            Ok(TlsAcceptor::from(Arc::new(config)))
        };
        let directory = std::env::temp_dir().join(format!("eventrail-bench-roots-{}", std::process::id()));
        std::fs::create_dir_all(&directory)?;
        std::fs::write(directory.join("roots.pem"), root.pem())?;
        Ok(Self {
            trusted: acceptor(&leaf.signed_by(&key, &issuer)?, "h2")?,
            self_signed: acceptor(&leaf.self_signed(&key)?, "http/1.1")?,
            directory,
        })
    }

    /// The file with the authority's certificate.
    pub(super) fn roots(&self) -> String {
        self.directory.join("roots.pem").display().to_string()
    }
}

impl Drop for Tls {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.directory);
    }
}

/// A hostile endpoint, until it is dropped.
pub(super) struct Neighbour {
    pub(super) url: String,
    connections: Arc<AtomicU64>,
    runtime: Option<tokio::runtime::Runtime>,
    /// What fills the queue of one that never accepts.
    _queue: Vec<TcpStream>,
}

impl Neighbour {
    pub(super) async fn start(kind: &Kind, tls: &Tls) -> anyhow::Result<Self> {
        let act = kind.act;
        let socket = TcpSocket::new_v4()?;
        socket.bind(([127, 0, 0, 1], 0).into())?;
        let listener = socket.listen(if matches!(act, Act::NeverAccept) { 1 } else { 1024 })?;
        let address = listener.local_addr()?;
        let acceptor = match act {
            Act::SelfSigned => Some(tls.self_signed.clone()),
            Act::Frames(..) => Some(tls.trusted.clone()),
            _ => None,
        };
        let scheme = if acceptor.is_some() || matches!(act, Act::Handshake) { "https" } else { "http" };
        let mut queue = Vec::new();
        if matches!(act, Act::NeverAccept) {
            let full = Duration::from_millis(300);
            while let Ok(queued) = tokio::time::timeout(full, TcpStream::connect(address)).await {
                queue.push(queued?);
            }
        }
        let connections = Arc::new(AtomicU64::new(0));
        let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build()?;
        let listener = listener.into_std()?;
        runtime.spawn(serve(listener, act, acceptor, Arc::clone(&connections)));
        Ok(Self {
            url: format!("{scheme}://{address}/hook"),
            connections,
            runtime: Some(runtime),
            _queue: queue,
        })
    }

    pub(super) fn connections(&self) -> u64 {
        self.connections.load(Ordering::Relaxed)
    }
}

impl Drop for Neighbour {
    fn drop(&mut self) {
        if let Some(runtime) = self.runtime.take() {
            runtime.shutdown_background();
        }
    }
}

async fn serve(
    listener: std::net::TcpListener,
    act: Act,
    acceptor: Option<TlsAcceptor>,
    connections: Arc<AtomicU64>,
) -> std::io::Result<()> {
    let listener = TcpListener::from_std(listener)?;
    if matches!(act, Act::NeverAccept) {
        std::future::pending::<()>().await;
    }
    loop {
        let (stream, _) = listener.accept().await?;
        connections.fetch_add(1, Ordering::Relaxed);
        let acceptor = acceptor.clone();
        tokio::spawn(async move {
            match acceptor {
                Some(acceptor) => behave(acceptor.accept(stream).await?, act).await,
                None if matches!(act, Act::Reset) => {
                    let mut stream = stream;
                    let _ = stream.read_u8().await?;
                    stream.set_zero_linger()
                }
                None => behave(stream, act).await,
            }
        });
    }
}

async fn behave(mut stream: impl AsyncRead + AsyncWrite + Unpin, act: Act) -> std::io::Result<()> {
    let mut request = vec![0; 16 << 10];
    if matches!(act, Act::NeverRead) {
        std::future::pending::<()>().await;
    }
    let _ = stream.read(&mut request).await?;
    match act {
        Act::Drip(beginning) => {
            stream.write_all(beginning.as_bytes()).await?;
            loop {
                stream.write_all(b"H").await?;
                tokio::time::sleep(Duration::from_secs(1)).await;
            }
        }
        Act::Flood(beginning, rest) => {
            stream.write_all(beginning.as_bytes()).await?;
            let rest = rest.repeat(200);
            loop {
                stream.write_all(rest.as_bytes()).await?;
            }
        }
        Act::Answer(answer) => loop {
            stream.write_all(answer.as_bytes()).await?;
            if stream.read(&mut request).await? == 0 {
                return Ok(());
            }
        },
        Act::Frames(kind, for_ever) => {
            // After our preface its stream is the first: 1.
            let frame: &[u8] = match kind {
                GOAWAY => &[0, 0, 8, GOAWAY, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0],
                RST_STREAM => &[0, 0, 4, RST_STREAM, 0, 0, 0, 0, 1, 0, 0, 0, 8],
                _ => &[0, 0, 8, PING, 0, 0, 0, 0, 0, 1, 2, 3, 4, 5, 6, 7, 8],
            };
            stream.write_all(&[0, 0, 0, 4, 0, 0, 0, 0, 0]).await?;
            // Once something came after the preface, the request is on its way.
            let _ = stream.read(&mut request).await?;
            let frames = if for_ever { frame.repeat(200) } else { frame.to_vec() };
            stream.write_all(&frames).await?;
            loop {
                if for_ever {
                    stream.write_all(&frames).await?;
                }
                let more = tokio::time::timeout(Duration::from_micros(100), stream.read(&mut request)).await;
                if for_ever && more.is_err() {
                    continue;
                }
                if matches!(more, Ok(Ok(0) | Err(_))) {
                    return Ok(());
                }
            }
        }
        _ => std::future::pending().await,
    }
}
