//! See `eventrail_fuzz::signature`.
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| eventrail_fuzz::signature::run(data));
