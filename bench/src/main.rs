//! Figures of speed, measured on this machine with the real binary and real servers.
//!
//! `suite` (`make bench`) measures all of them in scenarios, beside their targets.
//!
//! `first-figure` posts events to the API and counts what arrives at a receiver in this process, then lets
//! a bare loop of signed POSTs run against the same receiver: the ratio says what the rail costs.
//!
//! `replay` posts at a steady rate and tells what a replay beside it changes.
//!
//! `soak` looks for hours at whether anything grows.
//!
//! `hostile` tells what a healthy endpoint feels of hostile ones beside it.
//!
//! [`system`] starts and stops what is measured, [`generator`] posts, [`receiver`] counts, [`bare_loop`]
//! compares, [`cpu`] reads who has worked how much, [`report`] prints.

mod bare_loop;
mod cpu;
mod first_figure;
mod generator;
mod hostile;
mod receiver;
mod replay;
mod report;
mod soak;
mod suite;
mod system;

use std::process::ExitCode;

use clap::{Parser, Subcommand};

#[derive(Parser)]
#[command(about = "Measures EventRail on this machine", version)]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Deliveries per second, end to end and from a backlog, beside a bare loop of reqwest POSTs
    FirstFigure(first_figure::FirstFigureArgs),
    /// What live traffic feels of a replay at full speed
    Replay(replay::ReplayArgs),
    /// Whether memory, descriptors, connections and tables level off under mixed traffic
    Soak(soak::SoakArgs),
    /// What a healthy endpoint feels of a hostile one in its group
    Hostile(hostile::HostileArgs),
    /// All figures of speed beside their targets, in one table
    Suite(suite::SuiteArgs),
}

#[tokio::main]
#[expect(clippy::print_stderr, reason = "the one line that says why it ended")]
async fn main() -> ExitCode {
    let command = Cli::parse().command;
    let measure = async {
        match &command {
            Command::FirstFigure(args) => first_figure::run(args).await,
            Command::Replay(args) => replay::run(args).await,
            Command::Soak(args) => soak::run(args).await,
            Command::Hostile(args) => hostile::run(args).await,
            Command::Suite(args) => suite::run(args).await,
        }
    };
    let measured = tokio::select! {
        measured = measure => measured,
        // Leaving by this way stops the servers and removes their data.
        _ = tokio::signal::ctrl_c() => Err(anyhow::anyhow!("interrupted")),
    };
    match measured {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("eventrail-bench: {error:#}");
            ExitCode::FAILURE
        }
    }
}
