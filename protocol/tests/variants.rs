//! Known mistakes, each of which the explorer must find. Without this, a model that says that all is well might as
//! well be one that can't see.
#![allow(clippy::print_stdout, reason = "the figures are the report")]

use eventrail_protocol::explore::{Limits, explore};
use eventrail_protocol::invariants::Invariant::{
    self, AllDelivered, Gapless, NoDuplicate, Settled, Truthful,
};
use eventrail_protocol::world::{Left, Setup, Variant};

#[track_caller]
fn refuted(variant: Variant, setup: Setup, by: &[Invariant]) {
    let drained = if by == [AllDelivered] { 1 } else { u64::MAX };
    let limits = Limits { drained, ..Limits::default() };
    let report = explore(&setup.with(variant), limits);
    let found = report.counterexample.as_ref();
    let found = found.unwrap_or_else(|| panic!("{variant:?} was not refuted: {report}"));
    println!("{variant:?} is refuted in {} steps, of {report}:\n{found}\n", found.trace.len());
    assert!(by.contains(&found.breach.invariant), "{variant:?}: {}", found.breach);
    // The same setup holds without the mistake.
    let good = explore(&setup.with(Variant::Good), Limits { states: report.states * 2, ..limits });
    if let Some(found) = good.counterexample {
        panic!("without {variant:?}:\n{found}");
    }
}

const SETUP: Setup = Setup::SMALL;
const NONE: Left = SETUP.left;

#[test]
fn a_tail_without_the_log_lock() {
    let setup = Setup { slow_commits: true, dispatchers: 1, ..SETUP };
    refuted(Variant::NaiveTail, setup, &[Settled, Gapless]);
}

#[test]
fn redis_is_settled_before_the_outcome_is_recorded() {
    let setup = Setup { dispatchers: 1, left: Left { events: 1, crashes: 1, ..NONE }, ..SETUP };
    refuted(Variant::AcknowledgeBeforeRecord, setup, &[Gapless, Settled]);
}

#[test]
fn outcomes_are_committed_asynchronously() {
    let setup = Setup { dispatchers: 1, left: Left { events: 1, outages: 1, ..NONE }, ..SETUP };
    refuted(Variant::AsynchronousOutcomes, setup, &[Gapless, Settled]);
}

#[test]
fn a_settled_position_without_the_tail_check() {
    let setup = Setup { dispatchers: 1, left: Left { events: 1, flushes: 1, ..NONE }, ..SETUP };
    refuted(Variant::SettleWithoutTailCheck, setup, &[Settled]);
}

#[test]
fn parking_decided_by_dispatchers() {
    let setup = Setup { dispatchers: 1, left: Left { events: 2, disables: 1, ..NONE }, ..SETUP };
    refuted(Variant::ParkingByDispatchers, setup, &[Gapless, Settled]);
}

#[test]
fn an_append_without_comparing_the_tail() {
    let setup = Setup { dispatchers: 1, left: Left { events: 2, flushes: 1, ..NONE }, ..SETUP };
    refuted(Variant::AppendWithoutCompare, setup, &[Settled, Gapless]);
}

#[test]
fn a_settled_position_of_another_epoch() {
    let setup = Setup { left: Left { events: 2, resets: 1, ..NONE }, ..SETUP };
    refuted(Variant::SettleAnyEpoch, setup, &[Settled]);
}

#[test]
fn an_outcome_of_a_lower_ask_counts() {
    let setup = Setup { left: Left { events: 1, replays: 1, failures: 1, ..NONE }, ..SETUP };
    refuted(Variant::AsksIgnored, setup, &[Truthful]);
}

#[test]
fn nobody_loads_what_redis_lost() {
    let left = Left { events: 1, failures: 1, flushes: 1, ..NONE };
    refuted(Variant::LostLoader, Setup { dispatchers: 1, left, ..SETUP }, &[AllDelivered]);
}

#[test]
fn entries_are_acknowledged_before_they_are_deleted() {
    let setup = Setup { dispatchers: 1, left: Left { events: 1, lost_settles: 1, ..NONE }, ..SETUP };
    refuted(Variant::AcknowledgeBeforeDelete, setup, &[AllDelivered]);
}

#[test]
fn a_feed_on_its_way_through_history_follows_the_head() {
    let left = Left { events: 3, resets: 1, filters: 2, ..NONE };
    refuted(Variant::HistoryAtHead, Setup { dispatchers: 1, batch: 1, left, ..SETUP }, &[Settled, Gapless]);
}

#[test]
fn a_cursor_moved_back_forgets_what_was_owed() {
    let left = Left { events: 2, resets: 1, filters: 1, ..NONE };
    refuted(Variant::OwedForgotten, Setup { dispatchers: 1, left, ..SETUP }, &[AllDelivered]);
}

#[test]
fn an_attempt_is_handed_over_without_a_row() {
    let setup = Setup { dispatchers: 1, left: Left { events: 1, handovers: 1, ..NONE }, ..SETUP };
    refuted(Variant::HandOverUnrecorded, setup, &[Gapless, Settled]);
}

#[test]
fn what_is_handed_over_is_due_before_its_attempt_has_ended() {
    let left = Left { events: 1, handovers: 1, ..NONE };
    refuted(Variant::HandOverDueAtOnce, Setup { left, ..SETUP }, &[NoDuplicate]);
}

#[test]
fn redis_hears_of_an_outcome_before_it_hears_of_the_hand_over() {
    let left = Left { events: 1, handovers: 1, failures: 1, replays: 1, ..NONE };
    refuted(Variant::SettledInAnyOrder, Setup { left, ..SETUP }, &[NoDuplicate]);
}

#[test]
fn a_catch_up_made_apart_from_the_end_of_its_interval() {
    let setup = Setup { dispatchers: 1, left: Left { events: 1, disables: 1, crashes: 1, ..NONE }, ..SETUP };
    refuted(Variant::CatchUpApart, setup, &[AllDelivered]);
}
