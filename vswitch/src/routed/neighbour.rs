//! The neighbours: the MAC addresses of IPv4 addresses on the router's networks (RFC 826, RFC 1122 section 2.3.2).
//!
//! ```text
//!             first packet: kept, ARP request            any ARP of it
//!   (absent) ----------------------------> incomplete --------------------> reachable
//!       ^                                   | asked again each second        |      ^
//!       |  3 requests unanswered:           | up to 3 times                  |      | any ARP of it
//!       +-- what was kept is reported <-----+              not heard for 60 s|      |
//!       |                                                  and in use        v      |
//!       +-------- 3 unanswered, or 15 min unused -------------------- asked, address still used
//! ```
//!
//! The first packets to an address wait for its reply instead of being lost: up to 128 of at most 2 KiB from each port of
//! the bridge, 512 in all. A scan of a network has little effect: each port can have 64 unanswered addresses at a time, and
//! 32 requests per second; all ports together 1024 addresses; and an unanswered address never replaces a known one (RFC
//! 6583). `waiting` has the shares.
//!
//! *Doubt.* A neighbour is asked again at once, by broadcast, if something contradicts what is known of it: the MAC table
//! knows no port with its MAC address any more, or a packet with its address came from another one. So a guest that comes
//! back with another MAC address is found again by the next packet to it. Neighbours that were heard through a port of the
//! bridge are forgotten with the port.
//!
//! *Threads.* Look-ups take no lock: a slot's key identifies its neighbour, and is read again after the value. So do walks over the
//! whole table, to list neighbours or to find those of a port that has gone. All changes are made under one lock, and only for packets
//! to unknown addresses and for ARP itself. It is held for one neighbour, or for a number of slots that does not depend on the table's
//! size, and for what waits, which is bounded by its shares.

use std::net::Ipv4Addr;
use std::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};

use packet::{MacAddr, Timestamp};
use siphasher::sip::SipHasher13;
use zerocopy::FromZeros;

use crate::limit::Bucket;
use crate::port::PortId;
use waiting::{MAX_REQUESTS, Waiting};

mod waiting;

/// Slots that are looked at in one call of [`Neighbours::poll`]; a larger table is gone through in several.
const LOOKS: usize = 1 << 16;
/// Slots that are looked at under one lock in it.
const LOOKS_AT_ONCE: usize = 1 << 10;

/// Time that an address counts as reachable after its last ARP message, in seconds.
const REACHABLE_SECS: u32 = 60;
/// Time that an unused address is remembered, in seconds.
const UNUSED_SECS: u32 = 15 * 60;
/// Maximum number of requests per second that verify known neighbours in turn, and of those that do in doubt.
const RENEWALS_PER_SEC: u32 = 100;
/// Time after an ARP message in which a neighbour is not doubted, in seconds.
const SETTLED_SECS: u32 = 1;
/// Time after a doubt that was unfounded in which a neighbour is not doubted again, in seconds.
const TRUSTED_SECS: u32 = 10;

const WAYS: usize = 8;
/// Buckets from a key's own on in which a victim is looked for: about 64 neighbours if the table is full.
const BUCKETS_INSPECTED: usize = 16;
const IN_USE: u64 = 1 << 63;

/// The size of the neighbour table.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct NeighbourConfig {
    /// Maximum number of known neighbours.
    pub size: usize,
    /// Upper bound of the bridge's port numbers, exclusive.
    pub ports: usize,
}

impl Default for NeighbourConfig {
    fn default() -> NeighbourConfig {
        NeighbourConfig { size: 1024, ports: 1025 }
    }
}

/// A network of the router.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct InterfaceId(pub u16);

/// The handling of a packet whose next hop is unknown.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Resolve {
    /// An ARP request must be sent now.
    pub ask: bool,
    /// The packet is kept until the reply arrives.
    pub kept: bool,
}

/// A task of [`Neighbours::poll`].
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Due<'a> {
    /// An ARP request must be sent, by broadcast or to the known MAC address.
    Request {
        /// The network.
        interface: InterfaceId,
        /// The requested address.
        address: Ipv4Addr,
        /// Its known MAC address; `None` for a broadcast.
        known: Option<MacAddr>,
        /// The bridge port whose packet caused the first request; [`PortId::NOWHERE`] for a known neighbour, or if it was removed.
        from: PortId,
    },
    /// A kept packet cannot be delivered.
    Undeliverable {
        /// The network.
        interface: InterfaceId,
        /// The packet as it was kept: virtio-net header and frame.
        frame: &'a [u8],
        /// The bridge port that it came in through; [`PortId::NOWHERE`] if that was removed.
        from: PortId,
    },
}

/// A neighbour, as `vswitchctl neigh show` lists it.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct NeighbourEntry {
    /// Its network.
    pub interface: InterfaceId,
    /// Its address.
    pub address: Ipv4Addr,
    /// Its MAC address, if it is known.
    pub mac: Option<MacAddr>,
    /// Seconds since its last ARP message.
    pub age: u32,
}

/// Numbers of neighbours and of waiting packets.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct NeighbourStats {
    /// Neighbours with a known MAC address, at most `max`.
    pub known: usize,
    /// Maximum number of them.
    pub max: usize,
    /// Addresses that are being resolved.
    pub incomplete: usize,
    /// Packets that wait for a reply.
    pub kept: usize,
}

/// The neighbours on all networks of the router, shared by all workers.
#[derive(Debug)]
pub struct Neighbours {
    /// Changes whenever the MAC address of a neighbour changes or is removed.
    version: AtomicU32,
    size: usize,
    slots: Box<[Slot]>,
    hasher: SipHasher13,
    book: Mutex<Book>,
}

#[derive(Debug, FromZeros)]
struct Slot {
    /// Interface and address; 0 if free.
    key: AtomicU64,
    mac: AtomicU64,
    /// Second of the last packet to it.
    used: AtomicU32,
    /// Second of the last ARP message from it, plus one.
    heard: AtomicU32,
    /// Number of requests since then. Under the lock.
    requests: AtomicU32,
    /// The bridge port that the message came through.
    port: AtomicU32,
    /// First second in which it may be doubted again.
    trusted_until: AtomicU32,
    /// It has been doubted since it was heard.
    is_doubted: AtomicBool,
}

#[derive(Debug)]
struct Book {
    known: usize,
    waiting: Waiting,
    /// Limit of requests that verify known neighbours in turn.
    renewals: Bucket,
    /// Limit of requests that verify neighbours in doubt.
    doubts: Bucket,
    /// Slot at which the next round of requests in turn starts.
    cursor: usize,
}

impl Book {
    fn bucket() -> Bucket {
        Bucket::new(RENEWALS_PER_SEC, RENEWALS_PER_SEC)
    }
}

fn key_of(interface: InterfaceId, address: Ipv4Addr) -> u64 {
    IN_USE | u64::from(interface.0) << 32 | u64::from(address.to_bits())
}

fn key_parts(key: u64) -> (InterfaceId, Ipv4Addr) {
    (InterfaceId((key >> 32) as u16 & 0x7fff), Ipv4Addr::from_bits(key as u32))
}

fn mac_word(mac: MacAddr) -> u64 {
    mac.0.iter().fold(0, |word, byte| word << 8 | u64::from(*byte))
}

fn mac_of(word: u64) -> MacAddr {
    let [_, _, a, b, c, d, e, f] = word.to_be_bytes();
    MacAddr([a, b, c, d, e, f])
}

impl Neighbours {
    /// No neighbours. `seed` is secret and differs with each start. `None` if the machine lacks the memory.
    #[must_use]
    pub fn new(config: NeighbourConfig, seed: [u64; 2]) -> Option<Neighbours> {
        let size = config.size.max(1);
        let hasher = SipHasher13::new_with_keys(seed[0], seed[1]);
        Some(Neighbours {
            version: AtomicU32::new(0),
            size,
            slots: <[Slot]>::new_box_zeroed_with_elems((size * 2).next_multiple_of(WAYS)).ok()?,
            hasher,
            book: Mutex::new(Book {
                known: 0,
                waiting: Waiting::new(size, config.ports, hasher),
                renewals: Book::bucket(),
                doubts: Book::bucket(),
                cursor: 0,
            }),
        })
    }

    /// As [`Neighbours::new`] of the same size, in the same memory. For tests that live through one short life after another.
    pub fn reset(&mut self, seed: [u64; 2]) {
        let Neighbours { version, size: _, slots, hasher, book } = self;
        *version.get_mut() = 0;
        slots.zero();
        *hasher = SipHasher13::new_with_keys(seed[0], seed[1]);
        let Book { known, waiting, renewals, doubts, cursor } = book.get_mut().unwrap_or_else(PoisonError::into_inner);
        waiting.reset(*hasher);
        (*known, *cursor) = (0, 0);
        (*renewals, *doubts) = (Book::bucket(), Book::bucket());
    }

    /// A number that changes whenever earlier look-ups may no longer be valid.
    #[inline]
    #[must_use]
    pub fn version(&self) -> u32 {
        self.version.load(Ordering::Acquire)
    }

    /// Removes a slot's neighbour.
    fn forget(&self, slot: &Slot) {
        slot.key.store(0, Ordering::Relaxed);
        self.version.fetch_add(1, Ordering::Release);
    }

    /// The number of the first slot in a key's bucket.
    #[inline]
    fn first_slot(&self, key: u64) -> usize {
        let hash = self.hasher.hash(&key.to_ne_bytes()) & u64::from(u32::MAX);
        let buckets = (self.slots.len() / WAYS) as u64;
        ((hash * buckets) >> 32) as usize * WAYS
    }

    #[inline]
    fn bucket(&self, key: u64) -> &[Slot] {
        let first = self.first_slot(key);
        &self.slots[first..first + WAYS]
    }

    /// The MAC address of a neighbour, if it is known. Records that a packet is sent to it now.
    #[inline]
    #[must_use]
    pub fn lookup(&self, interface: InterfaceId, address: Ipv4Addr, now: Timestamp) -> Option<MacAddr> {
        let (slot, mac) = self.find(interface, address)?;
        if slot.used.load(Ordering::Relaxed) != now.secs() {
            slot.used.store(now.secs(), Ordering::Relaxed);
        }
        Some(mac)
    }

    /// The MAC address of a neighbour, if it is known. Changes nothing.
    #[must_use]
    pub fn peek(&self, interface: InterfaceId, address: Ipv4Addr) -> Option<MacAddr> {
        self.find(interface, address).map(|(_, mac)| mac)
    }

    #[inline]
    fn find(&self, interface: InterfaceId, address: Ipv4Addr) -> Option<(&Slot, MacAddr)> {
        let key = key_of(interface, address);
        let slot = self.bucket(key).iter().find(|slot| slot.key.load(Ordering::Acquire) == key)?;
        let mac = slot.mac.load(Ordering::Acquire);
        (slot.key.load(Ordering::Relaxed) == key).then(|| (slot, mac_of(mac)))
    }

    /// Requests the next hop of a packet, and keeps the packet (virtio-net header and frame, still without MAC addresses)
    /// until it is known. `from` is the bridge port that the packet came from.
    pub fn resolve(&self, interface: InterfaceId, address: Ipv4Addr, frame: &[u8], from: u16, now: Timestamp) -> Resolve {
        self.lock().waiting.resolve(key_of(interface, address), frame, from, now)
    }

    /// The result that [`Neighbours::resolve`] would have for a packet of this length. Changes nothing.
    #[must_use]
    pub fn decide(&self, interface: InterfaceId, address: Ipv4Addr, len: usize, from: u16, now: Timestamp) -> Resolve {
        self.lock().waiting.decide(key_of(interface, address), from, len, now)
    }

    /// Learns from an ARP message that came through this bridge port. A known neighbour is updated; an unknown one is added
    /// if the message is for the router (`is_for_us`) or if the address is being resolved (RFC 826's merge). Returns whether
    /// packets wait for it: then call [`Neighbours::release`].
    pub fn learn(
        &self,
        interface: InterfaceId,
        address: Ipv4Addr,
        mac: MacAddr,
        port: u16,
        is_for_us: bool,
        now: Timestamp,
    ) -> bool {
        let key = key_of(interface, address);
        let mut book = self.lock();
        let is_awaited = book.waiting.contains(key);
        let known = self.bucket(key).iter().find(|slot| slot.key.load(Ordering::Relaxed) == key);
        let slot = match known {
            Some(slot) => slot,
            None if is_for_us || is_awaited => match self.make_room(&mut book, key, is_awaited, now) {
                Some(slot) => slot,
                None => return false,
            },
            None => return false,
        };
        let is_same = slot.mac.swap(mac_word(mac), Ordering::Release) == mac_word(mac);
        if !is_same {
            self.version.fetch_add(1, Ordering::Release);
        }
        let was_doubted = slot.is_doubted.swap(false, Ordering::Relaxed);
        let trusted_until = if is_same && was_doubted { now.secs() + TRUSTED_SECS } else { now.secs() + SETTLED_SECS };
        slot.trusted_until.fetch_max(trusted_until, Ordering::Relaxed);
        slot.heard.store(now.secs() + 1, Ordering::Relaxed);
        slot.requests.store(0, Ordering::Relaxed);
        slot.port.store(port.into(), Ordering::Relaxed);
        slot.key.store(key, Ordering::Release);
        book.waiting.answer(key)
    }

    /// Something contradicts the MAC address of a neighbour. Returns whether it must be asked now, by broadcast: at most once
    /// per second, and not if it was heard just before. If it does not answer, it is forgotten.
    #[cold]
    pub fn doubt(&self, interface: InterfaceId, address: Ipv4Addr, now: Timestamp) -> bool {
        let Some((slot, _)) = self.find(interface, address) else { return false };
        if now.secs() < slot.trusted_until.load(Ordering::Relaxed) {
            return false;
        }
        let mut book = self.lock();
        // Another worker may have doubted it meanwhile.
        let is_first = slot.trusted_until.fetch_max(now.secs() + 1, Ordering::Relaxed) <= now.secs();
        if !is_first || !book.doubts.take(now) {
            return false;
        }
        slot.is_doubted.store(true, Ordering::Relaxed);
        slot.requests.fetch_add(1, Ordering::Relaxed);
        true
    }

    /// A free slot in a key's bucket, or the slot of its least recently used neighbour. At the limit, the least recently used
    /// neighbour of this and the next buckets is removed. Neighbours that were never sent a packet go first.
    fn make_room(&self, book: &mut Book, key: u64, is_wanted: bool, now: Timestamp) -> Option<&Slot> {
        let is_free = |slot: &&Slot| slot.key.load(Ordering::Relaxed) == 0;
        fn longest(slots: &[Slot], now: Timestamp) -> Option<&Slot> {
            let in_use = slots.iter().filter(|slot| slot.key.load(Ordering::Relaxed) != 0);
            in_use.max_by_key(|slot| now.secs().saturating_sub(slot.used.load(Ordering::Relaxed)))
        }
        let bucket = self.bucket(key);
        let slot = match bucket.iter().find(is_free) {
            Some(slot) => {
                if book.known == self.size {
                    let (before, from) = self.slots.split_at(self.first_slot(key));
                    let mut chunks = from.chunks(BUCKETS_INSPECTED * WAYS).chain(before.chunks(BUCKETS_INSPECTED * WAYS));
                    self.forget(chunks.find_map(|slots| longest(slots, now))?);
                    book.known -= 1;
                }
                slot
            }
            None => {
                let victim = longest(bucket, now)?;
                self.forget(victim);
                book.known -= 1;
                victim
            }
        };
        slot.used.store(if is_wanted { now.secs() } else { 0 }, Ordering::Relaxed);
        slot.is_doubted.store(false, Ordering::Relaxed);
        slot.trusted_until.store(0, Ordering::Relaxed);
        book.known += 1;
        Some(slot)
    }

    /// Hands out the packets that waited for an address and the ports that they came in through, in order, until `give` has no room. Returns whether there are more:
    /// then call it again.
    pub fn release(&self, interface: InterfaceId, address: Ipv4Addr, give: impl FnMut(&[u8], PortId) -> bool) -> bool {
        self.lock().waiting.release(key_of(interface, address), give)
    }

    /// Reports the tasks that are due; to be called about once per second, by one worker. `due` has room for `room` of them, and
    /// returns whether the task was done; if not, it is due again. Addresses that are being resolved, and the packets that wait for
    /// them, have half of the room if they need it.
    pub fn poll(&self, now: Timestamp, room: usize, mut due: impl FnMut(Due<'_>) -> bool) {
        let (unresolved, kept) = self.lock().waiting.len();
        self.renew(now, room - (unresolved + kept).min(room / 2), &mut due);
        self.lock().waiting.ask_again(now, &mut due);
    }

    /// Requests known neighbours again that are in use and have not been heard for long, at most `most` of them, and removes
    /// those that do not answer or are unused. The next call begins with the first one that it had no room for, or where this one
    /// ends: it looks at [`LOOKS`] slots at most.
    fn renew(&self, now: Timestamp, most: usize, due: &mut impl FnMut(Due<'_>) -> bool) {
        let (mut left, mut next) = (most, None);
        let first = self.lock().cursor;
        let end = first + LOOKS.min(self.slots.len());
        for from in (first..end).step_by(LOOKS_AT_ONCE) {
            let mut book = self.lock();
            for at in (from..end.min(from + LOOKS_AT_ONCE)).map(|at| at % self.slots.len()) {
                if !self.renew_one(&mut book, at, now, &mut left, due) {
                    next = next.or(Some(at));
                }
            }
        }
        self.lock().cursor = next.unwrap_or(end % self.slots.len().max(1));
    }

    /// The same for one slot. False if it is due, and there was no room for it.
    fn renew_one(
        &self,
        book: &mut Book,
        at: usize,
        now: Timestamp,
        left: &mut usize,
        due: &mut impl FnMut(Due<'_>) -> bool,
    ) -> bool {
        let (slot, secs) = (&self.slots[at], now.secs());
        let key = slot.key.load(Ordering::Relaxed);
        if key == 0 {
            return true;
        }
        let unheard = (secs + 1).saturating_sub(slot.heard.load(Ordering::Relaxed));
        let unused = secs.saturating_sub(slot.used.load(Ordering::Relaxed));
        let requests = slot.requests.load(Ordering::Relaxed);
        if unused.min(unheard) > UNUSED_SECS || requests >= u32::from(MAX_REQUESTS) {
            self.forget(slot);
            book.known -= 1;
        } else if unheard > REACHABLE_SECS && unused <= REACHABLE_SECS {
            let (interface, address) = key_parts(key);
            let known = Some(mac_of(slot.mac.load(Ordering::Relaxed)));
            let request = Due::Request { interface, address, known, from: PortId::NOWHERE };
            if *left == 0 || !book.renewals.has_token(now) || !due(request) {
                return false;
            }
            book.renewals.take(now);
            slot.requests.store(requests + 1, Ordering::Relaxed);
            *left -= 1;
        }
        true
    }

    /// Removes all neighbours of a network, with the packets that wait for them.
    pub fn flush(&self, interface: InterfaceId) {
        let is_of = |key: u64| key != 0 && key_parts(key).0 == interface;
        self.forget_where(|slot| is_of(slot.key.load(Ordering::Relaxed)));
        self.lock().waiting.flush(is_of);
    }

    /// Removes ports of the bridge whose numbers will be reused, with the neighbours that were heard through them. Their packets
    /// continue to wait, and count against no port.
    pub fn disown(&self, ports: &[PortId]) {
        for port in ports {
            self.lock().waiting.disown(port.0);
        }
        let mut numbers: Vec<u32> = ports.iter().map(|port| u32::from(port.0)).collect();
        numbers.sort_unstable();
        let is_of = |slot: &Slot| numbers.binary_search(&slot.port.load(Ordering::Relaxed)).is_ok();
        self.forget_where(|slot| slot.key.load(Ordering::Relaxed) != 0 && is_of(slot));
    }

    /// Removes known neighbours of all networks, or only those with this address. Addresses that are being resolved stay, so
    /// no waiting packet is lost. Returns the number removed.
    pub fn forget_known(&self, address: Option<Ipv4Addr>) -> usize {
        let is_meant = |key: u64| key != 0 && address.is_none_or(|address| key_parts(key).1 == address);
        self.forget_where(|slot| is_meant(slot.key.load(Ordering::Relaxed)))
    }

    /// Removes the known neighbours that `is_meant` accepts, and returns their number. The lock is taken for each of them, and not for
    /// the walk over the table.
    fn forget_where(&self, is_meant: impl Fn(&Slot) -> bool) -> usize {
        let mut forgotten = 0;
        for slot in self.slots.iter().filter(|slot| is_meant(slot)) {
            let mut book = self.lock();
            // It may have been forgotten meanwhile.
            if is_meant(slot) {
                self.forget(slot);
                book.known -= 1;
                forgotten += 1;
            }
        }
        forgotten
    }

    /// Current numbers.
    #[must_use]
    pub fn stats(&self) -> NeighbourStats {
        let book = self.lock();
        let (incomplete, kept) = book.waiting.len();
        NeighbourStats { known: book.known, max: self.size, incomplete, kept }
    }

    /// All neighbours, sorted. Allocates.
    #[must_use]
    pub fn entries(&self, now: Timestamp) -> Vec<NeighbourEntry> {
        let entry = |key: u64, mac, since: u32| {
            let (interface, address) = key_parts(key);
            NeighbourEntry { interface, address, mac, age: now.secs().saturating_sub(since) }
        };
        let known = self.slots.iter().filter_map(|slot| {
            let key = slot.key.load(Ordering::Acquire);
            let (mac, heard) = (slot.mac.load(Ordering::Acquire), slot.heard.load(Ordering::Acquire));
            let is_it = key != 0 && slot.key.load(Ordering::Relaxed) == key;
            is_it.then(|| entry(key, Some(mac_of(mac)), heard.saturating_sub(1)))
        });
        let mut entries: Vec<NeighbourEntry> = known.collect();
        let book = self.lock();
        let unresolved = book.waiting.unresolved().filter(|unresolved| !unresolved.has_answered);
        entries.extend(unresolved.map(|unresolved| entry(unresolved.key, None, unresolved.asked)));
        drop(book);
        entries.sort_unstable_by_key(|entry| (entry.interface.0, entry.address));
        entries
    }

    fn lock(&self) -> MutexGuard<'_, Book> {
        self.book.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests;
