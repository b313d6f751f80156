//! The one HTTP client of all deliveries: no redirects, no proxies, no decompression, no connection to an address
//! that the egress policy forbids, and no more read than an answer may have.
//!
//! [`names`] asks for addresses, [`dial`] judges and connects, [`meter`] counts what comes back. Pooling and both
//! versions of HTTP are hyper's.

mod dial;
mod meter;
mod names;

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use eventrail_core::egress::EgressPolicy;
use http_body_util::Full;
use hyper_util::client::legacy;
use hyper_util::rt::{TokioExecutor, TokioTimer};

pub(crate) use dial::{Dialer, NotReached};
pub(crate) use meter::{MOST_BYTES, Meter, TooMuch};

const MAX_HEADERS: usize = 100;
/// With what is read of an answer in HTTP/2, as much as is ever sent of it.
pub(crate) const H2_STREAM_WINDOW: u32 = MOST_BYTES as u32 / 2;
const H2_CONNECTION_WINDOW: u32 = 512 << 10;
const H2_HEADER_BYTES: u32 = 16 << 10;

pub(crate) type Client = legacy::Client<Dialer, Full<Bytes>>;

/// Of each receiver as many connections rest as requests may be under way: all endpoints of a group may live on one
/// host, and a connection that is closed after its request costs as much as the delivery.
///
/// # Errors
/// The TLS set-up is unusable.
pub(crate) fn build(policy: Arc<EgressPolicy>, most_idle: usize) -> anyhow::Result<Client> {
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
    let client = legacy::Client::builder(TokioExecutor::new())
        .timer(TokioTimer::new())
        .pool_timer(TokioTimer::new())
        .pool_max_idle_per_host(most_idle)
        .pool_idle_timeout(Duration::from_secs(60))
        .http1_max_headers(MAX_HEADERS)
        .http1_max_buf_size(MOST_BYTES)
        .http2_initial_stream_window_size(H2_STREAM_WINDOW)
        .http2_initial_connection_window_size(H2_CONNECTION_WINDOW)
        .http2_max_header_list_size(H2_HEADER_BYTES)
        .http2_keep_alive_interval(Duration::from_secs(20))
        .http2_keep_alive_timeout(Duration::from_secs(10))
        .build(Dialer::new(policy, tls));
    Ok(client)
}
