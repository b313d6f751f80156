//! The audit log: who changed what, when, and from where.

use axum::extract::State;
use axum::response::Response;
use chrono::{DateTime, Utc};
use eventrail_core::db::audit::{self, Entry};
use serde::Serialize;
use serde_json::Value;
use utoipa::ToSchema;

use super::Page;
use super::events::{json, micros};
use crate::Api;
use crate::caller::Operator;
use crate::extract::{PageQuery, Query};
use crate::problem::Problem;

#[derive(Serialize, ToSchema)]
struct AuditView {
    #[serde(serialize_with = "micros")]
    at: DateTime<Utc>,
    /// A key's id, `admin` (who has the `ADMIN_TOKEN`), or `anonymous` (where the API is open).
    actor: String,
    /// The operation's id, as in this document.
    action: String,
    /// The names and ids of what it was about.
    subject: String,
    /// The address of the other end of the connection.
    address: String,
    /// More about the change, without secrets.
    detail: Value,
}

impl From<Entry> for AuditView {
    fn from(entry: Entry) -> Self {
        Self {
            at: entry.at,
            actor: entry.actor,
            action: entry.action,
            subject: entry.subject,
            address: entry.address,
            detail: entry.detail.0,
        }
    }
}

/// Read the audit log
///
/// For operators. Every change that was made over this API, and every reading of signing secrets; the newest
/// first.
#[utoipa::path(
    get,
    path = "/audit-log",
    tag = "access",
    params(PageQuery),
    responses((status = 200, description = "A page of entries", body = Page<AuditView>))
)]
pub(super) async fn list_audit_log(
    _: Operator,
    State(api): State<Api>,
    Query(page): Query<PageQuery>,
) -> Result<Response, Problem> {
    let limit = page.limit()?;
    let before = page.after(|cursor| cursor.strip_prefix('a')?.parse().ok())?;
    let entries = audit::list(&api.reads, before, limit + 1).await?;
    Ok(json(&Page::new(entries, limit, |entry| format!("a{}", entry.id)).map(AuditView::from)))
}
