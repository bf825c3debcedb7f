//! Translation of IPv4 fragments without reassembly.
//!
//! Only the first fragment of a datagram holds the ports that determine its translation. The others are identified by
//! addresses, protocol and identification (RFC 791), so the translation of the first one is remembered for them, and
//! fragments that arrive before it can be held back (RFC 4787 REQ-14: fragments out of order must get through).
//!
//! *Each part of a datagram passes once.* A bit for every eight bytes records what has arrived. A complete duplicate is
//! refused. A fragment that overlaps earlier ones, or contradicts the datagram's end, is an attack on the reassembling
//! host: it and all later fragments are refused (RFC 1858, RFC 5722). A first fragment without the complete transport
//! header, and a TCP fragment that starts within it, are refused too (RFC 1858, RFC 3128).
//!
//! *Limits.* Fragments can be used to fill memory (RFC 4963, RFC 8900), so all of it is fixed: 1024 datagrams at a time and
//! 64 held frames. One owner (a port of the bridge) has half of the datagrams and 16 frames at most, and no more of either
//! than are free, so owners that take what they can get leave something to one that comes later. A datagram is removed when it
//! is complete, or 15 s after its first fragment, which nothing extends.
//!
//! *Senders choose the keys*, so a key's place comes from SipHash-1-3 with a secret of this process: it is one of eight
//! slots in two buckets, and there are no chains.
//!
//! ```text
//!  h = SipHash(key)   bucket[h as u32]          bucket[h >> 32]
//!                     +----+----+----+----+     +----+----+----+----+
//!                     | n  | n  | n  | n  |     | n  | n  | n  | n  |    number of the datagram + 1
//!                     +----+----+----+----+     +----+----+----+----+
//!  datagrams[n - 1]: key, owner, deadline, translation, neighbours in the order of age
//!  seen[n - 1]:      1024 bytes, a bit for each eight bytes of the datagram
//! ```
//!
//! *Threads.* The table is not shared by itself: callers with several threads keep it behind a mutex, as fragments are rare.

use std::hash::Hasher;
use std::net::Ipv4Addr;
use std::ops::Range;
use std::time::Duration;

use packet::Timestamp;
use packet::ipv4::IPV4_LEN;
use packet::tcp::{self, TCP_LEN};
use siphasher::sip::SipHasher13;

mod held;
mod units;

use held::Held;
pub use held::{HELD, HELD_AN_OWNER, HELD_LEN, HeldPlace};
use units::{Compared, Units};

/// Maximum number of fragmented datagrams at a time.
pub const DATAGRAMS: usize = 1024;

/// Maximum number of fragmented datagrams of one owner at a time; fewer if fewer are free.
pub const DATAGRAMS_AN_OWNER: usize = DATAGRAMS / 2;

/// Time that a datagram is remembered after its first fragment (the value of Open vSwitch).
pub const TIMEOUT: Duration = Duration::from_secs(15);

/// Maximum payload of a datagram in bytes: its length field, header included, has 16 bits.
const MAX_PAYLOAD: usize = 65_535 - IPV4_LEN;

/// Minimum payload of a first fragment other than TCP, in bytes: the UDP header, or ICMP up to the identifier.
const MIN_FIRST: usize = 8;

const WAYS: usize = 4;
/// Twice as many slots as datagrams, so that full buckets are rare.
const BUCKETS: usize = 2 * DATAGRAMS / WAYS;

/// Which datagram a fragment belongs to (RFC 791 section 3.2).
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub struct Key {
    /// The side of the translation that it came from, as a number.
    pub side: u8,
    /// Source address before translation.
    pub src: Ipv4Addr,
    /// Destination address before translation.
    pub dst: Ipv4Addr,
    /// Identification.
    pub id: u16,
    /// Protocol of the payload.
    pub protocol: u8,
}

/// Position of a fragment in its datagram.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Fragment {
    /// Offset of its payload within the datagram, in bytes.
    pub offset: usize,
    /// Length of its payload, in bytes.
    pub len: usize,
    /// More fragments follow.
    pub more: bool,
}

/// Why a fragment must be dropped.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum FragmentError {
    /// It has no payload, or is not the last one and not a multiple of eight bytes long.
    Unaligned,
    /// It ends beyond the longest possible datagram.
    TooLong,
    /// A first fragment without the complete transport header, or a TCP fragment that starts within it.
    Tiny,
    /// All of it has arrived before.
    Duplicate,
    /// It overlaps or contradicts earlier fragments, or belongs to a datagram with such a fragment.
    Overlap,
    /// It belongs to a datagram of another owner.
    Foreign,
    /// There are too many datagrams.
    Full,
    /// There are too many datagrams of this owner.
    OwnerFull,
    /// A frame that need not be held: its datagram is unknown, or its translation is known.
    NotWaiting,
    /// A frame that is too long to be held: more than [`HELD_LEN`] bytes.
    FrameTooLong,
    /// All places for held frames are in use.
    HeldFull,
    /// All places of this owner for held frames are in use.
    OwnerHeldFull,
}

#[derive(Clone, Copy, Debug)]
struct Datagram<T> {
    key: Key,
    owner: u16,
    deadline: Timestamp,
    translation: Option<T>,
    /// A fragment overlapped: no further one passes.
    is_refused: bool,
    units: Units,
    /// Neighbours in the list by age.
    older: u16,
    newer: u16,
}

const NONE: u16 = u16::MAX;

/// A fragment that may pass: decided, and not yet noted.
#[derive(Clone, Copy, Debug)]
pub struct Accepted<T> {
    key: Key,
    owner: u16,
    /// First unit, and the one after the last.
    units: (usize, usize),
    more: bool,
    place: EntrySlot,
    /// The translation that the datagram's fragments follow; `None` if its first one has not been seen.
    pub translation: Option<T>,
}

/// Where a fragment is noted.
#[derive(Clone, Copy, Debug)]
enum EntrySlot {
    /// With this datagram.
    Known(u16),
    /// With a new datagram, in a free slot.
    New { slot: usize },
}

/// The table; see the module's text. `T` is the translation that all of a datagram's fragments follow.
#[derive(Debug)]
pub struct Fragments<T> {
    seed: [u64; 2],
    buckets: Box<[[u16; WAYS]]>,
    datagrams: Box<[Option<Datagram<T>>]>,
    seen: Box<[u64]>,
    free: Vec<u16>,
    oldest: u16,
    newest: u16,
    /// Datagrams of each owner.
    owned: Box<[u16]>,
    held: Held,
}

impl<T: Copy> Fragments<T> {
    /// An empty table, with random numbers of this process as the key of its hash. Takes 1.5 MiB, most of which is
    /// touched only when it is used.
    #[must_use]
    pub fn new(seed: [u64; 2]) -> Fragments<T> {
        Fragments {
            seed,
            buckets: vec![[0; WAYS]; BUCKETS].into_boxed_slice(),
            datagrams: vec![None; DATAGRAMS].into_boxed_slice(),
            seen: vec![0; DATAGRAMS * units::WORDS].into_boxed_slice(),
            free: (0..DATAGRAMS as u16).rev().collect(),
            oldest: NONE,
            newest: NONE,
            owned: vec![0; 1 << 16].into_boxed_slice(),
            held: Held::new(),
        }
    }

    /// As [`Fragments::new`], in the same memory. Costs what is used of it.
    pub fn reset(&mut self, seed: [u64; 2]) {
        while self.oldest != NONE {
            self.remove(self.oldest);
        }
        self.seed = seed;
        self.free.clear();
        self.free.extend((0..DATAGRAMS as u16).rev());
        self.held.reset();
    }

    /// Whether a fragment may pass, and the translation that its datagram follows, if it is known already. Nothing is
    /// noted: that is for [`first`](Fragments::first) and [`follow`](Fragments::follow), which decide by this.
    pub fn decide(&self, key: Key, fragment: Fragment, owner: u16, now: Timestamp) -> Result<Accepted<T>, FragmentError> {
        let units = units_of(key, fragment)?;
        let accepted = |place, translation| Accepted {
            key,
            owner,
            units: (units.start, units.end),
            more: fragment.more,
            place,
            translation,
        };
        let found = self.find(key).and_then(|(_, number)| Some((number, self.datagrams[usize::from(number)]?)));
        let Some((number, datagram)) = found.filter(|(_, datagram)| datagram.deadline > now) else {
            let slot = self.free_slot(key).filter(|_| !self.free.is_empty()).ok_or(FragmentError::Full)?;
            if usize::from(self.owned[usize::from(owner)]) >= DATAGRAMS_AN_OWNER.min(self.free.len()) {
                return Err(FragmentError::OwnerFull);
            }
            return Ok(accepted(EntrySlot::New { slot }, None));
        };
        if datagram.owner != owner {
            return Err(FragmentError::Foreign);
        }
        if datagram.is_refused {
            return Err(FragmentError::Overlap);
        }
        let bits = &self.seen[usize::from(number) * units::WORDS..][..units::WORDS];
        match datagram.units.compare(bits, &units, fragment.more) {
            Compared::New => Ok(accepted(EntrySlot::Known(number), datagram.translation)),
            Compared::Duplicate => Err(FragmentError::Duplicate),
            Compared::Overlap => Err(FragmentError::Overlap),
        }
    }

    /// Takes in a first fragment, which was translated. Afterwards the caller must
    /// [`release`](Fragments::release) the frames that were held for it.
    pub fn first(
        &mut self,
        key: Key,
        fragment: Fragment,
        translation: T,
        owner: u16,
        now: Timestamp,
    ) -> Result<(), FragmentError> {
        if fragment.offset != 0 {
            return Err(FragmentError::Tiny);
        }
        let accepted = self.decide_with_room(key, fragment, owner, now)?;
        self.note(&accepted, Some(translation), now);
        Ok(())
    }

    /// Takes in a later fragment. `Some` is how to translate it. `None`: the first one has not been seen, and the frame
    /// may be [held](Fragments::hold) until it is; if it is not, it must be dropped.
    pub fn follow(&mut self, key: Key, fragment: Fragment, owner: u16, now: Timestamp) -> Result<Option<T>, FragmentError> {
        if fragment.offset == 0 {
            return Err(FragmentError::Tiny);
        }
        let accepted = self.decide_with_room(key, fragment, owner, now)?;
        self.note(&accepted, accepted.translation, now);
        Ok(accepted.translation)
    }

    /// Whether a frame of this length, whose datagram has no translation yet, can be [held](Fragments::hold).
    pub fn decide_hold(&self, len: usize, owner: u16, now: Timestamp) -> Result<HeldPlace, FragmentError> {
        self.held.decide(len, owner, now)
    }

    /// Copies a frame for which [`follow`](Fragments::follow) had no translation. `tag` is returned
    /// with it.
    pub fn hold(&mut self, key: Key, frame: &[u8], tag: u64, owner: u16, now: Timestamp) -> Result<(), FragmentError> {
        self.forget_if_old(key, now);
        let found = self.find(key).and_then(|(_, number)| self.datagrams[usize::from(number)]);
        let deadline = match found {
            Some(datagram) if datagram.is_refused => return Err(FragmentError::Overlap),
            Some(datagram) if datagram.owner != owner => return Err(FragmentError::Foreign),
            Some(datagram) if datagram.translation.is_none() => datagram.deadline,
            _ => return Err(FragmentError::NotWaiting),
        };
        let place = self.held.decide(frame.len(), owner, now)?;
        self.held.expire(now);
        self.held.put(place, key, frame, tag, owner, deadline);
        Ok(())
    }

    /// Hands out the frames held for a datagram, with their tags, in the order in which they came.
    pub fn release(&mut self, key: Key, give: impl FnMut(&[u8], u64)) {
        self.held.release(key, give);
    }

    /// Forgets datagrams and frames that are too old, at most `budget` datagrams. Returns how many
    /// datagrams those were: fewer than the budget means that it is done.
    pub fn expire(&mut self, now: Timestamp, budget: usize) -> usize {
        self.held.expire(now);
        let mut freed = 0;
        while freed < budget
            && let Some(datagram) = self.datagrams.get(usize::from(self.oldest)).copied().flatten()
            && datagram.deadline <= now
        {
            self.held.forget(datagram.key);
            self.remove(self.oldest);
            freed += 1;
        }
        freed
    }

    /// Removes an owner whose number will be reused: forgets its datagrams and frames.
    pub fn disown(&mut self, owner: u16) {
        self.held.disown(owner);
        for number in 0..DATAGRAMS as u16 {
            if let Some(datagram) = self.datagrams[usize::from(number)].filter(|datagram| datagram.owner == owner) {
                self.held.forget(datagram.key);
                self.remove(number);
            }
        }
    }

    /// When [`expire`](Fragments::expire) will have something to do.
    #[must_use]
    pub fn poll_timeout(&self) -> Option<Timestamp> {
        self.datagrams.get(usize::from(self.oldest)).copied().flatten().map(|datagram| datagram.deadline)
    }

    /// Datagrams remembered now.
    #[must_use]
    pub fn len(&self) -> usize {
        DATAGRAMS - self.free.len()
    }

    /// Whether none is.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Frames held now.
    #[must_use]
    pub fn held(&self) -> usize {
        self.held.len()
    }

    /// [`decide`](Fragments::decide), after datagrams that are too old made room; an overlap ends the datagram.
    fn decide_with_room(
        &mut self,
        key: Key,
        fragment: Fragment,
        owner: u16,
        now: Timestamp,
    ) -> Result<Accepted<T>, FragmentError> {
        units_of(key, fragment)?;
        self.forget_if_old(key, now);
        let mut decided = self.decide(key, fragment, owner, now);
        if matches!(decided, Err(FragmentError::Full | FragmentError::OwnerFull)) {
            // Each removed datagram was inserted once, so this work is bounded by the insertions.
            self.expire(now, DATAGRAMS);
            decided = self.decide(key, fragment, owner, now);
        }
        if matches!(decided, Err(FragmentError::Overlap)) {
            self.refuse(key);
        }
        decided
    }

    /// Notes a fragment that was accepted, and the translation of its datagram if it is known.
    fn note(&mut self, accepted: &Accepted<T>, translation: Option<T>, now: Timestamp) {
        let number = match accepted.place {
            EntrySlot::Known(number) => number,
            EntrySlot::New { slot } => {
                let Some(number) = self.free.pop() else { return };
                self.insert(number, slot, accepted, now);
                number
            }
        };
        let bits = &mut self.seen[usize::from(number) * units::WORDS..][..units::WORDS];
        if let Some(datagram) = &mut self.datagrams[usize::from(number)] {
            datagram.units.add(bits, &(accepted.units.0..accepted.units.1), accepted.more);
            datagram.translation = translation;
        }
        self.remove_if_complete(number);
    }

    fn insert(&mut self, number: u16, slot: usize, accepted: &Accepted<T>, now: Timestamp) {
        let Accepted { key, owner, .. } = *accepted;
        self.buckets[slot / WAYS][slot % WAYS] = number + 1;
        self.owned[usize::from(owner)] += 1;
        self.seen[usize::from(number) * units::WORDS..][..units::WORDS].fill(0);
        self.datagrams[usize::from(number)] = Some(Datagram {
            key,
            owner,
            deadline: now.after(TIMEOUT),
            translation: None,
            is_refused: false,
            units: Units::default(),
            older: self.newest,
            newer: NONE,
        });
        match self.datagrams.get_mut(usize::from(self.newest)) {
            Some(Some(newest)) => newest.newer = number,
            _ => self.oldest = number,
        }
        self.newest = number;
    }

    /// Lets no further fragment of a datagram pass.
    fn refuse(&mut self, key: Key) {
        let Some((_, number)) = self.find(key) else { return };
        if let Some(datagram) = &mut self.datagrams[usize::from(number)] {
            datagram.is_refused = true;
            self.held.forget(key);
        }
    }

    /// Forgets a datagram whose deadline has passed, so that its key is free for another.
    fn forget_if_old(&mut self, key: Key, now: Timestamp) {
        if let Some((_, number)) = self.find(key)
            && self.datagrams[usize::from(number)].is_some_and(|datagram| datagram.deadline <= now)
        {
            self.held.forget(key);
            self.remove(number);
        }
    }

    /// Removes a complete datagram. The caller releases the frames that are still held for it.
    fn remove_if_complete(&mut self, number: u16) {
        if self.datagrams[usize::from(number)].is_some_and(|datagram| datagram.units.is_complete()) {
            self.remove(number);
        }
    }

    fn remove(&mut self, number: u16) {
        let Some(Datagram { key, owner, older, newer, .. }) = self.datagrams[usize::from(number)] else { return };
        if let Some((slot, _)) = self.find(key) {
            self.buckets[slot / WAYS][slot % WAYS] = 0;
        }
        match self.datagrams.get_mut(usize::from(older)) {
            Some(Some(older)) => older.newer = newer,
            _ => self.oldest = newer,
        }
        match self.datagrams.get_mut(usize::from(newer)) {
            Some(Some(newer)) => newer.older = older,
            _ => self.newest = older,
        }
        self.datagrams[usize::from(number)] = None;
        self.owned[usize::from(owner)] -= 1;
        self.free.push(number);
    }

    /// A key's slot and the number of its datagram.
    fn find(&self, key: Key) -> Option<(usize, u16)> {
        self.slots(key).find_map(|slot| {
            let number = self.buckets[slot / WAYS][slot % WAYS].checked_sub(1)?;
            let datagram = self.datagrams[usize::from(number)].as_ref()?;
            (datagram.key == key).then_some((slot, number))
        })
    }

    /// A free slot in the emptier of a key's buckets.
    fn free_slot(&self, key: Key) -> Option<usize> {
        let [first, second] = self.places(key);
        let taken = |bucket: usize| self.buckets[bucket].iter().filter(|number| **number != 0).count();
        let bucket = if taken(second) < taken(first) { second } else { first };
        let way = self.buckets[bucket].iter().position(|number| *number == 0)?;
        Some(bucket * WAYS + way)
    }

    fn slots(&self, key: Key) -> impl Iterator<Item = usize> + use<T> {
        self.places(key).into_iter().flat_map(|bucket| bucket * WAYS..(bucket + 1) * WAYS)
    }

    fn places(&self, key: Key) -> [usize; 2] {
        let mut hasher = SipHasher13::new_with_keys(self.seed[0], self.seed[1]);
        hasher.write_u64(u64::from(key.src.to_bits()) << 32 | u64::from(key.dst.to_bits()));
        hasher.write_u32(u32::from(key.side) << 24 | u32::from(key.protocol) << 16 | u32::from(key.id));
        let hash = hasher.finish();
        [hash as usize % BUCKETS, (hash >> 32) as usize % BUCKETS]
    }
}

/// The units of its datagram that a fragment fills, if its offset and length are legal.
fn units_of(key: Key, fragment: Fragment) -> Result<Range<usize>, FragmentError> {
    let Fragment { offset, len, more } = fragment;
    let is_tcp = key.protocol == tcp::PROTOCOL;
    if offset == 0 && len < if is_tcp { TCP_LEN } else { MIN_FIRST } || is_tcp && (1..TCP_LEN).contains(&offset) {
        return Err(FragmentError::Tiny);
    }
    if len == 0 || offset % units::LEN != 0 || more && len % units::LEN != 0 {
        return Err(FragmentError::Unaligned);
    }
    if offset > MAX_PAYLOAD || len > MAX_PAYLOAD - offset {
        return Err(FragmentError::TooLong);
    }
    Ok(offset / units::LEN..(offset + len).div_ceil(units::LEN))
}

#[cfg(test)]
mod tests;
