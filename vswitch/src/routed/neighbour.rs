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
//! The first packets to an address wait for its reply instead of being lost: three for each address, of at most 2 KiB, 16
//! from each port of the bridge, 64 in all. An address is requested whether its packet could be kept or not. A scan of a
//! network has little effect: each port can have 64 unanswered addresses at a time, all ports together 256, with 100
//! requests per second; and an unanswered address never replaces a known one (RFC 6583).
//!
//! *Threads.* Look-ups take no lock: a slot's key identifies its neighbour, and is read again after the value. Everything
//! else is done under one lock, and only for packets to unknown addresses and for ARP itself.

use std::net::Ipv4Addr;
use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};

use packet::{MacAddr, Timestamp};
use siphasher::sip::SipHasher13;

use crate::limit::Bucket;

/// Maximum number of known neighbours.
pub const MAX_NEIGHBOURS: usize = 1024;
/// Maximum number of unanswered addresses for one port of the bridge.
const INCOMPLETE_EACH: usize = 64;
const MAX_INCOMPLETE: usize = 256;
/// Maximum number of packets kept for one address.
const KEPT_EACH: usize = 3;
const KEPT_FROM_PORT: usize = 16;
const KEPT: usize = 64;
/// The origin of kept packets whose port was removed.
const NOBODY: u16 = u16::MAX;
/// Maximum length of a kept frame with its virtio-net header, in bytes.
const MAX_KEPT_LEN: usize = 2048;
/// Number of requests before an address counts as unreachable.
const MAX_REQUESTS: u8 = 3;
/// Time that an address counts as reachable after its last ARP message, in seconds.
const REACHABLE_SECS: u32 = 60;
/// Time that an unused address is remembered, in seconds.
const UNUSED_SECS: u32 = 15 * 60;
/// Maximum number of requests per second, over all addresses.
const REQUESTS_PER_SEC: u32 = 100;

const WAYS: usize = 8;
const BUCKETS: usize = MAX_NEIGHBOURS * 2 / WAYS;
const IN_USE: u64 = 1 << 63;

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
    },
    /// A kept packet cannot be delivered.
    Undeliverable {
        /// The network.
        interface: InterfaceId,
        /// The packet as it was kept: virtio-net header and frame.
        frame: &'a [u8],
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
    /// Neighbours with a known MAC address, at most [`MAX_NEIGHBOURS`].
    pub known: usize,
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
    slots: Box<[Slot]>,
    hasher: SipHasher13,
    book: Mutex<Book>,
}

#[derive(Debug, Default)]
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
}

#[derive(Debug)]
struct Book {
    known: usize,
    incomplete: Vec<Incomplete>,
    kept: Vec<Kept>,
    spare: Vec<Vec<u8>>,
    requests: Bucket,
    /// Limit of requests that verify known neighbours.
    renewals: Bucket,
}

#[derive(Clone, Copy, Debug)]
struct Incomplete {
    key: u64,
    /// The bridge port whose packet caused the first request.
    from: u16,
    requests: u8,
    /// Second of the last request.
    asked: u32,
}

#[derive(Debug)]
struct Kept {
    key: u64,
    from: u16,
    frame: Vec<u8>,
}

/// The handling of a packet whose next hop is unknown: decided, but not applied.
#[derive(Clone, Copy, Debug)]
struct Decision {
    resolve: Resolve,
    /// The address is not being resolved yet.
    is_new: bool,
    /// State of the request limit after this request.
    requests: Bucket,
}

impl Book {
    fn decide(&self, key: u64, from: u16, frame_len: usize, now: Timestamp) -> Decision {
        let mut requests = self.requests;
        let is_new = !self.incomplete.iter().any(|incomplete| incomplete.key == key);
        let own = || self.incomplete.iter().filter(|incomplete| incomplete.from == from).count();
        if is_new && (self.incomplete.len() == MAX_INCOMPLETE || own() == INCOMPLETE_EACH) {
            return Decision { resolve: Resolve { ask: false, kept: false }, is_new: false, requests };
        }
        let ask = is_new && requests.take(now);
        let count = |is_it: &dyn Fn(&Kept) -> bool| self.kept.iter().filter(|kept| is_it(kept)).count();
        let kept = frame_len <= MAX_KEPT_LEN
            && count(&|kept| kept.key == key) < KEPT_EACH
            && count(&|kept| kept.from == from) < KEPT_FROM_PORT
            && !self.spare.is_empty();
        Decision { resolve: Resolve { ask, kept }, is_new, requests }
    }

    fn apply(&mut self, decision: &Decision, key: u64, frame: &[u8], from: u16, now: Timestamp) {
        let Decision { resolve: Resolve { ask, kept }, is_new, requests } = *decision;
        self.requests = requests;
        if is_new {
            self.incomplete.push(Incomplete { key, from, requests: u8::from(ask), asked: now.secs() });
        }
        if kept && let Some(mut copy) = self.spare.pop() {
            copy.clear();
            copy.extend_from_slice(frame);
            self.kept.push(Kept { key, from, frame: copy });
        }
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
    /// No neighbours.
    #[must_use]
    pub fn new(seed: [u64; 2]) -> Neighbours {
        Neighbours {
            version: AtomicU32::new(0),
            slots: std::iter::repeat_with(Slot::default).take(BUCKETS * WAYS).collect(),
            hasher: SipHasher13::new_with_keys(seed[0], seed[1]),
            book: Mutex::new(Book {
                known: 0,
                incomplete: Vec::with_capacity(MAX_INCOMPLETE),
                kept: Vec::with_capacity(KEPT),
                spare: std::iter::repeat_with(|| Vec::with_capacity(MAX_KEPT_LEN)).take(KEPT).collect(),
                requests: Bucket::new(REQUESTS_PER_SEC, REQUESTS_PER_SEC),
                renewals: Bucket::new(REQUESTS_PER_SEC, REQUESTS_PER_SEC),
            }),
        }
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

    #[inline]
    fn bucket(&self, key: u64) -> &[Slot] {
        let hash = self.hasher.hash(&key.to_ne_bytes());
        let first = (hash as usize % BUCKETS) * WAYS;
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
        let key = key_of(interface, address);
        let mut book = self.lock();
        let decision = book.decide(key, from, frame.len(), now);
        book.apply(&decision, key, frame, from, now);
        decision.resolve
    }

    /// The result that [`Neighbours::resolve`] would have for a packet of this length. Changes nothing.
    #[must_use]
    pub fn decide(&self, interface: InterfaceId, address: Ipv4Addr, len: usize, from: u16, now: Timestamp) -> Resolve {
        self.lock().decide(key_of(interface, address), from, len, now).resolve
    }

    /// Learns from an ARP message. A known neighbour is updated; an unknown one is added if the message is for the router
    /// (`is_for_us`) or if the address is being resolved (RFC 826's merge). Returns whether packets wait for it: then call
    /// [`Neighbours::release`].
    pub fn learn(&self, interface: InterfaceId, address: Ipv4Addr, mac: MacAddr, is_for_us: bool, now: Timestamp) -> bool {
        let key = key_of(interface, address);
        let mut book = self.lock();
        let awaited = book.incomplete.iter().position(|incomplete| incomplete.key == key);
        let known = self.bucket(key).iter().find(|slot| slot.key.load(Ordering::Relaxed) == key);
        let slot = match known {
            Some(slot) => slot,
            None if is_for_us || awaited.is_some() => match self.make_room(&mut book, key, awaited.is_some(), now) {
                Some(slot) => slot,
                None => return false,
            },
            None => return false,
        };
        if slot.mac.swap(mac_word(mac), Ordering::Release) != mac_word(mac) {
            self.version.fetch_add(1, Ordering::Release);
        }
        slot.heard.store(now.secs() + 1, Ordering::Relaxed);
        slot.requests.store(0, Ordering::Relaxed);
        slot.key.store(key, Ordering::Release);
        if let Some(at) = awaited {
            book.incomplete.swap_remove(at);
        }
        book.kept.iter().any(|kept| kept.key == key)
    }

    /// A free slot in a key's bucket, or the slot of its least recently used neighbour. At the limit, the least recently used
    /// neighbour of all is removed. Neighbours that were never sent a packet go first.
    fn make_room(&self, book: &mut Book, key: u64, is_wanted: bool, now: Timestamp) -> Option<&Slot> {
        let is_free = |slot: &&Slot| slot.key.load(Ordering::Relaxed) == 0;
        let longest = |slots: &'_ [Slot]| {
            let in_use = slots.iter().enumerate().filter(|(_, slot)| !is_free(slot));
            in_use.max_by_key(|(_, slot)| now.secs().saturating_sub(slot.used.load(Ordering::Relaxed))).map(|(at, _)| at)
        };
        let bucket = self.bucket(key);
        let slot = match bucket.iter().find(is_free) {
            Some(slot) => {
                if book.known == MAX_NEIGHBOURS {
                    self.forget(&self.slots[longest(&self.slots)?]);
                    book.known -= 1;
                }
                slot
            }
            None => {
                let victim = &bucket[longest(bucket)?];
                self.forget(victim);
                book.known -= 1;
                victim
            }
        };
        slot.used.store(if is_wanted { now.secs() } else { 0 }, Ordering::Relaxed);
        book.known += 1;
        Some(slot)
    }

    /// Hands out the packets that waited for an address, in order.
    pub fn release(&self, interface: InterfaceId, address: Ipv4Addr, mut give: impl FnMut(&[u8])) {
        let key = key_of(interface, address);
        let mut book = self.lock();
        let mut at = 0;
        while at < book.kept.len() {
            if book.kept[at].key == key {
                let kept = book.kept.remove(at);
                give(&kept.frame);
                book.spare.push(kept.frame);
            } else {
                at += 1;
            }
        }
    }

    /// Reports the tasks that are due; to be called about once per second. `due` returns whether the task was done; if not, it
    /// is due again. Neighbours in use come first, then addresses that are being resolved.
    pub fn poll(&self, now: Timestamp, mut due: impl FnMut(Due<'_>) -> bool) {
        let mut book = self.lock();
        for slot in &self.slots {
            let key = slot.key.load(Ordering::Relaxed);
            if key != 0 {
                self.look_at(&mut book, slot, key, now, &mut due);
            }
        }
        self.ask_again(&mut book, now, &mut due);
    }

    fn ask_again(&self, book: &mut Book, now: Timestamp, due: &mut impl FnMut(Due<'_>) -> bool) {
        let mut at = 0;
        while at < book.incomplete.len() {
            let Incomplete { key, from, requests, asked } = book.incomplete[at];
            let (interface, address) = key_parts(key);
            if asked == now.secs() {
                at += 1;
            } else if requests < MAX_REQUESTS {
                if book.requests.take(now) && due(Due::Request { interface, address, known: None }) {
                    book.incomplete[at] = Incomplete { key, from, requests: requests + 1, asked: now.secs() };
                }
                at += 1;
            } else if give_up(book, key, interface, due) {
                book.incomplete.swap_remove(at);
            } else {
                at += 1;
            }
        }
    }

    /// Checks a known neighbour: it is requested again if it is in use and has not been heard for long, and removed if it does
    /// not answer or is unused.
    fn look_at(&self, book: &mut Book, slot: &Slot, key: u64, now: Timestamp, due: &mut impl FnMut(Due<'_>) -> bool) {
        let secs = now.secs();
        let unheard = (secs + 1).saturating_sub(slot.heard.load(Ordering::Relaxed));
        let unused = secs.saturating_sub(slot.used.load(Ordering::Relaxed));
        let requests = slot.requests.load(Ordering::Relaxed);
        if unused.min(unheard) > UNUSED_SECS || requests >= u32::from(MAX_REQUESTS) {
            self.forget(slot);
            book.known -= 1;
        } else if unheard > REACHABLE_SECS && unused <= REACHABLE_SECS && book.renewals.take(now) {
            let (interface, address) = key_parts(key);
            let known = Some(mac_of(slot.mac.load(Ordering::Relaxed)));
            if due(Due::Request { interface, address, known }) {
                slot.requests.store(requests + 1, Ordering::Relaxed);
            }
        }
    }

    /// Removes all neighbours of a network, with the packets that wait for them.
    pub fn flush(&self, interface: InterfaceId) {
        let mut book = self.lock();
        let book = &mut *book;
        let is_of = |key: u64| key != 0 && key_parts(key).0 == interface;
        for slot in self.slots.iter().filter(|slot| is_of(slot.key.load(Ordering::Relaxed))) {
            self.forget(slot);
            book.known -= 1;
        }
        book.incomplete.retain(|incomplete| !is_of(incomplete.key));
        while let Some(at) = book.kept.iter().position(|kept| is_of(kept.key)) {
            book.spare.push(book.kept.swap_remove(at).frame);
        }
    }

    /// Removes a port of the bridge whose number will be reused: its packets continue to wait, and count against no port.
    pub fn disown(&self, port: u16) {
        let mut book = self.lock();
        let book = &mut *book;
        let of_incomplete = book.incomplete.iter_mut().map(|incomplete| &mut incomplete.from);
        let of_kept = book.kept.iter_mut().map(|kept| &mut kept.from);
        of_incomplete.chain(of_kept).filter(|from| **from == port).for_each(|from| *from = NOBODY);
    }

    /// Removes known neighbours of all networks, or only those with this address. Addresses that are being resolved stay, so
    /// no waiting packet is lost. Returns the number removed.
    pub fn forget_known(&self, address: Option<Ipv4Addr>) -> usize {
        let mut book = self.lock();
        let is_meant = |key: u64| key != 0 && address.is_none_or(|address| key_parts(key).1 == address);
        let mut forgotten = 0;
        for slot in self.slots.iter().filter(|slot| is_meant(slot.key.load(Ordering::Relaxed))) {
            self.forget(slot);
            forgotten += 1;
        }
        book.known -= forgotten;
        forgotten
    }

    /// Current numbers.
    #[must_use]
    pub fn stats(&self) -> NeighbourStats {
        let book = self.lock();
        NeighbourStats { known: book.known, incomplete: book.incomplete.len(), kept: book.kept.len() }
    }

    /// All neighbours, sorted. Allocates.
    #[must_use]
    pub fn entries(&self, now: Timestamp) -> Vec<NeighbourEntry> {
        let book = self.lock();
        let entry = |key: u64, mac, since: u32| {
            let (interface, address) = key_parts(key);
            NeighbourEntry { interface, address, mac, age: now.secs().saturating_sub(since) }
        };
        let known = self.slots.iter().filter_map(|slot| {
            let key = slot.key.load(Ordering::Relaxed);
            let mac = mac_of(slot.mac.load(Ordering::Relaxed));
            (key != 0).then(|| entry(key, Some(mac), slot.heard.load(Ordering::Relaxed).saturating_sub(1)))
        });
        let mut entries: Vec<NeighbourEntry> =
            known.chain(book.incomplete.iter().map(|incomplete| entry(incomplete.key, None, incomplete.asked))).collect();
        entries.sort_unstable_by_key(|entry| (entry.interface.0, entry.address));
        entries
    }

    fn lock(&self) -> MutexGuard<'_, Book> {
        self.book.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Reports the packets that wait for an address that did not answer. False if there was no room for all of them.
fn give_up(book: &mut Book, key: u64, interface: InterfaceId, due: &mut impl FnMut(Due<'_>) -> bool) -> bool {
    while let Some(at) = book.kept.iter().position(|kept| kept.key == key) {
        if !due(Due::Undeliverable { interface, frame: &book.kept[at].frame }) {
            return false;
        }
        let kept = book.kept.remove(at);
        book.spare.push(kept.frame);
    }
    true
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_a_removed_port_left_counts_against_no_port() {
        let neighbours = Neighbours::new([1, 2]);
        let (now, one) = (Timestamp::from_secs(1), InterfaceId(1));
        let asks = |port: u16, last: u8| neighbours.resolve(one, Ipv4Addr::new(10, 0, port as u8, last), &[last; 60], port, now);
        let kept = |port: u16| (0..20).filter(|last| asks(port, *last).kept).count();
        assert_eq!((kept(7), kept(7)), (KEPT_FROM_PORT, 0));
        neighbours.disown(7);
        let fresh = |last: u8| neighbours.resolve(one, Ipv4Addr::new(10, 1, 0, last), &[last; 60], 7, now).kept;
        assert_eq!((0..20).filter(|last| fresh(*last)).count(), KEPT_FROM_PORT, "the new port's own share");
        let mut given = 0;
        neighbours.release(one, Ipv4Addr::new(10, 0, 7, 0), |_| given += 1);
        assert_eq!(given, 1, "what waited goes on waiting");
    }
}
