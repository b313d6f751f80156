//! See `eventrail_fuzz::pattern`.
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| eventrail_fuzz::pattern::run(data));
