//! See `fuzz_targets::tunnel`.
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| fuzz_targets::tunnel(data));
