//! Entries of a table that an earlier process left, read without trust in any of them.

use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};

use siphasher::sip::SipHasher13;

use super::{
    Direction, ENTRY_WORDS, Entry, HALF_OPEN, Id, REPLACING, REPLIED, SECOND, TRACKING, Table, Tuples, WAYS, buckets_for,
    places_of, slot_value, tracker_of, tuples_of, used, word,
};
use crate::left::TableMemory;
use crate::lines::Lines;
use crate::tcp::Tracker;
use crate::tuple::{Endpoint, Protocol, Side, Tuple};

/// Slots and entries as they were left.
#[derive(Debug)]
pub(crate) struct LeftEntries<'m> {
    slots: &'m [AtomicU64],
    entries: &'m [AtomicU32],
    entry_words: usize,
    connections: usize,
    hasher: SipHasher13,
}

/// A whole connection.
#[derive(Clone, Copy, Debug)]
pub(crate) struct LeftConnection {
    pub(crate) tuples: Tuples,
    /// Of TCP.
    pub(crate) tracker: Option<Tracker>,
    /// The last second in which a packet refreshed it.
    pub(crate) used: u32,
    /// The bits beside that second.
    pub(crate) flags: u32,
}

impl LeftConnection {
    /// Its endpoint inside, and the one outside that stands for it. `None` if it has not one of each.
    pub(crate) fn ends(&self) -> Option<(Endpoint, Endpoint)> {
        let Tuples { original, reply } = self.tuples;
        match (original.side, reply.side) {
            (Side::Inside, Side::Outside) => Some((original.src, reply.dst)),
            (Side::Outside, Side::Inside) => Some((reply.src, original.dst)),
            _ => None,
        }
    }
}

/// An entry that is not whole.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Torn;

impl Table {
    /// A table in memory that was lent. `None` if it is too small.
    pub(crate) fn new_in(connections: usize, seed: [u64; 2], memory: TableMemory) -> Option<Table> {
        let buckets = buckets_for(connections);
        let slots = Lines::lent::<WAYS>(buckets, memory.slots)?;
        let entries = Lines::lent::<ENTRY_WORDS>(connections, memory.entries)?;
        Some(Table { slots, buckets, entries, hasher: SipHasher13::new_with_keys(seed[0], seed[1]) })
    }

    /// Sets the bits beside the last second of a connection that no worker knows yet.
    pub(crate) fn set_flags(&self, id: Id, flags: u32) {
        let used = &self.entry(id)[word::USED];
        used.store(used.load(Ordering::Relaxed) & SECOND | flags, Ordering::Relaxed);
    }
}

impl<'m> LeftEntries<'m> {
    pub(crate) fn new(
        slots: &'m [AtomicU64],
        entries: &'m [AtomicU32],
        entry_words: usize,
        connections: usize,
        seed: [u64; 2],
    ) -> LeftEntries<'m> {
        LeftEntries { slots, entries, entry_words, connections, hasher: SipHasher13::new_with_keys(seed[0], seed[1]) }
    }

    /// All connections, and what is left of entries that were torn. Numbers are given out one after another, so what follows an entry
    /// that was never used is not read: the kernel would have to provide all of it.
    pub(crate) fn iter(&self) -> impl Iterator<Item = Result<LeftConnection, Torn>> {
        let entries = self.entries.chunks(self.entry_words).take(self.connections).map_while(|entry| {
            let entry: &Entry = entry.first_chunk()?;
            // The version of one that was used may have returned to zero.
            let is_unused = [word::VERSION, word::KIND, word::ORIGINAL].iter().all(|at| entry[*at].load(Ordering::Relaxed) == 0);
            (!is_unused).then_some(entry)
        });
        entries.enumerate().filter_map(|(number, entry)| self.connection(Id(u32::try_from(number).ok()?), entry))
    }

    /// The connection of an entry; `None` if there is none.
    fn connection(&self, id: Id, entry: &Entry) -> Option<Result<LeftConnection, Torn>> {
        let version = entry[word::VERSION].load(Ordering::Relaxed);
        let tuples = tuples_of(entry);
        let has = |direction| self.has_slot(tuples.get(direction), id, direction);
        match (has(Direction::Original), has(Direction::Reply)) {
            (false, false) if version & REPLACING == 0 => return None,
            (true, true) if version & REPLACING == 0 => {}
            _ => return Some(Err(Torn)),
        }
        let tracker = (tuples.original.protocol == Protocol::TCP).then(|| {
            let tracker = tracker_of(entry);
            if version & TRACKING == 0 { tracker } else { tracker.doubt() }
        });
        let flags = entry[word::USED].load(Ordering::Relaxed) & (HALF_OPEN | REPLIED);
        Some(Ok(LeftConnection { tuples, tracker, used: used(entry), flags }))
    }

    /// Whether a slot leads from a tuple to this connection.
    fn has_slot(&self, tuple: &Tuple, id: Id, direction: Direction) -> bool {
        let hash = self.hasher.hash(&tuple.to_bytes());
        let (places, tag) = places_of(hash, buckets_for(self.connections));
        let value = slot_value(tag, id, direction);
        let slots = places.into_iter().filter_map(|bucket| self.slots.get(bucket * WAYS..)?.first_chunk::<WAYS>());
        slots.flatten().any(|slot| slot.load(Ordering::Relaxed) == value)
    }
}
