//! Long walks at random, through setups that are too large for every order.

use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};

use crate::explore::{Counterexample, Report, drain};
use crate::invariants::{self, Breach};
use crate::step::{Action, actions, apply};
use crate::world::{Setup, World};

/// Walks so many times and so many steps far, and asks at the end of each whether all is delivered.
pub fn walk(setup: &Setup, seed: u64, walks: usize, length: usize) -> Report {
    let mut chance = StdRng::seed_from_u64(seed);
    let mut report = Report::default();
    for _ in 0..walks {
        let mut world = World::new(setup);
        let mut trace = Vec::with_capacity(length);
        let mut checked = Ok(());
        while checked.is_ok() && trace.len() < length {
            let possible = actions(&world, setup);
            if possible.is_empty() {
                break;
            }
            let action = possible[chance.random_range(0..possible.len())];
            checked = step(&mut world, setup, action);
            trace.push(action);
        }
        report.steps += trace.len();
        report.depth = report.depth.max(trace.len());
        report.drained += 1;
        let end = checked.map_err(|breach| (breach, Vec::new())).and_then(|()| drain(world, setup));
        if let Err((breach, _)) = end {
            report.counterexample = Some(shorten(setup, trace, breach));
            return report;
        }
    }
    report
}

fn step(world: &mut World, setup: &Setup, action: Action) -> Result<(), Breach> {
    let before = world.clone();
    apply(world, setup, action);
    invariants::between(&before, world).and_then(|()| invariants::always(world, setup))
}

/// Leaves out of a way what is not needed to get to a breach of the same invariant.
fn shorten(setup: &Setup, mut way: Vec<Action>, breach: Breach) -> Counterexample {
    let mut best = Counterexample { trace: way.clone(), breach };
    let mut size = way.len();
    while size > 0 {
        let mut start = 0;
        while start < way.len() {
            let end = (start + size).min(way.len());
            let shorter: Vec<Action> = [&way[..start], &way[end..]].concat();
            match follow(setup, &shorter) {
                Some((taken, found)) if found.breach.invariant == best.breach.invariant => {
                    (way, best) = (taken, found);
                }
                _ => start += size,
            }
        }
        size /= 2;
    }
    best
}

/// Takes those steps of a way that are possible; answers them, and how it ends if that is a breach.
fn follow(setup: &Setup, way: &[Action]) -> Option<(Vec<Action>, Counterexample)> {
    let mut world = World::new(setup);
    let mut taken = Vec::with_capacity(way.len());
    for action in way {
        if actions(&world, setup).contains(action) {
            taken.push(*action);
            if let Err(breach) = step(&mut world, setup, *action) {
                let trace = taken.clone();
                return Some((taken, Counterexample { trace, breach }));
            }
        }
    }
    let (breach, rest) = drain(world, setup).err()?;
    let trace = [taken.as_slice(), &rest].concat();
    Some((taken, Counterexample { trace, breach }))
}
