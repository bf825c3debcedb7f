//! The MAC table: the port of each known address, per VLAN.
//!
//! A learning switch records the source of each frame and sends frames for a known destination through one port only;
//! frames for an unknown one are flooded. One table serves all workers of a bridge.
//!
//! *Key.* (VLAN, MAC): VLANs learn independently. Group addresses and zero are never learned.
//!
//! *Refresh.* A frame from a known source renews its entry. The entry records whole seconds, so that all but one frame
//! per second have nothing to write: the common case only reads shared memory.
//!
//! *Age.* An entry that was not renewed for the ageing time (300 s) is ignored by look-ups at once, and removed by
//! [`MacTable::expire`].
//!
//! *Move.* A source that appears behind another port moves its entry there at once. Moves are counted.
//!
//! *Limit.* The default is 8192 learned entries. Beyond the limit a new entry replaces the least recently used entry of
//! the port that has most, so a station that invents addresses displaces its own (Open vSwitch, `lib/mac-learning.h`,
//! calls this "a security feature").
//!
//! *Static* entries are added by the operator. Learning never overrides them; they do not age, are never evicted and survive
//! a flush. They do not count against the limit, but have a separate limit of the same size.
//!
//! *Senders choose the keys*, so the place of a key comes from SipHash-1-3 with a secret of this process, and each key has
//! eight places in two buckets; there are no chains. If all eight are in use, the least recently used entry among them of
//! the port that has most is replaced. At the limit the table is at most half full, so that is rare. All memory is
//! allocated when the table is created.
//!
//! ```text
//!  h = SipHash(key)    bucket[h as u32]            bucket[h >> 32]
//!                      +-----+-----+-----+-----+   +-----+-----+-----+-----+
//!                      |k v  |k v  |k v  |k v  |   |k v  |k v  |k v  |k v  |    64 bytes each
//!                      +-----+-----+-----+-----+   +-----+-----+-----+-----+
//!  k: 1 | MAC 48 | VLAN 12             v: seconds 32 | static 1 | port 16
//! ```
//!
//! *Threads.* Any worker may look up and learn at any time through `&self`. Look-ups take no lock:
//! a version number, odd while an entry is inserted or removed, tells a reader to look again (a seqlock). Changes are made
//! under one mutex, which a worker only *tries* to take: if another thread holds it, the frame continues without being
//! learned, and the next one of that source tries again. So no worker ever waits for another.

use std::cmp::Reverse;
use std::hash::Hasher;
use std::sync::atomic::{AtomicU64, Ordering, fence};
use std::sync::{Mutex, MutexGuard, PoisonError, TryLockError};

use crossbeam_utils::CachePadded;
use packet::vlan::VlanId;
use packet::{MacAddr, Timestamp};
use siphasher::sip::SipHasher13;

use crate::port::PortId;

mod usage;
use usage::Usage;

/// Range of the configurable number of entries.
pub const SIZE_RANGE: std::ops::RangeInclusive<usize> = 10..=1_000_000;

const WAYS: usize = 4;

/// Maximum number of moves kept until [`MacTable::take_moves`]; further moves are only counted.
const MAX_MOVES: usize = 16;

/// Number of times in a row that a reader retries because of a writer. Then it reads without waiting, because the writer may
/// have been preempted.
const READ_ATTEMPTS: usize = 16;

/// Configuration of a table.
#[derive(Clone, Copy, Debug)]
pub struct MacTableConfig {
    /// Maximum number of learned entries; clamped to [`SIZE_RANGE`].
    pub size: usize,
    /// Seconds without renewal after which an entry is removed.
    pub aging_secs: u32,
    /// Maximum number of ports.
    pub ports: usize,
    /// Secret key of the hash: random numbers of this process.
    pub seed: [u64; 2],
}

impl Default for MacTableConfig {
    /// The defaults of Open vSwitch, 64 ports, and a seed that is not secret.
    fn default() -> MacTableConfig {
        MacTableConfig { size: 8192, aging_secs: 300, ports: 64, seed: [0; 2] }
    }
}

/// Result of [`MacTable::learn`].
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Learned {
    /// A new entry.
    Added,
    /// The entry existed and is renewed.
    Refreshed,
    /// The entry existed with another port, and is moved.
    Moved {
        /// The former port.
        from: PortId,
    },
    /// Nothing is learned: not the address of a station, a static entry with another port, no such port, or the table is
    /// busy.
    Refused,
}

/// The effect of a frame on the table: decided, but not applied.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Decision {
    /// The result that [`MacTable::learn`] returns.
    pub learned: Learned,
    /// Entries to be evicted: one at the limit, and one in the buckets of the new entry.
    pub evicted: [Option<(VlanId, MacAddr)>; 2],
    change: Change,
}

impl Decision {
    const REFUSED: Decision = Decision { learned: Learned::Refused, evicted: [None; 2], change: Change::None };
}

/// The change of a [`Decision`], by slots.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Change {
    None,
    /// The entry is renewed, and moved if its port differs.
    Renew {
        slot: usize,
    },
    /// An entry is added after others are evicted.
    Add {
        slot: usize,
        evict: [Option<usize>; 2],
    },
    /// Entries are evicted at the limit, but there is no room in the buckets of the new one.
    Evict {
        evict: [Option<usize>; 2],
    },
}

/// The place of a new entry.
#[derive(Clone, Copy, Debug)]
struct Place {
    slot: usize,
    /// The entry there is evicted first.
    occupied: bool,
}

/// One entry, as `vswitchctl fdb show` lists it.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct MacEntry {
    /// The VLAN; 0 for untagged.
    pub vlan: VlanId,
    /// The address.
    pub mac: MacAddr,
    /// Its port.
    pub port: PortId,
    /// Seconds since it was last renewed; `None` if static.
    pub age: Option<u32>,
}

/// A station that appeared behind another port.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct MacMove {
    /// The VLAN; 0 for untagged.
    pub vlan: VlanId,
    /// The address.
    pub mac: MacAddr,
    /// The former port.
    pub from: PortId,
    /// The new port.
    pub to: PortId,
}

/// Counters since the table was created.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct MacTableStats {
    /// Entries learned.
    pub learned: u64,
    /// Entries that moved to another port.
    pub moved: u64,
    /// Entries replaced by others.
    pub evicted: u64,
    /// Entries that aged out.
    pub expired: u64,
    /// Current number of learned entries.
    pub entries: usize,
    /// Current number of static entries.
    pub statics: usize,
}

/// There is no room for a static entry: the limit is reached, or its buckets hold static entries only.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Full;

#[derive(Debug, Default)]
struct Slot {
    key: AtomicU64,
    value: AtomicU64,
}

/// Exactly one cache line, which `CachePadded` would round up to two.
#[derive(Debug, Default)]
#[repr(align(64))]
struct Bucket([Slot; WAYS]);

/// The table; see the module's text.
#[derive(Debug)]
pub struct MacTable {
    /// Odd while the buckets change. On a cache line of its own: every look-up reads it, and taking the lock must not
    /// pull it from the readers.
    version: CachePadded<AtomicU64>,
    buckets: Box<[Bucket]>,
    seed: [u64; 2],
    size: usize,
    aging_secs: u32,
    book: Mutex<Book>,
}

/// Data that only changes of the table need, behind the lock.
#[derive(Debug)]
struct Book {
    usage: Usage,
    stats: MacTableStats,
    /// The first moves since [`MacTable::take_moves`].
    moves: Vec<MacMove>,
    more_moves: u64,
}

/// An entry's value, unpacked.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
struct Value {
    secs: u32,
    is_static: bool,
    port: PortId,
}

impl Value {
    #[inline]
    fn pack(self) -> u64 {
        u64::from(self.secs) << 32 | u64::from(self.is_static) << 16 | u64::from(self.port.0)
    }

    #[inline]
    fn unpack(value: u64) -> Value {
        Value { secs: (value >> 32) as u32, is_static: value >> 16 & 1 != 0, port: PortId(value as u16) }
    }
}

const OCCUPIED: u64 = 1 << 63;

#[inline]
fn key_of(vlan: VlanId, mac: MacAddr) -> u64 {
    OCCUPIED | mac.to_u64() << 12 | u64::from(vlan.get())
}

fn key_parts(key: u64) -> (VlanId, MacAddr) {
    (VlanId::new(key as u16 & 0xfff).unwrap_or_default(), MacAddr::from_u64(key >> 12))
}

impl Book {
    fn note_move(&mut self, key: u64, from: PortId, to: PortId) {
        self.stats.moved += 1;
        if self.moves.len() < MAX_MOVES {
            let (vlan, mac) = key_parts(key);
            self.moves.push(MacMove { vlan, mac, from, to });
        } else {
            self.more_moves += 1;
        }
    }
}

impl MacTable {
    /// An empty table with all the memory that it will ever use: 24 bytes per slot, two to four slots per entry.
    #[must_use]
    pub fn new(config: MacTableConfig) -> MacTable {
        let size = config.size.clamp(*SIZE_RANGE.start(), *SIZE_RANGE.end());
        let buckets = (2 * size).div_ceil(WAYS).next_power_of_two();
        MacTable {
            buckets: std::iter::repeat_with(Bucket::default).take(buckets).collect(),
            version: CachePadded::default(),
            seed: config.seed,
            size,
            aging_secs: config.aging_secs,
            book: Mutex::new(Book {
                usage: Usage::new(config.ports, buckets * WAYS),
                stats: MacTableStats::default(),
                moves: Vec::with_capacity(MAX_MOVES),
                more_moves: 0,
            }),
        }
    }

    /// The port of an address, if it is known.
    #[inline]
    #[must_use]
    pub fn lookup(&self, vlan: VlanId, mac: MacAddr, now: Timestamp) -> Option<PortId> {
        let key = key_of(vlan, mac);
        let (_, value) = self.read(key, self.places(key))?;
        (!self.is_expired(value, now)).then_some(value.port)
    }

    /// Learns or renews the source of a frame that came in through this port.
    #[inline(always)]
    pub fn learn(&self, vlan: VlanId, mac: MacAddr, port: PortId, now: Timestamp) -> Learned {
        if !mac.is_station() {
            return Learned::Refused;
        }
        let key = key_of(vlan, mac);
        let places = self.places(key);
        if let Some((_, value)) = self.read(key, places)
            && value.port == port
            && (value.secs == now.secs() || value.is_static)
        {
            return Learned::Refreshed;
        }
        match self.book.try_lock() {
            Ok(mut book) => self.learn_locked(&mut book, key, places, port, now),
            Err(TryLockError::Poisoned(book)) => self.learn_locked(&mut book.into_inner(), key, places, port, now),
            Err(TryLockError::WouldBlock) => Learned::Refused,
        }
    }

    #[cold]
    fn learn_locked(&self, book: &mut Book, key: u64, places: [usize; 2], port: PortId, now: Timestamp) -> Learned {
        let decision = self.decide_locked(book, key, places, port);
        self.apply(book, &decision, key, Value { secs: now.secs(), is_static: false, port });
        decision.learned
    }

    /// The effect that [`MacTable::learn`] would have for a frame with this source. Changes nothing.
    #[must_use]
    pub fn decide(&self, vlan: VlanId, mac: MacAddr, port: PortId) -> Decision {
        if !mac.is_station() {
            return Decision::REFUSED;
        }
        let key = key_of(vlan, mac);
        self.decide_locked(&self.lock(), key, self.places(key), port)
    }

    fn decide_locked(&self, book: &Book, key: u64, places: [usize; 2], port: PortId) -> Decision {
        if port.index() >= book.usage.ports() {
            return Decision::REFUSED;
        }
        if let Some((slot, value)) = self.scan(key, places) {
            let (learned, change) = match (value.port == port, value.is_static) {
                (true, true) => (Learned::Refreshed, Change::None),
                (false, true) => (Learned::Refused, Change::None),
                (true, false) => (Learned::Refreshed, Change::Renew { slot }),
                (false, false) => (Learned::Moved { from: value.port }, Change::Renew { slot }),
            };
            return Decision { learned, evicted: [None; 2], change };
        }
        let busiest = if book.stats.entries >= self.size { book.usage.busiest() } else { None };
        let oldest = busiest.and_then(|port| book.usage.oldest(port));
        let place = self.place(book, places, oldest);
        let evict = [oldest, place.and_then(|place| place.occupied.then_some(place.slot))];
        let evicted = evict.map(|slot| slot.map(|slot| key_parts(self.slot(slot).key.load(Ordering::Relaxed))));
        match place {
            Some(place) => Decision { learned: Learned::Added, evicted, change: Change::Add { slot: place.slot, evict } },
            None => Decision { learned: Learned::Refused, evicted, change: Change::Evict { evict } },
        }
    }

    /// Applies a decision. Only with the lock held since the decision was made.
    fn apply(&self, book: &mut Book, decision: &Decision, key: u64, fresh: Value) {
        match decision.change {
            Change::None => {}
            Change::Renew { slot } => {
                let old = Value::unpack(self.slot(slot).value.load(Ordering::Relaxed));
                book.usage.remove(old.port, slot);
                book.usage.push(fresh.port, slot);
                self.slot(slot).value.store(fresh.pack(), Ordering::Relaxed);
                if old.port != fresh.port {
                    book.note_move(key, old.port, fresh.port);
                }
            }
            Change::Add { slot, evict } => {
                self.evict(book, evict);
                self.put_in(slot, key, fresh);
                book.usage.push(fresh.port, slot);
                book.stats.entries += 1;
                book.stats.learned += 1;
            }
            Change::Evict { evict } => self.evict(book, evict),
        }
    }

    fn evict(&self, book: &mut Book, slots: [Option<usize>; 2]) {
        for slot in slots.into_iter().flatten() {
            self.take_out(book, slot);
            book.stats.evicted += 1;
        }
    }

    /// Adds a static entry, which replaces a learned one of the same address.
    pub fn add_static(&self, vlan: VlanId, mac: MacAddr, port: PortId) -> Result<(), Full> {
        let mut book = self.lock();
        let key = key_of(vlan, mac);
        let places = self.places(key);
        let value = Value { secs: 0, is_static: true, port };
        let found = self.scan(key, places);
        if let Some((slot, old)) = found
            && old.is_static
        {
            self.slot(slot).value.store(value.pack(), Ordering::Relaxed);
            return Ok(());
        }
        if book.stats.statics >= self.size {
            return Err(Full);
        }
        if let Some((slot, _)) = found {
            self.take_out(&mut book, slot);
        }
        let Place { slot, occupied } = self.place(&book, places, None).ok_or(Full)?;
        self.evict(&mut book, [occupied.then_some(slot), None]);
        self.put_in(slot, key, value);
        book.stats.statics += 1;
        Ok(())
    }

    /// Removes an entry, static or learned. False if it does not exist.
    pub fn remove(&self, vlan: VlanId, mac: MacAddr) -> bool {
        let mut book = self.lock();
        let key = key_of(vlan, mac);
        let Some((slot, _)) = self.scan(key, self.places(key)) else { return false };
        self.take_out(&mut book, slot);
        true
    }

    /// Removes learned entries: all, or those of this port and this VLAN. Returns their number.
    pub fn flush(&self, port: Option<PortId>, vlan: Option<VlanId>) -> usize {
        let mut book = self.lock();
        if port.is_some_and(|port| book.usage.len(port) == 0) {
            return 0;
        }
        let mut flushed = 0;
        for slot in 0..self.buckets.len() * WAYS {
            let key = self.slot(slot).key.load(Ordering::Relaxed);
            let value = Value::unpack(self.slot(slot).value.load(Ordering::Relaxed));
            if key != 0
                && !value.is_static
                && port.is_none_or(|port| value.port == port)
                && vlan.is_none_or(|vlan| key_parts(key).0 == vlan)
            {
                self.take_out(&mut book, slot);
                flushed += 1;
            }
        }
        flushed
    }

    /// Removes all entries of a removed port, learned and static. Returns their number.
    pub fn forget(&self, port: PortId) -> usize {
        let mut book = self.lock();
        if book.usage.len(port) == 0 && book.stats.statics == 0 {
            return 0;
        }
        let mut forgotten = 0;
        for slot in 0..self.buckets.len() * WAYS {
            let key = self.slot(slot).key.load(Ordering::Relaxed);
            if key != 0 && Value::unpack(self.slot(slot).value.load(Ordering::Relaxed)).port == port {
                self.take_out(&mut book, slot);
                forgotten += 1;
            }
        }
        forgotten
    }

    /// Removes up to `budget` entries that have aged out. Returns their number: fewer than the budget means that there are no
    /// more.
    pub fn expire(&self, now: Timestamp, budget: usize) -> usize {
        let mut book = self.lock();
        let mut expired = 0;
        for port in 0..book.usage.ports() {
            let port = PortId(port as u16);
            while expired < budget
                && let Some(slot) = book.usage.oldest(port)
                && self.is_expired(Value::unpack(self.slot(slot).value.load(Ordering::Relaxed)), now)
            {
                self.take_out(&mut book, slot);
                expired += 1;
            }
        }
        book.stats.expired += expired as u64;
        expired
    }

    /// Maximum number of learned entries.
    #[must_use]
    pub fn size(&self) -> usize {
        self.size
    }

    /// The counters so far.
    #[must_use]
    pub fn stats(&self) -> MacTableStats {
        self.lock().stats
    }

    /// The moves since the last call: the first `MAX_MOVES`, and the number of further ones.
    pub fn take_moves(&self) -> (Vec<MacMove>, u64) {
        let room = Vec::with_capacity(MAX_MOVES);
        let mut book = self.lock();
        let more = std::mem::take(&mut book.more_moves);
        (std::mem::replace(&mut book.moves, room), more)
    }

    /// All entries that have not aged out, sorted by VLAN and address. Allocates.
    #[must_use]
    pub fn entries(&self, now: Timestamp) -> Vec<MacEntry> {
        let _book = self.lock();
        let mut entries: Vec<MacEntry> = (0..self.buckets.len() * WAYS)
            .filter_map(|slot| {
                let slot = self.slot(slot);
                let key = slot.key.load(Ordering::Relaxed);
                let value = Value::unpack(slot.value.load(Ordering::Relaxed));
                let (vlan, mac) = key_parts(key);
                let age = (!value.is_static).then(|| now.secs().saturating_sub(value.secs));
                (key != 0 && !self.is_expired(value, now)).then_some(MacEntry { vlan, mac, port: value.port, age })
            })
            .collect();
        entries.sort_unstable_by_key(|entry| (entry.vlan, entry.mac));
        entries
    }

    fn lock(&self) -> MutexGuard<'_, Book> {
        self.book.lock().unwrap_or_else(PoisonError::into_inner)
    }

    #[inline]
    fn is_expired(&self, value: Value, now: Timestamp) -> bool {
        !value.is_static && now.secs().saturating_sub(value.secs) >= self.aging_secs
    }

    /// The two buckets of a key.
    #[inline]
    fn places(&self, key: u64) -> [usize; 2] {
        let mut hasher = SipHasher13::new_with_keys(self.seed[0], self.seed[1]);
        hasher.write_u64(key);
        let hash = hasher.finish();
        let mask = self.buckets.len() - 1;
        let (first, second) = (hash as usize & mask, (hash >> 32) as usize & mask);
        [first, if second == first { first ^ (1 & mask) } else { second }]
    }

    #[inline]
    fn slot(&self, slot: usize) -> &Slot {
        &self.buckets[slot / WAYS].0[slot % WAYS]
    }

    /// Reads a key's entry consistently, without the lock.
    #[inline]
    fn read(&self, key: u64, places: [usize; 2]) -> Option<(usize, Value)> {
        for _ in 0..READ_ATTEMPTS {
            let version = self.version.load(Ordering::Acquire);
            if version & 1 == 0 {
                let found = self.scan(key, places);
                fence(Ordering::Acquire);
                if self.version.load(Ordering::Relaxed) == version {
                    return found;
                }
            }
            std::hint::spin_loop();
        }
        // There is one change at a time. While it is in progress, all other slots are unchanged, and its own slot has no key
        // until its value is written; a slot that was reused meanwhile has another key.
        let (slot, value) = self.scan(key, places)?;
        (self.slot(slot).key.load(Ordering::Acquire) == key).then_some((slot, value))
    }

    #[inline]
    fn scan(&self, key: u64, places: [usize; 2]) -> Option<(usize, Value)> {
        for bucket in places {
            for (way, slot) in self.buckets[bucket].0.iter().enumerate() {
                if slot.key.load(Ordering::Acquire) == key {
                    return Some((bucket * WAYS + way, Value::unpack(slot.value.load(Ordering::Acquire))));
                }
            }
        }
        None
    }

    /// The place for a new entry once the one in slot `gone` is taken out: a free slot in the emptier of two buckets, or
    /// the slot of a victim in them, chosen as fairly as at the limit. `None` if all entries are static.
    fn place(&self, book: &Book, places: [usize; 2], gone: Option<usize>) -> Option<Place> {
        let slots = |bucket: usize| bucket * WAYS..(bucket + 1) * WAYS;
        let is_free = |slot: &usize| Some(*slot) == gone || self.slot(*slot).key.load(Ordering::Relaxed) == 0;
        let free = |bucket: usize| slots(bucket).filter(is_free).count();
        let emptier = if free(places[1]) > free(places[0]) { places[1] } else { places[0] };
        if let Some(slot) = slots(emptier).find(is_free) {
            return Some(Place { slot, occupied: false });
        }
        let value = |slot: usize| Value::unpack(self.slot(slot).value.load(Ordering::Relaxed));
        // The entry that is gone no longer counts for its port.
        let gone_from = gone.map(|slot| value(slot).port);
        let len = |port: PortId| book.usage.len(port) - u32::from(gone_from == Some(port));
        let learned = places.into_iter().flat_map(slots).filter(|slot| !value(*slot).is_static);
        let victim = learned.min_by_key(|slot| (Reverse(len(value(*slot).port)), value(*slot).secs))?;
        Some(Place { slot: victim, occupied: true })
    }

    fn put_in(&self, slot: usize, key: u64, value: Value) {
        self.change(|| {
            self.slot(slot).value.store(value.pack(), Ordering::Relaxed);
            self.slot(slot).key.store(key, Ordering::Release);
        });
    }

    fn take_out(&self, book: &mut Book, slot: usize) {
        let value = Value::unpack(self.slot(slot).value.load(Ordering::Relaxed));
        self.change(|| self.slot(slot).key.store(0, Ordering::Relaxed));
        if value.is_static {
            book.stats.statics -= 1;
        } else {
            book.usage.remove(value.port, slot);
            book.stats.entries -= 1;
        }
    }

    /// Makes a change that readers see as a whole or not at all. Only with the lock held.
    fn change(&self, stores: impl FnOnce()) {
        let version = self.version.load(Ordering::Relaxed) | 1;
        self.version.store(version, Ordering::Relaxed);
        fence(Ordering::Release);
        stores();
        self.version.store(version.wrapping_add(1), Ordering::Release);
    }
}

#[cfg(test)]
mod tests;
