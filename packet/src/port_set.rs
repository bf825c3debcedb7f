//! A set of port numbers, one bit each.

use std::ops::RangeInclusive;

/// Words of a [`PortSet`].
pub const PORT_WORDS: usize = 65_536 / 64;

/// A set of port numbers. 8 KiB, whatever is in it.
#[derive(Clone, PartialEq, Eq)]
pub struct PortSet(Box<[u64; PORT_WORDS]>);

impl Default for PortSet {
    fn default() -> PortSet {
        PortSet(Box::new([0; PORT_WORDS]))
    }
}

impl std::fmt::Debug for PortSet {
    fn fmt(&self, out: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        out.debug_list().entries(self.ranges()).finish()
    }
}

impl PortSet {
    /// Port P is bit P % 64 of word P / 64.
    #[inline]
    #[must_use]
    pub fn words(&self) -> &[u64; PORT_WORDS] {
        &self.0
    }

    /// Whether the port is in the set.
    #[inline]
    #[must_use]
    pub fn contains(&self, port: u16) -> bool {
        let (word, bit) = place(port);
        self.0[word] & bit != 0
    }

    /// Adds a port.
    pub fn insert(&mut self, port: u16) {
        let (word, bit) = place(port);
        self.0[word] |= bit;
    }

    /// Removes a port.
    pub fn remove(&mut self, port: u16) {
        let (word, bit) = place(port);
        self.0[word] &= !bit;
    }

    /// The ports of both sets.
    #[must_use]
    pub fn with(mut self, other: &PortSet) -> PortSet {
        self.0.iter_mut().zip(other.0.iter()).for_each(|(word, other)| *word |= other);
        self
    }

    /// The ports of this set that are not in the other one.
    #[must_use]
    pub fn without(mut self, other: &PortSet) -> PortSet {
        self.0.iter_mut().zip(other.0.iter()).for_each(|(word, other)| *word &= !other);
        self
    }

    /// The ports that are in both sets.
    #[must_use]
    pub fn and(mut self, other: &PortSet) -> PortSet {
        self.0.iter_mut().zip(other.0.iter()).for_each(|(word, other)| *word &= other);
        self
    }

    /// Number of ports.
    #[must_use]
    pub fn len(&self) -> u32 {
        self.0.iter().map(|word| word.count_ones()).sum()
    }

    /// Whether there is no port.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.0.iter().all(|word| *word == 0)
    }

    /// The ports in ascending order.
    pub fn iter(&self) -> impl Iterator<Item = u16> {
        self.0.iter().enumerate().flat_map(|(at, word)| {
            let mut left = *word;
            std::iter::from_fn(move || {
                let bit = left.trailing_zeros() as usize;
                left &= left.wrapping_sub(1);
                (bit < 64).then(|| (at * 64 + bit) as u16)
            })
        })
    }

    /// The ports as ranges in ascending order, as few as possible.
    #[must_use]
    pub fn ranges(&self) -> Vec<RangeInclusive<u16>> {
        let mut ranges: Vec<RangeInclusive<u16>> = Vec::new();
        for port in self.iter() {
            match ranges.last_mut() {
                Some(last) if u32::from(*last.end()) + 1 == u32::from(port) => *last = *last.start()..=port,
                _ => ranges.push(port..=port),
            }
        }
        ranges
    }
}

impl From<RangeInclusive<u16>> for PortSet {
    fn from(range: RangeInclusive<u16>) -> PortSet {
        let mut set = PortSet::default();
        if range.is_empty() {
            return set;
        }
        let ((first, first_bit), (last, last_bit)) = (place(*range.start()), place(*range.end()));
        set.0[first..=last].fill(u64::MAX);
        set.0[first] &= first_bit.wrapping_neg();
        set.0[last] &= last_bit | (last_bit - 1);
        set
    }
}

impl FromIterator<u16> for PortSet {
    fn from_iter<T: IntoIterator<Item = u16>>(ports: T) -> PortSet {
        let mut set = PortSet::default();
        ports.into_iter().for_each(|port| set.insert(port));
        set
    }
}

#[inline]
fn place(port: u16) -> (usize, u64) {
    (usize::from(port) / 64, 1 << (port % 64))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ports_in_and_out() {
        let mut set = PortSet::default();
        assert!(set.is_empty() && set.ranges().is_empty());
        for port in [0, 63, 64, 65_535] {
            set.insert(port);
            assert!(set.contains(port) && !set.contains(port ^ 1));
        }
        assert_eq!((set.len(), set.iter().collect::<Vec<_>>()), (4, vec![0, 63, 64, 65_535]));
        assert_eq!(set.ranges(), [0..=0, 63..=64, 65_535..=65_535]);
        set.remove(63);
        assert_eq!(set.ranges(), [0..=0, 64..=64, 65_535..=65_535]);
    }

    #[test]
    fn sets_of_sets() {
        let (low, odd) = (PortSet::from(0..=9), (0..20).filter(|port| port % 2 == 1).collect::<PortSet>());
        assert_eq!(low.clone().and(&odd).iter().collect::<Vec<_>>(), [1, 3, 5, 7, 9]);
        assert_eq!(low.clone().without(&odd).iter().collect::<Vec<_>>(), [0, 2, 4, 6, 8]);
        assert_eq!(low.with(&odd).len(), 15);
        assert_eq!(PortSet::from(0..=u16::MAX).ranges(), [0..=u16::MAX]);
    }
}
