//! Signatures of deliveries (Standard Webhooks 1.0.0): `v1,` and the base64 of HMAC-SHA256 over
//! `id.timestamp.body`, one for each active secret, separated by spaces.
//!
//! The dispatcher signs each attempt; `eventrail receiver` and tests verify. Libraries by others accept the
//! signatures too: see `core/tests`.

use std::io::Write as _;

use base64::Engine as _;
use base64::prelude::BASE64_STANDARD;
use hmac::{Hmac, KeyInit as _, Mac as _};
use sha2::Sha256;

use crate::secret::Secret;

/// Constant over retries and replays: what receivers dedupe by.
pub const WEBHOOK_ID: &str = "webhook-id";
/// Unix seconds of this attempt.
pub const WEBHOOK_TIMESTAMP: &str = "webhook-timestamp";
pub const WEBHOOK_SIGNATURE: &str = "webhook-signature";

/// How far the timestamp of a delivery may be from the receiver's clock, either way.
pub const TOLERANCE_SECONDS: i64 = 300;

const VERSION: &str = "v1,";
/// Base64 of 32 bytes.
const ENCODED_LENGTH: usize = 44;

/// A secret made ready for signing: the two blocks of HMAC's key schedule are hashed once, not per delivery.
#[derive(Clone)]
pub struct SigningKey(Hmac<Sha256>);

impl SigningKey {
    /// # Panics
    /// Never: HMAC takes keys of any length.
    pub fn new(secret: &Secret) -> Self {
        Self(Hmac::new_from_slice(secret.expose()).expect("HMAC takes keys of any length"))
    }
}

impl std::fmt::Debug for SigningKey {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("SigningKey(***)")
    }
}

/// The value of `webhook-signature`. The newest key comes first, by the order of `keys`.
pub fn sign<'a>(
    id: &str,
    timestamp: i64,
    body: &[u8],
    keys: impl IntoIterator<Item = &'a SigningKey>,
) -> String {
    sign_parts(id, timestamp, &[body], keys)
}

/// The same for a body in several parts, which are signed as if they were one.
pub fn sign_parts<'a>(
    id: &str,
    timestamp: i64,
    body: &[&[u8]],
    keys: impl IntoIterator<Item = &'a SigningKey>,
) -> String {
    let mut digits = [0; 20];
    let timestamp = decimal(timestamp, &mut digits);
    let mut header = String::with_capacity(VERSION.len() + ENCODED_LENGTH);
    for key in keys {
        if !header.is_empty() {
            header.push(' ');
        }
        header.push_str(VERSION);
        let tag = mac(key, id, timestamp, body).finalize().into_bytes();
        BASE64_STANDARD.encode_string(tag, &mut header);
    }
    header
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum SignatureError {
    #[error("webhook-timestamp is no number of seconds")]
    Timestamp,
    #[error("the delivery is {0} seconds old; {TOLERANCE_SECONDS} are allowed")]
    TooOld(i64),
    #[error("the delivery is from {0} seconds in the future; {TOLERANCE_SECONDS} are allowed")]
    TooNew(i64),
    #[error("webhook-signature holds no v1 signature")]
    NoSignature,
    #[error("no signature is of a known secret over this id, timestamp and body")]
    Mismatch,
}

/// Accepts a delivery that any of the secrets has signed, and no older or newer than [`TOLERANCE_SECONDS`].
/// Signatures of other versions are skipped. Comparisons take the same time wherever they differ.
///
/// # Errors
/// Why the delivery must not be trusted.
pub fn verify(
    secrets: &[Secret],
    id: &str,
    timestamp: &str,
    signatures: &str,
    body: &[u8],
    now: i64,
) -> Result<(), SignatureError> {
    let plain = !timestamp.is_empty() && timestamp.bytes().all(|byte| byte.is_ascii_digit());
    let sent: i64 = plain.then(|| timestamp.parse().ok()).flatten().ok_or(SignatureError::Timestamp)?;
    let age = now.saturating_sub(sent);
    if age > TOLERANCE_SECONDS {
        return Err(SignatureError::TooOld(age));
    }
    if age < -TOLERANCE_SECONDS {
        return Err(SignatureError::TooNew(-age));
    }
    let given: Vec<&str> = signatures.split(' ').filter_map(|one| one.strip_prefix(VERSION)).collect();
    if given.is_empty() {
        return Err(SignatureError::NoSignature);
    }
    for secret in secrets {
        let expected = mac(&SigningKey::new(secret), id, timestamp.as_bytes(), &[body]);
        for encoded in &given {
            let tag = BASE64_STANDARD.decode(encoded).unwrap_or_default();
            if expected.clone().verify_slice(&tag).is_ok() {
                return Ok(());
            }
        }
    }
    Err(SignatureError::Mismatch)
}

fn mac(key: &SigningKey, id: &str, timestamp: &[u8], body: &[&[u8]]) -> Hmac<Sha256> {
    let mut mac = key.0.clone();
    mac.update(id.as_bytes());
    mac.update(b".");
    mac.update(timestamp);
    mac.update(b".");
    for part in body {
        mac.update(part);
    }
    mac
}

/// A number's decimal digits, without a `String` for them: `i64::MIN` takes 20.
fn decimal(number: i64, buffer: &mut [u8; 20]) -> &[u8] {
    let mut rest = buffer.as_mut_slice();
    // Can't fail: the buffer holds the longest.
    let _ = write!(rest, "{number}");
    let left = rest.len();
    &buffer[..buffer.len() - left]
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const ID: &str = "msg_p5jXN8AQM9LWM0D4loKWxJek";
    const SENT: i64 = 1_614_265_330;
    const BODY: &[u8] = br#"{"test": 2432232314}"#;

    fn secret() -> Secret {
        "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw".parse().unwrap()
    }

    fn verified(signatures: &str, now: i64) -> Result<(), SignatureError> {
        verify(&[secret()], ID, &SENT.to_string(), signatures, BODY, now)
    }

    /// The vector in the test suites of the reference libraries.
    #[test]
    fn the_signature_is_that_of_the_standards_test_vector() {
        let signature = sign(ID, SENT, BODY, &[SigningKey::new(&secret())]);
        assert_eq!(signature, "v1,g0hM9SsE+OTPJTGt/tmIKtSyZlE3uFJELVlNIOLJ1OE=");
        assert_eq!(verified(&signature, SENT), Ok(()));
    }

    #[test]
    fn each_secret_signs_and_any_of_them_verifies() {
        let (old, new) = (Secret::generate(), Secret::generate());
        let header = sign(ID, SENT, BODY, &[SigningKey::new(&new), SigningKey::new(&old)]);
        assert_eq!(header.len(), 2 * 47 + 1);
        for known in [&old, &new] {
            let outcome = verify(&[secret(), known.clone()], ID, &SENT.to_string(), &header, BODY, SENT);
            assert_eq!(outcome, Ok(()));
        }
        assert_eq!(verified(&header, SENT), Err(SignatureError::Mismatch));
    }

    #[test]
    fn signatures_of_other_versions_are_skipped() {
        let good = sign(ID, SENT, BODY, &[SigningKey::new(&secret())]);
        assert_eq!(verified(&format!("v1a,AAAA v2,xyz {good}"), SENT), Ok(()));
        assert_eq!(verified(&format!("v1,!!! v1, {good}"), SENT), Ok(()));
        assert_eq!(verified("v1a,AAAA", SENT), Err(SignatureError::NoSignature));
        assert_eq!(verified("", SENT), Err(SignatureError::NoSignature));
        assert_eq!(verified("v1,", SENT), Err(SignatureError::Mismatch));
    }

    #[test]
    fn deliveries_out_of_time_are_refused() {
        let signature = sign(ID, SENT, BODY, &[SigningKey::new(&secret())]);
        assert_eq!(verified(&signature, SENT + 300), Ok(()));
        assert_eq!(verified(&signature, SENT + 301), Err(SignatureError::TooOld(301)));
        assert_eq!(verified(&signature, SENT - 300), Ok(()));
        assert_eq!(verified(&signature, SENT - 301), Err(SignatureError::TooNew(301)));
    }

    #[test]
    fn timestamps_are_plain_seconds() {
        let signature = sign(ID, SENT, BODY, &[SigningKey::new(&secret())]);
        for timestamp in ["", "soon", "1.5", "+1614265330", "-5", " 1614265330", "99999999999999999999"] {
            let outcome = verify(&[secret()], ID, timestamp, &signature, BODY, SENT);
            assert_eq!(outcome, Err(SignatureError::Timestamp), "{timestamp:?}");
        }
    }

    #[test]
    fn a_key_does_not_show_itself() {
        assert_eq!(format!("{:?}", SigningKey::new(&secret())), "SigningKey(***)");
    }

    proptest! {
        #[test]
        fn parts_sign_as_their_whole(body in proptest::collection::vec(any::<u8>(), 0..64), cut in 0_usize..64) {
            let keys = [SigningKey::new(&secret())];
            let (head, tail) = body.split_at(cut.min(body.len()));
            prop_assert_eq!(sign_parts(ID, SENT, &[head, tail], &keys), sign(ID, SENT, &body, &keys));
        }

        #[test]
        fn what_is_signed_verifies_and_nothing_else_does(
            id in "[a-z0-9_]{1,30}", sent in 0_i64..4_000_000_000, flipped in any::<proptest::sample::Index>(),
            body in proptest::collection::vec(any::<u8>(), 1..64)
        ) {
            let secret = Secret::generate();
            let header = sign(&id, sent, &body, &[SigningKey::new(&secret)]);
            let check = |id: &str, timestamp: i64, body: &[u8]| {
                verify(std::slice::from_ref(&secret), id, &timestamp.to_string(), &header, body, sent)
            };
            prop_assert_eq!(check(&id, sent, &body), Ok(()));
            let mut tampered = body.clone();
            tampered[flipped.index(body.len())] ^= 1;
            prop_assert_eq!(check(&id, sent, &tampered), Err(SignatureError::Mismatch));
            prop_assert_eq!(check(&id, sent + 1, &body), Err(SignatureError::Mismatch));
            prop_assert_eq!(check("other", sent, &body), Err(SignatureError::Mismatch));
        }

        #[test]
        fn decimal_digits_are_those_of_display(number in any::<i64>()) {
            let mut digits = [0; 20];
            prop_assert_eq!(std::str::from_utf8(decimal(number, &mut digits)).unwrap(), number.to_string());
        }
    }
}
