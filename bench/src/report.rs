//! One table: what was measured, beside what the bare loop reached.

use std::fmt::Write as _;
use std::io::Write as _;
use std::time::{Duration, Instant};

use crate::cpu::{PARTS, Usage};
use crate::generator::{Load, Posted};
use crate::receiver::Receipts;

/// One measurement of the rail; all that was posted has arrived.
pub(crate) struct Measured {
    pub(crate) posted: Posted,
    pub(crate) receipts: Receipts,
    pub(crate) cpu: Usage,
}

pub(crate) struct Bare {
    pub(crate) started: Instant,
    pub(crate) receipts: Receipts,
}

pub(crate) struct Report {
    pub(crate) load: Load,
    pub(crate) in_flight: u32,
    pub(crate) end_to_end: Measured,
    pub(crate) backlog: Measured,
    pub(crate) bare: Bare,
    pub(crate) bare_cpu: Usage,
}

impl Report {
    /// Nobody may be reading; there is nothing to be done about it.
    pub(crate) fn print(&self) {
        let _ = std::io::stdout().write_all(self.text().as_bytes());
    }

    fn text(&self) -> String {
        [self.heading(), self.table(), self.remarks()].join("\n")
    }

    fn heading(&self) -> String {
        let Load { events, payload_bytes, connections, batch, .. } = &self.load;
        let cores = std::thread::available_parallelism().map_or(1, usize::from);
        let how = batch.map_or("one by one".to_owned(), |size| format!("in batches of {size}"));
        format!(
            "\n{events} events with {payload_bytes} bytes of payload, {how} over {connections} connections, to one \
             endpoint.\nEverything on this machine with {cores} cores; PostgreSQL with fsync.\n"
        )
    }

    fn table(&self) -> String {
        let Self { end_to_end, backlog, bare, .. } = self;
        let (live, late) = (&end_to_end.receipts, &backlog.receipts);
        let accepted =
            rate(end_to_end.posted.ids.len(), end_to_end.posted.started, end_to_end.posted.finished);
        let bare_rate = rate(bare.receipts.count, bare.started, bare.receipts.last_at);
        let loops = format!("bare loop of reqwest POSTs, {} in flight", self.in_flight);
        let rows = [
            ("accepted by the API", accepted, None),
            (
                "delivered, first post to last receipt",
                rate(live.count, end_to_end.posted.started, live.last_at),
                Some((&end_to_end.cpu, live.count)),
            ),
            (
                "delivered from a backlog, nobody posting",
                rate(late.count, late.first_at, late.last_at),
                Some((&backlog.cpu, late.count)),
            ),
            (&loops, bare_rate, Some((&self.bare_cpu, bare.receipts.count))),
        ];
        // Writing to a String can't fail.
        let mut text =
            format!("{:<42}{:>8}{:>8}   microseconds of processor time for each\n", "", "per", "of");
        let _ = write!(text, "{:<42}{:>8}{:>8}  {:>6}", "", "second", "bare", "all");
        for part in PARTS {
            let _ = write!(text, "{part:>11}");
        }
        text.push('\n');
        for (name, rate, cpu) in rows {
            let _ = write!(text, "{name:<42}{rate:>8.0}{:>8.2}", rate / bare_rate);
            if let Some((cpu, count)) = cpu {
                let each = |seconds: f64| seconds * 1e6 / count.max(1) as f64;
                let _ = write!(text, "  {:>6.0}", each(cpu.total()));
                for (_, seconds) in cpu.parts() {
                    let _ = write!(text, "{:>11.0}", each(seconds));
                }
            }
            text.push('\n');
        }
        text
    }

    fn remarks(&self) -> String {
        let Self { end_to_end, backlog, bare, .. } = self;
        let posts = &end_to_end.posted.latency;
        let ms = |micros: u64| micros as f64 / 1000.0;
        let mut waits = end_to_end.receipts.latencies.clone();
        waits.sort();
        let wait = |part: f64| {
            let index = (waits.len() as f64 * part) as usize;
            waits.get(index.min(waits.len().saturating_sub(1))).copied().unwrap_or_default().as_millis()
        };
        format!(
            "POST answered after {:.1} ms (median), {:.1} ms (99 %); {} refused for the moment and sent again.\n\
             Delivered {} ms (median), {} ms (99 %) after the commit, under this load.\n\
             Missing 0, duplicates {} of {}. Requests of {} bytes, in the bare loop {}.\n",
            ms(posts.value_at_quantile(0.5)),
            ms(posts.value_at_quantile(0.99)),
            end_to_end.posted.refused + backlog.posted.refused,
            wait(0.5),
            wait(0.99),
            end_to_end.receipts.duplicates + backlog.receipts.duplicates,
            end_to_end.receipts.count + backlog.receipts.count,
            end_to_end.receipts.mean_bytes,
            bare.receipts.mean_bytes,
        )
    }
}

fn rate(count: usize, from: Instant, to: Instant) -> f64 {
    count as f64 / to.saturating_duration_since(from).max(Duration::from_micros(1)).as_secs_f64()
}
