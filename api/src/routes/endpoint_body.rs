//! What an endpoint looks like from outside: as it is sent, and as it is shown.

use chrono::{DateTime, Utc};
use eventrail_core::credentials::{Credentials, Shown};
use eventrail_core::db::endpoint::{Endpoint, NewEndpoint};
use eventrail_core::db::endpoint_change::Replacement;
use eventrail_core::endpoint::{CustomHeaders, EndpointUrl};
use eventrail_core::event::Source;
use eventrail_core::group::GroupName;
use eventrail_core::ids::EndpointId;
use eventrail_core::matching::{Filter, Pattern};
use eventrail_core::retry::RetryOverride;
use eventrail_core::secret::Secret;
use eventrail_core::start::Start;
use eventrail_core::vault::Vault;
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value, json};
use utoipa::ToSchema;

use super::description;
use super::events::{micros, micros_or_null};
use crate::body::Object;
use crate::openapi::schema;
use crate::problem::{FieldError, Problem};

const MAX_PATTERNS: usize = 100;

#[derive(Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct EndpointBody {
    #[schema(value_type = schema::EndpointUrl)]
    url: Option<EndpointUrl>,
    #[schema(value_type = Option<schema::Description>)]
    description: Option<String>,
    /// Which events it is sent; all by default.
    #[schema(value_type = Option<Vec<schema::Pattern>>, max_items = 100)]
    event_types: Option<Vec<Pattern>>,
    /// Whose events it is sent; everybody's by default.
    #[schema(value_type = Option<Vec<schema::Source>>, max_items = 100)]
    sources: Option<Vec<Source>>,
    #[schema(value_type = Option<schema::CustomHeaders>)]
    headers: Option<CustomHeaders>,
    /// How long a delivery may take.
    #[schema(minimum = 100, maximum = 60_000)]
    timeout_ms: Option<i64>,
    /// How many deliveries may be under way at once.
    #[schema(minimum = 1, maximum = 10_000)]
    max_in_flight: Option<i64>,
    /// How many deliveries may begin in a second, from all dispatchers together; without limit by default.
    #[schema(minimum = 1, maximum = 100_000)]
    rate_per_second: Option<i64>,
    #[schema(value_type = Option<schema::RetryOverride>)]
    retry: Option<Object<RetryOverride>>,
    /// What the receiver wants to see as `authorization`. Never shown again.
    auth: Option<AuthBody>,
    /// Made by EventRail by default.
    #[schema(value_type = Option<schema::Secret>)]
    secret: Option<Secret>,
    /// From where on it is sent events; `latest` by default.
    #[schema(value_type = Option<schema::Start>)]
    start: Option<Start>,
}

/// A merge patch of an endpoint, for the specification. See [`document`] for what it is applied to.
#[derive(ToSchema)]
#[schema(as = EndpointPatch)]
#[expect(dead_code, reason = "read by the derive alone")]
pub(super) struct EndpointPatch {
    #[schema(value_type = schema::EndpointUrl, required = false)]
    url: String,
    #[schema(value_type = Option<schema::Description>)]
    description: Option<String>,
    #[schema(value_type = Option<Vec<schema::Pattern>>, max_items = 100)]
    event_types: Option<Vec<Pattern>>,
    #[schema(value_type = Option<Vec<schema::Source>>, max_items = 100)]
    sources: Option<Vec<Source>>,
    #[schema(value_type = Option<schema::CustomHeadersPatch>)]
    headers: Option<CustomHeaders>,
    #[schema(minimum = 100, maximum = 60_000)]
    timeout_ms: Option<i64>,
    #[schema(minimum = 1, maximum = 10_000)]
    max_in_flight: Option<i64>,
    #[schema(minimum = 1, maximum = 100_000)]
    rate_per_second: Option<i64>,
    #[schema(value_type = Option<schema::RetryOverride>)]
    retry: Option<RetryOverride>,
    auth: Option<AuthBody>,
}

/// Credentials for the receiver.
#[derive(Deserialize, ToSchema)]
#[serde(tag = "type", rename_all = "snake_case", deny_unknown_fields)]
enum AuthBody {
    Basic {
        #[schema(min_length = 1, max_length = 300)]
        username: String,
        #[schema(max_length = 300)]
        password: String,
    },
    Bearer {
        #[schema(min_length = 1, max_length = 1017, pattern = "^[!-~]+$")]
        token: String,
    },
}

impl AuthBody {
    fn credentials(&self, errors: &mut Vec<FieldError>) -> Option<Credentials> {
        let made = match self {
            Self::Basic { username, password } => Credentials::basic(username, password),
            Self::Bearer { token } => Credentials::bearer(token),
        };
        made.map_err(|error| errors.push(FieldError::new("/auth", error.to_string()))).ok()
    }
}

/// All of a body's fields, found usable.
pub(super) struct Checked {
    pub(super) url: EndpointUrl,
    description: String,
    filter: Filter,
    headers: CustomHeaders,
    timeout_ms: Option<i32>,
    max_in_flight: Option<i32>,
    rate_per_second: Option<i32>,
    retry: Option<RetryOverride>,
    auth: Option<Credentials>,
    pub(super) secret: Option<Secret>,
    start: Start,
}

impl EndpointBody {
    pub(super) fn check(self) -> Result<Checked, Problem> {
        let mut errors = Vec::new();
        let mut within = |name: &str, value: Option<i64>, low: i64, high: i64| {
            let value = value?;
            if (low..=high).contains(&value) {
                return i32::try_from(value).ok();
            }
            errors.push(FieldError::new(format!("/{name}"), format!("must be {low} to {high}")));
            None
        };
        let timeout_ms = within("timeout_ms", self.timeout_ms, 100, 60_000);
        let max_in_flight = within("max_in_flight", self.max_in_flight, 1, 10_000);
        let rate_per_second = within("rate_per_second", self.rate_per_second, 1, 100_000);
        let filter = Filter {
            event_types: self.event_types.unwrap_or_default(),
            sources: self.sources.unwrap_or_default(),
        };
        for (name, count) in [("event_types", filter.event_types.len()), ("sources", filter.sources.len())] {
            if count > MAX_PATTERNS {
                let detail = format!("must hold at most {MAX_PATTERNS} entries");
                errors.push(FieldError::new(format!("/{name}"), detail));
            }
        }
        let headers = self.headers.unwrap_or_default();
        let auth = self.auth.and_then(|auth| auth.credentials(&mut errors));
        if auth.is_some() && headers.iter().any(|(name, _)| name == "authorization") {
            errors.push(FieldError::new("/auth", "must not come with an `authorization` among the headers"));
        }
        let Some(url) = self.url else {
            errors.push(FieldError::new("/url", "is required"));
            return Err(Problem::fields(errors));
        };
        if !errors.is_empty() {
            return Err(Problem::fields(errors));
        }
        Ok(Checked {
            url,
            description: description(self.description)?,
            filter,
            headers,
            timeout_ms,
            max_in_flight,
            rate_per_second,
            retry: self.retry.map(|Object(retry)| retry),
            auth,
            secret: self.secret,
            start: self.start.unwrap_or_default(),
        })
    }
}

impl Checked {
    pub(super) fn into_new(self) -> NewEndpoint {
        NewEndpoint {
            url: self.url,
            description: self.description,
            filter: self.filter,
            headers: self.headers,
            timeout_ms: self.timeout_ms,
            max_in_flight: self.max_in_flight,
            rate_per_second: self.rate_per_second,
            retry: self.retry,
            auth: self.auth,
            secret: self.secret.unwrap_or_else(Secret::generate),
            start: self.start,
        }
    }

    pub(super) fn sets_authorization(&self) -> bool {
        self.headers.iter().any(|(name, _)| name == "authorization")
    }

    /// What replaces an endpoint, with its credentials only where the patch names them.
    pub(super) fn into_replacement(self, vault: &Vault, id: EndpointId, names_auth: bool) -> Replacement {
        let sealed = self.auth.map(|auth| vault.seal(auth.expose().as_bytes(), id.0.as_bytes()));
        Replacement {
            url: self.url,
            description: self.description,
            filter: self.filter,
            headers: self.headers,
            timeout_ms: self.timeout_ms,
            max_in_flight: self.max_in_flight,
            rate_per_second: self.rate_per_second,
            retry: self.retry,
            auth: names_auth.then_some(sealed),
        }
    }
}

/// An endpoint as a body that would make it, but for what is never shown. A merge patch is applied to this.
pub(super) fn document(endpoint: &Endpoint) -> Map<String, Value> {
    let whole = json!({
        "url": endpoint.url,
        "description": endpoint.description,
        "event_types": endpoint.event_types,
        "sources": endpoint.sources,
        "headers": endpoint.headers.0,
        "timeout_ms": endpoint.timeout_ms,
        "max_in_flight": endpoint.max_in_flight,
        "rate_per_second": endpoint.rate_per_second,
        "retry": endpoint.retry.as_ref().map(|retry| &retry.0),
    });
    match whole {
        Value::Object(members) => members.into_iter().filter(|(_, value)| !value.is_null()).collect(),
        _ => Map::new(),
    }
}

/// What may be shown of credentials.
#[derive(Serialize, ToSchema)]
struct AuthView {
    /// `basic` or `bearer`; `unreadable` if they were sealed with a key that the API does not have.
    #[schema(value_type = String)]
    r#type: &'static str,
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(value_type = String, required = false)]
    username: Option<String>,
}

impl AuthView {
    fn open(vault: &Vault, id: EndpointId, sealed: &[u8]) -> Self {
        let opened = vault.open(sealed, id.0.as_bytes());
        match opened.ok().and_then(|value| Credentials::shown(&value)) {
            Some(Shown::Basic { username }) => Self { r#type: "basic", username: Some(username) },
            Some(Shown::Bearer) => Self { r#type: "bearer", username: None },
            None => Self { r#type: "unreadable", username: None },
        }
    }
}

#[derive(Serialize, ToSchema)]
pub(super) struct EndpointView<'a> {
    #[schema(value_type = schema::EndpointId)]
    id: EndpointId,
    #[schema(value_type = schema::GroupName)]
    group: &'a GroupName,
    url: String,
    description: String,
    #[schema(value_type = Vec<schema::Pattern>)]
    event_types: Vec<String>,
    #[schema(value_type = Vec<schema::Source>)]
    sources: Vec<String>,
    #[schema(value_type = schema::CustomHeaders)]
    headers: CustomHeaders,
    timeout_ms: Option<i32>,
    max_in_flight: Option<i32>,
    rate_per_second: Option<i32>,
    #[schema(value_type = Option<schema::RetryOverride>)]
    retry: Option<RetryOverride>,
    auth: Option<AuthView>,
    #[schema(value_type = schema::EndpointStatus)]
    status: String,
    #[schema(value_type = Option<schema::DisabledReason>)]
    disabled_reason: Option<String>,
    /// Since when it is left out, because it is disabled or was overwhelmed; its backlog stays in the log.
    #[serde(serialize_with = "micros_or_null")]
    parked_at: Option<DateTime<Utc>>,
    /// `open` while deliveries are kept back because one after the other has failed: now and then one is tried,
    /// and a success closes it. Some seconds behind.
    #[schema(value_type = schema::BreakerState)]
    breaker: &'static str,
    #[serde(serialize_with = "micros")]
    created_at: DateTime<Utc>,
    #[serde(serialize_with = "micros")]
    updated_at: DateTime<Utc>,
    /// Shown when it was just made; later under `…/secret`.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(value_type = schema::Secret, required = false)]
    secret: Option<String>,
}

impl<'a> EndpointView<'a> {
    pub(super) fn with_secret(self, secret: &Secret) -> Self {
        Self { secret: Some(secret.to_text()), ..self }
    }

    pub(super) fn new(vault: &Vault, group: &'a GroupName, endpoint: Endpoint) -> Self {
        Self {
            id: endpoint.id,
            group,
            url: endpoint.url,
            description: endpoint.description,
            event_types: endpoint.event_types,
            sources: endpoint.sources,
            headers: endpoint.headers.0,
            timeout_ms: endpoint.timeout_ms,
            max_in_flight: endpoint.max_in_flight,
            rate_per_second: endpoint.rate_per_second,
            retry: endpoint.retry.map(|json| json.0),
            auth: endpoint.auth.map(|sealed| AuthView::open(vault, endpoint.id, &sealed)),
            status: endpoint.status,
            disabled_reason: endpoint.disabled_reason,
            parked_at: endpoint.parked_at,
            breaker: if endpoint.breaker_is_open { "open" } else { "closed" },
            created_at: endpoint.created_at,
            updated_at: endpoint.updated_at,
            secret: None,
        }
    }
}
