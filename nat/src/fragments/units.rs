//! Which parts of a datagram have arrived: one bit for each eight bytes.

use std::ops::Range;

/// Bytes in a unit of fragmentation (RFC 791).
pub(super) const LEN: usize = 8;

/// Number of 64-bit words for the longest datagram.
pub(super) const WORDS: usize = (1 << 16) / LEN / 64;

/// Summary of the units of a datagram; counts and positions are in units.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Units {
    seen: usize,
    /// End of the last unit seen.
    end: usize,
    /// The last fragment has arrived, so `end` is the datagram's.
    is_end_known: bool,
}

/// Comparison of a fragment with those seen before.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Compared {
    /// No part of it was seen.
    New,
    /// All of it was seen.
    Duplicate,
    /// A part of it was seen, or the datagram would have two ends.
    Overlap,
}

impl Units {
    /// Compares a fragment with those noted in `bits`.
    pub(super) fn compare(&self, bits: &[u64], piece: &Range<usize>, more: bool) -> Compared {
        let seen: usize = masks(piece).map(|(word, mask)| (bits[word] & mask).count_ones() as usize).sum();
        if seen == piece.len() {
            return Compared::Duplicate;
        }
        let is_beyond = self.is_end_known && piece.end > self.end;
        let is_second_end = !more && (self.is_end_known || piece.end < self.end);
        if seen > 0 || is_beyond || is_second_end { Compared::Overlap } else { Compared::New }
    }

    /// Notes a new fragment.
    pub(super) fn add(&mut self, bits: &mut [u64], piece: &Range<usize>, more: bool) {
        masks(piece).for_each(|(word, mask)| bits[word] |= mask);
        self.seen += piece.len();
        self.end = self.end.max(piece.end);
        self.is_end_known |= !more;
    }

    /// Whether all of the datagram has arrived.
    pub(super) fn is_complete(self) -> bool {
        self.is_end_known && self.seen == self.end
    }
}

/// The index of each word that a fragment has bits in, with a mask of these bits.
fn masks(piece: &Range<usize>) -> impl Iterator<Item = (usize, u64)> + use<> {
    let Range { start, end } = *piece;
    (start / 64..end.div_ceil(64)).map(move |word| {
        let low = start.saturating_sub(word * 64).min(63);
        let high = (end - word * 64).min(64);
        (word, u64::MAX << low & u64::MAX >> (64 - high))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bits_of_a_piece() {
        let of = |piece: Range<usize>| masks(&piece).collect::<Vec<_>>();
        assert_eq!(of(0..1), [(0, 1)]);
        assert_eq!(of(3..64), [(0, !7)]);
        assert_eq!(of(62..130), [(0, 3 << 62), (1, u64::MAX), (2, 3)]);
        assert_eq!(of(8191..8192), [(WORDS - 1, 1 << 63)]);
    }
}
