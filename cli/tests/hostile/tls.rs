//! Receivers whose TLS is broken, each by a handshake of its own.

use std::sync::Arc;
use std::sync::atomic::AtomicU64;

use rcgen::{BasicConstraints, CertificateParams, DnType, IsCa, Issuer, KeyPair, date_time_ymd};
use rustls::ServerConfig;
use rustls::pki_types::PrivateKeyDer;
use tokio::io::AsyncReadExt as _;
use tokio::net::TcpStream;
use tokio_rustls::TlsAcceptor;
use tokio_rustls::server::TlsStream;

use crate::table::{Hostile, answered, failed, try_all};
use crate::wire::{Server, Wire};

/// An authority that dispatchers are told to trust.
pub(crate) struct Authority {
    issuer: Issuer<'static, KeyPair>,
    directory: std::path::PathBuf,
}

/// How a certificate is, or is not, what it should be.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Certificate {
    Good,
    Expired,
    NotYetValid,
    SelfSigned,
    OtherName,
}

impl Authority {
    pub(crate) fn new() -> Self {
        let mut params = CertificateParams::new(Vec::new()).unwrap();
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        params.distinguished_name.push(DnType::CommonName, "an authority");
        let key = KeyPair::generate().unwrap();
        let certificate = params.self_signed(&key).unwrap();
        let random = KeyPair::generate().unwrap().serialize_der();
        let name: String = random[60..76].iter().map(|byte| format!("{byte:02x}")).collect();
        let directory = std::env::temp_dir().join(format!("eventrail-test-authority-{name}"));
        std::fs::create_dir(&directory).unwrap();
        std::fs::write(directory.join("roots.pem"), certificate.pem()).unwrap();
        Self { issuer: Issuer::new(params, key), directory }
    }

    /// The file that `SSL_CERT_FILE` names.
    pub(crate) fn file(&self) -> String {
        self.directory.join("roots.pem").to_str().unwrap().to_owned()
    }

    /// For 127.0.0.1, unless it is wrong on purpose.
    pub(crate) fn acceptor(&self, kind: Certificate, protocols: &[&str]) -> TlsAcceptor {
        let name = if kind == Certificate::OtherName { "other.example" } else { "127.0.0.1" };
        let mut params = CertificateParams::new(vec![name.to_owned()]).unwrap();
        match kind {
            Certificate::Expired => params.not_after = date_time_ymd(2001, 1, 1),
            Certificate::NotYetValid => params.not_before = date_time_ymd(3000, 1, 1),
            _ => {}
        }
        let key = KeyPair::generate().unwrap();
        let certificate = match kind {
            Certificate::SelfSigned => params.self_signed(&key).unwrap(),
            _ => params.signed_by(&key, &self.issuer).unwrap(),
        };
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let mut config = ServerConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()
            .unwrap()
            .with_no_client_auth()
            .with_single_cert(
                vec![certificate.der().clone()],
                PrivateKeyDer::try_from(key.serialize_der()).unwrap(),
            )
            .unwrap();
        config.alpn_protocols = protocols.iter().map(|protocol| protocol.as_bytes().to_vec()).collect();
        TlsAcceptor::from(Arc::new(config))
    }

    /// A server that speaks TLS well, and then does this; what is counted is beneath the TLS.
    pub(crate) fn server<F, Fut>(&self, kind: Certificate, protocols: &[&str], act: F) -> Server
    where
        F: Fn(Wire<TlsStream<TcpStream>>) -> Fut + Clone + Send + 'static,
        Fut: Future<Output = std::io::Result<()>> + Send + 'static,
    {
        let acceptor = self.acceptor(kind, protocols);
        Server::start(move |wire| {
            let (acceptor, act) = (acceptor.clone(), act.clone());
            async move {
                let written: Arc<AtomicU64> = Arc::clone(&wire.written);
                let stream = acceptor.accept(wire.stream).await?;
                act(Wire { stream, written }).await
            }
        })
    }
}

impl Drop for Authority {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.directory);
    }
}

#[tokio::test]
async fn receivers_with_broken_tls_are_told_apart() {
    let authority = Authority::new();
    let with = |kind| {
        authority.server(kind, &["http/1.1"], |mut wire| async move {
            loop {
                wire.request().await?;
                wire.send(b"HTTP/1.1 204 No Content\r\n\r\n").await?;
            }
        })
    };
    let stalls = || Server::start(|mut wire| async move { wire.rest().await });
    let drips = Server::start(|mut wire| async move {
        // The head of a ServerHello record of 16 KiB, and then its content.
        wire.drip(&[0x16, 3, 3, 0x40, 0]).await?;
        wire.drip(&[2; 600]).await
    });
    let hangs_up = Server::start(|mut wire| async move { wire.stream.read_u8().await.map(|_| ()) });
    let alerts = Server::start(|mut wire| async move {
        wire.stream.read_u8().await?;
        // A fatal alert: handshake_failure.
        wire.send(&[0x15, 3, 3, 0, 2, 2, 40]).await?;
        wire.rest().await
    });
    let plain = Server::start(|mut wire| async move {
        wire.stream.read_u8().await?;
        wire.send(b"HTTP/1.1 400 Bad Request\r\ncontent-length: 0\r\n\r\n").await?;
        wire.rest().await
    });
    let floods = Server::start(|mut wire| async move {
        wire.stream.read_u8().await?;
        // A handshake message of 16 MiB, in records of 16 KiB.
        let mut record = vec![0x16, 3, 3, 0x40, 0, 2, 0xff, 0xff, 0xff];
        record.resize(5 + (16 << 10), 0);
        wire.send_for_ever(&record).await
    });
    let all = vec![
        Hostile::new("a good certificate", with(Certificate::Good), answered(204, "")),
        Hostile::new("an expired certificate", with(Certificate::Expired), failed("tls", "expired")),
        Hostile::new(
            "a certificate of the future",
            with(Certificate::NotYetValid),
            failed("tls", "not valid yet"),
        ),
        Hostile::new(
            "a self-signed certificate",
            with(Certificate::SelfSigned),
            failed("tls", "UnknownIssuer"),
        ),
        Hostile::new(
            "another's certificate",
            with(Certificate::OtherName),
            failed("tls", "not valid for name"),
        ),
        Hostile::new("TLS that stalls", stalls(), failed("timeout", "no connection within 4000 ms")),
        Hostile::new(
            "TLS that stalls, with patience",
            stalls(),
            failed("timeout", "TLS handshake not done within 5 s"),
        )
        .with_timeout(20_000),
        Hostile::new("TLS a byte a second", drips, failed("timeout", "no connection within 4000 ms")),
        Hostile::new("hangs up in the handshake", hangs_up, failed("tls", "handshake")),
        Hostile::new("refuses the handshake", alerts, failed("tls", "HandshakeFailure")),
        Hostile::new("plain HTTP where TLS should be", plain, failed("tls", "TLS handshake")),
        Hostile::new("an endless handshake", floods, failed("tls", "TLS handshake")),
    ];
    let all = all.into_iter().map(Hostile::with_tls).collect();
    try_all(all, 2, &[("SSL_CERT_FILE", &authority.file())]).await;
}
