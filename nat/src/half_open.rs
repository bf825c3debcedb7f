//! Queues of half-open connections, the oldest first.
//!
//! A connection is *half-open* until both of its ends have shown that they take part in it:
//!
//! | opened by | TCP | any other protocol |
//! |---|---|---|
//! | a guest | each side has acknowledged the other's SYN | a reply has come |
//! | an outside host | the same | the host has sent again after a reply, so its address is not forged |
//!
//! When a limit is reached, a new connection takes the place of the oldest half-open one that counts against the same
//! limit. Each half-open connection therefore waits in two queues: that of the bridge port which opened it, and that of
//! what else it counts against, a guest at that port or a published endpoint.
//!
//! ```text
//!   port 7:        oldest -> 3 -> 9 -> 4 <- newest
//!   10.0.0.2 at 7: oldest -> 3 ------> 4 <- newest        numbers, linked both ways
//! ```
//!
//! A packet that completes a connection does not take it out of its queues, because no packet of a known connection takes
//! the lock. It is found complete, and taken out, a few seconds later by the timer wheel, or by a new connection that
//! looks for a place.

const NONE: u32 = u32::MAX;

/// The ends of one queue.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct Queue {
    oldest: u32,
    newest: u32,
}

impl Default for Queue {
    fn default() -> Queue {
        Queue { oldest: NONE, newest: NONE }
    }
}

impl Queue {
    /// The number that was added first.
    pub(crate) fn oldest(&self) -> Option<u32> {
        (self.oldest != NONE).then_some(self.oldest)
    }
}

#[derive(Clone, Copy, Debug)]
struct Link {
    older: u32,
    newer: u32,
}

/// The links of many queues. A number is in one of them at most.
#[derive(Debug)]
pub(crate) struct Links(Vec<Link>);

impl Links {
    /// Links for numbers below `most`. Their memory is touched when first used.
    pub(crate) fn new(most: usize) -> Links {
        Links(Vec::with_capacity(most))
    }

    /// Forgets all numbers.
    pub(crate) fn clear(&mut self) {
        self.0.clear();
    }

    /// Adds a number as the newest of a queue. It must be in none, and at most one more than the highest number so far.
    pub(crate) fn push(&mut self, queue: &mut Queue, number: u32) {
        let link = Link { older: queue.newest, newer: NONE };
        match self.0.get_mut(queue.newest as usize) {
            Some(newest) => newest.newer = number,
            None => queue.oldest = number,
        }
        queue.newest = number;
        match self.0.get_mut(number as usize) {
            Some(place) => *place = link,
            None => self.0.push(link),
        }
    }

    /// Removes a number from its queue.
    pub(crate) fn remove(&mut self, queue: &mut Queue, number: u32) {
        let Link { older, newer } = self.0[number as usize];
        match self.0.get_mut(older as usize) {
            Some(older) => older.newer = newer,
            None => queue.oldest = newer,
        }
        match self.0.get_mut(newer as usize) {
            Some(newer) => newer.older = older,
            None => queue.newest = older,
        }
    }

    /// The numbers of a queue, the oldest first.
    pub(crate) fn walk(&self, queue: Queue) -> impl Iterator<Item = u32> {
        std::iter::successors(queue.oldest(), |number| {
            let newer = self.0[*number as usize].newer;
            (newer != NONE).then_some(newer)
        })
    }
}

#[cfg(test)]
mod tests {
    use std::collections::VecDeque;

    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn agrees_with_lists(steps in prop::collection::vec((0usize..3, 0u32..12), 0..200)) {
            let (mut links, mut queues) = (Links::new(12), [Queue::default(); 3]);
            let mut lists = [const { VecDeque::<u32>::new() }; 3];
            let mut end = 0;
            for (at, number) in steps {
                let holder = lists.iter().position(|list| list.contains(&number));
                if let Some(holder) = holder {
                    links.remove(&mut queues[holder], number);
                    lists[holder].retain(|other| *other != number);
                } else if number <= end {
                    links.push(&mut queues[at], number);
                    lists[at].push_back(number);
                    end = end.max(number + 1);
                }
                for (queue, list) in queues.iter().zip(&lists) {
                    prop_assert_eq!(links.walk(*queue).collect::<VecDeque<_>>(), list.clone());
                    prop_assert_eq!(queue.oldest(), list.front().copied());
                }
            }
        }
    }
}
