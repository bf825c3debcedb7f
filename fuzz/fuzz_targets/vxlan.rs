//! See `fuzz_targets::vxlan`.
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| fuzz_targets::vxlan(data));
