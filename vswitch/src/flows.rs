//! Frames of one flow side by side, so that they can be coalesced.
//!
//! Several flows that cross one port are interleaved in its batches, and neighbours are then rarely of one flow. So a queue that
//! coalesces by flow is rearranged before it is written:
//!
//! ```text
//!  as it arrived   A1 B1 A2 C1 B2 A3 | ARP | A4 B3 A5
//!  rearranged      A1 A2 A3 B1 B2 C1 | ARP | A4 A5 B3
//! ```
//!
//! *Order.* A flow is the TCP segments or UDP datagrams with the same addresses and ports. Its frames stay in their order; flows
//! leave in the order of their first frames. All other frames (ARP, ICMP, fragments, anything unknown) are barriers: they overtake
//! nothing and are not overtaken.
//!
//! *Equal hashes.* Flows are told apart by their hash alone. Two flows with the same hash, or that find no slot, count as
//! one: they stay in the order in which they arrived, and coalesce as neighbours do. So a sender who knows the hash can prevent coalescing, of
//! frames in his batch, and nothing else.
//!
//! *Bounded work.* One pass over the queue with at most [`MAX_PROBES`] slots looked at per frame, and one pass that moves it. A queue
//! whose first run takes all of it, as with a single flow, is not looked at.

use packet::batch::MAX_FRAMES;

use crate::egress::Queued;

/// Slots of the table: at most a half is in use.
const SLOTS: usize = (2 * MAX_FRAMES).next_power_of_two();

/// Maximum number of slots that are looked at for a frame.
const MAX_PROBES: usize = 8;

/// No frame, or no group.
const NONE: u16 = u16::MAX;

/// The flows of a part of a queue; empty between queues.
#[derive(Debug)]
pub(crate) struct Flows {
    /// Numbers of groups, by the hash of their flow.
    slots: Box<[u16]>,
    groups: Vec<Group>,
    /// For each frame, the next one of its group.
    next: Vec<u16>,
    /// Group of the last frame.
    current: usize,
    /// Some group has frames of another one between its own.
    is_mixed: bool,
    rearranged: Vec<Queued>,
}

/// The frames of a flow, as a list.
#[derive(Clone, Copy, Debug)]
struct Group {
    flow: u16,
    slot: u16,
    first: u16,
    last: u16,
}

impl Flows {
    /// No flows, and room for those of a batch.
    pub(crate) fn new() -> Flows {
        Flows {
            slots: vec![NONE; SLOTS].into_boxed_slice(),
            groups: Vec::with_capacity(MAX_FRAMES),
            next: Vec::with_capacity(MAX_FRAMES),
            current: 0,
            is_mixed: false,
            rearranged: Vec::with_capacity(MAX_FRAMES),
        }
    }

    /// Forgets all flows.
    pub(crate) fn clear(&mut self) {
        for group in self.groups.drain(..) {
            self.slots[usize::from(group.slot)] = NONE;
        }
        self.next.clear();
        self.is_mixed = false;
    }

    /// Rearranges a queue. `flow` returns the hash of a frame's flow, or `None` for a barrier.
    #[inline(never)]
    pub(crate) fn bring_together(&mut self, queued: &mut [Queued], flow: impl Fn(&Queued) -> Option<u16>) {
        let mut start = 0;
        for at in 0..queued.len() {
            match flow(&queued[at]) {
                Some(flow) => self.add(flow),
                None => {
                    self.rearrange(&mut queued[start..at]);
                    start = at + 1;
                }
            }
        }
        self.rearrange(&mut queued[start..]);
    }

    /// Adds the next frame.
    #[inline]
    fn add(&mut self, flow: u16) {
        let at = self.next.len() as u16;
        self.next.push(NONE);
        if self.groups.get(self.current).is_none_or(|group| group.flow != flow) {
            let before = self.groups.len();
            let group = self.find(flow, at);
            if before < self.groups.len() {
                self.current = group;
                return;
            }
            self.is_mixed |= group != self.current;
            self.current = group;
        }
        let group = &mut self.groups[self.current];
        self.next[usize::from(group.last)] = at;
        group.last = at;
    }

    /// The group of this flow: its own, a new one that begins with frame `at`, or, if there is no free slot within reach, that of
    /// another flow. The latter is the same for all frames of the flow, because no slot becomes free before the end.
    fn find(&mut self, flow: u16, at: u16) -> usize {
        let home = usize::from(flow) % SLOTS;
        for slot in (home..home + MAX_PROBES).map(|slot| slot % SLOTS) {
            let number = usize::from(self.slots[slot]);
            match self.groups.get(number) {
                Some(group) if group.flow == flow => return number,
                Some(_) => {}
                None => {
                    self.slots[slot] = self.groups.len() as u16;
                    self.groups.push(Group { flow, slot: slot as u16, first: at, last: at });
                    return self.groups.len() - 1;
                }
            }
        }
        usize::from(self.slots[home])
    }

    /// Puts these frames, which were all added, in the order of their groups.
    fn rearrange(&mut self, queued: &mut [Queued]) {
        if self.is_mixed {
            self.rearranged.clear();
            for group in &self.groups {
                let mut at = group.first;
                while let Some(frame) = queued.get(usize::from(at)) {
                    self.rearranged.push(*frame);
                    at = self.next[usize::from(at)];
                }
            }
            queued.copy_from_slice(&self.rearranged);
        }
        self.clear();
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use packet::vlan::TagAction;
    use proptest::prelude::*;

    /// Rearranges frames with these flows. Returns their numbers in the new order.
    fn order(flows: &[Option<u16>]) -> Vec<u16> {
        let mut queued: Vec<_> = (0..flows.len()).map(|frame| Queued { frame: frame as u16, action: TagAction::Keep }).collect();
        let mut all = Flows::new();
        for _ in 0..2 {
            queued.sort_by_key(|queued| queued.frame);
            all.bring_together(&mut queued, |queued| flows[usize::from(queued.frame)]);
        }
        assert!(all.groups.is_empty() && all.next.is_empty() && all.slots.iter().all(|slot| *slot == NONE));
        queued.iter().map(|queued| queued.frame).collect()
    }

    #[test]
    fn flows_in_the_order_of_their_first_frames() {
        let [a, b, c] = [Some(1), Some(2), Some(3)];
        assert_eq!(order(&[a, b, a, c, b, a, None, a, b, a]), [0, 2, 5, 1, 4, 3, 6, 7, 9, 8]);
        assert_eq!(order(&[a, a, b, b, c]), [0, 1, 2, 3, 4]);
        assert_eq!(order(&[]), Vec::<u16>::new());
        assert_eq!(order(&[None, None]), [0, 1]);
    }

    /// Hashes with one home: the first eight have groups of their own, the others share the first one's.
    #[test]
    fn flows_without_a_slot_stay_in_their_order() {
        let homeless = |n: usize| Some((n % 16 * SLOTS) as u16);
        let flows: Vec<_> = (0..MAX_FRAMES).map(homeless).collect();
        let order = order(&flows);
        for n in 1..MAX_PROBES {
            let of_flow: Vec<_> = order.iter().filter(|at| flows[usize::from(**at)] == homeless(n)).collect();
            let first = order.iter().position(|at| at == of_flow[0]).unwrap();
            assert_eq!(order[first..first + of_flow.len()].iter().collect::<Vec<_>>(), of_flow, "side by side");
        }
    }

    proptest! {
        #[test]
        fn order_within_flows_and_around_barriers(
            flows in prop::collection::vec(prop_oneof![1 => Just(None), 20 => (0u16..12, 0u16..12).prop_map(|(a, b)| Some(a * SLOTS as u16 + b))], 0..=MAX_FRAMES),
        ) {
            let order = order(&flows);
            let mut sorted = order.clone();
            sorted.sort_unstable();
            prop_assert_eq!(sorted, (0..flows.len() as u16).collect::<Vec<_>>(), "each frame once");
            for (place, at) in order.iter().enumerate() {
                let flow = flows[usize::from(*at)];
                if flow.is_none() {
                    prop_assert_eq!(place, usize::from(*at), "a barrier stays");
                }
                prop_assert!(order[..place].iter().all(|before| flows[usize::from(*before)] != flow || before < at));
            }
            let barriers = |upto: usize| flows[..upto].iter().filter(|flow| flow.is_none()).count();
            for (place, at) in order.iter().enumerate() {
                prop_assert_eq!(barriers(place), barriers(usize::from(*at)), "no frame passes a barrier");
            }
        }
    }
}
