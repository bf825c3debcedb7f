//! The VXLAN header (RFC 7348 section 5).
//!
//! ```text
//!  0                   1                   2                   3
//!  0 1 2 3 4 5 6 7 8 9 0 1 2 3 4 5 6 7 8 9 0 1 2 3 4 5 6 7 8 9 0 1
//! +-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+
//! |R|R|R|R|I|R|R|R|                   reserved                    |
//! +-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+
//! |       VXLAN network identifier (VNI)          |   reserved    |
//! +-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+
//! |  the inner frame, from its destination address on, without its check sequence ...
//! ```
//!
//! *Reserved bits* are sent as zero and ignored on receipt, as the RFC requires, so frames of a neighbour
//! that uses group policies (draft-smith-vxlan-group-policy) are accepted. Linux drops headers with reserved
//! bits set (`vxlan_rcv` in `drivers/net/vxlan/vxlan_core.c`). The only reserved bits that are checked are
//! those by which VXLAN-GPE (draft-ietf-nvo3-vxlan-gpe section 3) announces another payload than an
//! Ethernet frame.

use packet::ethernet::ETHERNET_LEN;

use super::Facts;
use crate::malformed::Malformed;
use crate::vni::Vni;

/// The length of the VXLAN header, in bytes.
pub const VXLAN_LEN: usize = 8;

/// The UDP destination port that IANA has assigned to VXLAN.
pub const PORT: u16 = 4789;

pub(super) const FACTS: Facts = Facts {
    name: "vxlan",
    title: "VXLAN",
    default_port: Some(PORT),
    overhead: VXLAN_LEN + ETHERNET_LEN,
    carries_ethernet: true,
    has_vni: true,
};

/// Offsets within the header, in bytes.
pub mod field {
    /// Flags, 8 bits.
    pub const FLAGS: usize = 0;
    /// The network identifier, 24 bits.
    pub const VNI: usize = 4;
}

/// Bits of the flags.
pub mod flag {
    /// I: the network identifier is valid. Must be set.
    pub const VNI: u8 = 0x08;
    /// Version of VXLAN-GPE, two bits. Other versions than 0 may have another layout.
    pub const VERSION: u8 = 0x30;
    /// P of VXLAN-GPE: the last byte of the first word names the inner protocol, which may not be Ethernet.
    pub const NEXT_PROTOCOL: u8 = 0x04;
    /// O of VXLAN-GPE: an OAM message for the tunnel endpoint, not to be forwarded.
    pub const MANAGEMENT: u8 = 0x01;
}

/// The flags that are checked on receipt: of these, exactly `VNI` must be set.
const CHECKED_FLAGS: u8 = flag::VNI | flag::VERSION | flag::NEXT_PROTOCOL | flag::MANAGEMENT;

/// The header before an inner frame.
#[inline]
#[must_use]
pub const fn encode(vni: Vni) -> [u8; VXLAN_LEN] {
    let [a, b, c] = vni.to_bytes();
    [flag::VNI, 0, 0, 0, a, b, c, 0]
}

/// Takes the header off a datagram. Returns the network identifier and the inner frame, which is at least as
/// long as an Ethernet header.
#[inline]
pub fn decode(datagram: &[u8]) -> Result<(Vni, &[u8]), Malformed> {
    let Some((header, frame)) = datagram.split_first_chunk::<VXLAN_LEN>() else { return Err(Malformed::Truncated) };
    if header[field::FLAGS] & CHECKED_FLAGS != flag::VNI {
        return Err(Malformed::BadFlags);
    }
    if frame.len() < ETHERNET_LEN {
        return Err(Malformed::Truncated);
    }
    let vni = Vni::from_bytes([header[field::VNI], header[field::VNI + 1], header[field::VNI + 2]]);
    Ok((vni, frame))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// RFC 7348 figure 1 from the VXLAN header on: VNI 0x123456, an ARP frame's first bytes.
    const DATAGRAM: [u8; 26] = [
        8, 0, 0, 0, 0x12, 0x34, 0x56, 0, // VXLAN
        0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 2, 0, 0, 0, 0, 1, 8, 6, // Ethernet
        0, 1, 8, 0, // ARP
    ];

    #[test]
    fn literal_bytes_there_and_back() {
        let vni = Vni::new(0x12_3456).unwrap();
        assert_eq!(encode(vni), DATAGRAM[..8]);
        assert_eq!(decode(&DATAGRAM), Ok((vni, &DATAGRAM[8..])));
        for number in [0, 1, Vni::MAX] {
            let vni = Vni::new(number).unwrap();
            assert_eq!(decode(&[&encode(vni), &DATAGRAM[8..]].concat()), Ok((vni, &DATAGRAM[8..])));
        }
    }

    #[test]
    fn no_prefix_that_cuts_a_header_is_a_frame() {
        for len in 0..DATAGRAM.len() {
            let decoded = decode(&DATAGRAM[..len]);
            assert_eq!(decoded.err(), (len < 22).then_some(Malformed::Truncated), "{len} bytes");
        }
    }

    #[test]
    fn reserved_bits_are_ignored_and_other_protocols_refused() {
        for flags in 0..=255u8 {
            let mut datagram = DATAGRAM;
            datagram[0] = flags;
            let is_taken = matches!(flags, 0x08 | 0x0a | 0x48 | 0x4a | 0x88 | 0x8a | 0xc8 | 0xca);
            assert_eq!(decode(&datagram).err(), (!is_taken).then_some(Malformed::BadFlags), "{flags:#04x}");
        }
        for reserved in [1, 2, 3, 7] {
            let mut datagram = DATAGRAM;
            datagram[reserved] = 0xff;
            assert_eq!(decode(&datagram).unwrap().0.number(), 0x12_3456, "byte {reserved}");
        }
    }
}
