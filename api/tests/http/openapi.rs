//! The specification: committed, served, and complete.

use std::collections::HashSet;
use std::path::Path;

use eventrail_api::openapi;
use eventrail_api::problem::Kind;
use eventrail_core::testing::Stack;
use serde_json::Value;

use crate::support::{Options, Server, assert_problem};

const COMMITTED: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../openapi.json");

#[test]
fn the_committed_specification_is_the_code_s() {
    let committed = std::fs::read_to_string(COMMITTED).unwrap_or_default();
    assert!(committed == openapi::document_json(), "openapi.json is out of date: run `make openapi`");
}

#[test]
#[ignore = "writes openapi.json: `make openapi`"]
fn write_the_specification() {
    std::fs::write(COMMITTED, openapi::document_json()).unwrap();
}

#[tokio::test]
async fn the_specification_is_served_to_anybody() {
    let stack = Stack::start().await;
    let Server { api, .. } = &Server::start(&stack).await;
    let served = api.get("/openapi.json").await.expect(200);
    assert_eq!(served.header("content-type"), "application/json");
    assert_eq!(served.text, openapi::document_json());
}

#[tokio::test]
async fn the_page_for_people_needs_no_other_host() {
    let stack = Stack::start().await;
    let options = Options { admin_token: Some("token".into()), ..Options::default() };
    let Server { api, .. } = &Server::start_with(&stack, options).await;
    let page = api.get("/docs").await.expect(200);
    let parts: Vec<&str> = page.text.split('"').filter(|text| text.starts_with("/docs/")).collect();
    assert_eq!(parts.len(), 5, "{parts:?}");
    for reply in [&page, &api.get("/docs/swagger-initializer.js").await.expect(200)] {
        assert!(!reply.text.contains("http://") && !reply.text.contains("https://"), "{}", reply.text);
    }
    for part in parts {
        let part = api.get(part).await.expect(200);
        let policy = part.header("content-security-policy");
        assert!(policy.starts_with("default-src 'none'; script-src 'self';"), "{policy}");
        assert!(!policy.contains("http"), "{policy}");
    }
    for missing in ["/docs/", "/docs/index.html", "/docs/nothing.js"] {
        assert_problem(&api.get(missing).await, 404, "not-found");
    }
}

/// Path, method and description of each operation.
fn operations() -> Vec<(String, String, Value)> {
    let document: Value = serde_json::from_str(&openapi::document_json()).unwrap();
    let paths = document["paths"].as_object().unwrap().clone();
    let of_path = |(path, item): (String, Value)| {
        let operations = item.as_object().unwrap().clone().into_iter();
        operations.map(move |(method, operation)| (path.clone(), method, operation)).collect::<Vec<_>>()
    };
    paths.into_iter().flat_map(of_path).collect()
}

#[test]
fn every_route_is_specified() {
    let routes = Path::new(env!("CARGO_MANIFEST_DIR")).join("src/routes");
    let mut handlers = 0;
    for file in std::fs::read_dir(routes).unwrap() {
        let text = std::fs::read_to_string(file.unwrap().path()).unwrap();
        assert!(!text.contains(".route("), "`.routes(routes!(…))` alone puts a route into the specification");
        handlers += text.matches("#[utoipa::path(").count();
    }
    assert_eq!(operations().len(), handlers, "each annotated handler is listed in routes::routes");
}

#[test]
fn every_operation_is_described_in_full() {
    let mut ids = HashSet::new();
    for (path, method, operation) in operations() {
        let at = format!("{method} {path}");
        assert!(ids.insert(operation["operationId"].as_str().unwrap().to_owned()), "{at}: its id is taken");
        assert!(operation["summary"].is_string(), "{at}: no summary");
        assert_eq!(operation["tags"].as_array().unwrap().len(), 1, "{at}: one tag");
        for name in path.split('/').filter_map(|part| part.strip_prefix('{')?.strip_suffix('}')) {
            let parameters = operation["parameters"].as_array().unwrap();
            let is_this = |it: &&Value| it["name"] == name && it["in"] == "path";
            assert!(parameters.iter().any(|it| is_this(&it)), "{at}: {{{name}}} is not described");
        }
        let responses = operation["responses"].as_object().unwrap();
        assert!(responses.keys().any(|status| status.starts_with('2')), "{at}: no success");
        for (status, response) in responses {
            let at = format!("{at}: {status}");
            assert!(!response["description"].as_str().unwrap().is_empty(), "{at}: no description");
            assert!(response["headers"]["x-request-id"].is_object(), "{at}: no x-request-id");
            let is_health = path == "/health";
            if status.starts_with(['4', '5']) && !is_health {
                assert_eq!(
                    response["content"]["application/problem+json"]["schema"]["$ref"],
                    "#/components/schemas/Problem",
                    "{at}"
                );
            }
        }
    }
}

#[test]
fn every_kind_of_problem_has_an_operation_that_declares_it() {
    let mut declared = HashSet::new();
    for (path, method, operation) in operations() {
        for (status, response) in operation["responses"].as_object().unwrap() {
            let description = response["description"].as_str().unwrap();
            for slug in description.split("(/problems#").skip(1).filter_map(|rest| rest.split(')').next()) {
                let kind = Kind::of_slug(slug).unwrap_or_else(|| panic!("{method} {path}: no kind {slug}"));
                assert_eq!(kind.parts().1.as_str(), status, "{method} {path}: {slug}");
                declared.insert(slug.to_owned());
            }
        }
    }
    // A wrong method is no operation.
    declared.insert("method-not-allowed".to_owned());
    let missing: Vec<&str> =
        Kind::ALL.iter().map(|kind| kind.parts().0).filter(|slug| !declared.contains(*slug)).collect();
    assert!(missing.is_empty(), "{missing:?}");
}
