//! Two APIs, two dispatchers, PostgreSQL, Redis and three receivers, each pair that talks with a proxy between.

use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::sync::atomic::AtomicUsize;
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use eventrail_core::secret::Secret;
use eventrail_core::servers::{self, Binaries, Durability, Redis, RedisOptions};
use eventrail_core::testing::{Answer, Api, CuttingProxy, EventrailProcess, Receiver, Stack, StackOptions};
use serde_json::json;
use tokio::sync::Mutex;

use crate::ledger::{Ledger, RECEIVERS};
use crate::settings::Settings;

pub(crate) const PROCESSES: usize = 4;
/// Where PostgreSQL's data lies, so that it can be made full.
const DISK_MEGABYTES: u32 = 6000;
/// How long a process may take until it is ready, faults of others included.
const START_PATIENCE: Duration = Duration::from_secs(60);
const STOP_PATIENCE: Duration = Duration::from_secs(60);
const LIBFAKETIME: [&str; 3] = [
    "/usr/lib/x86_64-linux-gnu/faketime/libfaketimeMT.so.1",
    "/usr/lib/aarch64-linux-gnu/faketime/libfaketimeMT.so.1",
    "/usr/lib/faketime/libfaketimeMT.so.1",
];

pub(crate) struct Cluster {
    pub(crate) ledger: Arc<Ledger>,
    /// PostgreSQL, and what asks about it.
    pub(crate) stack: Mutex<Stack>,
    pub(crate) redis: Mutex<Redis>,
    /// APIs 0 and 1, dispatchers 2 and 3.
    pub(crate) processes: [Mutex<Option<EventrailProcess>>; PROCESSES],
    /// For each process its links to PostgreSQL and to Redis.
    links: Vec<[CuttingProxy; 2]>,
    /// The way to Redis of those who only look.
    observers: CuttingProxy,
    pub(crate) receiver_links: Vec<CuttingProxy>,
    /// One for each link and receiver: two faults do not share it.
    pub(crate) busy: Vec<Mutex<()>>,
    environments: Vec<Vec<(String, String)>>,
    listen: Vec<String>,
    binary: PathBuf,
    pub(crate) directory: PathBuf,
    pub(crate) replicas: AtomicUsize,
    /// Raised when a stream has lost something: the watch looks closely for a while.
    pub(crate) losses: AtomicUsize,
    pub(crate) has_clocks: bool,
    pub(crate) has_disk: bool,
    _receivers: Vec<Receiver>,
}

pub(crate) fn name(process: usize) -> String {
    format!("{}-{}", if process < 2 { "api" } else { "dispatcher" }, process % 2)
}

impl Cluster {
    pub(crate) async fn start(ledger: Arc<Ledger>, settings: &Settings) -> Self {
        let directory = settings.directory.clone();
        let mut stack = Stack::start_with(StackOptions {
            durability: Durability::Full,
            pool_size: 4,
            // A small log, so that a long run fits on the disk.
            postgres_settings: vec![("max_wal_size".into(), "192MB".into())],
            small_disk: Some(DISK_MEGABYTES),
            ..StackOptions::default()
        })
        .await;
        stack.redis.stop().await;
        let redis = start_redis(&directory, 0).await;
        let (observers, url) = CuttingProxy::for_url(&redis.url()).await;
        stack.redis_client = eventrail_core::rail::client(&url).unwrap();
        let library = LIBFAKETIME.into_iter().find(|library| Path::new(library).exists());
        let mut links = Vec::new();
        let mut environments = Vec::new();
        let listen: Vec<String> =
            (0..PROCESSES).map(|_| format!("127.0.0.1:{}", servers::free_port().unwrap())).collect();
        for (process, listen) in listen.iter().enumerate() {
            let (postgres, database_url) = CuttingProxy::for_url(&stack.postgres.url()).await;
            let (to_redis, redis_url) = CuttingProxy::for_url(&redis.url()).await;
            links.push([postgres, to_redis]);
            let mut environment = stack.environment();
            environment.retain(|(name, _)| name != "DATABASE_URL" && name != "REDIS_URL");
            environment.extend(own_settings(process, listen, &database_url, &redis_url));
            if let Some(library) = library {
                environment.extend(stepped_clock(library, &clock_file(&directory, process)));
            }
            environments.push(environment);
        }
        let (receivers, receiver_links, secrets) = receivers(&ledger).await;
        let cluster = Self {
            has_disk: stack.disk.is_some(),
            has_clocks: library.is_some(),
            stack: Mutex::new(stack),
            redis: Mutex::new(redis),
            processes: Default::default(),
            links,
            observers,
            receiver_links,
            busy: (0..2 * PROCESSES + RECEIVERS).map(|_| Mutex::default()).collect(),
            environments,
            listen,
            binary: settings.binary.clone(),
            directory,
            replicas: AtomicUsize::new(0),
            losses: AtomicUsize::new(0),
            _receivers: receivers,
            ledger,
        };
        for process in 0..PROCESSES {
            cluster.step_clock(process, 0);
            let mut slot = cluster.processes[process].lock().await;
            cluster.start_process(process, &mut slot).await;
        }
        cluster.subscribe(&secrets).await;
        cluster
    }

    /// The default group has one endpoint; the group `orders` has one for all and one for `user.*`.
    async fn subscribe(&self, secrets: &[Arc<OnceLock<Secret>>]) {
        let api = &self.apis()[0];
        api.create_group("orders").await;
        for (receiver, (group, types)) in
            [("default", vec![]), ("orders", vec![]), ("orders", vec!["user.*"])].into_iter().enumerate()
        {
            let url = format!("http://{}/{receiver}", self.receiver_links[receiver].address());
            let body = json!({ "url": url, "event_types": types, "max_in_flight": 32 });
            let endpoint = api.create_endpoint_with(group, &body).await;
            secrets[receiver].set(endpoint.secret.parse().unwrap()).unwrap();
        }
    }

    pub(crate) fn apis(&self) -> [Api; 2] {
        [0, 1].map(|process| Api::new(format!("http://{}", self.listen[process])))
    }

    pub(crate) fn link(&self, process: usize, redis: bool) -> &CuttingProxy {
        &self.links[process][usize::from(redis)]
    }

    pub(crate) fn log_of(&self, process: usize) -> PathBuf {
        self.directory.join(format!("{}.log", name(process)))
    }

    /// Starts a process, again if it ends while servers are away, as whoever runs it would, until it is ready.
    pub(crate) async fn start_process(&self, process: usize, slot: &mut Option<EventrailProcess>) {
        let (command, listen) = (if process < 2 { "api" } else { "dispatcher" }, &self.listen[process]);
        let ready = async {
            let probe = Api::new(format!("http://{listen}"));
            loop {
                let running = slot.as_mut().is_some_and(|running| running.ended().is_none());
                if !running {
                    *slot = Some(EventrailProcess::spawn_logging_to(
                        &self.binary,
                        &[command],
                        &self.environments[process],
                        listen,
                        &self.log_of(process),
                    ));
                }
                let asked = probe.request("GET", "/readyz").timeout(Duration::from_secs(3));
                if Api::send(asked).await.is_ok_and(|reply| reply.status == 200) {
                    return;
                }
                tokio::time::sleep(Duration::from_millis(50)).await;
            }
        };
        if tokio::time::timeout(START_PATIENCE, ready).await.is_err() {
            self.ledger.problem(format!("{} is not ready {START_PATIENCE:?} after its start", name(process)));
        }
    }

    /// SIGTERM, to its end, which has to be a good one.
    pub(crate) async fn stop_process(&self, process: usize, slot: &mut Option<EventrailProcess>) {
        let Some(mut running) = slot.take() else { return };
        running.send_sigterm();
        match running.exit_within(STOP_PATIENCE).await {
            Some(status) if status.success() => {}
            Some(status) => self.ledger.problem(format!("{} ended with {status} at SIGTERM", name(process))),
            None => {
                self.ledger.problem(format!("{} still runs {STOP_PATIENCE:?} after SIGTERM", name(process)));
            }
        }
    }

    /// By how many seconds the clock of a process is wrong.
    pub(crate) fn step_clock(&self, process: usize, seconds: i64) {
        let file = clock_file(&self.directory, process);
        let unfinished = file.with_extension("new");
        std::fs::write(&unfinished, format!("{seconds:+}")).unwrap();
        std::fs::rename(unfinished, file).unwrap();
    }

    /// A Redis that may take over from this one.
    pub(crate) async fn another_redis(&self, number: usize) -> Redis {
        start_redis(&self.directory, number).await
    }

    /// Turns everybody to another Redis.
    pub(crate) fn turn_to(&self, redis: &Redis) {
        let address = SocketAddr::from(([127, 0, 0, 1], redis.port()));
        for links in &self.links {
            links[1].turn_to(address);
        }
        self.observers.turn_to(address);
    }

    /// Processes that ended though nobody told them to.
    pub(crate) fn ended_processes(&self) -> Vec<String> {
        let ended = (0..PROCESSES).filter_map(|process| {
            let mut slot = self.processes[process].try_lock().ok()?;
            let status = slot.as_mut()?.ended()?;
            Some(format!("{} ended by itself with {status}", name(process)))
        });
        ended.collect()
    }

    /// Copies the servers' logs to those of the processes.
    pub(crate) async fn keep_logs(&self) {
        let stack = self.stack.lock().await;
        let _ = std::fs::copy(stack.directory().join("postgres.log"), self.directory.join("postgres.log"));
    }
}

fn own_settings(process: usize, listen: &str, database_url: &str, redis_url: &str) -> Vec<(String, String)> {
    let own = [
        ("DATABASE_URL", database_url),
        ("REDIS_URL", redis_url),
        (if process < 2 { "LISTEN" } else { "DISPATCHER_LISTEN" }, listen),
        ("EGRESS_ALLOW", "127.0.0.0/8"),
        // So many that nothing is given up, whatever breaks for how long.
        ("MAX_RETRIES", "50"),
        ("BASE_BACKOFF_MS", "200"),
        ("MAX_BACKOFF_MS", "2000"),
        ("ATTEMPT_TIMEOUT_MS", "3000"),
    ];
    own.into_iter().map(|(name, value)| (name.to_owned(), value.to_owned())).collect()
}

/// The wall clock comes from a file, the monotonic one is left alone.
fn stepped_clock(library: &str, file: &Path) -> Vec<(String, String)> {
    let own = [
        ("LD_PRELOAD", library.to_owned()),
        ("FAKETIME_TIMESTAMP_FILE", file.display().to_string()),
        ("FAKETIME_DONT_FAKE_MONOTONIC", "1".to_owned()),
        ("DONT_FAKE_MONOTONIC", "1".to_owned()),
        ("FAKETIME_CACHE_DURATION", "1".to_owned()),
        ("FAKETIME_DISABLE_SHM", "1".to_owned()),
        ("NO_FAKE_STAT", "1".to_owned()),
    ];
    own.into_iter().map(|(name, value)| (name.to_owned(), value)).collect()
}

fn clock_file(directory: &Path, process: usize) -> PathBuf {
    directory.join(format!("{}.clock", name(process)))
}

async fn start_redis(directory: &Path, number: usize) -> Redis {
    let binaries = Binaries::find().unwrap();
    let home = directory.join(format!("redis-{number}"));
    Redis::start(&binaries, &home, RedisOptions::default()).await.unwrap()
}

type Receivers = (Vec<Receiver>, Vec<CuttingProxy>, Vec<Arc<OnceLock<Secret>>>);

async fn receivers(ledger: &Arc<Ledger>) -> Receivers {
    let (mut receivers, mut links, mut secrets) = (Vec::new(), Vec::new(), Vec::new());
    for number in 0..RECEIVERS {
        let secret: Arc<OnceLock<Secret>> = Arc::default();
        let (ledger, known) = (Arc::clone(ledger), Arc::clone(&secret));
        let receiver = Receiver::start_judged(move |request| match known.get() {
            Some(secret) => ledger.judge(number, secret, &request),
            None => Answer::status(500),
        })
        .await;
        links.push(CuttingProxy::start(receiver.address()).await);
        receivers.push(receiver);
        secrets.push(secret);
    }
    (receivers, links, secrets)
}
