//! `eventrail deliveries`

use clap::{Args, Subcommand, ValueEnum};
use eventrail_core::group::GroupName;
use eventrail_core::ids::{EndpointId, EventId};
use serde_json::{Value, json};

use super::client::LimitArgs;
use super::output::Look;
use super::table::{Cell, Tone, number, render, render_details, shortened, whole};
use super::time::Moment;
use super::{Operator, OperatorArgs};
use crate::printable;

#[derive(Args)]
pub(crate) struct DeliveriesArgs {
    #[command(flatten)]
    operator: OperatorArgs,
    #[command(subcommand)]
    command: DeliveriesCommand,
}

#[derive(Subcommand)]
#[command(after_help = "Examples:
  eventrail deliveries list --group billing --status retrying
  eventrail deliveries get evt_01h455vb4pex5vsknk084sn02q ep_01h455vb4pex5vsknk084sn02q
  eventrail deliveries retry evt_01h455vb4pex5vsknk084sn02q ep_01h455vb4pex5vsknk084sn02q")]
enum DeliveriesCommand {
    /// Show the deliveries of a group that were tried or deferred, of the newest events first
    List(ListArgs),
    /// Show one delivery with its attempts, and what the receiver answered
    Get(WhichArgs),
    /// Try a delivery again now, whatever has become of it
    Retry(WhichArgs),
}

#[derive(Clone, Copy, ValueEnum)]
enum Status {
    Pending,
    Retrying,
    Delivered,
    Dead,
}

#[derive(Args)]
struct ListArgs {
    /// Of this group [default: that of the endpoint, or default]
    #[arg(long, short)]
    group: Option<GroupName>,
    /// What has become of them
    #[arg(long, value_enum)]
    status: Option<Status>,
    /// To this endpoint: ep_…
    #[arg(long)]
    endpoint: Option<EndpointId>,
    /// An event type, or a pattern such as invoice.*
    #[arg(long, value_name = "PATTERN")]
    event_type: Option<String>,
    /// Of events created then or later: a time (RFC 3339), or how long ago, such as 2h
    #[arg(long, value_name = "TIME")]
    from: Option<Moment>,
    /// Of events created before then
    #[arg(long, value_name = "TIME")]
    to: Option<Moment>,
    #[command(flatten)]
    limit: LimitArgs,
}

#[derive(Args)]
struct WhichArgs {
    /// The event's id: evt_…
    event: EventId,
    /// The endpoint's id: ep_…
    endpoint: EndpointId,
}

pub(super) async fn run(args: DeliveriesArgs) -> anyhow::Result<()> {
    let operator = Operator::new(&args.operator)?;
    let (client, output) = (&operator.client, &operator.output);
    match args.command {
        DeliveriesCommand::List(args) => list(&operator, args).await,
        DeliveriesCommand::Get(WhichArgs { event, endpoint }) => {
            let path = ["deliveries", &event.to_string(), &endpoint.to_string()];
            output.answer(&client.get(&path).answer().await?, details)
        }
        DeliveriesCommand::Retry(WhichArgs { event, endpoint }) => {
            let path = ["deliveries", &event.to_string(), &endpoint.to_string(), "retry"];
            let answer = client.post(&path, &json!({})).answer().await?;
            output.answer(&answer, |_, _| {
                format!(
                    "It is tried again now. What comes of it: eventrail deliveries get {event} {endpoint}\n"
                )
            })
        }
    }
}

async fn list(operator: &Operator, args: ListArgs) -> anyhow::Result<()> {
    let group = match (&args.group, args.endpoint) {
        (None, Some(endpoint)) => operator.home_of(endpoint, None).await?,
        (group, _) => group.clone().unwrap_or_else(GroupName::default_group).to_string(),
    };
    let status = args.status.and_then(|status| status.to_possible_value());
    let request = operator.client.get(&["consumer-groups", &group, "deliveries"]);
    let request = request.query("status", status.as_ref().map(|status| status.get_name()));
    let request = request.query("endpoint_id", args.endpoint).query("event_type", args.event_type);
    let listing = request.query("from", args.from).query("to", args.to).list(args.limit.limit()).await?;
    let mut columns = vec![
        whole("EVENT"),
        whole("ENDPOINT"),
        whole("STATUS"),
        number("ATTEMPTS"),
        whole("ANSWER"),
        whole("NEXT"),
        whole("CHANGED"),
        shortened("EVENT TYPE"),
    ];
    // What was asked for needs no column.
    let is_of_one = args.endpoint.is_some();
    if is_of_one {
        columns.remove(1);
    }
    let none = format!("There are no such deliveries in the group {group}.");
    operator.output.list(&listing, &none, &columns, |look, delivery| {
        let mut row = vec![
            Cell::text(delivery, "event_id"),
            Cell::text(delivery, "endpoint_id"),
            Cell::state(delivery["status"].as_str().unwrap_or_default(), None),
            Cell::count(delivery, "attempts"),
            last_answer(delivery),
            Cell::time(look, delivery, "next_attempt_at"),
            Cell::time(look, delivery, "updated_at"),
            Cell::text(delivery, "event_type"),
        ];
        if is_of_one {
            row.remove(1);
        }
        row
    })
}

/// The last status code, or why there was none.
pub(super) fn last_answer(delivery: &Value) -> Cell {
    let code = delivery["last_status_code"].as_i64();
    match (code, delivery["last_error"].as_str()) {
        (Some(code), None) => Cell::plain(&code.to_string()),
        (Some(code), Some("status")) => Cell::new(&code.to_string(), Tone::Bad),
        (_, Some(error)) => Cell::new(error, Tone::Bad),
        (None, None) => Cell::nothing(),
    }
}

fn details(look: &Look, delivery: &Value) -> String {
    let time = |member: &str| delivery[member].as_str().map(|time| look.times.long(time)).unwrap_or_default();
    let status = delivery["status"].as_str().unwrap_or_default();
    let mut text = render_details(
        look,
        &[
            ("event", Cell::text(delivery, "event_id")),
            ("endpoint", Cell::text(delivery, "endpoint_id")),
            ("group", Cell::text(delivery, "group")),
            ("status", Cell::state(status, delivery["reason"].as_str())),
            ("attempts", Cell::count(delivery, "attempts")),
            ("last answer", last_answer(delivery)),
            ("next attempt", Cell::plain(&time("next_attempt_at"))),
            ("changed", Cell::plain(&time("updated_at"))),
        ],
    );
    let attempts: Vec<&Value> = delivery["attempt_log"].as_array().into_iter().flatten().collect();
    if attempts.is_empty() {
        return text;
    }
    let columns = [
        number("ATTEMPT"),
        whole("STARTED"),
        number("TOOK"),
        whole("ANSWER"),
        whole("BY"),
        shortened("DETAIL"),
    ];
    let rows: Vec<_> = attempts.iter().map(|attempt| attempt_row(look, attempt)).collect();
    text.push_str(&format!("\n{}", render(look, &columns, &rows)));
    let said = attempts.iter().rev().find_map(|attempt| attempt["response_body"].as_str());
    if let Some(said) = said.filter(|said| !said.trim().is_empty()) {
        text.push_str(&format!("\nThe receiver's last words:\n{}\n", printable::lines(said)));
    }
    text
}

fn attempt_row(look: &Look, attempt: &Value) -> Vec<Cell> {
    let answer = match (attempt["status_code"].as_i64(), attempt["error"].as_str()) {
        (Some(code), None) => Cell::new(&code.to_string(), Tone::Good),
        (Some(code), Some("status")) => Cell::new(&code.to_string(), Tone::Bad),
        (_, error) => Cell::new(error.unwrap_or_default(), Tone::Bad),
    };
    let took = attempt["duration_ms"].as_i64().map(|took| format!("{took} ms")).unwrap_or_default();
    vec![
        Cell::count(attempt, "number"),
        Cell::time(look, attempt, "started_at"),
        Cell::plain(&took),
        answer,
        Cell::text(attempt, "trigger"),
        Cell::text(attempt, "error_detail"),
    ]
}
