//! `eventrail replay` starts one, `eventrail replays` has them all.

use clap::{Args, Subcommand, ValueEnum};
use eventrail_core::group::GroupName;
use eventrail_core::ids::{EndpointId, ReplayId};
use serde_json::{Map, Value, json};

use super::client::{Answer, LimitArgs};
use super::consent::ConsentArgs;
use super::output::{Look, counted, say_aside};
use super::progress::{self, Progress};
use super::table::{Cell, Tone, number, render_details, shortened, whole};
use super::time::Moment;
use super::{Operator, OperatorArgs};

#[derive(Args)]
#[command(after_help = "Examples:
  eventrail replay --from 2h --endpoint ep_01h455vb4pex5vsknk084sn02q --only-missing
  eventrail replay --from 2026-11-23T01:00:00Z --to 2026-11-23T02:30:00Z --group billing --dry-run
  eventrail replay --from 1d --group billing --event-type 'invoice.*' --rate-per-second 50

It is watched until it ends. Ctrl-C stops the watching, not the replay.
Exit codes: 0 it is done, 1 it was refused or cancelled, 2 the command can't be used, 130 Ctrl-C.")]
pub(crate) struct ReplayArgs {
    #[command(flatten)]
    operator: OperatorArgs,
    /// Events created then or later: a time (RFC 3339), or how long ago, such as 2h
    #[arg(long, value_name = "TIME")]
    from: Moment,
    /// Events created before then
    #[arg(long, value_name = "TIME", default_value = "now")]
    to: Moment,
    /// To this group, or '*' for all [default: that of the endpoint, or default]
    #[arg(long, short, value_parser = group_or_all)]
    group: Option<String>,
    /// To this endpoint alone: ep_…
    #[arg(long)]
    endpoint: Option<EndpointId>,
    /// An event type, or a pattern such as invoice.*
    #[arg(long, value_name = "PATTERN")]
    event_type: Option<String>,
    /// Of this source
    #[arg(long)]
    source: Option<String>,
    /// So many events at most, the earliest first [default: all]
    #[arg(long, value_name = "NUMBER")]
    limit: Option<u64>,
    /// Leave out what was delivered before
    #[arg(long)]
    only_missing: bool,
    #[command(flatten)]
    pace: PaceArgs,
    #[command(flatten)]
    consent: ConsentArgs,
}

/// How a replay or redrive is carried out.
#[derive(Args)]
pub(super) struct PaceArgs {
    /// So many deliveries per second at most, to each endpoint
    #[arg(long, value_name = "NUMBER")]
    pub(super) rate_per_second: Option<u32>,
    /// Only count what would be sent
    #[arg(long)]
    pub(super) dry_run: bool,
    /// Start it, and don't watch it
    #[arg(long)]
    pub(super) detach: bool,
}

fn group_or_all(text: &str) -> Result<String, String> {
    if text == "*" {
        return Ok(text.to_owned());
    }
    text.parse::<GroupName>().map(|group| group.to_string()).map_err(|error| error.to_string())
}

#[derive(Args)]
pub(crate) struct ReplaysArgs {
    #[command(flatten)]
    operator: OperatorArgs,
    #[command(subcommand)]
    command: ReplaysCommand,
}

#[derive(Subcommand)]
#[command(after_help = "Examples:
  eventrail replays list
  eventrail replays watch rpl_01h455vb4pex5vsknk084sn02q
  eventrail replays cancel rpl_01h455vb4pex5vsknk084sn02q")]
enum ReplaysCommand {
    /// Show replays and redrives, the newest first
    List(ListArgs),
    /// Show one with its progress
    Get(WhichArgs),
    /// Follow one to its end; Ctrl-C stops the watching, not the replay
    Watch(WhichArgs),
    /// Stop one: what waits of it is given up, what is under way ends
    Cancel(WhichArgs),
}

#[derive(Clone, Copy, ValueEnum)]
enum Kind {
    Replay,
    Redrive,
}

#[derive(Clone, Copy, ValueEnum)]
enum Status {
    Running,
    Cancelled,
    Done,
}

#[derive(Args)]
struct ListArgs {
    /// Of this group, or '*' for those of all groups at once
    #[arg(long, short, value_parser = group_or_all)]
    group: Option<String>,
    #[arg(long, value_enum)]
    kind: Option<Kind>,
    #[arg(long, value_enum)]
    status: Option<Status>,
    #[command(flatten)]
    limit: LimitArgs,
}

#[derive(Args)]
struct WhichArgs {
    /// The replay's id: rpl_…
    replay: ReplayId,
}

pub(super) async fn replay(args: ReplayArgs) -> anyhow::Result<()> {
    let operator = Operator::new(&args.operator)?;
    let body = args.body();
    if args.pace.dry_run {
        return preview(&operator, &["replay"], body).await;
    }
    if !args.only_missing && !args.consent.is_given() {
        let counted = dry_run(&operator, &["replay"], body.clone()).await?;
        let matched = counted.value["matched"].as_i64().unwrap_or(0);
        if matched == 0 {
            operator.output.answer(&counted, |_, _| "No event matches: nothing was started.\n".into())?;
            return Ok(());
        }
        args.consent.ask(&args.question(matched))?;
    }
    start(&operator, &["replay"], body, args.pace.detach).await
}

impl ReplayArgs {
    fn body(&self) -> Map<String, Value> {
        let given = [
            ("from", Some(self.from.to_string().into())),
            ("to", Some(self.to.to_string().into())),
            ("group", self.group.clone().map(Value::from)),
            ("endpoint_id", self.endpoint.map(|id| id.to_string().into())),
            ("event_type", self.event_type.clone().map(Value::from)),
            ("source", self.source.clone().map(Value::from)),
            ("limit", self.limit.map(Value::from)),
            ("only_missing", self.only_missing.then_some(Value::Bool(true))),
            ("rate_per_second", self.pace.rate_per_second.map(Value::from)),
        ];
        given.into_iter().filter_map(|(name, value)| Some((name.to_owned(), value?))).collect()
    }

    fn question(&self, matched: i64) -> String {
        let to = match (&self.endpoint, &self.group) {
            (Some(endpoint), _) => endpoint.to_string(),
            (None, Some(group)) if group == "*" => "all groups".into(),
            (None, Some(group)) => format!("the group {group}"),
            (None, None) => "the group default".into(),
        };
        format!(
            "This sends {} from {} to {} to {to}, those that were delivered before too (--only-missing leaves \
             them out). It can be stopped, and not undone.",
            counted(matched, "event"),
            self.from.to_seconds(),
            self.to.to_seconds(),
        )
    }
}

async fn dry_run(operator: &Operator, path: &[&str], mut body: Map<String, Value>) -> anyhow::Result<Answer> {
    body.insert("dry_run".into(), true.into());
    Ok(operator.client.post(path, &body.into()).answer().await?)
}

/// Shows what would be sent.
pub(super) async fn preview(
    operator: &Operator,
    path: &[&str],
    body: Map<String, Value>,
) -> anyhow::Result<()> {
    let answer = dry_run(operator, path, body).await?;
    operator.output.answer(&answer, previewed)
}

fn previewed(look: &Look, answer: &Value) -> String {
    let number = |member: &str| answer[member].as_i64();
    let matched = number("matched").unwrap_or(0);
    let mut text = match number("owed") {
        Some(owed) => format!("{} in {}", counted(matched, "event"), counted(owed, "delivery")),
        None => counted(matched, "dead letter"),
    };
    if let Some(endpoints) = number("endpoints") {
        text.push_str(&format!(" to {}", counted(endpoints, "endpoint")));
    }
    text.push_str(" would be sent. Nothing was started.\n");
    let sample: Vec<&Value> = answer["sample"].as_array().into_iter().flatten().collect();
    if sample.is_empty() {
        return text;
    }
    let rows: Vec<Vec<Cell>> = sample.iter().map(|one| sample_row(look, one)).collect();
    let whose = if number("owed").is_some() { whole("SOURCE") } else { whole("ENDPOINT") };
    let columns = [whole("AMONG THEM"), whose, whole("WHEN"), shortened("EVENT TYPE")];
    format!("{text}\n{}", super::table::render(look, &columns, &rows))
}

/// An event of a replay, or a dead letter of a redrive.
fn sample_row(look: &Look, one: &Value) -> Vec<Cell> {
    let either = |first: &str, second: &str| one[first].as_str().or(one[second].as_str()).unwrap_or_default();
    let time = either("updated_at", "created_at");
    vec![
        Cell::plain(either("id", "event_id")),
        Cell::plain(either("endpoint_id", "source")),
        Cell::plain(&if time.is_empty() { String::new() } else { look.times.short(time) }),
        Cell::text(one, "event_type"),
    ]
}

/// Starts a replay or redrive, and watches it unless that is not wanted.
pub(super) async fn start(
    operator: &Operator,
    path: &[&str],
    body: Map<String, Value>,
    detach: bool,
) -> anyhow::Result<()> {
    let started = operator.client.post(path, &body.into()).answer().await?;
    if detach {
        return operator.output.answer(&started, |_, replay| {
            let progress = Progress(replay);
            if progress.is_over() {
                progress.summary()
            } else {
                format!("{}\n", progress::goes_on(progress.id()))
            }
        });
    }
    progress::watch(operator, started).await
}

pub(super) async fn replays(args: ReplaysArgs) -> anyhow::Result<()> {
    let operator = Operator::new(&args.operator)?;
    let (client, output) = (&operator.client, &operator.output);
    match args.command {
        ReplaysCommand::List(args) => list(&operator, &args).await,
        ReplaysCommand::Get(WhichArgs { replay }) => {
            output.answer(&client.get(&["replays", &replay.to_string()]).answer().await?, details)
        }
        ReplaysCommand::Watch(WhichArgs { replay }) => {
            let now = client.get(&["replays", &replay.to_string()]).answer().await?;
            progress::watch(&operator, now).await
        }
        ReplaysCommand::Cancel(WhichArgs { replay }) => {
            let path = ["replays", &replay.to_string(), "cancel"];
            let answer = client.post(&path, &json!({})).answer().await?;
            if Progress(&answer.value).is_over() && answer.value["status"] == "done" {
                say_aside(&format!("{replay} had ended before."));
            }
            output.answer(&answer, |_, replay| Progress(replay).summary())
        }
    }
}

async fn list(operator: &Operator, args: &ListArgs) -> anyhow::Result<()> {
    let kind = args.kind.and_then(|kind| kind.to_possible_value());
    let status = args.status.and_then(|status| status.to_possible_value());
    let request = operator.client.get(&["replays"]).query("group", args.group.as_ref());
    let request = request.query("kind", kind.as_ref().map(|kind| kind.get_name()));
    let request = request.query("status", status.as_ref().map(|status| status.get_name()));
    let listing = request.list(args.limit.limit()).await?;
    let columns = [
        whole("REPLAY"),
        whole("KIND"),
        whole("STATUS"),
        whole("STARTED"),
        number("OWED"),
        number("DELIVERED"),
        number("RETRYING"),
        number("DEAD"),
        number("SKIPPED"),
        shortened("OF"),
    ];
    operator.output.list(&listing, "There are no replays.", &columns, |look, replay| {
        vec![
            Cell::text(replay, "id"),
            Cell::text(replay, "kind"),
            Cell::state(replay["status"].as_str().unwrap_or_default(), None),
            Cell::time(look, replay, "created_at"),
            Cell::count(replay, "owed"),
            Cell::count(replay, "delivered"),
            Cell::count_as(replay, "retrying", Tone::Waiting),
            Cell::count_as(replay, "dead", Tone::Bad),
            Cell::count(replay, "skipped"),
            Cell::plain(&what(replay)),
        ]
    })
}

/// What a replay was asked for, in short.
fn what(replay: &Value) -> String {
    let members = ["group", "endpoint_id", "event_type", "source", "error"];
    let given = members.iter().filter_map(|member| replay[member].as_str());
    given.collect::<Vec<_>>().join(", ")
}

fn details(look: &Look, replay: &Value) -> String {
    let time = |member: &str| replay[member].as_str().map(|time| look.times.long(time)).unwrap_or_default();
    let details = [
        ("replay", Cell::text(replay, "id")),
        ("kind", Cell::text(replay, "kind")),
        ("status", Cell::state(replay["status"].as_str().unwrap_or_default(), None)),
        ("group", Cell::text(replay, "group")),
        ("endpoint", Cell::text(replay, "endpoint_id")),
        ("event type", Cell::text(replay, "event_type")),
        ("source", Cell::text(replay, "source")),
        ("error", Cell::text(replay, "error")),
        ("from", Cell::plain(&time("from"))),
        ("to", Cell::plain(&time("to"))),
        ("limit", Cell::count(replay, "limit")),
        ("only missing", Cell::plain(if replay["only_missing"] == true { "yes" } else { "" })),
        ("rate limit", Cell::count(replay, "rate_per_second")),
        ("matched", Cell::count(replay, "matched")),
        ("published", Cell::count(replay, "published")),
        ("owed", Cell::count(replay, "owed")),
        ("delivered", Cell::count(replay, "delivered")),
        ("retrying", Cell::count_as(replay, "retrying", Tone::Waiting)),
        ("dead", Cell::count_as(replay, "dead", Tone::Bad)),
        ("skipped", Cell::count(replay, "skipped")),
        ("settled per second", Cell::plain(&replay["settled_per_second"].to_string())),
        ("started", Cell::plain(&time("created_at"))),
        ("cancelled", Cell::plain(&time("cancelled_at"))),
        ("ended", Cell::plain(&time("finished_at"))),
        ("will end", Cell::plain(&time("estimated_end_at"))),
    ];
    render_details(look, &details)
}
