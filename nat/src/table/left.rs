//! Entries of a table that an earlier process left, read without trust in any of them.

use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};

use siphasher::sip::SipHasher13;

use super::{
    Direction, ENTRY_WORDS, HALF_OPEN, Id, REPLACING, REPLIED, SECOND, TRACKING, Table, Tuples, WAYS, buckets_for, places_of,
    slot_value, tracker_of, tuples_of, word,
};
use crate::left::TableMemory;
use crate::lines::Lines;
use crate::tcp::Tracker;
use crate::tuple::{Protocol, Tuple};

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
    /// The bits beside its last second.
    pub(crate) flags: u32,
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

    /// Number of entries.
    pub(crate) fn len(&self) -> usize {
        self.connections
    }

    /// The connection of an entry; `None` if there is none.
    pub(crate) fn connection(&self, number: usize) -> Option<Result<LeftConnection, Torn>> {
        let at = number.checked_mul(self.entry_words)?;
        let entry: &[AtomicU32; ENTRY_WORDS] = self.entries.get(at..)?.first_chunk()?;
        let version = entry[word::VERSION].load(Ordering::Relaxed);
        if version == 0 {
            return None;
        }
        let tuples = tuples_of(entry);
        let id = Id(u32::try_from(number).ok()?);
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
        Some(Ok(LeftConnection { tuples, tracker, flags }))
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
