//! Producers as they should be: each event has a key and is posted, to one API or the other, until an answer
//! says that it is accepted. Some come in batches.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use chrono::{DateTime, Utc};
use eventrail_core::ids::EventId;
use eventrail_core::testing::{Api, Reply};
use serde_json::Value;
use tokio::sync::Semaphore;
use tokio::task::JoinSet;
use tokio_util::task::AbortOnDropHandle;

use crate::ledger::{Acknowledged, Draft, Ledger};

/// A producer gives up on an answer after this time, and asks again.
const PATIENCE: Duration = Duration::from_secs(5);
const PAUSE: Duration = Duration::from_millis(150);
/// Posts that are under way at most: what producers hold back while nothing is accepted.
const UNDER_WAY: usize = 300;
/// Every so many posts is a batch, of so many events.
const BATCH_EVERY: u64 = 10;
const BATCH_OF: u64 = 5;
/// Numbers of the events that are posted when nothing breaks any more, and how many these are.
pub(crate) const CALM_FROM: u64 = 1_000_000_000;
const CALM_OF: u64 = 60;

pub(crate) struct Load {
    stop: Arc<AtomicBool>,
    posting: AbortOnDropHandle<()>,
}

impl Load {
    /// `rate` events a second, as long as they are accepted.
    pub(crate) fn start(ledger: &Arc<Ledger>, apis: [Api; 2], rate: u32) -> Self {
        let stop = Arc::new(AtomicBool::new(false));
        let posting = tokio::spawn(post_all(Arc::clone(ledger), apis, rate, Arc::clone(&stop)));
        Self { stop, posting: AbortOnDropHandle::new(posting) }
    }

    /// Begins no more posts and waits until all are accepted; `false` if that takes too long.
    pub(crate) async fn stop(self, patience: Duration) -> bool {
        self.stop.store(true, Ordering::SeqCst);
        tokio::time::timeout(patience, self.posting).await.is_ok()
    }
}

async fn post_all(ledger: Arc<Ledger>, apis: [Api; 2], rate: u32, stop: Arc<AtomicBool>) {
    let under_way = Arc::new(Semaphore::new(UNDER_WAY));
    let mut posts = JoinSet::new();
    let (mut number, mut turn) = (0, 0);
    while !stop.load(Ordering::SeqCst) {
        let permit = Arc::clone(&under_way).acquire_owned().await.unwrap();
        turn += 1;
        let count = if turn % BATCH_EVERY == 0 { BATCH_OF } else { 1 };
        let drafts: Vec<Draft> =
            (number..number + count).map(|number| Draft { seed: ledger.seed, number }).collect();
        number += count;
        let (ledger, apis) = (Arc::clone(&ledger), apis.clone());
        posts.spawn(async move {
            post(&ledger, &apis, &drafts).await;
            drop(permit);
        });
        while posts.try_join_next().is_some() {}
        // Its pace.
        tokio::time::sleep(Duration::from_secs_f64(count as f64 / f64::from(rate))).await;
    }
    posts.join_all().await;
}

/// Posts some more, once; `false` if they are not accepted in time.
pub(crate) async fn post_in_calm(ledger: &Arc<Ledger>, apis: &[Api; 2], patience: Duration) -> bool {
    let mut posts = JoinSet::new();
    for number in CALM_FROM..CALM_FROM + CALM_OF {
        let (ledger, apis) = (Arc::clone(ledger), apis.clone());
        posts.spawn(async move { post(&ledger, &apis, &[Draft { seed: ledger.seed, number }]).await });
    }
    tokio::time::timeout(patience, posts.join_all()).await.is_ok()
}

/// Posts until it is accepted.
async fn post(ledger: &Ledger, apis: &[Api; 2], drafts: &[Draft]) {
    let posted_at = ledger.now();
    for turn in usize::try_from(drafts[0].number).unwrap().. {
        let request = request(&apis[turn % 2], drafts);
        match Api::send(request.timeout(PATIENCE)).await {
            Ok(reply) if matches!(reply.status, 200 | 201) => {
                let at = ledger.now();
                match acknowledged(&reply, drafts.len()) {
                    Some(events) => {
                        for (draft, (id, created_at)) in drafts.iter().zip(events) {
                            let draft = *draft;
                            ledger.acknowledge(id, Acknowledged { draft, posted_at, at, created_at });
                        }
                    }
                    None => ledger.problem(format!("{} {}", reply.status, reply.text)),
                }
                return;
            }
            Ok(reply) if matches!(reply.status, 429 | 503) => {}
            Ok(reply) => {
                ledger.problem(format!("a producer was told {} {}", reply.status, reply.text));
                return;
            }
            // Nobody answered: whether it was accepted is not known, and so it is posted again.
            Err(_) => {}
        }
        // As any producer would, before it asks again.
        tokio::time::sleep(PAUSE).await;
    }
}

fn request(api: &Api, drafts: &[Draft]) -> reqwest::RequestBuilder {
    let fields = |draft: &Draft| {
        let (event_type, source, payload) =
            (draft.event_type(), Value::from(draft.source()), draft.payload());
        format!("\"event_type\":\"{event_type}\",\"source\":{source},\"payload\":{payload}")
    };
    let (path, key, body) = if let [draft] = drafts {
        ("/events", Some(draft.key()), format!("{{{}}}", fields(draft)))
    } else {
        let events = drafts
            .iter()
            .map(|draft| format!("{{\"idempotency_key\":\"{}\",{}}}", draft.key(), fields(draft)));
        ("/events/batch", None, format!("{{\"events\":[{}]}}", events.collect::<Vec<_>>().join(",")))
    };
    let request = api.request("POST", path).header("content-type", "application/json").body(body);
    match key {
        Some(key) => request.header("idempotency-key", key),
        None => request,
    }
}

/// Ids and times by an answer that says that all are accepted.
fn acknowledged(reply: &Reply, count: usize) -> Option<Vec<(EventId, Option<DateTime<Utc>>)>> {
    let event = |value: &Value| {
        let conflict = value["status"] == "conflict";
        let id = value["id"].as_str().filter(|_| !conflict)?.parse().ok()?;
        let created_at = value["created_at"].as_str().and_then(|text| text.parse().ok());
        Some((id, created_at))
    };
    let events: Vec<_> = match reply.body["data"].as_array() {
        Some(events) => events.iter().map(event).collect::<Option<_>>()?,
        None => vec![event(&reply.body)?],
    };
    (events.len() == count).then_some(events)
}
