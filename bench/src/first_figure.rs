//! The first figure: one endpoint, one payload size, three measurements in one run on one machine.

use std::path::PathBuf;
use std::time::Duration;

use clap::Args;
use tokio::time::{Instant, timeout_at};

use crate::bare_loop;
use crate::cpu::{self, Usage};
use crate::generator::{self, Load, Posted};
use crate::receiver::Receiver;
use crate::report::{Bare, Measured, Report};
use crate::system::System;

#[derive(Debug, Clone, Args)]
pub(crate) struct FirstFigureArgs {
    /// Events in each measurement
    #[arg(long, default_value_t = 20_000, value_parser = clap::value_parser!(u32).range(1..=1_000_000))]
    events: u32,
    /// Size of each payload
    #[arg(long, default_value_t = 1024, value_parser = clap::value_parser!(u32).range(16..=200_000))]
    payload_bytes: u32,
    /// Connections that post at once
    #[arg(long, default_value_t = 32, value_parser = clap::value_parser!(u32).range(1..=1000))]
    connections: u32,
    /// Post by POST /events/batch, so many events each
    #[arg(long, num_args = 0..=1, default_missing_value = "100", value_parser = clap::value_parser!(u32).range(1..=1000))]
    batch: Option<u32>,
    /// Requests under way at once in the bare loop
    #[arg(long, default_value_t = 64, value_parser = clap::value_parser!(u32).range(1..=1000))]
    in_flight: u32,
    /// Stop each measurement after this long
    #[arg(long, default_value_t = 120)]
    timeout_s: u64,
    /// Where the `eventrail` binary is [default: beside this one]
    #[arg(long)]
    binary: Option<PathBuf>,
    /// Where the private servers keep their data meanwhile [default: the directory for temporary files]
    #[arg(long)]
    data_dir: Option<PathBuf>,
}

/// # Errors
/// Something did not start, or deliveries are missing: the message says which.
pub(crate) async fn run(args: &FirstFigureArgs) -> anyhow::Result<()> {
    // Rustls wants to be told, even by a client that speaks plain HTTP only; a second call changes nothing.
    let _ = rustls::crypto::ring::default_provider().install_default();
    let receiver = Receiver::start()?;
    let mut system = System::start(args.binary.as_deref(), args.data_dir.as_deref()).await?;
    system.register(&receiver.rail_url()).await?;
    let load = Load {
        api: system.api_url(),
        events: args.events,
        payload_bytes: args.payload_bytes as usize,
        connections: args.connections,
        batch: args.batch,
    };
    let patience = Duration::from_secs(args.timeout_s);

    let end_to_end = end_to_end(&load, &system, &receiver, patience).await?;
    let backlog = backlog(&load, &mut system, &receiver, patience).await?;
    system.stop_dispatcher().await?;
    let before = cpu::snapshot(&system);
    let bare = bare_loop::run(
        &receiver.bare_url(),
        args.events,
        args.payload_bytes as usize,
        args.in_flight,
        patience,
    )
    .await?;
    let bare_cpu = cpu::snapshot(&system).since(&before);
    let bare = Bare { started: bare.started, receipts: receiver.bare.receipts(&bare.ids) };

    Report { load, in_flight: args.in_flight, end_to_end, backlog, bare, bare_cpu }.print();
    Ok(())
}

/// Posting and delivering at the same time, from the first post to the last receipt.
async fn end_to_end(
    load: &Load,
    system: &System,
    receiver: &Receiver,
    patience: Duration,
) -> anyhow::Result<Measured> {
    let deadline = Instant::now() + patience;
    let before = cpu::snapshot(system);
    let posted = generator::post(load, deadline).await?;
    arrived(&posted, system, receiver, deadline).await?;
    Ok(measured(posted, receiver, cpu::snapshot(system).since(&before)))
}

/// What the dispatcher does when nobody posts: it is stopped, a backlog is posted, it is started again.
async fn backlog(
    load: &Load,
    system: &mut System,
    receiver: &Receiver,
    patience: Duration,
) -> anyhow::Result<Measured> {
    let deadline = Instant::now() + patience;
    system.stop_dispatcher().await?;
    let posted = generator::post(load, deadline).await?;
    let before = cpu::snapshot(system);
    system.start_dispatcher().await?;
    arrived(&posted, system, receiver, deadline).await?;
    Ok(measured(posted, receiver, cpu::snapshot(system).since(&before)))
}

async fn arrived(
    posted: &Posted,
    system: &System,
    receiver: &Receiver,
    deadline: Instant,
) -> anyhow::Result<()> {
    const NAMED: usize = 10;
    if timeout_at(deadline, receiver.rail.received_all(&posted.ids)).await.is_ok() {
        return Ok(());
    }
    let missing = receiver.rail.missing(&posted.ids);
    let named: Vec<String> = missing.iter().take(NAMED).map(ToString::to_string).collect();
    anyhow::bail!(
        "{} of {} deliveries are missing when the time is up: {}{}\n{}",
        missing.len(),
        posted.ids.len(),
        named.join(", "),
        if missing.len() > NAMED { ", …" } else { "" },
        system.log_tails()
    )
}

fn measured(posted: Posted, receiver: &Receiver, cpu: Usage) -> Measured {
    let receipts = receiver.rail.receipts(&posted.ids);
    Measured { posted, receipts, cpu }
}
