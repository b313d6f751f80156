//! See `eventrail_fuzz::headers`.
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| eventrail_fuzz::headers::run(data));
