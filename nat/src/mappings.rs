//! The mappings: an inside endpoint and the outside endpoint that stands for it.
//!
//! With endpoint-independent mapping all flows of an inside endpoint share one mapping (RFC 4787 REQ-1). A mapping lives
//! as long as a connection uses it; that of a published port lives as long as it is published.

use siphasher::sip::SipHasher13;

use crate::half_open::Queue;
use crate::index::Index;
use crate::tuple::{Endpoint, Protocol};

/// One mapping.
#[derive(Clone, Copy, Debug)]
pub(crate) struct MappingEntry {
    pub(crate) protocol: Protocol,
    pub(crate) inside: Endpoint,
    /// The outside address.
    pub(crate) external: u8,
    /// The outside port.
    pub(crate) port: u16,
    /// The share that its port counts against; without meaning for a published port.
    pub(crate) share: u32,
    /// Number of connections that use it.
    pub(crate) connections: u32,
    /// Its half-open connections that outside hosts opened.
    pub(crate) half_open: Queue,
    /// It belongs to a published port: it stays without connections and accepts any sender.
    pub(crate) is_published: bool,
    /// It is found by its inside endpoint, as the first of the endpoint's mappings.
    pub(crate) is_indexed: bool,
    /// It is ending, and takes no further connections.
    pub(crate) is_closing: bool,
}

/// All mappings.
#[derive(Debug)]
pub(crate) struct Mappings {
    entries: Vec<MappingEntry>,
    free: Vec<u32>,
    index: Index,
    most: usize,
    hasher: SipHasher13,
}

fn hash(hasher: &SipHasher13, protocol: Protocol, inside: Endpoint) -> u64 {
    let ([a, b, c, d], [e, f]) = (inside.address.octets(), inside.port.to_be_bytes());
    hasher.hash(&[a, b, c, d, e, f, protocol.0])
}

impl Mappings {
    pub(crate) fn new(most: usize, hasher: SipHasher13) -> Mappings {
        Mappings { entries: Vec::with_capacity(most), free: Vec::with_capacity(most), index: Index::new(most), most, hasher }
    }

    /// As new ones of the same size, in the same memory.
    pub(crate) fn reset(&mut self, hasher: SipHasher13) {
        self.entries.clear();
        self.free.clear();
        self.index.clear();
        self.hasher = hasher;
    }

    /// The mapping of an inside endpoint.
    pub(crate) fn find(&self, protocol: Protocol, inside: Endpoint) -> Option<u32> {
        self.index.find(hash(&self.hasher, protocol, inside), |number| {
            let entry = &self.entries[number as usize];
            entry.inside == inside && entry.protocol == protocol
        })
    }

    pub(crate) fn get(&self, number: u32) -> &MappingEntry {
        &self.entries[number as usize]
    }

    pub(crate) fn get_mut(&mut self, number: u32) -> &mut MappingEntry {
        &mut self.entries[number as usize]
    }

    pub(crate) fn has_room(&self) -> bool {
        self.entries.len() - self.free.len() < self.most
    }

    /// Adds a mapping; `is_indexed` says whether it is found by its inside endpoint. The caller has checked that there is
    /// room.
    pub(crate) fn add(&mut self, mut entry: MappingEntry) -> u32 {
        entry.is_indexed &= self.find(entry.protocol, entry.inside).is_none();
        let number = match self.free.pop() {
            Some(number) => {
                self.entries[number as usize] = entry;
                number
            }
            None => {
                self.entries.push(entry);
                (self.entries.len() - 1) as u32
            }
        };
        if entry.is_indexed {
            self.index.insert(hash(&self.hasher, entry.protocol, entry.inside), number);
        }
        number
    }

    /// Marks a mapping as ending: it takes no further connections.
    pub(crate) fn close(&mut self, number: u32) {
        self.unindex(number);
        self.entries[number as usize].is_closing = true;
    }

    pub(crate) fn remove(&mut self, number: u32) {
        self.unindex(number);
        let entry = &mut self.entries[number as usize];
        (entry.connections, entry.is_published) = (0, false);
        self.free.push(number);
    }

    fn unindex(&mut self, number: u32) {
        let entry = self.entries[number as usize];
        if entry.is_indexed {
            let (entries, hasher) = (&self.entries, &self.hasher);
            self.index.remove(hash(hasher, entry.protocol, entry.inside), number, |other| {
                let other = &entries[other as usize];
                hash(hasher, other.protocol, other.inside)
            });
            self.entries[number as usize].is_indexed = false;
        }
    }

    /// Visits up to `most` mappings from number `from` on. Returns where to continue; `None` at the end.
    pub(crate) fn scan(&self, from: u32, most: usize, mut visit: impl FnMut(&MappingEntry)) -> Option<u32> {
        let end = self.entries.len().min((from as usize).saturating_add(most));
        let entries = &self.entries[(from as usize).min(end)..end];
        entries.iter().filter(|entry| entry.is_published || entry.connections > 0).for_each(&mut visit);
        (end < self.entries.len()).then_some(end as u32)
    }

    /// Number of mappings.
    pub(crate) fn len(&self) -> usize {
        self.entries.len() - self.free.len()
    }
}
