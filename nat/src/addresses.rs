//! The outside addresses, for a look-up without the lock.

use std::net::Ipv4Addr;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};

use crate::config::{External, ExternalKind, MAX_EXTERNALS};

/// One word for each outside address: the address in the low half, flags above it.
#[derive(Debug)]
pub(crate) struct Addresses {
    slots: [AtomicU64; MAX_EXTERNALS],
    /// End of the used slots.
    end: AtomicUsize,
}

const IN_USE: u64 = 1 << 32;
const ONE_TO_ONE: u64 = 1 << 33;

impl Default for Addresses {
    fn default() -> Addresses {
        Addresses { slots: std::array::from_fn(|_| AtomicU64::new(0)), end: AtomicUsize::new(0) }
    }
}

impl Addresses {
    /// The number of an outside address, and whether it is one-to-one.
    #[inline(always)]
    pub(crate) fn find(&self, address: Ipv4Addr) -> Option<(u8, bool)> {
        let wanted = IN_USE | u64::from(address.to_bits());
        let end = self.end.load(Ordering::Acquire);
        for (number, slot) in self.slots.iter().enumerate().take(end) {
            let value = slot.load(Ordering::Relaxed);
            if value & !ONE_TO_ONE == wanted {
                return Some((number as u8, value & ONE_TO_ONE != 0));
            }
        }
        None
    }

    /// Sets or clears the address with this number.
    pub(crate) fn set(&self, number: u8, external: Option<External>) {
        let value = external.map_or(0, |external| {
            let one_to_one = if matches!(external.kind, ExternalKind::OneToOne(_)) { ONE_TO_ONE } else { 0 };
            IN_USE | one_to_one | u64::from(external.address.to_bits())
        });
        self.slots[usize::from(number)].store(value, Ordering::Relaxed);
        self.end.fetch_max(usize::from(number) + 1, Ordering::Release);
    }
}
