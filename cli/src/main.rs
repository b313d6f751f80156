//! `eventrail`: the one binary. Each command reads its settings, refuses bad ones with one line and exit
//! code 2, and runs until it is done or told to stop: the first SIGINT or SIGTERM drains, the second cuts.

mod commands;
mod healthcheck;
mod printable;
mod receiver;
mod services;
mod settings;
mod up;

use std::io::Write as _;
use std::process::ExitCode;
use std::time::Duration;

use clap::error::ErrorKind;
use clap::{CommandFactory, FromArgMatches, Parser, Subcommand};
use eventrail_core::config::TelemetryConfig;
use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio_util::sync::CancellationToken;

use services::{ApiArgs, DispatcherArgs, MigrateArgs, RekeyArgs};
use settings::SettingsError;

/// A quarter of what a delivery costs here was the system's allocator, whose quick paths end at 1 KiB: events, requests
/// and answers are larger.
#[global_allocator]
static ALLOCATOR: tikv_jemallocator::Jemalloc = tikv_jemallocator::Jemalloc;

#[derive(Parser)]
#[command(name = "eventrail", version, about = "A self-hosted webhook delivery platform")]
struct Cli {
    #[command(flatten)]
    telemetry: TelemetryConfig,
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Run everything, with private PostgreSQL and Redis unless DATABASE_URL and REDIS_URL are set
    Up(Box<up::UpArgs>),
    /// Run the HTTP API
    Api(Box<ApiArgs>),
    /// Run a dispatcher: relay, deliveries, maintenance
    Dispatcher(Box<DispatcherArgs>),
    /// Bring the database's schema up to date, and exit
    Migrate(MigrateArgs),
    /// Seal all secrets with SECRETS_KEY that are still sealed with one of SECRETS_KEYS_OLD, and exit
    Rekey(RekeyArgs),
    /// Receive deliveries, verify each and print a line for it
    Receiver(Box<receiver::ReceiverArgs>),
    #[command(flatten)]
    Operate(commands::Command),
    /// Write a script that completes commands and flags in a shell
    Completions(commands::CompletionsArgs),
    /// Exit with 0 if a URL answers 200: for containers without curl
    #[command(hide = true)]
    Healthcheck(healthcheck::HealthcheckArgs),
}

fn main() -> ExitCode {
    let command_line = Cli::command().after_help(settings::help());
    let cli = match command_line.try_get_matches().and_then(|matches| Cli::from_arg_matches(&matches)) {
        Ok(cli) => cli,
        Err(error) if error.kind() == ErrorKind::MissingSubcommand => return offer_subcommands(),
        Err(error)
            if error.use_stderr() && error.kind() != ErrorKind::DisplayHelpOnMissingArgumentOrSubcommand =>
        {
            return settings::refuse(&settings::one_line(&error));
        }
        Err(help) => help.exit(),
    };
    if let Err(error) = eventrail_core::telemetry::install(&cli.telemetry) {
        return settings::refuse(&format!("{error:#}"));
    }
    let runtime = match tokio::runtime::Builder::new_multi_thread().enable_all().build() {
        Ok(runtime) => runtime,
        Err(error) => return settings::refuse(&format!("no threads to run on: {error}")),
    };
    // On this thread, which lives as long as the process: the private servers die with the thread that
    // started them.
    let outcome = runtime.block_on(run(cli.command));
    runtime.shutdown_timeout(Duration::from_secs(1));
    match outcome {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) if error.is::<SettingsError>() => settings::refuse(&format!("{error:#}")),
        Err(error) if commands::is_closed_output(&error) => ExitCode::SUCCESS,
        Err(error) => {
            settings::complain(&format!("{error:#}"));
            ExitCode::from(commands::exit_code(&error))
        }
    }
}

/// Whoever says `eventrail groups` wants to know what there is to say about groups.
fn offer_subcommands() -> ExitCode {
    let words = std::env::args_os().chain(["--help".into()]);
    if let Err(help) = Cli::command().try_get_matches_from(words) {
        // Nobody may be reading, and there is nowhere else to say so.
        let _ = write!(std::io::stderr(), "{}", help.render());
    }
    ExitCode::from(2)
}

async fn run(command: Command) -> anyhow::Result<()> {
    let command = match command {
        // Those end at Ctrl-C like any command, and what they have asked for goes on without them.
        Command::Operate(command) => return commands::run(command).await,
        Command::Completions(args) => return commands::completions(&args, Cli::command()),
        service => service,
    };
    let stop = CancellationToken::new();
    // Before anything starts that somebody may want to stop.
    let signals = [signal(SignalKind::interrupt())?, signal(SignalKind::terminate())?];
    let running = async {
        match command {
            Command::Up(args) => up::run(*args, stop.clone()).await,
            Command::Api(args) => services::api(*args, stop.clone()).await,
            Command::Dispatcher(args) => services::dispatcher(*args, stop.clone()).await,
            Command::Migrate(args) => services::migrate(&args).await,
            Command::Rekey(args) => services::rekey(&args).await,
            Command::Receiver(args) => receiver::run(*args, stop.clone()).await,
            Command::Healthcheck(args) => healthcheck::run(&args).await,
            Command::Operate(_) | Command::Completions(_) => Ok(()),
        }
    };
    tokio::select! {
        outcome = running => outcome,
        forced = told_to_stop(&stop, signals) => forced,
    }
}

/// Returns only when told a second time.
async fn told_to_stop(stop: &CancellationToken, mut signals: [Signal; 2]) -> anyhow::Result<()> {
    let [interrupt, terminate] = &mut signals;
    tokio::select! { _ = interrupt.recv() => {} _ = terminate.recv() => {} }
    tracing::info!("stopping: what is under way is finished first; once more to stop at once");
    stop.cancel();
    tokio::select! { _ = interrupt.recv() => {} _ = terminate.recv() => {} }
    anyhow::bail!("stopped at once, as told")
}

#[cfg(test)]
mod tests {
    use super::*;

    const DOCUMENTS: [&str; 5] = [
        include_str!("../../README.md"),
        include_str!("../../SECURITY.md"),
        include_str!("../../docs/OPERATIONS.md"),
        include_str!("../../docs/RECEIVERS.md"),
        include_str!("../../docs/RUNBOOK.md"),
    ];

    /// What a line of a document tells its reader to type: all of it, in a block of code, or a part in backticks.
    fn commands(line: &str) -> Vec<&str> {
        let whole = line.trim_start();
        if whole.starts_with("eventrail ") {
            return vec![whole.split(" #").next().unwrap_or(whole)];
        }
        line.split('`').skip(1).step_by(2).filter(|part| part.starts_with("eventrail ")).collect()
    }

    /// Words as a shell would make them, with ids in the place of those that are left open.
    fn words(command: &str) -> Vec<String> {
        let mut words = vec![String::new()];
        let mut is_quoted = false;
        for letter in command.trim().chars() {
            match letter {
                '\'' => is_quoted = !is_quoted,
                ' ' if !is_quoted => words.push(String::new()),
                letter => words.last_mut().unwrap().push(letter),
            }
        }
        words.retain(|word| !word.is_empty());
        words.iter().map(|word| word.replace('…', "01h455vb4pex5vsknk084sn02q")).collect()
    }

    #[test]
    fn the_commands_that_documents_tell_are_understood() {
        let (mut seen, mut misunderstood) = (0, String::new());
        for command in DOCUMENTS.iter().flat_map(|document| document.lines()).flat_map(commands) {
            // One that stands for several.
            if command.contains('|') {
                continue;
            }
            seen += 1;
            let words = words(command);
            let Err(error) = Cli::command().try_get_matches_from(&words) else { continue };
            // A command's name alone, as in a sentence about it.
            let is_name = matches!(
                error.kind(),
                ErrorKind::MissingSubcommand
                    | ErrorKind::MissingRequiredArgument
                    | ErrorKind::DisplayHelpOnMissingArgumentOrSubcommand
            ) && words.len() == 2;
            if error.use_stderr() && !is_name {
                misunderstood.push_str(&format!("`{command}`: {error}"));
            }
        }
        assert!(misunderstood.is_empty(), "{misunderstood}");
        assert!(seen > 60, "{seen} commands are found");
    }
}
