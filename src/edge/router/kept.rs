//! The connection table in memory that outlives the process ([`nat::LeftTable`] says what the next one makes of it).
//!
//! ```text
//!   0       8        16             24            32   48           56         4,096
//!  +-------+--------+--------------+-------------+----+------------+----------+-----   -----+-----    ----+
//!  | magic | layout | words of an  | connections | key| generation | checksum | slots       | entries     |
//!  |       |        | entry        |             |    |            | of these |             |             |
//!  +-------+--------+--------------+-------------+----+------------+----------+-----   -----+-----    ----+
//! ```
//!
//! Each process has a table of its own, of the next generation, and takes the connections of the one before over into it. It is
//! memory of the kernel's, not a file of a disk: writing connections back would stop workers, and none survives a boot. The
//! [`Keeper`](crate::state::Keeper) holds its descriptor.

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::atomic::{AtomicU64, Ordering};

use nat::{LeftTable, Nat, NatConfig, TableMemory};
use netio::SharedMemory;
use packet::Timestamp;

const MAGIC: u64 = u64::from_be_bytes(*b"vswconns");

/// Meaning of the words of slots and entries. Words that are added at the end of an entry do not change it.
const LAYOUT: u64 = 1;

/// Words of the header.
const HEADER: usize = 8;

/// Where the slots begin, and what the entries' place is a multiple of, in bytes.
const PAGE: usize = 4096;

/// The table of this process, and that of the one before.
#[derive(Debug, Default)]
pub(crate) struct KeptTable {
    /// Whether the table is to outlive the process.
    is_wanted: bool,
    own: Option<&'static SharedMemory>,
    generation: u64,
    left: Option<LeftMemory>,
}

/// The memory of a table that an earlier process left.
#[derive(Debug)]
struct LeftMemory {
    memory: SharedMemory,
    header: Header,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
struct Header {
    entry_words: usize,
    connections: usize,
    seed: [u64; 2],
    generation: u64,
}

/// Why a memory is no table for this process.
#[derive(Debug, thiserror::Error)]
enum NoTable {
    #[error("it cannot be mapped: {0}")]
    Io(#[from] std::io::Error),
    #[error("its header is damaged")]
    Damaged,
    #[error("its layout is {0}, and this version knows {LAYOUT}")]
    Layout(u64),
}

impl KeptTable {
    /// A table that outlives the process, where earlier ones left these descriptors.
    pub(crate) fn after(left: Vec<OwnedFd>) -> KeptTable {
        let mut table = KeptTable { is_wanted: true, ..KeptTable::default() };
        for descriptor in left {
            match LeftMemory::open(descriptor) {
                Ok(left) => {
                    // With two of them, a process ended between the two messages about its own.
                    if left.header.generation > table.generation {
                        table.generation = left.header.generation;
                        table.left = Some(left);
                    }
                }
                Err(error) => tracing::warn!(%error, "cannot go on with the connections of the process before; they end"),
            }
        }
        table
    }

    /// The translation, with its table in memory of this process.
    pub(super) fn translation(&mut self, config: NatConfig, seed: [u64; 2]) -> Option<Nat> {
        if !self.is_wanted {
            return Nat::new(config, seed);
        }
        self.generation += 1;
        let header = Header {
            entry_words: TableMemory::ENTRY_WORDS,
            connections: config.max_connections,
            seed,
            generation: self.generation,
        };
        match header.create() {
            Ok(memory) => {
                // As long as the process, as that of any table.
                let memory: &'static SharedMemory = Box::leak(Box::new(memory));
                let nat = header.memory(memory).and_then(|table| Nat::new_in(config, seed, table));
                self.own = nat.is_some().then_some(memory);
                nat
            }
            Err(error) => {
                tracing::warn!(%error, "no memory that outlives the process; connections end with it");
                Nat::new(config, seed)
            }
        }
    }

    /// Takes over the connections of the process before. The outside addresses and published ports are there.
    pub(super) fn restore(&mut self, nat: &Nat, now: Timestamp) {
        let Some(LeftMemory { memory, header }) = self.left.take() else { return };
        let Some(table) = header.left(&memory) else { return };
        let nat::Restored { connections, refused, torn } = nat.restore(&table, now);
        tracing::info!(connections, "connections of the process before go on");
        if refused + torn > 0 {
            tracing::warn!(
                refused,
                torn,
                "not all connections of the process before go on: their outside address or port is another's now, or they were damaged"
            );
        }
    }

    /// What holds the table, with its generation.
    pub(crate) fn descriptor(&self) -> Option<(u64, BorrowedFd<'_>)> {
        self.own.map(|memory| (self.generation, memory.as_fd()))
    }
}

impl LeftMemory {
    fn open(descriptor: OwnedFd) -> Result<LeftMemory, NoTable> {
        let memory = SharedMemory::open(descriptor)?;
        let words = memory.words(0, HEADER).ok_or(NoTable::Damaged)?;
        let header = Header::read(words)?;
        header.left(&memory).ok_or(NoTable::Damaged)?;
        Ok(LeftMemory { memory, header })
    }
}

impl Header {
    fn words(&self) -> [u64; HEADER - 1] {
        let Header { entry_words, connections, seed, generation } = *self;
        [MAGIC, LAYOUT, entry_words as u64, connections as u64, seed[0], seed[1], generation]
    }

    fn read(words: &[AtomicU64]) -> Result<Header, NoTable> {
        let mut read = [0; HEADER];
        read.iter_mut().zip(words).for_each(|(to, from)| *to = from.load(Ordering::Relaxed));
        let [magic, layout, entry_words, connections, first, second, generation, checksum] = read;
        if magic != MAGIC || checksum != checksum_of(&read[..HEADER - 1]) {
            return Err(NoTable::Damaged);
        }
        if layout != LAYOUT {
            return Err(NoTable::Layout(layout));
        }
        let size = |word: u64| usize::try_from(word).map_err(|_| NoTable::Damaged);
        Ok(Header { entry_words: size(entry_words)?, connections: size(connections)?, seed: [first, second], generation })
    }

    /// Bytes from the beginning to the entries; `None` if that is too much.
    fn entries_at(&self) -> Option<usize> {
        let most = 1 << 32;
        (self.connections < most && self.entry_words < most)
            .then(|| (PAGE + TableMemory::slots(self.connections) * size_of::<u64>()).next_multiple_of(PAGE))
    }

    fn create(&self) -> std::io::Result<SharedMemory> {
        let entries = TableMemory::entries(self.connections, self.entry_words) * size_of::<u32>();
        let memory = SharedMemory::create("vswitchd-connections", self.entries_at().unwrap_or(PAGE) + entries)?;
        let words = self.words();
        let checksum = checksum_of(&words);
        for (to, from) in memory.words(0, HEADER).into_iter().flatten().zip(words.into_iter().chain([checksum])) {
            to.store(from, Ordering::Relaxed);
        }
        Ok(memory)
    }

    fn memory(&self, memory: &'static SharedMemory) -> Option<TableMemory> {
        let slots = memory.words(PAGE, TableMemory::slots(self.connections))?;
        let entries = memory.half_words(self.entries_at()?, TableMemory::entries(self.connections, self.entry_words))?;
        Some(TableMemory { slots, entries })
    }

    fn left<'m>(&self, memory: &'m SharedMemory) -> Option<LeftTable<'m>> {
        let entries_at = self.entries_at()?;
        let slots = memory.words(PAGE, TableMemory::slots(self.connections))?;
        let count = self.connections.checked_mul(self.entry_words)?;
        let entries = memory.half_words(entries_at, count)?;
        LeftTable::new(slots, entries, self.connections, self.entry_words, self.seed)
    }
}

fn checksum_of(words: &[u64]) -> u64 {
    let bytes: Vec<u8> = words.iter().flat_map(|word| word.to_ne_bytes()).collect();
    crate::state::fnv(&bytes)
}

#[cfg(test)]
mod tests {
    use super::*;

    const HEADER_NOW: Header = Header { entry_words: TableMemory::ENTRY_WORDS, connections: 1024, seed: [3, 4], generation: 7 };

    fn descriptor(memory: &SharedMemory) -> OwnedFd {
        memory.as_fd().try_clone_to_owned().unwrap()
    }

    #[test]
    fn a_header_is_read_as_it_was_written() {
        let memory = HEADER_NOW.create().unwrap();
        let left = LeftMemory::open(descriptor(&memory)).unwrap();
        assert_eq!(left.header, HEADER_NOW);
        let older = Header { generation: 6, ..HEADER_NOW }.create().unwrap();
        let table = KeptTable::after(vec![descriptor(&memory), descriptor(&older)]);
        assert_eq!((table.generation, table.left.map(|left| left.header.generation)), (7, Some(7)));
    }

    #[test]
    fn what_is_no_table_is_refused() {
        for (at, value) in [(0, 0), (1, 9), (2, 1), (2, u64::MAX), (3, 0), (3, 1 << 40), (4, 5), (6, 0), (7, 1)] {
            let memory = HEADER_NOW.create().unwrap();
            memory.words(0, HEADER).unwrap()[at].store(value, Ordering::Relaxed);
            assert!(matches!(LeftMemory::open(descriptor(&memory)), Err(NoTable::Damaged)), "word {at}");
        }
        // With a good checksum.
        for (at, value) in [(1, 2), (2, 15), (3, 1 << 20), (3, u64::MAX), (2, u64::MAX)] {
            let memory = HEADER_NOW.create().unwrap();
            let words = memory.words(0, HEADER).unwrap();
            words[at].store(value, Ordering::Relaxed);
            let now: Vec<u64> = words[..HEADER - 1].iter().map(|word| word.load(Ordering::Relaxed)).collect();
            words[HEADER - 1].store(checksum_of(&now), Ordering::Relaxed);
            let refused = LeftMemory::open(descriptor(&memory)).unwrap_err();
            let expected = if at == 1 { "its layout is 2, and this version knows 1" } else { "its header is damaged" };
            assert_eq!(refused.to_string(), expected, "word {at}");
        }
        let short = SharedMemory::create("short", PAGE).unwrap();
        assert!(LeftMemory::open(descriptor(&short)).is_err());
        let table = KeptTable::after(vec![descriptor(&short), std::fs::File::open("/dev/null").unwrap().into()]);
        assert!(table.left.is_none() && table.is_wanted);
    }
}
