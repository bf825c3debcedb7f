//! The number of entries of each port, and the least recently used one.
//!
//! One list per port over the slots of the table, oldest first, and a heap of the ports by the length of their lists. All
//! operations are O(1) except for the heap's O(log ports).
//!
//! *Memory* is reserved at the start, and touched only for ports and slots that are used: a bridge without stations costs next to
//! nothing.

use super::slots::zeroed;
use super::{NoMemory, room_for};
use crate::port::PortId;

/// No slot. Others are their number plus one, so that untouched memory links nothing.
const NONE: u32 = 0;

/// The neighbours of a slot in its list: the older and the newer one.
type Links = [u32; 2];

const OLDER: usize = 0;
const NEWER: usize = 1;

#[derive(Clone, Copy, Debug)]
struct List {
    oldest: u32,
    newest: u32,
    len: u32,
    /// Position of the port in the heap.
    place: u32,
}

/// Lists of slots by port.
#[derive(Debug)]
pub(super) struct Usage {
    links: Box<[Links]>,
    /// Up to the highest port that has had an entry.
    lists: Vec<List>,
    /// The same ports; each parent's list is at least as long as its children's.
    heap: Vec<u32>,
    /// Ports have numbers below this.
    most: usize,
}

impl Usage {
    pub(super) fn new(ports: usize, slots: usize) -> Result<Usage, NoMemory> {
        Ok(Usage { links: zeroed(slots)?, lists: room_for(ports)?, heap: room_for(ports)?, most: ports })
    }

    /// Whether entries may have this port.
    pub(super) fn has(&self, port: PortId) -> bool {
        port.index() < self.most
    }

    /// The ports that may have entries now have numbers below this.
    pub(super) fn ports(&self) -> usize {
        self.lists.len()
    }

    /// The port with the longest list, if any list has an entry.
    pub(super) fn busiest(&self) -> Option<PortId> {
        let port = *self.heap.first()?;
        (self.lists[port as usize].len > 0).then_some(PortId(port as u16))
    }

    /// Number of entries of a port.
    pub(super) fn len(&self, port: PortId) -> u32 {
        self.lists.get(port.index()).map_or(0, |list| list.len)
    }

    /// The slot of a port's least recently used entry.
    pub(super) fn oldest(&self, port: PortId) -> Option<usize> {
        slot_of(self.lists.get(port.index())?.oldest)
    }

    /// The slots of a port's entries, the most recently used one first.
    pub(super) fn newest_first(&self, port: PortId) -> impl Iterator<Item = usize> {
        let newest = self.lists.get(port.index()).and_then(|list| slot_of(list.newest));
        std::iter::successors(newest, move |slot| slot_of(self.links[*slot][OLDER]))
    }

    /// Adds a slot as the port's most recently used one. It must be on no list.
    pub(super) fn push(&mut self, port: PortId, slot: usize) {
        // Within the reserved memory.
        while self.lists.len() <= port.index() && self.lists.len() < self.most {
            let place = self.lists.len() as u32;
            self.lists.push(List { oldest: NONE, newest: NONE, len: 0, place });
            self.heap.push(place);
        }
        let list = &mut self.lists[port.index()];
        let link = slot as u32 + 1;
        self.links[slot] = [list.newest, NONE];
        match slot_of(list.newest) {
            None => list.oldest = link,
            Some(newest) => self.links[newest][NEWER] = link,
        }
        list.newest = link;
        list.len += 1;
        let place = list.place as usize;
        self.rise(place);
    }

    /// Removes a slot from the port's list. It must be on that list.
    pub(super) fn remove(&mut self, port: PortId, slot: usize) {
        let [older, newer] = self.links[slot];
        let list = &mut self.lists[port.index()];
        match slot_of(older) {
            None => list.oldest = newer,
            Some(older) => self.links[older][NEWER] = newer,
        }
        match slot_of(newer) {
            None => list.newest = older,
            Some(newer) => self.links[newer][OLDER] = older,
        }
        list.len -= 1;
        let place = list.place as usize;
        self.sink(place);
    }

    fn len_at(&self, place: usize) -> u32 {
        self.lists[self.heap[place] as usize].len
    }

    fn swap(&mut self, a: usize, b: usize) {
        self.heap.swap(a, b);
        self.lists[self.heap[a] as usize].place = a as u32;
        self.lists[self.heap[b] as usize].place = b as u32;
    }

    fn rise(&mut self, mut place: usize) {
        while place > 0 && self.len_at(place) > self.len_at((place - 1) / 2) {
            self.swap(place, (place - 1) / 2);
            place = (place - 1) / 2;
        }
    }

    fn sink(&mut self, mut place: usize) {
        loop {
            let children = (2 * place + 1..self.heap.len()).take(2);
            let Some(longest) = children.max_by_key(|child| self.len_at(*child)) else { return };
            if self.len_at(longest) <= self.len_at(place) {
                return;
            }
            self.swap(place, longest);
            place = longest;
        }
    }
}

/// The slot that a link leads to.
fn slot_of(link: u32) -> Option<usize> {
    link.checked_sub(1).map(|slot| slot as usize)
}
