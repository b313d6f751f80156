//! The one HTTP client of all deliveries: no redirects, no proxies from the environment, no decompression,
//! and no connection to an address that the egress policy forbids. Names are resolved by [`Guard`], and the
//! client dials exactly what that answers, so a name that changes its address in between gains nothing.
//! Addresses in URLs are never resolved: [`crate::deliver`] asks the policy for them before each request.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use eventrail_core::egress::EgressPolicy;
use reqwest::dns::{Addrs, Name, Resolve, Resolving};

/// Idle connections kept for each receiver.
const IDLE_CONNECTIONS: usize = 128;
const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);
const RESOLVE_TIMEOUT: Duration = Duration::from_secs(5);

/// The host's name has no address that could be found.
#[derive(Debug, thiserror::Error)]
#[error("{0}")]
pub(crate) struct Unresolved(String);

struct Guard(Arc<EgressPolicy>);

impl Resolve for Guard {
    fn resolve(&self, name: Name) -> Resolving {
        let policy = Arc::clone(&self.0);
        Box::pin(async move {
            let lookup = tokio::net::lookup_host((name.as_str(), 0));
            let found = match tokio::time::timeout(RESOLVE_TIMEOUT, lookup).await {
                Ok(Ok(found)) => found.collect::<Vec<SocketAddr>>(),
                Ok(Err(error)) => return Err(Unresolved(error.to_string()).into()),
                Err(_) => return Err(Unresolved("no answer in time".into()).into()),
            };
            if found.is_empty() {
                return Err(Unresolved("no addresses".into()).into());
            }
            let addresses: Vec<_> = found.iter().map(SocketAddr::ip).collect();
            policy.check_all(&addresses)?;
            Ok(Box::new(found.into_iter()) as Addrs)
        })
    }
}

/// # Errors
/// The TLS set-up is unusable.
pub(crate) fn build(policy: Arc<EgressPolicy>) -> anyhow::Result<reqwest::Client> {
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
    let client = reqwest::Client::builder()
        .tls_backend_preconfigured(tls)
        .dns_resolver(Guard(policy))
        .redirect(reqwest::redirect::Policy::none())
        .retry(reqwest::retry::never())
        .no_proxy()
        .referer(false)
        .connect_timeout(CONNECT_TIMEOUT)
        .pool_max_idle_per_host(IDLE_CONNECTIONS)
        .pool_idle_timeout(Duration::from_secs(60))
        .http1_max_headers(100)
        .http2_keep_alive_interval(Duration::from_secs(20))
        .http2_keep_alive_timeout(Duration::from_secs(10))
        .build()?;
    Ok(client)
}
