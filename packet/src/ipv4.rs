//! The IPv4 header (RFC 791).
//!
//! ```text
//!  0   1   2       4       6       8   9   10      12          16          20
//! +---+---+-------+-------+-------+---+---+-------+-----------+-----------+---
//! |v|h|tos| total | id    |fl|off |ttl|pro| check | src       | dst       | options
//! +---+---+-------+-------+-------+---+---+-------+-----------+-----------+---
//! ```

use crate::ethernet::u16_at;

/// Length of a header without options.
pub const IPV4_LEN: usize = 20;

/// Offsets within the header.
pub mod field {
    /// Total length of the packet, 16 bits.
    pub const TOTAL_LEN: usize = 2;
    /// Identification, 16 bits.
    pub const ID: usize = 4;
    /// Flags and fragment offset, 16 bits.
    pub const FRAGMENT: usize = 6;
    /// Time to live, 8 bits.
    pub const TTL: usize = 8;
    /// Protocol of the payload, 8 bits.
    pub const PROTOCOL: usize = 9;
    /// Header checksum, 16 bits.
    pub const CHECKSUM: usize = 10;
    /// Source address, 32 bits; the destination follows.
    pub const SRC: usize = 12;
}

/// "Don't fragment" in the flags and fragment offset field.
pub const DONT_FRAGMENT: u16 = 0x4000;

/// A checked IPv4 header: its own length and the packet's length lie within the bytes.
#[derive(Clone, Copy)]
pub struct Ipv4View<'a> {
    bytes: &'a [u8],
}

impl<'a> Ipv4View<'a> {
    /// `None` where version, header length or total length contradict each other or the bytes.
    /// Bytes after the packet are allowed: Ethernet pads short frames.
    #[inline]
    #[must_use]
    pub fn new(bytes: &'a [u8]) -> Option<Ipv4View<'a>> {
        if bytes.len() < IPV4_LEN || bytes[0] >> 4 != 4 {
            return None;
        }
        let view = Ipv4View { bytes };
        let (header, total) = (view.header_len(), view.total_len());
        (header >= IPV4_LEN && header <= total && total <= bytes.len()).then_some(view)
    }

    /// Header length in bytes, 20 to 60.
    #[inline]
    #[must_use]
    pub fn header_len(self) -> usize {
        usize::from(self.bytes[0] & 0x0f) * 4
    }

    /// Length of header and payload in bytes.
    #[inline]
    #[must_use]
    pub fn total_len(self) -> usize {
        usize::from(u16_at(self.bytes, field::TOTAL_LEN))
    }

    /// One of several fragments: more follow, or this is not the first.
    #[inline]
    #[must_use]
    pub fn is_fragment(self) -> bool {
        u16_at(self.bytes, field::FRAGMENT) & 0x3fff != 0
    }

    /// Protocol number of the payload.
    #[inline]
    #[must_use]
    pub fn protocol(self) -> u8 {
        self.bytes[field::PROTOCOL]
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const PACKET: [u8; 24] = [0x45, 0, 0, 22, 0, 1, 0x40, 0, 64, 17, 0, 0, 10, 0, 0, 1, 10, 0, 0, 2, 0xaa, 0xbb, 0, 0];

    #[test]
    fn fields_of_literal_bytes() {
        let view = Ipv4View::new(&PACKET).unwrap();
        assert_eq!((view.header_len(), view.total_len(), view.protocol()), (20, 22, 17));
        assert!(!view.is_fragment());
    }

    #[test]
    fn contradictions_are_refused() {
        for (at, value) in [(0, 0x65), (0, 0x44), (0, 0x4f), (3, 19), (3, 25)] {
            let mut bad = PACKET;
            bad[at] = value;
            assert!(Ipv4View::new(&bad).is_none(), "byte {at} = {value:#x}");
        }
        for len in 0..22 {
            assert!(Ipv4View::new(&PACKET[..len]).is_none(), "{len} bytes");
        }
    }
}
