//! The API through its door: HTTP in, PostgreSQL and Redis of each test's own behind it.

#![allow(clippy::unwrap_used, reason = "in a test a panic is the report")]

mod access;
mod bad_input;
mod batch;
mod changes;
mod cursor;
mod dead_letters;
mod deliveries;
mod endpoints;
mod events;
mod faults;
mod groups;
mod keys;
mod limits;
mod lists;
mod log_order;
mod openapi;
mod problems;
mod redrives;
mod replay_progress;
mod replays;
mod roles;
mod support;
