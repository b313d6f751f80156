//! Signatures: what is signed verifies, whatever is changed afterwards does not, and nothing verifies that an HMAC
//! written out from RFC 2104 does not agree with.

use base64::Engine as _;
use base64::prelude::BASE64_STANDARD;
use eventrail_core::secret::Secret;
use eventrail_core::signature::{SigningKey, sign, sign_parts, verify};
use sha2::{Digest as _, Sha256};

/// Lines: a secret, an id, a timestamp, the value of `webhook-signature`; then the body.
pub fn run(data: &[u8]) {
    let (secret, rest) = super::line(data);
    let (id, rest) = super::line(rest);
    let (timestamp, rest) = super::line(rest);
    let (given, body) = super::line(rest);
    let [Ok(secret), Ok(id), Ok(timestamp), Ok(given)] =
        [secret, id, timestamp, given].map(std::str::from_utf8)
    else {
        return;
    };
    let Some(secret) = secret_of(secret) else { return };
    let sent = timestamp.parse::<u32>().map_or(1_614_265_330, i64::from);
    let secrets = [secret];
    signed_verifies(&secrets, id, sent, body, data.len());

    // A text that somebody sends: believed only if it is what we would have signed.
    if verify(&secrets, id, timestamp, given, body, sent).is_ok() {
        let tag = hmac(secrets[0].expose(), &[id.as_bytes(), b".", timestamp.as_bytes(), b".", body]);
        let right = format!("v1,{}", BASE64_STANDARD.encode(tag));
        assert!(given.split(' ').any(|one| one == right), "{given:?} was believed");
    }
}

/// A secret as an owner hands it in, or any bytes of its length.
fn secret_of(text: &str) -> Option<Secret> {
    match text.parse::<Secret>() {
        Ok(secret) => {
            let again = secret.to_text().parse::<Secret>();
            assert_eq!(again.as_ref(), Ok(&secret));
            assert!((24..=64).contains(&secret.expose().len()));
            Some(secret)
        }
        Err(_) => Secret::from_bytes(Sha256::digest(text).to_vec()).ok(),
    }
}

fn signed_verifies(secrets: &[Secret; 1], id: &str, sent: i64, body: &[u8], salt: usize) {
    let keys = [SigningKey::new(&secrets[0])];
    let header = sign(id, sent, body, &keys);
    let timestamp = sent.to_string();
    let check = |id: &str, timestamp: &str, header: &str, body: &[u8], now: i64| {
        verify(secrets, id, timestamp, header, body, now).is_ok()
    };
    assert!(check(id, &timestamp, &header, body, sent));
    let tag = hmac(secrets[0].expose(), &[id.as_bytes(), b".", timestamp.as_bytes(), b".", body]);
    assert_eq!(header, format!("v1,{}", BASE64_STANDARD.encode(tag)));
    let (head, tail) = body.split_at(body.len() / 2);
    assert_eq!(sign_parts(id, sent, &[head, tail], &keys), header);

    // One bit of the body, of the id, of the time, of the signature; and the clock.
    if !body.is_empty() {
        let mut changed = body.to_vec();
        changed[salt % body.len()] ^= 1 << (salt % 8);
        assert!(!check(id, &timestamp, &header, &changed, sent));
        assert!(!check(id, &timestamp, &header, &body[1..], sent));
    }
    assert!(!check(&format!("{id}x"), &timestamp, &header, body, sent));
    assert!(!check(id, &(sent + 1).to_string(), &header, body, sent));
    assert!(!check(id, &format!("0{timestamp}"), &header, body, sent));
    let mut changed = header.clone().into_bytes();
    let place = salt % changed.len();
    changed[place] = if changed[place] == b'A' { b'B' } else { b'A' };
    let changed = String::from_utf8(changed).expect("ASCII");
    assert!(!check(id, &timestamp, &changed, body, sent), "{changed} for {header}");
    assert!(check(id, &timestamp, &format!("v1,AAAA {header}"), body, sent + 300));
    assert!(!check(id, &timestamp, &header, body, sent + 301));
    let other = [Secret::from_bytes(vec![7; 24]).expect("24 bytes")];
    if other[0] != secrets[0] {
        assert!(verify(&other, id, &timestamp, &header, body, sent).is_err());
    }
}

/// RFC 2104, for keys of at most a block.
fn hmac(key: &[u8], parts: &[&[u8]]) -> [u8; 32] {
    let mut block = [0; 64];
    block[..key.len()].copy_from_slice(key);
    let mut inner = Sha256::new();
    inner.update(block.map(|byte| byte ^ 0x36));
    for part in parts {
        inner.update(part);
    }
    let mut outer = Sha256::new();
    outer.update(block.map(|byte| byte ^ 0x5c));
    outer.update(inner.finalize());
    outer.finalize().into()
}
