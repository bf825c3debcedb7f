//! The shares: what each guest holds, by the bridge port that its packets come through.
//!
//! A share belongs to one inside address at one port of the bridge, never to an address alone: packets that another port
//! sends with a guest's address use up the share of that address at the other port.
//!
//! A share exists as long as it holds anything. Connections from outside count at the uplink's port, by the guest that they
//! lead to.

use std::net::Ipv4Addr;

use siphasher::sip::SipHasher13;

use crate::half_open::Queue;
use crate::index::Index;
use crate::tuple::Protocol;

/// What one inside address holds at one port of the bridge.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Share {
    /// The bridge port.
    pub(crate) owner: u16,
    address: Ipv4Addr,
    connections: u32,
    /// Outside ports held: ICMP, TCP, UDP.
    ports: [u32; 3],
    /// Its half-open connections, except those to published endpoints.
    pub(crate) half_open: Queue,
}

impl Share {
    pub(crate) fn address(&self) -> Ipv4Addr {
        self.address
    }

    pub(crate) fn connections(&self) -> u32 {
        self.connections
    }

    /// Number of outside ports of this protocol that it holds.
    pub(crate) fn ports(&self, protocol: Protocol) -> u32 {
        self.ports[protocol_index(protocol)]
    }

    fn is_unused(&self) -> bool {
        self.connections == 0 && self.ports == [0; 3]
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

/// All shares.
#[derive(Debug)]
pub(crate) struct Shares {
    shares: Vec<Share>,
    free: Vec<u32>,
    index: Index,
    hasher: SipHasher13,
}

fn hash(hasher: &SipHasher13, owner: u16, address: Ipv4Addr) -> u64 {
    let ([a, b, c, d], [e, f]) = (address.octets(), owner.to_be_bytes());
    hasher.hash(&[a, b, c, d, e, f])
}

impl Shares {
    /// Shares of at most `most` connections and outside ports together.
    pub(crate) fn new(most: usize, hasher: SipHasher13) -> Shares {
        Shares { shares: Vec::with_capacity(most), free: Vec::with_capacity(most), index: Index::new(most), hasher }
    }

    /// As new ones of the same size, in the same memory.
    pub(crate) fn reset(&mut self, hasher: SipHasher13) {
        self.shares.clear();
        self.free.clear();
        self.index.clear();
        self.hasher = hasher;
    }

    pub(crate) fn find(&self, owner: u16, address: Ipv4Addr) -> Option<u32> {
        self.index.find(hash(&self.hasher, owner, address), |number| {
            let share = &self.shares[number as usize];
            (share.owner, share.address) == (owner, address)
        })
    }

    pub(crate) fn get(&self, number: u32) -> &Share {
        &self.shares[number as usize]
    }

    pub(crate) fn get_mut(&mut self, number: u32) -> &mut Share {
        &mut self.shares[number as usize]
    }

    /// The share of an address at a port, added if it is new. The caller then gives it something to hold.
    pub(crate) fn find_or_add(&mut self, owner: u16, address: Ipv4Addr) -> u32 {
        if let Some(number) = self.find(owner, address) {
            return number;
        }
        let share = Share { owner, address, connections: 0, ports: [0; 3], half_open: Queue::default() };
        let number = match self.free.pop() {
            Some(number) => {
                self.shares[number as usize] = share;
                number
            }
            None => {
                self.shares.push(share);
                (self.shares.len() - 1) as u32
            }
        };
        self.index.insert(hash(&self.hasher, owner, address), number);
        number
    }

    pub(crate) fn opened(&mut self, number: u32) {
        self.get_mut(number).connections += 1;
    }

    pub(crate) fn took_port(&mut self, number: u32, protocol: Protocol) {
        self.get_mut(number).ports[protocol_index(protocol)] += 1;
    }

    pub(crate) fn closed(&mut self, number: u32) {
        self.get_mut(number).connections -= 1;
        self.remove_unused(number);
    }

    pub(crate) fn gave_port(&mut self, number: u32, protocol: Protocol) {
        self.get_mut(number).ports[protocol_index(protocol)] -= 1;
        self.remove_unused(number);
    }

    fn remove_unused(&mut self, number: u32) {
        let share = self.shares[number as usize];
        if share.is_unused() {
            let (shares, hasher) = (&self.shares, &self.hasher);
            self.index.remove(hash(hasher, share.owner, share.address), number, |other| {
                let other = &shares[other as usize];
                hash(hasher, other.owner, other.address)
            });
            self.free.push(number);
        }
    }
}
