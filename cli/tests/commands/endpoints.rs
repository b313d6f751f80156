//! `eventrail endpoints`

use eventrail_core::testing::Answer;
use serde_json::{Value, json};

use crate::desk::Desk;

/// Creates an endpoint with the command; answers its id.
async fn create(desk: &Desk, group: &str, url: &str, more: &[&str]) -> String {
    let words = [&["endpoints", "create", url, "--group", group, "--json"], more].concat();
    let created = desk.run(&words).await.expect(0).json();
    created["id"].as_str().unwrap().to_owned()
}

#[tokio::test]
async fn an_endpoint_is_made_with_all_that_it_has_and_changed() {
    let desk = Desk::start().await;
    desk.api.create_group("billing").await;
    let folder = std::env::temp_dir().join(format!("eventrail-auth-{}", std::process::id()));
    std::fs::write(&folder, "user:secret:word\n").unwrap();
    let url = desk.receiver.url("/hooks");
    let words = [
        "endpoints",
        "create",
        &url,
        "--group",
        "billing",
        "--description",
        "ledger",
        "--event-type",
        "invoice.*,order.paid",
        "--source",
        "shop",
        "--header",
        "x-tenant: acme",
        "--timeout-ms",
        "500",
        "--max-in-flight",
        "7",
        "--rate-per-second",
        "50",
        "--max-retries",
        "0",
        "--basic-auth-file",
        folder.to_str().unwrap(),
    ];
    let created =
        desk.run(&words).await.shows(&["whsec_", "invoice.*, order.paid", "x-tenant: acme", "basic"]);
    std::fs::remove_file(&folder).unwrap();
    assert!(!created.out.contains("secret:word"), "{created:#?}");
    let id = created.out.split_whitespace().find(|word| word.starts_with("ep_")).unwrap();

    let path = format!("/consumer-groups/billing/endpoints/{id}");
    let made = desk.api.get(&path).await.expect(200).body;
    assert_eq!(made["event_types"], json!(["invoice.*", "order.paid"]));
    assert_eq!(made["headers"], json!({"x-tenant": "acme"}));
    assert_eq!(made["auth"], json!({"type": "basic", "username": "user"}));
    assert_eq!((&made["timeout_ms"], &made["max_in_flight"]), (&json!(500), &json!(7)));

    // Without the group: it is found by its id.
    let words = [
        "endpoints",
        "update",
        id,
        "--rate-per-second",
        "none",
        "--source",
        "",
        "--header",
        "x-b: c",
        "--remove-header",
        "x-tenant",
        "--no-auth",
        "--new-url",
        "http://127.0.0.1:9/other",
    ];
    let _ = desk.run(&words).await.shows(&["http://127.0.0.1:9/other"]);
    let changed = desk.api.get(&path).await.expect(200).body;
    assert_eq!((&changed["rate_per_second"], &changed["auth"]), (&Value::Null, &Value::Null));
    assert_eq!((&changed["sources"], &changed["headers"]), (&json!([]), &json!({"x-b": "c"})));
    assert_eq!((&changed["timeout_ms"], &changed["description"]), (&json!(500), &json!("ledger")));

    let listed = desk.run(&["endpoints", "list"]).await.expect(0);
    assert_eq!(listed.rows()[0][..3], [id, "billing", "active"]);
    let elsewhere = desk.run(&["endpoints", "list", "--group", "default"]).await.expect(0);
    assert_eq!((elsewhere.out.as_str(), elsewhere.err.as_str()), ("", "There are no endpoints.\n"));
    let again = desk.run(&["endpoints", "create", "http://127.0.0.1:9/other", "-g", "billing"]).await;
    let _ = again.refuses(1, &["has this URL", id]);
    let wrong = ["endpoints", "create", "ftp://x", "--timeout-ms", "1", "--rate-per-second", "0"];
    let _ = desk.run(&wrong).await.refuses(1, &["/url: must begin with https:// or http://"]);
}

#[tokio::test]
async fn an_endpoint_is_switched_tried_and_deleted() {
    let desk = Desk::start().await;
    let id = create(&desk, "default", &desk.receiver.url("/hooks"), &["--timeout-ms", "5000"]).await;
    let _ = desk.run(&["endpoints", "disable", &id]).await.shows(&["is kept", "eventrail endpoints enable"]);
    let _ = desk.run(&["endpoints", "get", &id]).await.shows(&["disabled (manual)", "/hooks"]);

    let _ = desk.run(&["endpoints", "test", &id]).await.shows(&["delivered", "200", "webhook-id"]);
    desk.receiver.always("/hooks", Answer::status(503).body("\x1b[2Jdown"));
    let tried = desk.run(&["endpoints", "test", &id]).await.refuses(1, &["did not take it"]);
    assert!(tried.out.contains("503") && tried.out.contains("\\u{1b}[2Jdown"), "{tried:#?}");

    let skip = ["endpoints", "enable", &id, "--backlog", "skip"];
    let _ = desk.run(&skip).await.refuses(2, &["gives up all", "--yes"]);
    let _ = desk.run(&["endpoints", "enable", &id]).await.shows(&["is on"]);
    let _ = desk.run(&[&skip[..], &["--yes"]].concat()).await.shows(&["given up"]);

    let secret = desk.run(&["endpoints", "secret", &id]).await.expect(0);
    assert_eq!(secret.rows().len(), 1);
    let rotated = desk.run(&["endpoints", "rotate-secret", &id, "--grace-seconds", "60"]).await.expect(0);
    assert_eq!(rotated.rows().len(), 2, "the old one goes on for a while: {rotated:#?}");
    assert_eq!(rotated.rows()[1][0], secret.rows()[0][0]);
    let at_once = ["endpoints", "rotate-secret", &id, "--grace-seconds", "0"];
    let _ = desk.run(&at_once).await.refuses(2, &["stops at once", "--yes"]);

    let _ = desk.run(&["endpoints", "delete", &id]).await.refuses(2, &[&id, "can't be undone", "--yes"]);
    let _ = desk.run(&["endpoints", "delete", &id, "--yes"]).await.shows(&["Deleted"]);
    let _ = desk.run(&["endpoints", "get", &id]).await.refuses(1, &["no group has an endpoint"]);
    let _ = desk.run(&["endpoints", "get", "nonsense"]).await.refuses(2, &["ep_"]);
}
