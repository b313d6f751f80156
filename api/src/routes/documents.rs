//! What people and programs read about the API: the specification, its page (Swagger UI, which is part of the
//! binary and asks no other host), and the page that explains problems.

use std::borrow::Cow;
use std::sync::{Arc, LazyLock};

use axum::extract::Path;
use axum::http::header;
use axum::response::{IntoResponse as _, Response};
use utoipa_swagger_ui::Config;

use crate::openapi::params::FilePath;
use crate::openapi::{SERVICE, document_json};
use crate::problem::{Kind, Problem};

/// Nothing from elsewhere, no scripts in the page, and nobody may frame it. Styles are the exception: Swagger UI
/// writes some as attributes.
const DOCS_POLICY: &str = "default-src 'none'; script-src 'self'; style-src 'self' 'unsafe-inline'; \
                           img-src 'self' data:; font-src 'self'; connect-src 'self'; base-uri 'none'; \
                           form-action 'none'; frame-ancestors 'none'";

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

/// The API for people
///
/// This specification as a page, on which it can be tried.
#[utoipa::path(
    get,
    path = "/docs",
    tag = SERVICE,
    responses((status = 200, description = "A page", body = String, content_type = "text/html"))
)]
pub(super) async fn docs() -> Response {
    static PAGE: &str = include_str!("docs.html");
    page_part("text/html; charset=utf-8", Cow::Borrowed(PAGE.as_bytes()))
}

/// A part of the page for people
#[utoipa::path(
    get,
    path = "/docs/{file}",
    tag = SERVICE,
    params(FilePath),
    responses(
        (status = 200, description = "A script, a style or an image", content(
            (String = "text/javascript"), (String = "text/css"), (Vec<u8> = "image/png")
        )),
        (status = 404, description = "not-found"),
    )
)]
pub(super) async fn docs_file(Path(file): Path<String>) -> Result<Response, Problem> {
    static CONFIG: LazyLock<Arc<Config<'static>>> = LazyLock::new(|| {
        let config = Config::from("/openapi.json").validator_url("none").persist_authorization(false);
        Arc::new(config.doc_expansion("list").default_models_expand_depth(-1).display_operation_id(true))
    });
    // The index is our own: the one of Swagger UI has an inline style, and paths that need a slash behind.
    match utoipa_swagger_ui::serve(&file, Arc::clone(&CONFIG)) {
        Ok(Some(part)) if !file.is_empty() && file != "index.html" => {
            Ok(page_part(&part.content_type, part.bytes))
        }
        Ok(_) => Err(Problem::not_found("The page has no such part")),
        Err(error) => {
            tracing::error!(error, "a part of the documentation could not be written");
            Err(Problem::new(Kind::Internal, "The page could not be written"))
        }
    }
}

fn page_part(content_type: &str, bytes: Cow<'static, [u8]>) -> Response {
    let headers = [
        (header::CONTENT_TYPE, content_type),
        (header::CONTENT_SECURITY_POLICY, DOCS_POLICY),
        (header::X_CONTENT_TYPE_OPTIONS, "nosniff"),
        (header::REFERRER_POLICY, "no-referrer"),
    ];
    (headers, bytes).into_response()
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
