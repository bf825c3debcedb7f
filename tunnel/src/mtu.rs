//! The overhead of a tunnel, and the MTU that it leaves for inner packets.
//!
//! ```text
//!            IPv4 IPv6   UDP   VXLAN   Ethernet        IPv4 IPv6
//!  VXLAN       20 40   +   8 +     8 +       14    =     50 70
//!  Ethernet    20 40   +   8         +       14    =     42 62
//!  IP          20 40   +   8                       =     28 48
//! ```
//!
//! All numbers are bytes. An MTU limits the IP packet, so the inner Ethernet header counts as overhead. A VLAN tag inside
//! the tunnel takes four more bytes, which are not in these sums (nor in Linux's `VXLAN_HEADROOM`): if the underlay has an
//! MTU of 1500 and the tunnel is a trunk, tagged guests need an MTU that is [`packet::vlan::TAG_LEN`] lower.

use std::net::IpAddr;

use packet::ipv4::IPV4_LEN;
use packet::ipv6::IPV6_LEN;
use packet::udp::UDP_LEN;

use crate::framing::Framing;

/// The network protocol of the outer header.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub enum Underlay {
    /// IPv4, without options.
    V4,
    /// IPv6, without extension headers.
    V6,
}

impl Underlay {
    /// The underlay for datagrams to this address.
    #[inline]
    #[must_use]
    pub const fn of(address: IpAddr) -> Underlay {
        match address {
            IpAddr::V4(_) => Underlay::V4,
            IpAddr::V6(_) => Underlay::V6,
        }
    }

    const fn header_len(self) -> usize {
        match self {
            Underlay::V4 => IPV4_LEN,
            Underlay::V6 => IPV6_LEN,
        }
    }

    /// Maximum length of a packet, in bytes: the length field of IPv4 includes the header, that of IPv6 does not (RFC 8200
    /// section 3).
    const fn longest(self) -> u32 {
        match self {
            Underlay::V4 => 65_535,
            Underlay::V6 => 65_535 + IPV6_LEN as u32,
        }
    }
}

/// Minimum MTU of a tunnel, in bytes. Every IPv4 host must accept packets of this length (RFC 791 section 3.2), so
/// protocols without path MTU discovery, such as DNS, send none that are longer.
pub const MIN_MTU: u32 = 576;

/// Minimum MTU for IPv6 guests, in bytes (RFC 8200 section 5).
pub const MIN_MTU_IPV6: u32 = 1280;

/// The number of bytes that encapsulation adds to an inner IP packet.
#[must_use]
pub const fn overhead(framing: Framing, underlay: Underlay) -> u32 {
    (underlay.header_len() + UDP_LEN + framing.overhead()) as u32
}

/// The tunnel's MTU over a path with this MTU, both in bytes: the length of the longest inner IP packet whose datagram is
/// not fragmented. `None` if that is less than [`MIN_MTU`].
#[must_use]
pub fn overlay_mtu(path_mtu: u32, framing: Framing, underlay: Underlay) -> Option<u32> {
    let mtu = path_mtu.min(underlay.longest()).checked_sub(overhead(framing, underlay))?;
    (mtu >= MIN_MTU).then_some(mtu)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::vni::Vni;

    const VXLAN: Framing = Framing::Vxlan(Vni::new(1).unwrap());

    #[test]
    fn overheads_are_those_of_the_table() {
        let both = |framing| [Underlay::V4, Underlay::V6].map(|underlay| overhead(framing, underlay));
        assert_eq!([VXLAN, Framing::Ethernet, Framing::Ip].map(both), [[50, 70], [42, 62], [28, 48]]);
    }

    #[test]
    fn mtus_of_tunnels() {
        assert_eq!(overlay_mtu(1500, VXLAN, Underlay::V4), Some(1450));
        assert_eq!(overlay_mtu(1500, VXLAN, Underlay::of([0u16; 8].into())), Some(1430));
        assert_eq!(overlay_mtu(9000, Framing::Ethernet, Underlay::V4), Some(8958));
        assert_eq!(overlay_mtu(1500, Framing::Ip, Underlay::V4), Some(1472));
        for (path, mtu) in
            [(0, None), (49, None), (625, None), (626, Some(576)), (65_536, Some(65_485)), (u32::MAX, Some(65_485))]
        {
            assert_eq!(overlay_mtu(path, VXLAN, Underlay::V4), mtu, "{path}");
        }
        assert_eq!(overlay_mtu(u32::MAX, Framing::Ip, Underlay::V6), Some(65_527), "a UDP length field of 65535");
    }
}
