//! Secrets at rest: AES-256-GCM under a key that is not in the database. An envelope names its key, so that
//! the key can be changed (`eventrail rekey`), and is bound to what it belongs to (associated data, such as
//! the endpoint's id): moved to another row, it does not open.
//!
//! Envelope: version (1 byte), key id (4 bytes), nonce (12 bytes), ciphertext with tag.

use std::fmt;
use std::str::FromStr;

use aes_gcm::aead::{Aead, KeyInit, Payload};
use aes_gcm::{Aes256Gcm, Nonce};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use sha2::{Digest, Sha256};

const VERSION: u8 = 1;
const HEAD: usize = 1 + 4 + 12;

/// 32 bytes, given as base64 (`SECRETS_KEY`).
#[derive(Clone)]
pub struct SecretsKey([u8; 32]);

#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("must be 32 bytes in base64 (make one with: openssl rand -base64 32)")]
pub struct InvalidSecretsKey;

#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum VaultError {
    #[error("sealed with a key that is not known here: give it in SECRETS_KEYS_OLD")]
    UnknownKey,
    #[error("damaged, or sealed for another row")]
    Damaged,
}

/// Seals with one key, opens with that and older ones.
pub struct Vault {
    keys: Vec<([u8; 4], Aes256Gcm)>,
}

impl SecretsKey {
    /// A new key from the operating system's random numbers.
    pub fn generate() -> Self {
        Self(rand::random())
    }

    pub fn to_text(&self) -> String {
        STANDARD.encode(self.0)
    }
}

impl FromStr for SecretsKey {
    type Err = InvalidSecretsKey;

    fn from_str(text: &str) -> Result<Self, InvalidSecretsKey> {
        let bytes = STANDARD.decode(text.trim()).map_err(|_| InvalidSecretsKey)?;
        bytes.try_into().map(Self).map_err(|_| InvalidSecretsKey)
    }
}

impl fmt::Debug for SecretsKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("SecretsKey(***)")
    }
}

impl fmt::Debug for Vault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Vault({} keys)", self.keys.len())
    }
}

impl Vault {
    pub fn new(current: &SecretsKey, old: &[SecretsKey]) -> Self {
        let keys = std::iter::once(current)
            .chain(old)
            .map(|key| {
                let mut id = [0; 4];
                id.copy_from_slice(&Sha256::digest(key.0)[..4]);
                (id, Aes256Gcm::new(&key.0.into()))
            })
            .collect();
        Self { keys }
    }

    /// Seals for the owner of `associated` (such as the bytes of the endpoint's id).
    pub fn seal(&self, plaintext: &[u8], associated: &[u8]) -> Vec<u8> {
        let (id, cipher) = &self.keys[0];
        let nonce: [u8; 12] = rand::random();
        let sealed = cipher
            .encrypt(&Nonce::from(nonce), Payload { msg: plaintext, aad: associated })
            .expect("AES-GCM takes up to 64 GiB, and secrets are bounded");
        let mut envelope = Vec::with_capacity(HEAD + sealed.len());
        envelope.push(VERSION);
        envelope.extend_from_slice(id);
        envelope.extend_from_slice(&nonce);
        envelope.extend_from_slice(&sealed);
        envelope
    }

    /// # Errors
    /// The key is not among ours, or the envelope is not what was sealed for this owner.
    pub fn open(&self, envelope: &[u8], associated: &[u8]) -> Result<Vec<u8>, VaultError> {
        let (head, sealed) = envelope.split_at_checked(HEAD).ok_or(VaultError::Damaged)?;
        if head[0] != VERSION {
            return Err(VaultError::Damaged);
        }
        let (_, cipher) = self.keys.iter().find(|(id, _)| id == &head[1..5]).ok_or(VaultError::UnknownKey)?;
        let mut nonce = [0; 12];
        nonce.copy_from_slice(&head[5..HEAD]);
        cipher
            .decrypt(&Nonce::from(nonce), Payload { msg: sealed, aad: associated })
            .map_err(|_| VaultError::Damaged)
    }

    /// Whether the envelope is sealed with the current key.
    pub fn is_current(&self, envelope: &[u8]) -> bool {
        envelope.get(1..5) == Some(&self.keys[0].0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_sealed_opens_for_its_owner_only() {
        let vault = Vault::new(&SecretsKey::generate(), &[]);
        let envelope = vault.seal(b"secret", b"one");
        assert_eq!(vault.open(&envelope, b"one").as_deref(), Ok(&b"secret"[..]));
        assert_eq!(vault.open(&envelope, b"two"), Err(VaultError::Damaged));
        assert_ne!(envelope, vault.seal(b"secret", b"one"));
    }

    #[test]
    fn every_changed_byte_is_noticed() {
        let vault = Vault::new(&SecretsKey::generate(), &[]);
        let envelope = vault.seal(b"secret", b"one");
        for index in 0..envelope.len() {
            let mut changed = envelope.clone();
            changed[index] ^= 1;
            assert!(vault.open(&changed, b"one").is_err(), "byte {index}");
            assert!(vault.open(&envelope[..index], b"one").is_err(), "cut at {index}");
        }
    }

    #[test]
    fn older_keys_open_and_the_current_one_seals() {
        let (old, new) = (SecretsKey::generate(), SecretsKey::generate());
        let envelope = Vault::new(&old, &[]).seal(b"secret", b"one");
        assert_eq!(Vault::new(&new, &[]).open(&envelope, b"one"), Err(VaultError::UnknownKey));
        let both = Vault::new(&new, &[old]);
        assert_eq!(both.open(&envelope, b"one").as_deref(), Ok(&b"secret"[..]));
        assert!(!both.is_current(&envelope) && both.is_current(&both.seal(b"secret", b"one")));
    }

    #[test]
    fn a_key_is_32_bytes_of_base64() {
        let key = SecretsKey::generate();
        assert_eq!(key.to_text().parse::<SecretsKey>().unwrap().0, key.0);
        for text in ["", "abc", "AAAA", &STANDARD.encode([0; 31])] {
            assert!(text.parse::<SecretsKey>().is_err(), "{text}");
        }
    }
}
