//! The guests: which outside address each inside address is paired with.
//!
//! All flows of a guest use one outside address as long as it has any flow (paired pooling, RFC 4787
//! REQ-2).

use std::net::Ipv4Addr;

use siphasher::sip::SipHasher13;

use crate::index::Index;

/// An inside address with at least one connection.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Guest {
    pub(crate) address: Ipv4Addr,
    /// The outside address that it is paired with.
    pub(crate) external: u8,
    connections: u32,
}

/// All guests.
#[derive(Debug)]
pub(crate) struct Guests {
    guests: Vec<Guest>,
    free: Vec<u32>,
    index: Index,
    hasher: SipHasher13,
}

impl Guests {
    /// Room for `most` guests.
    pub(crate) fn new(most: usize, hasher: SipHasher13) -> Guests {
        Guests { guests: Vec::with_capacity(most), free: Vec::with_capacity(most), index: Index::new(most), hasher }
    }

    /// As new ones of the same size, in the same memory.
    pub(crate) fn reset(&mut self, hasher: SipHasher13) {
        self.guests.clear();
        self.free.clear();
        self.index.clear();
        self.hasher = hasher;
    }

    /// A hash of an address: for this index, and to pair guests with outside addresses.
    pub(crate) fn hash(&self, address: Ipv4Addr) -> u64 {
        self.hasher.hash(&address.octets())
    }

    pub(crate) fn find(&self, address: Ipv4Addr) -> Option<u32> {
        self.index.find(self.hash(address), |number| self.guests[number as usize].address == address)
    }

    pub(crate) fn get(&self, number: u32) -> &Guest {
        &self.guests[number as usize]
    }

    /// Adds a new guest, which a connection follows: there are no more guests than connections.
    pub(crate) fn add(&mut self, address: Ipv4Addr, external: u8) -> u32 {
        let guest = Guest { address, external, connections: 0 };
        let number = match self.free.pop() {
            Some(number) => {
                self.guests[number as usize] = guest;
                number
            }
            None => {
                self.guests.push(guest);
                (self.guests.len() - 1) as u32
            }
        };
        self.index.insert(self.hash(address), number);
        number
    }

    /// A connection opens; the guest is paired with this outside address from now on.
    pub(crate) fn opened(&mut self, number: u32, external: u8) {
        let guest = &mut self.guests[number as usize];
        guest.external = external;
        guest.connections += 1;
    }

    /// A connection of a guest ended; with its last connection, the guest is removed.
    pub(crate) fn closed(&mut self, number: u32) {
        let guest = &mut self.guests[number as usize];
        guest.connections -= 1;
        if guest.connections == 0 {
            let hash = self.hash(self.guests[number as usize].address);
            let (guests, hasher) = (&self.guests, &self.hasher);
            self.index.remove(hash, number, |other| hasher.hash(&guests[other as usize].address.octets()));
            self.free.push(number);
        }
    }
}
