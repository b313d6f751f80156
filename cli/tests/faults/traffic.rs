//! Producers as they should be: each event has a key, and is posted until an answer says that it is accepted.

use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use eventrail_core::ids::EventId;
use eventrail_core::testing::{Api, eventually_within};
use serde_json::json;
use tokio_util::task::AbortOnDropHandle;

use crate::world::LONG;

/// An event that the API said it has.
#[derive(Debug, Clone)]
pub(crate) struct Accepted {
    pub(crate) id: String,
    pub(crate) event_type: String,
}

impl Accepted {
    pub(crate) fn event_id(&self) -> EventId {
        self.id.parse().unwrap()
    }
}

/// Every third event is of a user, the others are of invoices.
fn event_type(number: usize) -> &'static str {
    if number.is_multiple_of(3) { "user.created" } else { "invoice.paid" }
}

/// Posts one event and answers the status with what was accepted, or `None` if nobody answered.
pub(crate) async fn try_post(api: &Api, number: usize) -> Option<(u16, Option<Accepted>)> {
    let event_type = event_type(number);
    let body = json!({ "event_type": event_type, "source": "shop", "payload": { "number": number } });
    let request = api.request("POST", "/events").header("idempotency-key", format!("key-{number}"));
    let reply = Api::send(request.json(&body).timeout(Duration::from_secs(20))).await.ok()?;
    let accepted = matches!(reply.status, 200 | 201).then(|| Accepted {
        id: reply.body["id"].as_str().unwrap().to_owned(),
        event_type: event_type.to_owned(),
    });
    assert!(accepted.is_some() || reply.status == 503, "{} {}", reply.status, reply.text);
    Some((reply.status, accepted))
}

/// Posts one event until it is accepted.
pub(crate) async fn post(api: &Api, number: usize) -> Accepted {
    let posting = async {
        loop {
            match try_post(api, number).await {
                Some((_, Some(accepted))) => return accepted,
                _ => tokio::time::sleep(Duration::from_millis(50)).await,
            }
        }
    };
    tokio::time::timeout(LONG, posting).await.expect("accepted in time")
}

/// Posts events with these numbers, all at once.
pub(crate) async fn post_all(api: &Api, numbers: std::ops::Range<usize>) -> Vec<Accepted> {
    let mut posts = tokio::task::JoinSet::new();
    for number in numbers {
        let api = api.clone();
        posts.spawn(async move { post(&api, number).await });
    }
    posts.join_all().await
}

/// Producers that go on until they are told to stop.
pub(crate) struct Traffic {
    accepted: Arc<Mutex<Vec<Accepted>>>,
    stop: Arc<AtomicBool>,
    producers: Vec<AbortOnDropHandle<()>>,
}

impl Traffic {
    /// Some hundreds of events a second, with numbers from 1,000,000 on.
    pub(crate) fn start(api: &Api) -> Self {
        Self::over(&Arc::new(Mutex::new(api.clone())))
    }

    /// To whichever API `api` names at the time.
    pub(crate) fn over(api: &Arc<Mutex<Api>>) -> Self {
        let accepted: Arc<Mutex<Vec<Accepted>>> = Arc::default();
        let (stop, next) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicUsize::new(1_000_000)));
        let producers = (0..4).map(|_| {
            let (api, accepted, stop) = (Arc::clone(api), Arc::clone(&accepted), Arc::clone(&stop));
            let next = Arc::clone(&next);
            AbortOnDropHandle::new(tokio::spawn(async move {
                while !stop.load(Ordering::SeqCst) {
                    let number = next.fetch_add(1, Ordering::SeqCst);
                    let event = loop {
                        let api = api.lock().unwrap().clone();
                        match try_post(&api, number).await {
                            Some((_, Some(event))) => break event,
                            _ => tokio::time::sleep(Duration::from_millis(50)).await,
                        }
                    };
                    accepted.lock().unwrap().push(event);
                    tokio::time::sleep(Duration::from_millis(10)).await;
                }
            }))
        });
        let producers = producers.collect();
        Self { accepted, stop, producers }
    }

    /// What was accepted so far.
    pub(crate) fn so_far(&self) -> Vec<Accepted> {
        self.accepted.lock().unwrap().clone()
    }

    /// Waits until so many more events are accepted.
    pub(crate) async fn more(&self, count: usize) {
        let goal = self.so_far().len() + count;
        eventually_within(LONG, async || {
            let accepted = self.accepted.lock().unwrap().len();
            if accepted >= goal { Ok(()) } else { Err(format!("{accepted} of {goal} events accepted")) }
        })
        .await;
    }

    /// Lets the producers finish what they post, and answers all that was accepted.
    pub(crate) async fn stop(self) -> Vec<Accepted> {
        self.stop.store(true, Ordering::SeqCst);
        for producer in self.producers {
            tokio::time::timeout(LONG, producer).await.expect("accepted in time").unwrap();
        }
        self.accepted.lock().unwrap().clone()
    }
}
