//! Addresses that are being resolved, and the packets that wait for them.
//!
//! ```text
//!  places, 8 in a bucket         packets, 2 KiB each
//!  +---------------------+       +--------+    +--------+
//!  | address, port, asked| ----> | oldest | -> | newest |
//!  +---------------------+       +--------+    +--------+
//! ```
//!
//! *Shares.* A port of the bridge may have as many addresses and packets here as are free, and no more than a fixed number
//! of each; so however many ports scan their network, there is room for one that comes later. Its requests are limited per
//! second, whatever those of others are.
//!
//! All memory is reserved at the start, and touched only when it is used.

use packet::Timestamp;
use siphasher::sip::SipHasher13;

use super::{Due, Resolve, key_parts};
use crate::port::PortId;

/// Maximum number of addresses that are being resolved.
const MAX_UNRESOLVED: usize = 1024;
/// Maximum number of them for one port of the bridge.
const UNRESOLVED_EACH: u16 = 64;
/// Maximum number of packets that wait.
const KEPT: usize = 512;
/// Maximum number of them from one port of the bridge.
pub(super) const KEPT_EACH: u16 = 128;
/// Maximum length of a packet that waits, with its virtio-net header, in bytes.
const MAX_KEPT_LEN: usize = 2048;
/// Maximum number of requests per second for the packets of one port of the bridge.
const REQUESTS_EACH: u32 = 32;
/// Number of requests before an address counts as unreachable.
pub(super) const MAX_REQUESTS: u8 = 3;

const WAYS: usize = 8;
/// Places for each address, so that a bucket is hardly ever full.
const PLACES_EACH: usize = 4;
/// The number of no packet.
const NONE: u16 = u16::MAX;

/// An address that is being resolved.
#[derive(Clone, Copy, Debug)]
pub(super) struct Unresolved {
    pub(super) key: u64,
    /// The bridge port whose packet caused the first request.
    from: u16,
    requests: u8,
    /// Second of the last request.
    pub(super) asked: u32,
    /// It has answered, and its packets are about to be sent.
    pub(super) has_answered: bool,
    /// Its packets.
    oldest: u16,
    newest: u16,
}

/// A packet's place among those that wait.
#[derive(Clone, Copy, Debug)]
struct Kept {
    from: u16,
    len: u16,
    newer: u16,
}

#[derive(Debug)]
pub(super) struct Waiting {
    hasher: SipHasher13,
    places: Box<[Option<Unresolved>]>,
    most: usize,
    /// The port of what removed ports have left: one above the highest.
    nobody: u16,
    unresolved: usize,
    kept: Vec<Kept>,
    frames: Vec<u8>,
    free: Vec<u16>,
    /// Number of addresses, by port.
    unresolved_of: Vec<u16>,
    /// Number of packets, by port.
    kept_of: Vec<u16>,
    /// Second of the last request plus one, and number of requests in it, by port.
    asked_in: Vec<[u32; 2]>,
    /// Place at which the next round of requests starts.
    cursor: usize,
}

impl Waiting {
    /// Beside a table of `size` known neighbours, for port numbers below `ports`.
    pub(super) fn new(size: usize, ports: usize, hasher: SipHasher13) -> Waiting {
        let most = MAX_UNRESOLVED.min(size);
        let nobody = ports.min(usize::from(u16::MAX)) as u16;
        let counts = usize::from(nobody) + 1;
        Waiting {
            hasher,
            places: vec![None; (most * PLACES_EACH).next_multiple_of(WAYS)].into_boxed_slice(),
            most,
            nobody,
            unresolved: 0,
            kept: Vec::with_capacity(KEPT),
            frames: Vec::with_capacity(KEPT * MAX_KEPT_LEN),
            free: Vec::with_capacity(KEPT),
            unresolved_of: vec![0; counts],
            kept_of: vec![0; counts],
            asked_in: vec![[0; 2]; counts],
            cursor: 0,
        }
    }

    /// As new ones of the same size, in the same memory.
    pub(super) fn reset(&mut self, hasher: SipHasher13) {
        let Waiting {
            hasher: hasher_now,
            places,
            most: _,
            nobody: _,
            unresolved,
            kept,
            frames,
            free,
            unresolved_of,
            kept_of,
            asked_in,
            cursor,
        } = self;
        places.fill(None);
        kept.clear();
        frames.clear();
        free.clear();
        unresolved_of.fill(0);
        kept_of.fill(0);
        asked_in.fill([0; 2]);
        (*hasher_now, *unresolved, *cursor) = (hasher, 0, 0);
    }

    fn bucket(&self, key: u64) -> std::ops::Range<usize> {
        let first = (self.hasher.hash(&key.to_ne_bytes()) as usize % (self.places.len() / WAYS)) * WAYS;
        first..first + WAYS
    }

    fn find(&self, key: u64) -> Option<usize> {
        self.bucket(key).find(|at| self.places[*at].is_some_and(|unresolved| unresolved.key == key))
    }

    fn kept_now(&self) -> usize {
        self.kept.len() - self.free.len()
    }

    /// Whether an address is being resolved.
    pub(super) fn contains(&self, key: u64) -> bool {
        self.find(key).is_some()
    }

    /// Numbers of addresses and of packets.
    pub(super) fn len(&self) -> (usize, usize) {
        (self.unresolved, self.kept_now())
    }

    pub(super) fn unresolved(&self) -> impl Iterator<Item = &Unresolved> {
        self.places.iter().flatten()
    }

    /// The handling of a packet of this length for this address. Changes nothing.
    pub(super) fn decide(&self, key: u64, from: u16, len: usize, now: Timestamp) -> Resolve {
        let from = from.min(self.nobody);
        let is_new = !self.contains(key);
        let most = UNRESOLVED_EACH.min((self.most - self.unresolved) as u16);
        let has_place = || self.bucket(key).any(|at| self.places[at].is_none());
        if is_new && (self.unresolved_of[usize::from(from)] >= most || !has_place()) {
            return Resolve { ask: false, kept: false };
        }
        let most = usize::from(KEPT_EACH).min(KEPT - self.kept_now());
        let kept = len <= MAX_KEPT_LEN && usize::from(self.kept_of[usize::from(from)]) < most;
        Resolve { ask: is_new && self.may_ask(from, now), kept }
    }

    /// [`Waiting::decide`], carried out.
    pub(super) fn resolve(&mut self, key: u64, frame: &[u8], from: u16, now: Timestamp) -> Resolve {
        let from = from.min(self.nobody);
        let resolve = self.decide(key, from, frame.len(), now);
        let at = match self.find(key) {
            Some(at) => at,
            None if resolve == (Resolve { ask: false, kept: false }) => return resolve,
            None => {
                let Some(at) = self.bucket(key).find(|at| self.places[*at].is_none()) else { return resolve };
                let (requests, asked) = (u8::from(resolve.ask), now.secs());
                let has_answered = false;
                self.places[at] = Some(Unresolved { key, from, requests, asked, has_answered, oldest: NONE, newest: NONE });
                self.unresolved += 1;
                self.unresolved_of[usize::from(from)] += 1;
                at
            }
        };
        if resolve.ask {
            self.note_request(from, now);
        }
        if resolve.kept {
            self.keep(at, frame, from);
        }
        resolve
    }

    fn may_ask(&self, from: u16, now: Timestamp) -> bool {
        let [second, count] = self.asked_in[usize::from(from)];
        second != now.secs() + 1 || count < REQUESTS_EACH
    }

    fn note_request(&mut self, from: u16, now: Timestamp) {
        let [second, count] = &mut self.asked_in[usize::from(from)];
        *count = if *second == now.secs() + 1 { *count + 1 } else { 1 };
        *second = now.secs() + 1;
    }

    fn keep(&mut self, at: usize, frame: &[u8], from: u16) {
        let Some(unresolved) = &mut self.places[at] else { return };
        let kept = Kept { from, len: frame.len() as u16, newer: NONE };
        let number = match self.free.pop() {
            Some(number) => {
                self.kept[usize::from(number)] = kept;
                number
            }
            None => {
                self.kept.push(kept);
                self.frames.resize(self.kept.len() * MAX_KEPT_LEN, 0);
                (self.kept.len() - 1) as u16
            }
        };
        let start = usize::from(number) * MAX_KEPT_LEN;
        self.frames[start..start + frame.len()].copy_from_slice(frame);
        match self.kept.get_mut(usize::from(unresolved.newest)) {
            Some(newest) => newest.newer = number,
            None => unresolved.oldest = number,
        }
        unresolved.newest = number;
        self.kept_of[usize::from(from)] += 1;
    }

    /// An address has answered. Returns whether packets wait for it.
    pub(super) fn answer(&mut self, key: u64) -> bool {
        let Some(at) = self.find(key) else { return false };
        let Some(unresolved) = &mut self.places[at] else { return false };
        if unresolved.oldest == NONE {
            self.remove(at);
            return false;
        }
        unresolved.has_answered = true;
        true
    }

    /// Hands out the packets that wait for an address, in order, until `give` has no room. Returns whether there are more.
    pub(super) fn release(&mut self, key: u64, mut give: impl FnMut(&[u8], PortId) -> bool) -> bool {
        let Some(at) = self.find(key) else { return false };
        while let Some((frame, from)) = self.oldest(at) {
            if !give(frame, from) {
                return true;
            }
            self.pop(at);
        }
        if self.places[at].is_some_and(|unresolved| unresolved.has_answered) {
            self.remove(at);
        }
        false
    }

    /// The oldest packet that waits for the address in a place, and its port.
    fn oldest(&self, at: usize) -> Option<(&[u8], PortId)> {
        let number = self.places[at]?.oldest;
        let kept = self.kept.get(usize::from(number))?;
        let start = usize::from(number) * MAX_KEPT_LEN;
        Some((&self.frames[start..start + usize::from(kept.len)], self.port(kept.from)))
    }

    /// The port by which something counts here; [`PortId::NOWHERE`] if that was removed.
    fn port(&self, from: u16) -> PortId {
        if from == self.nobody { PortId::NOWHERE } else { PortId(from) }
    }

    fn pop(&mut self, at: usize) {
        let Some(unresolved) = &mut self.places[at] else { return };
        let Some(kept) = self.kept.get(usize::from(unresolved.oldest)) else { return };
        self.free.push(unresolved.oldest);
        self.kept_of[usize::from(kept.from)] -= 1;
        unresolved.oldest = kept.newer;
        if kept.newer == NONE {
            unresolved.newest = NONE;
        }
    }

    fn remove(&mut self, at: usize) {
        while self.oldest(at).is_some() {
            self.pop(at);
        }
        if let Some(unresolved) = self.places[at].take() {
            self.unresolved -= 1;
            self.unresolved_of[usize::from(unresolved.from)] -= 1;
        }
    }

    /// Reports requests that are due again, and packets whose address did not answer. `due` returns whether it had room; the
    /// next round goes on where it had none.
    pub(super) fn ask_again(&mut self, now: Timestamp, due: &mut impl FnMut(Due<'_>) -> bool) {
        for step in 0..self.places.len() {
            let at = (self.cursor + step) % self.places.len();
            if !self.ask_one(at, now, due) {
                self.cursor = at;
                return;
            }
        }
    }

    /// Whether there was room for what is due for the address in this place.
    fn ask_one(&mut self, at: usize, now: Timestamp, due: &mut impl FnMut(Due<'_>) -> bool) -> bool {
        let Some(Unresolved { key, from, requests, asked, .. }) = self.places[at] else { return true };
        let (interface, address) = key_parts(key);
        if asked == now.secs() || requests < MAX_REQUESTS && !self.may_ask(from, now) {
            return true;
        }
        if requests < MAX_REQUESTS {
            if !due(Due::Request { interface, address, known: None, from: self.port(from) }) {
                return false;
            }
            self.note_request(from, now);
            if let Some(unresolved) = &mut self.places[at] {
                (unresolved.requests, unresolved.asked) = (requests + 1, now.secs());
            }
            return true;
        }
        while let Some((frame, from)) = self.oldest(at) {
            if !due(Due::Undeliverable { interface, frame, from }) {
                return false;
            }
            self.pop(at);
        }
        self.remove(at);
        true
    }

    /// Removes the addresses that `is_meant` accepts, with their packets.
    pub(super) fn flush(&mut self, is_meant: impl Fn(u64) -> bool) {
        for at in 0..self.places.len() {
            if self.places[at].is_some_and(|unresolved| is_meant(unresolved.key)) {
                self.remove(at);
            }
        }
    }

    /// What a port has here counts against no port from now on.
    pub(super) fn disown(&mut self, port: u16) {
        let Waiting { places, kept, unresolved_of, kept_of, asked_in, nobody, .. } = self;
        if port >= *nobody {
            return;
        }
        let of_places = places.iter_mut().flatten().map(|unresolved| &mut unresolved.from);
        let of_kept = kept.iter_mut().map(|kept| &mut kept.from);
        of_places.chain(of_kept).filter(|from| **from == port).for_each(|from| *from = *nobody);
        for counts in [unresolved_of, kept_of] {
            counts[usize::from(*nobody)] += std::mem::take(&mut counts[usize::from(port)]);
        }
        asked_in[usize::from(port)] = [0; 2];
    }
}
