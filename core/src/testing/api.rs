//! A client of EventRail's own API: a few words for what tests say often.

use serde_json::{Value, json};

/// An answer of the API.
#[derive(Debug, Clone)]
pub struct Reply {
    pub status: u16,
    pub headers: reqwest::header::HeaderMap,
    /// `null` where the body is not JSON.
    pub body: Value,
    pub text: String,
}

impl Reply {
    /// The header's value, or `""`.
    pub fn header(&self, name: &str) -> &str {
        self.headers.get(name).and_then(|value| value.to_str().ok()).unwrap_or_default()
    }

    /// Panics unless the status is this one.
    #[must_use]
    pub fn expect(self, status: u16) -> Self {
        assert_eq!(self.status, status, "{}", self.text);
        self
    }
}

/// An endpoint that a test has made.
#[derive(Debug, Clone)]
pub struct Endpoint {
    pub id: String,
    pub secret: String,
}

#[derive(Debug, Clone)]
pub struct Api {
    base: String,
    key: Option<String>,
    client: reqwest::Client,
}

impl Api {
    /// `base` such as `http://127.0.0.1:8080`.
    pub fn new(base: impl Into<String>) -> Self {
        Self { base: base.into(), key: None, client: http_client() }
    }

    /// The same API, asked with this key.
    #[must_use]
    pub fn with_key(&self, key: impl Into<String>) -> Self {
        Self { key: Some(key.into()), ..self.clone() }
    }

    pub fn base(&self) -> &str {
        &self.base
    }

    /// A request to a path of the API, for what the other methods don't offer.
    pub fn request(&self, method: &str, path: &str) -> reqwest::RequestBuilder {
        let method = reqwest::Method::from_bytes(method.as_bytes()).unwrap();
        let request = self.client.request(method, format!("{}{path}", self.base));
        match &self.key {
            Some(key) => request.bearer_auth(key),
            None => request,
        }
    }

    /// # Errors
    /// There was no answer.
    pub async fn send(request: reqwest::RequestBuilder) -> reqwest::Result<Reply> {
        let answer = request.send().await?;
        let (status, headers) = (answer.status().as_u16(), answer.headers().clone());
        let text = answer.text().await?;
        Ok(Reply { status, headers, body: serde_json::from_str(&text).unwrap_or_default(), text })
    }

    pub async fn get(&self, path: &str) -> Reply {
        Self::send(self.request("GET", path)).await.unwrap()
    }

    pub async fn delete(&self, path: &str) -> Reply {
        Self::send(self.request("DELETE", path)).await.unwrap()
    }

    pub async fn post(&self, path: &str, body: &Value) -> Reply {
        Self::send(self.request("POST", path).json(body)).await.unwrap()
    }

    /// Posts an event without a key; answers its id.
    pub async fn post_event(&self, event_type: &str, source: &str, payload: Value) -> String {
        let body = json!({ "event_type": event_type, "source": source, "payload": payload });
        let reply = self.post("/events", &body).await.expect(201);
        reply.body["id"].as_str().unwrap().to_owned()
    }

    /// Posts events as one batch; answers their ids.
    pub async fn post_batch(&self, events: &[Value]) -> Vec<String> {
        let reply = self.post("/events/batch", &json!({ "events": events })).await.expect(200);
        let results = reply.body["data"].as_array().unwrap();
        results.iter().map(|result| result["id"].as_str().unwrap().to_owned()).collect()
    }

    /// Posts an event under an `Idempotency-Key`.
    pub async fn post_event_once(
        &self,
        key: &str,
        event_type: &str,
        source: &str,
        payload: Value,
    ) -> reqwest::Result<Reply> {
        let body = json!({ "event_type": event_type, "source": source, "payload": payload });
        Self::send(self.request("POST", "/events").header("idempotency-key", key).json(&body)).await
    }

    pub async fn create_group(&self, name: &str) {
        let _ = self.post("/consumer-groups", &json!({ "name": name })).await.expect(201);
    }

    /// Creates an endpoint for all events.
    pub async fn create_endpoint(&self, group: &str, url: &str) -> Endpoint {
        self.create_endpoint_with(group, &json!({ "url": url })).await
    }

    pub async fn create_endpoint_with(&self, group: &str, body: &Value) -> Endpoint {
        let reply = self.post(&format!("/consumer-groups/{group}/endpoints"), body).await.expect(201);
        let text = |field: &str| reply.body[field].as_str().unwrap().to_owned();
        Endpoint { id: text("id"), secret: text("secret") }
    }
}

/// A client without redirects, proxies or TLS trust of any kind.
pub(super) fn http_client() -> reqwest::Client {
    // Somebody else in this process may have installed it first.
    let _ = rustls::crypto::ring::default_provider().install_default();
    let no_certificates = rustls::ClientConfig::builder()
        .with_root_certificates(rustls::RootCertStore::empty())
        .with_no_client_auth();
    reqwest::Client::builder()
        .tls_backend_preconfigured(no_certificates)
        .redirect(reqwest::redirect::Policy::none())
        .no_proxy()
        .build()
        .unwrap()
}
