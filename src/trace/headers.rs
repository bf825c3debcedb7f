//! The headers of a frame in words, in tcpdump's notation.
//!
//! Only the start of the frame is at hand ([`vswitch::Story::head`]), and nothing in it is checked: it is the frame as it came. What
//! cannot be read there is left out.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use packet::ipv4::Ipv4View;
use packet::tcp::flag;
use packet::{EtherType, MacAddr};

/// Length of an IPv6 header, in bytes.
const IPV6_LEN: usize = 40;

/// IP protocol numbers.
mod protocol {
    pub(super) const HOP_BY_HOP: u8 = 0;
    pub(super) const ICMP: u8 = 1;
    pub(super) const IGMP: u8 = 2;
    pub(super) const TCP: u8 = 6;
    pub(super) const UDP: u8 = 17;
    pub(super) const ROUTING: u8 = 43;
    pub(super) const FRAGMENT: u8 = 44;
    pub(super) const GRE: u8 = 47;
    pub(super) const ESP: u8 = 50;
    pub(super) const ICMPV6: u8 = 58;
    pub(super) const DESTINATION_OPTIONS: u8 = 60;
    pub(super) const SCTP: u8 = 132;
}

/// The headers of a frame, or of a packet without Ethernet header, as far as `head` contains them.
pub(super) fn describe(is_packet: bool, head: &[u8]) -> String {
    if is_packet {
        let packet = match head.first().map(|first| first >> 4) {
            Some(4) => ipv4(head),
            Some(6) => ipv6(head),
            _ => None,
        };
        return packet.unwrap_or_else(|| "a packet without Ethernet header, not IP".to_owned());
    }
    let mac = |at: usize| head.get(at..at + 6).and_then(|bytes| bytes.try_into().ok()).map(MacAddr);
    let (Some(dst), Some(src)) = (mac(0), mac(6)) else { return "a runt".to_owned() };
    let mut at = 12;
    let mut vlan = String::new();
    let mut kind = word(head, at);
    while let Some(tag) = kind.filter(|kind| EtherType(*kind).is_vlan()).and(word(head, at + 2)) {
        vlan += &format!("vlan {} ", tag & 0xfff);
        at += 4;
        kind = word(head, at);
    }
    let payload = head.get(at + 2..).unwrap_or(&[]);
    let what = match kind.map(EtherType) {
        Some(EtherType::IPV4) => ipv4(payload),
        Some(EtherType::IPV6) => ipv6(payload),
        Some(EtherType::ARP) => arp(payload),
        _ => None,
    };
    let what = what.unwrap_or_else(|| kind.map_or_else(String::new, other));
    format!("{src} > {dst} {vlan}{what}")
}

/// A protocol that is not looked into. Below 1536 the number is the length of an IEEE 802.3 frame, such as one of spanning tree.
fn other(kind: u16) -> String {
    match kind {
        0..0x600 => "802.3".to_owned(),
        0x0800 => "ip, too short".to_owned(),
        0x0806 => "arp, too short".to_owned(),
        0x86dd => "ip6, too short".to_owned(),
        0x888e => "802.1X".to_owned(),
        0x88cc => "lldp".to_owned(),
        kind => format!("ethertype {kind:#06x}"),
    }
}

fn word(bytes: &[u8], at: usize) -> Option<u16> {
    Some(u16::from_be_bytes(bytes.get(at..at + 2)?.try_into().ok()?))
}

fn address(bytes: &[u8], at: usize) -> Option<Ipv4Addr> {
    let octets: [u8; 4] = bytes.get(at..at + 4)?.try_into().ok()?;
    Some(octets.into())
}

fn address_v6(bytes: &[u8], at: usize) -> Option<Ipv6Addr> {
    let octets: [u8; 16] = bytes.get(at..at + 16)?.try_into().ok()?;
    Some(octets.into())
}

fn arp(bytes: &[u8]) -> Option<String> {
    let (sender, target) = (address(bytes, 14)?, address(bytes, 24)?);
    Some(match word(bytes, 6)? {
        1 => format!("arp who-has {target} tell {sender}"),
        _ => format!("arp {sender} is-at"),
    })
}

fn ipv4(bytes: &[u8]) -> Option<String> {
    let ip = Ipv4View::quoted(bytes)?;
    Some(packet(ip.src().into(), ip.dst().into(), ip.protocol(), ip.fragment_offset() != 0, ip.payload()))
}

/// The extension headers are skipped as far as they are at hand (RFC 8200 section 4).
fn ipv6(bytes: &[u8]) -> Option<String> {
    let (src, dst) = (address_v6(bytes, 8)?, address_v6(bytes, 24)?);
    let (mut next, mut at, mut is_later) = (*bytes.get(6)?, IPV6_LEN, false);
    while let (protocol::HOP_BY_HOP | protocol::ROUTING | protocol::FRAGMENT | protocol::DESTINATION_OPTIONS, false) =
        (next, is_later)
    {
        let Some(&[following, len]) = bytes.get(at..at + 2) else { break };
        let is_fragment = next == protocol::FRAGMENT;
        is_later = is_fragment && word(bytes, at + 2).is_some_and(|offset| offset >> 3 != 0);
        at += if is_fragment { 8 } else { (usize::from(len) + 1) * 8 };
        next = following;
    }
    Some(packet(src.into(), dst.into(), next, is_later, bytes.get(at..).unwrap_or(&[])))
}

/// Addresses and what is in a packet, whose upper protocol begins with `upper`.
fn packet(src: IpAddr, dst: IpAddr, protocol: u8, is_later_fragment: bool, upper: &[u8]) -> String {
    let ports = || Some((word(upper, 0)?, word(upper, 2)?));
    // An IPv6 address needs brackets before a port (RFC 5952 section 6).
    let end = |address: IpAddr, port: u16| match address {
        IpAddr::V4(address) => format!("{address}:{port}"),
        IpAddr::V6(address) => format!("[{address}]:{port}"),
    };
    let name = name_of(protocol);
    match (protocol, ports()) {
        _ if is_later_fragment => format!("{src} > {dst} {name} (a later fragment)"),
        (protocol::TCP, Some((sport, dport))) => {
            let flags = upper.get(13).map_or_else(String::new, |flags| tcp_flags(*flags));
            format!("{} > {} tcp [{flags}]", end(src, sport), end(dst, dport))
        }
        (protocol::UDP | protocol::SCTP, Some((sport, dport))) => format!("{} > {} {name}", end(src, sport), end(dst, dport)),
        (protocol::ICMP, _) => format!("{src} > {dst} icmp {}", icmp(upper)),
        (protocol::ICMPV6, _) => format!("{src} > {dst} icmp6 {}", icmp6(upper)),
        _ => format!("{src} > {dst} {name}"),
    }
}

fn name_of(protocol: u8) -> String {
    match protocol {
        protocol::ICMP => "icmp".to_owned(),
        protocol::IGMP => "igmp".to_owned(),
        protocol::TCP => "tcp".to_owned(),
        protocol::UDP => "udp".to_owned(),
        protocol::GRE => "gre".to_owned(),
        protocol::ESP => "esp".to_owned(),
        protocol::ICMPV6 => "icmp6".to_owned(),
        protocol::SCTP => "sctp".to_owned(),
        protocol => format!("proto {protocol}"),
    }
}

fn tcp_flags(flags: u8) -> String {
    let letters = [(flag::SYN, 'S'), (flag::FIN, 'F'), (flag::RST, 'R'), (flag::PSH, 'P'), (flag::ACK, '.')];
    letters.iter().filter(|(bit, _)| flags & bit != 0).map(|(_, letter)| letter).collect()
}

/// Types of RFC 792.
fn icmp(message: &[u8]) -> String {
    let (Some(kind), Some(code)) = (message.first(), message.get(1)) else { return String::new() };
    match kind {
        0 => format!("echo reply{}", query(message)),
        3 => format!("unreachable, code {code}"),
        5 => "redirect".to_owned(),
        8 => format!("echo request{}", query(message)),
        11 => "time exceeded".to_owned(),
        12 => "parameter problem".to_owned(),
        _ => format!("type {kind} code {code}"),
    }
}

/// Types of RFC 4443 and, for neighbour discovery, RFC 4861.
fn icmp6(message: &[u8]) -> String {
    let (Some(kind), Some(code)) = (message.first(), message.get(1)) else { return String::new() };
    let target = || address_v6(message, 8).map_or_else(String::new, |target| format!(" {target}"));
    match kind {
        1 => format!("unreachable, code {code}"),
        2 => "packet too big".to_owned(),
        3 => "time exceeded".to_owned(),
        4 => "parameter problem".to_owned(),
        128 => format!("echo request{}", query(message)),
        129 => format!("echo reply{}", query(message)),
        130..=132 | 143 => "multicast listener".to_owned(),
        133 => "router solicitation".to_owned(),
        134 => "router advertisement".to_owned(),
        135 => format!("neighbour solicitation, who has{}", target()),
        136 => format!("neighbour advertisement,{} is-at", target()),
        137 => "redirect".to_owned(),
        _ => format!("type {kind} code {code}"),
    }
}

/// Identifier and sequence number of an echo.
fn query(message: &[u8]) -> String {
    match (word(message, 4), word(message, 6)) {
        (Some(id), Some(sequence)) => format!(", id {id}, seq {sequence}"),
        _ => String::new(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A frame of this Ethernet type.
    fn frame(kind: u16, payload: &[u8]) -> Vec<u8> {
        let addresses = [2, 0, 0, 0, 0, 2, 2, 0, 0, 0, 0, 1];
        [&addresses[..], &kind.to_be_bytes(), payload].concat()
    }

    fn ip6(next: u8, payload: &[u8]) -> Vec<u8> {
        let mut packet = vec![0x60, 0, 0, 0, 0, payload.len() as u8, next, 64];
        for last in [1, 2] {
            packet.extend(Ipv6Addr::new(0xfd00, 0, 0, 0, 0, 0, 0, last).octets());
        }
        packet.extend(payload);
        packet
    }

    fn told(kind: u16, payload: &[u8]) -> String {
        let text = describe(false, &frame(kind, payload));
        text.strip_prefix("02:00:00:00:00:01 > 02:00:00:00:00:02 ").unwrap_or_else(|| panic!("{text}")).to_owned()
    }

    #[test]
    fn ipv6_is_told_in_words() {
        let ports = [0x9c, 0x40, 0, 80];
        let tcp = [&ports[..], &[0; 9], &[0x12]].concat();
        assert_eq!(told(0x86dd, &ip6(6, &tcp)), "[fd00::1]:40000 > [fd00::2]:80 tcp [S.]");
        assert_eq!(told(0x86dd, &ip6(17, &ports)), "[fd00::1]:40000 > [fd00::2]:80 udp");
        assert_eq!(told(0x86dd, &ip6(58, &[128, 0, 0, 0, 0, 7, 0, 9])), "fd00::1 > fd00::2 icmp6 echo request, id 7, seq 9");
        let target = Ipv6Addr::new(0xfd00, 0, 0, 0, 0, 0, 0, 9).octets();
        let solicitation = [&[135, 0, 0, 0, 0, 0, 0, 0][..], &target].concat();
        assert_eq!(told(0x86dd, &ip6(58, &solicitation)), "fd00::1 > fd00::2 icmp6 neighbour solicitation, who has fd00::9");
        assert_eq!(told(0x86dd, &ip6(89, &[])), "fd00::1 > fd00::2 proto 89");
        // Behind a hop-by-hop header and the header of a first fragment.
        let extended = [&[44, 0, 0, 0, 0, 0, 0, 0][..], &[17, 0, 0, 1, 0, 0, 0, 1], &ports].concat();
        assert_eq!(told(0x86dd, &ip6(0, &extended)), "[fd00::1]:40000 > [fd00::2]:80 udp");
        let later = [&[17, 0, 0, 8, 0, 0, 0, 1][..], &ports].concat();
        assert_eq!(told(0x86dd, &ip6(44, &later)), "fd00::1 > fd00::2 udp (a later fragment)");
        assert_eq!(describe(true, &ip6(17, &ports)), "[fd00::1]:40000 > [fd00::2]:80 udp");
    }

    #[test]
    fn what_is_cut_off_is_left_out() {
        let whole = frame(0x86dd, &ip6(0, &[&[6, 200, 0, 0][..], &[0; 40]].concat()));
        for len in 0..whole.len() {
            describe(false, &whole[..len]);
            describe(true, &whole[..len]);
        }
        assert_eq!(told(0x86dd, &[0x60]), "ip6, too short");
        assert_eq!(describe(false, &[0; 11]), "a runt");
    }

    #[test]
    fn other_protocols_have_their_names() {
        assert_eq!((told(0x88cc, &[]).as_str(), told(38, &[]).as_str()), ("lldp", "802.3"));
        assert_eq!(told(0x1234, &[]), "ethertype 0x1234");
        let mut ping = vec![0x45, 0, 0, 28, 0, 0, 0, 0, 64, 1, 0, 0, 10, 0, 0, 1, 10, 0, 0, 2];
        ping.extend([8, 0, 0, 0, 0, 1, 0, 2]);
        assert_eq!(told(0x0800, &ping), "10.0.0.1 > 10.0.0.2 icmp echo request, id 1, seq 2");
        assert_eq!(
            told(0x8100, &[&[0, 10, 8, 0][..], &ping].concat()),
            "vlan 10 10.0.0.1 > 10.0.0.2 icmp echo request, id 1, seq 2"
        );
    }
}
