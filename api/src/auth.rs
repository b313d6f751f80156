//! Who asks. Each request is either open to all, or brings a key: `ADMIN_TOKEN`, or one that was made over the
//! API. What the caller may do is decided by [`crate::caller`].

use std::net::SocketAddr;

use axum::extract::{Request, State};
use axum::http::header::AUTHORIZATION;
use axum::middleware::Next;
use axum::response::{IntoResponse as _, Response};
use chrono::Utc;
use eventrail_core::config::{ApiConfig, Auth};
use eventrail_core::key::{self, KeyHash, NewKey};
use subtle::ConstantTimeEq as _;

use crate::Api;
use crate::caller::{Caller, Who};
use crate::keyring::Found;
use crate::problem::{Kind, Problem};
use crate::server::Peer;

/// Paths that answer anybody.
const OPEN: &[&str] = &["/health", "/livez", "/readyz", "/problems", "/openapi.json", "/docs"];

/// Whom the API lets in.
#[derive(Clone)]
pub(crate) enum Access {
    /// Anybody who reaches the address.
    Open,
    /// Who has a key; the first is the one with this hash (`ADMIN_TOKEN`).
    Keys { admin: KeyHash },
}

impl Access {
    /// # Errors
    /// The API would be open to a network, and nobody said that it may be.
    pub(crate) fn decide(config: &ApiConfig, admin_token: Option<&str>) -> anyhow::Result<Self> {
        match (config.auth, admin_token) {
            (Auth::Off, _) => Ok(Self::Open),
            (Auth::On, Some(token)) => Ok(Self::Keys { admin: key::hash(token.as_bytes()) }),
            (Auth::On, None) if is_private(config.listen) => Ok(Self::Open),
            (Auth::On, None) => anyhow::bail!(
                "LISTEN={} is not loopback: set ADMIN_TOKEN (or AUTH=off to let anybody in)",
                config.listen
            ),
        }
    }
}

fn is_private(listen: SocketAddr) -> bool {
    listen.ip().to_canonical().is_loopback()
}

/// Whether a path, or the pattern of a route, needs no key.
pub(crate) fn is_open(path: &str) -> bool {
    OPEN.contains(&path) || path.starts_with("/docs/")
}

fn bearer(authorization: &[u8]) -> Option<&[u8]> {
    let (scheme, token) = authorization.split_at_checked(7)?;
    let token = token.trim_ascii();
    (scheme.eq_ignore_ascii_case(b"bearer ") && !token.is_empty()).then_some(token)
}

pub(crate) async fn authenticate(State(api): State<Api>, mut request: Request, next: Next) -> Response {
    if is_open(request.uri().path()) {
        return next.run(request).await;
    }
    let given = request.headers().get(AUTHORIZATION).and_then(|value| bearer(value.as_bytes()));
    match identify(&api, given).await {
        Ok(who) => {
            let address = request.extensions().get::<Peer>().map(|peer| peer.0);
            request.extensions_mut().insert(Caller::new(who, address));
            next.run(request).await
        }
        Err(problem) => problem.into_response(),
    }
}

/// Compares hashes, in constant time, so that the time it takes tells neither a key nor its length.
async fn identify(api: &Api, given: Option<&[u8]>) -> Result<Who, Problem> {
    let Access::Keys { admin } = &api.access else { return Ok(Who::Anonymous) };
    let unknown = || Problem::new(Kind::Unauthorized, "Send a known key as `Authorization: Bearer …`");
    let token = given.ok_or_else(unknown)?;
    let given = key::hash(token);
    if bool::from(given.ct_eq(admin)) {
        return Ok(Who::Admin);
    }
    if !NewKey::is_like(token) {
        return Err(unknown());
    }
    match api.keyring.admit(&given).await? {
        Found::Key(key) if bool::from(given.ct_eq(key.hash())) && !key.is_expired(Utc::now()) => {
            Ok(Who::Key(key))
        }
        Found::TooFast(wait) => Err(Problem::too_fast(wait)),
        Found::Key(_) | Found::Nothing => Err(unknown()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn config(listen: &str, auth: Auth) -> ApiConfig {
        ApiConfig {
            listen: listen.parse().unwrap(),
            auth,
            max_event_bytes: 1024,
            max_batch_bytes: 1024,
            max_connections: 16,
        }
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
    fn only_a_bearer_brings_a_key() {
        assert_eq!(bearer(b"Bearer token"), Some(&b"token"[..]));
        assert_eq!(bearer(b"bearer  token "), Some(&b"token"[..]));
        for other in [&b"token"[..], b"Bearer", b"Bearer ", b"Bearer   ", b"Basic token"] {
            assert_eq!(bearer(other), None, "{other:?}");
        }
    }
}
