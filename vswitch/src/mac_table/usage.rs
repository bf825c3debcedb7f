//! The number of entries of each port, and the least recently used one.
//!
//! One list per port over the slots of the table, oldest first, and a heap of the ports by the length of their lists. All
//! operations are O(1) except for the heap's O(log ports).

use crate::port::PortId;

const NONE: u32 = u32::MAX;

#[derive(Clone, Copy, Debug)]
struct Links {
    older: u32,
    newer: u32,
}

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
    lists: Box<[List]>,
    /// Ports; each parent's list is at least as long as its children's.
    heap: Box<[u32]>,
}

impl Usage {
    pub(super) fn new(ports: usize, slots: usize) -> Usage {
        let ports = ports as u32;
        Usage {
            links: vec![Links { older: NONE, newer: NONE }; slots].into_boxed_slice(),
            lists: (0..ports).map(|place| List { oldest: NONE, newest: NONE, len: 0, place }).collect(),
            heap: (0..ports).collect(),
        }
    }

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
        let slot = self.lists.get(port.index())?.oldest;
        (slot != NONE).then_some(slot as usize)
    }

    /// The slots of a port's entries, the most recently used one first.
    pub(super) fn newest_first(&self, port: PortId) -> impl Iterator<Item = usize> {
        let next = |slot: u32| (slot != NONE).then_some(slot as usize);
        let newest = self.lists.get(port.index()).and_then(|list| next(list.newest));
        std::iter::successors(newest, move |slot| next(self.links[*slot].older))
    }

    /// Adds a slot as the port's most recently used one. It must be on no list.
    pub(super) fn push(&mut self, port: PortId, slot: usize) {
        let list = &mut self.lists[port.index()];
        self.links[slot] = Links { older: list.newest, newer: NONE };
        match list.newest {
            NONE => list.oldest = slot as u32,
            newest => self.links[newest as usize].newer = slot as u32,
        }
        list.newest = slot as u32;
        list.len += 1;
        let place = list.place as usize;
        self.rise(place);
    }

    /// Removes a slot from the port's list. It must be on that list.
    pub(super) fn remove(&mut self, port: PortId, slot: usize) {
        let Links { older, newer } = self.links[slot];
        let list = &mut self.lists[port.index()];
        match older {
            NONE => list.oldest = newer,
            older => self.links[older as usize].newer = newer,
        }
        match newer {
            NONE => list.newest = older,
            newer => self.links[newer as usize].older = older,
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
