//! The timer wheel of connections: one-second slots, each a list of the connections to check in that second.
//!
//! ```text
//!  slot      0    1    2   ...  cursor ...  63
//!           [ ]  [ ]  [7]       [3]        [ ]
//!                      |         |
//!                      9         1 -- 4        numbers, linked both ways
//! ```
//!
//! A packet does not move its connection; it records the second (see [`Table`](crate::table::Table)). When a connection's
//! slot is due, the connection is checked: if it has timed out it ends; otherwise it moves to the slot of its timeout, or
//! as far ahead as the wheel reaches. So each connection is checked at least every 63 seconds, and a timeout that became
//! shorter is noticed within that time.

/// Number of slots, and so the reach of the wheel in seconds.
const SLOTS: usize = 64;

const NONE: u32 = u32::MAX;

/// Lists of numbers by the second in which they are due.
#[derive(Debug)]
pub(crate) struct Wheel {
    heads: [u32; SLOTS],
    links: Vec<Link>,
    /// The second whose list is being processed.
    cursor: u32,
}

#[derive(Clone, Copy, Debug)]
struct Link {
    next: u32,
    previous: u32,
    slot: u8,
}

impl Wheel {
    /// A wheel for numbers below `most`. Its memory is touched when first used.
    pub(crate) fn new(most: usize) -> Wheel {
        Wheel { heads: [NONE; SLOTS], links: Vec::with_capacity(most), cursor: 0 }
    }

    /// As a new one of the same size, in the same memory.
    pub(crate) fn reset(&mut self) {
        self.heads.fill(NONE);
        self.links.clear();
        self.cursor = 0;
    }

    /// Inserts a number at the second in which it is due, or as far ahead as the wheel reaches. It must not be in the wheel,
    /// and must be at most one more than the highest number so far.
    pub(crate) fn insert(&mut self, number: u32, due: u32) {
        let due = due.clamp(self.cursor.saturating_add(1), self.cursor.saturating_add(SLOTS as u32 - 1));
        let slot = due as usize % SLOTS;
        let link = Link { next: self.heads[slot], previous: NONE, slot: slot as u8 };
        if let Some(next) = self.links.get_mut(link.next as usize) {
            next.previous = number;
        }
        self.heads[slot] = number;
        match self.links.get_mut(number as usize) {
            Some(place) => *place = link,
            None => self.links.push(link),
        }
    }

    /// Removes a number, which must be in the wheel.
    pub(crate) fn remove(&mut self, number: u32) {
        let Link { next, previous, slot } = self.links[number as usize];
        match self.links.get_mut(previous as usize) {
            Some(previous) => previous.next = next,
            None => self.heads[usize::from(slot)] = next,
        }
        if let Some(next) = self.links.get_mut(next as usize) {
            next.previous = previous;
        }
    }

    /// Removes and returns the next number that is due; `None` if there is none. `now` never decreases.
    pub(crate) fn next(&mut self, now: u32) -> Option<u32> {
        // After a pause longer than one turn, each slot is processed once.
        self.cursor = self.cursor.max(now.saturating_sub(SLOTS as u32));
        loop {
            let head = self.heads[self.cursor as usize % SLOTS];
            if head != NONE {
                self.remove(head);
                return Some(head);
            }
            if self.cursor >= now {
                return None;
            }
            self.cursor += 1;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_number_comes_in_its_second_or_at_the_horizon() {
        let mut wheel = Wheel::new(4);
        for (number, due) in [(0, 5), (1, 5), (2, 0), (3, 1000)] {
            wheel.insert(number, due);
        }
        assert_eq!(wheel.next(0), None);
        assert_eq!((wheel.next(1), wheel.next(4)), (Some(2), None));
        let mut both = [wheel.next(5).unwrap(), wheel.next(5).unwrap()];
        both.sort_unstable();
        assert_eq!((both, wheel.next(62)), ([0, 1], None));
        assert_eq!(wheel.next(63), Some(3));
        wheel.insert(3, 64);
        wheel.insert(1, 64);
        wheel.remove(3);
        assert_eq!((wheel.next(64), wheel.next(10_000)), (Some(1), None));
    }

    #[test]
    fn a_long_pause_loses_nobody() {
        let mut wheel = Wheel::new(64);
        for number in 0..64 {
            wheel.insert(number, number);
        }
        let mut seen = Vec::new();
        while let Some(number) = wheel.next(1_000_000) {
            seen.push(number);
        }
        seen.sort_unstable();
        assert_eq!(seen, (0..64).collect::<Vec<_>>());
    }
}
