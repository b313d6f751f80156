//! A small world with three endpoints in two groups, and what must be true of it at the end.

use std::collections::HashMap;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use eventrail_core::ids::EventId;
use eventrail_core::rail::keys::CONSUMER_GROUP;
use eventrail_core::testing::{
    Answer, Api, EventrailProcess, Invariants, Receiver, Request, Stack, StackOptions, eventually_within,
};
use serde_json::json;
use tokio_util::task::AbortOnDropHandle;

use crate::traffic::Accepted;

pub(crate) const BINARY: &str = env!("CARGO_BIN_EXE_eventrail");
/// Longer than any healing should take, also on a machine that is busy with other tests.
pub(crate) const LONG: Duration = Duration::from_secs(60);

pub(crate) const DEFAULT: &str = "/default";
pub(crate) const ORDERS: &str = "/orders/all";
/// Listens to `user.*` only.
pub(crate) const USERS: &str = "/orders/users";

pub(crate) struct World {
    pub(crate) stack: Stack,
    pub(crate) receiver: Receiver,
    pub(crate) invariants: Invariants,
    watch: Watch,
    /// Ids of the endpoints by their path.
    endpoints: HashMap<&'static str, String>,
}

/// What a test has cost.
#[derive(Debug)]
pub(crate) struct Figures {
    pub(crate) deliveries: usize,
    /// All that the receiver got.
    #[allow(dead_code, reason = "printed")]
    pub(crate) requests: usize,
    /// Requests beyond one for each delivery and one for each failure that was scripted.
    pub(crate) duplicates: usize,
}

impl World {
    pub(crate) async fn start() -> Self {
        Self::start_with(StackOptions::default()).await
    }

    pub(crate) async fn start_with(options: StackOptions) -> Self {
        let stack = Stack::start_with(options).await;
        let receiver = Receiver::start().await;
        let invariants = stack.invariants();
        let watch = Watch::start(invariants.clone());
        let mut world = Self { stack, receiver, invariants, watch, endpoints: HashMap::new() };
        let api = world.api(&[]).await;
        world.subscribe(&api.client()).await;
        world
    }

    async fn subscribe(&mut self, api: &Api) {
        api.create_group("orders").await;
        for (group, path, types) in
            [("default", DEFAULT, vec![]), ("orders", ORDERS, vec![]), ("orders", USERS, vec!["user.*"])]
        {
            // Longer than any drain, so that it is a test's own choice when an attempt ends.
            let body = json!({ "url": self.receiver.url(path), "event_types": types, "timeout_ms": 30_000 });
            self.endpoints.insert(path, api.create_endpoint_with(group, &body).await.id);
        }
    }

    /// A further API, killed when it is dropped.
    pub(crate) async fn api(&self, environment: &[(&str, &str)]) -> EventrailProcess {
        EventrailProcess::api(BINARY, &self.stack, environment).await
    }

    /// A further dispatcher, with short delays before retries.
    pub(crate) async fn dispatcher(&self, environment: &[(&str, &str)]) -> EventrailProcess {
        let mut all = vec![("BASE_BACKOFF_MS", "200")];
        all.extend(environment);
        EventrailProcess::dispatcher(BINARY, &self.stack, &all).await
    }

    /// The paths that are owed an event of this type.
    fn paths(event_type: &str) -> Vec<&'static str> {
        if event_type.starts_with("user.") { vec![DEFAULT, ORDERS, USERS] } else { vec![DEFAULT, ORDERS] }
    }

    /// How many deliveries these events make.
    pub(crate) fn owed(events: &[Accepted]) -> usize {
        events.iter().map(|event| Self::paths(&event.event_type).len()).sum()
    }

    /// From now on the receiver has seen nothing, and the watch does not look for holes: the log will not be the
    /// one that the streams were made from.
    pub(crate) fn begin_anew(&self) {
        self.watch.only_settled.store(true, Ordering::SeqCst);
        self.receiver.forget();
    }

    /// All endpoints keep requests until [`Receiver::release`].
    pub(crate) fn hold_all(&self) {
        for path in [DEFAULT, ORDERS, USERS] {
            self.receiver.always(path, Answer::hold(200));
        }
    }

    pub(crate) fn answer_all(&self) {
        for path in [DEFAULT, ORDERS, USERS] {
            self.receiver.always(path, Answer::status(200));
        }
    }

    /// Waits until dispatchers have read all entries of these events, of which none is settled yet.
    pub(crate) async fn has_read(&self, events: &[Accepted]) {
        let streams = self.invariants.live_streams().await.unwrap();
        let mut redis = self.stack.redis_connection().await;
        eventually_within(LONG, async || {
            for (_, stream) in &streams {
                let asked = redis::cmd("XPENDING").arg(stream).arg(CONSUMER_GROUP).take();
                let pending: (usize, redis::Value, redis::Value, redis::Value) =
                    asked.query_async(&mut redis).await.map_err(|error| error.to_string())?;
                if pending.0 < events.len() {
                    return Err(format!("{} entries of {stream} are read", pending.0));
                }
            }
            Ok(())
        })
        .await;
    }

    /// Waits until all of these events are delivered by the record, and tells how long that took.
    pub(crate) async fn heals(&self, what: &str, events: &[Accepted]) {
        let started = Instant::now();
        let ids: Vec<EventId> = events.iter().map(Accepted::event_id).collect();
        let owed = Self::owed(events);
        eventually_within(LONG, async || match self.invariants.delivered(&ids).await {
            Ok(delivered) if delivered == owed => Ok(()),
            Ok(delivered) => Err(format!("{delivered} of {owed} deliveries after {what}")),
            Err(error) => Err(error.to_string()),
        })
        .await;
        eprintln!("[figures] {what}: healed {owed} deliveries in {:.1} s", started.elapsed().as_secs_f64());
    }

    /// The end of a test: nothing lost, nothing left, the record right. `failures` is how many requests were
    /// answered with a failure on purpose.
    pub(crate) async fn settles(&self, events: &[Accepted], failures: usize) -> Figures {
        self.heals("the last fault", events).await;
        self.stack.assert_settled_within(LONG).await;
        self.compare(&[], events, failures).await
    }

    /// The same after [`World::begin_anew`]: `kept` were delivered before.
    pub(crate) async fn settles_after(&self, kept: &[Accepted], events: &[Accepted]) -> Figures {
        self.heals("the last fault", events).await;
        self.stack.assert_settled_within(LONG).await;
        self.compare(kept, events, 0).await
    }

    /// Compares what arrived, and the record of it, with what was accepted.
    async fn compare(&self, kept: &[Accepted], events: &[Accepted], failures: usize) -> Figures {
        let logged = self.invariants.logged().await.unwrap();
        assert_eq!(logged, kept.len() + events.len(), "each event is in the log once");
        let requests = self.receiver.requests();
        let mut arrived: HashMap<(&str, &str), usize> = HashMap::new();
        for request in &requests {
            *arrived.entry((&request.path, request.webhook_id())).or_default() += 1;
        }
        for event in events {
            for path in Self::paths(&event.event_type) {
                assert!(arrived.contains_key(&(path, event.id.as_str())), "{path} never got {}", event.id);
            }
        }
        let owed = Self::owed(events);
        assert_eq!(arrived.len(), owed, "what arrived is what is owed and nothing else");
        self.compare_rows(&[kept, events].concat()).await;
        assert_eq!(self.watch.violations(), [""; 0]);
        let figures = Figures {
            deliveries: owed,
            requests: requests.len(),
            duplicates: (requests.len() - owed).saturating_sub(failures),
        };
        eprintln!("[figures] {} events: {figures:?}, watched {} times", events.len(), self.watch.rounds());
        figures
    }

    /// One row for each delivery, delivered, with its attempts counted; and no others.
    async fn compare_rows(&self, events: &[Accepted]) {
        let rows: HashMap<(String, String), _> = self
            .stack
            .deliveries()
            .await
            .into_iter()
            .map(|row| ((row.event_id.to_string(), row.endpoint_id.to_string()), row))
            .collect();
        for event in events {
            for path in Self::paths(&event.event_type) {
                let row = &rows[&(event.id.clone(), self.endpoints[path].clone())];
                assert_eq!(row.status, "delivered", "{row:?}");
                assert!(row.attempt_count >= 1 && row.attempt_count == row.attempt_total, "{row:?}");
            }
        }
        assert_eq!(rows.len(), Self::owed(events), "there are rows for what is owed and for nothing else");
    }

    /// Requests to the path, by event.
    pub(crate) fn requests_by_event(&self, path: &str) -> HashMap<String, Vec<Request>> {
        let mut by_event: HashMap<String, Vec<Request>> = HashMap::new();
        for request in self.receiver.requests_to(path) {
            by_event.entry(request.webhook_id().to_owned()).or_default().push(request);
        }
        by_event
    }
}

/// Asks for the invariants again and again; what is away is asked again later.
struct Watch {
    only_settled: Arc<AtomicBool>,
    seen: Arc<Mutex<(usize, Vec<String>)>>,
    _asking: AbortOnDropHandle<()>,
}

impl Watch {
    fn start(invariants: Invariants) -> Self {
        let seen: Arc<Mutex<(usize, Vec<String>)>> = Arc::default();
        let (noted, only_settled) = (Arc::clone(&seen), Arc::new(AtomicBool::new(false)));
        let no_holes = Arc::clone(&only_settled);
        let asking = tokio::spawn(async move {
            loop {
                let settled = invariants.settled_without_outcome().await;
                let holes = invariants.holes().await;
                {
                    let mut noted = noted.lock().unwrap();
                    noted.0 += usize::from(settled.is_ok() && holes.is_ok());
                    noted.1.extend(settled.into_iter().flatten());
                    if !no_holes.load(Ordering::SeqCst) {
                        noted.1.extend(holes.into_iter().flatten());
                    }
                }
                tokio::time::sleep(Duration::from_millis(100)).await;
            }
        });
        Self { only_settled, seen, _asking: AbortOnDropHandle::new(asking) }
    }

    fn violations(&self) -> Vec<String> {
        self.seen.lock().unwrap().1.clone()
    }

    fn rounds(&self) -> usize {
        self.seen.lock().unwrap().0
    }
}

/// Waits until a process has said this.
pub(crate) async fn until_says(process: &EventrailProcess, words: &str) {
    eventually_within(LONG, async || {
        process.log().contains(words).then_some(()).ok_or(format!("no {words:?} yet"))
    })
    .await;
}

/// Waits until one of these processes leads the relay, and answers which.
pub(crate) async fn leader(processes: &[&EventrailProcess], invariants: &Invariants) -> usize {
    eventually_within(LONG, async || {
        let holder = invariants.leader().await.map_err(|error| error.to_string())?.unwrap_or_default();
        let found = processes.iter().position(|process| holder.ends_with(&format!("-{}", process.id())));
        found.ok_or_else(|| format!("{holder:?} leads"))
    })
    .await
}
