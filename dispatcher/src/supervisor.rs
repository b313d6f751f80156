//! What runs in a dispatcher, and how it stops: first no new work, then what is under way is finished up to a
//! deadline and recorded, then the consumer signs off, so that others take over at once what was left.

use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::Context as _;
use eventrail_core::config::{DispatcherConfig, StoreConfig};
use eventrail_core::db::lines::Lines;
use eventrail_core::db::{self, dispatcher, tail};
use eventrail_core::descriptors;
use eventrail_core::egress::EgressPolicy;
use eventrail_core::ids::EndpointId;
use eventrail_core::metrics as names;
use eventrail_core::rail::keys::Keys;
use eventrail_core::rail::link::Link;
use eventrail_core::rail::ready;
use eventrail_core::rail::{self, intake as consumer};
use eventrail_core::vault::Vault;
use futures_util::StreamExt as _;
use metrics_exporter_prometheus::PrometheusHandle;
use sqlx::PgPool;
use tokio::sync::{Notify, mpsc, watch};
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

use crate::deliver::Courier;
use crate::event::EventCache;
use crate::footing::{CUT_OFF_AFTER, Footing};
use crate::http_client::Client;
use crate::intake::{CLAIM_AFTER, Intake, LONGEST_HOLD};
use crate::maintenance::health::Health;
use crate::maintenance::retention::Retention;
use crate::prepare::Context;
use crate::recipients::{Defaults, Recipients};
use crate::relay::{Relay, RelayConfig, Step};
use crate::told::Told;
use crate::{clock, maintenance, probes, record};

/// A consumer that has not said so for this long is taken for dead.
const ALIVE: Duration = Duration::from_secs(4);
const ANNOUNCE_EVERY: Duration = Duration::from_secs(1);
/// What a Redis that is there answers within, and how often in a row it may fail to.
const ANSWER_WITHIN: Duration = Duration::from_secs(3);
const MOST_UNANSWERED: u32 = 3;
const REFRESH_EVERY: Duration = Duration::from_millis(500);
/// Connections to PostgreSQL: for what is done now and then, and for what is done for each delivery.
const POOL: u32 = 6;
const LINES: usize = 6;
/// Events kept to be sent, in bytes.
const CACHE_BYTES: usize = 32 << 20;
/// After the attempts: time for the recorder to write what they brought.
const RECORD_DEADLINE: Duration = Duration::from_secs(5);

/// Runs relay and delivery until `stop` is cancelled and all is drained. PostgreSQL and Redis may be away:
/// it goes on when they are back.
///
/// # Errors
/// A setting is unusable, or a part of the dispatcher ended that must not.
pub async fn run(
    store: StoreConfig,
    config: DispatcherConfig,
    egress: EgressPolicy,
    vault: Arc<Vault>,
    metrics: PrometheusHandle,
    stop: CancellationToken,
) -> anyhow::Result<()> {
    config.validate()?;
    // A connection for each attempt under way, and those that rest.
    descriptors::raise();
    assert!(
        CLAIM_AFTER >= 3 * LONGEST_HOLD,
        "entries are taken over only from those who can't hold them any more"
    );
    const {
        assert!(
            CUT_OFF_AFTER.as_millis() < ALIVE.as_millis(),
            "one who is taken for dead has stopped before"
        );
    };
    let name = format!("{}@{}-{}", config.consumer_name, host(), std::process::id());
    let pool = db::pool(db::connect_options(&store.database_url, &name).context("DATABASE_URL")?, POOL);
    let redis = Link::new(&store.redis_url).context("REDIS_URL")?;
    rail::check_policy(&mut redis.connection()).await?;
    let keys = Keys::new(&store.redis_prefix);
    let cache = Arc::new(EventCache::new(CACHE_BYTES));
    let context = Arc::new(Context {
        pool: pool.clone(),
        lines: Lines::beside(&pool, LINES),
        recorder: Lines::beside(&pool, 1),
        redis: redis.clone(),
        keys: keys.clone(),
        consumer: name.clone(),
        recipients: Recipients::new(
            pool.clone(),
            vault,
            Defaults {
                timeout: config.attempt_timeout(),
                max_in_flight: config.max_in_flight,
                policy: config.retry_policy(),
            },
        ),
        cache: Arc::clone(&cache),
        courier: Courier {
            client: Client::new(Arc::new(egress), config.max_in_flight as usize)?,
            longest_retry_after: Duration::from_millis(config.max_backoff_ms),
        },
        health: Health::new(config.auto_disable_after.0),
        footing: Footing::default(),
        open_breakers: watch::Sender::default(),
    });
    tracing::info!(consumer = %name, "dispatcher starts");
    names::begin_counters_of_dispatcher();
    clock::look(&pool).await;

    let (hint_sender, hints) = mpsc::unbounded_channel();
    let (items, item_receiver) = mpsc::unbounded_channel();
    let (settled_sender, settled) = mpsc::unbounded_channel();
    let bell = Arc::new(Notify::new());
    let relay = Relay::new(
        pool.clone(),
        redis.clone(),
        RelayConfig { holder: name.clone(), window: config.stream_window, keys: keys.clone() },
        hint_sender.clone(),
        cache,
    );
    let give_up = CancellationToken::new();
    let intake = Intake::new(Arc::clone(&context), config.max_in_flight as usize, items);
    let drain = config.attempt_timeout().min(Duration::from_secs(20)) + Duration::from_secs(1);

    // The helpers end by themselves at the stop; relay, intake and recorder in this order after it.
    let mut helpers = JoinSet::new();
    helpers.spawn(listen(redis.clone(), keys.clone(), name.clone(), Arc::clone(&bell), hint_sender));
    helpers.spawn(announce(Arc::clone(&context)));
    helpers.spawn(clock::keep(pool.clone()));
    helpers.spawn(refresh(Arc::clone(&context)));
    helpers.spawn(maintenance::look_after_health(Arc::clone(&context)));
    let (keep, hard) = (config.retention_days, config.retention_hard_days);
    helpers.spawn(maintenance::keep_retention(Retention::new(pool.clone(), keep, hard)));
    helpers.spawn(tend(pool.clone(), name.clone(), context.open_breakers.subscribe()));
    if let Some(address) = config.dispatcher_listen {
        let (pool, stop) = (pool.clone(), stop.clone());
        helpers.spawn(async move { probes::serve(address, pool, metrics, stop).await });
    }
    let mut relay = tokio::spawn(lead(relay, bell, stop.clone()));
    let mut recorder = tokio::spawn(record::run_recorder(
        Arc::clone(&context),
        item_receiver,
        settled_sender,
        give_up.clone(),
    ));
    let mut delivery = tokio::spawn(intake.run(hints, settled, stop.clone(), drain));

    let mut failed = Ok(());
    let (mut relay_ended, mut recorder_ended) = (false, false);
    tokio::select! {
        () = stop.cancelled() => {}
        // They end at a stop only. Without one of them nothing is delivered, or nothing is recorded of it.
        ended = &mut relay => {
            relay_ended = true;
            failed = ended.context("the relay panicked");
        }
        ended = &mut recorder => {
            recorder_ended = true;
            failed = ended.context("the recorder panicked");
        }
        ended = &mut delivery => failed = ended.and_then(|ended| ended).context("the intake panicked"),
        Some(ended) = helpers.join_next(), if !helpers.is_empty() => {
            failed = match ended {
                Ok(Err(error)) if !stop.is_cancelled() => Err(error),
                Err(panicked) => Err(panicked.into()),
                _ => Ok(()),
            };
        }
    }
    stop.cancel();
    if !delivery.is_finished() {
        failed = failed.and(delivery.await.and_then(|ended| ended).context("the intake panicked"));
    }
    if !recorder_ended {
        let recorded = tokio::select! {
            recorded = &mut recorder => recorded,
            () = tokio::time::sleep(RECORD_DEADLINE) => {
                give_up.cancel();
                recorder.await
            }
        };
        failed = failed.and(recorded.context("the recorder panicked"));
    }
    if !relay_ended {
        failed = failed.and(relay.await.context("the relay panicked"));
    }
    helpers.shutdown().await;
    if let Err(error) = consumer::sign_off(&mut redis.connection(), &keys, &name).await {
        tracing::debug!(%error, "not signed off; the announcement runs out by itself");
    }
    if let Err(error) = db::answered(dispatcher::forget(&pool, &name)).await {
        tracing::debug!(%error, "the figures show this dispatcher for some seconds more");
    }
    pool.close().await;
    tracing::info!(consumer = %name, "dispatcher stopped");
    failed
}

/// Drives the relay.
async fn lead(mut relay: Relay, bell: Arc<Notify>, stop: CancellationToken) {
    let mut pause = Duration::from_millis(50);
    while !stop.is_cancelled() {
        let step = tokio::select! {
            // A step that is cut leaves nothing half done: whoever leads next compares everything.
            () = stop.cancelled() => break,
            step = db::answered(relay.step()) => step,
        };
        let wait = match step {
            Ok(Step::Worked) => {
                pause = Duration::from_millis(50);
                continue;
            }
            Ok(Step::Idle(wait)) => {
                pause = Duration::from_millis(50);
                wait
            }
            Err(error) => {
                tracing::warn!(error = format!("{error:#}"), "relay step failed; all is compared again");
                metrics::counter!(names::RELAY_STEPS_FAILED).increment(1);
                relay.forget();
                if pause >= Duration::from_millis(400) {
                    relay.resign().await;
                }
                pause = (pause * 2).min(Duration::from_secs(1));
                tokio::select! {
                    () = stop.cancelled() => break,
                    () = tokio::time::sleep(pause) => {}
                }
                continue;
            }
        };
        tokio::select! {
            () = stop.cancelled() => break,
            () = bell.notified() => {}
            () = tokio::time::sleep(wait) => {}
        }
    }
    relay.resign().await;
}

/// Hears the doorbell and the hints of other processes.
async fn listen(
    redis: Link,
    keys: Keys,
    name: String,
    bell: Arc<Notify>,
    hints: mpsc::UnboundedSender<Told>,
) -> anyhow::Result<()> {
    loop {
        let heard = async {
            let mut subscription = redis.client().get_async_pubsub().await?;
            subscription.subscribe(&[keys.doorbell(), keys.ready()]).await?;
            bell.notify_one();
            let mut messages = subscription.on_message();
            while let Some(message) = messages.next().await {
                if message.get_channel_name() == keys.doorbell() {
                    bell.notify_one();
                } else if let Some(hint) = ready::heard(message.get_payload_bytes(), &name) {
                    let _ = hints.send(hint.into());
                }
            }
            redis::RedisResult::Ok(())
        };
        tokio::select! {
            heard = heard => if let Err(error) = heard {
                tracing::debug!(%error, "not listening to Redis; polls go on");
            },
            () = redis.given_up() => {}
        }
        tokio::time::sleep(Duration::from_millis(200)).await;
    }
}

/// Says once a second that this consumer lives, and gives up a connection that does not answer that.
async fn announce(context: Arc<Context>) -> anyhow::Result<()> {
    let (redis, mut unanswered) = (&context.redis, 0);
    loop {
        let (mut connection, began) = (redis.connection(), Instant::now());
        let announced = consumer::announce(&mut connection, &context.keys, &context.consumer, ALIVE);
        let announced = tokio::time::timeout(ANSWER_WITHIN, announced).await;
        // A Redis at `maxmemory` that takes no announcement is there all the same, and only deliveries make room in it.
        let is_refusal = |error: &redis::RedisError| error.code().is_some();
        if matches!(&announced, Ok(Ok(()))) || matches!(&announced, Ok(Err(error)) if is_refusal(error)) {
            context.footing.heard(began);
        }
        metrics::gauge!(names::REDIS_UP).set(if matches!(announced, Ok(Ok(()))) { 1.0 } else { 0.0 });
        match announced {
            Ok(Ok(())) => unanswered = 0,
            Ok(Err(error)) => tracing::debug!(%error, "consumer not announced"),
            Err(_) => {
                unanswered += 1;
                if unanswered == MOST_UNANSWERED {
                    unanswered = 0;
                    tracing::warn!("Redis does not answer; connecting anew");
                    redis.give_up()?;
                }
            }
        }
        tokio::time::sleep(ANNOUNCE_EVERY).await;
    }
}

async fn refresh(context: Arc<Context>) -> anyhow::Result<()> {
    loop {
        if let Err(error) = db::answered(context.recipients.refresh()).await {
            tracing::warn!(error = format!("{error:#}"), "endpoints not refreshed");
        }
        tokio::time::sleep(REFRESH_EVERY).await;
    }
}

/// Keeps the log going: partitions ahead of time, and no writer that holds the lock for ever. Says for the
/// figures that it runs, and which endpoints it leaves alone for now.
async fn tend(pool: PgPool, name: String, open: watch::Receiver<Vec<EndpointId>>) -> anyhow::Result<()> {
    let mut rounds = 0_u64;
    loop {
        if rounds.is_multiple_of(1800) {
            match pool.acquire().await {
                Ok(mut connection) => match db::answered(tail::make_partitions(&mut connection)).await {
                    Ok(made) if made > 0 => tracing::info!(made, "partitions made"),
                    Ok(_) => {}
                    Err(error) => tracing::warn!(%error, "partitions not made"),
                },
                Err(error) => tracing::warn!(%error, "partitions not made"),
            }
        }
        rounds += 1;
        let open_breakers = open.borrow().clone();
        let announced = db::answered(dispatcher::announce(&pool, &name, &open_breakers)).await;
        metrics::gauge!(names::POSTGRES_UP).set(if announced.is_ok() { 1.0 } else { 0.0 });
        if let Err(error) = announced {
            tracing::debug!(%error, "not announced to those who look at the figures");
        }
        match db::answered(tail::end_stuck_writers(&pool)).await {
            Ok(ended) if ended > 0 => {
                tracing::warn!(ended, "ended sessions that held the log lock in silence");
            }
            Ok(_) => {}
            Err(error) => tracing::debug!(%error, "stuck writers not looked for"),
        }
        tokio::time::sleep(Duration::from_secs(2)).await;
    }
}

fn host() -> String {
    let name = std::fs::read_to_string("/etc/hostname").unwrap_or_default();
    let name: String = name.trim().chars().filter(char::is_ascii_graphic).take(40).collect();
    if name.is_empty() { "localhost".into() } else { name }
}
