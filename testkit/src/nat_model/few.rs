//! Short lists without an allocation each.

use std::net::Ipv4Addr;
use std::ops::{Deref, DerefMut};

/// At most `N` items.
pub(super) struct Few<T, const N: usize> {
    items: [T; N],
    len: usize,
}

/// A copy of a packet; the driver makes none that is longer.
pub(super) type Copied = Few<u8, 512>;

/// Outside addresses; the driver has no more.
pub(super) type Addresses = Few<Ipv4Addr, 4>;

impl Copied {
    pub(super) fn of(packet: &[u8]) -> Copied {
        let mut items = [0; 512];
        items[..packet.len()].copy_from_slice(packet);
        Few { items, len: packet.len() }
    }
}

impl FromIterator<Ipv4Addr> for Addresses {
    fn from_iter<I: IntoIterator<Item = Ipv4Addr>>(addresses: I) -> Addresses {
        let mut few = Few { items: [Ipv4Addr::UNSPECIFIED; 4], len: 0 };
        for address in addresses {
            few.items[few.len] = address;
            few.len += 1;
        }
        few
    }
}

impl<T, const N: usize> Deref for Few<T, N> {
    type Target = [T];

    fn deref(&self) -> &[T] {
        &self.items[..self.len]
    }
}

impl<T, const N: usize> DerefMut for Few<T, N> {
    fn deref_mut(&mut self) -> &mut [T] {
        &mut self.items[..self.len]
    }
}
