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
//! *Reserved bits* are sent as zero and ignored when they come, as the RFC asks; so a neighbour's group
//! policy (draft-smith-vxlan-group-policy) costs nobody a frame. Linux drops what has any of them set
//! (`vxlan_rcv` in `drivers/net/vxlan/vxlan_core.c`). Refused are only the bits by which VXLAN-GPE
//! (draft-ietf-nvo3-vxlan-gpe section 3) says that no Ethernet frame of the bridge follows.

use std::fmt;

use packet::ethernet::ETHERNET_LEN;

/// The header's length.
pub const VXLAN_LEN: usize = 8;

/// The UDP port that IANA gave it.
pub const PORT: u16 = 4789;

/// Offsets within the header.
pub mod field {
    /// Flags, 8 bits.
    pub const FLAGS: usize = 0;
    /// The network identifier, 24 bits.
    pub const VNI: usize = 4;
}

/// Bits of the flags.
pub mod flag {
    /// I: the identifier is valid. Always set.
    pub const VNI: u8 = 0x08;
    /// Two bits of VXLAN-GPE: another version's header may be laid out otherwise.
    pub const VERSION: u8 = 0x30;
    /// P of VXLAN-GPE: what follows is of the protocol that the header names, which need not be Ethernet.
    pub const NEXT_PROTOCOL: u8 = 0x04;
    /// O of VXLAN-GPE: a message for the tunnel's end, not to be forwarded.
    pub const MANAGEMENT: u8 = 0x01;
}

/// Bits without which, and with which, the inner bytes are no frame of a bridge.
const UNDERSTOOD: u8 = flag::VNI | flag::VERSION | flag::NEXT_PROTOCOL | flag::MANAGEMENT;

/// A VXLAN network identifier: 24 bits, and no other number can be one.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct Vni(u32);

impl Vni {
    /// The highest there is.
    pub const MAX: u32 = 0xff_ffff;

    /// `None` for more than 24 bits.
    #[must_use]
    pub const fn new(number: u32) -> Option<Vni> {
        if number <= Vni::MAX { Some(Vni(number)) } else { None }
    }

    /// As a number.
    #[must_use]
    pub const fn number(self) -> u32 {
        self.0
    }
}

impl fmt::Display for Vni {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(out)
    }
}

/// A datagram that holds no frame of a bridge.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Malformed {
    /// Shorter than the VXLAN and the inner Ethernet header.
    Truncated,
    /// The I flag is not set, or another protocol is spoken.
    BadFlags,
}

/// The header before a frame.
#[inline]
#[must_use]
pub fn encap(vni: Vni) -> [u8; VXLAN_LEN] {
    let [_, a, b, c] = vni.0.to_be_bytes();
    [flag::VNI, 0, 0, 0, a, b, c, 0]
}

/// Takes the header off a datagram: whose network, and the frame. What the frame holds behind its
/// Ethernet header has not been looked at.
#[inline]
pub fn decap(datagram: &[u8]) -> Result<(Vni, &[u8]), Malformed> {
    let Some((header, frame)) = datagram.split_first_chunk::<VXLAN_LEN>() else { return Err(Malformed::Truncated) };
    if header[field::FLAGS] & UNDERSTOOD != flag::VNI {
        return Err(Malformed::BadFlags);
    }
    if frame.len() < ETHERNET_LEN {
        return Err(Malformed::Truncated);
    }
    let vni = Vni(u32::from_be_bytes([0, header[field::VNI], header[field::VNI + 1], header[field::VNI + 2]]));
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
        assert_eq!(encap(vni), DATAGRAM[..8]);
        assert_eq!(decap(&DATAGRAM), Ok((vni, &DATAGRAM[8..])));
        for number in [0, 1, Vni::MAX] {
            let vni = Vni::new(number).unwrap();
            assert_eq!(decap(&[&encap(vni), &DATAGRAM[8..]].concat()), Ok((vni, &DATAGRAM[8..])));
        }
        assert_eq!(Vni::new(Vni::MAX + 1), None);
    }

    #[test]
    fn no_prefix_that_cuts_a_header_is_a_frame() {
        for len in 0..DATAGRAM.len() {
            let decapped = decap(&DATAGRAM[..len]);
            assert_eq!(decapped.err(), (len < 22).then_some(Malformed::Truncated), "{len} bytes");
        }
    }

    #[test]
    fn reserved_bits_are_ignored_and_other_protocols_refused() {
        for flags in 0..=255u8 {
            let mut datagram = DATAGRAM;
            datagram[0] = flags;
            let is_taken = matches!(flags, 0x08 | 0x0a | 0x48 | 0x4a | 0x88 | 0x8a | 0xc8 | 0xca);
            assert_eq!(decap(&datagram).err(), (!is_taken).then_some(Malformed::BadFlags), "{flags:#04x}");
        }
        for reserved in [1, 2, 3, 7] {
            let mut datagram = DATAGRAM;
            datagram[reserved] = 0xff;
            assert_eq!(decap(&datagram).unwrap().0.number(), 0x12_3456, "byte {reserved}");
        }
    }
}
