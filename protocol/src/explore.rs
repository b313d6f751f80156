//! The explorer: every order of what can happen, breadth first, so that a counterexample is the shortest.
//!
//! States are told apart by a fingerprint of 64 bits: with a million of them, two are confused once in ten million
//! runs. States at which the invariants are asked whether all is delivered at the end are a sample of those, and all
//! in which nothing can happen any more.

use std::collections::{HashMap, VecDeque};
use std::fmt;
use std::hash::{BuildHasherDefault, Hash, Hasher};

use crate::invariants::{self, Breach, Invariant};
use crate::step::{Action, actions, apply};
use crate::world::{Setup, World};

/// How far an exploration goes.
#[derive(Debug, Clone, Copy)]
pub struct Limits {
    pub states: usize,
    /// One state in so many is drained.
    pub drained: u64,
}

impl Default for Limits {
    fn default() -> Self {
        Self { states: 5_000_000, drained: 64 }
    }
}

/// A way into a state that must not be.
#[derive(Debug, Clone)]
pub struct Counterexample {
    pub trace: Vec<Action>,
    pub breach: Breach,
}

impl fmt::Display for Counterexample {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (index, action) in self.trace.iter().enumerate() {
            writeln!(f, "{:>4}  {action}", index + 1)?;
        }
        write!(f, "      {}", self.breach)
    }
}

#[derive(Debug, Clone, Default)]
pub struct Report {
    pub states: usize,
    pub steps: usize,
    /// Steps of the longest of the shortest ways.
    pub depth: usize,
    pub drained: usize,
    /// Whether all states were seen.
    pub is_complete: bool,
    pub counterexample: Option<Counterexample>,
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { states, steps, depth, drained, is_complete, .. } = self;
        let all = if *is_complete { "all " } else { "" };
        write!(f, "{all}{states} states, {steps} steps, depth {depth}, {drained} drained")
    }
}

type Seen = HashMap<u64, (u64, Action), BuildHasherDefault<Identity>>;

/// Explores all states of a setup, up to the limits.
pub fn explore(setup: &Setup, limits: Limits) -> Report {
    let first = World::new(setup);
    let mut report = Report::default();
    let mut seen = Seen::default();
    let mut frontier = VecDeque::new();
    let root = fingerprint(&first);
    seen.insert(root, (root, Action::FlushRedis));
    frontier.push_back((first, root, 0));
    while let Some((world, print, depth)) = frontier.pop_front() {
        report.depth = depth;
        let possible = actions(&world, setup);
        if print.is_multiple_of(limits.drained) || possible.is_empty() {
            report.drained += 1;
            if let Err((breach, rest)) = drain(world.clone(), setup) {
                let mut trace = way(&seen, root, print);
                trace.extend(rest);
                report.counterexample = Some(Counterexample { trace, breach });
                report.states = seen.len();
                return report;
            }
        }
        for action in possible {
            let mut next = world.clone();
            apply(&mut next, setup, action);
            report.steps += 1;
            let next_print = fingerprint(&next);
            if seen.contains_key(&next_print) {
                continue;
            }
            seen.insert(next_print, (print, action));
            let checked = invariants::between(&world, &next).and_then(|()| invariants::always(&next, setup));
            if let Err(breach) = checked {
                let trace = way(&seen, root, next_print);
                report.counterexample = Some(Counterexample { trace, breach });
                report.states = seen.len();
                return report;
            }
            frontier.push_back((next, next_print, depth + 1));
        }
        if seen.len() >= limits.states {
            break;
        }
    }
    report.states = seen.len();
    report.is_complete = frontier.is_empty();
    report
}

fn way(seen: &Seen, root: u64, mut print: u64) -> Vec<Action> {
    let mut trace = Vec::new();
    while print != root {
        let (before, action) = seen[&print];
        trace.push(action);
        print = before;
    }
    trace.reverse();
    trace
}

/// A run that has not come to rest after so many rounds never does.
const MOST_ROUNDS: usize = 100;

/// Nothing goes wrong any more: does what is bound to happen until nothing is, and asks whether all is delivered.
pub(crate) fn drain(mut world: World, setup: &Setup) -> Result<(), (Breach, Vec<Action>)> {
    let mut trace = Vec::new();
    for _ in 0..MOST_ROUNDS {
        let before = fingerprint(&world);
        let fair: Vec<Action> =
            actions(&world, setup).into_iter().filter(|action| action.is_fair(&world)).collect();
        for action in fair {
            // An earlier step of this round may have made it impossible.
            if !actions(&world, setup).contains(&action) {
                continue;
            }
            let old = world.clone();
            apply(&mut world, setup, action);
            trace.push(action);
            let checked = invariants::between(&old, &world).and_then(|()| invariants::always(&world, setup));
            checked.map_err(|breach| (breach, std::mem::take(&mut trace)))?;
        }
        if fingerprint(&world) == before {
            return invariants::at_rest(&world).map_err(|breach| (breach, trace));
        }
    }
    let what = "it never comes to rest".to_owned();
    Err((Breach { invariant: Invariant::AllDelivered, what }, trace))
}

fn fingerprint(world: &World) -> u64 {
    let mut hasher = Fingerprint(0x9e37_79b9_7f4a_7c15);
    world.hash(&mut hasher);
    hasher.finish()
}

/// Mixes each value in by a multiplication, as the small and many values here want it.
struct Fingerprint(u64);

impl Hasher for Fingerprint {
    fn write(&mut self, bytes: &[u8]) {
        for byte in bytes {
            self.write_u64(u64::from(*byte));
        }
    }

    fn write_u8(&mut self, value: u8) {
        self.write_u64(u64::from(value));
    }

    fn write_usize(&mut self, value: usize) {
        self.write_u64(value as u64);
    }

    fn write_isize(&mut self, value: isize) {
        self.write_u64(value as u64);
    }

    fn write_u64(&mut self, value: u64) {
        self.0 = (self.0 ^ value).wrapping_mul(0xff51_afd7_ed55_8ccd).rotate_left(29);
    }

    fn finish(&self) -> u64 {
        let mixed = (self.0 ^ (self.0 >> 33)).wrapping_mul(0xc4ce_b9fe_1a85_ec53);
        mixed ^ (mixed >> 33)
    }
}

/// Fingerprints are mixed already.
#[derive(Default)]
struct Identity(u64);

impl Hasher for Identity {
    fn write(&mut self, _: &[u8]) {}

    fn write_u64(&mut self, value: u64) {
        self.0 = value;
    }

    fn finish(&self) -> u64 {
        self.0
    }
}
