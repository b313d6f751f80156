//! Who has worked how much: processor time from `/proc`, where there is one (Linux).

use std::fs;

use crate::receiver;
use crate::system::System;

/// `USER_HZ`, which Linux holds at 100 for all programs, whatever the kernel ticks at.
const TICKS_PER_SECOND: f64 = 100.0;

pub(crate) const PARTS: [&str; 6] = ["api", "dispatcher", "postgres", "redis", "receiver", "generator"];

/// Seconds of processor time, in the order of [`PARTS`].
#[derive(Clone, Copy, Default)]
pub(crate) struct Usage([f64; 6]);

impl Usage {
    pub(crate) fn since(self, earlier: &Self) -> Self {
        let mut difference = self.0;
        for (later, earlier) in difference.iter_mut().zip(earlier.0) {
            *later = (*later - earlier).max(0.0);
        }
        Self(difference)
    }

    pub(crate) fn and(self, other: &Self) -> Self {
        let mut sum = self.0;
        for (one, other) in sum.iter_mut().zip(other.0) {
            *one += other;
        }
        Self(sum)
    }

    pub(crate) fn parts(&self) -> impl Iterator<Item = (&'static str, f64)> {
        PARTS.into_iter().zip(self.0)
    }

    pub(crate) fn total(&self) -> f64 {
        self.0.iter().sum()
    }
}

/// What this process has used; of the others nothing.
pub(crate) fn snapshot_of_ours() -> Usage {
    let receiver = receiver_thread();
    let ours = read("/proc/self/stat").map_or(0.0, |stat| stat.own);
    Usage([0.0, 0.0, 0.0, 0.0, receiver, ours - receiver])
}

pub(crate) fn snapshot(system: &System) -> Usage {
    let process = |id: u32| read(&format!("/proc/{id}/stat")).map_or(0.0, |stat| stat.own);
    let others = Usage([
        system.api_ids().into_iter().map(process).sum(),
        system.dispatcher_ids().into_iter().map(process).sum(),
        system.postgres_id().map_or(0.0, family),
        system.redis_id().map_or(0.0, process),
        0.0,
        0.0,
    ]);
    others.and(&snapshot_of_ours())
}

struct Stat {
    parent: u32,
    own: f64,
    /// Children that have ended and been waited for.
    ended_children: f64,
}

/// `proc_pid_stat(5)`. The name in parentheses may hold anything, so fields are counted behind the last one.
fn read(path: &str) -> Option<Stat> {
    parse(&fs::read_to_string(path).ok()?)
}

fn parse(text: &str) -> Option<Stat> {
    let fields: Vec<&str> = text.rsplit_once(')')?.1.split_whitespace().collect();
    // The state, behind the name, is field 3 of the manual; utime is 14.
    let ticks = |number: usize| fields.get(number - 3)?.parse::<f64>().ok();
    Some(Stat {
        parent: fields.get(1)?.parse().ok()?,
        own: (ticks(14)? + ticks(15)?) / TICKS_PER_SECOND,
        ended_children: (ticks(16)? + ticks(17)?) / TICKS_PER_SECOND,
    })
}

/// A process with its children, also those that have ended: PostgreSQL has one for each connection.
fn family(id: u32) -> f64 {
    let Some(head) = read(&format!("/proc/{id}/stat")) else { return 0.0 };
    let Ok(processes) = fs::read_dir("/proc") else { return head.own };
    let living: f64 = processes
        .flatten()
        .filter_map(|entry| read(&format!("/proc/{}/stat", entry.file_name().to_str()?.parse::<u32>().ok()?)))
        .filter(|stat| stat.parent == id)
        .map(|stat| stat.own)
        .sum();
    head.own + head.ended_children + living
}

fn receiver_thread() -> f64 {
    let Ok(threads) = fs::read_dir("/proc/self/task") else { return 0.0 };
    threads
        .flatten()
        .filter(|entry| {
            fs::read_to_string(entry.path().join("comm")).is_ok_and(|name| name.trim() == receiver::THREAD)
        })
        .filter_map(|entry| read(entry.path().join("stat").to_str()?))
        .map(|stat| stat.own)
        .sum()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_of_proc_is_read_behind_the_name() {
        let line = "42 (a) b) S 7 42 42 0 -1 4194304 1 2 3 4 150 50 25 25 20 0 1 0 5 6";
        let stat = parse(line).unwrap();
        assert_eq!((stat.parent, stat.own, stat.ended_children), (7, 2.0, 0.5));
        assert!(parse("42 (a").is_none());
    }
}
