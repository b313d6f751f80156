//! `eventrail groups`

use clap::{Args, Subcommand};
use eventrail_core::group::GroupName;
use serde_json::{Map, Value, json};
use tokio::task::JoinSet;

use super::client::LimitArgs;
use super::consent::ConsentArgs;
use super::output::{Look, counted};
use super::retry::{self, RetryArgs};
use super::table::{Cell, Tone, number, render_details, shortened, whole};
use super::{Operator, OperatorArgs};

const GROUPS: &str = "consumer-groups";
/// Groups whose figures are asked for at once.
const AT_ONCE: usize = 8;

#[derive(Args)]
pub(crate) struct GroupsArgs {
    #[command(flatten)]
    operator: OperatorArgs,
    #[command(subcommand)]
    command: GroupsCommand,
}

#[derive(Subcommand)]
#[command(after_help = "Examples:
  eventrail groups list                  # what waits where, and what stands still
  eventrail groups get billing
  eventrail groups pause billing         # its backlog is kept
  eventrail groups create billing --description 'Invoices for the ledger' --max-retries 10")]
enum GroupsCommand {
    /// Show all groups with what waits in them
    List(LimitArgs),
    /// Show one group: how far it is, what waits, what stalls it
    Get(NameArgs),
    /// Create a group
    Create(ChangeArgs),
    /// Change a group's description or retries
    Update(ChangeArgs),
    /// Stop deliveries, retries and replays of a group; what comes meanwhile is kept
    Pause(NameArgs),
    /// Let a paused group go on
    Resume(NameArgs),
    /// Delete a group with its endpoints
    Delete(DeleteArgs),
}

#[derive(Args)]
struct NameArgs {
    /// The group's name
    group: GroupName,
}

#[derive(Args)]
struct ChangeArgs {
    /// The group's name
    group: GroupName,
    /// For people: what it is for
    #[arg(long)]
    description: Option<String>,
    #[command(flatten)]
    retry: RetryArgs,
}

impl ChangeArgs {
    fn body(&self, is_patch: bool) -> Map<String, Value> {
        let mut body = Map::new();
        if let Some(description) = &self.description {
            body.insert("description".into(), description.as_str().into());
        }
        self.retry.add_to(&mut body, is_patch);
        body
    }
}

#[derive(Args)]
struct DeleteArgs {
    /// The group's name
    group: GroupName,
    #[command(flatten)]
    consent: ConsentArgs,
}

pub(super) async fn run(args: GroupsArgs) -> anyhow::Result<()> {
    let operator = Operator::new(&args.operator)?;
    let (client, output) = (&operator.client, &operator.output);
    match args.command {
        GroupsCommand::List(limit) => list(&operator, &limit).await,
        GroupsCommand::Get(NameArgs { group }) => {
            output.answer(&client.get(&[GROUPS, group.as_str()]).answer().await?, details)
        }
        GroupsCommand::Create(change) => {
            let mut body = change.body(false);
            body.insert("name".into(), change.group.as_str().into());
            let answer = client.post(&[GROUPS], &body.into()).answer().await?;
            output.answer(&answer, |_, _| format!("Created the group {}.\n", change.group))
        }
        GroupsCommand::Update(change) => {
            let body = change.body(true);
            let answer = client.patch(&[GROUPS, change.group.as_str()], &body.into()).answer().await?;
            output.answer(&answer, details)
        }
        GroupsCommand::Pause(NameArgs { group }) => {
            let answer = client.post(&[GROUPS, group.as_str(), "pause"], &json!({})).answer().await?;
            output.answer(&answer, |_, _| {
                format!("{group} is paused; what comes is kept. It goes on with: eventrail groups resume {group}\n")
            })
        }
        GroupsCommand::Resume(NameArgs { group }) => {
            let answer = client.post(&[GROUPS, group.as_str(), "resume"], &json!({})).answer().await?;
            output.answer(&answer, |_, _| format!("{group} goes on.\n"))
        }
        GroupsCommand::Delete(args) => delete(&operator, &args).await,
    }
}

async fn list(operator: &Operator, limit: &LimitArgs) -> anyhow::Result<()> {
    let (client, output) = (&operator.client, &operator.output);
    let mut listing = client.get(&[GROUPS]).list(limit.limit()).await?;
    if !output.json {
        // The list has names only; each group has its own figures.
        listing.items = figures(operator, &listing.values()).await?;
    }
    let columns = [
        whole("GROUP"),
        whole("STATE"),
        number("LAG"),
        number("PENDING"),
        number("RETRYING"),
        number("DEAD"),
        number("PARKED"),
        whole("OLDEST"),
        shortened("DESCRIPTION"),
    ];
    output.list(&listing, "There are no groups.", &columns, |look, group| {
        vec![
            Cell::text(group, "name"),
            state(group),
            Cell::count(group, "lag"),
            Cell::count(group, "pending"),
            Cell::count_as(group, "retrying", Tone::Waiting),
            Cell::count_as(group, "dead", Tone::Bad),
            Cell::count_as(group, "parked", Tone::Waiting),
            Cell::time(look, group, "oldest_unsettled_at"),
            Cell::text(group, "description"),
        ]
    })
}

/// Each group as `GET /consumer-groups/{group}` has it, in the same order.
async fn figures(
    operator: &Operator,
    groups: &[Value],
) -> anyhow::Result<Vec<Box<serde_json::value::RawValue>>> {
    let mut found = Vec::with_capacity(groups.len());
    for some in groups.chunks(AT_ONCE) {
        let mut asked = JoinSet::new();
        for (place, group) in some.iter().enumerate() {
            let client = operator.client.clone();
            let name = group["name"].as_str().unwrap_or_default().to_owned();
            asked.spawn(async move { (place, client.get(&[GROUPS, &name]).answer().await) });
        }
        let mut answers = asked.join_all().await;
        answers.sort_by_key(|(place, _)| *place);
        for (_, answer) in answers {
            match answer {
                Ok(answer) => found.push(serde_json::value::RawValue::from_string(answer.text)?),
                // It was deleted a moment ago.
                Err(error) if error.is_not_found() => {}
                Err(error) => return Err(error.into()),
            }
        }
    }
    Ok(found)
}

/// Whether it delivers, and if not, why.
fn state(group: &Value) -> Cell {
    let reason = match group["stalled_because"].as_str() {
        Some("no_dispatcher") => "no dispatcher runs",
        Some("no_relay") => "no relay leads",
        Some("redis") => "Redis is away",
        Some("endpoints_unavailable") => "endpoints are away",
        Some("paused") | None if group["paused"] == true => return Cell::new("paused", Tone::Waiting),
        Some(other) => other,
        None => return Cell::state("delivering", None),
    };
    Cell::new(&format!("stalled: {reason}"), Tone::Bad)
}

fn details(look: &Look, group: &Value) -> String {
    let name = group["name"].as_str().unwrap_or_default();
    let count = |member: &str| group[member].as_i64();
    let time = |member: &str| group[member].as_str().map(|time| look.times.long(time)).unwrap_or_default();
    let mut details = vec![
        ("group", Cell::plain(name)),
        ("description", Cell::text(group, "description")),
        ("state", state(group)),
        ("retries", Cell::plain(&retry::describe(&group["retry"]))),
    ];
    if let (Some(lag), Some(settled), Some(head)) = (count("lag"), count("settled"), count("head")) {
        let place = match lag {
            0 => format!("none (the log ends at {head})"),
            _ => format!("{} (settled {settled}, the log ends at {head})", counted(lag, "event")),
        };
        details.extend([
            ("lag", Cell::new(&place, if lag == 0 { Tone::Plain } else { Tone::Waiting })),
            ("oldest waits since", Cell::plain(&time("oldest_unsettled_at"))),
            ("last delivered", Cell::plain(&time("last_delivered_at"))),
            ("pending", Cell::count(group, "pending")),
            ("retrying", Cell::count_as(group, "retrying", Tone::Waiting)),
            ("dead letters", Cell::count_as(group, "dead", Tone::Bad)),
            ("expired", Cell::count_as(group, "expired", Tone::Bad)),
            ("parked endpoints", Cell::count_as(group, "parked", Tone::Waiting)),
            ("dispatchers", Cell::count(group, "dispatchers_alive")),
        ]);
    }
    details.push(("created", Cell::plain(&time("created_at"))));
    let mut text = render_details(look, &details);
    if count("dead").unwrap_or(0) > 0 {
        text.push_str(&format!("\nWhy they are dead: eventrail dead-letters errors --group {name}\n"));
    }
    text
}

async fn delete(operator: &Operator, args: &DeleteArgs) -> anyhow::Result<()> {
    let (client, output, name) = (&operator.client, &operator.output, args.group.as_str());
    let group = client.get(&[GROUPS, name]).answer().await?.value;
    let endpoints = client.get(&[GROUPS, name, "endpoints"]).list(super::Limit(None)).await?.items.len();
    let count = |member: &str| group[member].as_i64().unwrap_or(0);
    args.consent.ask(&format!(
        "This deletes the group {name} with {}, and gives up what waits in it ({}, {}). It can't be undone.",
        counted(i64::try_from(endpoints)?, "endpoint"),
        counted(count("lag"), "event"),
        counted(count("pending") + count("retrying"), "delivery"),
    ))?;
    let answer = client.delete(&[GROUPS, name]).answer().await?;
    output.answer(&answer, |_, _| format!("Deleted the group {name}.\n"))
}
