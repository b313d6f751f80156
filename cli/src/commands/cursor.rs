//! `eventrail set-cursor`

use std::str::FromStr;

use clap::Args;
use eventrail_core::group::GroupName;
use serde_json::{Map, Value};

use super::client::Answer;
use super::consent::ConsentArgs;
use super::output::counted;
use super::time::Moment;
use super::{Operator, OperatorArgs};

#[derive(Args)]
#[command(after_help = "Examples:
  eventrail set-cursor 2h --group billing --only-missing   # what the last two hours lacked
  eventrail set-cursor 0 --group billing --dry-run         # how much is all of history?
  eventrail set-cursor '$' --group billing                 # skip the backlog

It shows what it is going to do and asks, and it says how to undo it.")]
pub(crate) struct SetCursorArgs {
    #[command(flatten)]
    operator: OperatorArgs,
    /// Where the group goes on: 0 (all of history), '$' (what comes from now on), a position, an event's id, a
    /// time (RFC 3339), or how long ago, such as 2h
    start: Start,
    /// The group whose cursor is set
    #[arg(long, short, default_value = "default")]
    group: GroupName,
    /// Leave out what was delivered before
    #[arg(long)]
    only_missing: bool,
    /// Only show what it would do
    #[arg(long)]
    dry_run: bool,
    #[command(flatten)]
    consent: ConsentArgs,
}

/// Where to start, as the API takes it.
#[derive(Debug, Clone)]
struct Start(String);

impl FromStr for Start {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let is_position = !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit());
        if is_position || text == "$" || text.starts_with("evt_") {
            return Ok(Self(text.to_owned()));
        }
        let moment: Moment =
            text.parse().map_err(|error| format!("{error}, or 0, '$', a position, an event's id"))?;
        Ok(Self(moment.to_string()))
    }
}

pub(super) async fn run(args: SetCursorArgs) -> anyhow::Result<()> {
    let operator = Operator::new(&args.operator)?;
    if args.dry_run {
        let answer = set(&operator, &args, true).await?;
        return operator.output.answer(&answer, |_, answer| {
            format!("It would {}. Nothing was done.\n", does(answer, args.only_missing))
        });
    }
    if !args.consent.is_given() {
        let preview = set(&operator, &args, true).await?;
        let does = does(&preview.value, args.only_missing);
        args.consent.ask(&format!("This is going to {does}."))?;
    }
    let answer = set(&operator, &args, false).await?;
    operator.output.answer(&answer, |_, answer| {
        let previous = answer["previous"].as_i64().unwrap_or(0);
        let place = answer["position"].as_i64().unwrap_or(0);
        format!(
            "The cursor of {group} is at {place}; it was at {previous}.\n\
             Undo it: eventrail set-cursor {previous} --group {group} --only-missing\n",
            group = args.group,
        )
    })
}

async fn set(operator: &Operator, args: &SetCursorArgs, dry_run: bool) -> anyhow::Result<Answer> {
    let mut body = Map::new();
    body.insert("group".into(), args.group.as_str().into());
    body.insert("start_id".into(), args.start.0.as_str().into());
    if args.only_missing {
        body.insert("only_missing".into(), true.into());
    }
    if dry_run {
        body.insert("dry_run".into(), true.into());
    }
    Ok(operator.client.post(&["consumer-groups", "set-cursor"], &body.into()).answer().await?)
}

/// What setting it does, from the API's preview.
fn does(preview: &Value, only_missing: bool) -> String {
    let number = |member: &str| preview[member].as_i64().unwrap_or(0);
    let (previous, position) = (number("previous"), number("position"));
    let group = preview["group"].as_str().unwrap_or_default();
    let events = number("events");
    if events == 0 {
        return format!("move the cursor of {group} from {previous} to {position}; no event lies between");
    }
    let events = counted(events, "event");
    if position < previous {
        let again = match only_missing {
            true => "where they were not delivered",
            false => "also where they were delivered before (--only-missing leaves those out)",
        };
        format!(
            "move the cursor of {group} back from {previous} to {position}, and send {events} again, {again}"
        )
    } else {
        format!(
            "move the cursor of {group} on from {previous} to {position}, and skip {events} of its backlog"
        )
    }
}
