//! Ports that guests would use on a shared address, until the host grants them.

use std::net::Ipv4Addr;

use crate::tuple::Protocol;

/// Ports in a block. Ports are granted in blocks that are all even or all odd, because Linux prefers one parity for the
/// local ports of its programs (`__inet_hash_connect`).
pub const BLOCK: u16 = 64;

/// Maximum number of blocks noted between two calls of [`Nat::demand`](crate::Nat::demand).
const MAX_BLOCKS: usize = 64;

/// The block that a port lies in, by its first port.
#[must_use]
pub fn block_of(port: u16) -> u16 {
    port & !(2 * BLOCK - 1) | port & 1
}

/// The ports of the block that starts with this port.
pub fn ports_of_block(first: u16) -> impl Iterator<Item = u16> {
    (0..BLOCK).map(move |number| first + 2 * number)
}

/// Ports that would be of use on a shared address.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Demand {
    /// The address.
    pub address: Ipv4Addr,
    /// TCP or UDP.
    pub protocol: Protocol,
    /// Number of free ports.
    pub free: u32,
    /// First ports of the blocks of [`BLOCK`] ports that guests' own ports lie in.
    pub blocks: Vec<u16>,
}

/// Blocks that guests' packets asked for, each once.
#[derive(Debug)]
pub(crate) struct Wanted(Vec<(u8, Protocol, u16)>);

impl Default for Wanted {
    fn default() -> Wanted {
        Wanted(Vec::with_capacity(MAX_BLOCKS))
    }
}

impl Wanted {
    /// Notes the block of a port. False if it was noted before, or too many are.
    pub(crate) fn note(&mut self, external: u8, protocol: Protocol, port: u16) -> bool {
        let wanted = (external, protocol, block_of(port));
        let is_new = self.0.len() < MAX_BLOCKS && !self.0.contains(&wanted);
        if is_new {
            self.0.push(wanted);
        }
        is_new
    }

    /// The blocks wanted on an address.
    pub(crate) fn blocks(&self, external: u8, protocol: Protocol) -> Vec<u16> {
        self.0.iter().filter(|wanted| (wanted.0, wanted.1) == (external, protocol)).map(|wanted| wanted.2).collect()
    }

    /// Forgets all blocks.
    pub(crate) fn clear(&mut self) {
        self.0.clear();
    }
}
