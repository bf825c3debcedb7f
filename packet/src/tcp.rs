//! The TCP header (RFC 9293 section 3.1).
//!
//! ```text
//!  0       2       4           8           12  13  14      16      18      20
//! +-------+-------+-----------+-----------+---+---+-------+-------+-------+---
//! | sport | dport | sequence  | ack       |off|flg| window| check | urgent| options
//! +-------+-------+-----------+-----------+---+---+-------+-------+-------+---
//! ```

use crate::checksum::{Checksum, Delta};
use crate::ethernet::{put_u16, u16_at, u32_at};
use crate::options::Walk;

/// Length of a header without options.
pub const TCP_LEN: usize = 20;

/// IP protocol number.
pub const PROTOCOL: u8 = 6;

/// Offsets within the header.
pub mod field {
    /// Source port, 16 bits.
    pub const SRC_PORT: usize = 0;
    /// Destination port, 16 bits.
    pub const DST_PORT: usize = 2;
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
    /// The sequence number is the sender's first.
    pub const SYN: u8 = 0x02;
    /// There is no such connection.
    pub const RST: u8 = 0x04;
    /// Deliver the data at once.
    pub const PSH: u8 = 0x08;
    /// The acknowledgment number is valid.
    pub const ACK: u8 = 0x10;
    /// The urgent pointer is valid.
    pub const URG: u8 = 0x20;
    /// Congestion was experienced (RFC 3168).
    pub const ECE: u8 = 0x40;
    /// Congestion window reduced (RFC 3168).
    pub const CWR: u8 = 0x80;
}

/// Kinds of options.
pub mod option {
    /// Largest segment payload that the sender accepts, 16 bits (RFC 9293 section 3.2); in a SYN.
    pub const MSS: u8 = 2;
    /// Shift of the sender's windows, 8 bits (RFC 7323 section 2.2); in a SYN.
    pub const WINDOW_SCALE: u8 = 3;
}

/// Maximum window shift, in bits (RFC 7323 section 2.3).
pub const MAX_WINDOW_SCALE: u8 = 14;

const MSS_LEN: usize = 4;
const MAX_OPTIONS_LEN: usize = 40;

/// A checked TCP header: its length lies within the bytes.
#[derive(Clone, Copy)]
pub struct TcpView<'a> {
    bytes: &'a [u8],
}

impl<'a> TcpView<'a> {
    /// Checks a header. `None` if it does not fit, or if its length field is less than 20 bytes.
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

    /// Sequence number of the first payload byte.
    #[inline]
    #[must_use]
    pub fn sequence(self) -> u32 {
        u32_at(self.bytes, field::SEQUENCE)
    }

    /// The next sequence number that the sender expects; without meaning unless [`flag::ACK`] is set.
    #[inline]
    #[must_use]
    pub fn acknowledgment(self) -> u32 {
        u32_at(self.bytes, field::ACKNOWLEDGMENT)
    }

    /// The window: number of bytes that the sender accepts, before scaling.
    #[inline]
    #[must_use]
    pub fn window(self) -> u16 {
        u16_at(self.bytes, field::WINDOW)
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

    /// Kind and data of each option, up to the first malformed one.
    pub fn options(self) -> impl Iterator<Item = (u8, &'a [u8])> {
        let list = &self.bytes[TCP_LEN..self.header_len()];
        Walk::new(list).map_while(Result::ok).map(move |found| (found.kind, &list[found.range.start + 2..found.range.end]))
    }

    /// The MSS option of a SYN: the largest segment payload that its sender accepts, in bytes. The last of several
    /// options counts, as in the kernel's `tcp_parse_options`.
    #[must_use]
    pub fn max_segment_size(self) -> Option<u16> {
        let sizes = self.options().filter(|(kind, _)| *kind == option::MSS);
        sizes.filter_map(|(_, data)| Some(u16::from_be_bytes(data.try_into().ok()?))).last()
    }

    /// The window scale option of a SYN, in bits, at most [`MAX_WINDOW_SCALE`]; `None` without the option.
    #[must_use]
    pub fn window_scale(self) -> Option<u8> {
        let scales = self.options().filter(|(kind, _)| *kind == option::WINDOW_SCALE);
        scales.filter_map(|(_, data)| <[u8; 1]>::try_from(data).ok()).last().map(|[scale]| scale.min(MAX_WINDOW_SCALE))
    }
}

/// Lowers the maximum segment size in a SYN to `most` bytes of payload, so that replies fit through a link on the
/// path (RFC 4459 section 3.2, netfilter's `xt_TCPMSS`). It is never raised, and no option is added: without one,
/// segments have 536 bytes (RFC 9293 section 3.7.1). Returns whether it changed something.
///
/// A complete checksum is patched. A partial one covers only the pseudo-header so far, and includes the option when it
/// is completed.
#[inline]
pub fn clamp_mss(segment: &mut [u8], most: u16, checksum: Checksum) -> bool {
    let Some(view) = TcpView::new(segment) else { return false };
    if view.flags() & flag::SYN == 0 || view.header_len() == TCP_LEN {
        return false;
    }
    let mut options = [0; MAX_OPTIONS_LEN];
    let list = &mut options[..view.header_len() - TCP_LEN];
    list.copy_from_slice(&segment[TCP_LEN..TCP_LEN + list.len()]);
    let mut delta = Delta::NONE;
    let mut changed = false;
    for found in Walk::new(list).map_while(Result::ok) {
        let at = TCP_LEN + found.range.start + 2;
        if found.kind != option::MSS || found.range.len() != MSS_LEN || u16_at(segment, at) <= most {
            continue;
        }
        let change = Delta::of_word(u16_at(segment, at), most);
        // Options can be at any offset, and a word at an odd one counts with its bytes swapped.
        delta = delta.and(if at.is_multiple_of(2) { change } else { change.at_odd_offset() });
        put_u16(segment, at, most);
        changed = true;
    }
    if changed && checksum != Checksum::Partial {
        let check = delta.apply(u16_at(segment, field::CHECKSUM));
        put_u16(segment, field::CHECKSUM, check);
    }
    changed
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

    /// A SYN with these options, and a checksum that says nothing.
    fn syn(options: &[u8]) -> Vec<u8> {
        let mut segment = vec![0; TCP_LEN];
        segment[field::DATA_OFFSET] = (5 + options.len() / 4) as u8 * 16;
        segment[field::FLAGS] = flag::SYN;
        segment.extend_from_slice(options);
        segment
    }

    #[test]
    fn fields_and_options_of_a_literal_syn() {
        let mut segment = syn(&[2, 4, 5, 0xb4, 4, 2, 8, 10, 0, 0, 0, 1, 0, 0, 0, 2, 1, 3, 3, 7]);
        segment[..16].copy_from_slice(&[0xc0, 0, 0, 80, 0, 0, 0, 9, 0, 0, 1, 0, 0xa0, flag::SYN, 0xfa, 0xf0]);
        let view = TcpView::new(&segment).unwrap();
        assert_eq!((view.src_port(), view.dst_port(), view.acknowledgment(), view.window()), (0xc000, 80, 256, 0xfaf0));
        assert_eq!((view.max_segment_size(), view.window_scale()), (Some(1460), Some(7)));
        let options: Vec<(u8, &[u8])> = view.options().collect();
        assert_eq!(options, [(2, &[5, 0xb4][..]), (4, &[]), (8, &[0, 0, 0, 1, 0, 0, 0, 2]), (3, &[7])]);
    }

    #[test]
    fn options_end_at_what_is_malformed() {
        let read = |options: &[u8]| {
            let segment = syn(options);
            let view = TcpView::new(&segment).unwrap();
            (view.max_segment_size(), view.window_scale(), view.options().count())
        };
        assert_eq!(read(&[]), (None, None, 0));
        assert_eq!(read(&[3, 3, 200, 2, 4, 5, 0xb4, 9]), (Some(1460), Some(14), 2));
        assert_eq!(read(&[9, 0, 2, 4, 5, 0xb4, 0, 0]), (None, None, 0));
        assert_eq!(read(&[2, 3, 5, 3, 2, 0, 0, 0]), (None, None, 2), "of other lengths");
        assert_eq!(read(&[2, 4, 5, 0xb4, 2, 4, 2, 0x18]), (Some(536), None, 2));
    }

    #[test]
    fn a_lower_mss_is_written_into_a_syn() {
        let clamped = |mut segment: Vec<u8>, most| {
            let changed = clamp_mss(&mut segment, most, Checksum::Partial);
            (changed, segment)
        };
        assert_eq!(clamped(syn(&[2, 4, 5, 0xb4]), 1400), (true, syn(&[2, 4, 5, 0x78])));
        assert_eq!(clamped(syn(&[1, 2, 4, 5, 0xb4, 1, 1, 0]), 1400), (true, syn(&[1, 2, 4, 5, 0x78, 1, 1, 0])));
        for same in
            [&[2, 4, 5, 0x78][..], &[2, 4, 2, 0x18], &[], &[4, 2, 1, 0], &[0, 2, 4, 9, 0, 0, 0, 0], &[9, 1, 2, 4, 9, 9, 0, 0]]
        {
            assert_eq!(clamped(syn(same), 1400), (false, syn(same)));
        }
        let mut established = syn(&[2, 4, 5, 0xb4]);
        established[field::FLAGS] = flag::ACK;
        assert_eq!(clamped(established.clone(), 1400), (false, established));
        assert!(!clamp_mss(&mut syn(&[2, 4, 5, 0xb4])[..23], 1400, Checksum::Complete));
    }
}
