//! What the design promises when something dies (DESIGN, section 8, the failure table): real processes, real
//! servers, a real receiver, and `kill -9`. Each test breaks one thing in the middle of traffic and then
//! asserts that nothing was lost, that the record is right, that duplicates are those that the design
//! explains, and that nothing is left to do. A watch asks for the invariants I2 and I3 all the while.

#![allow(clippy::unwrap_used, clippy::print_stderr, reason = "in a test a panic is the report")]

mod api;
mod dispatcher;
mod postgres;
mod redis_away;
mod relay;
mod traffic;
mod watch;
mod world;
