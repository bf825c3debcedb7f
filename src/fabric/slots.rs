//! The numbers of ports: so many places as there will ever be, handed out and taken back.
//!
//! A port's number is an index in every worker: into its view of the ports, its queues, its counters; and into what is
//! shared, the MAC table and the shares of the translation. All of that has its memory before the first frame, so there
//! are so many numbers as there are ports at the start and room for more ([`capacity`]), and never another.
//!
//! ```text
//!          take                     give_back                 all workers obeyed
//!   free ---------> taken (a port) -----------> resting ----------------------------> free
//! ```
//!
//! *Rest.* When a port is taken away its workers are told, and each obeys between two batches. Until the last of them
//! did, frames may still come in by the number, be counted there, or teach the MAC table that somebody is behind it. So
//! the number rests. A word that each worker answers (`Command::Barrier`) goes behind the one that takes the port away;
//! once all have answered, nothing of the former port can come any more, what it left in shared tables is taken out, and
//! the number is free. A worker that never answers costs numbers and harms nobody.
//!
//! *The lowest number first*, so that what looks at all ports (a flood) looks at no more of them than there were at once.
//!
//! *Memory.* A number costs each worker about 1.5 KiB (a queue for a batch 512 bytes, counters 640, its view of the port and
//! the descriptors the rest), and all of them together 32 bytes of the translation's and the MAC table's books.
//! Room for 256 more ports and two workers is thus less than 1 MiB.

use vswitch::PortId;

/// There is room for so many ports more than at the start, or for as many again if that is more.
const ROOM: usize = 256;

/// What a number is used for.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Slot {
    Free,
    Taken,
    Resting,
}

/// All numbers.
#[derive(Debug)]
pub(crate) struct Slots {
    slots: Vec<Slot>,
    rests: Vec<Rest>,
    next_rest: u64,
}

/// Numbers that wait for workers to obey.
#[derive(Debug)]
struct Rest {
    number: u64,
    ports: Vec<PortId>,
    /// Workers that have not answered.
    awaited: usize,
}

/// How many numbers there are for so many ports at the start: room for [`ROOM`] more, or for as many again.
pub(crate) fn capacity(ports: usize) -> usize {
    ports + ports.max(ROOM)
}

impl Slots {
    /// All free.
    pub(crate) fn new(capacity: usize) -> Slots {
        Slots { slots: vec![Slot::Free; capacity], rests: Vec::new(), next_rest: 0 }
    }

    pub(crate) fn capacity(&self) -> usize {
        self.slots.len()
    }

    /// How many could be taken now.
    #[cfg(test)]
    pub(crate) fn room(&self) -> usize {
        self.free().count()
    }

    /// The lowest that are free, so many if there are; nobody has them yet.
    pub(crate) fn next(&self, count: usize) -> Vec<PortId> {
        self.free().take(count).collect()
    }

    /// This one is a port's now.
    pub(crate) fn mark(&mut self, id: PortId) {
        self.slots[id.index()] = Slot::Taken;
    }

    /// The lowest that is free.
    pub(crate) fn take(&mut self) -> Option<PortId> {
        let id = self.free().next()?;
        self.slots[id.index()] = Slot::Taken;
        Some(id)
    }

    /// So many, the lowest first; or none at all.
    pub(crate) fn take_many(&mut self, count: usize) -> Option<Vec<PortId>> {
        let ids: Vec<PortId> = self.free().take(count).collect();
        if ids.len() < count {
            return None;
        }
        ids.iter().for_each(|id| self.slots[id.index()] = Slot::Taken);
        Some(ids)
    }

    /// No worker was told of these yet: they are free again at once.
    pub(crate) fn put_back(&mut self, ids: &[PortId]) {
        ids.iter().for_each(|id| self.slots[id.index()] = Slot::Free);
    }

    /// These are no ports any more. Returns what each of `workers` is to answer, after it was told so.
    #[must_use]
    pub(crate) fn give_back(&mut self, ports: Vec<PortId>, workers: usize) -> u64 {
        ports.iter().for_each(|id| self.slots[id.index()] = Slot::Resting);
        let number = self.next_rest;
        self.next_rest += 1;
        self.rests.push(Rest { number, ports, awaited: workers });
        number
    }

    /// A worker answered. Returns the numbers for which it was the last: to be [`Slots::put_back`] when what they left is
    /// taken out.
    pub(crate) fn answered(&mut self, number: u64) -> Vec<PortId> {
        let Some(at) = self.rests.iter().position(|rest| rest.number == number) else { return Vec::new() };
        self.rests[at].awaited = self.rests[at].awaited.saturating_sub(1);
        if self.rests[at].awaited > 0 {
            return Vec::new();
        }
        self.rests.swap_remove(at).ports
    }

    /// Are there numbers that wait for workers?
    pub(crate) fn is_resting(&self) -> bool {
        !self.rests.is_empty()
    }

    fn free(&self) -> impl Iterator<Item = PortId> {
        self.slots.iter().enumerate().filter(|(_, slot)| **slot == Slot::Free).map(|(at, _)| PortId(at as u16))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_number_rests_until_all_workers_answered() {
        let mut slots = Slots::new(3);
        assert_eq!(slots.take_many(2), Some(vec![PortId(0), PortId(1)]));
        let first = slots.give_back(vec![PortId(0)], 2);
        assert_eq!((slots.take(), slots.take()), (Some(PortId(2)), None), "the first is still in use");
        assert_eq!(slots.answered(first), []);
        let second = slots.give_back(vec![PortId(1)], 2);
        assert_eq!(slots.answered(second), [], "the other rest is not this one");
        assert_eq!(slots.answered(first), [PortId(0)]);
        assert_eq!(slots.take(), None);
        slots.put_back(&[PortId(0)]);
        assert_eq!((slots.room(), slots.take()), (1, Some(PortId(0))));
        assert_eq!(slots.answered(first), [], "a late answer is no news");
    }

    #[test]
    fn many_or_none_and_the_lowest_first() {
        let mut slots = Slots::new(capacity(2));
        assert_eq!(slots.capacity(), 258);
        assert_eq!(slots.take_many(259), None);
        assert_eq!(slots.room(), 258, "none was kept");
        for _ in 0..1000 {
            let id = slots.take().unwrap();
            assert_eq!(id, PortId(0));
            let rest = slots.give_back(vec![id], 1);
            let ids = slots.answered(rest);
            slots.put_back(&ids);
        }
        assert_eq!(capacity(1000), 2000);
    }
}
