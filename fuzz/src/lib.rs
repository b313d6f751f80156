//! One function for each fuzz target. Each calls what production calls and asserts what must hold of whatever
//! comes out, so that a finding is a broken promise and not only a panic.
//!
//! Inputs are text where they can be (one part a line), so that seeds are read and written by hand.
//! `cli/tests/fuzz_seeds.rs` runs all of them over their seeds in every test run.

pub mod answer;
pub mod cursor;
pub mod event_body;
pub mod headers;
pub mod pattern;
pub mod signature;
pub mod stream_entry;
pub mod url;

/// A target: what it is called in `fuzz/seeds`, and what it runs.
pub type Target = (&'static str, fn(&[u8]));

pub const TARGETS: [Target; 8] = [
    ("answer", answer::run),
    ("cursor", cursor::run),
    ("event_body", event_body::run),
    ("headers", headers::run),
    ("pattern", pattern::run),
    ("signature", signature::run),
    ("stream_entry", stream_entry::run),
    ("url", url::run),
];

/// The first line, and what is behind it.
pub(crate) fn line(data: &[u8]) -> (&[u8], &[u8]) {
    match data.iter().position(|byte| *byte == b'\n') {
        Some(end) => (&data[..end], &data[end + 1..]),
        None => (data, &[]),
    }
}
