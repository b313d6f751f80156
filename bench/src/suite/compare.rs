//! A run beside an earlier one: each figure of both, and how many times the old the new is.

use std::fmt::Write as _;

use super::outcome::Document;
use super::table::amount;

pub(super) fn text(old: &Document, new: &Document) -> String {
    // Writing to a String can't fail.
    let mut text = format!(
        "\nold: {} of {}; new: {}\n",
        old.revision.as_deref().unwrap_or("unknown"),
        old.taken_at,
        new.revision.as_deref().unwrap_or("unknown")
    );
    for (what, old, new) in [("cores", old.cores as f64, new.cores as f64), ("sizes", old.scale, new.scale)] {
        if (old - new).abs() > f64::EPSILON {
            let _ = writeln!(text, "they are not alike: {what} {old} and {new}");
        }
    }
    let _ = writeln!(text, "{:<15}{:<34}{:>14}{:>14}{:>8}", "scenario", "figure", "old", "new", "ratio");
    let mut row = |scenario: &str, figure: &str, unit: &str, old: Option<f64>, new: f64| {
        let before = old.map_or_else(|| "-".to_owned(), |old| amount(old, unit));
        let ratio =
            old.filter(|old| *old != 0.0).map_or_else(|| "-".to_owned(), |old| format!("{:.2}", new / old));
        let _ = writeln!(text, "{scenario:<15}{figure:<34}{before:>14}{:>14}{ratio:>8}", amount(new, unit));
    };
    row("bare loop", "signed POSTs", "/s", Some(old.bare.mean()), new.bare.mean());
    for outcome in &new.scenarios {
        let before = old.scenarios.iter().find(|one| one.name == outcome.name);
        for (index, figure) in outcome.figures.iter().enumerate() {
            let known = before.and_then(|one| one.figures.iter().find(|old| old.name == figure.name));
            let name = if index == 0 { outcome.name.as_str() } else { "" };
            row(name, &figure.name, &figure.unit, known.map(|old| old.value), figure.value);
        }
        for (part, cost) in &outcome.cpu_us {
            let known = before.and_then(|one| one.cpu_us.get(part)).copied();
            row("", &format!("processor of {part}"), "µs", known, *cost);
        }
    }
    text
}

#[cfg(test)]
mod tests {
    use super::super::outcome::{Bare, FORMAT, Figure, Outcome};
    use super::*;

    fn document(rate: f64, scale: f64, figures: &[(&str, f64)]) -> Document {
        let mut outcome = Outcome::new(String::new());
        outcome.name = "ingest".into();
        outcome.figures = figures.iter().map(|(name, value)| Figure::new(name, *value, "/s")).collect();
        Document {
            format: FORMAT,
            revision: Some("abc".into()),
            taken_at: "then".into(),
            cores: 2,
            scale,
            bare: Bare { per_second: vec![rate], cpu_us: 1.0 },
            scenarios: vec![outcome],
        }
    }

    #[test]
    fn each_figure_is_shown_old_and_new_with_its_ratio() {
        let old = document(50_000.0, 1.0, &[("events", 1000.0), ("gone", 1.0)]);
        let new = document(55_000.0, 1.0, &[("events", 1500.0), ("fresh", 7.0)]);
        let text = text(&old, &new);
        let words: Vec<String> =
            text.lines().map(|line| line.split_whitespace().collect::<Vec<_>>().join(" ")).collect();
        assert!(words.contains(&"bare loop signed POSTs 50000 /s 55000 /s 1.10".into()), "{text}");
        assert!(words.contains(&"ingest events 1000 /s 1500 /s 1.50".into()), "{text}");
        assert!(words.contains(&"fresh - 7.000 /s -".into()), "{text}");
        assert!(!text.contains("gone") && !text.contains("not alike"), "{text}");
    }

    #[test]
    fn runs_of_other_sizes_are_said_to_be_unlike() {
        let text = text(&document(1.0, 1.0, &[]), &document(1.0, 0.25, &[]));
        assert!(text.contains("they are not alike: sizes 1 and 0.25"), "{text}");
    }
}
