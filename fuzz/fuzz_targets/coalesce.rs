//! See `fuzz_targets::coalesce`.
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| fuzz_targets::coalesce(data));
