//! Tables for people: columns under their titles, two spaces apart, one row on each line.
//!
//! Ids and numbers are never cut, so that they can be copied; what is only read is shortened where the terminal
//! is too narrow. Nothing is cut and nothing coloured where the output is not a terminal.

use console::{Style, measure_text_width, truncate_str};
use serde_json::Value;

use super::output::{Look, grouped};
use crate::printable::printable;

/// Below this a shortened column says nothing any more.
const NARROWEST: usize = 8;
const GAP: &str = "  ";

/// What a word means for whoever looks at it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Tone {
    Plain,
    Good,
    /// Something waits, or is switched off on purpose.
    Waiting,
    Bad,
    /// There is nothing to see.
    Dim,
}

impl Tone {
    /// The tone of the states of deliveries, endpoints, groups and replays.
    pub(crate) fn of_state(state: &str) -> Self {
        match state {
            "delivered" | "active" | "done" | "delivering" => Self::Good,
            "pending" | "retrying" | "running" | "paused" | "parked" => Self::Waiting,
            "dead" | "disabled" | "cancelled" => Self::Bad,
            _ => Self::Plain,
        }
    }
}

#[derive(Debug, Clone)]
pub(crate) struct Cell {
    text: String,
    tone: Tone,
}

impl Cell {
    pub(crate) fn new(text: &str, tone: Tone) -> Self {
        if text.is_empty() { Self::nothing() } else { Self { text: printable(text), tone } }
    }

    pub(crate) fn plain(text: &str) -> Self {
        Self::new(text, Tone::Plain)
    }

    pub(crate) fn nothing() -> Self {
        Self { text: "-".into(), tone: Tone::Dim }
    }

    /// A word for a state, perhaps with its reason.
    pub(crate) fn state(state: &str, reason: Option<&str>) -> Self {
        let text = match reason.filter(|reason| *reason != state) {
            Some(reason) => format!("{state} ({reason})"),
            None => state.to_owned(),
        };
        Self::new(&text, Tone::of_state(state))
    }

    /// A member of an object that holds a text.
    pub(crate) fn text(object: &Value, member: &str) -> Self {
        Self::plain(object[member].as_str().unwrap_or_default())
    }

    /// A member that holds a number; zeros are dim.
    pub(crate) fn count(object: &Value, member: &str) -> Self {
        Self::count_as(object, member, Tone::Plain)
    }

    /// The same, in this tone unless it is zero.
    pub(crate) fn count_as(object: &Value, member: &str, tone: Tone) -> Self {
        match object[member].as_i64() {
            Some(0) => Self::new("0", Tone::Dim),
            Some(number) => Self::new(&grouped(number), tone),
            None => Self::nothing(),
        }
    }

    /// A member that holds texts.
    pub(crate) fn texts(object: &Value, member: &str) -> Self {
        let texts = object[member].as_array().into_iter().flatten().filter_map(Value::as_str);
        Self::plain(&texts.collect::<Vec<_>>().join(", "))
    }

    /// A member that holds a time.
    pub(crate) fn time(look: &Look, object: &Value, member: &str) -> Self {
        Self::plain(&object[member].as_str().map(|time| look.times.short(time)).unwrap_or_default())
    }

    pub(crate) fn is_nothing(&self) -> bool {
        self.text == "-" && self.tone == Tone::Dim
    }

    pub(crate) fn shown(&self, look: &Look) -> String {
        paint(look, self.tone, &self.text)
    }
}

fn paint(look: &Look, tone: Tone, text: &str) -> String {
    if !look.colour {
        return text.to_owned();
    }
    let style = Style::new().force_styling(true);
    let style = match tone {
        Tone::Plain => return text.to_owned(),
        Tone::Good => style.green(),
        Tone::Waiting => style.yellow(),
        Tone::Bad => style.red(),
        Tone::Dim => style.dim(),
    };
    style.apply_to(text).to_string()
}

/// What a column holds.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Kind {
    Whole,
    Shortened,
    Number,
}

pub(crate) struct Column(&'static str, Kind);

/// A column of ids, names and states.
pub(crate) fn whole(title: &'static str) -> Column {
    Column(title, Kind::Whole)
}

/// A column of texts that may be cut.
pub(crate) fn shortened(title: &'static str) -> Column {
    Column(title, Kind::Shortened)
}

/// A column of numbers.
pub(crate) fn number(title: &'static str) -> Column {
    Column(title, Kind::Number)
}

/// The table as text, with an end to each line.
pub(crate) fn render(look: &Look, columns: &[Column], rows: &[Vec<Cell>]) -> String {
    let widths = widths(look, columns, rows);
    let titles: Vec<Cell> =
        columns.iter().map(|Column(title, _)| Cell { text: (*title).into(), tone: Tone::Dim }).collect();
    let mut text = String::new();
    for row in std::iter::once(&titles).chain(rows) {
        let mut line = String::new();
        for (index, (cell, (Column(_, kind), width))) in
            row.iter().zip(columns.iter().zip(&widths)).enumerate()
        {
            let shown = truncate_str(&cell.text, *width, "…");
            let space = " ".repeat(width.saturating_sub(measure_text_width(&shown)));
            let shown = paint(look, cell.tone, &shown);
            if index > 0 {
                line.push_str(GAP);
            }
            match kind {
                Kind::Number => line.extend([space.as_str(), shown.as_str()]),
                _ => line.extend([shown.as_str(), space.as_str()]),
            }
        }
        text.push_str(line.trim_end());
        text.push('\n');
    }
    text
}

/// As wide as the widest, unless that is too wide for the terminal: then what may be cut is, the last first.
fn widths(look: &Look, columns: &[Column], rows: &[Vec<Cell>]) -> Vec<usize> {
    let widest = |index: usize, title: &str| {
        let cells = rows.iter().filter_map(|row| row.get(index)).map(|cell| measure_text_width(&cell.text));
        cells.max().unwrap_or(0).max(title.len())
    };
    let mut widths: Vec<usize> =
        columns.iter().enumerate().map(|(index, Column(title, _))| widest(index, title)).collect();
    let Some(terminal) = look.width else { return widths };
    let gaps = GAP.len() * columns.len().saturating_sub(1);
    let mut excess = (widths.iter().sum::<usize>() + gaps).saturating_sub(terminal);
    for (Column(_, kind), width) in columns.iter().zip(&mut widths).rev() {
        if *kind == Kind::Shortened {
            let cut = excess.min(width.saturating_sub(NARROWEST));
            *width -= cut;
            excess -= cut;
        }
    }
    widths
}

/// Names and their values, one pair on each line; what has no value is left out.
pub(crate) fn render_details(look: &Look, details: &[(&str, Cell)]) -> String {
    let given = || details.iter().filter(|(_, cell)| !cell.is_nothing());
    let width = given().map(|(name, _)| name.len()).max().unwrap_or(0);
    let mut text = String::new();
    for (name, cell) in given() {
        let name = paint(look, Tone::Dim, &format!("{name:width$}"));
        text.push_str(&format!("{name}{GAP}{}\n", cell.shown(look)));
    }
    text
}

#[cfg(test)]
mod tests {
    use super::super::time::Times;
    use super::*;

    fn look(width: Option<usize>) -> Look {
        Look { colour: false, width, times: Times::Utc }
    }

    fn table(width: Option<usize>) -> String {
        let columns = [whole("ID"), shortened("URL"), number("DEAD")];
        let rows = [
            vec![Cell::plain("ep_1"), Cell::plain("https://example.com/hooks"), Cell::plain("7")],
            vec![Cell::plain("ep_22"), Cell::nothing(), Cell::plain("12,345")],
        ];
        render(&look(width), &columns, &rows)
    }

    #[test]
    fn columns_line_up_and_nothing_is_cut_without_a_terminal() {
        let expected = "ID     URL                          DEAD\n\
                        ep_1   https://example.com/hooks       7\n\
                        ep_22  -                          12,345\n";
        assert_eq!(table(None), expected);
    }

    #[test]
    fn what_is_only_read_is_shortened_where_the_terminal_is_narrow_and_ids_never() {
        let expected = "ID     URL             DEAD\n\
                        ep_1   https://exa…       7\n\
                        ep_22  -             12,345\n";
        assert_eq!(table(Some(27)), expected);
        assert!(table(Some(10)).contains("ep_22") && table(Some(10)).contains("12,345"));
    }

    #[test]
    fn texts_of_others_move_no_cursor() {
        assert_eq!(Cell::plain("a\x1b[2J\n").text, "a\\u{1b}[2J\\n");
    }
}
