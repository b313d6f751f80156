//! Long walks at random through setups that are too large for every order: everything at once.
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

#[track_caller]
fn holds(setup: Setup) {
    for seed in 0..5 {
        let report = walk(&setup, seed, 200, 300);
        if let Some(found) = &report.counterexample {
            panic!("{}, seed {seed}:\n{found}", setup.name);
        }
        assert!(report.steps > 10_000, "{}, seed {seed}: {report}", setup.name);
    }
}

#[test]
fn everything_at_once() {
    holds(EVERYTHING);
}

#[test]
fn everything_but_what_gives_up() {
    let left = Left { skips: 0, ..EVERYTHING.left };
    holds(Setup { name: "nothing given up", left, ..EVERYTHING });
}

#[test]
fn one_relay_and_what_users_do() {
    let left = Left {
        events: 4,
        crashes: 0,
        flushes: 0,
        rollbacks: 0,
        lost_settles: 0,
        outages: 0,
        resets: 2,
        replays: 2,
        ..EVERYTHING.left
    };
    holds(Setup { name: "users", relays: 1, left, ..EVERYTHING });
}

#[test]
fn only_what_is_missing() {
    let left = Left { resets: 2, replays: 2, ..EVERYTHING.left };
    holds(Setup { name: "only missing", only_missing: true, left, ..EVERYTHING });
}
