//! Which parts of a datagram were there: a bit for each eight bytes.

use std::ops::Range;

/// Bytes in a unit of fragmentation (RFC 791).
pub(super) const LEN: usize = 8;

/// Words of bits for the longest datagram.
pub(super) const WORDS: usize = (1 << 16) / LEN / 64;

/// What is known about the units of a datagram besides their bits. Counts and places, in units.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Units {
    seen: usize,
    /// After the last one seen.
    end: usize,
    /// The last piece was there, so that the end is the datagram's.
    is_end_known: bool,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Added {
    New,
    /// All of it was there.
    Duplicate,
    /// Some of it was there, or the datagram would have two ends.
    Overlap,
}

impl Units {
    /// Notes a piece in `bits`, if it is new.
    pub(super) fn add(&mut self, bits: &mut [u64], piece: Range<usize>, more: bool) -> Added {
        let taken: usize = masks(&piece).map(|(word, mask)| (bits[word] & mask).count_ones() as usize).sum();
        if taken == piece.len() {
            return Added::Duplicate;
        }
        let is_beyond = self.is_end_known && piece.end > self.end;
        let is_second_end = !more && (self.is_end_known || piece.end < self.end);
        if taken > 0 || is_beyond || is_second_end {
            return Added::Overlap;
        }
        masks(&piece).for_each(|(word, mask)| bits[word] |= mask);
        self.seen += piece.len();
        self.end = self.end.max(piece.end);
        self.is_end_known |= !more;
        Added::New
    }

    /// All of the datagram was there.
    pub(super) fn is_complete(self) -> bool {
        self.is_end_known && self.seen == self.end
    }
}

/// The words that a piece has bits in, with these bits.
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
