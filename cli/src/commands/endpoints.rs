//! `eventrail endpoints`

use std::path::PathBuf;

use clap::{Args, Subcommand, ValueEnum};
use eventrail_core::group::GroupName;
use eventrail_core::ids::EndpointId;
use serde_json::{Map, Value, json};

use super::client::{Limit, LimitArgs, Listing};
use super::consent::ConsentArgs;
use super::endpoint_body::{FieldArgs, secret_from};
use super::endpoint_view::{self, details, secrets, state};
use super::table::{Cell, shortened, whole};
use super::{Operator, OperatorArgs};

#[derive(Args)]
pub(crate) struct EndpointsArgs {
    #[command(flatten)]
    operator: OperatorArgs,
    #[command(subcommand)]
    command: EndpointsCommand,
}

#[derive(Subcommand)]
#[command(after_help = "Examples:
  eventrail endpoints list                               # of all groups
  eventrail endpoints create https://ledger.example/hooks --group billing --event-type 'invoice.*'
  eventrail endpoints test ep_01h455vb4pex5vsknk084sn02q # does it answer?
  eventrail endpoints update ep_01h455vb4pex5vsknk084sn02q --rate-per-second 50
  eventrail endpoints enable ep_01h455vb4pex5vsknk084sn02q --backlog skip

An endpoint is found by its id; --group only saves looking for it.")]
enum EndpointsCommand {
    /// Show the endpoints of a group, or of all
    List(ListArgs),
    /// Show one endpoint
    Get(WhichArgs),
    /// Create an endpoint, and show the secret that its deliveries are signed with
    Create(CreateArgs),
    /// Change an endpoint; what is not named stays
    Update(UpdateArgs),
    /// Switch an endpoint on, and deliver what it has missed, or skip it
    Enable(EnableArgs),
    /// Switch an endpoint off; what it misses is kept
    Disable(WhichArgs),
    /// Send it a signed eventrail.ping now, and show what it answers
    Test(WhichArgs),
    /// Show the secrets that deliveries are signed with (the audit log notes who reads them)
    Secret(WhichArgs),
    /// Make a new signing secret; the old one signs beside it for a while
    RotateSecret(RotateArgs),
    /// Delete an endpoint; what waits for it is given up
    Delete(DeleteArgs),
}

#[derive(Args)]
struct ListArgs {
    /// Of this group alone
    #[arg(long, short)]
    group: Option<GroupName>,
    #[command(flatten)]
    limit: LimitArgs,
}

#[derive(Args)]
struct WhichArgs {
    /// The endpoint's id: ep_…
    endpoint: EndpointId,
    /// Its group
    #[arg(long, short)]
    group: Option<GroupName>,
}

#[derive(Args)]
struct CreateArgs {
    /// Where deliveries go
    #[arg(value_name = "ENDPOINT_URL")]
    endpoint_url: String,
    /// The group that it belongs to
    #[arg(long, short, default_value = "default")]
    group: GroupName,
    /// From where on it is sent events: latest, earliest, a time (RFC 3339), or a position of the log
    #[arg(long)]
    start: Option<String>,
    /// A file with the signing secret (whsec_…), if EventRail is not to make one (- reads it from standard input)
    #[arg(long, value_name = "FILE")]
    secret_file: Option<PathBuf>,
    #[command(flatten)]
    fields: FieldArgs,
}

#[derive(Args)]
struct UpdateArgs {
    #[command(flatten)]
    which: WhichArgs,
    /// Where deliveries go from now on
    #[arg(long, value_name = "ENDPOINT_URL")]
    new_url: Option<String>,
    /// A header that deliveries don't get any more (may come more than once)
    #[arg(long, value_name = "NAME")]
    remove_header: Vec<String>,
    #[command(flatten)]
    fields: FieldArgs,
}

#[derive(Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Backlog {
    Deliver,
    Skip,
}

#[derive(Args)]
struct EnableArgs {
    #[command(flatten)]
    which: WhichArgs,
    /// What becomes of the events that it has missed
    #[arg(long, value_enum, default_value = "deliver")]
    backlog: Backlog,
    #[command(flatten)]
    consent: ConsentArgs,
}

#[derive(Args)]
struct RotateArgs {
    #[command(flatten)]
    which: WhichArgs,
    /// How long the old secrets go on signing, in seconds [default: a day]
    #[arg(long, value_name = "SECONDS")]
    grace_seconds: Option<u64>,
    /// A file with the new secret (whsec_…), if EventRail is not to make one (- reads it from standard input)
    #[arg(long, value_name = "FILE")]
    secret_file: Option<PathBuf>,
    #[command(flatten)]
    consent: ConsentArgs,
}

#[derive(Args)]
struct DeleteArgs {
    #[command(flatten)]
    which: WhichArgs,
    #[command(flatten)]
    consent: ConsentArgs,
}

pub(super) async fn run(args: EndpointsArgs) -> anyhow::Result<()> {
    let operator = Operator::new(&args.operator)?;
    let output = &operator.output;
    match args.command {
        EndpointsCommand::List(args) => list(&operator, &args).await,
        EndpointsCommand::Get(which) => {
            let place = operator.place(&which).await?;
            output.answer(&operator.client.get(&place.path(&[])).answer().await?, details)
        }
        EndpointsCommand::Create(args) => create(&operator, args).await,
        EndpointsCommand::Update(args) => update(&operator, args).await,
        EndpointsCommand::Enable(args) => enable(&operator, &args).await,
        EndpointsCommand::Disable(which) => {
            let answer = operator.post(&which, &["disable"], &json!({})).await?;
            output.answer(&answer, |_, _| {
                let id = which.endpoint;
                format!("{id} is off; what it misses is kept. On again: eventrail endpoints enable {id}\n")
            })
        }
        EndpointsCommand::Test(which) => test(&operator, &which).await,
        EndpointsCommand::Secret(which) => {
            let place = operator.place(&which).await?;
            output.answer(&operator.client.get(&place.path(&["secret"])).answer().await?, secrets)
        }
        EndpointsCommand::RotateSecret(args) => rotate(&operator, &args).await,
        EndpointsCommand::Delete(args) => delete(&operator, &args).await,
    }
}

/// An endpoint within the API.
struct Place {
    group: String,
    endpoint: String,
}

impl Place {
    fn path<'a>(&'a self, more: &[&'a str]) -> Vec<&'a str> {
        [&["consumer-groups", &self.group, "endpoints", &self.endpoint], more].concat()
    }
}

impl Operator {
    async fn place(&self, which: &WhichArgs) -> anyhow::Result<Place> {
        let group = self.home_of(which.endpoint, which.group.as_ref()).await?;
        Ok(Place { group, endpoint: which.endpoint.to_string() })
    }

    async fn post(
        &self,
        which: &WhichArgs,
        action: &[&str],
        body: &Value,
    ) -> anyhow::Result<super::client::Answer> {
        let place = self.place(which).await?;
        Ok(self.client.post(&place.path(action), body).answer().await?)
    }
}

async fn list(operator: &Operator, args: &ListArgs) -> anyhow::Result<()> {
    let (client, limit) = (&operator.client, args.limit.limit());
    let groups = match &args.group {
        Some(group) => vec![group.to_string()],
        None => operator.group_names().await?,
    };
    let mut all = Listing { items: Vec::new(), is_cut: false };
    for group in groups {
        let left = limit.0.map(|limit| limit - all.items.len());
        if left == Some(0) {
            all.is_cut = true;
            break;
        }
        let some = client.get(&["consumer-groups", &group, "endpoints"]).list(Limit(left)).await?;
        all.items.extend(some.items);
        all.is_cut |= some.is_cut;
    }
    let columns = [
        whole("ENDPOINT"),
        whole("GROUP"),
        whole("STATE"),
        shortened("URL"),
        shortened("EVENT TYPES"),
        shortened("DESCRIPTION"),
    ];
    operator.output.list(&all, "There are no endpoints.", &columns, |_, endpoint| {
        vec![
            Cell::text(endpoint, "id"),
            Cell::text(endpoint, "group"),
            state(endpoint),
            Cell::text(endpoint, "url"),
            Cell::texts(endpoint, "event_types"),
            Cell::text(endpoint, "description"),
        ]
    })
}

async fn create(operator: &Operator, args: CreateArgs) -> anyhow::Result<()> {
    let mut body = args.fields.body(false)?;
    body.insert("url".into(), args.endpoint_url.into());
    if let Some(start) = args.start {
        // A position is a number in JSON.
        body.insert("start".into(), start.parse::<u64>().map_or_else(|_| start.clone().into(), Value::from));
    }
    add_secret(&mut body, args.secret_file.as_deref())?;
    let path = ["consumer-groups", args.group.as_str(), "endpoints"];
    operator.output.answer(&operator.client.post(&path, &body.into()).answer().await?, details)
}

fn add_secret(body: &mut Map<String, Value>, file: Option<&std::path::Path>) -> anyhow::Result<()> {
    if let Some(file) = file {
        body.insert("secret".into(), secret_from(file)?.into());
    }
    Ok(())
}

async fn update(operator: &Operator, args: UpdateArgs) -> anyhow::Result<()> {
    let mut patch = args.fields.body(true)?;
    if let Some(url) = args.new_url {
        patch.insert("url".into(), url.into());
    }
    if !args.remove_header.is_empty() {
        let headers = patch.entry("headers").or_insert_with(|| json!({}));
        for name in args.remove_header {
            headers[name] = Value::Null;
        }
    }
    let place = operator.place(&args.which).await?;
    operator.output.answer(&operator.client.patch(&place.path(&[]), &patch.into()).answer().await?, details)
}

async fn enable(operator: &Operator, args: &EnableArgs) -> anyhow::Result<()> {
    let id = args.which.endpoint;
    let (backlog, becomes) = match args.backlog {
        Backlog::Deliver => ("deliver", "delivered now"),
        Backlog::Skip => ("skip", "given up"),
    };
    if args.backlog == Backlog::Skip {
        args.consent.ask(&format!("This gives up all that {id} has missed. It can't be undone."))?;
    }
    let answer = operator.post(&args.which, &["enable"], &json!({ "backlog": backlog })).await?;
    operator.output.answer(&answer, |_, _| format!("{id} is on; what it has missed is {becomes}.\n"))
}

async fn test(operator: &Operator, which: &WhichArgs) -> anyhow::Result<()> {
    let answer = operator.post(which, &["test"], &json!({})).await?;
    let delivered = answer.value["delivered"] == true;
    operator.output.answer(&answer, endpoint_view::tried)?;
    anyhow::ensure!(delivered, "{} did not take it", which.endpoint);
    Ok(())
}

async fn rotate(operator: &Operator, args: &RotateArgs) -> anyhow::Result<()> {
    let mut body = Map::new();
    if let Some(grace) = args.grace_seconds {
        body.insert("grace_seconds".into(), grace.into());
    }
    add_secret(&mut body, args.secret_file.as_deref())?;
    if args.grace_seconds == Some(0) {
        args.consent.ask(&format!(
            "The old secret of {} stops at once: its receiver refuses deliveries until it knows the new one.",
            args.which.endpoint
        ))?;
    }
    let answer = operator.post(&args.which, &["secret", "rotate"], &body.into()).await?;
    operator.output.answer(&answer, secrets)
}

async fn delete(operator: &Operator, args: &DeleteArgs) -> anyhow::Result<()> {
    let place = operator.place(&args.which).await?;
    let endpoint = operator.client.get(&place.path(&[])).answer().await?.value;
    args.consent.ask(&format!(
        "This deletes the endpoint {} ({}) of the group {}, and gives up what waits for it. It can't be undone.",
        place.endpoint,
        crate::printable::printable(endpoint["url"].as_str().unwrap_or_default()),
        place.group
    ))?;
    let answer = operator.client.delete(&place.path(&[])).answer().await?;
    operator.output.answer(&answer, |_, _| format!("Deleted {}.\n", place.endpoint))
}
