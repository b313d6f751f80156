//! Who may ask: one key for everything (`ADMIN_TOKEN`), or anybody where the API is open.

use std::net::SocketAddr;

use axum::extract::{Request, State};
use axum::http::header::AUTHORIZATION;
use axum::middleware::Next;
use axum::response::{IntoResponse as _, Response};
use eventrail_core::config::{ApiConfig, Auth};
use sha2::{Digest as _, Sha256};
use subtle::ConstantTimeEq as _;

use crate::Api;
use crate::problem::{Kind, Problem};

/// Paths that answer anybody.
const OPEN: &[&str] = &["/health", "/livez", "/readyz", "/problems", "/openapi.json"];

pub(crate) fn is_open(path: &str) -> bool {
    OPEN.contains(&path)
}

/// Whom the API lets in.
#[derive(Clone)]
pub(crate) enum Access {
    /// Anybody who reaches the address.
    Open,
    /// Who has the key with this SHA-256.
    Key([u8; 32]),
}

impl Access {
    /// # Errors
    /// The API would be open to a network, and nobody said that it may be.
    pub(crate) fn decide(config: &ApiConfig, admin_token: Option<&str>) -> anyhow::Result<Self> {
        match (config.auth, admin_token) {
            (Auth::Off, _) => Ok(Self::Open),
            (Auth::On, Some(token)) => Ok(Self::Key(Sha256::digest(token).into())),
            (Auth::On, None) if is_private(config.listen) => Ok(Self::Open),
            (Auth::On, None) => anyhow::bail!(
                "LISTEN={} is not loopback: set ADMIN_TOKEN (or AUTH=off to let anybody in)",
                config.listen
            ),
        }
    }

    /// Compares digests, so that the time it takes tells neither the key nor its length.
    fn admits(&self, authorization: Option<&[u8]>) -> bool {
        let Self::Key(expected) = self else { return true };
        let given = authorization.and_then(bearer).unwrap_or_default();
        let digest: [u8; 32] = Sha256::digest(given).into();
        digest.ct_eq(expected).into()
    }
}

fn is_private(listen: SocketAddr) -> bool {
    listen.ip().to_canonical().is_loopback()
}

fn bearer(authorization: &[u8]) -> Option<&[u8]> {
    let (scheme, token) = authorization.split_at_checked(7)?;
    scheme.eq_ignore_ascii_case(b"bearer ").then(|| token.trim_ascii())
}

pub(crate) async fn authenticate(State(api): State<Api>, request: Request, next: Next) -> Response {
    let given = request.headers().get(AUTHORIZATION).map(|value| value.as_bytes());
    if is_open(request.uri().path()) || api.access.admits(given) {
        return next.run(request).await;
    }
    Problem::new(Kind::Unauthorized, "Send a known key as `Authorization: Bearer …`").into_response()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn config(listen: &str, auth: Auth) -> ApiConfig {
        ApiConfig { listen: listen.parse().unwrap(), auth, max_event_bytes: 1024, max_batch_bytes: 1024 }
    }

    #[test]
    fn without_a_token_only_loopback_is_open() {
        for listen in ["127.0.0.1:1", "127.8.0.1:1", "[::1]:1", "[::ffff:127.0.0.1]:1"] {
            assert!(Access::decide(&config(listen, Auth::On), None).is_ok(), "{listen}");
        }
        for listen in ["0.0.0.0:1", "[::]:1", "10.0.0.1:1"] {
            let error = Access::decide(&config(listen, Auth::On), None).err().unwrap();
            assert!(error.to_string().contains("ADMIN_TOKEN"), "{error}");
            assert!(Access::decide(&config(listen, Auth::Off), None).is_ok());
            assert!(Access::decide(&config(listen, Auth::On), Some("token")).is_ok());
        }
    }

    #[test]
    fn only_the_token_is_admitted() {
        let access = Access::decide(&config("0.0.0.0:1", Auth::On), Some("token")).unwrap();
        assert!(access.admits(Some(b"Bearer token")));
        assert!(access.admits(Some(b"bearer  token ")));
        for wrong in [
            None,
            Some(&b"token"[..]),
            Some(b"Bearer"),
            Some(b"Bearer "),
            Some(b"Bearer tokens"),
            Some(b"Basic token"),
        ] {
            assert!(!access.admits(wrong), "{wrong:?}");
        }
    }
}
