//! The guard of a port: its station sends from its own addresses only, and plays neither router nor DHCP server.
//!
//! Who can send frames can claim to be another: a learning bridge, ARP (RFC 826), neighbour discovery (RFC 4861) and DHCP (RFC 2131)
//! believe what they are told. The guard reads each frame of its port before anything is learned from it, and drops what claims an
//! address that the station does not have. It is what RFC 2827 asks of the edge of a network, what RFC 6105 and RFC 7610 ask of a
//! switch for routers and DHCP servers, and what Open vSwitch's users call port security.
//!
//! ```text
//!  source MAC address      the station's own                                                            guard_mac
//!  IPv4                    source among its addresses; 0.0.0.0 from UDP port 68 to 67 (DHCP client)     guard_ip
//!  IPv6                    source among its addresses, or the link-local one of its MAC address;        guard_ip
//!                          :: for duplicate address detection, router solicitation and MLD
//!  ARP                     sender: its MAC address, and one of its addresses or 0.0.0.0 (a probe)       guard_arp
//!  neighbour discovery     target of an advertisement, link-layer addresses in options                  guard_nd
//!  DHCP                    not from a server's port (67, 547), nor to a client's (68, 546)              guard_dhcp
//!  router                  no router advertisement, no redirect                                         guard_ra
//! ```
//!
//! *What is not known is not checked.* Without addresses only the MAC address is checked, in ARP and neighbour discovery too; without a
//! MAC address only the others. Addresses are prefixes, since a guest may be the router of a network behind it.
//!
//! *A receiver may understand more than this switch does*, so whatever could hide a packet from the guard and be understood by
//! a station is dropped as `guard_ip`: IP whose header is inconsistent, a third VLAN tag, IP behind an LLC and SNAP header (RFC 1042),
//! extension headers beyond the [limits of the walk](packet::ipv6::MAX_EXTENSIONS), and a first fragment that ends before its
//! transport header (RFC 7112). Later fragments are checked by their source alone: none of them can replace the first 8 bytes behind the
//! IP header, because offsets count in units of 8 and each fragment at offset 0 is read as a first one.
//!
//! *Cost.* Ports with a guard are of a kind of their own, so a frame of another port pays nothing. Of a port with one, a TCP segment from
//! its first address is three comparisons. Lists are sorted ranges.

use std::net::Ipv6Addr;

use packet::arp::Arp;
use packet::ethernet::EtherType;
use packet::ipv4::Ipv4View;
use packet::ipv6::{Ipv6View, Upper};
use packet::{Headers, MacAddr, Network, Prefix, Transport, udp};

use crate::drop_reason::DropReason;

/// Protocol numbers.
const ICMPV6: u8 = 58;

/// Ports of DHCP (RFC 2131 section 4.1) and of DHCPv6 (RFC 8415 section 7.2).
const DHCP_SERVER: u16 = 67;
const DHCP_CLIENT: u16 = 68;
const DHCPV6_CLIENT: u16 = 546;
const DHCPV6_SERVER: u16 = 547;

/// ICMPv6 types of multicast listener discovery (RFC 2710, RFC 3810) and of neighbour discovery (RFC 4861).
mod icmpv6 {
    pub(super) const LISTENER_REPORT: u8 = 131;
    pub(super) const LISTENER_DONE: u8 = 132;
    pub(super) const ROUTER_SOLICITATION: u8 = 133;
    pub(super) const ROUTER_ADVERTISEMENT: u8 = 134;
    pub(super) const NEIGHBOUR_SOLICITATION: u8 = 135;
    pub(super) const NEIGHBOUR_ADVERTISEMENT: u8 = 136;
    pub(super) const REDIRECT: u8 = 137;
    pub(super) const LISTENER_REPORT_V2: u8 = 143;
}

/// Options of neighbour discovery with a link-layer address (RFC 4861 section 4.6.1).
const SOURCE_LINK_LAYER: u8 = 1;
const TARGET_LINK_LAYER: u8 = 2;

/// Maximum number of options that are walked in a message of neighbour discovery. More are dropped.
const MAX_OPTIONS: usize = 16;

/// The largest value of a length field that is not an Ethernet type (IEEE 802.3 section 3.2.6).
const MAX_LENGTH_FIELD: u16 = 1500;

/// An LLC header that announces a SNAP header (IEEE 802).
const SNAP: [u8; 3] = [0xaa, 0xaa, 3];

/// What the station behind a port may send.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Guard {
    mac: Option<MacAddr>,
    /// The link-local address that belongs to the MAC address.
    link_local: Ipv6Addr,
    /// Whether addresses are known.
    has_addresses: bool,
    v4: Ranges<u32>,
    v6: Ranges<u128>,
}

/// Sorted ranges of addresses, none of which touches another.
#[derive(Clone, PartialEq, Eq, Debug)]
struct Ranges<T> {
    /// First and last address; an empty range if there are none.
    first: (T, T),
    others: Box<[(T, T)]>,
}

impl<T: Ord + Copy> Ranges<T> {
    /// `none` is a range that is empty.
    fn new(mut ranges: Vec<(T, T)>, none: (T, T)) -> Ranges<T> {
        ranges.sort_unstable();
        let mut merged: Vec<(T, T)> = Vec::with_capacity(ranges.len());
        for (from, to) in ranges {
            match merged.last_mut() {
                Some((_, end)) if from <= *end => *end = (*end).max(to),
                _ => merged.push((from, to)),
            }
        }
        let mut merged = merged.into_iter();
        Ranges { first: merged.next().unwrap_or(none), others: merged.collect() }
    }

    #[inline(always)]
    fn contain(&self, address: T) -> bool {
        let (from, to) = self.first;
        from <= address && address <= to || self.others_contain(address)
    }

    #[inline]
    fn others_contain(&self, address: T) -> bool {
        let before = self.others.partition_point(|(from, _)| *from <= address);
        before.checked_sub(1).and_then(|at| self.others.get(at)).is_some_and(|(_, to)| address <= *to)
    }
}

impl Guard {
    /// The guard of a station with this MAC address, if it is known, and these addresses; none if they are not known.
    #[must_use]
    pub fn new(mac: Option<MacAddr>, addresses: &[Prefix]) -> Guard {
        let (mut v4, mut v6) = (Vec::new(), Vec::new());
        for prefix in addresses {
            match prefix {
                Prefix::V4(prefix) => v4.push((prefix.network().to_bits(), prefix.last().to_bits())),
                Prefix::V6(prefix) => v6.push((prefix.network().to_bits(), prefix.last().to_bits())),
            }
        }
        Guard {
            mac,
            link_local: link_local_of(mac.unwrap_or_default()),
            has_addresses: !addresses.is_empty(),
            v4: Ranges::new(v4, (1, 0)),
            v6: Ranges::new(v6, (1, 0)),
        }
    }

    /// Returns why the station may not send this frame.
    #[inline(never)]
    pub fn check(&self, headers: &Headers, frame: &[u8]) -> Result<(), DropReason> {
        if self.mac.is_some_and(|mac| mac != headers.src) {
            return Err(DropReason::GuardMac);
        }
        match headers.ipv4(frame) {
            Some(ip) => self.check_ipv4(headers, frame, ip),
            None => self.check_other(headers, frame),
        }
    }

    #[inline(always)]
    fn check_ipv4(&self, headers: &Headers, frame: &[u8], ip: Ipv4View<'_>) -> Result<(), DropReason> {
        if self.has_addresses && !self.v4.contain(ip.src().to_bits()) {
            return self.check_dhcp_client(headers, frame, ip);
        }
        match headers.transport {
            Transport::Tcp => Ok(()),
            Transport::Udp => check_ports(frame.get(usize::from(headers.l4)..), DHCP_SERVER, DHCP_CLIENT),
            Transport::Other => check_ipv4_rest(ip),
        }
    }

    /// Who has no address yet asks for one: DHCP from 0.0.0.0.
    #[cold]
    fn check_dhcp_client(&self, headers: &Headers, frame: &[u8], ip: Ipv4View<'_>) -> Result<(), DropReason> {
        let is_dhcp = headers.transport == Transport::Udp
            && frame.get(usize::from(headers.l4)..).and_then(ports_of) == Some((DHCP_CLIENT, DHCP_SERVER));
        if ip.src().is_unspecified() && is_dhcp { Ok(()) } else { Err(DropReason::GuardIp) }
    }

    /// All that is not valid IPv4.
    #[inline(never)]
    fn check_other(&self, headers: &Headers, frame: &[u8]) -> Result<(), DropReason> {
        let body = frame.get(usize::from(headers.l3)..).unwrap_or_default();
        if headers.network == Network::Ipv6 {
            let ip = Ipv6View::new(body).ok_or(DropReason::GuardIp)?;
            return self.check_ipv6(ip);
        }
        match headers.ether_type {
            EtherType::ARP => self.check_arp(body),
            // Inconsistent, for us; a receiver may be more generous.
            EtherType::IPV4 | EtherType::IPV6 => Err(DropReason::GuardIp),
            other if other.is_vlan() => Err(DropReason::GuardIp),
            EtherType(length) if length <= MAX_LENGTH_FIELD && body.starts_with(&SNAP) => Err(DropReason::GuardIp),
            _ => Ok(()),
        }
    }

    fn check_arp(&self, body: &[u8]) -> Result<(), DropReason> {
        let message = Arp::parse(body).ok_or(DropReason::GuardArp)?;
        let is_own_mac = self.mac.is_none_or(|mac| mac == message.sender_mac);
        let is_own_ip = !self.has_addresses || message.sender_ip.is_unspecified() || self.v4.contain(message.sender_ip.to_bits());
        if is_own_mac && is_own_ip { Ok(()) } else { Err(DropReason::GuardArp) }
    }

    fn has_v6(&self, address: Ipv6Addr) -> bool {
        let is_link_local = match self.mac {
            Some(_) => address == self.link_local,
            None => address.is_unicast_link_local(),
        };
        !self.has_addresses || is_link_local || self.v6.contain(address.to_bits())
    }

    fn check_ipv6(&self, ip: Ipv6View<'_>) -> Result<(), DropReason> {
        let src = ip.src();
        let is_own = self.has_v6(src);
        let (protocol, payload) = match ip.upper() {
            Upper::Protocol(protocol, at) => (protocol, ip.from(at)),
            Upper::Fragment(at) => match ip.behind_fragment(at) {
                // A first fragment is read as a whole packet, of which there must be enough.
                Some((0, Upper::Protocol(protocol, at))) if ip.from(at).len() >= udp::UDP_LEN => (protocol, ip.from(at)),
                Some((1.., _)) if is_own => return Ok(()),
                _ => return Err(DropReason::GuardIp),
            },
            Upper::Unknown => return Err(DropReason::GuardIp),
        };
        let kind = payload.first().copied().filter(|_| protocol == ICMPV6);
        let may_be_unspecified = kind.is_some_and(may_be_without_address);
        if !(is_own || src.is_unspecified() && may_be_unspecified) {
            return Err(DropReason::GuardIp);
        }
        match kind {
            Some(icmpv6::ROUTER_ADVERTISEMENT | icmpv6::REDIRECT) => Err(DropReason::GuardRa),
            Some(kind) => self.check_nd(kind, payload),
            None if protocol == udp::PROTOCOL => check_ports(Some(payload), DHCPV6_SERVER, DHCPV6_CLIENT),
            None => Ok(()),
        }
    }

    /// A message of neighbour discovery claims the station's own addresses only. (RFC 4861 sections 4.1 to 4.4)
    fn check_nd(&self, kind: u8, message: &[u8]) -> Result<(), DropReason> {
        let options_at = match kind {
            icmpv6::ROUTER_SOLICITATION => 8,
            icmpv6::NEIGHBOUR_SOLICITATION => 24,
            icmpv6::NEIGHBOUR_ADVERTISEMENT => {
                let target = message.get(8..24).and_then(|bytes| <[u8; 16]>::try_from(bytes).ok());
                if !target.is_some_and(|target| self.has_v6(target.into())) {
                    return Err(DropReason::GuardNd);
                }
                24
            }
            _ => return Ok(()),
        };
        let mut options = message.get(options_at..).ok_or(DropReason::GuardNd)?;
        for _ in 0..MAX_OPTIONS {
            let &[kind, units, ..] = options else { break };
            // A length of 0 makes the whole message invalid (RFC 4861 section 4.6).
            let len = usize::from(units) * 8;
            let option = options.get(..len).filter(|option| !option.is_empty()).ok_or(DropReason::GuardNd)?;
            if matches!(kind, SOURCE_LINK_LAYER | TARGET_LINK_LAYER)
                && self.mac.is_some_and(|mac| option.get(2..8) != Some(&mac.0[..]))
            {
                return Err(DropReason::GuardNd);
            }
            options = &options[len..];
        }
        if options.is_empty() { Ok(()) } else { Err(DropReason::GuardNd) }
    }
}

/// Messages that a station without an address sends: RFC 4861 sections 4.1 and 4.3, RFC 3590.
fn may_be_without_address(kind: u8) -> bool {
    matches!(
        kind,
        icmpv6::ROUTER_SOLICITATION
            | icmpv6::NEIGHBOUR_SOLICITATION
            | icmpv6::LISTENER_REPORT
            | icmpv6::LISTENER_DONE
            | icmpv6::LISTENER_REPORT_V2
    )
}

/// What is neither TCP nor UDP by its header: fragments, other protocols, and transport headers that contradict themselves.
#[cold]
fn check_ipv4_rest(ip: Ipv4View<'_>) -> Result<(), DropReason> {
    if ip.fragment_offset() > 0 {
        return Ok(());
    }
    match ip.protocol() {
        udp::PROTOCOL => check_ports(Some(ip.payload()), DHCP_SERVER, DHCP_CLIENT),
        _ => Ok(()),
    }
}

/// Whether a UDP datagram is a DHCP server's. One that ends before its header does is a fragment that hides it.
#[inline(always)]
fn check_ports(datagram: Option<&[u8]>, server: u16, client: u16) -> Result<(), DropReason> {
    match datagram.and_then(ports_of) {
        Some((from, to)) if from != server && to != client => Ok(()),
        Some(_) => Err(DropReason::GuardDhcp),
        None => Err(DropReason::GuardIp),
    }
}

/// Source and destination port of a UDP header.
#[inline(always)]
fn ports_of(datagram: &[u8]) -> Option<(u16, u16)> {
    let header: &[u8; udp::UDP_LEN] = datagram.first_chunk()?;
    Some((u16::from_be_bytes([header[0], header[1]]), u16::from_be_bytes([header[2], header[3]])))
}

/// The link-local address with the interface identifier that an Ethernet address makes (RFC 4291 appendix A).
fn link_local_of(mac: MacAddr) -> Ipv6Addr {
    let [a, b, c, d, e, f] = mac.0;
    Ipv6Addr::from([0xfe, 0x80, 0, 0, 0, 0, 0, 0, a ^ 2, b, c, 0xff, 0xfe, d, e, f])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ranges_are_merged_and_searched() {
        let ranges = Ranges::new(vec![(30, 40), (1, 5), (4, 9), (20, 20), (35, 36)], (1, 0));
        assert_eq!((ranges.first, &ranges.others[..]), ((1, 9), &[(20, 20), (30, 40)][..]));
        let contained: Vec<u32> = (0..50).filter(|address| ranges.contain(*address)).collect();
        assert_eq!(contained, (1..=9).chain([20]).chain(30..=40).collect::<Vec<_>>());
        let none = Ranges::new(Vec::new(), (1, 0));
        assert!(![0, 1, u32::MAX].iter().any(|address| none.contain(*address)));
    }

    #[test]
    fn a_link_local_address_of_a_literal_mac() {
        let mac = MacAddr([0x52, 0x54, 0, 0x12, 0x34, 0x56]);
        assert_eq!(link_local_of(mac), "fe80::5054:ff:fe12:3456".parse::<Ipv6Addr>().unwrap());
    }
}
