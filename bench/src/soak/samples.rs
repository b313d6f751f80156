//! One look at all that could grow: processes (`/proc`, Linux), PostgreSQL and Redis (what they say of themselves).

use std::collections::HashMap;
use std::fs;

use anyhow::Context as _;
use eventrail_core::db;
use eventrail_core::rail::link::Link;
use sqlx::PgPool;

use super::series::Bound;
use crate::system::System;

const NAME: &str = "eventrail-bench";
/// The tables of the record: they grow with every event, so what counts is what an event takes.
const LOG: [&str; 4] = ["event", "delivery", "attempt", "idempotency_key"];
const MIB: f64 = 1024.0 * 1024.0;

/// What is looked at, and how much of it may be gained: a share of its level in an hour, or, where that is nothing
/// in the time that there was, so much in all.
pub(crate) const FIGURES: [(&str, Bound); 16] = [
    ("api: memory, MiB", Bound::grows(0.1, 3.0)),
    ("api: descriptors", Bound::grows(0.1, 8.0)),
    ("api: threads", Bound::grows(0.1, 4.0)),
    ("dispatcher: memory, MiB", Bound::grows(0.1, 3.0)),
    ("dispatcher: descriptors", Bound::grows(0.1, 8.0)),
    ("dispatcher: threads", Bound::grows(0.1, 4.0)),
    ("postgres: connections", Bound::grows(0.1, 4.0)),
    ("redis: memory, MiB", Bound::grows(0.1, 0.5)),
    ("redis: clients", Bound::grows(0.1, 2.0)),
    ("record: table bytes per event", Bound::grows(0.1, 50.0)),
    ("record: index bytes per event", Bound::grows(0.1, 50.0)),
    ("record: dead rows, %", Bound::grows(0.1, 10.0)),
    ("other tables, KiB", Bound::grows(0.1, 256.0)),
    ("other tables: dead rows", Bound::grows(0.1, 1000.0)),
    ("lag, events", Bound::grows(0.1, 500.0)),
    ("rows that wait", Bound::grows(0.1, 2000.0)),
];

pub(crate) struct Sampler {
    api: Option<u32>,
    dispatcher: Option<u32>,
    postgres: PgPool,
    redis: Link,
}

/// A table with its partitions.
#[derive(Debug, sqlx::FromRow)]
pub(crate) struct TableSize {
    pub(crate) name: String,
    pub(crate) heap: i64,
    pub(crate) indexes: i64,
    pub(crate) live: i64,
    pub(crate) dead: i64,
}

impl TableSize {
    pub(crate) fn bytes(&self) -> i64 {
        self.heap + self.indexes
    }
}

struct Process {
    mib: f64,
    descriptors: f64,
    threads: f64,
}

impl Sampler {
    pub(crate) async fn connect(system: &System) -> anyhow::Result<Self> {
        let options = db::connect_options(&system.database_url(), NAME)?;
        let sampler = Self {
            api: system.api_ids().first().copied(),
            dispatcher: system.dispatcher_ids().first().copied(),
            postgres: db::pool(options, 1),
            redis: Link::new(&system.redis_url())?,
        };
        sampler.tables().await?;
        Ok(sampler)
    }

    /// In the order of [`FIGURES`]; `posted` events are on the log.
    pub(crate) async fn look(&self, posted: u32) -> anyhow::Result<[f64; FIGURES.len()]> {
        let (api, dispatcher) = (process(self.api)?, process(self.dispatcher)?);
        let (redis_memory, redis_clients) = self.redis().await?;
        let (connections, lag, waiting) = self.postgres().await?;
        let tables = self.tables().await?;
        let (log, other): (Vec<&TableSize>, Vec<&TableSize>) =
            tables.iter().partition(|table| LOG.contains(&table.name.as_str()));
        let sum = |tables: &[&TableSize], figure: fn(&TableSize) -> i64| -> f64 {
            tables.iter().map(|table| figure(table)).sum::<i64>() as f64
        };
        let events = f64::from(posted.max(1));
        let (live, dead) = (sum(&log, |table| table.live), sum(&log, |table| table.dead));
        Ok([
            api.mib,
            api.descriptors,
            api.threads,
            dispatcher.mib,
            dispatcher.descriptors,
            dispatcher.threads,
            connections,
            redis_memory / MIB,
            redis_clients,
            sum(&log, |table| table.heap) / events,
            sum(&log, |table| table.indexes) / events,
            100.0 * dead / (live + dead).max(1.0),
            sum(&other, TableSize::bytes) / 1024.0,
            sum(&other, |table| table.dead),
            lag,
            waiting,
        ])
    }

    pub(crate) async fn tables(&self) -> anyhow::Result<Vec<TableSize>> {
        let tables = sqlx::query_as(
            "select coalesce(pg_partition_root(c.oid)::regclass::text, c.relname) as name,
                    sum(pg_table_size(c.oid))::bigint as heap, sum(pg_indexes_size(c.oid))::bigint as indexes,
                    sum(s.n_live_tup)::bigint as live, sum(s.n_dead_tup)::bigint as dead
             from pg_stat_user_tables s join pg_class c on c.oid = s.relid
             group by 1 order by 1",
        );
        Ok(tables.fetch_all(&self.postgres).await?)
    }

    /// Connections of others, the lag of the group that is farthest behind (those without endpoints are settled a
    /// few times a minute only), and deliveries that wait.
    async fn postgres(&self) -> anyhow::Result<(f64, f64, f64)> {
        let (connections, lag, waiting): (i64, i64, i64) = sqlx::query_as(
            "select (select count(*) from pg_stat_activity
                     where backend_type = 'client backend' and application_name <> $1),
                    (select greatest(0, coalesce((select max(position) from event), 0) - min(settled_position))
                     from feed f where kind = 'live' and status = 'active' and exists (
                         select from endpoint e where e.group_id = f.group_id and e.status = 'active')),
                    (select count(*) from delivery where status in ('pending', 'retrying'))",
        )
        .bind(NAME)
        .fetch_one(&self.postgres)
        .await?;
        Ok((connections as f64, lag as f64, waiting as f64))
    }

    /// Bytes used, and clients.
    async fn redis(&self) -> anyhow::Result<(f64, f64)> {
        let text: String = redis::cmd("INFO").query_async(&mut self.redis.connection()).await?;
        let figures: HashMap<&str, &str> = text.lines().filter_map(|line| line.split_once(':')).collect();
        let figure = |name: &str| -> anyhow::Result<f64> {
            let text = figures.get(name).with_context(|| format!("INFO says nothing of {name}"))?;
            Ok(text.trim().parse()?)
        };
        Ok((figure("used_memory")?, figure("connected_clients")?))
    }
}

fn process(id: Option<u32>) -> anyhow::Result<Process> {
    let id = id.context("a process has ended")?;
    let status =
        fs::read_to_string(format!("/proc/{id}/status")).context("processes are read from /proc (Linux)")?;
    let figure = |name: &str| -> anyhow::Result<f64> {
        let line =
            status.lines().find_map(|line| line.strip_prefix(name)).with_context(|| format!("no {name}"))?;
        Ok(line.split_whitespace().next().unwrap_or_default().parse()?)
    };
    let descriptors = fs::read_dir(format!("/proc/{id}/fd"))?.count();
    Ok(Process {
        mib: figure("VmRSS:")? / 1024.0,
        descriptors: descriptors as f64,
        threads: figure("Threads:")?,
    })
}
