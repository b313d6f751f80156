//! Watching a replay or redrive: a bar with its rate and an estimate, or a plain line now and then where
//! standard error is no terminal. Watching changes nothing: a replay goes on without us.

use std::cell::Cell;
use std::time::{Duration, Instant};

use anyhow::Context as _;
use chrono::{DateTime, Utc};
use console::Term;
use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};
use serde_json::Value;
use tokio::signal::unix::{SignalKind, signal};

use super::Operator;
use super::client::Answer;
use super::failure::Interrupted;
use super::output::{counted, grouped, say_aside};
use super::time::span;

const POLL: Duration = Duration::from_millis(500);
const LINE_EVERY: Duration = Duration::from_secs(10);
/// An API that is away for longer is not waited for.
const PATIENCE: Duration = Duration::from_secs(60);
/// What becomes of deliveries.
const OUTCOMES: [&str; 4] = ["delivered", "retrying", "dead", "skipped"];

/// How far a replay is.
pub(super) struct Progress<'a>(pub(super) &'a Value);

impl Progress<'_> {
    fn count(&self, member: &str) -> i64 {
        self.0[member].as_i64().unwrap_or(0)
    }

    fn status(&self) -> &str {
        self.0["status"].as_str().unwrap_or_default()
    }

    pub(super) fn is_over(&self) -> bool {
        self.status() != "running"
    }

    fn is_cancelled(&self) -> bool {
        self.status() == "cancelled"
    }

    pub(super) fn id(&self) -> &str {
        self.0["id"].as_str().unwrap_or_default()
    }

    /// Deliveries that were sent at least once, or need not be.
    fn sent(&self) -> i64 {
        OUTCOMES.iter().map(|outcome| self.count(outcome)).sum()
    }

    /// Such as `1,200 of 10,000 deliveries: 1,190 delivered, 10 retrying, 230/s, about 40s left`.
    fn line(&self, now: DateTime<Utc>) -> String {
        let owed = counted(self.count("owed"), "delivery");
        let mut line = format!("{} of {owed}: {}", grouped(self.sent()), self.outcomes());
        if let Some(rate) = self.rate() {
            line.push_str(&format!(", {rate}/s"));
        }
        if let Some(left) = self.left(now).filter(|_| !self.is_over()) {
            line.push_str(&format!(", about {} left", span(left.max(1))));
        }
        line
    }

    fn outcomes(&self) -> String {
        let some = OUTCOMES.iter().filter(|name| **name == "delivered" || self.count(name) > 0);
        let some: Vec<String> = some.map(|name| format!("{} {name}", grouped(self.count(name)))).collect();
        some.join(", ")
    }

    fn rate(&self) -> Option<String> {
        let rate = self.0["settled_per_second"].as_f64()?;
        #[expect(clippy::cast_possible_truncation, reason = "a rate is far from the ends of an i64")]
        (rate > 0.0).then(|| if rate < 10.0 { format!("{rate:.1}") } else { grouped(rate.round() as i64) })
    }

    /// Seconds until it will have ended.
    fn left(&self, now: DateTime<Utc>) -> Option<i64> {
        let end = DateTime::parse_from_rfc3339(self.0["estimated_end_at"].as_str()?).ok()?;
        Some((end.to_utc() - now).num_seconds().max(0))
    }

    /// How it stands, and what to do about it.
    pub(super) fn summary(&self) -> String {
        let id = self.id();
        let state = match self.status() {
            "done" => "is done",
            "cancelled" => "was cancelled",
            _ => "goes on",
        };
        let mut text = format!("{id} {state}: {}.\n", self.line(Utc::now()));
        if self.is_over() && self.count("retrying") > 0 {
            text.push_str(&format!("What is still retried: eventrail replays get {id}\n"));
        }
        if self.count("dead") > 0 {
            text.push_str("Why some are dead: eventrail dead-letters errors\n");
        }
        text
    }
}

/// Follows it to its end, and writes how it ended.
///
/// # Errors
/// It was cancelled; or the API was away for long; or Ctrl-C.
pub(super) async fn watch(operator: &Operator, started: Answer) -> anyhow::Result<()> {
    let id = Progress(&started.value).id().to_owned();
    // Before anything is shown: whoever has read a line may interrupt.
    let mut interrupt = signal(SignalKind::interrupt())?;
    let display = Display::new();
    let ended = tokio::select! {
        ended = follow(operator, &id, started, &display) => ended,
        _ = interrupt.recv() => {
            display.leave();
            return Err(Interrupted(goes_on(&id)).into());
        }
    };
    display.end();
    let ended = ended.with_context(|| goes_on(&id))?;
    operator.output.answer(&ended, |_, replay| Progress(replay).summary())?;
    anyhow::ensure!(!Progress(&ended.value).is_cancelled(), "{id} was cancelled before its end");
    Ok(())
}

pub(super) fn goes_on(id: &str) -> String {
    format!("{id} goes on. Watch it: eventrail replays watch {id}. Stop it: eventrail replays cancel {id}")
}

async fn follow(operator: &Operator, id: &str, started: Answer, display: &Display) -> anyhow::Result<Answer> {
    let mut answer = started;
    let mut last_seen = Instant::now();
    let mut trouble = None;
    loop {
        let progress = Progress(&answer.value);
        if progress.is_over() {
            return Ok(answer);
        }
        match &trouble {
            None => display.show(&progress),
            Some(trouble) => display.say(format!("trying again: {trouble}"), id),
        }
        tokio::time::sleep(POLL).await;
        trouble = match operator.client.get(&["replays", id]).answer().await {
            Ok(newer) => {
                (answer, last_seen) = (newer, Instant::now());
                None
            }
            Err(error) if error.may_pass() && last_seen.elapsed() < PATIENCE => Some(error),
            Err(error) => return Err(error.into()),
        };
    }
}

/// A bar on a terminal, lines elsewhere.
struct Display {
    bar: Option<ProgressBar>,
    /// When the last line was written.
    said_at: Cell<Option<Instant>>,
}

impl Display {
    fn new() -> Self {
        let bar = Term::stderr().is_term().then(|| {
            let bar = ProgressBar::with_draw_target(Some(1), ProgressDrawTarget::stderr());
            let style = ProgressStyle::with_template("{bar:20.green} {percent:>3}%  {wide_msg}");
            bar.set_style(style.unwrap_or_else(|_| ProgressStyle::default_bar()).progress_chars("━━─"));
            bar
        });
        Self { bar, said_at: Cell::new(None) }
    }

    fn show(&self, progress: &Progress<'_>) {
        self.say(progress.line(Utc::now()), progress.id());
        if let Some(bar) = &self.bar {
            let unsigned = |count: i64| u64::try_from(count).unwrap_or(0);
            bar.set_length(unsigned(progress.count("owed")).max(1));
            bar.set_position(unsigned(progress.sent()));
        }
    }

    /// Beside the bar; or on a line of its own, if the last is some time ago.
    fn say(&self, text: String, id: &str) {
        if let Some(bar) = &self.bar {
            bar.set_message(text);
        } else if self.said_at.get().is_none_or(|said_at| said_at.elapsed() >= LINE_EVERY) {
            self.said_at.set(Some(Instant::now()));
            say_aside(&format!("{id}: {text}"));
        }
    }

    /// Makes room for how it ended.
    fn end(&self) {
        if let Some(bar) = &self.bar {
            bar.finish_and_clear();
        }
    }

    /// Leaves what was shown last.
    fn leave(&self) {
        self.end();
        if let Some(bar) = &self.bar {
            say_aside(&bar.message());
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn a_line_says_how_far_it_is_how_fast_and_how_long_it_will_take() {
        let now = DateTime::parse_from_rfc3339("2026-11-23T03:00:00Z").unwrap().to_utc();
        let mut replay = json!({
            "id": "rpl_1", "kind": "replay", "status": "running", "matched": 5000, "owed": 10_000,
            "delivered": 1100, "retrying": 10, "dead": 0, "skipped": 90,
            "settled_per_second": 230.4, "estimated_end_at": "2026-11-23T03:00:38Z",
        });
        let expected =
            "1,200 of 10,000 deliveries: 1,100 delivered, 10 retrying, 90 skipped, 230/s, about 38s left";
        assert_eq!(Progress(&replay).line(now), expected);
        replay["settled_per_second"] = json!(0.5);
        replay["estimated_end_at"] = Value::Null;
        replay["skipped"] = json!(0);
        assert_eq!(
            Progress(&replay).line(now),
            "1,110 of 10,000 deliveries: 1,100 delivered, 10 retrying, 0.5/s"
        );
        replay["status"] = json!("done");
        replay["dead"] = json!(3);
        assert_eq!(
            Progress(&replay).summary(),
            "rpl_1 is done: 1,113 of 10,000 deliveries: 1,100 delivered, 10 retrying, 3 dead, 0.5/s.\n\
             What is still retried: eventrail replays get rpl_1\n\
             Why some are dead: eventrail dead-letters errors\n"
        );
    }
}
