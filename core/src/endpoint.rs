//! Where an endpoint listens, and the headers that its owner wants on each request.
//!
//! Both exist only valid: whatever builds requests can rely on a URL with a host and no credentials, and on
//! headers that neither override ours nor smuggle. Whether the address may be reached is [`crate::egress`]'s.

use std::collections::BTreeMap;
use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};
use url::{Host, Url};

const MAX_URL_BYTES: usize = 2048;
const MAX_HEADERS: usize = 20;
const MAX_HEADER_BYTES: usize = 4096;

#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum InvalidEndpointUrl {
    #[error("must be at most {MAX_URL_BYTES} bytes long")]
    TooLong,
    #[error("must not contain spaces or control characters")]
    Blank,
    #[error("must be an absolute URL such as https://example.com/hook ({0})")]
    Unparsable(url::ParseError),
    #[error("must begin with https:// or http://")]
    Scheme,
    #[error("must name a host")]
    NoHost,
    #[error("must name a host of letters, digits, hyphens, underscores and dots, or an address")]
    Host,
    #[error("must not hold a user name or password; use a header for credentials")]
    Credentials,
    #[error("must not have a fragment (#…), which is never sent")]
    Fragment,
    #[error("must not use port 0")]
    Port,
}

/// The URL of an endpoint, in the normal form of the WHATWG URL standard (`http://0x7f.1` is `http://127.0.0.1/`).
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct EndpointUrl(Url);

impl EndpointUrl {
    pub fn as_str(&self) -> &str {
        self.0.as_str()
    }

    pub fn url(&self) -> &Url {
        &self.0
    }
}

impl FromStr for EndpointUrl {
    type Err = InvalidEndpointUrl;

    fn from_str(text: &str) -> Result<Self, InvalidEndpointUrl> {
        use InvalidEndpointUrl as Invalid;
        if text.len() > MAX_URL_BYTES {
            return Err(Invalid::TooLong);
        }
        // The parser would drop these without a word, and what is stored would not be what was asked for.
        if text.chars().any(|c| c.is_whitespace() || c.is_control()) {
            return Err(Invalid::Blank);
        }
        let url = Url::parse(text).map_err(Invalid::Unparsable)?;
        match url {
            _ if !matches!(url.scheme(), "http" | "https") => Err(Invalid::Scheme),
            _ if url.host_str().is_none_or(str::is_empty) => Err(Invalid::NoHost),
            _ if !is_dialled_as_named(&url) => Err(Invalid::Host),
            _ if !url.username().is_empty() || url.password().is_some() => Err(Invalid::Credentials),
            _ if url.fragment().is_some() => Err(Invalid::Fragment),
            _ if url.port() == Some(0) => Err(Invalid::Port),
            // Percent-encoding may have made it longer.
            _ if url.as_str().len() > MAX_URL_BYTES => Err(Invalid::TooLong),
            _ => Ok(Self(url)),
        }
    }
}

/// The standard lets names hold quotes and braces. No name in use does, and HTTP clients refuse them, so that each
/// delivery would fail before it is sent.
fn is_dialled_as_named(url: &Url) -> bool {
    let is_plain = |byte: u8| byte.is_ascii_alphanumeric() || b"-_.".contains(&byte);
    match url.host() {
        Some(Host::Domain(name)) => name.bytes().all(is_plain),
        Some(Host::Ipv4(_) | Host::Ipv6(_)) => true,
        None => false,
    }
}

impl TryFrom<String> for EndpointUrl {
    type Error = InvalidEndpointUrl;

    fn try_from(text: String) -> Result<Self, InvalidEndpointUrl> {
        text.parse()
    }
}

impl fmt::Display for EndpointUrl {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.as_str())
    }
}

impl fmt::Debug for EndpointUrl {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Debug::fmt(self.as_str(), f)
    }
}

impl Serialize for EndpointUrl {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(self.as_str())
    }
}

impl<'de> Deserialize<'de> for EndpointUrl {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        crate::text::parsed(deserializer, "must be an absolute http or https URL")
    }
}

#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum InvalidHeaders {
    #[error("must be at most {MAX_HEADERS} headers")]
    TooMany,
    #[error("must be at most {MAX_HEADER_BYTES} bytes of names and values in all")]
    TooLarge,
    #[error("{0:?} is no header name (RFC 9110, section 5.6.2)")]
    Name(String),
    #[error("{0} is set by EventRail or belongs to the connection, and can't be set here")]
    Reserved(String),
    #[error("{0} is there twice (names are compared without regard to case)")]
    Twice(String),
    #[error("the value of {0} must be visible ASCII, with spaces and tabs only inside")]
    Value(String),
}

/// Headers that an endpoint's owner adds to its requests. Names are kept in lower case. `Debug` shows names
/// only, since values may be credentials.
#[derive(Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "BTreeMap<String, String>", into = "BTreeMap<String, String>")]
pub struct CustomHeaders(BTreeMap<String, String>);

impl CustomHeaders {
    pub fn iter(&self) -> impl ExactSizeIterator<Item = (&str, &str)> {
        self.0.iter().map(|(name, value)| (name.as_str(), value.as_str()))
    }

    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }
}

impl TryFrom<BTreeMap<String, String>> for CustomHeaders {
    type Error = InvalidHeaders;

    fn try_from(given: BTreeMap<String, String>) -> Result<Self, InvalidHeaders> {
        if given.len() > MAX_HEADERS {
            return Err(InvalidHeaders::TooMany);
        }
        if given.iter().map(|(name, value)| name.len() + value.len()).sum::<usize>() > MAX_HEADER_BYTES {
            return Err(InvalidHeaders::TooLarge);
        }
        let mut headers = BTreeMap::new();
        for (name, value) in given {
            if !is_token(&name) {
                return Err(InvalidHeaders::Name(name));
            }
            let name = name.to_ascii_lowercase();
            if is_reserved(&name) {
                return Err(InvalidHeaders::Reserved(name));
            }
            if !is_value(&value) {
                return Err(InvalidHeaders::Value(name));
            }
            if headers.insert(name.clone(), value).is_some() {
                return Err(InvalidHeaders::Twice(name));
            }
        }
        Ok(Self(headers))
    }
}

impl From<CustomHeaders> for BTreeMap<String, String> {
    fn from(headers: CustomHeaders) -> Self {
        headers.0
    }
}

impl fmt::Debug for CustomHeaders {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_set().entries(self.0.keys()).finish()
    }
}

/// RFC 9110, section 5.6.2.
fn is_token(text: &str) -> bool {
    !text.is_empty()
        && text.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~".contains(&byte))
}

/// RFC 9110, section 5.5, without `obs-text`.
fn is_value(text: &str) -> bool {
    text.bytes().all(|byte| matches!(byte, b'\t' | b' '..=b'~'))
        && text.trim_matches([' ', '\t']).len() == text.len()
}

/// Ours, those that describe the body we send, and those that speak to the connection (RFC 9110, section 7.6.1).
fn is_reserved(name: &str) -> bool {
    const PREFIXES: [&str; 4] = ["webhook-", "eventrail-", "content-", "proxy-"];
    const NAMES: [&str; 11] = [
        "host",
        "user-agent",
        "connection",
        "te",
        "trailer",
        "transfer-encoding",
        "upgrade",
        "keep-alive",
        "expect",
        "http2-settings",
        "accept-encoding",
    ];
    NAMES.contains(&name) || PREFIXES.iter().any(|prefix| name.starts_with(prefix))
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn headers(pairs: &[(&str, &str)]) -> Result<CustomHeaders, InvalidHeaders> {
        let map: BTreeMap<String, String> =
            pairs.iter().map(|(name, value)| ((*name).into(), (*value).into())).collect();
        map.try_into()
    }

    #[test]
    fn urls_are_kept_in_their_normal_form() {
        for (text, normal) in [
            ("https://example.com", "https://example.com/"),
            ("HTTP://Example.com:80/a?b=c", "http://example.com/a?b=c"),
            ("http://0x7f.1/", "http://127.0.0.1/"),
            ("http://[::1]:9000/hook", "http://[::1]:9000/hook"),
            ("https://bücher.example/", "https://xn--bcher-kva.example/"),
            ("http://a_b.example/", "http://a_b.example/"),
        ] {
            assert_eq!(text.parse::<EndpointUrl>().unwrap().as_str(), normal);
        }
    }

    #[test]
    fn unusable_urls_are_refused_with_their_reason() {
        use InvalidEndpointUrl as Invalid;
        let long = format!("https://example.com/{}", "a".repeat(MAX_URL_BYTES));
        let long_when_encoded = format!("https://example.com/{}", "é".repeat(700));
        for (text, reason) in [
            ("ftp://example.com/", Invalid::Scheme),
            ("file:///etc/passwd", Invalid::Scheme),
            ("javascript:alert(1)", Invalid::Scheme),
            ("https://user@example.com/", Invalid::Credentials),
            ("https://:pass@example.com/", Invalid::Credentials),
            ("https://example.com/#a", Invalid::Fragment),
            ("https://example.com:0/", Invalid::Port),
            ("http://a\"b/", Invalid::Host),
            ("http://{a}/", Invalid::Host),
            ("http://a$b.example/", Invalid::Host),
            ("https://exa mple.com/", Invalid::Blank),
            ("https://example.com/\n", Invalid::Blank),
            ("http://", Invalid::Unparsable(url::ParseError::EmptyHost)),
            ("/hook", Invalid::Unparsable(url::ParseError::RelativeUrlWithoutBase)),
            ("http://1.2.3.4.5/", Invalid::Unparsable(url::ParseError::InvalidIpv4Address)),
            (&long, Invalid::TooLong),
            (&long_when_encoded, Invalid::TooLong),
        ] {
            assert_eq!(text.parse::<EndpointUrl>(), Err(reason), "{text:?}");
        }
    }

    #[test]
    fn headers_are_kept_in_lower_case() {
        let given = headers(&[("X-Team", "a b"), ("Authorization", "Bearer t"), ("x-empty", "")]).unwrap();
        let kept: Vec<_> = given.iter().collect();
        assert_eq!(kept, [("authorization", "Bearer t"), ("x-empty", ""), ("x-team", "a b")]);
        assert_eq!(format!("{given:?}"), r#"{"authorization", "x-empty", "x-team"}"#);
    }

    #[test]
    fn headers_of_ours_and_of_the_connection_are_refused() {
        for name in [
            "webhook-id",
            "Webhook-Signature",
            "EventRail-Attempt",
            "content-type",
            "Content-Length",
            "Host",
            "User-Agent",
            "Connection",
            "TE",
            "Trailer",
            "Transfer-Encoding",
            "Upgrade",
            "Keep-Alive",
            "Proxy-Authorization",
            "Expect",
        ] {
            assert_eq!(headers(&[(name, "x")]), Err(InvalidHeaders::Reserved(name.to_ascii_lowercase())));
        }
    }

    #[test]
    fn headers_that_would_smuggle_are_refused() {
        for value in ["a\r\nhost: b", "a\nb", "a\0", " a", "a\t", "é", "\u{7f}"] {
            assert_eq!(headers(&[("x-a", value)]), Err(InvalidHeaders::Value("x-a".into())), "{value:?}");
        }
        for name in ["", "x a", "x:a", "x\r\n", "é", "x(a)"] {
            assert_eq!(headers(&[(name, "x")]), Err(InvalidHeaders::Name(name.into())), "{name:?}");
        }
    }

    #[test]
    fn headers_are_bounded_in_number_and_size() {
        let map = |count: usize, size: usize| -> BTreeMap<String, String> {
            (0..count).map(|n| (format!("x-{n:02}"), "v".repeat(size))).collect()
        };
        assert!(CustomHeaders::try_from(map(20, 200)).is_ok());
        assert_eq!(CustomHeaders::try_from(map(21, 1)), Err(InvalidHeaders::TooMany));
        assert_eq!(CustomHeaders::try_from(map(2, 2045)), Err(InvalidHeaders::TooLarge));
        assert_eq!(headers(&[("X-A", "1"), ("x-a", "2")]), Err(InvalidHeaders::Twice("x-a".into())));
    }

    proptest! {
        #[test]
        fn a_url_that_parses_parses_again_to_itself(text in "https?://[a-z0-9.@:\\[\\]%-]{1,20}(/[ -~]{0,20})?") {
            if let Ok(url) = text.parse::<EndpointUrl>() {
                prop_assert_eq!(url.as_str().parse::<EndpointUrl>(), Ok(url.clone()));
            }
        }

        #[test]
        fn no_value_that_is_kept_can_end_its_line(value in "[\\x00-\\x7f]{0,8}") {
            if let Ok(kept) = headers(&[("x-a", &value)]) {
                prop_assert!(kept.iter().all(|(_, value)| !value.contains(['\r', '\n', '\0'])));
            }
        }
    }
}
