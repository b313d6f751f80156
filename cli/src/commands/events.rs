//! `eventrail events`

use std::io::Read as _;
use std::path::{Path, PathBuf};

use anyhow::Context as _;
use clap::{Args, Subcommand};
use eventrail_core::ids::EventId;
use reqwest::header::{HeaderName, HeaderValue};
use serde_json::value::RawValue;
use serde_json::{Value, json};

use super::client::LimitArgs;
use super::failure::Usage;
use super::output::{Look, counted};
use super::table::{Cell, number, render_details, shortened, whole};
use super::time::Moment;
use super::{Operator, OperatorArgs};
use crate::printable;

/// Events that the API takes at once, and their bytes, as far as that can be told from here (`MAX_BATCH_BYTES`).
const LARGEST_BATCH: usize = 1000;
const LARGEST_BATCH_BYTES: usize = 8 << 20;

#[derive(Args)]
pub(crate) struct EventsArgs {
    #[command(flatten)]
    operator: OperatorArgs,
    #[command(subcommand)]
    command: EventsCommand,
}

#[derive(Subcommand)]
#[command(after_help = "Examples:
  eventrail events send --event-type invoice.paid --source billing --data '{\"total\":42}'
  eventrail events list --event-type 'invoice.*' --from 2h
  eventrail events deliveries evt_01h455vb4pex5vsknk084sn02q   # where is my webhook?")]
enum EventsCommand {
    /// Send one event
    Send(SendArgs),
    /// Send many events from a file with one JSON object on each line: event_type, source, payload, and
    /// perhaps idempotency_key
    SendBatch(BatchArgs),
    /// Show the newest events
    List(ListArgs),
    /// Show one event with its payload
    Get(WhichArgs),
    /// Show what has become of an event at each endpoint that it is owed to
    Deliveries(WhichArgs),
    /// Show which types and sources have been seen
    Types(LimitArgs),
}

#[derive(Args)]
struct SendArgs {
    /// Such as invoice.paid
    #[arg(long)]
    event_type: String,
    /// Who sends it
    #[arg(long)]
    source: String,
    /// The payload as JSON
    #[arg(long, value_name = "JSON", required_unless_present = "data_file")]
    data: Option<String>,
    /// A file with the payload (- reads it from standard input)
    #[arg(long, value_name = "FILE", conflicts_with = "data")]
    data_file: Option<PathBuf>,
    /// Sent again under the same key, it is still one event
    #[arg(long, value_name = "KEY")]
    idempotency_key: Option<String>,
}

#[derive(Args)]
struct BatchArgs {
    /// - reads from standard input
    file: PathBuf,
}

#[derive(Args)]
struct ListArgs {
    /// An event type, or a pattern such as invoice.*
    #[arg(long, value_name = "PATTERN")]
    event_type: Option<String>,
    /// Of this source
    #[arg(long)]
    source: Option<String>,
    /// Created then or later: a time (RFC 3339), or how long ago, such as 2h
    #[arg(long, value_name = "TIME")]
    from: Option<Moment>,
    /// Created before then
    #[arg(long, value_name = "TIME")]
    to: Option<Moment>,
    #[command(flatten)]
    limit: LimitArgs,
}

#[derive(Args)]
struct WhichArgs {
    /// The event's id: evt_…
    event: EventId,
}

pub(super) async fn run(args: EventsArgs) -> anyhow::Result<()> {
    let operator = Operator::new(&args.operator)?;
    match args.command {
        EventsCommand::Send(args) => send(&operator, args).await,
        EventsCommand::SendBatch(args) => send_batch(&operator, &args.file).await,
        EventsCommand::List(args) => list(&operator, args).await,
        EventsCommand::Get(WhichArgs { event }) => {
            let answer = operator.client.get(&["events", &event.to_string()]).answer().await?;
            operator.output.answer(&answer, |look, event| details(look, event, &answer.text))
        }
        EventsCommand::Deliveries(WhichArgs { event }) => deliveries(&operator, event).await,
        EventsCommand::Types(limit) => types(&operator, &limit).await,
    }
}

async fn send(operator: &Operator, args: SendArgs) -> anyhow::Result<()> {
    let data = match (args.data, args.data_file) {
        (Some(data), _) => data,
        (None, Some(file)) => text_of(&file)?,
        (None, None) => String::new(),
    };
    // As it was written: numbers keep their digits.
    let payload: Box<RawValue> =
        serde_json::from_str(&data).map_err(|error| Usage(format!("the payload is not JSON: {error}")))?;
    let body = format!(
        r#"{{"event_type":{},"source":{},"payload":{}}}"#,
        json!(args.event_type),
        json!(args.source),
        payload.get()
    );
    let mut request = operator.client.post_text(&["events"], body);
    if let Some(key) = args.idempotency_key {
        let key =
            HeaderValue::from_str(&key).map_err(|_| Usage("--idempotency-key: visible ASCII".into()))?;
        request = request.header(HeaderName::from_static("idempotency-key"), key);
    }
    let answer = request.answer().await?;
    operator.output.answer(&answer, |_, event| {
        let id = event["id"].as_str().unwrap_or_default();
        format!("Sent {id}. Where it is: eventrail events deliveries {id}\n")
    })
}

/// Events in batches, each of which is stored as a whole or not at all.
async fn send_batch(operator: &Operator, file: &Path) -> anyhow::Result<()> {
    let text = text_of(file)?;
    let mut events = Vec::new();
    for (index, line) in text.lines().enumerate().filter(|(_, line)| !line.trim().is_empty()) {
        let event: &RawValue = serde_json::from_str(line)
            .map_err(|error| Usage(format!("line {}: not JSON: {error}", index + 1)))?;
        events.push(event.get());
    }
    let (mut sent, mut results) = (0, Vec::new());
    for batch in batches(&events) {
        let body = format!(r#"{{"events":[{}]}}"#, batch.join(","));
        let answer = operator.client.post_text(&["events", "batch"], body).answer().await;
        let answer = answer.with_context(|| format!("{sent} events were sent, then"))?;
        sent += batch.len();
        results.extend(answer.value["data"].as_array().cloned().unwrap_or_default());
    }
    let of_status = |status: &str| {
        let count = results.iter().filter(|result| result["status"] == status).count();
        i64::try_from(count).unwrap_or(i64::MAX)
    };
    let conflicts = of_status("conflict");
    if operator.output.json {
        let lines: Vec<String> = results.iter().map(Value::to_string).collect();
        super::output::Output::write(&format!("[\n{}\n]\n", lines.join(",\n")))?;
    }
    operator.output.say(&format!(
        "{} stored, {} there already.",
        counted(of_status("created"), "event"),
        of_status("duplicate")
    ))?;
    anyhow::ensure!(conflicts == 0, "{conflicts} were not stored: their keys stand for other events");
    Ok(())
}

/// Batches in the order of the events, each as large as the API takes it.
fn batches<'a, 'b>(mut events: &'a [&'b str]) -> impl Iterator<Item = &'a [&'b str]> {
    std::iter::from_fn(move || {
        let mut bytes = r#"{"events":[]}"#.len();
        let fitting = events.iter().take(LARGEST_BATCH).take_while(|event| {
            bytes += event.len() + 1;
            bytes <= LARGEST_BATCH_BYTES
        });
        // One that is too large by itself is for the API to refuse.
        let batch = events.split_off(..fitting.count().max(1).min(events.len()))?;
        (!batch.is_empty()).then_some(batch)
    })
}

fn text_of(file: &Path) -> anyhow::Result<String> {
    let mut text = String::new();
    if file == Path::new("-") {
        std::io::stdin().read_to_string(&mut text).context("standard input can't be read")?;
    } else {
        text = std::fs::read_to_string(file)
            .map_err(|error| Usage(format!("{} can't be read: {error}", file.display())))?;
    }
    Ok(text)
}

async fn list(operator: &Operator, args: ListArgs) -> anyhow::Result<()> {
    let request = operator.client.get(&["events"]);
    let request = request.query("event_type", args.event_type).query("source", args.source);
    let listing = request.query("from", args.from).query("to", args.to).list(args.limit.limit()).await?;
    let columns =
        [whole("EVENT"), number("POSITION"), whole("CREATED"), shortened("EVENT TYPE"), shortened("SOURCE")];
    operator.output.list(&listing, "There are no such events.", &columns, |look, event| {
        vec![
            Cell::text(event, "id"),
            Cell::plain(&event["position"].to_string()),
            Cell::time(look, event, "created_at"),
            Cell::text(event, "event_type"),
            Cell::text(event, "source"),
        ]
    })
}

/// The payload is shown as it was sent.
fn details(look: &Look, event: &Value, text: &str) -> String {
    #[derive(serde::Deserialize)]
    struct Payload<'a> {
        #[serde(borrow)]
        payload: &'a RawValue,
    }
    let payload = serde_json::from_str::<Payload<'_>>(text).map_or("", |event| event.payload.get());
    let created = event["created_at"].as_str().map(|time| look.times.long(time)).unwrap_or_default();
    let head = render_details(
        look,
        &[
            ("event", Cell::text(event, "id")),
            ("event type", Cell::text(event, "event_type")),
            ("source", Cell::text(event, "source")),
            ("created", Cell::plain(&created)),
            ("position", Cell::plain(&event["position"].to_string())),
        ],
    );
    format!("{head}\n{}\n", printable::lines(payload))
}

async fn deliveries(operator: &Operator, event: EventId) -> anyhow::Result<()> {
    let listing = operator.client.get(&["events", &event.to_string(), "deliveries"]).whole_list().await?;
    let columns = [
        whole("ENDPOINT"),
        whole("GROUP"),
        whole("STATUS"),
        number("ATTEMPTS"),
        whole("ANSWER"),
        whole("NEXT"),
        whole("CHANGED"),
    ];
    operator.output.list(&listing, "It is owed to no endpoint.", &columns, |look, delivery| {
        vec![
            Cell::text(delivery, "endpoint_id"),
            Cell::text(delivery, "group"),
            Cell::state(delivery["status"].as_str().unwrap_or_default(), delivery["reason"].as_str()),
            Cell::count(delivery, "attempts"),
            super::deliveries::last_answer(delivery),
            Cell::time(look, delivery, "next_attempt_at"),
            Cell::time(look, delivery, "updated_at"),
        ]
    })
}

async fn types(operator: &Operator, limit: &LimitArgs) -> anyhow::Result<()> {
    let listing = operator.client.get(&["event-types"]).list(limit.limit()).await?;
    let columns = [shortened("EVENT TYPE"), shortened("SOURCE"), whole("LAST SEEN")];
    operator.output.list(&listing, "No events have been seen.", &columns, |look, kind| {
        vec![Cell::text(kind, "event_type"), Cell::text(kind, "source"), Cell::time(look, kind, "last_at")]
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn batches_hold_as_many_events_and_bytes_as_the_api_takes() {
        let sizes = |lengths: &[usize]| -> Vec<usize> {
            let texts: Vec<String> = lengths.iter().map(|length| "x".repeat(*length)).collect();
            let texts: Vec<&str> = texts.iter().map(String::as_str).collect();
            batches(&texts).map(<[&str]>::len).collect()
        };
        const HALF: usize = LARGEST_BATCH_BYTES / 2;
        assert_eq!(sizes(&[]), [0; 0]);
        assert_eq!(sizes(&[1; 2500]), [1000, 1000, 500]);
        assert_eq!(sizes(&[HALF - 20, HALF - 20, 1]), [3]);
        assert_eq!(sizes(&[HALF, HALF, 1]), [1, 2]);
        assert_eq!(sizes(&[2 * HALF, 1, 1]), [1, 2]);
    }
}
