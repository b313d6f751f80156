//! Credentials that a receiver wants to see: what the `authorization` header of a delivery says. Kept sealed,
//! as the header's value, and never shown again but for a user's name.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;

/// Of the header's value.
const LONGEST: usize = 1024;
/// Of a username and of a password, in characters.
const LONGEST_PART: usize = 300;

#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum InvalidCredentials {
    #[error("must have a username without a colon and a password, each without control characters")]
    Basic,
    #[error("must have a token of visible ASCII")]
    Bearer,
    #[error("must be at most {LONGEST} bytes, the username and the password {LONGEST_PART} characters each")]
    TooLong,
}

/// Value of an `authorization` header (RFC 7617, RFC 6750).
#[derive(Clone, PartialEq, Eq)]
pub struct Credentials(String);

/// What may be shown of credentials.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Shown {
    Basic { username: String },
    Bearer,
}

impl Credentials {
    /// # Errors
    /// The parts don't make a header.
    pub fn basic(username: &str, password: &str) -> Result<Self, InvalidCredentials> {
        let is_plain = |text: &str| !text.chars().any(char::is_control);
        if username.is_empty() || username.contains(':') || !is_plain(username) || !is_plain(password) {
            return Err(InvalidCredentials::Basic);
        }
        if [username, password].iter().any(|part| part.chars().count() > LONGEST_PART) {
            return Err(InvalidCredentials::TooLong);
        }
        Self::bounded(format!("Basic {}", STANDARD.encode(format!("{username}:{password}"))))
    }

    /// # Errors
    /// The token doesn't make a header.
    pub fn bearer(token: &str) -> Result<Self, InvalidCredentials> {
        if token.is_empty() || !token.bytes().all(|byte| byte.is_ascii_graphic()) {
            return Err(InvalidCredentials::Bearer);
        }
        Self::bounded(format!("Bearer {token}"))
    }

    fn bounded(value: String) -> Result<Self, InvalidCredentials> {
        if value.len() > LONGEST { Err(InvalidCredentials::TooLong) } else { Ok(Self(value)) }
    }

    /// What is sealed, and sent.
    pub fn expose(&self) -> &str {
        &self.0
    }

    /// What may be shown of a value that was opened.
    pub fn shown(value: &[u8]) -> Option<Shown> {
        let text = std::str::from_utf8(value).ok()?;
        let Some(encoded) = text.strip_prefix("Basic ") else { return Some(Shown::Bearer) };
        let pair = String::from_utf8(STANDARD.decode(encoded).ok()?).ok()?;
        let (username, _) = pair.split_once(':')?;
        Some(Shown::Basic { username: username.to_owned() })
    }
}

impl std::fmt::Debug for Credentials {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Credentials(***)")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn credentials_become_a_header_of_which_little_is_shown() {
        let basic = Credentials::basic("Aladdin", "open sesame").unwrap();
        assert_eq!(basic.expose(), "Basic QWxhZGRpbjpvcGVuIHNlc2FtZQ==");
        let shown = Credentials::shown(basic.expose().as_bytes());
        assert_eq!(shown, Some(Shown::Basic { username: "Aladdin".into() }));
        let bearer = Credentials::bearer("abc").unwrap();
        assert_eq!(bearer.expose(), "Bearer abc");
        assert_eq!(Credentials::shown(b"Bearer abc"), Some(Shown::Bearer));
        assert_eq!(format!("{basic:?}"), "Credentials(***)");
    }

    #[test]
    fn what_would_break_a_header_is_refused() {
        for (username, password) in [("", "p"), ("a:b", "p"), ("a\n", "p"), ("a", "p\0")] {
            assert_eq!(Credentials::basic(username, password), Err(InvalidCredentials::Basic));
        }
        for token in ["", "a b", "a\r\nb", "é"] {
            assert_eq!(Credentials::bearer(token), Err(InvalidCredentials::Bearer), "{token:?}");
        }
        assert_eq!(Credentials::bearer(&"x".repeat(1020)), Err(InvalidCredentials::TooLong));
    }
}
