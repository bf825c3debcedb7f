//! The UDP header (RFC 768).
//!
//! ```text
//!  0       2       4       6       8
//! +-------+-------+-------+-------+----------
//! | sport | dport | length| check | payload ...
//! +-------+-------+-------+-------+----------
//! ```

use crate::ethernet::u16_at;

/// Length of the header.
pub const UDP_LEN: usize = 8;

/// IP protocol number.
pub const PROTOCOL: u8 = 17;

/// Offsets within the header.
pub mod field {
    /// Source port, 16 bits.
    pub const SRC_PORT: usize = 0;
    /// Destination port, 16 bits.
    pub const DST_PORT: usize = 2;
    /// Length of header and payload, 16 bits.
    pub const LENGTH: usize = 4;
    /// Checksum, 16 bits; 0 on IPv4 means that there is none.
    pub const CHECKSUM: usize = 6;
}

/// A checked UDP header: its length field equals the number of bytes.
#[derive(Clone, Copy)]
pub struct UdpView<'a> {
    bytes: &'a [u8],
}

impl<'a> UdpView<'a> {
    /// Checks a header. `None` if it does not fit, or if its length field is not the length of `bytes`.
    #[inline]
    #[must_use]
    pub fn new(bytes: &'a [u8]) -> Option<UdpView<'a>> {
        (bytes.len() >= UDP_LEN && usize::from(u16_at(bytes, field::LENGTH)) == bytes.len()).then_some(UdpView { bytes })
    }

    /// Source port.
    #[inline]
    #[must_use]
    pub fn src_port(self) -> u16 {
        u16_at(self.bytes, field::SRC_PORT)
    }

    /// Destination port.
    #[inline]
    #[must_use]
    pub fn dst_port(self) -> u16 {
        u16_at(self.bytes, field::DST_PORT)
    }

    /// The checksum field.
    #[inline]
    #[must_use]
    pub fn checksum(self) -> u16 {
        u16_at(self.bytes, field::CHECKSUM)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn literal_bytes_and_their_prefixes() {
        let datagram = [0x13, 0x88, 0, 9, 0, 10, 0x9b, 0xea, 1, 2];
        let view = UdpView::new(&datagram).unwrap();
        assert_eq!((view.src_port(), view.dst_port(), view.checksum()), (5000, 9, 0x9bea));
        for len in 0..datagram.len() {
            assert!(UdpView::new(&datagram[..len]).is_none(), "{len} bytes");
        }
    }
}
