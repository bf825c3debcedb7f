//! Fragmented datagrams: which fragments pass.

use std::collections::{BTreeSet, HashMap};

use nat::Endpoint;
use nat::fragments::{Fragment, HELD, HELD_AN_OWNER, HELD_LEN, Key, TIMEOUT};
use packet::Timestamp;

use crate::packets::TCP;

#[derive(Debug, Default)]
struct Datagram {
    owner: u16,
    deadline: Timestamp,
    units: BTreeSet<usize>,
    end: Option<usize>,
    translation: Option<(Endpoint, Endpoint)>,
    is_refused: bool,
}

#[derive(Debug)]
struct Held {
    key: Key,
    owner: u16,
    frame: Vec<u8>,
    deadline: Timestamp,
}

/// All datagrams.
#[derive(Debug, Default)]
pub(super) struct Datagrams {
    datagrams: HashMap<Key, Datagram>,
    held: Vec<Held>,
}

/// The fate of a fragment.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Piece {
    Refused,
    Early,
    Passes(Endpoint, Endpoint),
}

impl Datagrams {
    pub(super) fn first(&mut self, key: Key, piece: Fragment, to: (Endpoint, Endpoint), owner: u16, now: Timestamp) -> bool {
        let needed = if key.protocol == TCP { 20 } else { 8 };
        if piece.len < needed || !self.take_in(key, piece, owner, now) {
            return false;
        }
        self.datagrams.entry(key).or_default().translation = Some(to);
        self.forget_complete(key);
        true
    }

    pub(super) fn later(&mut self, key: Key, piece: Fragment, owner: u16, now: Timestamp) -> Piece {
        if key.protocol == TCP && piece.offset < 20 || !self.take_in(key, piece, owner, now) {
            return Piece::Refused;
        }
        let translation = self.datagrams[&key].translation;
        self.forget_complete(key);
        translation.map_or(Piece::Early, |(src, dst)| Piece::Passes(src, dst))
    }

    fn take_in(&mut self, key: Key, piece: Fragment, owner: u16, now: Timestamp) -> bool {
        let Fragment { offset, len, more } = piece;
        if len == 0 || more && len % 8 != 0 || offset + len > 65_515 {
            return false;
        }
        self.forget_old(key, now);
        let new = || Datagram { owner, deadline: now.after(TIMEOUT), ..Datagram::default() };
        let datagram = self.datagrams.entry(key).or_insert_with(new);
        if datagram.owner != owner || datagram.is_refused {
            return false;
        }
        let units: BTreeSet<usize> = (offset / 8..(offset + len).div_ceil(8)).collect();
        if units.is_subset(&datagram.units) {
            return false;
        }
        let last = units.last().copied().unwrap_or(0);
        let contradicts = match (datagram.end, more) {
            (Some(end), true) => last > end,
            (Some(_), false) => true,
            (None, false) => datagram.units.last().is_some_and(|highest| *highest > last),
            (None, true) => false,
        };
        if contradicts || !units.is_disjoint(&datagram.units) {
            datagram.is_refused = true;
            self.held.retain(|held| held.key != key);
            return false;
        }
        datagram.units.extend(units);
        if !more {
            datagram.end = Some(last);
        }
        true
    }

    fn forget_old(&mut self, key: Key, now: Timestamp) {
        if self.datagrams.get(&key).is_some_and(|datagram| datagram.deadline <= now) {
            self.datagrams.remove(&key);
            self.held.retain(|held| held.key != key);
        }
    }

    fn forget_complete(&mut self, key: Key) {
        let datagram = &self.datagrams[&key];
        if datagram.end.is_some_and(|end| datagram.units.len() == end + 1) {
            self.datagrams.remove(&key);
        }
    }

    pub(super) fn hold(&mut self, key: Key, frame: &[u8], owner: u16, now: Timestamp) -> bool {
        self.forget_old(key, now);
        let Some(datagram) = self.datagrams.get(&key) else { return false };
        if datagram.is_refused || datagram.owner != owner || datagram.translation.is_some() || frame.len() > HELD_LEN {
            return false;
        }
        self.held.retain(|held| held.deadline > now);
        let free = HELD - self.held.len();
        if free == 0 || self.held.iter().filter(|held| held.owner == owner).count() >= HELD_AN_OWNER.min(free) {
            return false;
        }
        self.held.push(Held { key, owner, frame: frame.to_vec(), deadline: datagram.deadline });
        true
    }

    pub(super) fn release(&mut self, key: Key) -> Vec<Vec<u8>> {
        let (released, kept) = std::mem::take(&mut self.held).into_iter().partition::<Vec<_>, _>(|held| held.key == key);
        self.held = kept;
        released.into_iter().map(|held| held.frame).collect()
    }

    /// What [`nat::Nat::expire`] forgets if its budget suffices.
    pub(super) fn expire(&mut self, now: Timestamp) {
        self.held.retain(|held| held.deadline > now);
        self.datagrams.retain(|_, datagram| datagram.deadline > now);
    }
}
