//! See `eventrail_fuzz::event_body`.
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| eventrail_fuzz::event_body::run(data));
