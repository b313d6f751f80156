//! What a replay says of itself while it runs, and when it has ended.

use std::collections::{HashMap, HashSet};

use eventrail_core::ids::{EndpointId, EventId, ReplayId};
use eventrail_core::testing::Stack;
use serde_json::json;

use crate::replays::{all_with, figures, finish_feeds, id, move_feeds, post_events};
use crate::support::{Server, record};

#[tokio::test]
async fn progress_is_exact_at_each_reading() {
    let stack = Stack::start().await;
    let Server { api, .. } = &Server::start(&stack).await;
    let all = api.create_endpoint("default", "http://127.0.0.1:9/").await.id;
    let b = json!({"url": "http://127.0.0.1:9/b", "event_types": ["b"]});
    let some = api.create_endpoint_with("default", &b).await.id;
    let events = post_events(api, &["a", "b", "a", "b", "a", "b"]).await;
    let replay = api.post("/replay", &all_with(&json!({"only_missing": true}))).await.expect(202).body;
    assert_eq!((&replay["matched"], &replay["owed"]), (&json!(6), &json!(9)));
    let replay = id(&replay);
    let record = async |event: usize, endpoint: &str, status: &str| {
        record(&stack, (&events[event], endpoint), status, "503", Some(&replay)).await;
    };

    // Read further than settled; the furthest reader does not count.
    move_feeds(&stack, &all, &events[3], &events[1]).await;
    move_feeds(&stack, &some, &events[5], &events[1]).await;
    record(0, &all, "delivered").await;
    record(1, &all, "retrying").await;
    record(3, &all, "delivered").await;
    // Of the three deliveries up to the second event the one to `some` needed not be made.
    assert_eq!(figures(api, &replay).await, [4, 2, 1, 0, 1]);
    assert_eq!(figures(api, &replay).await, [4, 2, 1, 0, 1], "reading changes nothing");
    record(1, &all, "dead").await;
    assert_eq!(figures(api, &replay).await, [4, 2, 0, 1, 1]);

    move_feeds(&stack, &all, &events[5], &events[4]).await;
    move_feeds(&stack, &some, &events[5], &events[5]).await;
    record(2, &all, "delivered").await;
    record(3, &some, "delivered").await;
    record(4, &all, "retrying").await;
    assert_eq!(figures(api, &replay).await, [6, 4, 1, 1, 1]);
    let running = api.get(&format!("/replays/{replay}")).await.body;
    assert!(running["settled_per_second"].as_f64().unwrap() > 0.0, "{running}");
    assert!(running["estimated_end_at"].is_string() && running["finished_at"].is_null(), "{running}");

    finish_feeds(&stack).await;
    record(5, &all, "delivered").await;
    assert_eq!(figures(api, &replay).await, [6, 5, 1, 1, 2]);
    let done = api.get(&format!("/replays/{replay}")).await.body;
    assert_eq!(done["status"], "done");
    assert!(done["finished_at"].is_string() && done["estimated_end_at"].is_null(), "{done}");
    record(4, &all, "delivered").await;
    assert_eq!(figures(api, &replay).await, [6, 6, 0, 1, 2]);

    // What is over stays told, whoever takes the rows.
    sqlx::query("update delivery set replay_id = null, ask = ask + 100").execute(&stack.pool).await.unwrap();
    assert_eq!(figures(api, &replay).await, [6, 6, 0, 1, 2]);
}

/// Numbers that look random, the same in each run.
struct Dice(u64);

impl Dice {
    fn below(&mut self, limit: usize) -> usize {
        self.0 = self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (self.0 >> 33) as usize % limit
    }
}

/// What a relay and dispatchers may do with a replay, and what it should be told to have come to.
#[derive(Default)]
struct Model {
    /// For each endpoint: the events that it wants, and up to where its feed was read and settled.
    wants: [Vec<usize>; 2],
    scanned: [usize; 2],
    settled: [usize; 2],
    is_done: [bool; 2],
    rows: HashMap<(usize, usize), &'static str>,
    skipped: HashSet<(usize, usize)>,
}

impl Model {
    /// Events up to a position, counted from 1; the feeds that run decide, or all have ended.
    fn least(&self, positions: [usize; 2], events: usize) -> usize {
        let running = (0..2).filter(|endpoint| !self.is_done[*endpoint]);
        running.map(|endpoint| positions[endpoint]).min().unwrap_or(events)
    }

    fn figures(&self, events: usize) -> Vec<i64> {
        let settled = self.least(self.settled, events);
        let count = |status: &str| self.rows.values().filter(|row| **row == status).count() as i64;
        let owed = self.wants.iter().flatten().filter(|event| **event < settled).count();
        let rows = self.rows.keys().filter(|(event, _)| *event < settled).count();
        vec![
            self.least(self.scanned, events) as i64,
            count("delivered"),
            count("retrying"),
            count("dead"),
            (owed - rows) as i64,
        ]
    }

    /// Goes on with one endpoint; answers the rows that are written, `None` for one that somebody else takes.
    fn step(&mut self, dice: &mut Dice, events: usize) -> Vec<((usize, usize), Option<&'static str>)> {
        let endpoint = dice.below(2);
        let mut written = Vec::new();
        let waiting: Vec<(usize, usize)> =
            self.rows.iter().filter(|(_, status)| **status == "retrying").map(|(key, _)| *key).collect();
        for key in waiting {
            match ["retrying", "delivered", "dead", "taken"][dice.below(4)] {
                "taken" => {
                    self.rows.remove(&key);
                    self.skipped.insert(key);
                    written.push((key, None));
                }
                status => {
                    self.rows.insert(key, status);
                    written.push((key, Some(status)));
                }
            }
        }
        let scanned = (self.scanned[endpoint] + dice.below(4)).min(events);
        self.scanned[endpoint] = scanned;
        let settled = self.settled[endpoint] + dice.below(scanned - self.settled[endpoint] + 1);
        self.settled[endpoint] = settled;
        for event in self.wants[endpoint].iter().copied().filter(|event| *event < scanned) {
            let key = (event, endpoint);
            if self.rows.contains_key(&key) || self.skipped.contains(&key) {
                continue;
            }
            match dice.below(if event < settled { 4 } else { 8 }) {
                0 => drop(self.skipped.insert(key)),
                1..4 => {
                    let status = ["delivered", "retrying", "dead"][dice.below(3)];
                    self.rows.insert(key, status);
                    written.push((key, Some(status)));
                }
                _ => {}
            }
        }
        self.is_done[endpoint] = settled == events;
        written
    }
}

#[tokio::test]
async fn progress_is_exact_whatever_happens_in_whatever_order() {
    let stack = Stack::start().await;
    let Server { api, .. } = &Server::start(&stack).await;
    let b = json!({"url": "http://127.0.0.1:9/b", "event_types": ["b"]});
    let endpoints = [
        api.create_endpoint("default", "http://127.0.0.1:9/").await.id,
        api.create_endpoint_with("default", &b).await.id,
    ];
    let types: Vec<&str> = (0..24).map(|n| if n % 3 == 1 { "b" } else { "a" }).collect();
    let events = post_events(api, &types).await;
    for seed in 1..=6 {
        let replay = id(&api.post("/replay", &all_with(&json!({}))).await.expect(202).body);
        let mut dice = Dice(seed);
        let wants = [(0..24).collect(), (0..24).filter(|n| n % 3 == 1).collect()];
        let mut model = Model { wants, ..Model::default() };
        while model.is_done != [true, true] || model.rows.values().any(|status| *status == "retrying") {
            for ((event, endpoint), status) in model.step(&mut dice, events.len()) {
                let (replay, status) = status.map_or((None, "delivered"), |status| (Some(&*replay), status));
                record(&stack, (&events[event], &endpoints[endpoint]), status, "503", replay).await;
            }
            for (index, endpoint) in endpoints.iter().enumerate() {
                set_feed(&stack, (&replay, endpoint), &events, &model, index).await;
            }
            if dice.below(3) > 0 {
                assert_eq!(figures(api, &replay).await, model.figures(events.len()), "seed {seed}");
            }
        }
        assert_eq!(figures(api, &replay).await, model.figures(events.len()), "seed {seed}, at its end");
    }
}

async fn set_feed(
    stack: &Stack,
    (replay, endpoint): (&str, &str),
    events: &[String],
    model: &Model,
    index: usize,
) {
    let event = |count: usize| count.checked_sub(1).map(|last| events[last].parse::<EventId>().unwrap());
    sqlx::query(
        "update feed set scanned_position = coalesce((select position from event where id = $3), from_position),
                settled_position = coalesce((select position from event where id = $4), from_position),
                status = case when $5 then 'done' else 'active' end
         where replay_id = $1 and endpoint_id = $2",
    )
    .bind(replay.parse::<ReplayId>().unwrap())
    .bind(endpoint.parse::<EndpointId>().unwrap())
    .bind(event(model.scanned[index]))
    .bind(event(model.settled[index]))
    .bind(model.is_done[index])
    .execute(&stack.pool)
    .await
    .unwrap();
}

#[tokio::test]
async fn what_a_later_ask_takes_over_is_skipped() {
    let stack = Stack::start().await;
    let Server { api, .. } = &Server::start(&stack).await;
    let all = api.create_endpoint("default", "http://127.0.0.1:9/").await.id;
    let events = post_events(api, &["a", "a", "a"]).await;
    let replay = id(&api.post("/replay", &all_with(&json!({}))).await.expect(202).body);
    move_feeds(&stack, &all, &events[2], &events[2]).await;
    record(&stack, (&events[0], &all), "retrying", "503", Some(&replay)).await;
    record(&stack, (&events[1], &all), "delivered", "503", Some(&replay)).await;
    record(&stack, (&events[2], &all), "delivered", "503", Some(&replay)).await;
    assert_eq!(figures(api, &replay).await, [3, 2, 1, 0, 0]);
    record(&stack, (&events[0], &all), "retrying", "503", None).await;
    assert_eq!(figures(api, &replay).await, [3, 2, 0, 0, 1]);
}
