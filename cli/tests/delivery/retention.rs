//! Days that have had their time: they go once nobody is owed anything of them, and stay while somebody is,
//! within limits. The dispatchers' own retention is off; the tests take its steps.

use eventrail_core::ids::EventId;
use eventrail_core::testing::{Answer, Api, Endpoint, eventually_within};
use eventrail_dispatcher::maintenance::retention::Retention;
use eventrail_dispatcher::relay::Step;
use serde_json::{Value, json};

use crate::rail::{LONG, Rail, endpoint_id};

/// Retries so late that none comes within a test.
const OFF: [(&str, &str); 2] = [("RETENTION_DAYS", "0"), ("BASE_BACKOFF_MS", "3600000")];

/// Steps until there is nothing more to do.
async fn tidy_up(rail: &Rail) {
    let mut retention = Retention::new(rail.stack.pool.clone(), 30, 90);
    while retention.step().await.unwrap() == Step::Worked {}
}

/// How many days ago the days were that are kept past their time.
async fn kept(rail: &Rail) -> Vec<i32> {
    let sql = "select (now() at time zone 'utc')::date - day
               from days_before((now() at time zone 'utc')::date - 30) d (day) order by day";
    sqlx::query_scalar(sql).fetch_all(&rail.stack.pool).await.unwrap()
}

/// Tidies up until exactly these days are kept.
async fn until_kept(rail: &Rail, expected: &[i32]) {
    eventually_within(LONG, async || {
        tidy_up(rail).await;
        let kept = kept(rail).await;
        if kept == expected { Ok(()) } else { Err(format!("{kept:?} are kept, not {expected:?}")) }
    })
    .await;
}

async fn count(rail: &Rail, sql: &'static str) -> i64 {
    sqlx::query_scalar(sql).fetch_one(&rail.stack.pool).await.unwrap()
}

/// Events, deliveries, attempts and keys that are left of the past.
async fn left(rail: &Rail) -> [i64; 4] {
    [
        count(rail, "select count(*) from event where source = 'past'").await,
        count(rail, "select count(*) from delivery").await,
        count(rail, "select count(*) from attempt").await,
        count(rail, "select count(*) from idempotency_key").await,
    ]
}

async fn past(rail: &Rail, days_ago: i32, event_type: &str, events: i64) -> Vec<EventId> {
    rail.stack.make_day(days_ago).await;
    rail.stack.append_past(days_ago, event_type, events).await
}

#[tokio::test]
async fn days_that_nobody_is_owed_anything_of_are_dropped_with_all_that_belongs_to_them() {
    let mut rail = Rail::without_dispatcher().await;
    rail.endpoint("default", "/").await;
    let old = past(&rail, 40, "a.b", 3).await;
    past(&rail, 35, "a.b", 2).await;
    past(&rail, 33, "a.b", 0).await;
    past(&rail, 10, "a.b", 4).await;
    assert_eq!((kept(&rail).await, left(&rail).await), (vec![40, 35, 33], [9, 0, 0, 9]));
    let key: String = sqlx::query_scalar("select key from idempotency_key where event_id = $1")
        .bind(old[0])
        .fetch_one(&rail.stack.pool)
        .await
        .unwrap();
    tidy_up(&rail).await;
    assert_eq!(kept(&rail).await, [40, 35], "nothing was delivered yet");

    rail.add_dispatcher(&OFF).await;
    rail.arrived("/", 9).await;
    rail.until_feed_settled("default").await;
    assert_eq!(left(&rail).await, [9, 9, 9, 9]);
    tidy_up(&rail).await;
    assert_eq!((kept(&rail).await, left(&rail).await), (vec![], [4, 4, 4, 4]));
    let _ = rail.api.get(&format!("/events/{}", old[0])).await.expect(404);

    // A key is free again once its event is gone.
    let body = json!({ "event_type": "a.b", "source": "past", "payload": 1 });
    let again = rail.api.request("POST", "/events").header("idempotency-key", key).json(&body);
    let _ = Api::send(again).await.unwrap().expect(201);
    rail.arrived("/", 10).await;
    rail.end().await;
}

/// A group with an endpoint for one type of events.
async fn group(rail: &Rail, name: &str, event_type: &str) -> Endpoint {
    rail.api.create_group(name).await;
    let wish = json!({ "event_types": [event_type] });
    rail.endpoint_with(name, &format!("/{name}"), wish).await
}

/// As the relay does with an endpoint that is away: parked before this event.
async fn park_before(rail: &Rail, endpoint: &Endpoint, event: EventId) {
    let path = format!("/consumer-groups/away/endpoints/{}/disable", endpoint.id);
    let _ = rail.api.post(&path, &json!({})).await.expect(200);
    sqlx::query(
        "insert into parked (feed_id, endpoint_id, from_position, reason)
         select f.id, e.id, v.position - 1, 'disabled' from endpoint e
         join feed f on f.group_id = e.group_id and f.kind = 'live', event v where e.id = $1 and v.id = $2",
    )
    .bind(endpoint_id(endpoint))
    .bind(event)
    .execute(&rail.stack.pool)
    .await
    .unwrap();
}

/// What the groups were told, by group.
async fn told(rail: &Rail) -> Vec<Value> {
    let payloads: Vec<Vec<u8>> = sqlx::query_scalar(
        "select payload from event where event_type = 'eventrail.retention.held' order by group_id, position",
    )
    .fetch_all(&rail.stack.pool)
    .await
    .unwrap();
    payloads.iter().map(|payload| serde_json::from_slice(payload).unwrap()).collect()
}

#[tokio::test]
async fn a_day_stays_while_a_retry_a_parked_endpoint_or_a_paused_group_is_owed_something() {
    let mut rail = Rail::without_dispatcher().await;
    let slow = group(&rail, "slow", "slow.x").await;
    let away = group(&rail, "away", "away.x").await;
    group(&rail, "paused", "paused.x").await;
    rail.receiver.always("/slow", Answer::status(500));
    past(&rail, 60, "nobody.s", 1).await;
    let retried = past(&rail, 55, "slow.x", 1).await[0];
    past(&rail, 50, "nobody.s", 1).await;
    let missed = past(&rail, 45, "away.x", 1).await[0];
    past(&rail, 40, "paused.x", 1).await;
    park_before(&rail, &away, missed).await;
    let _ = rail.api.post("/consumer-groups/paused/pause", &json!({})).await.expect(200);
    rail.add_dispatcher(&OFF).await;
    rail.arrived("/slow", 1).await;

    until_kept(&rail, &[55, 45, 40]).await;
    tidy_up(&rail).await;
    let of_groups: Vec<(Value, Value)> =
        told(&rail).await.iter().map(|payload| (payload["group"].clone(), payload["days"].clone())).collect();
    assert_eq!(of_groups.len(), 3, "each is told once a day: {of_groups:?}");
    for group in ["slow", "away", "paused"] {
        assert!(of_groups.iter().any(|(name, _)| name == group), "{of_groups:?}");
    }

    rail.receiver.always("/slow", Answer::status(200));
    let _ = rail.api.post(&format!("/deliveries/{retried}/{}/retry", slow.id), &json!({})).await;
    until_kept(&rail, &[45, 40]).await;
    let enable = format!("/consumer-groups/away/endpoints/{}/enable", away.id);
    let _ = rail.api.post(&enable, &json!({})).await.expect(200);
    rail.arrived("/away", 1).await;
    until_kept(&rail, &[40]).await;
    let _ = rail.api.post("/consumer-groups/paused/resume", &json!({})).await.expect(200);
    rail.arrived("/paused", 1).await;
    until_kept(&rail, &[]).await;
    assert_eq!(count(&rail, "select count(*) from expired").await, 0);
    rail.end().await;
}

#[tokio::test]
async fn past_the_hard_limit_a_day_is_dropped_visibly_and_the_feeds_go_on() {
    let mut rail = Rail::without_dispatcher().await;
    let slow = group(&rail, "slow", "slow.x").await;
    let away = group(&rail, "away", "away.*").await;
    let paused = group(&rail, "paused", "paused.x").await;
    rail.receiver.always("/slow", Answer::status(500));
    past(&rail, 100, "slow.x", 1).await;
    let missed = past(&rail, 95, "away.x", 2).await[0];
    rail.stack.append_past(95, "nobody.s", 5).await;
    rail.stack.append_past(95, "paused.x", 3).await;
    past(&rail, 80, "away.x", 1).await;
    park_before(&rail, &away, missed).await;
    // It is owed what it missed, whatever it wants now, and whatever history is asked for.
    let path = format!("/consumer-groups/away/endpoints/{}", away.id);
    let other = rail.api.request("PATCH", &path).json(&json!({ "event_types": ["other.x"] }));
    let _ = Api::send(other).await.unwrap().expect(200);
    let back = json!({ "group": "away", "start_id": "0" });
    let _ = rail.api.post("/consumer-groups/set-cursor", &back).await.expect(200);
    let _ = rail.api.post("/consumer-groups/paused/pause", &json!({})).await.expect(200);
    rail.add_dispatcher(&OFF).await;
    rail.arrived("/slow", 1).await;
    rail.until(&slow, "select exists (select from delivery where endpoint_id = $1)").await;
    rail.until_feed_settled("away").await;
    rail.until_feed_settled("slow").await;
    let mut redis = rail.stack.redis_connection().await;
    eventually_within(LONG, async || {
        let length: i64 =
            redis::cmd("XLEN").arg("eventrail.{paused}.events").query_async(&mut redis).await.unwrap();
        if length == 3 { Ok(()) } else { Err(format!("{length} entries")) }
    })
    .await;

    until_kept(&rail, &[80]).await;
    for (endpoint, events) in [(&slow, 1_i64), (&away, 2), (&paused, 3)] {
        let sql = "select coalesce(sum(events), 0)::bigint from expired where endpoint_id = $1";
        assert_eq!(rail.ask::<i64>(endpoint, sql).await, events);
        let sql = "select bool_and(reason = 'expired' and to_position - from_position >= events)
                   from expired where endpoint_id = $1";
        assert!(rail.ask::<bool>(endpoint, sql).await);
    }
    assert_eq!(count(&rail, "select count(*) from expired").await, 3, "one for each feed and endpoint");
    let shown = rail.api.get("/consumer-groups/paused").await.expect(200);
    assert_eq!(shown.body["expired"], 3);

    // What is newer, and what is kept, still arrives; what has expired does not.
    rail.receiver.always("/slow", Answer::status(200));
    let _ = rail.api.post("/consumer-groups/paused/resume", &json!({})).await.expect(200);
    let enable = format!("/consumer-groups/away/endpoints/{}/enable", away.id);
    let _ = rail.api.post(&enable, &json!({})).await.expect(200);
    for event_type in ["slow.x", "other.x", "paused.x"] {
        rail.api.post_event(event_type, "test", json!(1)).await;
    }
    rail.arrived("/slow", 2).await;
    rail.arrived("/away", 2).await;
    rail.arrived("/paused", 1).await;
    rail.stack.assert_settled_within(LONG).await;
    until_kept(&rail, &[]).await;
    let arrived = ["/slow", "/away", "/paused"].map(|path| rail.receiver.count_to(path));
    assert_eq!(arrived, [2, 2, 1]);
    rail.end().await;
}

#[tokio::test]
async fn what_lies_in_the_default_partitions_is_deleted_in_its_time() {
    let mut rail = Rail::without_dispatcher().await;
    rail.endpoint_with("default", "/", json!({ "event_types": ["a.*"] })).await;
    let slow = group(&rail, "slow", "slow.x").await;
    rail.receiver.always("/slow", Answer::status(500));
    // Nobody made these days' partitions.
    rail.stack.append_past(50, "a.b", 3).await;
    let retried = rail.stack.append_past(40, "slow.x", 1).await[0];
    rail.add_dispatcher(&OFF).await;
    rail.arrived("/", 3).await;
    rail.arrived("/slow", 1).await;
    assert_eq!(count(&rail, "select count(*) from event_default").await, 4);
    until_kept(&rail, &[40]).await;
    assert_eq!(left(&rail).await, [1, 1, 1, 1]);
    rail.receiver.always("/slow", Answer::status(200));
    let _ = rail.api.post(&format!("/deliveries/{retried}/{}/retry", slow.id), &json!({})).await;
    until_kept(&rail, &[]).await;
    assert_eq!(left(&rail).await, [0, 0, 0, 0]);
    rail.end().await;
}

#[tokio::test]
async fn the_default_partitions_are_given_up_past_the_hard_limit_and_rid_of_late_outcomes() {
    let rail = Rail::without_dispatcher().await;
    rail.endpoint("default", "/").await;
    rail.stack.append_past(95, "a.b", 3).await;
    rail.api.post_event("a.b", "test", json!(1)).await;
    sqlx::query(
        "insert into delivery (event_id, endpoint_id, group_id, feed_id, ask, status, attempt_count, attempt_total)
         select id_floor(now() - interval '200 days'), e.id, e.group_id, 1, 1, 'delivered', 1, 1 from endpoint e",
    )
    .execute(&rail.stack.pool)
    .await
    .unwrap();
    tidy_up(&rail).await;
    assert_eq!((kept(&rail).await, left(&rail).await), (vec![], [0, 0, 0, 0]));
    assert_eq!(count(&rail, "select sum(events)::bigint from expired").await, 3);
    rail.stop().await;
}

#[tokio::test]
async fn who_reads_the_log_for_long_is_not_waited_for() {
    let rail = Rail::without_dispatcher().await;
    past(&rail, 40, "a.b", 1).await;
    sqlx::query("update feed set settled_position = (select max(position) from event)")
        .execute(&rail.stack.pool)
        .await
        .unwrap();
    let mut reader = rail.stack.pool.begin().await.unwrap();
    sqlx::query("set local idle_in_transaction_session_timeout = 0").execute(&mut *reader).await.unwrap();
    sqlx::query("select count(*) from event").execute(&mut *reader).await.unwrap();
    let mut retention = Retention::new(rail.stack.pool.clone(), 30, 90);
    for seconds in [1, 2, 4] {
        assert_eq!(retention.step().await.unwrap(), Step::Idle(std::time::Duration::from_secs(seconds)));
    }
    assert_eq!(kept(&rail).await, [40]);
    rail.api.post_event("a.b", "test", json!(1)).await;
    reader.commit().await.unwrap();
    assert_eq!(retention.step().await.unwrap(), Step::Worked);
    assert_eq!(kept(&rail).await, [0_i32; 0]);

    // Nor for another process that has its turn.
    past(&rail, 40, "a.b", 0).await;
    let turn = eventrail_core::db::retention::Turn::take(&rail.stack.pool).await.unwrap().unwrap();
    assert!(matches!(retention.step().await.unwrap(), Step::Idle(_)));
    assert_eq!(kept(&rail).await, [40]);
    turn.end().await.unwrap();
    assert_eq!(retention.step().await.unwrap(), Step::Worked);
    rail.stop().await;
}

#[tokio::test]
async fn a_dispatcher_drops_by_itself_and_shows_who_holds_what_up() {
    let mut rail = Rail::without_dispatcher().await;
    group(&rail, "paused", "paused.x").await;
    past(&rail, 45, "nobody.s", 1).await;
    past(&rail, 40, "paused.x", 1).await;
    let _ = rail.api.post("/consumer-groups/paused/pause", &json!({})).await.expect(200);
    // As a relay leaves it behind that was there before.
    sqlx::query(
        "update feed f set settled_position = v.position - (g.name = 'paused')::int
         from consumer_group g, event v where g.id = f.group_id and v.event_type = 'paused.x'",
    )
    .execute(&rail.stack.pool)
    .await
    .unwrap();
    rail.add_dispatcher(&[("RETENTION_DAYS", "30"), ("RETENTION_HARD_DAYS", "60")]).await;
    eventually_within(LONG, async || {
        let (kept, shown) = (kept(&rail).await, rail.dispatchers[0].metrics().await);
        let is_shown = shown.contains("eventrail_retention_held_days{group=\"paused\"} 1");
        let is_counted = shown.contains("eventrail_retention_dropped_days_total 1");
        let told: Vec<_> =
            told(&rail).await.iter().map(|said| (said["group"].clone(), said["days"].clone())).collect();
        let is_told = told == [(json!("paused"), json!(1))];
        let all = kept == [40] && is_shown && is_counted && is_told;
        if all { Ok(()) } else { Err(format!("{kept:?} {told:?}\n{shown}")) }
    })
    .await;
    rail.stop().await;
}
