//! The connection table: one entry per connection, found by either of its two tuples without a lock.
//!
//! ```text
//!  hash of a tuple -> two buckets of 8 slots          entries, 64 bytes each
//!  +--------+--------+--   --+--------+               +-----------------------------+
//!  |tag  id |tag  id |  ...  |        |  ---- id ---> | version, used, kind         |
//!  +--------+--------+--   --+--------+               | original tuple, reply tuple |
//!    one cache line                                   | TCP tracker                 |
//!                                                     +-----------------------------+
//! ```
//!
//! *Look-ups* take no lock. A slot's tag (32 bits of the hash) selects candidates, and the entry's tuple decides. An
//! entry's version changes whenever the entry is reused; a reader that finds it unchanged has read one connection.
//!
//! *Changing a TCP tracker* holds a bit of the entry's version for some 20 instructions. Two workers
//! contend for it only when both directions of a connection arrive at once. A worker that finds the bit
//! held for long yields, so that its preempted holder can run: if a segment passed unseen, the replies
//! to it would look invalid.
//!
//! *Insertion and removal* need the lock of the [`Book`](crate::book::Book).
//!
//! *Collisions.* The hash is SipHash-1-3 with a secret key, so nobody outside can aim at a bucket.
//! If both buckets are full, the new connection is refused; with at most two thirds of the slots in use that
//! does not happen by chance.
//!
//! *Memory* is reserved at the start but touched only when it is used: 64 bytes per entry and 3 slots of 8 bytes.

use std::hint::black_box;
use std::net::Ipv4Addr;
use std::ops::Range;
use std::sync::atomic::{AtomicU32, AtomicU64, Ordering, fence};

use siphasher::sip::SipHasher13;

use crate::lines::Lines;
use crate::tcp::Tracker;
use crate::tuple::{Endpoint, Protocol, Side, Tuple};

mod left;

pub(crate) use left::{LeftConnection, LeftEntries};

const WAYS: usize = 8;

/// If the first bucket has fewer free slots than this, a new tuple may go to the other bucket.
const FILLING_UP: usize = 4;

/// Bits of an entry's version.
const TRACKING: u32 = 1;
const REPLACING: u32 = 2;
const GENERATION: u32 = 4;

/// Bits of an entry's second: of a protocol other than TCP, whether the connection is half-open (see
/// [`half_open`](crate::half_open)), and whether its opener, an outside host, has been replied to.
const HALF_OPEN: u32 = 1 << 31;
const REPLIED: u32 = 1 << 30;
const SECOND: u32 = REPLIED - 1;

/// Number of attempts to take a held bit before the worker yields: some microseconds.
const MAX_SPINS: usize = 64;

/// Number of yields before a worker gives up: longer than a preempted holder stays off the processor.
const YIELDS: usize = 10_000;

/// A connection's number.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct Id(pub(crate) u32);

/// Direction of a packet in its connection.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Direction {
    /// The direction of the packet that opened it.
    Original,
    /// The direction of its replies.
    Reply,
}

/// A connection's two tuples.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct Tuples {
    pub(crate) original: Tuple,
    pub(crate) reply: Tuple,
}

impl Tuples {
    #[inline(always)]
    pub(crate) fn get(&self, direction: Direction) -> &Tuple {
        match direction {
            Direction::Original => &self.original,
            Direction::Reply => &self.reply,
        }
    }

    /// The tuple of the packets in the opposite direction.
    #[inline]
    pub(crate) fn opposite(&self, direction: Direction) -> &Tuple {
        match direction {
            Direction::Original => &self.reply,
            Direction::Reply => &self.original,
        }
    }
}

/// A connection that a tuple led to.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Found {
    pub(crate) id: Id,
    pub(crate) direction: Direction,
    pub(crate) tuples: Tuples,
    version: u32,
}

/// Position of a slot.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct SlotId {
    bucket: usize,
    way: usize,
}

/// A bucket's slots: one cache line.
type Bucket = [AtomicU64; WAYS];

/// An entry's words: one cache line.
pub(crate) type Entry = [AtomicU32; ENTRY_WORDS];

pub(crate) const ENTRY_WORDS: usize = 16;

/// Offsets in an entry, in words.
mod word {
    /// Generation, and the bits `replacing` and `tracking`.
    pub(super) const VERSION: usize = 0;
    /// The last second in which a packet refreshed it, and the bits `half open` and `replied`.
    pub(super) const USED: usize = 1;
    /// Protocol in the low byte, the sides of the original and the reply tuple above it.
    pub(super) const KIND: usize = 2;
    /// Source address, destination address, both ports.
    pub(super) const ORIGINAL: usize = 3;
    /// Source address, destination address and both ports of the reply tuple.
    pub(super) const REPLY: usize = 6;
    /// The TCP tracker's seven words.
    pub(super) const TRACKER: usize = 9;
}

fn store_ends(entry: &Entry, at: usize, tuple: &Tuple) {
    entry[at].store(tuple.src.address.to_bits(), Ordering::Relaxed);
    entry[at + 1].store(tuple.dst.address.to_bits(), Ordering::Relaxed);
    entry[at + 2].store(u32::from(tuple.src.port) << 16 | u32::from(tuple.dst.port), Ordering::Relaxed);
}

#[inline]
fn load_ends(entry: &Entry, at: usize, side: Side, protocol: Protocol) -> Tuple {
    let [src, dst, ports] = [at, at + 1, at + 2].map(|at| entry[at].load(Ordering::Relaxed));
    Tuple {
        side,
        protocol,
        src: Endpoint::new(Ipv4Addr::from_bits(src), (ports >> 16) as u16),
        dst: Endpoint::new(Ipv4Addr::from_bits(dst), ports as u16),
    }
}

fn kind_of(tuples: &Tuples) -> u32 {
    u32::from(tuples.original.protocol.0) | (tuples.original.side as u32) << 8 | (tuples.reply.side as u32) << 9
}

fn side_of(bit: u32) -> Side {
    if bit & 1 == 0 { Side::Inside } else { Side::Outside }
}

#[inline]
fn tuples_of(entry: &Entry) -> Tuples {
    let kind = entry[word::KIND].load(Ordering::Relaxed);
    let protocol = Protocol(kind as u8);
    Tuples {
        original: load_ends(entry, word::ORIGINAL, side_of(kind >> 8), protocol),
        reply: load_ends(entry, word::REPLY, side_of(kind >> 9), protocol),
    }
}

#[inline]
fn tracker_of(entry: &Entry) -> Tracker {
    Tracker::from_words(std::array::from_fn(|at| entry[word::TRACKER + at].load(Ordering::Relaxed)))
}

/// Writes the words that have changed.
#[inline]
fn set_tracker(entry: &Entry, tracker: &Tracker) {
    for (word, value) in entry[word::TRACKER..].iter().zip(tracker.to_words()) {
        if word.load(Ordering::Relaxed) != value {
            word.store(value, Ordering::Relaxed);
        }
    }
}

/// All connections.
pub(crate) struct Table {
    slots: Lines<AtomicU64>,
    buckets: usize,
    entries: Lines<AtomicU32>,
    hasher: SipHasher13,
}

impl Table {
    /// A table with room for `connections`. `None` if the machine lacks the memory.
    pub(crate) fn new(connections: usize, seed: [u64; 2]) -> Option<Table> {
        let buckets = buckets_for(connections);
        let (slots, entries) = (Lines::new::<WAYS>(buckets)?, Lines::new::<ENTRY_WORDS>(connections)?);
        Some(Table { slots, buckets, entries, hasher: SipHasher13::new_with_keys(seed[0], seed[1]) })
    }

    /// Removes all connections, as [`Table::new`] in the same memory. False if that is not the table's own.
    pub(crate) fn reset(&mut self, seed: [u64; 2]) -> bool {
        self.hasher = SipHasher13::new_with_keys(seed[0], seed[1]);
        self.slots.clear() && self.entries.clear()
    }

    /// Where slots and entries are.
    pub(crate) fn memory(&self) -> [Range<*const u8>; 2] {
        [self.slots.memory(), self.entries.memory()]
    }

    /// The entry of a connection's number.
    #[inline(always)]
    pub(crate) fn entry(&self, id: Id) -> &Entry {
        self.entries.get(id.0 as usize)
    }

    #[inline]
    fn bucket(&self, bucket: usize) -> &Bucket {
        self.slots.get(bucket)
    }

    /// A tuple's hash.
    #[inline]
    pub(crate) fn hash(&self, tuple: &Tuple) -> u64 {
        self.hasher.hash(&tuple.to_bytes())
    }

    /// The two buckets of a hash, and its tag, from different bits of it.
    #[inline]
    fn places(&self, hash: u64) -> ([usize; 2], u32) {
        places_of(hash, self.buckets)
    }

    /// The connection that a packet with this tuple, of this hash, belongs to.
    #[inline]
    pub(crate) fn find(&self, tuple: &Tuple, hash: u64) -> Option<Found> {
        let (places, tag) = self.places(hash);
        let [_, second] = places;
        // Asked for beside the first: a tuple that is in the second bucket then waits for memory once, not twice.
        black_box(self.bucket(second)[0].load(Ordering::Relaxed));
        for bucket in places {
            let bucket = self.bucket(bucket);
            let mut matches = matches(bucket, tag);
            while matches != 0 {
                let value = bucket[matches.trailing_zeros() as usize].load(Ordering::Acquire);
                if value != 0
                    && let Some(found) = self.read(value, tuple)
                {
                    return Some(found);
                }
                matches &= matches - 1;
            }
        }
        None
    }

    /// A consistent look at the entry that a slot names, if it has this tuple.
    #[inline]
    fn read(&self, slot: u64, tuple: &Tuple) -> Option<Found> {
        let (id, direction) = slot_parts(slot);
        let entry = self.entry(id);
        for _ in 0..MAX_SPINS {
            let version = entry[word::VERSION].load(Ordering::Acquire);
            if version & REPLACING == 0 {
                let tuples = tuples_of(entry);
                fence(Ordering::Acquire);
                if entry[word::VERSION].load(Ordering::Relaxed) & !TRACKING == version & !TRACKING {
                    return (tuples.get(direction) == tuple).then_some(Found {
                        id,
                        direction,
                        tuples,
                        version: version & !TRACKING,
                    });
                }
            }
            std::hint::spin_loop();
        }
        None
    }

    /// The last second in which a packet refreshed a connection.
    #[inline]
    pub(crate) fn used(&self, id: Id) -> u32 {
        used(self.entry(id))
    }

    /// Whether one of the connection's ends has not yet shown that it takes part.
    pub(crate) fn is_half_open(&self, id: Id) -> bool {
        let entry = self.entry(id);
        match Protocol(entry[word::KIND].load(Ordering::Relaxed) as u8) {
            Protocol::TCP => !tracker_of(entry).has_opened(),
            _ => entry[word::USED].load(Ordering::Relaxed) & HALF_OPEN != 0,
        }
    }

    /// A copy of a connection's TCP tracker.
    #[inline]
    pub(crate) fn tracker(&self, id: Id) -> Tracker {
        tracker_of(self.entry(id))
    }

    /// A free slot for each of a connection's tuples, whose hashes these are; `None` if the buckets of one are full.
    pub(crate) fn free_slots(&self, hashes: [u64; 2]) -> Option<[SlotId; 2]> {
        let original = self.free_slot(hashes[0], None)?;
        Some([original, self.free_slot(hashes[1], Some(original))?])
    }

    /// Inserts a connection under a free number and into the slots that [`Table::free_slots`] found for its hashes. Only
    /// with the book's lock held since then. False, and nothing changes, if a worker kept holding the entry.
    pub(crate) fn put_in(
        &self,
        id: Id,
        tuples: &Tuples,
        (hashes, slots): ([u64; 2], [SlotId; 2]),
        tracker: Option<&Tracker>,
        secs: u32,
    ) -> bool {
        let entry = self.entry(id);
        let Some(version) = self.seize(entry) else { return false };
        // TCP has its tracker to tell.
        let used = if tracker.is_some() { secs & SECOND } else { secs & SECOND | HALF_OPEN };
        entry[word::USED].store(used, Ordering::Relaxed);
        entry[word::KIND].store(kind_of(tuples), Ordering::Relaxed);
        store_ends(entry, word::ORIGINAL, &tuples.original);
        store_ends(entry, word::REPLY, &tuples.reply);
        if let Some(tracker) = tracker {
            set_tracker(entry, tracker);
        }
        entry[word::VERSION].store(version.wrapping_add(GENERATION), Ordering::Release);
        for (direction, (hash, slot)) in [Direction::Original, Direction::Reply].into_iter().zip(hashes.into_iter().zip(slots)) {
            let (_, tag) = self.places(hash);
            self.bucket(slot.bucket)[slot.way].store(slot_value(tag, id, direction), Ordering::Release);
        }
        true
    }

    /// Removes a connection. Only with the book's lock held. False, and nothing changes, if a worker is changing its
    /// tracker.
    pub(crate) fn take_out(&self, id: Id) -> bool {
        let entry = self.entry(id);
        let Some(version) = self.seize(entry) else { return false };
        let tuples = tuples_of(entry);
        for (tuple, direction) in [(&tuples.original, Direction::Original), (&tuples.reply, Direction::Reply)] {
            let (places, tag) = self.places(self.hash(tuple));
            let value = slot_value(tag, id, direction);
            let slots = places.into_iter().flat_map(|bucket| self.bucket(bucket));
            for slot in slots.filter(|slot| slot.load(Ordering::Relaxed) == value) {
                slot.store(0, Ordering::Relaxed);
            }
        }
        entry[word::VERSION].store(version.wrapping_add(GENERATION), Ordering::Release);
        true
    }

    /// A connection's tuples. Only with the book's lock held.
    pub(crate) fn tuples(&self, id: Id) -> Tuples {
        tuples_of(self.entry(id))
    }

    /// Holds an entry so that it can be replaced. Returns its former version.
    fn seize(&self, entry: &Entry) -> Option<u32> {
        for _ in 0..MAX_SPINS {
            let version = entry[word::VERSION].load(Ordering::Relaxed) & !TRACKING;
            let taken =
                entry[word::VERSION].compare_exchange_weak(version, version | REPLACING, Ordering::Acquire, Ordering::Relaxed);
            if taken.is_ok() {
                fence(Ordering::Release);
                return Some(version);
            }
            std::hint::spin_loop();
        }
        None
    }

    /// A free slot other than `taken`: in the first of a hash's two buckets, which look-ups read first, or in the emptier
    /// one if the first is filling up, so that neither overflows.
    fn free_slot(&self, hash: u64, taken: Option<SlotId>) -> Option<SlotId> {
        let ([first, second], _) = self.places(hash);
        let is_free = |slot: &SlotId| self.bucket(slot.bucket)[slot.way].load(Ordering::Relaxed) == 0 && Some(*slot) != taken;
        let free = |bucket: usize| (0..WAYS).map(move |way| SlotId { bucket, way }).filter(is_free);
        let in_first = free(first).count();
        let bucket = if in_first < FILLING_UP && free(second).count() > in_first { second } else { first };
        free(bucket).next()
    }
}

/// Number of buckets for so many connections.
pub(crate) const fn buckets_for(connections: usize) -> usize {
    let buckets = (connections * 3).div_ceil(WAYS);
    if buckets < 2 { 2 } else { buckets }
}

#[inline]
fn places_of(hash: u64, buckets: usize) -> ([usize; 2], u32) {
    let first = (((hash & 0xffff_ffff) * buckets as u64) >> 32) as usize;
    let second = (((hash >> 32) * buckets as u64) >> 32) as usize;
    let second = if second == first { (first + 1) % buckets } else { second };
    ([first, second], (hash & 0xffff) as u32 | (hash >> 16 & 0xffff_0000) as u32)
}

/// Whether an earlier result is still the same connection, in this entry.
#[inline(always)]
pub(crate) fn is_current(entry: &Entry, found: &Found) -> bool {
    entry[word::VERSION].load(Ordering::Acquire) & !TRACKING == found.version
}

/// The last second in which a packet refreshed the connection of an entry.
#[inline(always)]
pub(crate) fn used(entry: &Entry) -> u32 {
    entry[word::USED].load(Ordering::Relaxed) & SECOND
}

/// A packet refreshes the connection that it was found to belong to, in this entry. Writes at most once a second, and when
/// a half-open connection moves on.
#[inline(always)]
pub(crate) fn refresh(entry: &Entry, found: &Found, secs: u32) {
    let used = &entry[word::USED];
    let before = used.load(Ordering::Relaxed);
    if before == secs || before == secs | HALF_OPEN && found.direction == Direction::Original {
        return;
    }
    if before & HALF_OPEN == 0 {
        used.store(secs, Ordering::Relaxed);
    } else {
        refresh_half_open(used, found, secs);
    }
}

/// Lets `work` change the TCP tracker of a connection, in this entry. `None` if the entry is no longer that
/// connection's, or if other workers kept holding the tracker.
#[inline]
pub(crate) fn track<T>(entry: &Entry, found: &Found, work: impl FnOnce(&mut Tracker) -> T) -> Option<T> {
    if !take(&entry[word::VERSION], found.version) {
        return None;
    }
    let mut tracker = tracker_of(entry);
    let result = work(&mut tracker);
    set_tracker(entry, &tracker);
    entry[word::VERSION].store(found.version, Ordering::Release);
    Some(result)
}

/// Notes a packet of a half-open connection of a protocol other than TCP.
#[cold]
fn refresh_half_open(used: &AtomicU32, found: &Found, secs: u32) {
    let after = |before: u32| {
        let flags = match (found.tuples.original.side, found.direction) {
            _ if before & HALF_OPEN == 0 => 0,
            (Side::Inside, Direction::Reply) => 0,
            (Side::Outside, Direction::Reply) => HALF_OPEN | REPLIED,
            (Side::Outside, Direction::Original) if before & REPLIED != 0 => 0,
            (_, Direction::Original) => before & !SECOND,
        };
        (before != secs | flags).then_some(secs | flags)
    };
    // A failure means that nothing is to be written.
    let _ = used.fetch_update(Ordering::Relaxed, Ordering::Relaxed, after);
}

/// The slots of a bucket with this tag, as a bit mask. It is computed without branches, which would be unpredictable.
#[inline]
fn matches(bucket: &Bucket, tag: u32) -> u32 {
    let mut matches = 0;
    for (way, slot) in bucket.iter().enumerate() {
        matches |= u32::from((slot.load(Ordering::Acquire) >> 32) as u32 == tag) << way;
    }
    matches
}

/// Sets the tracking bit of an entry. False if the entry's version has changed.
#[inline]
fn take(word: &AtomicU32, version: u32) -> bool {
    for attempt in 0..MAX_SPINS + YIELDS {
        match word.compare_exchange_weak(version, version | TRACKING, Ordering::Acquire, Ordering::Relaxed) {
            Ok(_) => return true,
            Err(now) if now & !TRACKING != version => return false,
            Err(_) if attempt < MAX_SPINS => std::hint::spin_loop(),
            Err(_) => std::thread::yield_now(),
        }
    }
    false
}

fn slot_value(tag: u32, id: Id, direction: Direction) -> u64 {
    u64::from(tag) << 32 | u64::from((id.0 + 1) << 1 | direction as u32)
}

/// The connection and direction in a slot, which must not be empty.
#[inline]
fn slot_parts(slot: u64) -> (Id, Direction) {
    let low = slot as u32;
    (Id((low >> 1).wrapping_sub(1)), if low & 1 == 0 { Direction::Original } else { Direction::Reply })
}
