//! One table, for a run or for many.

use std::collections::BTreeMap;
use std::fmt;

use serde::{Deserialize, Serialize};

use crate::plan::Kind;

/// What a run has shown; those of several runs can be added up.
#[derive(Debug, Default, Serialize, Deserialize)]
pub(crate) struct Figures {
    pub(crate) runs: usize,
    pub(crate) seeds: Vec<u64>,
    pub(crate) seconds: u64,
    pub(crate) events: usize,
    pub(crate) deliveries: usize,
    pub(crate) requests: usize,
    pub(crate) failed_on_purpose: usize,
    pub(crate) lost: usize,
    pub(crate) duplicates: usize,
    /// Duplicates with no fault near them.
    pub(crate) unexplained: usize,
    /// How often all invariants were asked for while things broke.
    pub(crate) watched: usize,
    pub(crate) problems: Vec<String>,
    pub(crate) kinds: BTreeMap<String, OfKind>,
}

#[derive(Debug, Default, Serialize, Deserialize)]
pub(crate) struct OfKind {
    pub(crate) drawn: usize,
    pub(crate) duplicates: usize,
    /// From each fault to the first delivery of an event posted after it.
    pub(crate) first_ms: Vec<u64>,
    /// From each healing until all is delivered that was acknowledged until then.
    pub(crate) recovery_ms: Vec<u64>,
}

impl Figures {
    pub(crate) fn add(&mut self, other: Self) {
        self.runs += other.runs;
        self.seeds.extend(other.seeds);
        self.seconds += other.seconds;
        self.events += other.events;
        self.deliveries += other.deliveries;
        self.requests += other.requests;
        self.failed_on_purpose += other.failed_on_purpose;
        self.lost += other.lost;
        self.duplicates += other.duplicates;
        self.unexplained += other.unexplained;
        self.watched += other.watched;
        self.problems.extend(other.problems);
        for (name, of_kind) in other.kinds {
            let sum = self.kinds.entry(name).or_default();
            sum.drawn += of_kind.drawn;
            sum.duplicates += of_kind.duplicates;
            sum.first_ms.extend(of_kind.first_ms);
            sum.recovery_ms.extend(of_kind.recovery_ms);
        }
    }
}

impl fmt::Display for Figures {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let faults: usize = self.kinds.values().map(|of_kind| of_kind.drawn).sum();
        let percent = 100.0 * self.duplicates as f64 / self.deliveries.max(1) as f64;
        writeln!(
            f,
            "{} run(s), {} s under load, seeds {:?}: {} events, {} deliveries, {} requests ({} failed on purpose), \
             {faults} faults, lost {}, duplicates {} ({percent:.3} %, {} unexplained), invariants asked {} times, \
             {} problems\n",
            self.runs,
            self.seconds,
            self.seeds,
            self.events,
            self.deliveries,
            self.requests,
            self.failed_on_purpose,
            self.lost,
            self.duplicates,
            self.unexplained,
            self.watched,
            self.problems.len()
        )?;
        writeln!(
            f,
            "| {:30} | {:>5} | {:>10} | {:>22} | {:>22} |",
            "fault", "times", "duplicates", "first delivery, s", "recovery, s"
        )?;
        writeln!(f, "| {:-<30} | {:->4}: | {:->9}: | {:->21}: | {:->21}: |", "", "", "", "", "")?;
        let known = Kind::ALL.iter().filter_map(|kind| Some((kind.name(), self.kinds.get(kind.name())?)));
        for (name, of_kind) in known {
            let (first, recovery) = (spread(&of_kind.first_ms), spread(&of_kind.recovery_ms));
            let (drawn, duplicates) = (of_kind.drawn, of_kind.duplicates);
            writeln!(f, "| {name:30} | {drawn:>5} | {duplicates:>10} | {first:>22} | {recovery:>22} |")?;
        }
        write!(f, "\nTimes are median / 95th percentile / longest.")
    }
}

/// Median, 95th percentile and longest, in seconds.
fn spread(milliseconds: &[u64]) -> String {
    let mut sorted = milliseconds.to_vec();
    sorted.sort_unstable();
    let Some(last) = sorted.len().checked_sub(1) else { return "–".to_owned() };
    let at = |percent: usize| sorted[(last * percent).div_ceil(100)] as f64 / 1000.0;
    format!("{:.2} / {:.2} / {:.2}", at(50), at(95), at(100))
}
