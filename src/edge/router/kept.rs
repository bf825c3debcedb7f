//! The connection table in memory that outlives the process ([`nat::LeftTable`] says what the next one makes of it).
//!
//! ```text
//!   0       8        16             24            32   48           56         64      72       80     4,096
//!  +-------+--------+--------------+-------------+----+------------+----------+-------+--------+------+--------+-----   -----+-----    ----+
//!  | magic | layout | words of an  | connections | key| generation | checksum | clock | which  |      | places | slots       | entries     |
//!  |       |        | entry        |             |    |            | of these |       | places |      | twice  |             |             |
//!  +-------+--------+--------------+-------------+----+------------+----------+-------+--------+------+--------+-----   -----+-----    ----+
//! ```
//!
//! *Clock.* Once a second, the time since the boot and the second of this process's own clock, so that the next process knows how long
//! connections have been idle.
//!
//! *Places* say to whom inside addresses belong ([`places`](super::places)), two words each. A change writes to the half that is not in
//! use, and then one word says which half it is, how many there are and their checksum, so a process that is killed leaves the ones or
//! the others. What goes is not there any more before a change begins, and what comes is there once nothing is left of what went.
//!
//! Each process has a table of its own, of the next generation, and takes the connections of the one before over into it, once there
//! are outside addresses. Until then its own is empty, and what outlives it is the one before. It is
//! memory of the kernel's, not a file of a disk: writing connections back would stop workers, and none survives a boot. The
//! [`Keeper`](crate::state::Keeper) holds its descriptor.

use std::collections::HashSet;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::atomic::{AtomicU64, Ordering};

use nat::{LeftTable, Nat, NatConfig, Rest, TableMemory};
use netio::SharedMemory;
use packet::Timestamp;
use rustix::time::{ClockId, clock_gettime};

use super::places::{Place, Unchanged};

const MAGIC: u64 = u64::from_be_bytes(*b"vswconns");

/// Meaning of the words of slots and entries. Words that are added at the end of an entry do not change it.
const LAYOUT: u64 = 3;

/// Words of the header.
const HEADER: usize = 8;

/// Words that change, after the header: the clock, and which places hold.
const CLOCK: usize = 8;
const WHICH_PLACES: usize = 9;

/// Bits of the process's second in the clock; the seconds since the boot are above.
const SECOND_BITS: u32 = 30;

/// Where the places begin, and what the entries' place is a multiple of, in bytes.
const PAGE: usize = 4096;

/// Maximum number of places. Connections of further ones end with the process.
const MAX_PLACES: usize = 16_384;

/// Words of all places, once.
const HALF: usize = MAX_PLACES * 2;

/// Where the slots begin, in bytes.
const SLOTS_AT: usize = PAGE + 2 * HALF * size_of::<u64>();

/// The table of this process, and that of the one before.
#[derive(Debug, Default)]
pub(crate) struct KeptTable {
    /// Whether the table is to outlive the process.
    is_wanted: bool,
    own: Option<&'static SharedMemory>,
    generation: u64,
    left: Option<LeftMemory>,
    /// To whom inside addresses belong now.
    places: Vec<Place>,
}

/// The memory of a table that an earlier process left.
#[derive(Debug)]
struct LeftMemory {
    memory: SharedMemory,
    header: Header,
    places: Vec<Place>,
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
    #[error("its header or its places are damaged")]
    Damaged,
    #[error("its layout is {0}, and this version knows {LAYOUT}")]
    Layout(u64),
}

impl KeptTable {
    /// A table that outlives the process, where earlier ones left these descriptors. Inside addresses belong to these places.
    pub(crate) fn after(left: Vec<OwnedFd>, places: Vec<Place>) -> KeptTable {
        let mut table = KeptTable { is_wanted: true, places, ..KeptTable::default() };
        for descriptor in left {
            match LeftMemory::open(descriptor) {
                Ok(left) => {
                    // With two of them, a process ended between the two messages about its own.
                    if left.header.generation > table.generation {
                        table.generation = left.header.generation;
                        table.left = Some(left);
                    }
                }
                Err(error) => tracing::warn!(%error, "cannot take over the connections of the process before; they end"),
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
                self.tick(Timestamp::default());
                self.settle();
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
        let Some(nat::Restored { connections, refused, moved, expired, torn }) = self.take_over(nat, now) else { return };
        tracing::info!(connections, expired, "connections of the process before are taken over");
        if refused + moved + torn > 0 {
            tracing::warn!(
                refused,
                moved,
                torn,
                "not all connections of the process before are taken over: their outside address or port is another's now (refused), the \
                 network or guest of their inside address is another (moved), or they were damaged (torn)"
            );
        }
    }

    fn take_over(&mut self, nat: &Nat, now: Timestamp) -> Option<nat::Restored> {
        let LeftMemory { memory, header, places } = self.left.take()?;
        let table = header.left(&memory, rest_of(&memory, boot_second()))?;
        let unchanged = Unchanged::between(&places, &self.places);
        Some(nat.restore(&table, |address| unchanged.contains(address), now))
    }

    /// Once a second.
    pub(super) fn tick(&self, now: Timestamp) {
        let second = u64::from(now.secs()) & ((1 << SECOND_BITS) - 1);
        if let Some(words) = self.own.and_then(|memory| memory.words(CLOCK * size_of::<u64>(), 1)) {
            words[0].store(boot_second() << SECOND_BITS | second, Ordering::Release);
        }
    }

    /// Inside addresses belong to these places from now on. Those that come are kept when [all is settled](Self::settle).
    pub(super) fn set_places(&mut self, places: Vec<Place>) {
        let stay: HashSet<Place> = places.iter().copied().collect();
        self.places.retain(|place| stay.contains(place));
        if let Some(left) = &mut self.left {
            left.places.retain(|place| stay.contains(place));
            // It may be left once more.
            write_places(&left.memory, &left.places);
        }
        self.settle();
        self.places = places;
    }

    /// Nothing is left of the places that went.
    pub(super) fn settle(&self) {
        if let Some(memory) = self.own {
            write_places(memory, &self.places);
        }
    }

    /// What holds the connections, with the generation of their table.
    pub(crate) fn descriptor(&self) -> Option<(u64, BorrowedFd<'_>)> {
        let own = self.own.map(|memory| (self.generation, memory.as_fd()));
        let left = self.left.as_ref().map(|left| (left.header.generation, left.memory.as_fd()));
        left.or(own)
    }
}

fn write_places(memory: &SharedMemory, places: &[Place]) {
    let Some(which) = memory.words(WHICH_PLACES * size_of::<u64>(), 1) else { return };
    let half = (which[0].load(Ordering::Relaxed) + 1) & 1;
    let Some(words) = memory.words(PAGE + half as usize * HALF * size_of::<u64>(), HALF) else { return };
    let places = &places[..places.len().min(MAX_PLACES)];
    for (to, from) in words.iter().zip(places.iter().flat_map(|place| place.to_words())) {
        to.store(from, Ordering::Relaxed);
    }
    which[0].store(which_places(places, half), Ordering::Release);
}

/// The word that says which half the places are in: from the lowest bit on, the half, their number and their checksum.
fn which_places(places: &[Place], half: u64) -> u64 {
    let low = (places.len() as u64) << 1 | half;
    let words: Vec<u64> = places.iter().flat_map(|place| place.to_words()).chain([low]).collect();
    checksum_of(&words) << 32 | low
}

impl LeftMemory {
    fn open(descriptor: OwnedFd) -> Result<LeftMemory, NoTable> {
        let memory = SharedMemory::open(descriptor)?;
        let words = memory.words(0, HEADER).ok_or(NoTable::Damaged)?;
        let header = Header::read(words)?;
        header.left(&memory, Rest::default()).ok_or(NoTable::Damaged)?;
        let places = places_in(&memory).ok_or(NoTable::Damaged)?;
        Ok(LeftMemory { memory, header, places })
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
            .then(|| (SLOTS_AT + TableMemory::slots(self.connections) * size_of::<u64>()).next_multiple_of(PAGE))
    }

    fn create(&self) -> std::io::Result<SharedMemory> {
        let entries = TableMemory::entries(self.connections, self.entry_words) * size_of::<u32>();
        let memory = SharedMemory::create("vswitchd-connections", self.entries_at().unwrap_or(SLOTS_AT) + entries)?;
        let words = self.words();
        let checksum = checksum_of(&words);
        for (to, from) in memory.words(0, HEADER).into_iter().flatten().zip(words.into_iter().chain([checksum])) {
            to.store(from, Ordering::Relaxed);
        }
        Ok(memory)
    }

    fn memory(&self, memory: &'static SharedMemory) -> Option<TableMemory> {
        let slots = memory.words(SLOTS_AT, TableMemory::slots(self.connections))?;
        let entries = memory.half_words(self.entries_at()?, TableMemory::entries(self.connections, self.entry_words))?;
        Some(TableMemory { slots, entries })
    }

    fn left<'m>(&self, memory: &'m SharedMemory, rest: Rest) -> Option<LeftTable<'m>> {
        let entries_at = self.entries_at()?;
        let slots = memory.words(SLOTS_AT, TableMemory::slots(self.connections))?;
        let count = self.connections.checked_mul(self.entry_words)?;
        let entries = memory.half_words(entries_at, count)?;
        LeftTable::new(slots, entries, self.connections, self.entry_words, self.seed, rest)
    }
}

/// How long a table was at rest, in this second since the boot.
fn rest_of(memory: &SharedMemory, now: u64) -> Rest {
    let clock = memory.words(CLOCK * size_of::<u64>(), 1).map_or(0, |words| words[0].load(Ordering::Relaxed));
    let passed = now.saturating_sub(clock >> SECOND_BITS);
    Rest { last: (clock & ((1 << SECOND_BITS) - 1)) as u32, passed: passed.try_into().unwrap_or(u32::MAX) }
}

/// The places that a table names.
fn places_in(memory: &SharedMemory) -> Option<Vec<Place>> {
    let which = memory.words(WHICH_PLACES * size_of::<u64>(), 1)?[0].load(Ordering::Acquire);
    if which == 0 {
        // None have been written yet.
        return Some(Vec::new());
    }
    let count = usize::try_from(which as u32 >> 1).ok().filter(|count| *count <= MAX_PLACES)?;
    let words = memory.words(PAGE + (which & 1) as usize * HALF * size_of::<u64>(), count * 2)?;
    let place = |words: &[AtomicU64]| Place::from_words([0, 1].map(|at| words[at].load(Ordering::Relaxed)));
    let places: Vec<Place> = words.chunks_exact(2).map(place).collect();
    (which_places(&places, which & 1) == which).then_some(places)
}

/// Seconds since the boot, which no memory survives: unlike the time of day, nobody sets them.
fn boot_second() -> u64 {
    u64::try_from(clock_gettime(ClockId::Boottime).tv_sec).unwrap_or(0)
}

fn checksum_of(words: &[u64]) -> u64 {
    let bytes: Vec<u8> = words.iter().flat_map(|word| word.to_ne_bytes()).collect();
    crate::state::fnv(&bytes)
}

#[cfg(test)]
mod tests;
