//! The Internet checksum (RFC 1071) and its incremental update (RFC 1624).
//!
//! A sum is kept folded: it is the 16-bit number in network order before the complement. [`add`] combines the
//! sums of slices if every slice but the last has an even length.

/// Ones-complement sum of two sums.
#[inline(always)]
#[must_use]
pub fn add(a: u16, b: u16) -> u16 {
    let (sum, carry) = a.overflowing_add(b);
    // With a carry, the sum is at most 0xfffe.
    sum.wrapping_add(u16::from(carry))
}

/// Ones-complement sum of 16-bit words; an odd last byte counts as if a zero followed.
#[inline]
#[must_use]
pub fn sum(bytes: &[u8]) -> u16 {
    // Words are added in the machine's own byte order, which RFC 1071 section 2 (B) allows as long
    // as the result is swapped once at the end. Lanes of 32-bit words cannot overflow 64 bits below 16 GiB, and a compiler
    // that need not check it adds them as vectors.
    let mut lanes = [0u64; 8];
    let (chunks, rest) = bytes.as_chunks::<32>();
    for chunk in chunks {
        for (lane, word) in lanes.iter_mut().zip(chunk.as_chunks::<4>().0) {
            *lane = lane.wrapping_add(u64::from(u32::from_ne_bytes(*word)));
        }
    }
    let mut total = lanes.into_iter().fold(0, u64::wrapping_add);
    let (words, rest) = rest.as_chunks::<4>();
    for word in words {
        total = total.wrapping_add(u64::from(u32::from_ne_bytes(*word)));
    }
    let last = match *rest {
        [a, b, c] => [a, b, c, 0],
        [a, b] => [a, b, 0, 0],
        [a] => [a, 0, 0, 0],
        _ => [0; 4],
    };
    u16::from_be(fold(total.wrapping_add(u64::from(u32::from_ne_bytes(last)))))
}

/// The sum of a header of five 32-bit words, as IPv4's is without options.
#[inline(always)]
#[must_use]
pub fn sum_of_20(bytes: &[u8; 20]) -> u16 {
    let mut total = 0u64;
    for word in bytes.as_chunks::<4>().0 {
        total = total.wrapping_add(u64::from(u32::from_ne_bytes(*word)));
    }
    u16::from_be(fold(total))
}

/// Folds a wide sum into 16 bits, carries added back in. A number plus itself with its halves exchanged has in its upper half
/// the sum of the halves, with the carry from the lower half, where the same sum was.
#[inline(always)]
fn fold(total: u64) -> u16 {
    let total = (total.wrapping_add(total.rotate_left(32)) >> 32) as u32;
    (total.wrapping_add(total.rotate_left(16)) >> 16) as u16
}

/// Sum of the pseudo-header that TCP and UDP prepend (RFC 9293 section 3.1, RFC 8200 section 8.1).
/// `addresses` are source and destination as they stand in the IP header: 8 or 32 bytes.
#[inline]
#[must_use]
pub fn pseudo_header(addresses: &[u8], protocol: u8, length: usize) -> u16 {
    let length = fold(length as u64);
    add(add(sum(addresses), u16::from(protocol)), length)
}

/// What is known of a frame's transport checksum.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub enum Checksum {
    /// Complete in the frame, not verified.
    #[default]
    Complete,
    /// Complete in the frame, verified by the sender's kernel.
    Verified,
    /// The field holds the sum of the pseudo-header only; see [`finish_checksum`](crate::offload::finish_checksum).
    Partial,
}

/// The change of a sum when some of the covered bytes change (RFC 1624).
///
/// One change can be applied to several checksums: a translated address is covered by the IPv4 header's
/// checksum and by the transport's pseudo-header. The result equals a new computation, bit for bit, unless all
/// covered bytes are zero, which those of a pseudo-header never are. A wrong checksum stays wrong.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Delta(u16);

impl Delta {
    /// No change.
    pub const NONE: Delta = Delta(0);

    /// A time to live, in the upper half of its word, is decremented.
    pub(crate) const TTL_STEP: Delta = Delta(0xffff - 0x0100);

    /// The bytes `old` become `new`. Both have the same length and start at an even offset from the start of the
    /// sum. After an odd last byte, the next byte counts as unchanged.
    #[inline]
    #[must_use]
    pub fn of(old: &[u8], new: &[u8]) -> Delta {
        debug_assert_eq!(old.len(), new.len());
        Delta::from_sums(sum(old), sum(new))
    }

    /// One 16-bit field changes: a port, an identifier.
    #[inline(always)]
    #[must_use]
    pub fn of_word(old: u16, new: u16) -> Delta {
        Delta::from_sums(old, new)
    }

    /// Two adjacent 16-bit fields change: an address, both ports.
    #[inline(always)]
    #[must_use]
    pub fn of_u32(old: u32, new: u32) -> Delta {
        Delta::of_words([old], [new])
    }

    /// Several 32-bit fields change.
    #[inline(always)]
    #[must_use]
    pub fn of_words<const N: usize>(old: [u32; N], new: [u32; N]) -> Delta {
        let mut total = 0u64;
        for (old, new) in old.into_iter().zip(new) {
            total = total.wrapping_add(u64::from(!old)).wrapping_add(u64::from(new));
        }
        Delta(fold(total)).normalised()
    }

    /// `~m + m'` of RFC 1624 equation 3. Both 0 and 0xffff mean "no change", but only adding 0 leaves every sum
    /// unchanged.
    #[inline(always)]
    fn from_sums(old: u16, new: u16) -> Delta {
        Delta(add(!old, new)).normalised()
    }

    #[inline(always)]
    fn normalised(self) -> Delta {
        if self.0 == 0xffff { Delta::NONE } else { self }
    }

    /// Both changes.
    #[inline(always)]
    #[must_use]
    pub fn and(self, other: Delta) -> Delta {
        Delta(add(self.0, other.0)).normalised()
    }

    /// The same change at an odd offset, where bytes count in the other half of each word (RFC 1071 section 2 (B)).
    #[inline]
    #[must_use]
    pub fn at_odd_offset(self) -> Delta {
        Delta(self.0.swap_bytes())
    }

    /// A complete checksum field after the change (RFC 1624 equation 3). For UDP, see
    /// [`Delta::apply_to_udp`].
    #[inline(always)]
    #[must_use]
    pub fn apply(self, check: u16) -> u16 {
        !self.apply_to_sum(!check)
    }

    /// A complete UDP checksum field after the change. A field of 0 means that there is no checksum, and stays 0; a
    /// computed 0 is sent as 0xffff (RFC 768).
    #[inline(always)]
    #[must_use]
    pub fn apply_to_udp(self, check: u16) -> u16 {
        match (check, self.apply(check)) {
            (0, _) => 0,
            (_, 0) => 0xffff,
            (_, check) => check,
        }
    }

    /// A sum that is not complemented, after the change: the field of a
    /// [partial checksum](crate::Checksum::Partial). It covers the pseudo-header only, so a change of ports
    /// does not affect it.
    #[inline(always)]
    #[must_use]
    pub fn apply_to_sum(self, sum: u16) -> u16 {
        add(sum, self.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The definition, word by word.
    fn reference(bytes: &[u8]) -> u16 {
        let mut total = 0u32;
        for pair in bytes.chunks(2) {
            total += u32::from(u16::from_be_bytes([pair[0], pair.get(1).copied().unwrap_or(0)]));
            total = (total & 0xffff) + (total >> 16);
        }
        total as u16
    }

    #[test]
    fn example_of_rfc_1071() {
        assert_eq!(sum(&[0x00, 0x01, 0xf2, 0x03, 0xf4, 0xf5, 0xf6, 0xf7]), 0xddf2);
    }

    #[test]
    fn example_of_rfc_1624() {
        assert_eq!(Delta::of_word(0x5555, 0x3285).apply(0xdd2f), 0x0000);
        assert_eq!(Delta::of(&[0x55, 0x55], &[0x32, 0x85]).apply(0xdd2f), 0x0000);
    }

    #[test]
    fn no_change_leaves_every_field_as_it_is() {
        for check in [0x0000, 0x0001, 0x7fff, 0xfffe, 0xffff] {
            for none in [Delta::NONE, Delta::of_word(0xabcd, 0xabcd), Delta::of_word(0, 0xffff), Delta::of_word(0xffff, 0)] {
                let there = Delta::of_word(1, 2).and(Delta::of_word(2, 1)).and(none);
                assert_eq!((there.apply(check), there.apply_to_udp(check), there.apply_to_sum(check)), (check, check, check));
            }
        }
    }

    #[test]
    fn udp_has_two_zeros() {
        assert_eq!(Delta::of_word(0x5555, 0x3285).apply_to_udp(0xdd2f), 0xffff);
        assert_eq!(Delta::of_word(0x5555, 0x3285).apply_to_udp(0), 0);
    }

    #[test]
    fn every_length_and_extremes() {
        let bytes: Vec<u8> = (0..200u32).map(|i| (i * 89 + 7) as u8).collect();
        for len in 0..bytes.len() {
            assert_eq!(sum(&bytes[..len]), reference(&bytes[..len]), "{len} bytes");
        }
        let ones = vec![0xff; 65_536];
        assert_eq!(sum(&ones), 0xffff);
        assert_eq!(pseudo_header(&[0; 8], 0, 0x1_0000), 1);
    }
}
