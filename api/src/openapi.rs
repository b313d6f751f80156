//! The specification, OpenAPI 3.1, made from the handlers' annotations. `openapi.json` at the top level is
//! a copy that a test holds against it; `make openapi` writes it anew.
//!
//! A new route:
//! 1. annotate its handler with `#[utoipa::path(post, path = "/…", tag = "…", params(…), request_body = …,
//!    responses((status = 201, body = …), (status = 409, description = "name-taken")))]`. The operation's
//!    id is the handler's name; the doc comment is its summary and description;
//! 2. list it in [`crate::routes`] inside `routes!`, all methods of one path together;
//! 3. derive `ToSchema` for its bodies (types of core have their schemas in [`schema`], named with
//!    `#[schema(value_type = …)]`) and `IntoParams` for its query; paths take theirs from [`params`].
//!
//! [`complete`] adds what all operations share: the problems that follow from what an operation takes, the
//! headers of answers, and that open paths need no key. A refusal of the operation's own is declared by its
//! status, and its slugs as the description.

use std::collections::BTreeSet;

use utoipa::OpenApi;
use utoipa::openapi::header::Header;
use utoipa::openapi::path::{Operation, Parameter, ParameterIn};
use utoipa::openapi::response::{Response, ResponseBuilder};
use utoipa::openapi::schema::{Object, Type};
use utoipa::openapi::security::{HttpAuthScheme, HttpBuilder, SecurityScheme};
use utoipa::openapi::{Content, PathItem, Ref, RefOr};

use crate::auth;
use crate::problem::Kind;

pub(crate) mod params;
pub(crate) mod schema;

/// Routes for machines that look after the service: they ignore queries and have few problems.
pub(crate) const SERVICE: &str = "service";

#[derive(OpenApi)]
#[openapi(
    info(
        title = "EventRail",
        description = "Webhook delivery: producers post events, consumer groups have endpoints, and each \
                       endpoint is sent the events that it is subscribed to.\n\n\
                       Bodies are JSON in snake_case; times are RFC 3339 in UTC. Unknown fields and unknown \
                       query parameters are refused. Refusals are `application/problem+json` (RFC 9457); \
                       [/problems](/problems) describes each kind. Each answer has the header \
                       `x-request-id`: send your own (up to 64 letters, digits and `-_.:`) and it is kept."
    ),
    tags(
        (name = "events", description = "What happened: posted by producers, kept in one log"),
        (name = "groups", description = "Consumer groups: a team's endpoints, paused and read together"),
        (name = "endpoints", description = "Where a team listens"),
        (name = "deliveries", description = "What became of an event at an endpoint, attempt by attempt"),
        (name = "replays", description = "What is sent again: windows of the log, dead letters, a group's cursor moved"),
        (name = "dead letters", description = "Deliveries that were given up: read, sent again, put away"),
        (name = "access", description = "Keys, and who changed what"),
        (name = SERVICE, description = "Probes, metrics and documents")
    ),
    components(schemas(schema::Problem, schema::EventId, schema::EndpointId, schema::GroupName)),
    security(("bearer" = []))
)]
struct Document;

/// What is known before any route.
pub(crate) fn base() -> utoipa::openapi::OpenApi {
    let mut document = Document::openapi();
    let bearer = HttpBuilder::new().scheme(HttpAuthScheme::Bearer).description(Some(
        "A key, or the `ADMIN_TOKEN`. Without an `ADMIN_TOKEN` the API is open on loopback.",
    ));
    let components = document.components.get_or_insert_default();
    components.add_security_scheme("bearer", SecurityScheme::Http(bearer.build()));
    document
}

/// The whole specification.
pub fn document() -> utoipa::openapi::OpenApi {
    complete(crate::routes::routes().into_openapi())
}

/// The specification as `openapi.json` holds it.
///
/// # Panics
/// Never: it has only text for keys.
pub fn document_json() -> String {
    let mut text = serde_json::to_string_pretty(&document()).unwrap_or_default();
    text.push('\n');
    text
}

/// Adds what all operations share.
fn complete(mut document: utoipa::openapi::OpenApi) -> utoipa::openapi::OpenApi {
    for (path, item) in &mut document.paths.paths {
        let is_open = auth::is_open(path);
        for operation in operations(item) {
            if is_open {
                operation.security = Some(Vec::new());
            }
            for kind in common_problems(operation, is_open) {
                declare(operation, kind);
            }
            for (status, response) in &mut operation.responses.responses {
                if let RefOr::T(response) = response {
                    finish(status, response);
                }
            }
        }
    }
    document
}

fn operations(item: &mut PathItem) -> impl Iterator<Item = &mut Operation> {
    [&mut item.get, &mut item.post, &mut item.patch, &mut item.put, &mut item.delete].into_iter().flatten()
}

/// The refusals that follow from what an operation takes.
fn common_problems(operation: &Operation, is_open: bool) -> Vec<Kind> {
    let mut kinds = Vec::new();
    if !is_open {
        kinds.extend([Kind::Unauthorized, Kind::Forbidden, Kind::TooFast]);
    }
    let is_service = operation.tags.iter().flatten().any(|tag| tag == SERVICE);
    if is_service {
        return kinds;
    }
    kinds.extend([Kind::InvalidQuery, Kind::HeadTooLarge, Kind::Internal, Kind::Unavailable, Kind::TimedOut]);
    let parameters = operation.parameters.iter().flatten();
    let is_in_path =
        |it: &RefOr<Parameter>| matches!(it, RefOr::T(it) if matches!(it.parameter_in, ParameterIn::Path));
    if parameters.clone().any(is_in_path) {
        kinds.extend([Kind::BadRequest, Kind::NotFound]);
    }
    if operation.request_body.is_some() {
        kinds.extend([
            Kind::BadRequest,
            Kind::InvalidJson,
            Kind::RequestTimeout,
            Kind::BodyTooLarge,
            Kind::UnsupportedMediaType,
            Kind::InvalidFields,
        ]);
    }
    kinds
}

/// Adds the kind's slug to what its status says.
fn declare(operation: &mut Operation, kind: Kind) {
    let (slug, status, _) = kind.parts();
    let responses = &mut operation.responses.responses;
    let response = responses.entry(status.as_str().to_owned()).or_insert_with(|| Response::default().into());
    if let RefOr::T(response) = response {
        let slugs: BTreeSet<&str> =
            response.description.split(", ").filter(|slug| !slug.is_empty()).collect();
        if !slugs.contains(slug) {
            let separator = if slugs.is_empty() { "" } else { ", " };
            response.description = format!("{}{separator}{slug}", response.description);
        }
    }
}

/// Explains the slugs, gives refusals without a body of their own the body of problems, and names headers.
fn finish(status: &str, response: &mut Response) {
    let is_refusal = status.starts_with(['4', '5']);
    if is_refusal && response.content.is_empty() {
        let kinds: Vec<Kind> = response.description.split(", ").filter_map(Kind::of_slug).collect();
        let lines: Vec<String> = kinds.iter().map(|kind| explain(*kind)).collect();
        let problem = Content::new(Some(Ref::from_schema_name("Problem")));
        *response = ResponseBuilder::from(std::mem::take(response))
            .description(lines.join("; "))
            .content("application/problem+json", problem)
            .build();
    }
    let mut header = |name: &str, of: Type, description: &str| {
        let mut header = Header::new(Object::with_type(of));
        header.description = Some(description.to_owned());
        response.headers.entry(name.to_owned()).or_insert(header.into());
    };
    header("x-request-id", Type::String, "The request's id, which is also in the log");
    match status {
        "401" => header("www-authenticate", Type::String, "`Bearer`"),
        "429" | "503" => header("retry-after", Type::Integer, "Seconds after which to try again"),
        _ => {}
    }
}

fn explain(kind: Kind) -> String {
    let (slug, _, title) = kind.parts();
    format!("[`{slug}`](/problems#{slug}): {title}")
}
