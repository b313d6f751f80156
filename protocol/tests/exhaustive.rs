//! Every order of every step of small setups. Those of [`larger`] take minutes and are run by hand:
//! `cargo test -p eventrail-protocol --test exhaustive -- --ignored --nocapture --test-threads 1`.
#![allow(clippy::print_stdout, reason = "the figures are the report")]

use eventrail_protocol::explore::{Limits, explore};
use eventrail_protocol::world::{Left, Setup};

/// More of them do not fit into memory.
const MOST_STATES: usize = 10_000_000;

#[track_caller]
fn holds(setup: Setup, at_least: usize) {
    let started = std::time::Instant::now();
    let report = explore(&setup, Limits { states: MOST_STATES, ..Limits::default() });
    println!("{}: {report} in {:?}", setup.name, started.elapsed());
    if let Some(found) = &report.counterexample {
        panic!("{}:\n{found}", setup.name);
    }
    assert!(report.is_complete, "{}: {report}", setup.name);
    assert!(report.states >= at_least, "{}: {report}", setup.name);
}

macro_rules! setups {
    ($($(#[$attribute:meta])* $name:ident: $at_least:literal, { $($field:ident: $value:expr),* }, { $($left:ident: $count:literal),* };)*) => {$(
        #[test]
        $(#[$attribute])*
        fn $name() {
            let left = Left { $($left: $count,)* ..Left::default() };
            holds(Setup { name: stringify!($name), left, $($field: $value,)* ..Setup::SMALL }, $at_least);
        }
    )*};
}

setups! {
    nothing_goes_wrong: 898, {}, { events: 2, failures: 1 };
    two_crashes: 3_267, {}, { events: 2, crashes: 2 };
    a_flush: 8_624, {}, { events: 2, flushes: 1 };
    a_flush_and_a_crash: 55_074, {}, { events: 2, flushes: 1, crashes: 1 };
    a_failure_and_a_crash: 46_108, {}, { events: 1, failures: 2, crashes: 1, flushes: 1 };
    two_relays: 12_976, { relays: 2, dispatchers: 1 }, { events: 2 };
    two_relays_and_a_flush: 151_624, { relays: 2, dispatchers: 1 }, { events: 2, flushes: 1 };
    a_rollback: 15_711, {}, { events: 2, rollbacks: 1 };
    a_rollback_and_two_relays: 447_500, { relays: 2, dispatchers: 1 }, { events: 2, rollbacks: 1 };
    lost_settles: 6_361, {}, { events: 2, failures: 1, lost_settles: 1 };
    an_outage: 15_095, { slow_commits: true }, { events: 2, failures: 1, outages: 1 };
    two_endpoints: 5_054, { endpoints: 2 }, { events: 1, failures: 1, crashes: 1 };
    a_filter: 44_021, { dispatchers: 1 }, { events: 2, filters: 2, flushes: 1 };
    switched_off: 79_686, { dispatchers: 1 }, { events: 2, disables: 1 };
    switched_off_and_a_crash: 953_223, { dispatchers: 1 }, { events: 2, disables: 1, crashes: 1 };
    switched_off_and_a_flush: 43_161, { dispatchers: 1 }, { events: 1, disables: 1, flushes: 1 };
    deferred: 6_092, {}, { events: 2, deferrals: 1 };
    handed_over: 18_418, {}, { events: 2, handovers: 1 };
    handed_over_and_a_crash: 74_503, {}, { events: 1, handovers: 1, failures: 1, crashes: 1 };
    handed_over_and_a_flush: 365_289, {}, { events: 1, handovers: 1, failures: 1, flushes: 1 };
    handed_over_and_lost_settles: 38_611, {}, { events: 1, handovers: 1, failures: 1, lost_settles: 2 };
    handed_over_and_a_replay: 87_238, {}, { events: 1, handovers: 1, failures: 1, replays: 1 };
    handed_over_and_moved_back: 83_582, {}, { events: 1, handovers: 1, resets: 1, failures: 1 };
    handed_over_and_switched_off: 9_311, { dispatchers: 1 }, { events: 1, handovers: 1, disables: 1 };
    a_replay: 31_079, {}, { events: 2, replays: 1 };
    a_replay_and_a_crash: 67_499, {}, { events: 1, replays: 1, crashes: 1, failures: 1 };
    only_what_is_missing: 70_471, { only_missing: true }, { events: 1, replays: 1, crashes: 1, failures: 1 };
    moved_back: 1_741, {}, { events: 2, resets: 1 };
    moved_back_and_a_flush: 4_121, { dispatchers: 1 }, { events: 2, resets: 1, flushes: 1 };
    moved_back_and_two_relays: 2_958, { dispatchers: 1, relays: 2 }, { events: 1, resets: 1 };
    moved_back_while_parked: 36_073, { dispatchers: 1 }, { events: 1, resets: 1, disables: 1 };
    moved_to_the_end: 1_366, {}, { events: 2, skips: 1 };
    moved_to_the_end_while_parked: 27_793, { dispatchers: 1 }, { events: 1, skips: 1, disables: 1 };
    moved_back_with_another_filter: 122_967, { dispatchers: 1, batch: 1 }, { events: 2, resets: 1, filters: 2 };
    narrowed_and_moved_back_while_parked: 603_844, { dispatchers: 1 }, { events: 1, resets: 1, filters: 1, disables: 1 };
    back_and_to_the_end: 12_885, { dispatchers: 1 }, { events: 2, skips: 1, resets: 1 };
}

mod larger {
    use super::*;

    setups! {
        #[ignore = "takes minutes"]
        two_flushes_and_two_crashes: 1000, {}, { events: 2, flushes: 2, crashes: 2 };
        #[ignore = "takes minutes"]
        two_relays_a_flush_and_a_crash: 1000, { relays: 2, dispatchers: 1 }, { events: 2, flushes: 1, crashes: 1 };
        #[ignore = "takes minutes"]
        two_relays_and_three_events: 1000, { relays: 2, dispatchers: 1, window: 1, batch: 1 }, { events: 3, flushes: 1 };
        #[ignore = "takes minutes"]
        two_replays_and_a_failure: 1000, {}, { events: 1, replays: 2, failures: 2, crashes: 1 };
        #[ignore = "takes minutes"]
        parked_by_two_relays: 1000, { relays: 2, dispatchers: 1 }, { events: 1, disables: 1 };
        #[ignore = "takes minutes"]
        switched_off_with_a_crash_and_a_failure: 1000, {}, { events: 1, disables: 1, crashes: 1, failures: 1 };
        #[ignore = "takes minutes"]
        switched_off_with_a_flush_and_two_events: 1000, { dispatchers: 1 }, { events: 2, disables: 1, flushes: 1 };
        #[ignore = "takes minutes"]
        back_twice_while_parked: 1000, { dispatchers: 1 }, { events: 1, resets: 2, disables: 1, filters: 1 };
        #[ignore = "takes minutes"]
        back_with_a_flush_and_a_crash: 1000, {}, { events: 2, resets: 1, flushes: 1, crashes: 1 };
        #[ignore = "takes minutes"]
        narrowed_and_moved_back_with_a_crash: 1000, { dispatchers: 1 }, { events: 2, resets: 1, filters: 1, crashes: 1 };
    }
}
