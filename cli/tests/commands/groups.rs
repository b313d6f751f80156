//! `eventrail groups`

use serde_json::json;

use crate::desk::Desk;

#[tokio::test]
async fn a_group_is_made_shown_changed_paused_and_deleted() {
    let desk = Desk::start().await;
    let created = ["groups", "create", "billing", "--description", "Invoices", "--max-retries", "3"];
    let _ = desk.run(&created).await.shows(&["Created the group billing."]);
    let _ = desk.run(&created).await.refuses(1, &["The name is taken", "billing"]);

    let listed = desk.run(&["groups", "list"]).await.expect(0);
    let rows = listed.rows();
    assert_eq!(rows.len(), 2, "{listed:#?}");
    assert_eq!(rows[0][..3], ["billing", "delivering", "0"]);
    assert_eq!(rows[0].last(), Some(&"Invoices"));

    let change = ["groups", "update", "billing", "--schedule-seconds", "5,300,7200"];
    let _ = desk.run(&change).await.shows(&["after 5s, 5m, 2h"]);
    let of_api = desk.api.get("/consumer-groups/billing").await.expect(200);
    assert_eq!(of_api.body["retry"], json!({"schedule_seconds": [5, 300, 7200]}));
    let back = ["groups", "update", "billing", "--base-backoff-ms", "20", "--max-retries", "2"];
    let _ = desk.run(&back).await.shows(&["2 times, first after 20 ms"]);

    let _ = desk.run(&["groups", "pause", "billing"]).await.shows(&["eventrail groups resume billing"]);
    let paused = desk.run(&["groups", "get", "billing"]).await.shows(&["paused", "Invoices"]);
    assert!(!paused.out.contains("\x1b["), "no colour where there is no terminal: {paused:#?}");
    let paused = desk.run(&["groups", "get", "billing", "--json"]).await.expect(0);
    assert_eq!(paused.json(), desk.api.get("/consumer-groups/billing").await.body);
    let _ = desk.run(&["groups", "resume", "billing"]).await.shows(&["goes on"]);

    let _ = desk.run(&["groups", "delete", "billing"]).await.refuses(2, &["0 endpoints", "--yes"]);
    let _ = desk.api.get("/consumer-groups/billing").await.expect(200);
    let _ = desk.run(&["groups", "delete", "billing", "--yes"]).await.shows(&["Deleted the group billing"]);
    let _ = desk.run(&["groups", "get", "billing"]).await.refuses(1, &["There is no such thing"]);
    let _ = desk.run(&["groups", "delete", "default", "--yes"]).await.refuses(1, &["default group stays"]);
}

#[tokio::test]
async fn json_is_what_the_api_says_over_all_pages_up_to_the_limit() {
    let desk = Desk::start().await;
    for name in ["a", "b", "c"] {
        desk.api.create_group(name).await;
    }
    let of_api = desk.api.get("/consumer-groups").await.expect(200);
    let all = desk.run(&["groups", "list", "--json"]).await.expect(0);
    assert_eq!(all.json(), of_api.body["data"]);
    let two = desk.run(&["groups", "list", "--limit", "2", "--json"]).await.expect(0);
    assert_eq!(two.json().as_array().unwrap().len(), 2);
    assert_eq!(two.err, "", "scripts are told nothing aside");
    let two = desk.run(&["groups", "list", "--limit", "2"]).await.expect(0);
    assert_eq!((two.rows().len(), two.err.as_str()), (2, "There are more: --limit or --all shows them.\n"));
}
