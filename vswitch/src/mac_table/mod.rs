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
//! *Move.* A source that appears behind another port moves its entry there at once. Moves are counted, and the loop guard
//! (`loop_guard.rs`) looks for those that do not end.
//!
//! *Limit.* The default is 8192 learned entries. Beyond the limit a new entry replaces the least recently used entry of
//! the port that has most, so a station that invents addresses displaces its own (Open vSwitch, `lib/mac-learning.h`,
//! calls this "a security feature").
//!
//! *Static* entries are added by the operator. Learning never overrides them; they do not age, are never evicted and survive
//! a flush. They do not count against the limit, but have a separate limit of the same size.
//!
//! *Threads.* Any worker may look up and learn at any time through `&self`. Look-ups take no lock (`slots.rs`). Changes are made
//! under one mutex, which a worker only *tries* to take: if another thread holds it, the frame continues without being
//! learned, and the next one of that source tries again. So no worker ever waits for another. Each worker remembers the answers
//! for the addresses that it saw last (`memo.rs`).
//!
//! *Memory.* All of it is allocated when the table is created: eight places for each key, and at the limit at most half of them
//! in use.

mod blocked;
mod loop_guard;
mod memo;
mod slots;
#[cfg(test)]
mod tests;
mod usage;

use std::alloc::{Layout, handle_alloc_error};
use std::cmp::Reverse;
use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError, TryLockError};

use crossbeam_utils::CachePadded;
use packet::vlan::VlanId;
use packet::{MacAddr, Timestamp};

use self::blocked::Blocks;
pub use self::loop_guard::{FIRST_BLOCK, LAST_BLOCK, Loop};
use self::loop_guard::{LoopGuard, Noted};
pub use self::memo::MacMemo;
use self::slots::{Slots, Value, key_of, key_parts, slots_of};
use self::usage::Usage;
use crate::port::PortId;

/// Range of the configurable number of entries.
pub const SIZE_RANGE: std::ops::RangeInclusive<usize> = 10..=1_000_000;

/// Maximum number of moves kept until [`MacTable::take_moves`]; further moves are only counted.
const MAX_MOVES: usize = 16;

/// Configuration of a table.
#[derive(Clone, Copy, Debug)]
pub struct MacTableConfig {
    /// Maximum number of learned entries; clamped to [`SIZE_RANGE`].
    pub size: usize,
    /// Seconds without renewal after which an entry is removed, at least 1.
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
    /// Nothing is learned, and the frame came back through a loop: the loop guard has blocked the port, and the station is
    /// behind another one.
    Blocked,
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

/// The table; see the module's text.
#[derive(Debug)]
pub struct MacTable {
    slots: Slots,
    size: usize,
    aging_secs: AtomicU32,
    /// When the last of the ports is released that the loop guard has blocked, in milliseconds.
    guarded_until: AtomicU64,
    /// VLANs of each port that the loop guard has blocked.
    blocks: Blocks,
    /// On cache lines of its own: every look-up reads what stands beside it.
    book: CachePadded<Mutex<Book>>,
}

/// Memory for this many items, untouched until they are used.
fn room_for<T>(count: usize) -> Result<Vec<T>, NoMemory> {
    let mut room = Vec::new();
    room.try_reserve_exact(count).map_err(|_| NoMemory)?;
    Ok(room)
}

/// Data that only changes of the table need, behind the lock.
#[derive(Debug)]
struct Book {
    usage: Usage,
    stats: MacTableStats,
    /// The first moves since [`MacTable::take_moves`].
    moves: Vec<MacMove>,
    more_moves: u64,
    guard: LoopGuard,
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

/// The machine lacks the memory for a table.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct NoMemory;

/// Why a table cannot have another size.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Unsizable {
    /// The machine lacks the memory.
    NoMemory,
    /// It has this number of static entries, which do not fit.
    Statics(usize),
}

impl MacTable {
    /// An empty table with all the memory that it will ever use: 24 bytes per slot, two to four slots per entry. Without the memory
    /// the process ends, as after any other failed allocation.
    #[must_use]
    pub fn new(config: MacTableConfig) -> MacTable {
        MacTable::try_new(config).unwrap_or_else(|NoMemory| handle_alloc_error(Layout::new::<MacTable>()))
    }

    /// The same; an error without the memory, as where the kernel promises no more of it than there is.
    pub fn try_new(config: MacTableConfig) -> Result<MacTable, NoMemory> {
        let size = config.size.clamp(*SIZE_RANGE.start(), *SIZE_RANGE.end());
        let slots = Slots::new(2 * size, config.seed)?;
        Ok(MacTable {
            size,
            aging_secs: AtomicU32::new(config.aging_secs.max(1)),
            guarded_until: AtomicU64::new(0),
            blocks: Blocks::new(config.ports)?,
            book: CachePadded::new(Mutex::new(Book {
                usage: Usage::new(config.ports, slots.len())?,
                stats: MacTableStats::default(),
                moves: Vec::with_capacity(MAX_MOVES),
                more_moves: 0,
                guard: LoopGuard::new(config.ports)?,
            })),
            slots,
        })
    }

    /// A table of another configuration that takes over what this one knows: static entries, ages, loops and counters. If it has no
    /// room for all learned entries, each port keeps those that were renewed last. Refused if it has none for all static ones.
    pub fn resized(&self, config: MacTableConfig, now: Timestamp) -> Result<MacTable, Unsizable> {
        let table = MacTable::try_new(config).map_err(|NoMemory| Unsizable::NoMemory)?;
        let before = self.lock();
        let statics = before.stats.statics;
        let mut entries: Vec<(u64, Value)> = (0..self.slots.len())
            .map(|slot| (self.slots.key(slot), self.slots.value(slot)))
            .filter(|(key, value)| *key != 0 && !self.is_expired(*value, now))
            .collect();
        table.follow(&before, now);
        drop(before);
        // Those that were renewed last are learned last.
        entries.sort_unstable_by_key(|(_, value)| (!value.is_static, value.secs));
        for (key, value) in entries {
            let (vlan, mac) = key_parts(key);
            if value.is_static {
                table.add_static(vlan, mac, value.port).map_err(|Full| Unsizable::Statics(statics))?;
            } else {
                let mut book = table.lock();
                let decision = table.decide_locked(&book, key, table.slots.places(key), value.port);
                table.apply(&mut book, &decision, key, value);
            }
        }
        let stats = self.stats();
        let mut book = table.lock();
        book.stats = MacTableStats { entries: book.stats.entries, statics: book.stats.statics, ..stats };
        drop(book);
        Ok(table)
    }

    /// Changes the time without renewal after which an entry is removed, in seconds.
    pub fn set_aging(&self, secs: u32) {
        let _book = self.lock();
        self.slots.change(|| self.aging_secs.store(secs.max(1), Ordering::Relaxed));
    }

    /// The port of an address, if it is known.
    #[inline]
    #[must_use]
    pub fn lookup(&self, vlan: VlanId, mac: MacAddr, now: Timestamp) -> Option<PortId> {
        let key = key_of(vlan, mac);
        let (_, value) = self.slots.read(key, self.slots.places(key))?;
        (!self.is_expired(value, now)).then_some(value.port)
    }

    /// Learns or renews the source of a frame that came in through this port.
    #[inline(always)]
    pub fn learn(&self, vlan: VlanId, mac: MacAddr, port: PortId, now: Timestamp) -> Learned {
        if !mac.is_station() {
            return Learned::Refused;
        }
        let key = key_of(vlan, mac);
        let places = self.slots.places(key);
        if let Some((_, value)) = self.slots.read(key, places) {
            let is_same = value.port == port;
            if is_same && value.secs == now.secs() {
                return Learned::Refreshed;
            }
            // A station that sends with the address of a static entry must not take the lock for each frame.
            if value.is_static {
                return if is_same { Learned::Refreshed } else { Learned::Refused };
            }
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
        if let (Learned::Moved { from }, Change::Renew { slot }) = (decision.learned, decision.change) {
            if self.may_be_back(slot, (key_parts(key).0, port), now) {
                return Learned::Blocked;
            }
            let hash = places[0] ^ places[1];
            match book.guard.note((key, hash), key_parts(key), [from, port], self.was_heard(slot, now), now) {
                Noted::Move => {}
                Noted::Pinned => return Learned::Blocked,
                Noted::Loop(found) => {
                    book.note_move(key, from, port);
                    self.break_loop(book, (slot, key), &found, now);
                    return Learned::Blocked;
                }
            }
        }
        self.apply(book, &decision, key, Value { secs: now.secs(), is_static: false, port });
        decision.learned
    }

    /// The effect that [`MacTable::learn`] would have for a frame with this source. Changes nothing.
    #[must_use]
    pub fn decide(&self, vlan: VlanId, mac: MacAddr, port: PortId, now: Timestamp) -> Decision {
        if !mac.is_station() {
            return Decision::REFUSED;
        }
        let key = key_of(vlan, mac);
        let decision = self.decide_locked(&self.lock(), key, self.slots.places(key), port);
        match (decision.learned, decision.change) {
            (Learned::Moved { .. }, Change::Renew { slot }) if self.may_be_back(slot, (vlan, port), now) => {
                Decision { learned: Learned::Blocked, change: Change::None, ..decision }
            }
            _ => decision,
        }
    }

    fn decide_locked(&self, book: &Book, key: u64, places: [usize; 2], port: PortId) -> Decision {
        if !book.usage.has(port) {
            return Decision::REFUSED;
        }
        if let Some((slot, value)) = self.slots.scan(key, places) {
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
        let evicted = evict.map(|slot| slot.map(|slot| key_parts(self.slots.key(slot))));
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
                let old = self.slots.value(slot);
                book.usage.remove(old.port, slot);
                book.usage.push(fresh.port, slot);
                if old.port == fresh.port {
                    self.slots.renew(slot, fresh);
                } else {
                    self.slots.relocate(slot, fresh);
                    book.note_move(key, old.port, fresh.port);
                }
            }
            Change::Add { slot, evict } => {
                self.evict(book, evict);
                self.slots.fill(slot, key, fresh);
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
        let places = self.slots.places(key);
        let value = Value { secs: 0, is_static: true, port };
        let found = self.slots.scan(key, places);
        if let Some((slot, old)) = found
            && old.is_static
        {
            self.slots.relocate(slot, value);
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
        self.slots.fill(slot, key, value);
        book.stats.statics += 1;
        Ok(())
    }

    /// Removes an entry, static or learned. False if it does not exist.
    pub fn remove(&self, vlan: VlanId, mac: MacAddr) -> bool {
        let mut book = self.lock();
        let key = key_of(vlan, mac);
        let Some((slot, _)) = self.slots.scan(key, self.slots.places(key)) else { return false };
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
        for slot in 0..self.slots.len() {
            let key = self.slots.key(slot);
            let value = self.slots.value(slot);
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

    /// Removes all entries of a port, learned and static, or those of the VLANs that it no longer carries. Returns their number.
    pub fn remove_port(&self, port: PortId, carries: impl Fn(VlanId) -> bool) -> usize {
        let mut book = self.lock();
        book.guard.forget(port);
        self.block(&book, port);
        if book.usage.len(port) == 0 && book.stats.statics == 0 {
            return 0;
        }
        let mut removed = 0;
        for slot in 0..self.slots.len() {
            let key = self.slots.key(slot);
            if key != 0 && self.slots.value(slot).port == port && !carries(key_parts(key).0) {
                self.take_out(&mut book, slot);
                removed += 1;
            }
        }
        removed
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
                && self.is_expired(self.slots.value(slot), now)
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
        let mut entries: Vec<MacEntry> = (0..self.slots.len())
            .filter_map(|slot| {
                let (key, value) = (self.slots.key(slot), self.slots.value(slot));
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
        !value.is_static && now.secs().saturating_sub(value.secs) >= self.aging_secs.load(Ordering::Relaxed)
    }

    /// The place for a new entry once the one in slot `gone` is taken out: a free slot in the emptier of two buckets, or
    /// the slot of a victim in them, chosen as fairly as at the limit. `None` if all entries are static.
    fn place(&self, book: &Book, places: [usize; 2], gone: Option<usize>) -> Option<Place> {
        let is_free = |slot: &usize| Some(*slot) == gone || self.slots.key(*slot) == 0;
        let free = |bucket: usize| slots_of(bucket).filter(is_free).count();
        let emptier = if free(places[1]) > free(places[0]) { places[1] } else { places[0] };
        if let Some(slot) = slots_of(emptier).find(is_free) {
            return Some(Place { slot, occupied: false });
        }
        let value = |slot: usize| self.slots.value(slot);
        // The entry that is gone no longer counts for its port.
        let gone_from = gone.map(|slot| value(slot).port);
        let len = |port: PortId| book.usage.len(port) - u32::from(gone_from == Some(port));
        let learned = places.into_iter().flat_map(slots_of).filter(|slot| !value(*slot).is_static);
        let victim = learned.min_by_key(|slot| (Reverse(len(value(*slot).port)), value(*slot).secs))?;
        Some(Place { slot: victim, occupied: true })
    }

    fn take_out(&self, book: &mut Book, slot: usize) {
        let value = self.slots.value(slot);
        self.slots.clear(slot);
        if value.is_static {
            book.stats.statics -= 1;
        } else {
            book.usage.remove(value.port, slot);
            book.stats.entries -= 1;
        }
    }
}
