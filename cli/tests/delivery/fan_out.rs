//! Which events arrive where, and how often.

use std::collections::HashMap;

use eventrail_core::testing::{Api, Endpoint};
use serde_json::json;

use crate::rail::{LONG, Rail, assert_exactly_once};

const CONNECTIONS: usize = 32;
const SINGLES: usize = 64;
const BATCHES: usize = 11;
const BATCH: usize = 51;

/// An event that was accepted.
struct Posted {
    id: String,
    event_type: &'static str,
    source: &'static str,
    payload: String,
}

/// The n-th event: types and sources in turn, and a payload whose bytes no serialiser would keep.
fn nth(n: usize) -> (&'static str, &'static str, String) {
    const TYPES: [&str; 7] = [
        "user.created",
        "user.profile.changed",
        "user",
        "users.merged",
        "invoice.paid",
        "invoice.paid.late",
        "order.created",
    ];
    const SOURCES: [&str; 5] = ["web", "app", "app-2", "batch", "https://shop.example/a?b"];
    let payload = match n % 3 {
        0 => format!("{{ \"n\":{n} , \"price\":1.10,\"price\":1.100 }}"),
        1 => format!("[{n},\t\"\\u00e9é\\/\", 1e2,  -0.0]"),
        _ => format!("{n}.0"),
    };
    (TYPES[n % TYPES.len()], SOURCES[n / TYPES.len() % SOURCES.len()], payload)
}

fn event_text((event_type, source, payload): &(&str, &str, String)) -> String {
    format!(r#"{{"event_type":"{event_type}","source":"{source}","payload":{payload}}}"#)
}

async fn send(api: &Api, path: &str, body: String) -> serde_json::Value {
    let request = api.request("POST", path).header("content-type", "application/json").body(body);
    let reply = Api::send(request).await.unwrap();
    assert!(matches!(reply.status, 200 | 201), "{}", reply.text);
    reply.body
}

/// What one of the connections sends, one request after the other.
async fn post_share(api: Api, connection: usize) -> Vec<Posted> {
    let mut posted = Vec::new();
    let share = SINGLES + BATCHES * BATCH;
    let mut numbers = connection * share..(connection + 1) * share;
    let mut note = |id: &serde_json::Value, event: (&'static str, &'static str, String)| {
        let id = id.as_str().unwrap().to_owned();
        posted.push(Posted { id, event_type: event.0, source: event.1, payload: event.2 });
    };
    for n in numbers.by_ref().take(SINGLES) {
        let event = nth(n);
        let answer = send(&api, "/events", event_text(&event)).await;
        note(&answer["id"], event);
    }
    for _ in 0..BATCHES {
        let events: Vec<_> = numbers.by_ref().take(BATCH).map(nth).collect();
        let texts: Vec<String> = events.iter().map(event_text).collect();
        let answer = send(&api, "/events/batch", format!("{{\"events\":[{}]}}", texts.join(","))).await;
        for (result, event) in answer["data"].as_array().unwrap().iter().zip(events) {
            assert_eq!(result["status"], "created");
            note(&result["id"], event);
        }
    }
    posted
}

/// An endpoint, and what it is owed in the words of this test.
struct Subscriber {
    group: &'static str,
    path: &'static str,
    filter: serde_json::Value,
    wants: fn(&Posted) -> bool,
}

fn subscribers() -> [Subscriber; 5] {
    [
        Subscriber { group: "default", path: "/all", filter: json!({}), wants: |_| true },
        Subscriber {
            group: "billing",
            path: "/exact",
            filter: json!({ "event_types": ["invoice.paid", "user"] }),
            wants: |event| event.event_type == "invoice.paid" || event.event_type == "user",
        },
        Subscriber {
            group: "billing",
            path: "/users",
            filter: json!({ "event_types": ["user.*"] }),
            wants: |event| event.event_type.starts_with("user."),
        },
        Subscriber {
            group: "audit",
            path: "/app",
            filter: json!({ "sources": ["app"] }),
            wants: |event| event.source == "app",
        },
        Subscriber {
            group: "audit",
            path: "/invoices-of-two",
            filter: json!({ "event_types": ["invoice.*", "*"], "sources": ["web", "batch"] }),
            wants: |event| event.source == "web" || event.source == "batch",
        },
    ]
}

#[tokio::test]
async fn twenty_thousand_events_of_32_connections_arrive_where_they_are_owed_and_nowhere_else() {
    let rail = Rail::start(&[]).await;
    rail.api.create_group("billing").await;
    rail.api.create_group("audit").await;
    let subscribers = subscribers();
    let mut endpoints: Vec<Endpoint> = Vec::new();
    for subscriber in &subscribers {
        endpoints
            .push(rail.endpoint_with(subscriber.group, subscriber.path, subscriber.filter.clone()).await);
    }

    let connections = (0..CONNECTIONS).map(|n| tokio::spawn(post_share(rail.api.clone(), n)));
    let connections: Vec<_> = connections.collect();
    let mut posted = Vec::new();
    for connection in connections {
        posted.extend(connection.await.unwrap());
    }
    assert!(posted.len() >= 20_000, "{}", posted.len());
    let of_id: HashMap<&str, &Posted> = posted.iter().map(|event| (event.id.as_str(), event)).collect();
    assert_eq!(of_id.len(), posted.len(), "each event has an id of its own");

    let mut deliveries = 0;
    for (subscriber, endpoint) in subscribers.iter().zip(&endpoints) {
        let owed: Vec<String> =
            posted.iter().filter(|event| (subscriber.wants)(event)).map(|event| event.id.clone()).collect();
        let arrived = rail.arrived(subscriber.path, owed.len()).await;
        deliveries += owed.len();
        assert_exactly_once(&arrived, &owed, endpoint);
        for request in &arrived {
            let event = of_id[request.webhook_id()];
            let head = format!(
                r#"{{"id":"{}","type":"{}","source":"{}","timestamp":""#,
                event.id, event.event_type, event.source
            );
            let tail = format!(r#"","data":{}}}"#, event.payload);
            let body = std::str::from_utf8(&request.body).unwrap();
            assert!(body.starts_with(&head) && body.ends_with(&tail), "{body}\nis not\n{head}…{tail}");
            assert_eq!(request.header("eventrail-group"), subscriber.group);
            assert_eq!(request.header("eventrail-attempt"), "1");
        }
    }
    rail.stack.assert_settled_within(LONG).await;
    assert_eq!(rail.receiver.count(), deliveries, "nothing but what is owed was sent");
    assert_has_its_rows(&rail, deliveries).await;
    for group in ["default", "billing", "audit"] {
        let wanted = |event: &&Posted| {
            subscribers.iter().any(|subscriber| subscriber.group == group && (subscriber.wants)(event))
        };
        assert_stream_had_no_gaps(&rail, group, posted.iter().filter(wanted).count()).await;
    }
    eprintln!("{} events, {deliveries} deliveries", posted.len());
    rail.end().await;
}

async fn assert_has_its_rows(rail: &Rail, deliveries: usize) {
    let (rows, well): (i64, i64) = sqlx::query_as(
        "select count(*), count(*) filter (where status = 'delivered' and attempt_count = 1
             and attempt_total = 1 and last_status_code = 200 and last_error is null) from delivery",
    )
    .fetch_one(&rail.stack.pool)
    .await
    .unwrap();
    assert_eq!((rows, well), (deliveries as i64, deliveries as i64));
    let (attempts, well): (i64, i64) = sqlx::query_as(
        "select count(*), count(*) filter (where number = 1 and trigger = 'feed' and status_code = 200
             and error is null) from attempt",
    )
    .fetch_one(&rail.stack.pool)
    .await
    .unwrap();
    assert_eq!((attempts, well), (deliveries as i64, deliveries as i64));
}

/// The stream had an entry for each event that anybody in the group wants, and ends with the last of them.
async fn assert_stream_had_no_gaps(rail: &Rail, group: &str, entries: usize) {
    let mut redis = rail.stack.redis_connection().await;
    let stream = rail.stack.keys().live_stream(&group.parse().unwrap(), 0);
    let info: HashMap<String, redis::Value> =
        redis::cmd("XINFO").arg("STREAM").arg(&stream).query_async(&mut redis).await.unwrap();
    let redis::Value::Int(added) = info["entries-added"] else { panic!("{info:?}") };
    assert_eq!(added, entries as i64, "{stream}");
    let last: i64 = sqlx::query_scalar(
        "select max(e.position) from event e join delivery d on d.event_id = e.id
         join consumer_group g on g.id = d.group_id where g.name = $1",
    )
    .bind(group)
    .fetch_one(&rail.stack.pool)
    .await
    .unwrap();
    assert_eq!(info["last-generated-id"], redis::Value::BulkString(format!("{last}-0").into_bytes()));
}

#[tokio::test]
async fn two_dispatchers_share_the_work_and_deliver_each_event_once() {
    let mut rail = Rail::start(&[]).await;
    rail.add_dispatcher(&[]).await;
    rail.api.create_group("orders").await;
    let first = rail.endpoint("default", "/first").await;
    let second = rail.endpoint("orders", "/second").await;
    let events = rail.post("order.created", 4_000).await;
    assert_exactly_once(&rail.arrived("/first", 4_000).await, &events, &first);
    assert_exactly_once(&rail.arrived("/second", 4_000).await, &events, &second);
    rail.stack.assert_settled_within(LONG).await;
    assert_eq!(rail.receiver.count(), 8_000);
    let mut shares = Vec::new();
    for dispatcher in &rail.dispatchers {
        let metrics = dispatcher.metrics().await;
        let name = "eventrail_attempts_total{result=\"success\"} ";
        let made = metrics.lines().find_map(|line| line.strip_prefix(name)).unwrap_or("0").to_owned();
        shares.push(made.parse::<usize>().unwrap());
    }
    eprintln!("attempts of each dispatcher: {shares:?}");
    assert_eq!(shares.iter().sum::<usize>(), 8_000);
    assert!(shares.iter().all(|share| *share > 0));
    rail.end().await;
}

#[tokio::test]
async fn an_endpoint_that_is_created_later_gets_only_later_events() {
    let rail = Rail::start(&[]).await;
    rail.api.create_group("orders").await;
    let witness = rail.endpoint("default", "/witness").await;
    let mut all = rail.post("order.created", 300).await;
    rail.arrived("/witness", all.len()).await;
    let later = rail.endpoint("orders", "/later").await;
    let events = rail.post("order.created", 200).await;
    let arrived = rail.arrived("/later", events.len()).await;
    rail.stack.assert_settled().await;
    assert_exactly_once(&arrived, &events, &later);
    all.extend(events);
    assert_exactly_once(&rail.arrived("/witness", all.len()).await, &all, &witness);
    assert_eq!(rail.receiver.count(), 700);
    rail.end().await;
}

#[tokio::test]
async fn an_endpoint_that_is_created_while_events_are_posted_gets_all_that_came_after_it() {
    let rail = Rail::start(&[]).await;
    let witness = rail.endpoint("default", "/witness").await;
    let api = rail.api.clone();
    let posting = tokio::spawn(async move {
        let event = json!({ "event_type": "a.b", "source": "test", "payload": 1 });
        let mut ids = Vec::new();
        for _ in 0..100 {
            ids.extend(api.post_batch(&vec![event.clone(); 10]).await);
        }
        ids
    });
    rail.arrived("/witness", 200).await;
    let late = rail.endpoint("default", "/late").await;
    let events = posting.await.unwrap();
    let from: i64 =
        rail.ask(&late, "select from_position from subscription where endpoint_id = $1 limit 1").await;
    let owed: Vec<eventrail_core::ids::EventId> =
        sqlx::query_scalar("select id from event where position > $1 order by position")
            .bind(from)
            .fetch_all(&rail.stack.pool)
            .await
            .unwrap();
    let owed: Vec<String> = owed.iter().map(ToString::to_string).collect();
    assert!(!owed.is_empty() && owed.len() < events.len(), "{} of {}", owed.len(), events.len());
    assert_exactly_once(&rail.arrived("/witness", events.len()).await, &events, &witness);
    assert_exactly_once(&rail.arrived("/late", owed.len()).await, &owed, &late);
    rail.end().await;
}
