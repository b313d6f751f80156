//! The operators' commands: what the HTTP API offers, for people at a terminal and for scripts, against any
//! EventRail that can be reached. Nothing here knows the database: what the API does not say is not known.

mod audit_log;
mod client;
mod completions;
mod consent;
mod cursor;
mod dead_letters;
mod deliveries;
mod endpoint_body;
mod endpoint_view;
mod endpoints;
mod events;
mod failure;
mod groups;
mod keys;
mod output;
mod progress;
mod replays;
mod retry;
mod table;
mod time;

use clap::{Args, Subcommand};
use eventrail_core::group::GroupName;
use eventrail_core::ids::EndpointId;
use serde_json::Value;

pub(crate) use completions::{CompletionsArgs, print as completions};
pub(crate) use failure::{exit_code, is_closed_output};

use client::{Client, ConnectionArgs, Limit};
use output::{Output, OutputArgs};

#[derive(Subcommand)]
pub(crate) enum Command {
    /// Consumer groups: what waits in them, and why; pause and resume
    Groups(groups::GroupsArgs),
    /// Endpoints of the groups: where deliveries go
    Endpoints(Box<endpoints::EndpointsArgs>),
    /// Events: send, find, and see where they are
    Events(Box<events::EventsArgs>),
    /// Deliveries: one event to one endpoint, with its attempts
    Deliveries(deliveries::DeliveriesArgs),
    /// Dead letters: what could not be delivered, why, and once more
    DeadLetters(dead_letters::DeadLettersArgs),
    /// Send the events of a window again, and watch it
    Replay(Box<replays::ReplayArgs>),
    /// Replays and redrives: their progress, and how to stop them
    Replays(replays::ReplaysArgs),
    /// Set where a group goes on: back in history, or past its backlog
    SetCursor(cursor::SetCursorArgs),
    /// Keys of the API
    Keys(keys::KeysArgs),
    /// Who changed what, the newest first
    AuditLog(audit_log::AuditLogArgs),
}

/// What every operators' command takes.
#[derive(Args)]
pub(crate) struct OperatorArgs {
    #[command(flatten)]
    connection: ConnectionArgs,
    #[command(flatten)]
    output: OutputArgs,
}

/// Who asks, and where the answers go.
pub(crate) struct Operator {
    client: Client,
    output: Output,
}

/// # Errors
/// One line for whoever asked; [`exit_code`] has the code that stands for it.
pub(crate) async fn run(command: Command) -> anyhow::Result<()> {
    match command {
        Command::Groups(args) => groups::run(args).await,
        Command::Endpoints(args) => endpoints::run(*args).await,
        Command::Events(args) => events::run(*args).await,
        Command::Deliveries(args) => deliveries::run(args).await,
        Command::DeadLetters(args) => dead_letters::run(args).await,
        Command::Replay(args) => replays::replay(*args).await,
        Command::Replays(args) => replays::replays(args).await,
        Command::SetCursor(args) => cursor::run(args).await,
        Command::Keys(args) => keys::run(args).await,
        Command::AuditLog(args) => audit_log::run(&args).await,
    }
}

impl Operator {
    fn new(args: &OperatorArgs) -> anyhow::Result<Self> {
        Ok(Self { client: Client::new(&args.connection)?, output: Output::new(&args.output) })
    }

    /// The group of an endpoint: the one that was named, or the one that has it. Who is woken at night has the
    /// endpoint's id from a log line, and not always its group.
    async fn home_of(&self, endpoint: EndpointId, named: Option<&GroupName>) -> anyhow::Result<String> {
        if let Some(group) = named {
            return Ok(group.to_string());
        }
        let id = endpoint.to_string();
        for group in self.group_names().await? {
            match self.client.get(&["consumer-groups", &group, "endpoints", &id]).answer().await {
                Ok(_) => return Ok(group),
                Err(error) if error.is_not_found() => {}
                Err(error) => return Err(error.into()),
            }
        }
        anyhow::bail!("There is no such thing: no group has an endpoint {id}")
    }

    async fn group_names(&self) -> anyhow::Result<Vec<String>> {
        let listing = self.client.get(&["consumer-groups"]).list(Limit(None)).await?;
        let name = |group: &Value| group["name"].as_str().map(str::to_owned);
        let mut names: Vec<String> = listing.values().iter().filter_map(name).collect();
        // Where most of them are.
        names.sort_by_key(|name| name != "default");
        Ok(names)
    }
}
