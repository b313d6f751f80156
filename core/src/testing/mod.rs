//! What the tests of all crates use: private servers under fault, a scripted receiver, a proxy that cuts,
//! and the real binary as a process. Tests wait for what they expect with a deadline, never for time.

#![allow(clippy::unwrap_used, clippy::print_stderr, reason = "in a test a panic is the report")]

mod api;
mod disk;
mod endpoint;
mod eventually;
mod invariants;
mod past;
mod process;
mod proxy;
mod receiver;
mod stack;
mod template;

pub use api::{Api, Endpoint, Reply};
pub use disk::SmallDisk;
pub use endpoint::make_endpoint;
pub use eventually::{PATIENCE, eventually, eventually_within};
pub use invariants::Invariants;
pub use process::EventrailProcess;
pub use proxy::CuttingProxy;
pub use receiver::{Answer, Receiver, Request};
pub use stack::{AttemptRow, DeliveryRow, SECRETS_KEY, Stack, StackOptions};
