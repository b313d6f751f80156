//! What people and programs read about the API: the specification, and the page that explains problems.

use std::sync::LazyLock;

use axum::http::header;
use axum::response::{IntoResponse as _, Response};

use crate::openapi::{SERVICE, document_json};

/// The specification
///
/// OpenAPI 3.1, this document.
#[utoipa::path(
    get,
    path = "/openapi.json",
    tag = SERVICE,
    responses((status = 200, description = "OpenAPI 3.1", body = serde_json::Value))
)]
pub(super) async fn openapi_json() -> Response {
    static DOCUMENT: LazyLock<String> = LazyLock::new(document_json);
    ([(header::CONTENT_TYPE, "application/json")], DOCUMENT.as_str()).into_response()
}

/// What problems mean
///
/// The `type` of each problem points into this page.
#[utoipa::path(
    get,
    path = "/problems",
    tag = SERVICE,
    responses((status = 200, description = "A page", body = String, content_type = "text/markdown"))
)]
pub(super) async fn problems() -> Response {
    let page = include_str!("../../../docs/PROBLEMS.md");
    ([(header::CONTENT_TYPE, "text/markdown; charset=utf-8")], page).into_response()
}
