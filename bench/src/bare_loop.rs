//! What this machine can do without a rail: signed POSTs of the same size by the same HTTP client, nothing
//! looked up, nothing recorded.

use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, Instant};

use anyhow::Context as _;
use eventrail_core::ids::EventId;
use eventrail_core::secret::Secret;
use eventrail_core::signature::{SigningKey, WEBHOOK_ID, WEBHOOK_SIGNATURE, WEBHOOK_TIMESTAMP, sign};
use tokio::task::JoinSet;

use crate::generator;

pub(crate) struct Bare {
    pub(crate) started: Instant,
    pub(crate) ids: Vec<EventId>,
}

/// # Errors
/// A POST fails, or the time is up.
pub(crate) async fn run(
    url: &str,
    posts: u32,
    payload_bytes: usize,
    in_flight: u32,
    patience: Duration,
) -> anyhow::Result<Bare> {
    let client = reqwest::Client::builder()
        .no_proxy()
        .redirect(reqwest::redirect::Policy::none())
        .user_agent(concat!("EventRail/", env!("CARGO_PKG_VERSION")))
        .build()?;
    let keys = Arc::new([SigningKey::new(&Secret::generate())]);
    let next = Arc::new(AtomicU32::new(0));
    let started = Instant::now();
    let mut loops = JoinSet::new();
    for _ in 0..in_flight {
        let (client, keys, next, url) =
            (client.clone(), Arc::clone(&keys), Arc::clone(&next), url.to_owned());
        loops.spawn(async move {
            let mut ids = Vec::new();
            loop {
                let number = next.fetch_add(1, Ordering::Relaxed);
                if number >= posts {
                    return anyhow::Ok(ids);
                }
                let id = EventId::generate();
                deliver(&client, &url, id, generator::payload(number, payload_bytes), &*keys).await?;
                ids.push(id);
            }
        });
    }
    let mut ids = Vec::new();
    let all = async {
        while let Some(posted) = loops.join_next().await {
            ids.extend(posted.context("a loop panicked")??);
        }
        anyhow::Ok(())
    };
    tokio::time::timeout(patience, all)
        .await
        .context("the bare loop has not ended when the time is up")??;
    Ok(Bare { started, ids })
}

async fn deliver(
    client: &reqwest::Client,
    url: &str,
    id: EventId,
    payload: String,
    keys: &[SigningKey],
) -> anyhow::Result<()> {
    let now = chrono::Utc::now();
    let id = id.to_string();
    let time = now.to_rfc3339_opts(chrono::SecondsFormat::Micros, true);
    let body = format!(
        r#"{{"id":"{id}","type":"bench.event","source":"bench","timestamp":"{time}","data":{payload}}}"#
    );
    let timestamp = now.timestamp();
    let signature = sign(&id, timestamp, body.as_bytes(), keys);
    let answer = client
        .post(url)
        .header(WEBHOOK_ID, &id)
        .header(WEBHOOK_TIMESTAMP, timestamp)
        .header(WEBHOOK_SIGNATURE, signature)
        .header("eventrail-attempt", "1")
        .header("eventrail-group", "default")
        .header("content-type", "application/json")
        .body(body)
        .send()
        .await?;
    anyhow::ensure!(answer.status().is_success(), "the receiver answered with {}", answer.status());
    answer.bytes().await?;
    Ok(())
}
