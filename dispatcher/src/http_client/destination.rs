//! Where deliveries of one endpoint go, with all of a request that does not change from one to the next.

use std::sync::Arc;

use http::header::{ACCEPT, CONTENT_TYPE, HOST, HeaderMap, HeaderName, HeaderValue, USER_AGENT};
use http::uri::{InvalidUri, Uri};

/// What each request says of itself: its name and value, which are ours and never hold a line's end.
pub(crate) type OwnHeader<'a> = (&'static str, &'a str);

pub(crate) struct Destination {
    pub(super) uri: Uri,
    /// Scheme, host and port: whose connections serve it.
    pub(super) origin: Arc<str>,
    /// Of every request.
    pub(super) headers: HeaderMap,
    /// The same as HTTP/1.1 has it: request line and headers.
    head: Vec<u8>,
}

impl Destination {
    /// `headers` are those that its owner asks for, and others that are the same in every request; never `host`, nor any
    /// that say where a message ends (`eventrail_core::endpoint::CustomHeaders`).
    ///
    /// # Errors
    /// No request can be made of this URL.
    pub(crate) fn new(url: &url::Url, mut headers: HeaderMap) -> Result<Self, InvalidUri> {
        let uri: Uri = url.as_str().parse()?;
        headers.insert(CONTENT_TYPE, HeaderValue::from_static("application/json"));
        headers.entry(ACCEPT).or_insert(HeaderValue::from_static("*/*"));
        headers
            .insert(USER_AGENT, HeaderValue::from_static(concat!("EventRail/", env!("CARGO_PKG_VERSION"))));
        let authority = uri.authority().map_or("", |authority| authority.as_str());
        let origin = format!("{}://{authority}", uri.scheme_str().unwrap_or_default()).into();
        let target = uri.path_and_query().map_or("/", |path| path.as_str());
        let mut head = format!("POST {target} HTTP/1.1\r\n").into_bytes();
        put(&mut head, HOST.as_str(), authority.as_bytes());
        for (name, value) in &headers {
            put(&mut head, HeaderName::as_str(name), value.as_bytes());
        }
        Ok(Self { uri, origin, headers, head })
    }

    /// The head of a request of HTTP/1.1 (RFC 9112, section 2.1).
    pub(super) fn head(&self, own: &[OwnHeader<'_>], body_bytes: usize) -> Vec<u8> {
        let room: usize = own.iter().map(|(name, value)| name.len() + value.len() + 4).sum();
        let mut head = Vec::with_capacity(self.head.len() + room + 40);
        head.extend_from_slice(&self.head);
        for (name, value) in own {
            put(&mut head, name, value.as_bytes());
        }
        put(&mut head, "content-length", body_bytes.to_string().as_bytes());
        head.extend_from_slice(b"\r\n");
        head
    }
}

fn put(head: &mut Vec<u8>, name: &str, value: &[u8]) {
    for part in [name.as_bytes(), b": ", value, b"\r\n"] {
        head.extend_from_slice(part);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_head_has_each_header_once_and_ends_with_an_empty_line() {
        let url = "https://hooks.example:8443/in?a=b#c".parse().unwrap();
        let mut wanted = HeaderMap::new();
        wanted.insert("x-team", HeaderValue::from_static("billing"));
        let destination = Destination::new(&url, wanted).unwrap();
        assert_eq!(&*destination.origin, "https://hooks.example:8443");
        let head = String::from_utf8(destination.head(&[("webhook-id", "evt_1")], 42)).unwrap();
        let expected = [
            "POST /in?a=b HTTP/1.1",
            "host: hooks.example:8443",
            "x-team: billing",
            "content-type: application/json",
            "accept: */*",
            concat!("user-agent: EventRail/", env!("CARGO_PKG_VERSION")),
            "webhook-id: evt_1",
            "content-length: 42",
            "",
            "",
        ];
        assert_eq!(head.split("\r\n").collect::<Vec<_>>(), expected);
    }
}
