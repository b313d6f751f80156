//! Keys and secrets: in no log, however much is logged, and not in clear in what a dump of the database holds.
#![allow(clippy::unwrap_used, reason = "in a test a panic is the report")]

use std::fmt::Write as _;

use eventrail_core::secret::Secret;
use eventrail_core::testing::{Api, EventrailProcess, Receiver, Stack};
use serde_json::{Value, json};

const BINARY: &str = env!("CARGO_BIN_EXE_eventrail");
const ADMIN: &str = "admin-token-that-nobody-may-see";
const GIVEN: &str = "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw";
const PASSWORD: &str = "password-that-nobody-may-see";
const TOKEN: &str = "bearer-token-that-nobody-may-see";
/// `me:` and the password, as HTTP sends them.
const BASIC: &str = "bWU6cGFzc3dvcmQtdGhhdC1ub2JvZHktbWF5LXNlZQ==";

fn hex(bytes: &[u8]) -> String {
    bytes.iter().fold(String::new(), |mut text, byte| {
        let _ = write!(text, "{byte:02x}");
        text
    })
}

/// Uses each kind of secret in each way there is; answers those that it was given.
async fn use_secrets(api: &Api, receiver: &Receiver) -> Vec<String> {
    let admin = api.with_key(ADMIN);
    let made = admin.post("/api-keys", &json!({"name": "k", "role": "operator"})).await.expect(201).body;
    let key = made["key"].as_str().unwrap().to_owned();
    let operator = api.with_key(&key);
    let basic = json!({"url": receiver.url("/a"),
                       "auth": {"type": "basic", "username": "me", "password": PASSWORD}});
    let endpoint = operator.create_endpoint_with("default", &basic).await;
    let path = format!("/consumer-groups/default/endpoints/{}", endpoint.id);
    let _ = operator.post(&format!("{path}/secret/rotate"), &json!({"secret": GIVEN})).await.expect(200);
    let _ = operator.get(&format!("{path}/secret")).await.expect(200);
    let bearer = json!({"url": receiver.url("/b"), "auth": {"type": "bearer", "token": TOKEN}});
    let _ = operator.create_endpoint_with("default", &bearer).await;
    let _ = Api::send(operator.request("POST", &format!("{path}/test"))).await.unwrap().expect(200);
    operator.post_event("a.b", "s", json!({"n": 1})).await;
    receiver.wait_until(|requests| requests.iter().any(|request| request.path == "/b")).await;
    receiver.wait_for(3).await;
    // What is refused, or fails to parse, is not logged either.
    let wrong = json!({"url": receiver.url("/c"), "auth": PASSWORD, "secret": GIVEN});
    let _ = operator.post("/consumer-groups/default/endpoints", &wrong).await.expect(422);
    let _ = api.with_key(format!("{key}x")).get("/consumer-groups").await.expect(401);
    let _ = admin.delete(&format!("/api-keys/{}", made["id"].as_str().unwrap())).await.expect(204);
    vec![key, endpoint.secret]
}

#[tokio::test]
async fn keys_and_secrets_are_in_no_log_and_not_in_clear_in_a_dump() {
    let stack = Stack::start().await;
    let receiver = Receiver::start().await;
    let settings = [("RUST_LOG", "trace"), ("ADMIN_TOKEN", ADMIN)];
    let api = EventrailProcess::api(BINARY, &stack, &settings).await;
    let dispatcher = EventrailProcess::dispatcher(BINARY, &stack, &settings).await;
    let mut words = use_secrets(&api.client(), &receiver).await;
    words.extend([ADMIN, GIVEN, PASSWORD, TOKEN, BASIC].map(str::to_owned));
    let sealing_key = stack.environment().into_iter().find(|(name, _)| name == "SECRETS_KEY");
    words.extend(sealing_key.map(|(_, key)| key));
    let mut shown = words.clone();
    for word in &words {
        shown.push(hex(word.as_bytes()));
        if let Ok(secret) = word.parse::<Secret>() {
            shown.extend([word.trim_start_matches("whsec_").to_owned(), hex(secret.expose())]);
        }
    }

    let logs = [("api", api.log()), ("dispatcher", dispatcher.log())];
    let dump = dump(&stack).await;
    // Not all that is linked logs at a lower level than this; that it is below the usual one shows that all of it is on.
    assert!(logs.iter().all(|(_, log)| log.contains("DEBUG")), "everything was logged");
    assert!(dump.contains("create_endpoint") && dump.contains("er_"), "the dump has all tables");
    for word in &shown {
        for (name, log) in &logs {
            assert!(!log.contains(word.as_str()), "the log of the {name} has {word}");
        }
        assert!(!dump.contains(word.as_str()), "the dump has {word}");
    }
}

/// All rows of all tables, as text.
async fn dump(stack: &Stack) -> String {
    let tables: Vec<String> = sqlx::query_scalar(
        "select quote_ident(table_name) from information_schema.tables
         where table_schema = 'public' and table_type = 'BASE TABLE'",
    )
    .fetch_all(&stack.pool)
    .await
    .unwrap();
    let mut text = String::new();
    for table in tables {
        let rows: Vec<Value> =
            sqlx::query_scalar(sqlx::AssertSqlSafe(format!("select to_jsonb(t) from {table} t")))
                .fetch_all(&stack.pool)
                .await
                .unwrap();
        for row in rows {
            let _ = writeln!(text, "{table} {row}");
        }
    }
    text
}
