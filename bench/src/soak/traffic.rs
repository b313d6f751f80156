//! What producers and operators do meanwhile: events at a steady rate, an endpoint that comes and goes, and a
//! replay now and then.

use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use anyhow::Context as _;
use chrono::{TimeDelta, Utc};
use eventrail_core::ids::EventId;
use reqwest::{Method, StatusCode};
use serde_json::{Value, json};
use tokio::task::JoinSet;
use tokio::time::{Instant, interval, sleep, sleep_until};

use super::guests::{EVENT_TYPES, GUESTS, Guests, VISITOR};
use crate::generator;
use crate::system::System;

const PAYLOAD_BYTES: usize = 512;
/// Requests to the API under way at once.
const MOST_POSTS: usize = 256;
const VISIT_EVERY: Duration = Duration::from_secs(60);
const VISIT_LASTS: Duration = Duration::from_secs(20);
const REPLAY_EVERY: Duration = Duration::from_secs(120);
/// Of the log, at each replay.
const REPLAY_SECONDS: i64 = 30;

#[derive(Clone)]
struct Api {
    client: reqwest::Client,
    url: String,
}

pub(crate) struct Traffic {
    api: Api,
    guests: Arc<Guests>,
    posted: Arc<AtomicU32>,
    /// The endpoint that gets events again.
    replayed: String,
}

impl Traffic {
    /// Makes the groups and endpoints.
    pub(crate) async fn prepare(system: &System, guests: Arc<Guests>) -> anyhow::Result<Self> {
        let api = Api { client: reqwest::Client::builder().no_proxy().build()?, url: system.api_url() };
        for group in ["orders", "audit", "visitors"] {
            api.ask(Method::POST, "/consumer-groups", &json!({ "name": group })).await?;
        }
        let mut replayed = String::new();
        for guest in &GUESTS {
            let path = format!("/consumer-groups/{}/endpoints", guest.group);
            let body = json!({
                "url": guests.url(guest.name), "event_types": guest.event_types,
                // Whoever is back within minutes gets all of it: nothing dies meanwhile.
                "retry": { "max_retries": 50, "max_backoff_ms": 10_000 },
            });
            let made = api.ask(Method::POST, &path, &body).await?;
            if replayed.is_empty() {
                replayed = made["id"].as_str().unwrap_or_default().to_owned();
            }
        }
        Ok(Self { api, guests, posted: Arc::default(), replayed })
    }

    /// Events that the API has accepted so far.
    pub(crate) fn posted(&self) -> u32 {
        self.posted.load(Ordering::Relaxed)
    }

    /// Posts events, each at its time, and each until it is accepted. Answers how many.
    pub(crate) async fn post(&self, rate: u32, end: Instant) -> anyhow::Result<u32> {
        let mut ticks = interval(Duration::from_secs(1) / rate);
        let mut posts = JoinSet::new();
        let mut number = 0;
        while Instant::now() < end {
            ticks.tick().await;
            while let Some(ended) = posts.try_join_next() {
                ended.context("a post panicked")??;
            }
            if posts.len() >= MOST_POSTS
                && let Some(ended) = posts.join_next().await
            {
                ended.context("a post panicked")??;
            }
            let (api, guests) = (self.api.clone(), Arc::clone(&self.guests));
            let posted = Arc::clone(&self.posted);
            posts.spawn(async move {
                let event_type = EVENT_TYPES[number as usize % EVENT_TYPES.len()];
                let id = api.post_event(number, event_type).await?;
                guests.accepted(id, event_type);
                posted.fetch_add(1, Ordering::Relaxed);
                anyhow::Ok(())
            });
            number += 1;
        }
        while let Some(ended) = posts.join_next().await {
            ended.context("a post panicked")??;
        }
        Ok(number)
    }

    /// Makes an endpoint and deletes it again, time after time. Answers how often.
    pub(crate) async fn visits(&self, end: Instant) -> anyhow::Result<u32> {
        let body = json!({ "url": self.guests.url(VISITOR) });
        let mut visits = 0;
        while Instant::now() + VISIT_EVERY < end {
            let path = "/consumer-groups/visitors/endpoints";
            let made = self.api.ask(Method::POST, path, &body).await?;
            sleep(VISIT_LASTS).await;
            let one = format!("{path}/{}", made["id"].as_str().unwrap_or_default());
            self.api.ask(Method::DELETE, &one, &Value::Null).await?;
            visits += 1;
            sleep(VISIT_EVERY - VISIT_LASTS).await;
        }
        sleep_until(end).await;
        Ok(visits)
    }

    /// Has the last half a minute of the log sent again, time after time. Answers how often.
    pub(crate) async fn replays(&self, end: Instant) -> anyhow::Result<u32> {
        let mut replays = 0;
        loop {
            sleep(REPLAY_EVERY.min(end.duration_since(Instant::now()))).await;
            if Instant::now() >= end {
                return Ok(replays);
            }
            // Whose acceptance has been noted here by now.
            let to = Utc::now() - TimeDelta::seconds(5);
            let window = json!({
                "from": to - TimeDelta::seconds(REPLAY_SECONDS), "to": to, "endpoint_id": self.replayed
            });
            let replay = self.api.ask(Method::POST, "/replay", &window).await?;
            let path = format!("/replays/{}", replay["id"].as_str().unwrap_or_default());
            while self.api.ask(Method::GET, &path, &Value::Null).await?["status"] != "done" {
                sleep(Duration::from_secs(1)).await;
            }
            replays += 1;
        }
    }
}

impl Api {
    async fn ask(&self, method: Method, path: &str, body: &Value) -> anyhow::Result<Value> {
        let mut request = self.client.request(method.clone(), format!("{}{path}", self.url));
        if !body.is_null() {
            request = request.json(body);
        }
        let answer = request.send().await?;
        let (status, text) = (answer.status(), answer.text().await?);
        anyhow::ensure!(status.is_success(), "{method} {path} was answered with {status}: {text}");
        Ok(if text.is_empty() { Value::Null } else { serde_json::from_str(&text)? })
    }

    async fn post_event(&self, number: u32, event_type: &str) -> anyhow::Result<EventId> {
        let payload = generator::payload(number, PAYLOAD_BYTES);
        let body = format!(r#"{{"event_type":"{event_type}","source":"soak","payload":{payload}}}"#);
        loop {
            let request = self.client.post(format!("{}/events", self.url)).body(body.clone());
            let request = request.header("content-type", "application/json");
            let answer = request.header("idempotency-key", format!("soak-{number}")).send().await?;
            let status = answer.status();
            if status == StatusCode::SERVICE_UNAVAILABLE {
                sleep(Duration::from_millis(100)).await;
                continue;
            }
            let text = answer.text().await?;
            anyhow::ensure!(status.is_success(), "POST /events was answered with {status}: {text}");
            let answer: Value = serde_json::from_str(&text)?;
            return Ok(answer["id"].as_str().unwrap_or_default().parse()?);
        }
    }
}
