//! The TCP header (RFC 9293 section 3.1).
//!
//! ```text
//!  0       2       4           8           12  13  14      16      18      20
//! +-------+-------+-----------+-----------+---+---+-------+-------+-------+---
//! | sport | dport | sequence  | ack       |off|flg| window| check | urgent| options
//! +-------+-------+-----------+-----------+---+---+-------+-------+-------+---
//! ```

use crate::ethernet::u16_at;

/// Length of a header without options.
pub const TCP_LEN: usize = 20;

/// IP protocol number.
pub const PROTOCOL: u8 = 6;

/// Offsets within the header.
pub mod field {
    /// Sequence number, 32 bits.
    pub const SEQUENCE: usize = 4;
    /// Acknowledgment number, 32 bits.
    pub const ACKNOWLEDGMENT: usize = 8;
    /// Header length in the upper four bits.
    pub const DATA_OFFSET: usize = 12;
    /// Flags, 8 bits.
    pub const FLAGS: usize = 13;
    /// Window, 16 bits.
    pub const WINDOW: usize = 14;
    /// Checksum, 16 bits.
    pub const CHECKSUM: usize = 16;
    /// Urgent pointer, 16 bits.
    pub const URGENT: usize = 18;
}

/// Bits of the flags byte.
pub mod flag {
    /// No more data from the sender.
    pub const FIN: u8 = 0x01;
    /// Deliver at once.
    pub const PSH: u8 = 0x08;
    /// The acknowledgment number counts.
    pub const ACK: u8 = 0x10;
    /// Congestion window reduced (RFC 3168).
    pub const CWR: u8 = 0x80;
}

/// A checked TCP header: its length lies within the bytes.
#[derive(Clone, Copy)]
pub struct TcpView<'a> {
    bytes: &'a [u8],
}

impl<'a> TcpView<'a> {
    /// `None` where the header does not fit, or says that it is shorter than 20 bytes.
    #[inline]
    #[must_use]
    pub fn new(bytes: &'a [u8]) -> Option<TcpView<'a>> {
        if bytes.len() < TCP_LEN {
            return None;
        }
        let view = TcpView { bytes };
        (view.header_len() >= TCP_LEN && view.header_len() <= bytes.len()).then_some(view)
    }

    /// Header length in bytes, 20 to 60.
    #[inline]
    #[must_use]
    pub fn header_len(self) -> usize {
        usize::from(self.bytes[field::DATA_OFFSET] >> 4) * 4
    }

    /// Sequence number of the first payload byte.
    #[inline]
    #[must_use]
    pub fn sequence(self) -> u32 {
        let b = self.bytes;
        u32::from_be_bytes([b[4], b[5], b[6], b[7]])
    }

    /// The flags of [`flag`].
    #[inline]
    #[must_use]
    pub fn flags(self) -> u8 {
        self.bytes[field::FLAGS]
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
        let mut segment = [0x00, 0x50, 0xc0, 0x00, 0, 0, 0, 9, 0, 0, 0, 1, 0x60, 0x18, 1, 0, 0xab, 0xcd, 0, 0, 2, 4, 5, 0xb4];
        let view = TcpView::new(&segment).unwrap();
        assert_eq!((view.header_len(), view.sequence(), view.flags(), view.checksum()), (24, 9, flag::ACK | flag::PSH, 0xabcd));
        for len in 0..segment.len() {
            assert!(TcpView::new(&segment[..len]).is_none(), "{len} bytes");
        }
        segment[12] = 0x40;
        assert!(TcpView::new(&segment).is_none());
    }
}
