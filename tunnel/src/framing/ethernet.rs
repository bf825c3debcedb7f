//! Ethernet frames directly behind the UDP header, without a tunnel header.
//!
//! Nothing in a datagram says which network the frame belongs to, so each network needs a socket of its own.
//! No RFC describes this framing.

use packet::Headers;
use packet::ethernet::ETHERNET_LEN;

use super::Facts;
use crate::malformed::Malformed;

pub(super) const FACTS: Facts = Facts {
    name: "udp",
    title: "Ethernet in UDP",
    default_port: None,
    overhead: ETHERNET_LEN,
    carries_ethernet: true,
    has_vni: false,
};

/// Parses the frame that a datagram consists of. What follows the Ethernet header may be invalid; the
/// returned headers say so.
#[inline]
pub fn decode(datagram: &[u8]) -> Result<Headers, Malformed> {
    Headers::parse(datagram).map_err(|_| Malformed::Truncated)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_frame_needs_its_whole_header() {
        let frame = [[2; 12].as_slice(), &[0x88, 0xb5]].concat();
        assert_eq!(decode(&frame).map(|headers| headers.l3), Ok(14));
        assert_eq!(decode(&frame[..13]).err(), Some(Malformed::Truncated));
    }
}
