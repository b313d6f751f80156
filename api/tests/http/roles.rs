//! Each operation for each role: one table, which must name every operation of the specification. And what each
//! refuses, whatever it does.

use std::collections::BTreeSet;

use eventrail_api::openapi;
use eventrail_core::ids::{EndpointId, EventId};
use eventrail_core::testing::{Api, Reply, Stack};
use serde_json::{Value, json};

use crate::support::{ADMIN, Options, Server, assert_problem, make_key};

/// What a caller meets: `Opens` (whatever the answer is, it is not about the caller), 403, or 404.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Door {
    Opens,
    Forbidden,
    Hidden,
}

use Door::{Forbidden, Hidden, Opens};

/// Operation, then producer, subscriber of another group, subscriber of this group. Operators may do all.
const TABLE: &[(&str, [Door; 3])] = &[
    ("create_event", [Opens, Forbidden, Forbidden]),
    ("create_events", [Opens, Forbidden, Forbidden]),
    ("get_event", [Opens, Hidden, Opens]),
    ("list_events", [Opens, Opens, Opens]),
    ("list_event_types", [Opens, Opens, Opens]),
    ("list_event_deliveries", [Forbidden, Hidden, Opens]),
    ("list_deliveries", [Forbidden, Hidden, Opens]),
    ("get_delivery", [Forbidden, Hidden, Opens]),
    ("retry_delivery", [Forbidden, Hidden, Opens]),
    ("create_group", [Forbidden, Forbidden, Forbidden]),
    ("list_groups", [Forbidden, Opens, Opens]),
    ("get_group", [Forbidden, Hidden, Opens]),
    ("update_group", [Forbidden, Hidden, Opens]),
    ("pause_group", [Forbidden, Hidden, Opens]),
    ("resume_group", [Forbidden, Hidden, Opens]),
    ("create_endpoint", [Forbidden, Hidden, Opens]),
    ("list_endpoints", [Forbidden, Hidden, Opens]),
    ("get_endpoint", [Forbidden, Hidden, Opens]),
    ("update_endpoint", [Forbidden, Hidden, Opens]),
    ("enable_endpoint", [Forbidden, Hidden, Opens]),
    ("disable_endpoint", [Forbidden, Hidden, Opens]),
    ("test_endpoint", [Forbidden, Hidden, Opens]),
    ("get_endpoint_secret", [Forbidden, Hidden, Opens]),
    ("rotate_endpoint_secret", [Forbidden, Hidden, Opens]),
    ("create_replay", [Forbidden, Hidden, Opens]),
    ("list_replays", [Forbidden, Opens, Opens]),
    ("get_replay", [Forbidden, Hidden, Opens]),
    ("cancel_replay", [Forbidden, Hidden, Opens]),
    ("set_cursor", [Forbidden, Hidden, Opens]),
    ("list_dead_letters", [Forbidden, Opens, Opens]),
    ("redrive_dead_letters", [Forbidden, Hidden, Opens]),
    ("purge_dead_letters", [Forbidden, Hidden, Opens]),
    ("create_api_key", [Forbidden, Forbidden, Forbidden]),
    ("list_api_keys", [Forbidden, Forbidden, Forbidden]),
    ("delete_api_key", [Forbidden, Forbidden, Forbidden]),
    ("list_audit_log", [Forbidden, Forbidden, Forbidden]),
    ("metrics", [Forbidden, Forbidden, Forbidden]),
    ("delete_endpoint", [Forbidden, Hidden, Opens]),
    ("delete_group", [Forbidden, Forbidden, Forbidden]),
];

/// Method and path of an operation, from the specification.
fn find(document: &Value, id: &str) -> (String, String) {
    for (path, item) in document["paths"].as_object().unwrap() {
        for (method, operation) in item.as_object().unwrap() {
            if operation["operationId"] == id {
                return (method.to_uppercase(), path.clone());
            }
        }
    }
    panic!("{id} is no operation");
}

fn operations_with_keys(document: &Value) -> BTreeSet<String> {
    let items = document["paths"].as_object().unwrap().values();
    let operations = items.flat_map(|item| item.as_object().unwrap().values());
    let with_keys = operations.filter(|operation| operation["security"] != json!([]));
    with_keys.map(|operation| operation["operationId"].as_str().unwrap().to_owned()).collect()
}

struct World {
    event: String,
    endpoint: String,
    key: String,
    replay: String,
}

impl World {
    /// Of an operation, with the query that it can't do without.
    fn path(&self, operation: &str, template: &str) -> String {
        if operation == "purge_dead_letters" {
            return format!("{template}?group=ours");
        }
        let id = match template {
            path if path.starts_with("/events/") => &self.event,
            path if path.starts_with("/api-keys/") => &self.key,
            path if path.starts_with("/replays/") => &self.replay,
            _ => &self.endpoint,
        };
        template
            .replace("{group}", "ours")
            .replace("{event_id}", &self.event)
            .replace("{endpoint_id}", &self.endpoint)
            .replace("{id}", id)
    }
}

fn body(operation: &str) -> Option<Value> {
    let event = json!({"event_type": "a.b", "source": "s", "payload": 1});
    Some(match operation {
        "create_event" => event,
        "create_events" => json!({ "events": [event] }),
        "create_group" => json!({"name": "new"}),
        "create_endpoint" => json!({"url": "http://127.0.0.1:9/new"}),
        "create_api_key" => json!({"name": "new", "role": "producer"}),
        "create_replay" => {
            json!({"group": "ours", "from": "2026-01-01T00:00:00Z", "to": "2126-01-01T00:00:00Z"})
        }
        "set_cursor" => json!({"group": "ours", "start_id": "$"}),
        "redrive_dead_letters" => json!({"group": "ours"}),
        "update_group" | "update_endpoint" => json!({"description": "new"}),
        "enable_endpoint" | "rotate_endpoint_secret" => json!({}),
        _ => return None,
    })
}

async fn call(api: &Api, (method, path): (&str, &str), body: Option<&Value>) -> Reply {
    let request = api.request(method, path);
    Api::send(match body {
        Some(body) => request.json(body),
        None => request,
    })
    .await
    .unwrap()
}

#[tokio::test]
async fn each_operation_opens_to_its_roles_and_to_nobody_else() {
    let document: Value = serde_json::from_str(&openapi::document_json()).unwrap();
    let named: BTreeSet<String> = TABLE.iter().map(|(id, _)| (*id).to_owned()).collect();
    assert_eq!(named, operations_with_keys(&document), "the table has each operation that needs a key");

    let stack = Stack::start().await;
    let options = Options { admin_token: Some(ADMIN.into()), ..Options::default() };
    let server = Server::start_with(&stack, options).await;
    let admin = server.api.with_key(ADMIN);
    admin.create_group("ours").await;
    admin.create_group("theirs").await;
    let endpoint = admin.create_endpoint("ours", "http://127.0.0.1:9/").await.id;
    let event = admin.post_event("a.b", "s", json!(1)).await;
    sqlx::query(
        "insert into delivery (event_id, endpoint_id, group_id, feed_id, ask, status, attempt_count, attempt_total)
         select $1, $2, group_id, 1, 1, 'dead', 1, 1 from endpoint",
    )
    .bind(event.parse::<EventId>().unwrap())
    .bind(endpoint.parse::<EndpointId>().unwrap())
    .execute(&stack.pool)
    .await
    .unwrap();
    let (key, _) = make_key(&admin, &json!({"name": "k", "role": "producer"})).await;
    let replay = admin.post("/replay", &body("create_replay").unwrap()).await.expect(202);
    let replay = replay.body["id"].as_str().unwrap().to_owned();
    let world = World { event, endpoint, key, replay };
    let mut callers = Vec::new();
    for draft in [
        json!({"name": "producer", "role": "producer", "sources": ["s"]}),
        json!({"name": "theirs", "role": "subscriber", "groups": ["theirs"]}),
        json!({"name": "ours", "role": "subscriber", "groups": ["default", "ours"]}),
    ] {
        callers.push(server.api.with_key(make_key(&admin, &draft).await.1));
    }
    let operator =
        server.api.with_key(make_key(&admin, &json!({"name": "operator", "role": "operator"})).await.1);

    for (id, doors) in TABLE {
        let (method, template) = find(&document, id);
        let (path, body) = (world.path(id, &template), body(id));
        let at = (method.as_str(), path.as_str());
        assert_problem(&call(&server.api, at, body.as_ref()).await, 401, "unauthorized");
        for (caller, door) in callers.iter().zip(doors) {
            let reply = call(caller, at, body.as_ref()).await;
            match door {
                Opens => assert!(reply.status < 400, "{id} {door:?}: {}", reply.text),
                Forbidden => assert_problem(&reply, 403, "forbidden"),
                Hidden => {
                    assert_problem(&reply, 404, "not-found");
                    assert!(!reply.text.contains("ours") && !reply.text.contains(&world.endpoint), "{id}");
                }
            }
        }
        let reply = call(&operator, at, body.as_ref()).await;
        let is_gone = reply.status == 404 && *id == "delete_endpoint";
        let is_there = reply.status == 409 && *id == "create_endpoint";
        assert!(reply.status < 400 || is_gone || is_there, "{id}: {}", reply.text);
    }
}

#[tokio::test]
async fn lists_name_nothing_of_other_groups() {
    let stack = Stack::start().await;
    let options = Options { admin_token: Some(ADMIN.into()), ..Options::default() };
    let server = Server::start_with(&stack, options).await;
    let admin = server.api.with_key(ADMIN);
    for group in ["ours", "theirs"] {
        admin.create_group(group).await;
    }
    let of_types = |types: &str| json!({"url": "http://127.0.0.1:9/", "event_types": [types]});
    let ours = admin.create_endpoint_with("ours", &of_types("a.*")).await.id;
    let theirs = admin.create_endpoint_with("theirs", &of_types("*")).await.id;
    let draft = json!({"name": "ours", "role": "subscriber", "groups": ["ours"]});
    let api = server.api.with_key(make_key(&admin, &draft).await.1);
    let shared = admin.post_event("a.b", "s", json!(1)).await;
    let foreign = admin.post_event("b", "s", json!(1)).await;
    let names = |reply: &Reply, member: &str| {
        let data = reply.body["data"].as_array().unwrap().clone();
        data.iter().map(|one| one[member].as_str().unwrap().to_owned()).collect::<Vec<_>>()
    };
    assert_eq!(names(&api.get("/consumer-groups").await, "name"), ["ours"]);
    assert_eq!(names(&api.get("/events").await, "id"), std::slice::from_ref(&shared));
    let targets = api.get(&format!("/events/{shared}/deliveries")).await;
    assert_eq!(names(&targets, "endpoint_id"), std::slice::from_ref(&ours));
    let all = admin.get(&format!("/events/{shared}/deliveries")).await;
    assert_eq!(names(&all, "endpoint_id"), [ours, theirs.clone()]);
    for path in [
        format!("/events/{foreign}"),
        format!("/events/{foreign}/deliveries"),
        format!("/deliveries/{shared}/{theirs}"),
        format!("/consumer-groups/ours/endpoints/{theirs}"),
        format!("/consumer-groups/theirs/endpoints/{theirs}"),
        "/consumer-groups/nowhere".to_owned(),
    ] {
        assert_problem(&api.get(&path).await, 404, "not-found");
    }
    let (there, nowhere) =
        (api.get("/consumer-groups/theirs").await, api.get("/consumer-groups/nowhere").await);
    assert_eq!(there.body["detail"], nowhere.body["detail"], "nothing tells the two apart");
}

#[tokio::test]
async fn each_operation_refuses_what_it_does_not_know() {
    let document: Value = serde_json::from_str(&openapi::document_json()).unwrap();
    let stack = Stack::start().await;
    let Server { api, .. } = &Server::start(&stack).await;
    api.create_group("ours").await;
    let endpoint = api.create_endpoint("ours", "http://127.0.0.1:9/").await.id;
    let event = api.post_event("a.b", "s", json!(1)).await;
    let world = World {
        event,
        endpoint,
        key: "key_01h455vb4pex5vsknk084sn02q".into(),
        replay: "rpl_01h455vb4pex5vsknk084sn02q".into(),
    };
    for (id, _) in TABLE.iter().filter(|(id, _)| *id != "metrics") {
        let (method, template) = find(&document, id);
        let (path, body) = (world.path(id, &template), body(id));
        let query = format!("{path}{}bogus=1", if path.contains('?') { '&' } else { '?' });
        assert_problem(&call(api, (&method, &query), body.as_ref()).await, 400, "invalid-query");
        for malformed in ["no-such-thing", "%00", "%ff", "-"] {
            let parts: Vec<&str> = template
                .split('/')
                .map(|part| if part.starts_with('{') { malformed } else { part })
                .collect();
            if template.contains('{') {
                let reply = call(api, (&method, &parts.join("/")), body.as_ref()).await;
                let is_no_text = malformed == "%ff" && reply.status == 400;
                assert!(reply.status == 404 || is_no_text, "{id} {malformed}: {}", reply.text);
            }
        }
        if body.is_none() {
            continue;
        }
        for (content_type, text, status, slug) in [
            ("application/json", "{", 400, "invalid-json"),
            ("application/json", r#"{"bogus": 1}"#, 422, "invalid-fields"),
            ("application/json", "[]", 422, "invalid-fields"),
            ("text/plain", "{}", 415, "unsupported-media-type"),
        ] {
            let request = api.request(&method, &path).header("content-type", content_type).body(text);
            let reply = Api::send(request).await.unwrap();
            assert_problem(&reply, status, slug);
        }
    }
    assert!(api.get("/consumer-groups/ours").await.status == 200, "nothing was done");
}
