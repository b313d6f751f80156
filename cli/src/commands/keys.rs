//! `eventrail keys`

use clap::{Args, Subcommand, ValueEnum};
use eventrail_core::group::GroupName;
use eventrail_core::ids::KeyId;
use serde_json::{Map, Value};

use super::client::{Limit, LimitArgs};
use super::consent::ConsentArgs;
use super::output::Look;
use super::table::{Cell, render_details, shortened, whole};
use super::time::Deadline;
use super::{Operator, OperatorArgs};
use crate::printable::printable;

#[derive(Args)]
pub(crate) struct KeysArgs {
    #[command(flatten)]
    operator: OperatorArgs,
    #[command(subcommand)]
    command: KeysCommand,
}

#[derive(Subcommand)]
#[command(after_help = "Examples:
  eventrail keys create 'billing team' --role subscriber --group billing
  eventrail keys create shop --role producer --source shop --expires 365d
  eventrail keys revoke key_01h455vb4pex5vsknk084sn02q")]
enum KeysCommand {
    /// Show all keys, without what is secret
    List(LimitArgs),
    /// Make a key, and show it this once
    Create(CreateArgs),
    /// Revoke a key: within two seconds it opens nothing
    Revoke(RevokeArgs),
}

#[derive(Clone, Copy, ValueEnum)]
enum Role {
    /// Sends events, of its sources only if it has some
    Producer,
    /// Does everything within its groups
    Subscriber,
    /// Does everything
    Operator,
}

#[derive(Args)]
struct CreateArgs {
    /// For people: what has the key
    name: String,
    #[arg(long, value_enum)]
    role: Role,
    /// A group that a subscriber is at home in (may come more than once)
    #[arg(long = "group", short, value_name = "GROUP", value_delimiter = ',')]
    groups: Vec<GroupName>,
    /// A source that a producer may send (may come more than once; all by default)
    #[arg(long = "source", value_name = "SOURCE", value_delimiter = ',')]
    sources: Vec<String>,
    /// How often it may be used in each process of the API
    #[arg(long, value_name = "NUMBER")]
    rate_per_second: Option<u32>,
    /// Until when it opens anything: a time (RFC 3339), or in how long, such as 30d
    #[arg(long, value_name = "TIME")]
    expires: Option<Deadline>,
}

#[derive(Args)]
struct RevokeArgs {
    /// The key's id: key_…
    key: KeyId,
    #[command(flatten)]
    consent: ConsentArgs,
}

pub(super) async fn run(args: KeysArgs) -> anyhow::Result<()> {
    let operator = Operator::new(&args.operator)?;
    match args.command {
        KeysCommand::List(limit) => list(&operator, &limit).await,
        KeysCommand::Create(args) => create(&operator, args).await,
        KeysCommand::Revoke(args) => revoke(&operator, &args).await,
    }
}

async fn list(operator: &Operator, limit: &LimitArgs) -> anyhow::Result<()> {
    let listing = operator.client.get(&["api-keys"]).list(limit.limit()).await?;
    let columns = [
        whole("KEY"),
        whole("BEGINS WITH"),
        whole("ROLE"),
        shortened("FOR"),
        shortened("NAME"),
        whole("CREATED"),
        whole("EXPIRES"),
    ];
    operator.output.list(&listing, "There are no keys but the ADMIN_TOKEN.", &columns, |look, key| {
        vec![
            Cell::text(key, "id"),
            Cell::text(key, "prefix"),
            Cell::text(key, "role"),
            bounds(key),
            Cell::text(key, "name"),
            Cell::time(look, key, "created_at"),
            Cell::time(look, key, "expires_at"),
        ]
    })
}

/// The groups or sources that it is bound to.
fn bounds(key: &Value) -> Cell {
    let member = if key["role"] == "subscriber" { "groups" } else { "sources" };
    match key[member].as_array() {
        Some(names) if !names.is_empty() => Cell::texts(key, member),
        _ => Cell::plain("all"),
    }
}

async fn create(operator: &Operator, args: CreateArgs) -> anyhow::Result<()> {
    let role = args.role.to_possible_value().map(|role| role.get_name().to_owned());
    let groups: Vec<Value> = args.groups.iter().map(|group| group.as_str().into()).collect();
    let given = [
        ("name", Some(args.name.into())),
        ("role", role.map(Value::from)),
        ("groups", (!groups.is_empty()).then(|| groups.into())),
        ("sources", (!args.sources.is_empty()).then(|| args.sources.into())),
        ("rate_per_second", args.rate_per_second.map(Value::from)),
        ("expires_at", args.expires.map(|at| at.to_string().into())),
    ];
    let body: Map<String, Value> =
        given.into_iter().filter_map(|(name, value)| Some((name.to_owned(), value?))).collect();
    operator.output.answer(&operator.client.post(&["api-keys"], &body.into()).answer().await?, created)
}

fn created(look: &Look, key: &Value) -> String {
    let expires = key["expires_at"].as_str().map_or_else(|| "never".into(), |time| look.times.long(time));
    let details = render_details(
        look,
        &[
            ("id", Cell::text(key, "id")),
            ("name", Cell::text(key, "name")),
            ("role", Cell::text(key, "role")),
            ("for", bounds(key)),
            ("expires", Cell::plain(&expires)),
            ("key", Cell::text(key, "key")),
        ],
    );
    format!("{details}\nThe key is shown now and never again.\n")
}

async fn revoke(operator: &Operator, args: &RevokeArgs) -> anyhow::Result<()> {
    let id = args.key.to_string();
    let keys = operator.client.get(&["api-keys"]).list(Limit(None)).await?.values();
    let name = keys.iter().find(|key| key["id"] == id.as_str()).and_then(|key| key["name"].as_str());
    // One that is not listed is refused by the API.
    if let Some(name) = name {
        let name = printable(name);
        args.consent.ask(&format!("This revokes the key of {name} ({id}). It can't be undone."))?;
    }
    let answer = operator.client.delete(&["api-keys", &id]).answer().await?;
    operator.output.answer(&answer, |_, _| format!("Revoked {id}.\n"))
}
