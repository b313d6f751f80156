//! The operators' commands, run as an operator runs them: the built binary against a real API, with what it
//! writes and its exit code. Standard input and output are no terminals here, as in a script.
#![allow(clippy::unwrap_used, reason = "in a test a panic is the report")]

mod at_a_terminal;
mod dead_letters;
mod desk;
mod endpoints;
mod events;
mod groups;
mod keys;
mod replays;
mod trouble;
