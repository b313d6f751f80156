//! Deliveries from end to end: real processes, PostgreSQL and Redis of each test's own, and a scripted
//! receiver. Events go in through the API; what is asserted is what arrives, and what the record says of it.
#![allow(clippy::unwrap_used, reason = "in a test a panic is the report")]
#![allow(clippy::print_stderr, reason = "figures are part of the report")]

mod auto_disable;
mod backlog;
mod cursors;
mod deletion;
mod fan_out;
mod isolation;
mod kinds_of_failure;
mod operational;
mod rail;
mod replays;
mod requests;
mod retention;
mod retries;
mod whereabouts;
mod wishes;
