//! The outside ports that accept any sender: one bit each, read without the lock, so that a scan from outside costs one
//! look per packet.

use std::sync::atomic::{AtomicU64, Ordering};

use zerocopy::FromZeros;

use crate::config::MAX_EXTERNALS;
use crate::tuple::Protocol;

const WORDS: usize = 65_536 / 64;

/// One bit for each TCP and UDP port of each outside address.
#[derive(Debug)]
pub(crate) struct OpenPorts(Box<[AtomicU64]>);

impl OpenPorts {
    /// All ports closed. `None` if the machine lacks the memory.
    pub(crate) fn new() -> Option<OpenPorts> {
        <[AtomicU64]>::new_box_zeroed_with_elems(MAX_EXTERNALS * 2 * WORDS).ok().map(OpenPorts)
    }

    fn word(&self, external: u8, protocol: Protocol, port: u16) -> Option<&AtomicU64> {
        let of_protocol = match protocol {
            Protocol::TCP => 0,
            Protocol::UDP => 1,
            _ => return None,
        };
        self.0.get((usize::from(external) * 2 + of_protocol) * WORDS + usize::from(port) / 64)
    }

    /// Whether this port accepts any sender.
    #[inline]
    pub(crate) fn get(&self, external: u8, protocol: Protocol, port: u16) -> bool {
        self.word(external, protocol, port).is_some_and(|word| word.load(Ordering::Relaxed) >> (port % 64) & 1 != 0)
    }

    /// Opens or closes a port. Only with the book's lock held.
    pub(crate) fn set(&self, external: u8, protocol: Protocol, port: u16, open: bool) {
        let Some(word) = self.word(external, protocol, port) else { return };
        let (bit, old) = (1 << (port % 64), word.load(Ordering::Relaxed));
        word.store(if open { old | bit } else { old & !bit }, Ordering::Relaxed);
    }
}
