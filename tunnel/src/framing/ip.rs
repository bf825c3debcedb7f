//! IP packets directly behind the UDP header, as flannel's udp backend sends them.
//!
//! There is no tunnel header and no Ethernet header, so each routed network needs a socket of its own.

use packet::{Headers, Network};

use super::Facts;
use crate::malformed::Malformed;

/// The UDP port of flannel's udp backend.
const PORT: u16 = 8285;

pub(super) const FACTS: Facts =
    Facts { name: "udp-ip", title: "IP in UDP", default_port: Some(PORT), overhead: 0, carries_ethernet: false, has_vni: false };

/// Parses the IP packet that a datagram consists of. Anything but a valid IPv4 or IPv6 packet is refused.
#[inline]
pub fn decode(datagram: &[u8]) -> Result<Headers, Malformed> {
    let headers = Headers::of_packet(datagram);
    if headers.network == Network::Other { Err(Malformed::NotIp) } else { Ok(headers) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_ip_is_accepted() {
        let packet = [0x45, 0, 0, 20, 0, 1, 0, 0, 64, 99, 0, 0, 10, 0, 0, 1, 10, 0, 0, 2];
        assert_eq!(decode(&packet).map(|headers| (headers.l3, headers.network)), Ok((0, Network::Ipv4)));
        assert_eq!(decode(&packet[..19]).err(), Some(Malformed::NotIp));
        assert_eq!(decode(&[]).err(), Some(Malformed::NotIp));
    }
}
