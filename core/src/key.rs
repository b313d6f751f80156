//! API keys: `er_` and 32 random bytes in base64url. The key is shown once, where it is made; only its hash is
//! kept. It holds as much chance as the hash, so one round of SHA-256, without salt, can't be tried through.

use std::fmt;

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use rand::TryRngCore as _;
use sha2::{Digest as _, Sha256};

pub type KeyHash = [u8; 32];

/// What a key opens.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Role {
    /// Sends events, and reads those of its sources.
    Producer,
    /// Everything about its own groups but making and deleting them.
    Subscriber,
    /// Everything.
    Operator,
}

impl Role {
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Producer => "producer",
            Self::Subscriber => "subscriber",
            Self::Operator => "operator",
        }
    }

    pub fn parse(text: &str) -> Option<Self> {
        [Self::Producer, Self::Subscriber, Self::Operator].into_iter().find(|role| role.as_str() == text)
    }
}

/// A key in clear. It shows itself only where it is asked to.
pub struct NewKey(String);

impl NewKey {
    pub fn generate() -> Self {
        let mut bytes = [0; 32];
        rand::rngs::OsRng.try_fill_bytes(&mut bytes).expect("random bytes of the operating system");
        Self(format!("er_{}", URL_SAFE_NO_PAD.encode(bytes)))
    }

    pub fn expose(&self) -> &str {
        &self.0
    }

    /// Whether a text has the form of a key: nothing else need be looked up.
    pub fn is_like(text: &[u8]) -> bool {
        let digits = text.strip_prefix(b"er_").unwrap_or_default();
        digits.len() == 43 && digits.iter().all(|byte| byte.is_ascii_alphanumeric() || b"-_".contains(byte))
    }

    pub fn hash(&self) -> KeyHash {
        hash(self.0.as_bytes())
    }

    /// So much of it is kept in clear, for people to know it again: 30 of its 256 bits.
    pub fn prefix(&self) -> &str {
        &self.0[..8]
    }
}

impl fmt::Debug for NewKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("NewKey(***)")
    }
}

/// What a key, of whatever kind, is known by.
pub fn hash(key: &[u8]) -> KeyHash {
    Sha256::digest(key).into()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_new_key_is_long_never_the_same_and_does_not_show_itself() {
        let (one, other) = (NewKey::generate(), NewKey::generate());
        assert_eq!(one.expose().len(), 3 + 43);
        assert!(one.expose().starts_with(one.prefix()) && one.prefix().starts_with("er_"));
        assert_ne!(one.expose(), other.expose());
        assert_eq!(one.hash(), hash(one.expose().as_bytes()));
        assert!(NewKey::is_like(one.expose().as_bytes()));
        for other in ["", "er_", "er_x", &one.expose()[1..], &format!("{}=", one.expose())] {
            assert!(!NewKey::is_like(other.as_bytes()), "{other}");
        }
        assert_eq!(format!("{one:?}"), "NewKey(***)");
    }

    #[test]
    fn roles_are_read_as_they_are_written() {
        for role in [Role::Producer, Role::Subscriber, Role::Operator] {
            assert_eq!(Role::parse(role.as_str()), Some(role));
        }
        assert_eq!(Role::parse("admin"), None);
    }
}
