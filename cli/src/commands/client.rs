//! How an operator's command talks to an API: where it is, the key, and what a refusal says on one line.

use std::fmt::Display;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use anyhow::Context as _;
use clap::Args;
use eventrail_core::config::secret_setting;
use reqwest::Method;
use reqwest::header::{ACCEPT, CONTENT_TYPE, HeaderName, HeaderValue};
use serde::Deserialize;
use serde_json::Value;
use serde_json::value::RawValue;
use url::Url;

use super::failure::{ApiError, Usage};

const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);
/// Longer than the API takes for any answer: after 30 seconds it says itself that it took too long.
const READ_TIMEOUT: Duration = Duration::from_secs(40);
/// The largest page that the API hands out.
const LARGEST_PAGE: usize = 500;

#[derive(Args)]
pub(crate) struct ConnectionArgs {
    /// Where the API is
    #[arg(
        long,
        global = true,
        env = "EVENTRAIL_URL",
        default_value = "http://127.0.0.1:8080",
        help_heading = "Connection and output"
    )]
    url: Url,
    /// A file that holds the key; or the key itself in the variable EVENTRAIL_KEY
    #[arg(
        long,
        global = true,
        env = "EVENTRAIL_KEY_FILE",
        value_name = "FILE",
        help_heading = "Connection and output"
    )]
    key_file: Option<PathBuf>,
}

#[derive(Clone)]
pub(crate) struct Client {
    base: Url,
    key: Option<HeaderValue>,
    http: reqwest::Client,
}

impl Client {
    /// # Errors
    /// The address or the key can't be used.
    pub(crate) fn new(args: &ConnectionArgs) -> anyhow::Result<Self> {
        let url = &args.url;
        if !matches!(url.scheme(), "http" | "https") || url.host_str().is_none() {
            return Err(Usage(format!("{url}: the API's URL begins with http:// or https://")).into());
        }
        Ok(Self { base: url.clone(), key: key(args)?, http: http(url.scheme() == "https")? })
    }

    pub(crate) fn get(&self, path: &[&str]) -> Request<'_> {
        self.request(Method::GET, path)
    }

    pub(crate) fn post(&self, path: &[&str], body: &Value) -> Request<'_> {
        self.post_text(path, body.to_string())
    }

    /// Posts JSON as it was written.
    pub(crate) fn post_text(&self, path: &[&str], body: String) -> Request<'_> {
        Request { body: Some(body), ..self.request(Method::POST, path) }
    }

    pub(crate) fn patch(&self, path: &[&str], body: &Value) -> Request<'_> {
        Request { body: Some(body.to_string()), ..self.request(Method::PATCH, path) }
    }

    pub(crate) fn delete(&self, path: &[&str]) -> Request<'_> {
        self.request(Method::DELETE, path)
    }

    fn request(&self, method: Method, path: &[&str]) -> Request<'_> {
        let mut url = self.base.clone();
        url.set_query(None);
        if let Ok(mut segments) = url.path_segments_mut() {
            segments.pop_if_empty().extend(path);
        }
        Request { client: self, method, url, body: None, header: None }
    }
}

/// The key from `--key-file`, `EVENTRAIL_KEY_FILE` or `EVENTRAIL_KEY`, as a header.
fn key(args: &ConnectionArgs) -> anyhow::Result<Option<HeaderValue>> {
    let key = match &args.key_file {
        Some(file) => Some(
            std::fs::read_to_string(file)
                .map_err(|error| Usage(format!("the key can't be read from {}: {error}", file.display())))?,
        ),
        None => secret_setting("EVENTRAIL_KEY")?,
    };
    let key = key.map(|key| key.trim().to_owned()).filter(|key| !key.is_empty());
    key.map(|key| {
        let mut header = HeaderValue::from_str(&format!("Bearer {key}"))
            .map_err(|_| Usage("the key has characters that no key has: is it the right file?".into()))?;
        header.set_sensitive(true);
        Ok(header)
    })
    .transpose()
}

/// No redirects: the key goes to nobody but the address that was given.
fn http(is_secure: bool) -> anyhow::Result<reqwest::Client> {
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let mut roots = rustls::RootCertStore::empty();
    if is_secure {
        roots.roots.extend_from_slice(webpki_roots::TLS_SERVER_ROOTS);
        // The machine's own too: an API behind a private authority.
        roots.add_parsable_certificates(rustls_native_certs::load_native_certs().certs);
    }
    let mut tls = rustls::ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()?
        .with_root_certificates(roots)
        .with_no_client_auth();
    tls.alpn_protocols = vec![b"h2".to_vec(), b"http/1.1".to_vec()];
    reqwest::Client::builder()
        .tls_backend_preconfigured(tls)
        .redirect(reqwest::redirect::Policy::none())
        .connect_timeout(CONNECT_TIMEOUT)
        .read_timeout(READ_TIMEOUT)
        .user_agent(concat!("eventrail/", env!("CARGO_PKG_VERSION")))
        .build()
        .context("no HTTP client")
}

/// One request to the API.
pub(crate) struct Request<'a> {
    client: &'a Client,
    method: Method,
    url: Url,
    body: Option<String>,
    header: Option<(HeaderName, HeaderValue)>,
}

impl Request<'_> {
    /// Adds a parameter, if there is a value.
    #[must_use]
    pub(crate) fn query(mut self, name: &str, value: Option<impl Display>) -> Self {
        if let Some(value) = value {
            self.url.query_pairs_mut().append_pair(name, &value.to_string());
        }
        self
    }

    #[must_use]
    pub(crate) fn header(mut self, name: HeaderName, value: HeaderValue) -> Self {
        self.header = Some((name, value));
        self
    }

    async fn send(self) -> Result<reqwest::Response, ApiError> {
        let base = &self.client.base;
        let mut request = self.client.http.request(self.method, self.url);
        if let Some(key) = &self.client.key {
            request = request.header(reqwest::header::AUTHORIZATION, key);
        }
        if let Some((name, value)) = self.header {
            request = request.header(name, value);
        }
        if let Some(body) = self.body {
            request = request.header(CONTENT_TYPE, "application/json").body(body);
        }
        let response = request.send().await.map_err(|error| ApiError::unreachable(base, &error))?;
        if response.status().is_success() {
            return Ok(response);
        }
        let status = response.status();
        let text = response.text().await.map_err(|error| ApiError::unreachable(base, &error))?;
        Err(ApiError::refused(base, status, &text, self.client.key.is_some()))
    }

    /// The answer as it came.
    pub(crate) async fn answer(self) -> Result<Answer, ApiError> {
        let base = &self.client.base.clone();
        let response = self.send().await?;
        let text = response.text().await.map_err(|error| ApiError::unreachable(base, &error))?;
        if text.is_empty() {
            return Ok(Answer { value: Value::Null, text });
        }
        let value = serde_json::from_str(&text).map_err(|_| ApiError::Foreign(base.to_string()))?;
        Ok(Answer { value, text })
    }

    /// Hands on the answer's pieces as they come.
    pub(crate) async fn download(
        mut self,
        media_type: &'static str,
        mut sink: impl FnMut(&[u8]) -> std::io::Result<()>,
    ) -> anyhow::Result<()> {
        let base = self.client.base.clone();
        self.header = Some((ACCEPT, HeaderValue::from_static(media_type)));
        let mut response = self.send().await?;
        while let Some(piece) =
            response.chunk().await.map_err(|error| ApiError::unreachable(&base, &error))?
        {
            sink(&piece)?;
        }
        Ok(())
    }

    /// The first `limit` items of a list, over as many pages as they take.
    pub(crate) async fn list(self, limit: Limit) -> Result<Listing, ApiError> {
        let mut listing = Listing { items: Vec::new(), is_cut: false };
        let mut cursor: Option<String> = None;
        loop {
            let left = limit.0.map_or(LARGEST_PAGE, |limit| limit - listing.items.len());
            let page =
                Request { url: self.url.clone(), method: Method::GET, body: None, header: None, ..self };
            let page = page.query("limit", Some(left.min(LARGEST_PAGE))).query("cursor", cursor.take());
            let answer = page.answer().await?;
            let page: Page = serde_json::from_str(&answer.text)
                .map_err(|_| ApiError::Foreign(self.client.base.to_string()))?;
            listing.items.extend(page.data);
            cursor = page.next_cursor;
            listing.is_cut = cursor.is_some();
            if cursor.is_none() || limit.0.is_some_and(|limit| listing.items.len() >= limit) {
                return Ok(listing);
            }
        }
    }

    /// All items of a list that has no pages.
    pub(crate) async fn whole_list(self) -> Result<Listing, ApiError> {
        let base = self.client.base.to_string();
        let answer = self.answer().await?;
        let page: Page = serde_json::from_str(&answer.text).map_err(|_| ApiError::Foreign(base))?;
        Ok(Listing { items: page.data, is_cut: page.next_cursor.is_some() })
    }
}

/// What the API answered: its text, and what it says.
pub(crate) struct Answer {
    pub(crate) text: String,
    pub(crate) value: Value,
}

#[derive(Deserialize)]
struct Page {
    data: Vec<Box<RawValue>>,
    #[serde(default)]
    next_cursor: Option<String>,
}

/// The items of a list, each as the API wrote it.
pub(crate) struct Listing {
    pub(crate) items: Vec<Box<RawValue>>,
    /// There are more than were asked for.
    pub(crate) is_cut: bool,
}

impl Listing {
    pub(crate) fn values(&self) -> Vec<Value> {
        self.items.iter().map(|item| serde_json::from_str(item.get()).unwrap_or_default()).collect()
    }
}

/// How many items are wanted; all without a number.
#[derive(Clone, Copy)]
pub(crate) struct Limit(pub(crate) Option<usize>);

#[derive(Args)]
pub(crate) struct LimitArgs {
    /// So many at most
    #[arg(long, default_value_t = 50, value_parser = clap::value_parser!(u32).range(1..))]
    limit: u32,
    /// All, however many there are
    #[arg(long, conflicts_with = "limit")]
    all: bool,
}

impl LimitArgs {
    pub(crate) fn limit(&self) -> Limit {
        Limit((!self.all).then_some(self.limit as usize))
    }
}
