//! The checks of a filter, on the bytes of a parsed frame.

use std::fmt;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use packet::ethernet::{u16_at, u32_at};
use packet::{EtherType, Headers, MacAddr, Tag, ipv4, ipv6, tcp, udp};

use crate::kind::Kind;

/// Numbers of the IP protocols with the ports in the first four bytes, as in TCP (SCTP: RFC 9260 section 3.1).
const WITH_PORTS: [u8; 3] = [tcp::PROTOCOL, udp::PROTOCOL, 132];
/// Protocol number of the IPv6 fragment header (RFC 8200 section 4.5).
const FRAGMENT: u8 = 44;
/// UDP destination port of VXLAN (RFC 7348 section 5).
const VXLAN_PORT: u16 = 4789;

pub(crate) const ACCEPT: u16 = u16::MAX;
pub(crate) const REJECT: u16 = u16::MAX - 1;

/// A frame to be matched.
#[derive(Clone, Copy, Debug)]
pub struct Subject<'a> {
    /// The parsed headers of `bytes`; `None` if the frame has no valid Ethernet header, and then no check is true.
    pub headers: Option<&'a Headers>,
    /// The frame.
    pub bytes: &'a [u8],
    /// The VLAN that it belongs to at the port, tagged or not; 0 or `None` if it belongs to none.
    pub vlan: Option<u16>,
    /// The network identifier of the port's tunnel, if the port is a peer of one with an identifier.
    pub vni: Option<u32>,
}

impl<'a> Subject<'a> {
    /// A frame that belongs to no VLAN and no tunnel.
    #[must_use]
    pub fn plain(headers: Option<&'a Headers>, bytes: &'a [u8]) -> Subject<'a> {
        Subject { headers, bytes, vlan: None, vni: None }
    }
}

/// A check and the index of the next step for each result, or [`ACCEPT`] or [`REJECT`].
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct Step {
    pub(crate) check: Check,
    pub(crate) then: u16,
    pub(crate) otherwise: u16,
}

/// Which end of a flow a value belongs to.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub(crate) enum End {
    #[default]
    Either,
    Src,
    Dst,
    Both,
}

/// The network protocol that an address or a protocol number belongs to.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Scope {
    Any,
    Ip,
    Ip6,
    Arp,
}

/// A prefix; a host is a prefix of full length.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct Net {
    pub(crate) address: IpAddr,
    pub(crate) prefix: u8,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Check {
    EtherType(EtherType),
    Protocol(Scope, u8),
    Address(Scope, End, Net),
    /// Protocol (`None`: any with ports), end, first and last port.
    Ports(Option<u8>, End, u16, u16),
    Mac(End, MacAddr),
    /// The VLAN; `None`: any tag.
    Vlan(Option<u16>),
    Vni(Option<u32>),
    Broadcast,
    Multicast,
}

impl End {
    #[inline(always)]
    fn holds(self, src: impl FnOnce() -> bool, dst: impl FnOnce() -> bool) -> bool {
        match self {
            End::Either => src() || dst(),
            End::Src => src(),
            End::Dst => dst(),
            End::Both => src() && dst(),
        }
    }
}

impl Net {
    fn holds_v6(self, address: u128) -> bool {
        let IpAddr::V6(net) = self.address else { return false };
        let host = u128::MAX.checked_shr(self.prefix.into()).unwrap_or(0);
        net.to_bits() == address & !host
    }

    fn is_host(self) -> bool {
        self.prefix == if self.address.is_ipv4() { 32 } else { 128 }
    }

    /// The address without the host bits.
    pub(crate) fn masked(self) -> IpAddr {
        match self.address {
            IpAddr::V4(address) => {
                let host = u32::MAX.checked_shr(self.prefix.into()).unwrap_or(0);
                Ipv4Addr::from_bits(address.to_bits() & !host).into()
            }
            IpAddr::V6(address) => {
                let host = u128::MAX.checked_shr(self.prefix.into()).unwrap_or(0);
                Ipv6Addr::from_bits(address.to_bits() & !host).into()
            }
        }
    }
}

impl Check {
    #[inline]
    pub(crate) fn holds(&self, subject: &Subject<'_>) -> bool {
        let Some(headers) = subject.headers else { return false };
        let sight = Sight { headers, bytes: subject.bytes };
        match *self {
            Check::EtherType(ether_type) => headers.ether_type == ether_type,
            Check::Protocol(scope, number) => sight.has_protocol(scope, number),
            Check::Address(scope, end, net) => sight.has_address(scope, end, net),
            Check::Ports(protocol, end, first, last) => sight.has_port(protocol, end, first, last),
            Check::Mac(end, mac) => sight.is_ethernet() && end.holds(|| headers.src == mac, || headers.dst == mac),
            Check::Vlan(None) => headers.tag.is_some(),
            Check::Vlan(Some(vlan)) => {
                headers.tag.map(Tag::vlan).is_some_and(|tag| tag.get() == vlan) || subject.vlan.is_some_and(|own| own == vlan)
            }
            Check::Vni(vni) => sight.has_vni(subject.vni, vni),
            Check::Broadcast => sight.is_ethernet() && headers.dst == MacAddr::BROADCAST,
            Check::Multicast => sight.is_ethernet() && headers.dst.is_multicast(),
        }
    }
}

impl Check {
    /// The result for all frames of a kind; `None` if it depends on more than that.
    pub(crate) fn of_kind(&self, kind: Kind) -> Option<bool> {
        let unless = |impossible: bool| if impossible { Some(false) } else { None };
        match *self {
            Check::EtherType(ether_type) => match kind {
                Kind::Ipv4(_) => Some(ether_type == EtherType::IPV4),
                Kind::Ipv6(_) => Some(ether_type == EtherType::IPV6),
                Kind::Arp => Some(ether_type == EtherType::ARP),
                Kind::Other => unless([EtherType::IPV4, EtherType::IPV6, EtherType::ARP].contains(&ether_type)),
            },
            Check::Protocol(scope, number) => match (kind, scope) {
                (Kind::Ipv4(_), Scope::Ip6) | (Kind::Ipv6(_), Scope::Ip) => Some(false),
                _ => kind.has_protocol(number),
            },
            Check::Address(scope, _, net) => unless(match kind {
                Kind::Ipv4(_) => net.address.is_ipv6() || !matches!(scope, Scope::Any | Scope::Ip),
                Kind::Ipv6(_) => net.address.is_ipv4(),
                Kind::Arp => net.address.is_ipv6() || !matches!(scope, Scope::Any | Scope::Arp),
                Kind::Other => true,
            }),
            Check::Ports(protocol, ..) => match kind {
                Kind::Ipv4(_) | Kind::Ipv6(_) => protocol.and_then(|number| unless(kind.has_protocol(number) == Some(false))),
                Kind::Arp | Kind::Other => Some(false),
            },
            Check::Mac(..) | Check::Vlan(_) | Check::Vni(_) | Check::Broadcast | Check::Multicast => None,
        }
    }
}

/// A frame with parsed headers.
#[derive(Clone, Copy)]
struct Sight<'a> {
    headers: &'a Headers,
    bytes: &'a [u8],
}

impl<'a> Sight<'a> {
    /// False for packets of a TUN device, which have no Ethernet header.
    fn is_ethernet(self) -> bool {
        self.headers.l3 > 0
    }

    /// The bytes from the network header on, if it is of this protocol and they are at least `len`.
    #[inline]
    fn network(self, ether_type: EtherType, len: usize) -> Option<&'a [u8]> {
        let network = self.bytes.get(usize::from(self.headers.l3)..)?;
        (self.headers.ether_type == ether_type && network.len() >= len).then_some(network)
    }

    #[inline]
    fn has_address(self, scope: Scope, end: End, net: Net) -> bool {
        let IpAddr::V4(address) = net.address else { return self.has_v6_address(end, net) };
        let ends = match (self.headers.ether_type, scope) {
            (EtherType::IPV4, Scope::Any | Scope::Ip) => {
                let ip = self.network(EtherType::IPV4, ipv4::IPV4_LEN);
                ip.map(|ip| [u32_at(ip, ipv4::field::SRC), u32_at(ip, ipv4::field::DST)])
            }
            // The protocol addresses of sender and target (RFC 826).
            (EtherType::ARP, Scope::Any | Scope::Arp) => {
                self.network(EtherType::ARP, packet::arp::ARP_LEN).map(|arp| [u32_at(arp, 14), u32_at(arp, 24)])
            }
            _ => None,
        };
        let Some([src, dst]) = ends else { return false };
        let prefix = !u32::MAX.checked_shr(net.prefix.into()).unwrap_or(0);
        let is_in = |host: u32| host & prefix == address.to_bits();
        end.holds(|| is_in(src), || is_in(dst))
    }

    #[inline(never)]
    fn has_v6_address(self, end: End, net: Net) -> bool {
        let Some(ip) = self.network(EtherType::IPV6, ipv6::IPV6_LEN) else { return false };
        let at = |at: usize| ip[at..].first_chunk().is_some_and(|bytes| net.holds_v6(u128::from_be_bytes(*bytes)));
        end.holds(|| at(ipv6::field::SRC), || at(ipv6::field::DST))
    }

    #[inline]
    fn has_protocol(self, scope: Scope, number: u8) -> bool {
        match self.headers.ether_type {
            EtherType::IPV4 if scope != Scope::Ip6 => {
                let ip = self.network(EtherType::IPV4, ipv4::IPV4_LEN);
                ip.is_some_and(|ip| ip[ipv4::field::PROTOCOL] == number)
            }
            EtherType::IPV6 if scope != Scope::Ip => self.v6_protocol(number).is_some(),
            _ => false,
        }
    }

    /// If the IPv6 packet is of this protocol: the transport header, or `None` within `Some` for a fragment.
    fn v6_protocol(self, number: u8) -> Option<Option<&'a [u8]>> {
        let packet = self.network(EtherType::IPV6, ipv6::IPV6_LEN)?;
        let next = packet[ipv6::field::NEXT_HEADER];
        if next == number {
            return Some(Some(&packet[ipv6::IPV6_LEN..]));
        }
        if next == FRAGMENT && packet.get(ipv6::IPV6_LEN) == Some(&number) {
            return Some(None);
        }
        match ipv6::Ipv6View::new(packet)?.upper() {
            ipv6::Upper::Protocol(found, at) if found == number => Some(packet.get(at..)),
            _ => None,
        }
    }

    /// The transport header, if it is of this protocol, or with `None` of any protocol with ports.
    #[inline]
    fn with_ports(self, protocol: Option<u8>) -> Option<&'a [u8]> {
        let is_meant = |found: u8| protocol.map_or(WITH_PORTS.contains(&found), |meant| meant == found);
        if self.headers.ether_type == EtherType::IPV6 {
            return WITH_PORTS.into_iter().filter(|number| is_meant(*number)).find_map(|number| self.v6_protocol(number)?);
        }
        let packet = self.network(EtherType::IPV4, ipv4::IPV4_LEN)?;
        let is_first = u16_at(packet, ipv4::field::FRAGMENT) & ipv4::FRAGMENT_OFFSET == 0;
        let header_len = usize::from(packet[0] & 0x0f) * 4;
        (is_first && is_meant(packet[ipv4::field::PROTOCOL])).then(|| packet.get(header_len..))?
    }

    #[inline]
    fn has_port(self, protocol: Option<u8>, end: End, first: u16, last: u16) -> bool {
        let Some(transport) = self.with_ports(protocol) else { return false };
        let at = |at: usize| transport.len() >= at + 2 && (first..=last).contains(&u16_at(transport, at));
        end.holds(|| at(0), || at(2))
    }

    fn has_vni(self, own: Option<u32>, vni: Option<u32>) -> bool {
        let is_meant = |found: u32| vni.is_none_or(|meant| meant == found);
        if own.is_some_and(is_meant) {
            return true;
        }
        let Some(datagram) = self.with_ports(Some(udp::PROTOCOL)) else { return false };
        // The I flag and the network identifier.
        datagram.len() >= udp::UDP_LEN + 8
            && u16_at(datagram, udp::field::DST_PORT) == VXLAN_PORT
            && datagram[udp::UDP_LEN] & 0x08 != 0
            && is_meant(u32_at(datagram, udp::UDP_LEN + 4) >> 8)
    }
}

impl fmt::Display for End {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.write_str(match self {
            End::Either => "",
            End::Src => "src ",
            End::Dst => "dst ",
            End::Both => "src and dst ",
        })
    }
}

impl fmt::Display for Scope {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.write_str(match self {
            Scope::Any => "",
            Scope::Ip => "ip ",
            Scope::Ip6 => "ip6 ",
            Scope::Arp => "arp ",
        })
    }
}

impl fmt::Display for Check {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Check::EtherType(EtherType::IPV4) => out.write_str("ip"),
            Check::EtherType(EtherType::IPV6) => out.write_str("ip6"),
            Check::EtherType(EtherType::ARP) => out.write_str("arp"),
            Check::EtherType(EtherType(number)) => write!(out, "ether proto {number:#06x}"),
            Check::Protocol(scope, number) => write!(out, "{scope}proto {number}"),
            Check::Address(scope, end, net) if net.is_host() => write!(out, "{scope}{end}host {}", net.address),
            Check::Address(scope, end, net) => write!(out, "{scope}{end}net {}/{}", net.address, net.prefix),
            Check::Ports(protocol, end, first, last) => {
                let protocol = match *protocol {
                    Some(tcp::PROTOCOL) => "tcp ",
                    Some(_) => "udp ",
                    None => "",
                };
                if first == last {
                    return write!(out, "{protocol}{end}port {first}");
                }
                write!(out, "{protocol}{end}portrange {first}-{last}")
            }
            Check::Mac(end, mac) => write!(out, "{end}mac {mac}"),
            Check::Vlan(None) => out.write_str("vlan"),
            Check::Vlan(Some(vlan)) => write!(out, "vlan {vlan}"),
            Check::Vni(None) => out.write_str("vni"),
            Check::Vni(Some(vni)) => write!(out, "vni {vni}"),
            Check::Broadcast => out.write_str("broadcast"),
            Check::Multicast => out.write_str("multicast"),
        }
    }
}
