//! Explicit congestion notification across a tunnel (RFC 6040).
//!
//! *Encapsulation.* The outer header gets the inner codepoint, except that CE becomes ECT(0), as in Linux
//! (`INET_ECN_encapsulate` in `include/net/inet_ecn.h`). This is the behaviour of RFC 3168; RFC 6040 section 4.1 copies CE.
//! No mark is lost, as the inner packet keeps its own.
//!
//! *Decapsulation* follows RFC 6040 figure 4, as Linux does (`INET_ECN_decapsulate`):
//!
//! ```text
//!             outer  Not-ECT   ECT(0)    ECT(1)    CE
//!  inner Not-ECT     Not-ECT   Not-ECT   Not-ECT   dropped
//!        ECT(0)      ECT(0)    ECT(0)    ECT(1)    CE
//!        ECT(1)      ECT(1)    ECT(1)    ECT(1)    CE
//!        CE          CE        CE        CE        CE
//! ```
//!
//! A packet that does not support ECN cannot carry an outer CE mark, so it is dropped: the drop signals the congestion.
//! Frames that are not IP have no codepoint: they are sent as Not-ECT, and accepted with any mark (`IP_ECN_decapsulate`).

use packet::checksum::Delta;
use packet::ethernet::{put_u16, u16_at};
use packet::{Headers, Network, ipv4};

/// Mask of the ECN field in the IPv4 type of service and the IPv6 traffic class (RFC 3168 section 5).
pub const MASK: u8 = 3;

/// Not-ECT: the sender does not support ECN.
pub const NOT_ECT: u8 = 0;

/// ECT(1): the sender supports ECN and uses L4S (RFC 9331).
pub const ECT_1: u8 = 1;

/// ECT(0): the sender supports ECN.
pub const ECT_0: u8 = 2;

/// CE: congestion experienced.
pub const CE: u8 = 3;

/// The effect of the outer codepoint on the inner packet.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Decapsulated {
    /// The inner codepoint is kept.
    Keep,
    /// The inner codepoint becomes ECT(1).
    SetEct1,
    /// The inner codepoint becomes CE.
    SetCe,
    /// The packet is dropped: the outer header is marked CE and the packet does not support ECN.
    Drop,
}

/// The outer type of service: the configured `outer_tos` with the codepoint for this inner type of service.
#[inline]
#[must_use]
pub fn encapsulate(outer_tos: u8, inner_tos: u8) -> u8 {
    let codepoint = match inner_tos & MASK {
        CE => ECT_0,
        other => other,
    };
    outer_tos & !MASK | codepoint
}

/// The effect of an outer type of service on an inner IP packet.
#[inline]
#[must_use]
pub fn decapsulate(outer_tos: u8, inner_tos: u8) -> Decapsulated {
    match (outer_tos & MASK, inner_tos & MASK) {
        (CE, NOT_ECT) => Decapsulated::Drop,
        (CE, ECT_0 | ECT_1) => Decapsulated::SetCe,
        (ECT_1, ECT_0) => Decapsulated::SetEct1,
        _ => Decapsulated::Keep,
    }
}

/// The type of service or traffic class of a frame's IP packet; `None` if it is not IP.
#[inline]
#[must_use]
pub fn tos(headers: &Headers, frame: &[u8]) -> Option<u8> {
    let l3 = usize::from(headers.l3);
    match headers.network {
        Network::Ipv4 => Some(frame[l3 + ipv4::field::TOS]),
        Network::Ipv6 => Some((u16_at(frame, l3) >> 4) as u8),
        Network::Other => None,
    }
}

/// Applies the outer codepoint to a frame's IP packet. False if the frame must be dropped.
#[inline]
#[must_use]
pub fn apply(outer_tos: u8, headers: &Headers, frame: &mut [u8]) -> bool {
    // Most packets have Not-ECT in the outer header, or the same codepoint in both.
    if outer_tos & MASK == NOT_ECT {
        return true;
    }
    let Some(inner) = tos(headers, frame) else { return true };
    match decapsulate(outer_tos, inner) {
        Decapsulated::Keep => {}
        Decapsulated::SetEct1 => set(headers, frame, ECT_1),
        Decapsulated::SetCe => set(headers, frame, CE),
        Decapsulated::Drop => return false,
    }
    true
}

/// Writes the codepoint into a frame's IP header, and updates the IPv4 checksum.
fn set(headers: &Headers, frame: &mut [u8], codepoint: u8) {
    let ip = &mut frame[usize::from(headers.l3)..];
    let old = u16_at(ip, 0);
    match headers.network {
        Network::Ipv4 => {
            let new = old & !u16::from(MASK) | u16::from(codepoint);
            put_u16(ip, 0, new);
            let check = Delta::of_word(old, new).apply(u16_at(ip, ipv4::field::CHECKSUM));
            put_u16(ip, ipv4::field::CHECKSUM, check);
        }
        // The word consists of version (4 bits), traffic class (8 bits), and the start of the flow label (4 bits).
        Network::Ipv6 => put_u16(ip, 0, old & !(u16::from(MASK) << 4) | u16::from(codepoint) << 4),
        Network::Other => {}
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use packet::ipv4::{Ipv4Header, Ipv4View};

    const ALL: [u8; 4] = [NOT_ECT, ECT_1, ECT_0, CE];

    fn ipv4_frame(tos: u8) -> Vec<u8> {
        let (src, dst) = ([10, 0, 0, 1].into(), [10, 0, 0, 2].into());
        let ip = Ipv4Header { tos, total_len: 20, id: 7, dont_fragment: true, ttl: 64, protocol: 99, src, dst };
        [&[2; 12][..], &[8, 0], &ip.to_bytes()].concat()
    }

    fn ipv6_frame(tos: u8) -> Vec<u8> {
        let mut frame = [&[2; 12][..], &[0x86, 0xdd, 0x60 | tos >> 4, tos << 4 | 0x0a, 0xbc, 0xde, 0, 1, 99, 64]].concat();
        frame.resize(14 + 40 + 1, 0xee);
        frame
    }

    #[test]
    fn outer_codepoints() {
        let outer = |inner| encapsulate(0xb9, 0x28 | inner);
        assert_eq!(ALL.map(outer), [0xb8, 0xb9, 0xba, 0xba], "DSCP as configured, CE as ECT(0)");
    }

    #[test]
    fn inner_codepoints() {
        use Decapsulated::{Drop, Keep, SetCe, SetEct1};
        let table = [
            (NOT_ECT, [Keep, Keep, Keep, Drop]),
            (ECT_1, [Keep, Keep, Keep, SetCe]),
            (ECT_0, [Keep, SetEct1, Keep, SetCe]),
            (CE, [Keep, Keep, Keep, Keep]),
        ];
        for (inner, expected) in table {
            assert_eq!(ALL.map(|outer| decapsulate(0xfc | outer, 0x28 | inner)), expected, "inner {inner}");
        }
    }

    #[test]
    fn marks_are_written_into_the_ip_header() {
        for (inner, outer, expected) in
            [(ECT_0, CE, CE), (ECT_1, CE, CE), (ECT_0, ECT_1, ECT_1), (ECT_1, ECT_0, ECT_1), (CE, NOT_ECT, CE)]
        {
            let mut frame = ipv4_frame(0xb8 | inner);
            let headers = Headers::parse(&frame).unwrap();
            assert!(apply(outer, &headers, &mut frame));
            assert_eq!(frame, ipv4_frame(0xb8 | expected), "the checksum, too");
            assert!(Ipv4View::new(&frame[14..]).unwrap().has_valid_checksum());
            let mut frame = ipv6_frame(0xb8 | inner);
            let headers = Headers::parse(&frame).unwrap();
            assert_eq!(tos(&headers, &frame), Some(0xb8 | inner));
            assert!(apply(outer, &headers, &mut frame));
            assert_eq!(frame, ipv6_frame(0xb8 | expected));
        }
    }

    #[test]
    fn marked_ip_packets_without_ecn_are_dropped() {
        for mut frame in [ipv4_frame(0), ipv6_frame(0xb8)] {
            let before = frame.clone();
            let headers = Headers::parse(&frame).unwrap();
            assert!(!apply(CE, &headers, &mut frame));
            assert_eq!(frame, before);
        }
        let mut arp = ipv4_frame(0);
        arp[12..14].copy_from_slice(&[8, 6]);
        let (before, headers) = (arp.clone(), Headers::parse(&arp).unwrap());
        assert!(apply(CE, &headers, &mut arp));
        assert_eq!((arp, tos(&headers, &before)), (before.clone(), None));
    }
}
