//! Breaks things and heals them again.

use std::sync::atomic::Ordering;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use eventrail_core::servers::Redis;
use eventrail_core::testing::CuttingProxy;
use tokio::sync::Semaphore;
use tokio::task::{JoinSet, LocalSet};
use tokio::time::sleep;

use crate::cluster::{Cluster, PROCESSES};
use crate::plan::{Fault, HalfOpen, Kind, Target};

/// As many at a time.
const AT_ONCE: usize = 2;
/// How long a healed PostgreSQL may take to accept connections by itself.
const RECOVERS_WITHIN: Duration = Duration::from_secs(5);

/// A fault that happened. Times are since the beginning of the run.
#[derive(Debug, Clone)]
pub(crate) struct Struck {
    pub(crate) fault: Fault,
    pub(crate) began: Duration,
    pub(crate) healed: Option<Duration>,
}

pub(crate) type Journal = Arc<Mutex<Vec<Struck>>>;

/// Carries out a plan, later than planned where healing takes long; begins nothing after `length`, nor once
/// `ended` says so.
pub(crate) async fn carry_out(
    cluster: &Arc<Cluster>,
    plan: Vec<Fault>,
    length: Duration,
    journal: &Journal,
    ended: impl Fn() -> bool,
) {
    // On this thread: the servers that are started again live as long as the thread that does it.
    LocalSet::new().run_until(carry_out_here(cluster, plan, length, journal, ended)).await;
}

async fn carry_out_here(
    cluster: &Arc<Cluster>,
    plan: Vec<Fault>,
    length: Duration,
    journal: &Journal,
    ended: impl Fn() -> bool,
) {
    let permits = Arc::new(Semaphore::new(AT_ONCE));
    let began = cluster.ledger.now();
    let mut striking = JoinSet::new();
    for fault in plan {
        while cluster.ledger.now() < began + fault.at && !ended() {
            sleep(Duration::from_millis(20)).await;
        }
        let permit = Arc::clone(&permits).acquire_owned().await.unwrap();
        if ended() || cluster.ledger.now() > began + length {
            break;
        }
        let (cluster, journal) = (Arc::clone(cluster), Arc::clone(journal));
        striking.spawn_local(async move {
            strike(&cluster, &fault, &journal).await;
            drop(permit);
        });
    }
    striking.join_all().await;
}

/// Notes when a fault begins and when it is healed.
struct Noted<'a> {
    cluster: &'a Cluster,
    journal: &'a Journal,
    number: usize,
}

impl<'a> Noted<'a> {
    fn begin(cluster: &'a Cluster, journal: &'a Journal, fault: &Fault) -> Self {
        let mut struck = journal.lock().unwrap();
        struck.push(Struck { fault: fault.clone(), began: cluster.ledger.now(), healed: None });
        Self { cluster, journal, number: struck.len() - 1 }
    }

    fn healed(self) {
        self.journal.lock().unwrap()[self.number].healed = Some(self.cluster.ledger.now());
    }
}

async fn strike(cluster: &Cluster, fault: &Fault, journal: &Journal) {
    match fault.target {
        Target::Process(process) => on_process(cluster, fault, process, journal).await,
        Target::Fleet { dispatchers } => {
            // In order, so that two such faults cannot wait for each other.
            let first = if dispatchers { 2 } else { 0 };
            let mut slots =
                [cluster.processes[first].lock().await, cluster.processes[first + 1].lock().await];
            let noted = Noted::begin(cluster, journal, fault);
            for (number, slot) in slots.iter_mut().enumerate() {
                cluster.stop_process(first + number, slot).await;
                cluster.start_process(first + number, slot).await;
            }
            noted.healed();
        }
        Target::Postgres => on_postgres(cluster, fault, journal).await,
        Target::Redis | Target::Stream(_) => on_redis(cluster, fault, journal).await,
        Target::Link { process, redis } => {
            let _alone = cluster.busy[2 * process + usize::from(redis)].lock().await;
            let noted = Noted::begin(cluster, journal, fault);
            on_link(cluster.link(process, redis), fault).await;
            noted.healed();
        }
        Target::Receiver(receiver) => {
            let _alone = cluster.busy[2 * PROCESSES + receiver].lock().await;
            let noted = Noted::begin(cluster, journal, fault);
            on_link(&cluster.receiver_links[receiver], fault).await;
            noted.healed();
        }
    }
}

async fn on_process(cluster: &Cluster, fault: &Fault, process: usize, journal: &Journal) {
    let mut slot = cluster.processes[process].lock().await;
    let noted = Noted::begin(cluster, journal, fault);
    let step = i64::from(fault.amount);
    match fault.kind {
        Kind::KillApi | Kind::KillDispatcher => {
            if let Some(running) = slot.take() {
                running.kill9().await;
            }
            sleep(fault.lasts).await;
            cluster.start_process(process, &mut slot).await;
        }
        Kind::FreezeApi | Kind::FreezeDispatcher => {
            if let Some(running) = &*slot {
                running.sigstop();
                sleep(fault.lasts).await;
                running.sigcont();
            }
        }
        Kind::ClockForward | Kind::ClockBack => {
            cluster.step_clock(process, if fault.kind == Kind::ClockBack { -step } else { step });
            sleep(fault.lasts).await;
            cluster.step_clock(process, 0);
        }
        other => unreachable!("{other:?} is of no process"),
    }
    noted.healed();
}

async fn on_postgres(cluster: &Cluster, fault: &Fault, journal: &Journal) {
    let mut stack = cluster.stack.lock().await;
    let noted = Noted::begin(cluster, journal, fault);
    match fault.kind {
        Kind::KillPostgres => {
            stack.postgres.kill().await;
            sleep(fault.lasts).await;
            stack.postgres.restart().await.unwrap();
        }
        Kind::RestartPostgres => stack.postgres.restart().await.unwrap(),
        Kind::FreezePostgres => {
            stack.postgres.freeze();
            sleep(fault.lasts).await;
            stack.postgres.thaw();
        }
        Kind::DiskFull => {
            if let Some(disk) = &stack.disk {
                disk.fill(64);
                sleep(fault.lasts).await;
                disk.free();
            }
            let asked = sqlx::query("select 1").execute(&stack.pool);
            let answered = tokio::time::timeout(RECOVERS_WITHIN, asked).await;
            // Where it can't write its log it gives up; somebody starts it again.
            if !stack.postgres.is_running() || !matches!(answered, Ok(Ok(_))) {
                stack.postgres.restart().await.unwrap();
            }
        }
        other => unreachable!("{other:?} is not of PostgreSQL"),
    }
    noted.healed();
}

async fn on_redis(cluster: &Cluster, fault: &Fault, journal: &Journal) {
    let mut redis = cluster.redis.lock().await;
    let noted = Noted::begin(cluster, journal, fault);
    match fault.kind {
        Kind::KillRedis => {
            redis.kill().await;
            sleep(fault.lasts).await;
            redis.restart().await.unwrap();
        }
        Kind::RestartRedis => {
            redis.stop().await;
            sleep(fault.lasts).await;
            redis.restart().await.unwrap();
        }
        Kind::FreezeRedis => {
            redis.freeze();
            sleep(fault.lasts).await;
            redis.thaw();
        }
        Kind::PromoteReplica => promote(cluster, fault, &mut redis).await,
        Kind::FlushAll => {
            command(&redis, &["FLUSHALL"]).await;
            cluster.losses.fetch_add(1, Ordering::SeqCst);
        }
        Kind::DeleteStream => {
            let Target::Stream(number) = fault.target else { unreachable!("a stream's fault") };
            let invariants = cluster.stack.lock().await.invariants();
            // Where PostgreSQL is away, the stream of the first epoch is as good as any.
            let streams = invariants.live_streams().await.unwrap_or_default();
            let stream = streams.get(number).map_or("eventrail.{default}.events", |(_, stream)| stream);
            command(&redis, &["DEL", stream]).await;
            cluster.losses.fetch_add(1, Ordering::SeqCst);
        }
        Kind::RedisFull => {
            command(&redis, &["CONFIG", "SET", "maxmemory", "1"]).await;
            sleep(fault.lasts).await;
            command(&redis, &["CONFIG", "SET", "maxmemory", "0"]).await;
        }
        other => unreachable!("{other:?} is not of Redis"),
    }
    noted.healed();
}

/// A replica takes over: it has followed until a moment ago, and what came after that is lost with the old one.
async fn promote(cluster: &Cluster, fault: &Fault, redis: &mut Redis) {
    let number = cluster.replicas.fetch_add(1, Ordering::SeqCst) + 1;
    let replica = cluster.another_redis(number).await;
    command(&replica, &["REPLICAOF", "127.0.0.1", &redis.port().to_string()]).await;
    let following = async {
        while !command(&replica, &["INFO", "replication"]).await.contains("master_link_status:up") {
            sleep(Duration::from_millis(50)).await;
        }
    };
    let _ = tokio::time::timeout(Duration::from_secs(10), following).await;
    command(&replica, &["REPLICAOF", "NO", "ONE"]).await;
    sleep(Duration::from_millis(u64::from(fault.amount))).await;
    redis.kill().await;
    sleep(fault.lasts).await;
    cluster.turn_to(&replica);
    *redis = replica;
}

/// Directly, not through a proxy; what it answers, or nothing.
async fn command(redis: &Redis, words: &[&str]) -> String {
    let asked = async {
        let client = redis::Client::open(redis.url()).ok()?;
        let mut connection = client.get_multiplexed_async_connection().await.ok()?;
        let answer = redis::cmd(words[0]).arg(&words[1..]).query_async::<redis::Value>(&mut connection).await;
        Some(match answer {
            Ok(value) => redis::from_redis_value::<String>(value).unwrap_or_default(),
            Err(error) => error.to_string(),
        })
    };
    tokio::time::timeout(Duration::from_secs(5), asked).await.ok().flatten().unwrap_or_default()
}

async fn on_link(link: &CuttingProxy, fault: &Fault) {
    match fault.kind {
        Kind::LinkCut | Kind::ReceiverCut => link.cut(),
        Kind::LinkDelayed | Kind::ReceiverDelayed => {
            link.delay(Duration::from_millis(u64::from(fault.amount)));
        }
        Kind::LinkSlow | Kind::ReceiverSlow => link.slow_down(fault.amount),
        Kind::LinkHalfOpen | Kind::ReceiverHalfOpen => match fault.half_open {
            HalfOpen::Abandoned => link.abandon(),
            HalfOpen::Stalled => link.stall(),
            HalfOpen::Deaf => link.swallow_answers(),
        },
        other => unreachable!("{other:?} is of no link"),
    }
    sleep(fault.lasts).await;
    link.mend();
}
