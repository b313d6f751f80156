//! `eventrail dead-letters`

use std::io::Write as _;
use std::path::{Path, PathBuf};

use anyhow::Context as _;
use clap::{Args, Subcommand};
use eventrail_core::group::GroupName;
use eventrail_core::ids::EndpointId;
use serde_json::{Map, Value};

use super::client::{LimitArgs, Request};
use super::consent::ConsentArgs;
use super::failure::Usage;
use super::output::{counted, say_aside};
use super::replays::{self, PaceArgs};
use super::table::{Cell, number, shortened, whole};
use super::{Operator, OperatorArgs};

const NDJSON: &str = "application/x-ndjson";

#[derive(Args)]
pub(crate) struct DeadLettersArgs {
    #[command(flatten)]
    operator: OperatorArgs,
    #[command(subcommand)]
    command: DeadLettersCommand,
}

#[derive(Subcommand)]
#[command(after_help = "Examples:
  eventrail dead-letters errors                                # why, how many, since when
  eventrail dead-letters redrive --group billing --error 503 --dry-run
  eventrail dead-letters redrive --group billing --error 503 --rate-per-second 50
  eventrail dead-letters download --group billing > dead.ndjson
  eventrail dead-letters purge --group billing --error 410

--error is what `errors` shows: a status code, or a kind of error such as timeout.")]
enum DeadLettersCommand {
    /// Show dead letters, the newest first
    List(ListArgs),
    /// Show why deliveries are dead: each kind of error with its count
    Errors(FilterArgs),
    /// Deliver dead letters again, and watch it; Ctrl-C stops the watching, not the redrive
    Redrive(RedriveArgs),
    /// Put dead letters of a group away: they can't be redriven any more
    Purge(PurgeArgs),
    /// Write dead letters with their payloads, one JSON object on each line
    Download(DownloadArgs),
}

#[derive(Args)]
struct FilterArgs {
    /// Of this group
    #[arg(long, short)]
    group: Option<GroupName>,
    #[command(flatten)]
    narrow: NarrowArgs,
}

#[derive(Args)]
struct NarrowArgs {
    /// Of this endpoint: ep_…
    #[arg(long)]
    endpoint: Option<EndpointId>,
    /// An event type, or a pattern such as invoice.*
    #[arg(long, value_name = "PATTERN")]
    event_type: Option<String>,
    /// With this error: a status code, or a kind such as timeout
    #[arg(long)]
    error: Option<String>,
}

#[derive(Args)]
struct ListArgs {
    #[command(flatten)]
    filter: FilterArgs,
    #[command(flatten)]
    limit: LimitArgs,
}

#[derive(Args)]
struct RedriveArgs {
    #[command(flatten)]
    filter: FilterArgs,
    /// All dead letters of all groups, where nothing narrows them
    #[arg(long)]
    all: bool,
    #[command(flatten)]
    pace: PaceArgs,
}

#[derive(Args)]
struct PurgeArgs {
    /// Of this group
    #[arg(long, short)]
    group: GroupName,
    #[command(flatten)]
    narrow: NarrowArgs,
    #[command(flatten)]
    consent: ConsentArgs,
}

#[derive(Args)]
struct DownloadArgs {
    #[command(flatten)]
    filter: FilterArgs,
    /// Where to; standard output by default
    #[arg(long, short, value_name = "FILE")]
    output: Option<PathBuf>,
}

impl NarrowArgs {
    fn given(&self) -> [(&'static str, Option<String>); 3] {
        [
            ("endpoint_id", self.endpoint.map(|id| id.to_string())),
            ("event_type", self.event_type.clone()),
            ("error", self.error.clone()),
        ]
    }
}

impl FilterArgs {
    fn given(&self) -> impl Iterator<Item = (&'static str, Option<String>)> {
        let group = ("group", self.group.as_ref().map(ToString::to_string));
        std::iter::once(group).chain(self.narrow.given())
    }
}

/// The request with the filter in its query.
fn filtered<'a>(
    request: Request<'a>,
    given: impl IntoIterator<Item = (&'static str, Option<String>)>,
) -> Request<'a> {
    given.into_iter().fold(request, |request, (name, value)| request.query(name, value))
}

pub(super) async fn run(args: DeadLettersArgs) -> anyhow::Result<()> {
    let operator = Operator::new(&args.operator)?;
    match args.command {
        DeadLettersCommand::List(args) => list(&operator, &args).await,
        DeadLettersCommand::Errors(filter) => errors(&operator, &filter).await,
        DeadLettersCommand::Redrive(args) => redrive(&operator, &args).await,
        DeadLettersCommand::Purge(args) => purge(&operator, &args).await,
        DeadLettersCommand::Download(args) => download(&operator, &args).await,
    }
}

async fn list(operator: &Operator, args: &ListArgs) -> anyhow::Result<()> {
    let request = filtered(operator.client.get(&["dead-letters"]), args.filter.given());
    let listing = request.list(args.limit.limit()).await?;
    let columns = [
        whole("EVENT"),
        whole("ENDPOINT"),
        whole("GROUP"),
        whole("ERROR"),
        number("ATTEMPTS"),
        whole("DIED"),
        shortened("EVENT TYPE"),
        shortened("DETAIL"),
    ];
    operator.output.list(&listing, "There are no such dead letters.", &columns, |look, letter| {
        vec![
            Cell::text(letter, "event_id"),
            Cell::text(letter, "endpoint_id"),
            Cell::text(letter, "group"),
            Cell::text(letter, "error"),
            Cell::count(letter, "attempts"),
            Cell::time(look, letter, "updated_at"),
            Cell::text(letter, "event_type"),
            Cell::text(letter, "error_detail"),
        ]
    })
}

async fn errors(operator: &Operator, filter: &FilterArgs) -> anyhow::Result<()> {
    let request = filtered(operator.client.get(&["dead-letters"]), filter.given());
    let listing = request.query("group_by", Some("error")).whole_list().await?;
    let columns = [
        whole("ERROR"),
        number("COUNT"),
        whole("FIRST"),
        whole("LAST"),
        whole("ONE OF THEM"),
        shortened("DETAIL"),
    ];
    operator.output.list(&listing, "There are no such dead letters.", &columns, |look, kind| {
        vec![
            Cell::text(kind, "error"),
            Cell::count(kind, "count"),
            Cell::time(look, kind, "first_at"),
            Cell::time(look, kind, "last_at"),
            Cell::text(&kind["sample"], "event_id"),
            Cell::text(&kind["sample"], "error_detail"),
        ]
    })
}

async fn redrive(operator: &Operator, args: &RedriveArgs) -> anyhow::Result<()> {
    let mut body: Map<String, Value> =
        args.filter.given().filter_map(|(name, value)| Some((name.to_owned(), value?.into()))).collect();
    if body.is_empty() && !args.all {
        let what = "say which: --group, --endpoint, --event-type, --error, or --all for all of all groups";
        return Err(Usage(what.into()).into());
    }
    if let Some(rate) = args.pace.rate_per_second {
        body.insert("rate_per_second".into(), rate.into());
    }
    let path = ["dead-letters", "redrive"];
    if args.pace.dry_run {
        return replays::preview(operator, &path, body).await;
    }
    replays::start(operator, &path, body, args.pace.detach).await
}

async fn purge(operator: &Operator, args: &PurgeArgs) -> anyhow::Result<()> {
    let given = || std::iter::once(("group", Some(args.group.to_string()))).chain(args.narrow.given());
    if !args.consent.is_given() {
        let kinds = filtered(operator.client.get(&["dead-letters"]), given());
        let kinds = kinds.query("group_by", Some("error")).whole_list().await?.values();
        let count = kinds.iter().filter_map(|kind| kind["count"].as_i64()).sum();
        if count == 0 {
            return operator.output.say("There are no such dead letters: nothing was done.");
        }
        args.consent.ask(&format!(
            "This puts {} of the group {} away. They can't be redriven any more, and it can't be undone.",
            counted(count, "dead letter"),
            args.group
        ))?;
    }
    let answer = filtered(operator.client.delete(&["dead-letters"]), given()).answer().await?;
    operator.output.answer(&answer, |_, answer| {
        format!("Put {} away.\n", counted(answer["purged"].as_i64().unwrap_or(0), "dead letter"))
    })
}

async fn download(operator: &Operator, args: &DownloadArgs) -> anyhow::Result<()> {
    let request = filtered(operator.client.get(&["dead-letters"]), args.filter.given());
    let Some(file) = &args.output else {
        return request.download(NDJSON, |piece| std::io::stdout().lock().write_all(piece)).await;
    };
    let mut lines = 0;
    let mut out = create(file)?;
    let written = request.download(NDJSON, |piece| {
        lines += piece.iter().filter(|byte| **byte == b'\n').count();
        out.write_all(piece)
    });
    written.await.with_context(|| format!("{} is not complete", file.display()))?;
    out.flush()?;
    say_aside(&format!("Wrote {} to {}.", counted(i64::try_from(lines)?, "dead letter"), file.display()));
    Ok(())
}

/// Never over a file that is there.
fn create(file: &Path) -> anyhow::Result<std::io::BufWriter<std::fs::File>> {
    let made = std::fs::File::create_new(file)
        .map_err(|error| Usage(format!("{} can't be made: {error}", file.display())))?;
    Ok(std::io::BufWriter::new(made))
}
