//! What a run of the suite has found, as it is printed, written as JSON and compared.

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;

use anyhow::Context as _;
use serde::{Deserialize, Serialize};

use crate::cpu::Usage;

/// Raised whenever a member changes its meaning.
pub(super) const FORMAT: u32 = 1;

/// A whole run.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(super) struct Document {
    pub(super) format: u32,
    /// Of the repository that it was started in, where that is known; `+` behind it means with changes.
    pub(super) revision: Option<String>,
    pub(super) taken_at: String,
    pub(super) cores: usize,
    /// Sizes of the scenarios: 1 is all of them in a few minutes.
    pub(super) scale: f64,
    pub(super) bare: Bare,
    pub(super) scenarios: Vec<Outcome>,
}

/// The bare loop of signed POSTs, before and after the scenarios.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
pub(super) struct Bare {
    pub(super) per_second: Vec<f64>,
    /// Microseconds of processor time for each POST, both sides.
    pub(super) cpu_us: f64,
}

impl Bare {
    pub(super) fn mean(&self) -> f64 {
        self.per_second.iter().sum::<f64>() / self.per_second.len().max(1) as f64
    }
}

#[derive(Debug, Clone, Default, Serialize, Deserialize)]
pub(super) struct Outcome {
    pub(super) name: String,
    /// What was done, with its sizes.
    pub(super) about: String,
    pub(super) seconds: f64,
    pub(super) figures: Vec<Figure>,
    /// Deliveries (or, where nothing is delivered, events) that were counted.
    pub(super) counted: u64,
    pub(super) missing: u64,
    pub(super) duplicates: u64,
    /// Microseconds of processor time for each of those of the first measurement, by part.
    pub(super) cpu_us: BTreeMap<String, f64>,
    pub(super) memory_mib: Memory,
    /// Why it ended before its time.
    pub(super) error: Option<String>,
}

/// The most that a process of each kind ever held: resident memory (of Redis, what it says of itself), MiB.
#[derive(Debug, Clone, Copy, Default, Serialize, Deserialize)]
pub(super) struct Memory {
    pub(super) api: f64,
    pub(super) dispatcher: f64,
    pub(super) redis: f64,
}

#[derive(Debug, Clone, Serialize, Deserialize)]
pub(super) struct Figure {
    pub(super) name: String,
    pub(super) value: f64,
    pub(super) unit: String,
    /// The share of the bare loop's rate, for rates of deliveries.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(super) of_bare: Option<f64>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(super) target: Option<Target>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(super) met: Option<bool>,
    #[serde(skip)]
    is_rate_of_deliveries: bool,
}

#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(super) enum Target {
    AtLeast(f64),
    AtMost(f64),
    /// A share of the bare loop's rate.
    OfBare(f64),
}

impl Figure {
    pub(super) fn new(name: &str, value: f64, unit: &str) -> Self {
        Self {
            name: name.to_owned(),
            value,
            unit: unit.to_owned(),
            of_bare: None,
            target: None,
            met: None,
            is_rate_of_deliveries: false,
        }
    }

    /// Deliveries a second.
    pub(super) fn deliveries(name: &str, value: f64) -> Self {
        Self { is_rate_of_deliveries: true, ..Self::new(name, value, "/s") }
    }

    pub(super) fn with(mut self, target: Target) -> Self {
        self.target = Some(target);
        self
    }

    /// What is compared with the target, and the target.
    fn sides(&self) -> Option<(f64, f64)> {
        match self.target? {
            Target::AtLeast(bound) | Target::AtMost(bound) => Some((self.value, bound)),
            Target::OfBare(share) => Some((self.of_bare?, share)),
        }
    }

    fn judge(&mut self, bare_rate: f64) {
        if self.is_rate_of_deliveries && bare_rate > 0.0 {
            self.of_bare = Some(self.value / bare_rate);
        }
        self.met = self.sides().map(|(value, bound)| match self.target {
            Some(Target::AtMost(_)) => value <= bound,
            _ => value >= bound,
        });
    }

    /// How many times the target it is.
    pub(super) fn to_target(&self) -> Option<f64> {
        self.sides().map(|(value, bound)| value / bound)
    }
}

impl Outcome {
    pub(super) fn new(about: String) -> Self {
        Self { about, ..Self::default() }
    }

    pub(super) fn push(&mut self, figure: Figure) {
        self.figures.push(figure);
    }

    /// Processor time for each of so many deliveries; the first to be noted stays.
    pub(super) fn note_cpu(&mut self, usage: &Usage, each: u64) {
        if self.cpu_us.is_empty() {
            let per = |seconds: f64| seconds * 1e6 / each.max(1) as f64;
            self.cpu_us =
                usage.parts().map(|(part, seconds)| (part.to_owned(), rounded(per(seconds)))).collect();
        }
    }

    pub(super) fn judge(&mut self, bare_rate: f64) {
        self.figures.iter_mut().for_each(|figure| figure.judge(bare_rate));
    }
}

/// To what a reader of JSON wants to see.
fn rounded(value: f64) -> f64 {
    (value * 10.0).round() / 10.0
}

impl Document {
    pub(super) fn judge(&mut self) {
        let rate = self.bare.mean();
        self.scenarios.iter_mut().for_each(|outcome| outcome.judge(rate));
    }

    /// # Errors
    /// The file can't be written.
    pub(super) fn write(&self, path: &Path) -> anyhow::Result<()> {
        let text = serde_json::to_string_pretty(self)? + "\n";
        fs::write(path, text).with_context(|| format!("writing {}", path.display()))
    }

    /// # Errors
    /// It is no document of this format.
    pub(super) fn read(path: &Path) -> anyhow::Result<Self> {
        let text = fs::read_to_string(path).with_context(|| format!("reading {}", path.display()))?;
        let value: serde_json::Value =
            serde_json::from_str(&text).with_context(|| format!("reading {}", path.display()))?;
        let format = &value["format"];
        anyhow::ensure!(*format == FORMAT, "{}: format {format}, and not {FORMAT}", path.display());
        serde_json::from_value(value).with_context(|| format!("reading {}", path.display()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_target_is_met_from_its_own_side() {
        for (target, value, met) in [
            (Target::AtLeast(10.0), 10.0, true),
            (Target::AtLeast(10.0), 9.9, false),
            (Target::AtMost(10.0), 10.0, true),
            (Target::AtMost(10.0), 10.1, false),
            (Target::OfBare(0.25), 250.0, true),
            (Target::OfBare(0.25), 249.0, false),
        ] {
            let mut figure = Figure::deliveries("a", value).with(target);
            figure.judge(1000.0);
            assert_eq!(figure.met, Some(met), "{target:?} {value}");
        }
        let mut figure = Figure::new("b", 1.0, "ms");
        figure.judge(1000.0);
        assert_eq!((figure.met, figure.of_bare, figure.to_target()), (None, None, None));
    }
}
