//! Receivers and clients that mean harm, or are broken as if they did: raw sockets against the real processes. Each
//! attempt at a hostile receiver ends in time, reads no more than it may and says what happened, while an endpoint
//! beside it gets everything; each hostile client is refused or cut while an honest one is served.
#![allow(clippy::unwrap_used, reason = "in a test a panic is the report")]
#![allow(clippy::print_stderr, reason = "figures are part of the report")]

mod clients;
mod connections;
mod door;
mod http2;
#[path = "../delivery/rail.rs"]
#[allow(dead_code, reason = "shared with the tests of deliveries")]
mod rail;
mod receivers;
mod table;
mod tls;
mod wire;
