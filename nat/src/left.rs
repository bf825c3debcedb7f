//! The connection table in memory that outlives the process, and what the next process takes from it.
//!
//! ```text
//!   process before:  [ slots | entries ]   mapped as its table
//!                         |
//!   next process:    read, checked, admitted one by one  -->  [ slots | entries ]   a table of its own
//! ```
//!
//! A table of a process that was killed is as its last instruction left it. A connection is *whole* if nobody was replacing its entry
//! and both of its tuples are found by their hashes in the slots, which are written after the entry and cleared before it. As the key of
//! the hash is secret, no damage and no stranger makes an entry that passes. A TCP tracker that was being changed is judged
//! leniently from then on ([`Tracker::doubt`](crate::tcp::Tracker::doubt)); all others are exact, since no segment passes while no process runs.
//!
//! *Admission.* The mapping of a whole connection, its inside endpoint and outside port, is opened again if the outside address is
//! still there, and the port is free for it or published for the same guest; and if the caller says that its inside address belongs to
//! whom it belonged to. So the configuration may be another one. Connections that guests opened come before those that were let in by
//! their mappings. One that has timed out meanwhile is not admitted, and the idle times of others begin anew. The bridge port that
//! opened a connection is not known any more, so it counts like those of ports that were removed.
//!
//! *Layout.* Fields are only added at the end of an entry. A reader gets the length of the entries and reads those words that it
//! knows.

use std::net::Ipv4Addr;
use std::sync::atomic::{AtomicU32, AtomicU64};

use packet::Timestamp;

use crate::Nat;
use crate::table::{ENTRY_WORDS, LeftConnection, LeftEntries, Table, buckets_for};
use crate::tuple::Side;

/// Memory for a table, lent for good. All of it must be zero.
#[derive(Clone, Copy, Debug)]
pub struct TableMemory {
    /// Of the slots: [`TableMemory::slots`] words, beginning at a multiple of 64 bytes.
    pub slots: &'static [AtomicU64],
    /// Of the entries: [`TableMemory::entries`] words, beginning at a multiple of 64 bytes.
    pub entries: &'static [AtomicU32],
}

impl TableMemory {
    /// Words of an entry in this build.
    pub const ENTRY_WORDS: usize = ENTRY_WORDS;

    /// Words of the slots of a table for so many connections.
    #[must_use]
    pub const fn slots(connections: usize) -> usize {
        buckets_for(connections) * 8
    }

    /// Words of its entries, if an entry has `entry_words`.
    #[must_use]
    pub const fn entries(connections: usize, entry_words: usize) -> usize {
        connections * entry_words
    }
}

/// A table that an earlier process left.
#[derive(Debug)]
pub struct LeftTable<'m> {
    entries: LeftEntries<'m>,
    rest: Rest,
}

/// For how long nobody has used a table.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Rest {
    /// A second of the process that left it, by its own clock: the last one that is known.
    pub last: u32,
    /// Seconds that have passed since then.
    pub passed: u32,
}

/// Number of connections that were taken from a table.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Restored {
    /// Connections that go on.
    pub connections: usize,
    /// Whole connections that could not be admitted: their outside address or port is another's now.
    pub refused: usize,
    /// Whole connections whose inside address is another's now, or nobody's.
    pub moved: usize,
    /// Whole connections that have timed out since.
    pub expired: usize,
    /// Entries that were torn or damaged.
    pub torn: usize,
}

impl<'m> LeftTable<'m> {
    /// A table for `connections`, whose entries have `entry_words`, with the seed of its hash, at rest for so long. `None` if the memory cannot be that.
    #[must_use]
    pub fn new(
        slots: &'m [AtomicU64],
        entries: &'m [AtomicU32],
        connections: usize,
        entry_words: usize,
        seed: [u64; 2],
        rest: Rest,
    ) -> Option<LeftTable<'m>> {
        let has_room = slots.len() >= TableMemory::slots(connections)
            && entries.len() >= TableMemory::entries(connections, entry_words)
            && entry_words >= ENTRY_WORDS;
        has_room.then(|| LeftTable { entries: LeftEntries::new(slots, entries, entry_words, connections, seed), rest })
    }
}

impl Nat {
    /// As [`Nat::new`], with the table in this memory.
    #[must_use]
    pub fn new_in(config: crate::NatConfig, seed: [u64; 2], memory: TableMemory) -> Option<Nat> {
        let table = Table::new_in(config.max_connections, seed, memory)?;
        Nat::with_table(config, seed, table)
    }

    /// Takes over the connections of an earlier process, as far as its outside addresses and ports are there and the inside addresses
    /// are `theirs`. Published ports come first ([`Nat::publish`]).
    pub fn restore(&self, left: &LeftTable<'_>, theirs: impl Fn(Ipv4Addr) -> bool, now: Timestamp) -> Restored {
        let LeftTable { entries, rest } = left;
        let mut restored = Restored::default();
        let mut let_in = Vec::new();
        let admit = |connection: &LeftConnection, restored: &mut Restored| {
            let is_theirs = connection.ends().is_some_and(|(inside, _)| theirs(inside.address));
            let idle = rest.last.saturating_sub(connection.used).saturating_add(rest.passed);
            let mut book = self.book();
            let counter = match () {
                () if !is_theirs => &mut restored.moved,
                () if book.is_past(connection, idle) => &mut restored.expired,
                () if book.restore(&self.table, &self.open_ports, connection, now) => &mut restored.connections,
                () => &mut restored.refused,
            };
            *counter += 1;
        };
        for entry in entries.iter() {
            match entry {
                Ok(connection) if connection.tuples.original.side == Side::Inside => admit(&connection, &mut restored),
                Ok(connection) => let_in.push(connection),
                Err(_) => restored.torn += 1,
            }
        }
        let_in.iter().for_each(|connection| admit(connection, &mut restored));
        restored
    }
}
