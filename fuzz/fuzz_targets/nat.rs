//! See `fuzz_targets::nat`.
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| fuzz_targets::nat(data));
