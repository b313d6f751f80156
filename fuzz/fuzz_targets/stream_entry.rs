//! See `eventrail_fuzz::stream_entry`.
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| eventrail_fuzz::stream_entry::run(data));
