//! The table that a run ends with: a line for each figure, and beside a scenario's first what it lost, what it cost
//! and what it held.

use std::fmt::Write as _;

use super::outcome::{Document, Figure, Outcome, Target};
use crate::cpu::PARTS;

const NAME: usize = 15;
const FIGURE: usize = 34;

pub(super) fn text(document: &Document) -> String {
    let bare = &document.bare;
    let rates: Vec<String> = bare.per_second.iter().map(|rate| format!("{rate:.0}")).collect();
    // Writing to a String can't fail.
    let mut text = format!(
        "{} cores, sizes x {}, revision {}. Bare loop of signed POSTs, 64 in flight: {} /s, {:.1} µs each.\n\n",
        document.cores,
        document.scale,
        document.revision.as_deref().unwrap_or("unknown"),
        rates.join(" and "),
        bare.cpu_us,
    );
    text += &heading();
    for outcome in &document.scenarios {
        text += &scenario(outcome);
    }
    text
}

fn heading() -> String {
    let mut text = format!("{:<width$}processor time for each, µs", "", width = NAME + FIGURE + 64);
    text.push('\n');
    let _ = write!(
        text,
        "{:<NAME$}{:<FIGURE$}{:>12}{:>8}{:>14}{:>10}{:>9}{:>7}    ",
        "scenario", "figure", "", "of bare", "target", "met", "missing", "twice"
    );
    for part in PARTS {
        let _ = write!(text, "{:>7}", short(part));
    }
    text += "   MiB: api disp redis\n";
    text
}

/// Column headings that fit.
fn short(part: &str) -> &str {
    match part {
        "dispatcher" => "disp",
        "postgres" => "pg",
        "generator" => "gen",
        "receiver" => "recv",
        other => other,
    }
}

fn scenario(outcome: &Outcome) -> String {
    let mut text = String::new();
    for (index, figure) in outcome.figures.iter().enumerate() {
        let name = if index == 0 { outcome.name.as_str() } else { "" };
        let _ = write!(text, "{name:<NAME$}{}", line(figure));
        if index == 0 {
            text += &costs(outcome);
        }
        text.truncate(text.trim_end().len());
        text.push('\n');
    }
    if let Some(error) = &outcome.error {
        let _ = writeln!(text, "{:<NAME$}did not end: {error}", outcome.name);
    }
    text
}

fn line(figure: &Figure) -> String {
    let share = figure.of_bare.map(|share| format!("{:.1} %", share * 100.0)).unwrap_or_default();
    format!(
        "{:<FIGURE$}{:>12}{share:>8}{:>14}{:>10}",
        figure.name,
        amount(figure.value, &figure.unit),
        target(figure),
        met(figure)
    )
}

fn costs(outcome: &Outcome) -> String {
    let mut text = format!("{:>9}{:>7}    ", outcome.missing, outcome.duplicates);
    for part in PARTS {
        let cost = outcome.cpu_us.get(part).map(|cost| format!("{cost:.1}")).unwrap_or_default();
        let _ = write!(text, "{cost:>7}");
    }
    let memory = outcome.memory_mib;
    let _ = write!(text, "   {:>8.0}{:>5.0}{:>6.1}", memory.api, memory.dispatcher, memory.redis);
    text
}

/// Such as `1.25 ms` or `12345 /s`.
pub(super) fn amount(value: f64, unit: &str) -> String {
    let digits = match value.abs() {
        large if large >= 100.0 => 0,
        middle if middle >= 10.0 => 1,
        _ => 3,
    };
    format!("{value:.digits$} {unit}")
}

fn target(figure: &Figure) -> String {
    match figure.target {
        None => String::new(),
        Some(Target::AtLeast(bound)) => format!("≥ {bound} {}", figure.unit),
        Some(Target::AtMost(bound)) => format!("≤ {bound} {}", figure.unit),
        Some(Target::OfBare(share)) => format!("≥ {:.0} % bare", share * 100.0),
    }
}

fn met(figure: &Figure) -> String {
    match (figure.met, figure.to_target()) {
        (Some(true), _) => "yes".to_owned(),
        (Some(false), Some(times)) => format!("no, {times:.2}x"),
        _ => String::new(),
    }
}

#[cfg(test)]
mod tests {
    use super::super::outcome::{Bare, FORMAT, Memory};
    use super::*;

    #[test]
    fn a_figure_is_a_line_with_its_target_and_how_far_it_is() {
        let mut outcome = Outcome::new("a".into());
        outcome.name = "fan-out-1".into();
        outcome.push(Figure::deliveries("end to end", 5000.0).with(Target::OfBare(0.25)));
        outcome.push(Figure::new("processor", 0.3, "ms").with(Target::AtMost(0.15)));
        outcome.cpu_us.insert("api".into(), 12.34);
        outcome.memory_mib = Memory { api: 20.0, dispatcher: 30.0, redis: 1.5 };
        let mut document = Document {
            format: FORMAT,
            revision: None,
            taken_at: String::new(),
            cores: 2,
            scale: 1.0,
            bare: Bare { per_second: vec![49_000.0, 51_000.0], cpu_us: 30.0 },
            scenarios: vec![outcome],
        };
        document.judge();
        let text = text(&document);
        let lines: Vec<Vec<&str>> = text.lines().map(|line| line.split_whitespace().collect()).collect();
        let first = lines.iter().find(|line| line.first() == Some(&"fan-out-1")).unwrap();
        let expected = "fan-out-1 end to end 5000 /s 10.0 % ≥ 25 % bare no, 0.40x 0 0 12.3 20 30 1.5";
        assert_eq!(first.join(" "), expected);
        assert_eq!(lines.last().unwrap().join(" "), "processor 0.300 ms ≤ 0.15 ms no, 2.00x");
        assert!(text.contains("49000 and 51000 /s"), "{text}");
    }
}
