//! What an operator's command writes: tables and sentences for people, or the API's JSON for scripts.

use std::io::Write as _;

use chrono::Utc;
use clap::Args;
use console::Term;
use serde_json::Value;

use super::client::{Answer, Listing};
use super::table::{self, Cell, Column};
use super::time::Times;

#[derive(Args)]
pub(crate) struct OutputArgs {
    /// Write the API's JSON instead of tables; a list is one array, an item on each line
    #[arg(long, global = true, help_heading = "Connection and output")]
    json: bool,
    /// Show times as they are in UTC instead of how long ago; so they are also where the output is no terminal
    #[arg(long, global = true, help_heading = "Connection and output")]
    utc: bool,
}

/// How tables look where they are written to.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Look {
    pub(crate) colour: bool,
    /// Of the terminal, if it is one.
    pub(crate) width: Option<usize>,
    pub(crate) times: Times,
}

pub(crate) struct Output {
    pub(crate) look: Look,
    pub(crate) json: bool,
}

impl Output {
    pub(crate) fn new(args: &OutputArgs) -> Self {
        let terminal = Term::stdout();
        let is_terminal = terminal.is_term();
        let times = if is_terminal && !args.utc { Times::Relative(Utc::now()) } else { Times::Utc };
        let width = if is_terminal { terminal.size_checked().map(|(_, width)| width.into()) } else { None };
        Self { look: Look { colour: console::colors_enabled(), width, times }, json: args.json }
    }

    /// Writes text as it stands.
    pub(crate) fn write(text: &str) -> anyhow::Result<()> {
        let mut out = std::io::stdout().lock();
        out.write_all(text.as_bytes())?;
        Ok(out.flush()?)
    }

    /// One sentence for people; nothing for scripts.
    pub(crate) fn say(&self, sentence: &str) -> anyhow::Result<()> {
        if self.json { Ok(()) } else { Self::write(&format!("{sentence}\n")) }
    }

    /// The answer as JSON, or what `people` makes of it.
    pub(crate) fn answer(
        &self,
        answer: &Answer,
        people: impl FnOnce(&Look, &Value) -> String,
    ) -> anyhow::Result<()> {
        if !self.json {
            return Self::write(&people(&self.look, &answer.value));
        }
        if answer.text.is_empty() { Ok(()) } else { Self::write(&format!("{}\n", answer.text.trim_end())) }
    }

    /// A list as JSON, or as a table with a row for each item; `none` is said where it is empty.
    pub(crate) fn list(
        &self,
        listing: &Listing,
        none: &str,
        columns: &[Column],
        row: impl Fn(&Look, &Value) -> Vec<Cell>,
    ) -> anyhow::Result<()> {
        if self.json {
            return Self::write(&array(listing));
        }
        if listing.items.is_empty() {
            // Not on standard output, where whoever counts lines would count it.
            say_aside(none);
            return Ok(());
        }
        let rows: Vec<_> = listing.values().iter().map(|value| row(&self.look, value)).collect();
        Self::write(&table::render(&self.look, columns, &rows))?;
        if listing.is_cut {
            say_aside("There are more: --limit or --all shows them.");
        }
        Ok(())
    }
}

fn array(listing: &Listing) -> String {
    let items: Vec<&str> = listing.items.iter().map(|item| item.get()).collect();
    if items.is_empty() { "[]\n".into() } else { format!("[\n{}\n]\n", items.join(",\n")) }
}

/// Says something to whoever watches, on standard error.
pub(crate) fn say_aside(line: &str) {
    // Nobody may be reading, and there is nowhere else to say so.
    let _ = writeln!(std::io::stderr(), "{line}");
}

/// A number with commas between its thousands.
pub(crate) fn grouped(number: i64) -> String {
    let digits = number.unsigned_abs().to_string();
    let mut text = String::from(if number < 0 { "-" } else { "" });
    for (index, digit) in digits.chars().enumerate() {
        if index > 0 && (digits.len() - index).is_multiple_of(3) {
            text.push(',');
        }
        text.push(digit);
    }
    text
}

/// `1 event`, `12,345 events`.
pub(crate) fn counted(number: i64, thing: &str) -> String {
    let plural = if number == 1 { "" } else { "s" };
    match thing.strip_suffix('y').filter(|_| number != 1) {
        Some(stem) => format!("{} {stem}ies", grouped(number)),
        None => format!("{} {thing}{plural}", grouped(number)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_are_easy_to_read() {
        for (number, text) in [(0, "0"), (999, "999"), (1000, "1,000"), (-1_234_567, "-1,234,567")] {
            assert_eq!(grouped(number), text);
        }
        assert_eq!(counted(1, "delivery"), "1 delivery");
        assert_eq!(counted(2000, "delivery"), "2,000 deliveries");
        assert_eq!(counted(0, "event"), "0 events");
    }
}
