//! The IPv6 header and the walk over extension headers (RFC 8200).
//!
//! ```text
//!  0           4       6   7   8                   24                  40
//! +-----------+-------+---+---+-------------------+-------------------+---
//! |v|class|flow| len  |nxt|hop| src               | dst               | next
//! +-----------+-------+---+---+-------------------+-------------------+---
//! ```

use std::net::Ipv6Addr;

use crate::ethernet::{put_u16, u16_at};

/// Length of the fixed header.
pub const IPV6_LEN: usize = 40;

/// Minimum MTU of every link, in bytes (RFC 8200 section 5).
pub const MIN_MTU: usize = 1280;

/// Maximum number of extension headers that are walked, so that a long chain cannot cost much time.
pub const MAX_EXTENSIONS: usize = 8;

/// Maximum length of the extension headers that are walked, in bytes.
pub const MAX_EXTENSIONS_LEN: usize = 256;

/// Offsets within the header.
pub mod field {
    /// Length of what follows the fixed header, 16 bits.
    pub const PAYLOAD_LEN: usize = 4;
    /// Protocol of the next header, 8 bits.
    pub const NEXT_HEADER: usize = 6;
    /// Hop limit, 8 bits.
    pub const HOP_LIMIT: usize = 7;
    /// Source address, 128 bits; the destination follows.
    pub const SRC: usize = 8;
    /// Destination address, 128 bits.
    pub const DST: usize = 24;
}

const HOP_BY_HOP: u8 = 0;
const ROUTING: u8 = 43;
const FRAGMENT: u8 = 44;
const AUTHENTICATION: u8 = 51;
const DESTINATION: u8 = 60;

/// Length of the fragment header (RFC 8200 section 4.5).
const FRAGMENT_LEN: usize = 8;

/// A checked IPv6 header: the packet's length is within the bytes.
#[derive(Clone, Copy)]
pub struct Ipv6View<'a> {
    bytes: &'a [u8],
}

/// The result of the walk over the extension headers.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Upper {
    /// The header of this protocol begins at this offset from the IPv6 header.
    Protocol(u8, usize),
    /// A fragment, whose fragment header begins at this offset: what follows it need not be a transport header.
    Fragment(usize),
    /// The chain is too long or leaves the packet.
    Unknown,
}

impl<'a> Ipv6View<'a> {
    /// Checks a header. `None` if version or payload length are inconsistent with the bytes, and for jumbograms
    /// (RFC 2675), which no port carries.
    #[inline]
    #[must_use]
    pub fn new(bytes: &'a [u8]) -> Option<Ipv6View<'a>> {
        if bytes.len() < IPV6_LEN || bytes[0] >> 4 != 6 {
            return None;
        }
        let view = Ipv6View { bytes };
        (view.total_len() > IPV6_LEN && view.total_len() <= bytes.len()).then_some(view)
    }

    /// Length of header and payload in bytes.
    #[inline]
    #[must_use]
    pub fn total_len(self) -> usize {
        IPV6_LEN + usize::from(u16_at(self.bytes, field::PAYLOAD_LEN))
    }

    /// Traffic class, of which the last two bits are ECN's.
    #[inline]
    #[must_use]
    pub fn traffic_class(self) -> u8 {
        (u16_at(self.bytes, 0) >> 4) as u8
    }

    /// Remaining number of hops.
    #[inline]
    #[must_use]
    pub fn hop_limit(self) -> u8 {
        self.bytes[field::HOP_LIMIT]
    }

    /// Source address.
    #[inline]
    #[must_use]
    pub fn src(self) -> Ipv6Addr {
        address_at(self.bytes, field::SRC)
    }

    /// Destination address.
    #[inline]
    #[must_use]
    pub fn dst(self) -> Ipv6Addr {
        address_at(self.bytes, field::DST)
    }

    /// The packet from this offset on, which [`Ipv6View::upper`] returned; empty beyond its end.
    #[inline]
    #[must_use]
    pub fn from(self, at: usize) -> &'a [u8] {
        self.bytes[..self.total_len()].get(at..).unwrap_or_default()
    }

    /// Walks the extension headers, at most [`MAX_EXTENSIONS`] and [`MAX_EXTENSIONS_LEN`] bytes.
    #[inline]
    #[must_use]
    pub fn upper(self) -> Upper {
        self.upper_from(self.bytes[field::NEXT_HEADER], IPV6_LEN)
    }

    /// Behind a fragment header at this offset: the fragment's offset within its packet in bytes, and what the walk finds from there on,
    /// if it is the first fragment. `None` if the header is not all there.
    #[must_use]
    pub fn behind_fragment(self, at: usize) -> Option<(usize, Upper)> {
        let header: &[u8; FRAGMENT_LEN] = self.from(at).first_chunk()?;
        let offset = usize::from(u16_at(header, 2) & !7);
        Some((offset, self.upper_from(header[0], at + FRAGMENT_LEN)))
    }

    #[inline(always)]
    fn upper_from(self, protocol: u8, at: usize) -> Upper {
        let packet = &self.bytes[..self.total_len()];
        let (mut protocol, mut at) = (protocol, at);
        for _ in 0..=MAX_EXTENSIONS {
            let unit = match protocol {
                HOP_BY_HOP | ROUTING | DESTINATION => 8,
                AUTHENTICATION => 4,
                FRAGMENT => return Upper::Fragment(at),
                _ => return Upper::Protocol(protocol, at),
            };
            if at + 8 > packet.len() {
                return Upper::Unknown;
            }
            // RFC 8200 section 4.3 counts 8-byte units after the first; RFC 4302 section 2.2 counts
            // 4-byte units after the second.
            let len = match unit {
                8 => 8 + usize::from(packet[at + 1]) * 8,
                _ => 8 + usize::from(packet[at + 1]) * 4,
            };
            protocol = packet[at];
            at += len;
            if at > packet.len() || at > IPV6_LEN + MAX_EXTENSIONS_LEN {
                return Upper::Unknown;
            }
        }
        Upper::Unknown
    }
}

/// The 128 bits at `at`; the caller has checked that they are there.
#[inline]
fn address_at(bytes: &[u8], at: usize) -> Ipv6Addr {
    let mut octets = [0; 16];
    octets.copy_from_slice(&bytes[at..at + 16]);
    Ipv6Addr::from(octets)
}

/// The fields of a header to be written, without flow label and extension headers.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Ipv6Header {
    /// DSCP and ECN.
    pub traffic_class: u8,
    /// Length of everything after this header, in bytes.
    pub payload_len: u16,
    /// Protocol of the next header.
    pub next_header: u8,
    /// Maximum number of hops.
    pub hop_limit: u8,
    /// Source address.
    pub src: Ipv6Addr,
    /// Destination address.
    pub dst: Ipv6Addr,
}

impl Ipv6Header {
    /// The header as 40 bytes.
    #[must_use]
    pub fn to_bytes(self) -> [u8; IPV6_LEN] {
        let mut bytes = [0; IPV6_LEN];
        put_u16(&mut bytes, 0, 0x6000 | u16::from(self.traffic_class) << 4);
        put_u16(&mut bytes, field::PAYLOAD_LEN, self.payload_len);
        bytes[field::NEXT_HEADER] = self.next_header;
        bytes[field::HOP_LIMIT] = self.hop_limit;
        bytes[field::SRC..field::DST].copy_from_slice(&self.src.octets());
        bytes[field::DST..].copy_from_slice(&self.dst.octets());
        bytes
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn packet(next: u8, payload: &[u8]) -> Vec<u8> {
        let mut bytes = vec![0x60, 0, 0, 0, 0, payload.len() as u8, next, 64];
        bytes.resize(IPV6_LEN, 0);
        bytes.extend_from_slice(payload);
        bytes
    }

    #[test]
    fn walk_over_literal_chains() {
        let upper = |next, payload: &[u8]| Ipv6View::new(&packet(next, payload)).unwrap().upper();
        assert_eq!(upper(6, &[0; 20]), Upper::Protocol(6, 40));
        assert_eq!(upper(0, &[17, 0, 0, 0, 0, 0, 0, 0, 1, 2, 3, 4]), Upper::Protocol(17, 48));
        assert_eq!(upper(0, &[60, 0, 0, 0, 0, 0, 0, 0, 6, 1, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0]), Upper::Protocol(6, 64));
        assert_eq!(upper(44, &[17, 0, 0, 1, 0, 0, 0, 0]), Upper::Fragment(40));
        assert_eq!(upper(0, &[17, 200, 0, 0, 0, 0, 0, 0]), Upper::Unknown);
        assert_eq!(upper(0, &[17, 0, 0]), Upper::Unknown);
        let long = [&[17, 33][..], &[0; 270]].concat();
        assert_eq!(upper(60, &long), Upper::Unknown, "272 bytes in one header");
        // Nine options headers in a row are one too many.
        assert_eq!(upper(60, &[60, 0, 0, 0, 0, 0, 0, 0].repeat(9)), Upper::Unknown);
    }

    #[test]
    fn what_a_first_fragment_carries() {
        let behind = |fragment: [u8; 8], rest: &[u8]| {
            let bytes = packet(44, &[&fragment[..], rest].concat());
            Ipv6View::new(&bytes).unwrap().behind_fragment(40)
        };
        assert_eq!(behind([17, 0, 0, 1, 0, 0, 0, 9], &[0; 8]), Some((0, Upper::Protocol(17, 48))));
        assert_eq!(behind([17, 0, 0x12, 0x39, 0, 0, 0, 9], &[0; 8]).map(|(offset, _)| offset), Some(0x1238));
        let options = [58, 0, 0, 0, 0, 0, 0, 0, 134];
        assert_eq!(behind([60, 0, 0, 1, 0, 0, 0, 9], &options), Some((0, Upper::Protocol(58, 56))));
        assert_eq!(behind([60, 0, 0, 1, 0, 0, 0, 9], &options[..7]), Some((0, Upper::Unknown)));
        assert_eq!(behind([44, 0, 0, 1, 0, 0, 0, 9], &[0; 8]), Some((0, Upper::Fragment(48))));
        let bytes = packet(44, &[0; 7]);
        assert_eq!(Ipv6View::new(&bytes).unwrap().behind_fragment(40), None);
    }

    #[test]
    fn a_header_there_and_back() {
        let (src, dst) = (Ipv6Addr::new(0xfd00, 0, 0, 0, 0, 0, 0, 1), Ipv6Addr::new(0xff02, 0, 0, 0, 0, 0, 0, 2));
        let header = Ipv6Header { traffic_class: 0xb9, payload_len: 1, next_header: 59, hop_limit: 255, src, dst };
        let bytes = [&header.to_bytes()[..], &[0xaa]].concat();
        assert_eq!(bytes[..8], [0x6b, 0x90, 0, 0, 0, 1, 59, 255]);
        let view = Ipv6View::new(&bytes).unwrap();
        assert_eq!((view.src(), view.dst(), view.upper()), (src, dst, Upper::Protocol(59, 40)));
        assert_eq!((view.from(40), view.from(41), view.from(42)), (&[0xaa][..], &[][..], &[][..]));
    }

    #[test]
    fn contradictions_are_refused() {
        let whole = packet(6, &[0; 20]);
        for len in 0..whole.len() {
            assert!(Ipv6View::new(&whole[..len]).is_none(), "{len} bytes");
        }
        assert!(Ipv6View::new(&packet(6, &[])).is_none(), "payload length 0 is a jumbogram's");
    }
}
