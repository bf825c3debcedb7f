//! The Internet checksum (RFC 1071) and its incremental update (RFC 1624).
//!
//! A sum is kept folded, as the 16-bit number that stands in the packet in network order before it
//! is complemented. Sums of slices add up with [`add`] where every slice but the last has an even
//! length.

/// Ones-complement sum of two sums.
#[inline]
#[must_use]
pub fn add(a: u16, b: u16) -> u16 {
    let (sum, carry) = a.overflowing_add(b);
    sum + u16::from(carry)
}

/// Ones-complement sum of 16-bit words; an odd last byte counts as if a zero followed.
#[inline]
#[must_use]
pub fn sum(bytes: &[u8]) -> u16 {
    // Words are added in the machine's own byte order, which RFC 1071 section 2 (B) allows as long
    // as the result is swapped once at the end. Four lanes of 32-bit words cannot overflow 64 bits.
    let mut lanes = [0u64; 4];
    let mut chunks = bytes.chunks_exact(16);
    for chunk in &mut chunks {
        for (lane, word) in lanes.iter_mut().zip(chunk.as_chunks::<4>().0) {
            *lane += u64::from(u32::from_ne_bytes(*word));
        }
    }
    let mut total: u64 = lanes.iter().sum();
    let mut pairs = chunks.remainder().chunks_exact(2);
    for pair in &mut pairs {
        total += u64::from(u16::from_ne_bytes([pair[0], pair[1]]));
    }
    if let [last] = pairs.remainder() {
        total += u64::from(u16::from_ne_bytes([*last, 0]));
    }
    u16::from_be(fold(total))
}

/// Folds a wide sum into 16 bits, carries added back in.
#[inline]
fn fold(mut total: u64) -> u16 {
    total = (total & 0xffff_ffff) + (total >> 32);
    total = (total & 0xffff_ffff) + (total >> 32);
    total = (total & 0xffff) + (total >> 16);
    total = (total & 0xffff) + (total >> 16);
    ((total & 0xffff) + (total >> 16)) as u16
}

/// Sum of the pseudo-header that TCP and UDP prepend (RFC 9293 section 3.1, RFC 8200 section 8.1).
/// `addresses` are source and destination as they stand in the IP header: 8 or 32 bytes.
#[inline]
#[must_use]
pub fn pseudo_header(addresses: &[u8], protocol: u8, length: usize) -> u16 {
    let length = fold(length as u64);
    add(add(sum(addresses), u16::from(protocol)), length)
}

/// The checksum field after a 16-bit word that it covers changed (RFC 1624 equation 3).
#[inline]
#[must_use]
pub fn update(check: u16, old: u16, new: u16) -> u16 {
    !add(add(!check, !old), new)
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
        assert_eq!(update(0xdd2f, 0x5555, 0x3285), 0x0000);
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
