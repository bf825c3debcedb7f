//! The guests: what each inside address holds, and which outside address is paired with it.
//!
//! All flows of a guest use one outside address as long as it has any flow (paired pooling, RFC 4787
//! REQ-2). The number of ports of each guest is limited (RFC 6888 REQ-4).

use std::net::Ipv4Addr;

use siphasher::sip::SipHasher13;

use crate::index::Index;
use crate::tuple::Protocol;

/// An inside address with at least one connection.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Guest {
    pub(crate) address: Ipv4Addr,
    /// The outside address that it is paired with.
    pub(crate) external: u8,
    connections: u32,
    /// Outside ports held: ICMP, TCP, UDP.
    ports: [u32; 3],
}

impl Guest {
    /// Number of connections of the guest.
    pub(crate) fn connections(&self) -> u32 {
        self.connections
    }

    /// Number of outside ports of this protocol that the guest holds.
    pub(crate) fn ports(&self, protocol: Protocol) -> u32 {
        self.ports[protocol_index(protocol)]
    }
}

/// Index of a protocol: 0 for ICMP, 1 for TCP, 2 for UDP. Not called for protocols without ports.
pub(crate) fn protocol_index(protocol: Protocol) -> usize {
    match protocol {
        Protocol::TCP => 1,
        Protocol::UDP => 2,
        _ => 0,
    }
}

/// All guests.
#[derive(Debug)]
pub(crate) struct Guests {
    guests: Vec<Guest>,
    free: Vec<u32>,
    index: Index,
    most: usize,
    hasher: SipHasher13,
}

impl Guests {
    pub(crate) fn new(most: usize, hasher: SipHasher13) -> Guests {
        Guests { guests: Vec::with_capacity(most), free: Vec::with_capacity(most), index: Index::new(most), most, hasher }
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

    pub(crate) fn has_room(&self) -> bool {
        self.guests.len() - self.free.len() < self.most
    }

    /// Adds a new guest. The caller has checked that there is room.
    pub(crate) fn add(&mut self, address: Ipv4Addr, external: u8) -> u32 {
        let guest = Guest { address, external, connections: 0, ports: [0; 3] };
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

    pub(crate) fn took_port(&mut self, number: u32, protocol: Protocol) {
        self.guests[number as usize].ports[protocol_index(protocol)] += 1;
    }

    pub(crate) fn gave_port(&mut self, number: u32, protocol: Protocol) {
        self.guests[number as usize].ports[protocol_index(protocol)] -= 1;
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
