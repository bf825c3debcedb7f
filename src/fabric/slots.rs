//! Port numbers: a fixed range, handed out and taken back.
//!
//! A port's number is an index in every worker: into its view of the ports, its queues, its counters; and into what is
//! shared, the MAC table and the shares of the translation. Shared tables are as long as the range, which is therefore fixed at the
//! start, by `max-ports` ([`capacity`]); workers allocate what a port needs when they obey the command that attaches it.
//!
//! ```text
//!          take                     give_back                 all workers obeyed
//!   free ---------> taken (a port) -----------> resting ----------------------------> free
//! ```
//!
//! *Rest.* When a port is removed, each worker obeys between two batches. Until the last of them has, frames may still arrive by
//! the number, be counted under it, or be learned from. So the number rests. A `Command::Barrier`, which each worker answers, goes
//! behind the command that removes the port; once all have answered, nothing of the former port can happen any more, its entries in
//! shared tables are taken out, and the number is free. A worker that never answers costs numbers and does no other harm.
//!
//! *The lowest number first*, so that a walk over all ports (a flood) visits no more numbers than there were ports at once.
//!
//! *Memory.* A port costs each worker about 3 KiB: a queue for a batch of 256 frames (2 KiB, given back with the port), counters, its
//! view of the port and the descriptors. A number that no port has had costs nothing but 32 bytes of the translation's and the
//! neighbours' books: counters and MAC tables are address space until they are used.

use vswitch::PortId;

/// Numbers beyond one for each port, at least: ports of a change are opened before those that it replaces are gone, and receiving
/// sockets of tunnels have numbers too.
const MORE: usize = 256;

/// The state of a number.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Slot {
    Free,
    Taken,
    Resting,
}

/// All numbers.
#[derive(Debug)]
pub(crate) struct Slots {
    capacity: usize,
    /// Up to the highest number that was ever taken; those above are free.
    slots: Vec<Slot>,
    rests: Vec<Rest>,
    next_rest: u64,
}

/// Numbers that rest until all workers have obeyed.
#[derive(Debug)]
struct Rest {
    number: u64,
    ports: Vec<PortId>,
    /// Workers that have not answered yet.
    awaited: usize,
}

/// The size of the range for at most this many ports at a time: all of them may be replaced in one change.
pub(crate) fn capacity(max_ports: usize) -> usize {
    max_ports + max_ports.max(MORE)
}

impl Slots {
    /// All free.
    pub(crate) fn new(capacity: usize) -> Slots {
        Slots { capacity, slots: Vec::new(), rests: Vec::new(), next_rest: 0 }
    }

    pub(crate) fn capacity(&self) -> usize {
        self.capacity
    }

    /// All ports have numbers below this.
    pub(crate) fn end(&self) -> usize {
        self.slots.len()
    }

    /// The number of free numbers.
    #[cfg(test)]
    pub(crate) fn room(&self) -> usize {
        self.free().count()
    }

    /// The lowest free numbers, at most `count`, without taking them.
    pub(crate) fn next(&self, count: usize) -> Vec<PortId> {
        self.free().take(count).collect()
    }

    /// Takes this number.
    pub(crate) fn mark(&mut self, id: PortId) {
        if id.index() >= self.slots.len() {
            self.slots.resize(id.index() + 1, Slot::Free);
        }
        self.slots[id.index()] = Slot::Taken;
    }

    /// Takes the lowest free number.
    pub(crate) fn take(&mut self) -> Option<PortId> {
        let id = self.free().next()?;
        self.mark(id);
        Some(id)
    }

    /// Takes the `count` lowest free numbers; or none, if there are fewer.
    pub(crate) fn take_many(&mut self, count: usize) -> Option<Vec<PortId>> {
        let ids: Vec<PortId> = self.free().take(count).collect();
        if ids.len() < count {
            return None;
        }
        ids.iter().for_each(|id| self.mark(*id));
        Some(ids)
    }

    /// Frees these numbers: no worker knows a port by them.
    pub(crate) fn put_back(&mut self, ids: &[PortId]) {
        ids.iter().for_each(|id| self.slots[id.index()] = Slot::Free);
    }

    /// Lets the numbers of removed ports rest. Returns the number of the barrier that each of `workers` has to answer.
    #[must_use]
    pub(crate) fn give_back(&mut self, ports: Vec<PortId>, workers: usize) -> u64 {
        ports.iter().for_each(|id| self.slots[id.index()] = Slot::Resting);
        let number = self.next_rest;
        self.next_rest += 1;
        self.rests.push(Rest { number, ports, awaited: workers });
        number
    }

    /// A worker answered a barrier. Returns the numbers for which it was the last to answer; they are free after
    /// [`Slots::put_back`], once their entries in shared tables are taken out.
    pub(crate) fn answered(&mut self, number: u64) -> Vec<PortId> {
        let Some(at) = self.rests.iter().position(|rest| rest.number == number) else { return Vec::new() };
        self.rests[at].awaited = self.rests[at].awaited.saturating_sub(1);
        if self.rests[at].awaited > 0 {
            return Vec::new();
        }
        self.rests.swap_remove(at).ports
    }

    /// Whether any numbers are resting.
    pub(crate) fn is_resting(&self) -> bool {
        !self.rests.is_empty()
    }

    fn free(&self) -> impl Iterator<Item = PortId> {
        let is_free = |at: &usize| self.slots.get(*at).is_none_or(|slot| *slot == Slot::Free);
        (0..self.capacity).filter(is_free).map(|at| PortId(at as u16))
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
        assert_eq!((slots.capacity(), slots.end()), (258, 0));
        assert_eq!(slots.take_many(259), None);
        assert_eq!(slots.room(), 258, "none was kept");
        for _ in 0..1000 {
            let id = slots.take().unwrap();
            assert_eq!(id, PortId(0));
            let rest = slots.give_back(vec![id], 1);
            let ids = slots.answered(rest);
            slots.put_back(&ids);
        }
        assert_eq!((slots.end(), capacity(1000)), (1, 2000));
    }
}
