//! The slots of the MAC table: a hash table of fixed size that is read without a lock.
//!
//! *Senders choose the keys*, so the place of a key comes from SipHash-1-3 with a secret of this process, and each key has
//! eight places in two buckets; there are no chains. If all eight are in use, the least recently used entry among them of
//! the port that has most is replaced. At the limit the table is at most half full, so that is rare.
//!
//! ```text
//!  h = SipHash(key)    bucket[h as u32]            bucket[h >> 32]
//!                      +-----+-----+-----+-----+   +-----+-----+-----+-----+
//!                      |k v  |k v  |k v  |k v  |   |k v  |k v  |k v  |k v  |    64 bytes each
//!                      +-----+-----+-----+-----+   +-----+-----+-----+-----+
//!  k: 1 | MAC 48 | VLAN 12             v: seconds 32 | static 1 | port 16
//! ```
//!
//! *Threads.* Readers take no lock: a version number, odd while an entry is inserted, removed or moved to another port, tells a
//! reader to look again (a seqlock). Everything that writes is called with the table's lock held.

use std::hash::Hasher;
use std::ops::Range;
use std::sync::atomic::{AtomicU64, Ordering, fence};

use crossbeam_utils::CachePadded;
use packet::MacAddr;
use packet::vlan::VlanId;
use siphasher::sip::SipHasher13;
use zerocopy::FromZeros;

use super::NoMemory;
use crate::port::PortId;

/// Slots of a bucket.
const WAYS: usize = 4;

/// Number of times in a row that a reader retries because of a writer. Then it reads without waiting, because the writer may
/// have been preempted.
const READ_ATTEMPTS: usize = 16;

/// The highest bit of a key that is in use.
const OCCUPIED: u64 = 1 << 63;

/// The slots; see the module's text.
#[derive(Debug)]
pub(super) struct Slots {
    /// Odd while the buckets change. On a cache line of its own: every look-up reads it, and taking the lock must not
    /// pull it from the readers.
    version: CachePadded<AtomicU64>,
    /// The slots' words, bucket by bucket: key and value of each slot. They are zero until they are used, and the allocator returns
    /// untouched zero memory only without an alignment, so the buckets begin at the first cache line.
    words: Box<[AtomicU64]>,
    base: usize,
    buckets: usize,
    seed: [u64; 2],
}

/// Words of a slot: its key and its value.
const SLOT_WORDS: usize = 2;

/// Words of a bucket, exactly one cache line.
const BUCKET_WORDS: usize = WAYS * SLOT_WORDS;

/// An entry's value, unpacked.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct Value {
    /// When it was last renewed.
    pub(super) secs: u32,
    pub(super) is_static: bool,
    pub(super) port: PortId,
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

/// The key of an address; never 0, which is that of a free slot.
#[inline(always)]
pub(super) fn key_of(vlan: VlanId, mac: MacAddr) -> u64 {
    OCCUPIED | mac.to_u64() << 12 | u64::from(vlan.get())
}

pub(super) fn key_parts(key: u64) -> (VlanId, MacAddr) {
    (VlanId::new(key as u16 & 0xfff).unwrap_or_default(), MacAddr::from_u64(key >> 12))
}

/// Whether no entry was being changed at this version.
#[inline]
pub(super) fn is_settled(version: u64) -> bool {
    version & 1 == 0
}

/// The slots of a bucket.
pub(super) fn slots_of(bucket: usize) -> Range<usize> {
    bucket * WAYS..(bucket + 1) * WAYS
}

/// Items that are zero, in memory that is untouched until they are used.
pub(super) fn zeroed<T: FromZeros>(count: usize) -> Result<Box<[T]>, NoMemory> {
    <[T]>::new_box_zeroed_with_elems(count).map_err(|_| NoMemory)
}

impl Slots {
    /// At least this many free slots, allocated at once.
    pub(super) fn new(count: usize, seed: [u64; 2]) -> Result<Slots, NoMemory> {
        let buckets = count.div_ceil(WAYS).next_power_of_two();
        let words: Box<[AtomicU64]> = zeroed((buckets + 1) * BUCKET_WORDS)?;
        let base = words.as_ptr().align_offset(BUCKET_WORDS * size_of::<AtomicU64>()) % BUCKET_WORDS;
        Ok(Slots { version: CachePadded::default(), words, base, buckets, seed })
    }

    /// Number of slots.
    pub(super) fn len(&self) -> usize {
        self.buckets * WAYS
    }

    /// The two buckets of a key.
    #[inline]
    pub(super) fn places(&self, key: u64) -> [usize; 2] {
        let mut hasher = SipHasher13::new_with_keys(self.seed[0], self.seed[1]);
        hasher.write_u64(key);
        let hash = hasher.finish();
        let mask = self.buckets - 1;
        let (first, second) = (hash as usize & mask, (hash >> 32) as usize & mask);
        [first, if second == first { first ^ (1 & mask) } else { second }]
    }

    /// Reads a key's entry consistently, without the lock. Returns its slot and value.
    #[inline]
    pub(super) fn read(&self, key: u64, places: [usize; 2]) -> Option<(usize, Value)> {
        for _ in 0..READ_ATTEMPTS {
            let version = self.version();
            if is_settled(version) {
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
        (self.slot(slot)[0].load(Ordering::Acquire) == key).then_some((slot, value))
    }

    /// Reads a key's entry with the lock held.
    #[inline]
    pub(super) fn scan(&self, key: u64, places: [usize; 2]) -> Option<(usize, Value)> {
        for bucket in places {
            for (way, [slot, value]) in self.bucket(bucket).as_chunks().0.iter().enumerate() {
                if slot.load(Ordering::Acquire) == key {
                    return Some((bucket * WAYS + way, Value::unpack(value.load(Ordering::Acquire))));
                }
            }
        }
        None
    }

    /// The key in a slot; 0 if it is free.
    pub(super) fn key(&self, slot: usize) -> u64 {
        self.slot(slot)[0].load(Ordering::Relaxed)
    }

    /// The value in a slot, which has no meaning if the slot is free.
    pub(super) fn value(&self, slot: usize) -> Value {
        Value::unpack(self.slot(slot)[1].load(Ordering::Relaxed))
    }

    /// The current version. While it is the same and [settled](is_settled), the same keys have the same ports.
    #[inline(always)]
    pub(super) fn version(&self) -> u64 {
        self.version.load(Ordering::Acquire)
    }

    /// Gives the entry in a slot another time, with the same port.
    pub(super) fn renew(&self, slot: usize, value: Value) {
        self.slot(slot)[1].store(value.pack(), Ordering::Relaxed);
    }

    /// Gives the entry in a slot another port.
    pub(super) fn relocate(&self, slot: usize, value: Value) {
        self.change(|| self.renew(slot, value));
    }

    /// Puts an entry into a free slot.
    pub(super) fn fill(&self, slot: usize, key: u64, value: Value) {
        self.change(|| {
            self.slot(slot)[1].store(value.pack(), Ordering::Relaxed);
            self.slot(slot)[0].store(key, Ordering::Release);
        });
    }

    /// Removes the entry of a slot.
    pub(super) fn clear(&self, slot: usize) {
        self.change(|| self.slot(slot)[0].store(0, Ordering::Relaxed));
    }

    #[inline]
    fn bucket(&self, bucket: usize) -> &[AtomicU64; BUCKET_WORDS] {
        &self.words[self.base..].as_chunks().0[bucket]
    }

    /// The key and the value of a slot.
    #[inline]
    fn slot(&self, slot: usize) -> &[AtomicU64; SLOT_WORDS] {
        &self.bucket(slot / WAYS).as_chunks().0[slot % WAYS]
    }

    /// Makes a change that readers see as a whole or not at all, and after which answers of before are worth nothing.
    pub(super) fn change(&self, stores: impl FnOnce()) {
        let version = self.version.load(Ordering::Relaxed) | 1;
        self.version.store(version, Ordering::Relaxed);
        fence(Ordering::Release);
        stores();
        self.version.store(version.wrapping_add(1), Ordering::Release);
    }
}
