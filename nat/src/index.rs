//! A hash index from keys to the numbers of records: open addressing, fixed size, at most half full. For data behind a
//! single lock.

/// Record numbers by hash.
#[derive(Debug)]
pub(crate) struct Index {
    /// A record number plus one; 0 in a free slot.
    slots: Vec<u32>,
}

impl Index {
    /// An index with room for `most` numbers.
    pub(crate) fn new(most: usize) -> Index {
        Index { slots: vec![0; (most * 2).next_power_of_two()] }
    }

    /// Removes all numbers.
    pub(crate) fn clear(&mut self) {
        self.slots.fill(0);
    }

    fn mask(&self) -> usize {
        self.slots.len() - 1
    }

    /// The number with this hash that `is_it` accepts.
    pub(crate) fn find(&self, hash: u64, is_it: impl Fn(u32) -> bool) -> Option<u32> {
        let mut at = hash as usize & self.mask();
        while self.slots[at] != 0 {
            if is_it(self.slots[at] - 1) {
                return Some(self.slots[at] - 1);
            }
            at = (at + 1) & self.mask();
        }
        None
    }

    /// Inserts a new number. The caller observes the limit.
    pub(crate) fn insert(&mut self, hash: u64, number: u32) {
        let mut at = hash as usize & self.mask();
        while self.slots[at] != 0 {
            at = (at + 1) & self.mask();
        }
        self.slots[at] = number + 1;
    }

    /// Removes a number. Later entries move up, so that no search ends too early.
    pub(crate) fn remove(&mut self, hash: u64, number: u32, hash_of: impl Fn(u32) -> u64) {
        let mask = self.mask();
        let mut hole = hash as usize & mask;
        while self.slots[hole] != number + 1 {
            if self.slots[hole] == 0 {
                return;
            }
            hole = (hole + 1) & mask;
        }
        let mut at = hole;
        loop {
            self.slots[hole] = 0;
            loop {
                at = (at + 1) & mask;
                if self.slots[at] == 0 {
                    return;
                }
                let home = hash_of(self.slots[at] - 1) as usize & mask;
                // An entry may move into the hole unless its home slot lies between the hole and the entry.
                if at.wrapping_sub(home) & mask >= at.wrapping_sub(hole) & mask {
                    break;
                }
            }
            self.slots[hole] = self.slots[at];
            hole = at;
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn agrees_with_a_set(steps in prop::collection::vec((any::<bool>(), 0u32..40), 0..200)) {
            // Few home places, so that runs are long and wrap around.
            let hash_of = |number: u32| u64::from(number % 5) + 61;
            let (mut index, mut set) = (Index::new(32), std::collections::BTreeSet::new());
            for (insert, number) in steps {
                if insert && set.len() < 32 && set.insert(number) {
                    index.insert(hash_of(number), number);
                } else if !insert {
                    set.remove(&number);
                    index.remove(hash_of(number), number, hash_of);
                }
                for number in 0..40 {
                    let found = index.find(hash_of(number), |found| found == number);
                    prop_assert_eq!(found.is_some(), set.contains(&number));
                }
            }
        }
    }
}
