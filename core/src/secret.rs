//! Signing secrets of endpoints (Standard Webhooks 1.0.0, "Signature scheme"): `whsec_` and the base64 of 24
//! to 64 random bytes.
//!
//! A secret never shows itself by accident: `Debug` hides it, there is no `Display` and no `Serialize`;
//! whoever hands it out says `to_text()`.

use std::fmt;
use std::str::FromStr;

use base64::Engine as _;
use base64::alphabet::STANDARD;
use base64::engine::{DecodePaddingMode, GeneralPurpose, GeneralPurposeConfig};
use rand::TryRngCore as _;
use serde::Deserialize;
use subtle::ConstantTimeEq as _;

const PREFIX: &str = "whsec_";
const BYTES: std::ops::RangeInclusive<usize> = 24..=64;

/// Writes padding, and reads with or without it: both are seen in the wild.
const BASE64: GeneralPurpose = GeneralPurpose::new(
    &STANDARD,
    GeneralPurposeConfig::new().with_decode_padding_mode(DecodePaddingMode::Indifferent),
);

#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum InvalidSecret {
    #[error("must begin with whsec_")]
    Prefix,
    #[error("must be base64 after whsec_")]
    Base64,
    #[error("must hold 24 to 64 bytes after whsec_, not {0}")]
    Length(usize),
}

#[derive(Clone)]
pub struct Secret(Vec<u8>);

impl Secret {
    /// 32 bytes from the operating system.
    ///
    /// # Panics
    /// The operating system has no random bytes to give.
    pub fn generate() -> Self {
        let mut bytes = vec![0; 32];
        rand::rngs::OsRng.try_fill_bytes(&mut bytes).expect("random bytes of the operating system");
        Self(bytes)
    }

    /// # Errors
    /// Fewer than 24 or more than 64 bytes.
    pub fn from_bytes(bytes: Vec<u8>) -> Result<Self, InvalidSecret> {
        if BYTES.contains(&bytes.len()) { Ok(Self(bytes)) } else { Err(InvalidSecret::Length(bytes.len())) }
    }

    /// `whsec_…`, for the eyes of the endpoint's owner.
    pub fn to_text(&self) -> String {
        let mut text = PREFIX.to_owned();
        BASE64.encode_string(&self.0, &mut text);
        text
    }

    pub fn expose(&self) -> &[u8] {
        &self.0
    }
}

impl FromStr for Secret {
    type Err = InvalidSecret;

    fn from_str(text: &str) -> Result<Self, InvalidSecret> {
        let encoded = text.strip_prefix(PREFIX).ok_or(InvalidSecret::Prefix)?;
        Self::from_bytes(BASE64.decode(encoded).map_err(|_| InvalidSecret::Base64)?)
    }
}

impl PartialEq for Secret {
    fn eq(&self, other: &Self) -> bool {
        self.0.ct_eq(&other.0).into()
    }
}

impl Eq for Secret {}

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Secret(***)")
    }
}

impl<'de> Deserialize<'de> for Secret {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        crate::text::parsed(deserializer, "must be whsec_ and base64")
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn a_generated_secret_has_32_bytes_and_is_never_the_same() {
        let (one, other) = (Secret::generate(), Secret::generate());
        assert_eq!(one.expose().len(), 32);
        assert_ne!(one, other);
    }

    #[test]
    fn base64_is_read_with_and_without_padding() {
        let secret = Secret::from_bytes(vec![7; 25]).unwrap();
        let padded = secret.to_text();
        assert!(padded.ends_with("=="));
        assert_eq!(padded.parse(), Ok(secret.clone()));
        assert_eq!(padded.trim_end_matches('=').parse(), Ok(secret));
    }

    #[test]
    fn other_texts_are_no_secrets() {
        for (text, reason) in [
            ("", InvalidSecret::Prefix),
            ("MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw", InvalidSecret::Prefix),
            ("whsec_", InvalidSecret::Length(0)),
            ("whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaQ", InvalidSecret::Length(23)),
            ("whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLa__", InvalidSecret::Base64),
            ("whsec_ MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw", InvalidSecret::Base64),
        ] {
            assert_eq!(text.parse::<Secret>(), Err(reason), "{text}");
        }
        assert_eq!(Secret::from_bytes(vec![0; 65]), Err(InvalidSecret::Length(65)));
    }

    #[test]
    fn a_secret_does_not_show_itself() {
        let secret: Secret = "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw".parse().unwrap();
        assert_eq!(format!("{secret:?}"), "Secret(***)");
        let error = serde_json::from_str::<Secret>(r#""whsec_hunter2""#).unwrap_err().to_string();
        assert!(!error.contains("hunter2"), "{error}");
    }

    proptest! {
        #[test]
        fn texts_and_bytes_say_the_same(bytes in proptest::collection::vec(any::<u8>(), 24..=64)) {
            let secret = Secret::from_bytes(bytes.clone()).unwrap();
            let again: Secret = secret.to_text().parse().unwrap();
            prop_assert_eq!(again.expose(), bytes.as_slice());
        }
    }
}
