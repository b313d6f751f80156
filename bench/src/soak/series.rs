//! Figures over time: whether they level off.
//!
//! Judged is the second half of a run, by the median of the slopes between all pairs of its points (Theil and Sen):
//! a peak, or the saw teeth of a vacuum, do not tilt it as they tilt least squares.

use std::fmt::Write as _;
use std::time::Duration;

/// More points say nothing more, and pairs grow with their square.
const MOST_POINTS: usize = 400;
const BARS: [char; 8] = ['▁', '▂', '▃', '▄', '▅', '▆', '▇', '█'];
const CHART: usize = 32;

#[derive(Debug, Clone, Copy)]
pub(crate) struct Bound {
    /// Of its level, in an hour.
    share: f64,
    /// Gained over the second half in all, below which it counts for nothing.
    slack: f64,
}

impl Bound {
    pub(crate) const fn grows(share: f64, slack: f64) -> Self {
        Self { share, slack }
    }
}

pub(crate) struct Series {
    name: &'static str,
    bound: Bound,
    /// Hours since the beginning, and the figure.
    points: Vec<(f64, f64)>,
}

impl Series {
    pub(crate) fn new(name: &'static str, bound: Bound) -> Self {
        Self { name, bound, points: Vec::new() }
    }

    pub(crate) fn name(&self) -> &'static str {
        self.name
    }

    pub(crate) fn push(&mut self, at: Duration, value: f64) {
        self.points.push((at.as_secs_f64() / 3600.0, value));
    }

    /// Whether it goes on growing when all should have settled.
    pub(crate) fn grows(&self) -> bool {
        let slope = self.slope();
        slope > self.most_per_hour() && slope * self.judged_hours() > self.bound.slack
    }

    fn judged(&self) -> &[(f64, f64)] {
        &self.points[self.points.len() / 2..]
    }

    fn judged_hours(&self) -> f64 {
        match self.judged() {
            [(first, _), .., (last, _)] => last - first,
            _ => 0.0,
        }
    }

    fn most_per_hour(&self) -> f64 {
        self.bound.share * median(self.judged().iter().map(|(_, value)| *value).collect())
    }

    /// In an hour.
    fn slope(&self) -> f64 {
        let judged = self.judged();
        let step = judged.len().div_ceil(MOST_POINTS).max(1);
        let points: Vec<(f64, f64)> = judged.iter().copied().step_by(step).collect();
        let mut slopes = Vec::with_capacity(points.len() * points.len() / 2);
        for (index, (at, value)) in points.iter().enumerate() {
            let later = points[index + 1..].iter().filter(|(later, _)| later > at);
            slopes.extend(later.map(|(later, after)| (after - value) / (later - at)));
        }
        median(slopes)
    }

    /// The median of the points around a share of the time.
    fn around(&self, share: f64) -> f64 {
        let middle = (self.points.len() as f64 * share) as usize;
        let (from, to) = (middle.saturating_sub(2), (middle + 3).min(self.points.len()));
        median(self.points[from.min(to)..to].iter().map(|(_, value)| *value).collect())
    }

    fn chart(&self) -> String {
        let (least, most) = self
            .points
            .iter()
            .fold((f64::MAX, f64::MIN), |(least, most), (_, value)| (least.min(*value), most.max(*value)));
        let columns = CHART.min(self.points.len());
        let bar = |column: usize| {
            let points = column * self.points.len() / columns..(column + 1) * self.points.len() / columns;
            let value = median(self.points[points].iter().map(|(_, value)| *value).collect());
            let height = if most > least { (value - least) / (most - least) } else { 0.0 };
            BARS[((height * BARS.len() as f64) as usize).min(BARS.len() - 1)]
        };
        (0..columns).map(bar).collect()
    }
}

fn median(mut values: Vec<f64>) -> f64 {
    values.sort_by(f64::total_cmp);
    values.get(values.len() / 2).copied().unwrap_or_default()
}

/// One line for each, with a chart from its least to its most.
pub(crate) fn table(series: &[Series]) -> String {
    // Writing to a String can't fail.
    let mut text = format!(
        "{:<30}{:>10}{:>10}{:>10}{:>12}{:>12}  {:<CHART$}  verdict\n",
        "", "start", "warm", "end", "per hour", "at most", ""
    );
    for one in series.iter().filter(|one| !one.points.is_empty()) {
        let in_judged_time = one.bound.slack / one.judged_hours().max(1.0 / 3600.0);
        let _ = writeln!(
            text,
            "{:<30}{:>10.1}{:>10.1}{:>10.1}{:>+12.1}{:>12.1}  {}  {}",
            one.name,
            one.points[0].1,
            one.around(0.5),
            one.around(1.0),
            one.slope(),
            one.most_per_hour().max(in_judged_time),
            one.chart(),
            if one.grows() { "GROWS" } else { "level" },
        );
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    fn series(value: impl Fn(f64) -> f64) -> Series {
        let mut series = Series::new("one", Bound::grows(0.1, 2.0));
        for minute in 0..120 {
            series.push(Duration::from_secs(minute * 60), value(minute as f64 / 60.0));
        }
        series
    }

    #[test]
    fn what_goes_on_growing_is_told_from_what_levels_off() {
        assert!(series(|hours| 50.0 + 10.0 * hours).grows());
        assert!(!series(|hours| 50.0 + 100.0 * hours.min(0.9)).grows());
        assert!(!series(|hours| 50.0 - 10.0 * hours).grows());
        // Within its share of the level, and within the slack.
        assert!(!series(|hours| 500.0 + 10.0 * hours).grows());
        assert!(!series(|hours| 5.0 + hours).grows());
    }

    #[test]
    fn saw_teeth_and_a_peak_at_the_end_are_no_growth() {
        assert!(!series(|hours| 100.0 + 40.0 * (hours * 20.0).fract()).grows());
        assert!(!series(|hours| if hours > 1.9 { 500.0 } else { 100.0 }).grows());
    }

    #[test]
    fn the_table_tells_each_figure_with_its_verdict() {
        let text = table(&[series(|hours| 50.0 + 10.0 * hours), series(|_| 7.0)]);
        let lines: Vec<&str> = text.lines().collect();
        assert!(lines[1].contains("+10.0") && lines[1].ends_with("GROWS"), "{text}");
        assert!(lines[2].contains("7.0") && lines[2].ends_with("level"), "{text}");
    }
}
