//! See `fuzz_targets::pipeline`.
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| fuzz_targets::pipeline(data));
