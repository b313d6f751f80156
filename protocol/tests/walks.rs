//! Long walks at random through setups that are too large for every order: everything at once. More of them, and longer
//! ones: `cargo test -p eventrail-protocol --test walks -- --ignored --nocapture`.
#![allow(clippy::print_stdout, reason = "the figures are the report")]

use eventrail_protocol::walk::walk;
use eventrail_protocol::world::{Left, Setup};

const EVERYTHING: Setup = Setup {
    name: "everything",
    endpoints: 2,
    relays: 2,
    window: 2,
    batch: 2,
    slow_commits: true,
    left: Left {
        events: 5,
        failures: 3,
        deferrals: 2,
        handovers: 2,
        filters: 1,
        disables: 2,
        replays: 1,
        resets: 1,
        skips: 1,
        crashes: 3,
        flushes: 1,
        rollbacks: 1,
        lost_settles: 2,
        outages: 1,
    },
    ..Setup::SMALL
};

const NOTHING_GIVEN_UP: Setup =
    Setup { name: "nothing given up", left: Left { skips: 0, ..EVERYTHING.left }, ..EVERYTHING };

const USERS: Setup = Setup {
    name: "users",
    relays: 1,
    left: Left {
        events: 4,
        filters: 2,
        crashes: 0,
        flushes: 0,
        rollbacks: 0,
        lost_settles: 0,
        outages: 0,
        resets: 2,
        replays: 2,
        ..EVERYTHING.left
    },
    ..EVERYTHING
};

const ONLY_MISSING: Setup = Setup {
    name: "only missing",
    only_missing: true,
    left: Left { resets: 2, replays: 2, ..EVERYTHING.left },
    ..EVERYTHING
};

#[track_caller]
fn holds(setup: Setup, seeds: std::ops::Range<u64>, length: usize) {
    let (mut steps, mut walks) = (0, 0);
    for seed in seeds {
        let report = walk(&setup, seed, 200, length);
        if let Some(found) = &report.counterexample {
            panic!("{}, seed {seed}:\n{found}", setup.name);
        }
        assert!(report.steps > 10_000, "{}, seed {seed}: {report}", setup.name);
        (steps, walks) = (steps + report.steps, walks + report.drained);
    }
    println!("{}: {walks} walks of {steps} steps", setup.name);
}

#[test]
fn everything_at_once() {
    holds(EVERYTHING, 0..5, 300);
}

#[test]
fn everything_but_what_gives_up() {
    holds(NOTHING_GIVEN_UP, 0..5, 300);
}

#[test]
fn one_relay_and_what_users_do() {
    holds(USERS, 0..5, 300);
}

#[test]
fn only_what_is_missing() {
    holds(ONLY_MISSING, 0..5, 300);
}

#[test]
#[ignore = "takes minutes"]
fn a_great_many_of_everything_at_once() {
    holds(EVERYTHING, 100..1100, 400);
}

#[test]
#[ignore = "takes minutes"]
fn a_great_many_of_everything_but_what_gives_up() {
    holds(NOTHING_GIVEN_UP, 100..1100, 400);
}

#[test]
#[ignore = "takes minutes"]
fn a_great_many_of_what_users_do() {
    holds(USERS, 100..1100, 400);
}

#[test]
#[ignore = "takes minutes"]
fn a_great_many_of_only_what_is_missing() {
    holds(ONLY_MISSING, 100..1100, 400);
}
