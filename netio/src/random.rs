//! Random numbers, for names that no other process has.

use rustix::rand::{GetRandomFlags, getrandom};

/// A random number; while the kernel has none yet, the number of the process.
pub(crate) fn number() -> u32 {
    let mut bytes = [0; 4];
    match getrandom(&mut bytes, GetRandomFlags::NONBLOCK) {
        Ok(4) => u32::from_ne_bytes(bytes),
        _ => std::process::id(),
    }
}
