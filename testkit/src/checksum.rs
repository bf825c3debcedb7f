//! The Internet checksum, summed word by word as RFC 1071 defines it.
//!
//! Independent of `packet::checksum`, which is tested against it.

/// One's complement sum of 16-bit big-endian words; a last odd byte counts as the high half of a word.
#[must_use]
pub fn sum(bytes: &[u8]) -> u16 {
    let (pairs, last) = bytes.as_chunks();
    let words = pairs.iter().fold(0, |sum, pair| add(sum, u16::from_be_bytes(*pair)));
    last.iter().fold(words, |sum, byte| add(sum, u16::from_be_bytes([*byte, 0])))
}

/// One's complement addition.
#[must_use]
pub fn add(a: u16, b: u16) -> u16 {
    let sum = u32::from(a) + u32::from(b);
    (sum + (sum >> 16)) as u16
}
