//! See `eventrail_fuzz::url`.
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| eventrail_fuzz::url::run(data));
