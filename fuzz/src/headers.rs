//! Names and values of custom headers, credentials, and what receivers say in `Retry-After`: whatever is accepted
//! is one header of the request, and none of ours.

use std::collections::BTreeMap;
use std::time::Duration;

use eventrail_core::credentials::{Credentials, Shown};
use eventrail_core::endpoint::CustomHeaders;
use eventrail_core::retry::retry_after;
use http::{HeaderName, HeaderValue};

/// Named by RFC 9110 and RFC 9112 as the connection's or the body's, and what we say ourselves.
const FORBIDDEN: [&str; 21] = [
    "connection",
    "content-encoding",
    "content-length",
    "content-type",
    "eventrail-attempt",
    "eventrail-group",
    "eventrail-replay",
    "expect",
    "host",
    "http2-settings",
    "keep-alive",
    "proxy-authorization",
    "proxy-connection",
    "te",
    "trailer",
    "transfer-encoding",
    "upgrade",
    "user-agent",
    "webhook-id",
    "webhook-signature",
    "webhook-timestamp",
];

/// Lines of `name: value`; a byte of 1 stands for the end of a line within them.
pub fn run(data: &[u8]) {
    let Ok(text) = std::str::from_utf8(data) else { return };
    let mut given = BTreeMap::new();
    for line in text.split('\n') {
        let (name, value) = line.split_once(": ").unwrap_or((line, ""));
        given.insert(name.replace('\u{1}', "\n"), value.replace('\u{1}', "\n"));
    }
    for (name, value) in &given {
        credentials(name, value);
        waits(value);
    }
    let Ok(headers) = CustomHeaders::try_from(given.clone()) else { return };
    assert_eq!(headers.iter().len(), given.len());
    assert!(headers.iter().len() <= 20);
    for (name, value) in headers.iter() {
        assert_eq!(name, name.to_ascii_lowercase());
        assert!(!FORBIDDEN.contains(&name), "{name} is ours");
        assert!(given.iter().any(|(one, same)| one.eq_ignore_ascii_case(name) && same == value));
        let parsed = HeaderName::from_bytes(name.as_bytes()).expect("a name of a header");
        assert_eq!(parsed.as_str(), name);
        is_one_line(value);
    }
    let written = serde_json::to_string(&headers).expect("headers are JSON");
    let read: CustomHeaders = serde_json::from_str(&written).expect("headers are read back");
    assert_eq!(read, headers);
}

fn is_one_line(value: &str) {
    assert!(!value.contains(['\r', '\n', '\0']), "{value:?}");
    assert_eq!(value.trim_matches([' ', '\t']), value, "white space around would not arrive");
    let parsed = HeaderValue::from_str(value).expect("a value of a header");
    assert_eq!(parsed.to_str().ok(), Some(value));
}

fn credentials(username: &str, password: &str) {
    if let Ok(credentials) = Credentials::basic(username, password) {
        is_one_line(credentials.expose());
        let shown = Credentials::shown(credentials.expose().as_bytes());
        assert_eq!(shown, Some(Shown::Basic { username: username.to_owned() }));
    }
    if let Ok(credentials) = Credentials::bearer(password) {
        is_one_line(credentials.expose());
        assert_eq!(credentials.expose().strip_prefix("Bearer "), Some(password));
    }
}

/// A date says no more than its distance; digits say their number, or more than anybody waits.
fn waits(value: &str) {
    let now = chrono::DateTime::from_timestamp(1_800_000_000, 0).expect("a time");
    let Some(wait) = retry_after(value, now) else { return };
    let digits = value.trim_matches([' ', '\t']);
    if digits.bytes().all(|byte| byte.is_ascii_digit()) {
        let number = digits.parse::<u64>().unwrap_or(u64::MAX);
        assert_eq!(wait, Duration::from_secs(number));
    }
}
