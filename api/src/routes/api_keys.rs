//! API keys: made, listed and revoked by operators.

use axum::extract::{Path, State};
use axum::http::{StatusCode, header};
use axum::response::{IntoResponse as _, Response};
use chrono::{DateTime, Datelike as _, Utc};
use eventrail_core::db::key::{self, ApiKey, Created, KeyDraft, Revoked};
use eventrail_core::event::Source;
use eventrail_core::group::GroupName;
use eventrail_core::ids::KeyId;
use eventrail_core::key::{NewKey, Role};
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use super::Page;
use super::events::{json, micros, micros_or_null};
use crate::Api;
use crate::body::Json;
use crate::caller::Operator;
use crate::extract::{NoQuery, PageQuery, Query};
use crate::openapi::params::KeyPath;
use crate::openapi::schema;
use crate::problem::{FieldError, Problem};

const MAX_NAMES: usize = 100;

/// What a key opens.
#[derive(Clone, Copy, Deserialize, ToSchema)]
#[serde(rename_all = "snake_case")]
enum RoleName {
    /// Sends events, and reads those of its sources.
    Producer,
    /// Everything about its groups but making and deleting them.
    Subscriber,
    /// Everything.
    Operator,
}

#[derive(Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct KeyBody {
    /// For people: what has the key.
    #[schema(value_type = String, min_length = 1, max_length = 128)]
    name: Option<String>,
    #[schema(value_type = RoleName)]
    role: Option<RoleName>,
    /// Where a subscriber is at home. Required for that role, and refused for the others.
    #[schema(value_type = Option<Vec<schema::GroupName>>, max_items = 100)]
    groups: Option<Vec<GroupName>>,
    /// What a producer may send and read; everything by default. Refused for the other roles.
    #[schema(value_type = Option<Vec<schema::Source>>, max_items = 100)]
    sources: Option<Vec<Source>>,
    /// How often the key may be used, in each process of the API; without limit by default.
    #[schema(minimum = 1, maximum = 100_000)]
    rate_per_second: Option<i64>,
    /// In the future, with a year of four digits; never by default.
    expires_at: Option<DateTime<Utc>>,
}

impl KeyBody {
    fn into_draft(self, now: DateTime<Utc>) -> Result<KeyDraft, Problem> {
        let mut errors = Vec::new();
        let mut refuse = |name: &str, detail: &str| {
            errors.push(FieldError::new(format!("/{name}"), detail));
        };
        let name = self.name.unwrap_or_default();
        if !(1..=128).contains(&name.chars().count()) || name.chars().any(char::is_control) {
            refuse("name", "is required, with 1 to 128 characters, none of them a control character");
        }
        if self.role.is_none() {
            refuse("role", "is required");
        }
        let groups: Vec<String> = self.groups.iter().flatten().map(ToString::to_string).collect();
        let sources: Vec<String> = self.sources.iter().flatten().map(ToString::to_string).collect();
        match self.role {
            Some(RoleName::Subscriber) if groups.is_empty() => {
                refuse("groups", "must name at least one group");
            }
            Some(RoleName::Producer | RoleName::Operator) if !groups.is_empty() => {
                refuse("groups", "are for subscribers");
            }
            _ => {}
        }
        if !sources.is_empty() && !matches!(self.role, Some(RoleName::Producer)) {
            refuse("sources", "are for producers");
        }
        for (name, count) in [("groups", groups.len()), ("sources", sources.len())] {
            if count > MAX_NAMES {
                refuse(name, "must hold at most 100 names");
            }
        }
        let rate = self.rate_per_second.map(i32::try_from);
        if rate.is_some_and(|rate| !rate.is_ok_and(|rate| (1..=100_000).contains(&rate))) {
            refuse("rate_per_second", "must be 1 to 100000");
        }
        if self.expires_at.is_some_and(|at| at <= now) {
            refuse("expires_at", "must be in the future");
        }
        if self.expires_at.is_some_and(|at| at.year() > 9999) {
            refuse("expires_at", "must be in the year 9999 at the latest");
        }
        let role = match self.role {
            Some(RoleName::Producer) => Role::Producer,
            Some(RoleName::Subscriber) => Role::Subscriber,
            Some(RoleName::Operator) | None => Role::Operator,
        };
        if !errors.is_empty() {
            return Err(Problem::fields(errors));
        }
        let rate_per_second = rate.and_then(Result::ok);
        Ok(KeyDraft { name, role, groups, sources, rate_per_second, expires_at: self.expires_at })
    }
}

#[derive(Serialize, ToSchema)]
struct KeyView {
    #[schema(value_type = schema::KeyId)]
    id: KeyId,
    name: String,
    #[schema(value_type = RoleName)]
    role: String,
    #[schema(value_type = Vec<schema::GroupName>)]
    groups: Vec<String>,
    #[schema(value_type = Vec<schema::Source>)]
    sources: Vec<String>,
    rate_per_second: Option<i32>,
    /// How the key begins.
    prefix: String,
    #[serde(serialize_with = "micros")]
    created_at: DateTime<Utc>,
    #[serde(serialize_with = "micros_or_null")]
    expires_at: Option<DateTime<Utc>>,
    /// Shown now and never again.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(value_type = String, required = false)]
    key: Option<String>,
}

impl From<ApiKey> for KeyView {
    fn from(key: ApiKey) -> Self {
        Self {
            id: key.id,
            name: key.name,
            role: key.role,
            groups: key.groups,
            sources: key.sources,
            rate_per_second: key.rate_per_second,
            prefix: key.prefix,
            created_at: key.created_at,
            expires_at: key.expires_at,
            key: None,
        }
    }
}

/// Make a key
///
/// For operators. The answer holds the key, which is not shown again: only its hash is kept.
#[utoipa::path(
    post,
    path = "/api-keys",
    tag = "access",
    request_body = KeyBody,
    responses((status = 201, description = "Made; not to be stored by caches", body = KeyView))
)]
pub(super) async fn create_api_key(
    Operator(caller): Operator,
    State(api): State<Api>,
    _: NoQuery,
    Json(body): Json<KeyBody>,
) -> Result<Response, Problem> {
    let draft = body.into_draft(Utc::now())?;
    let key = NewKey::generate();
    match key::create(&api.pool, &caller.author("create_api_key"), &draft, &key).await? {
        Created::Created(made) => {
            let view = KeyView { key: Some(key.expose().to_owned()), ..KeyView::from(*made) };
            Ok((StatusCode::CREATED, [(header::CACHE_CONTROL, "no-store")], json(&view)).into_response())
        }
        Created::NoSuchGroup(index) => {
            Err(Problem::field(format!("/groups/{index}"), "there is no group of this name"))
        }
    }
}

/// List keys
///
/// For operators. The newest first, without those that were revoked.
#[utoipa::path(
    get,
    path = "/api-keys",
    tag = "access",
    params(PageQuery),
    responses((status = 200, description = "A page of keys", body = Page<KeyView>))
)]
pub(super) async fn list_api_keys(
    _: Operator,
    State(api): State<Api>,
    Query(page): Query<PageQuery>,
) -> Result<Response, Problem> {
    let limit = page.limit()?;
    let before = page.after(|cursor| cursor.parse().ok())?;
    let keys = key::list(&api.reads, before, limit + 1).await?;
    Ok(json(&Page::new(keys, limit, |key| key.id.to_string()).map(KeyView::from)))
}

/// Revoke a key
///
/// For operators. It stops within two seconds.
#[utoipa::path(
    delete,
    path = "/api-keys/{id}",
    tag = "access",
    params(KeyPath),
    responses((status = 204, description = "Revoked"))
)]
pub(super) async fn delete_api_key(
    Operator(caller): Operator,
    State(api): State<Api>,
    Path(id): Path<String>,
    _: NoQuery,
) -> Result<StatusCode, Problem> {
    let missing = || Problem::not_found("There is no key with this id");
    let id = id.parse().map_err(|_| missing())?;
    match key::revoke(&api.pool, &caller.author("delete_api_key"), id).await? {
        Revoked::Revoked(hash) => {
            api.keyring.forget(&hash);
            Ok(StatusCode::NO_CONTENT)
        }
        Revoked::NotFound => Err(missing()),
    }
}
