//! Detection of tunnels within tunnels.
//!
//! A guest may run a tunnel through ours: one level of nesting is forwarded. Two cases are refused. A decapsulated
//! datagram to our own socket would be decapsulated again, with a source address that a guest could choose. And a datagram
//! with more levels comes from a loop that adds a header in each round.
//!
//! Later fragments have no port and are forwarded; a loop of fragments ends when their TTL expires.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use packet::ethernet::u16_at;
use packet::{Headers, Network, Transport, udp};

use crate::framing::FramingKind;
use crate::peers::Locals;

/// True if a decapsulated frame must be dropped. `locals` are the addresses of the socket that received it. Frames that are
/// not UDP cost one comparison, datagrams with a tunnel header one more parse.
#[inline]
#[must_use]
pub fn is_nested(headers: &Headers, frame: &[u8], locals: &Locals) -> bool {
    let Some(port) = udp_port(headers, frame) else { return false };
    let destination = || destination(headers, frame);
    if destination().is_some_and(|address| locals.contains(address, port)) {
        return true;
    }
    let is_tunnel = |port| port == locals.port() || with_header().any(|kind| kind.default_port() == Some(port));
    if !is_tunnel(port) {
        return false;
    }
    let payload = &frame[usize::from(headers.payload)..headers.end as usize];
    with_header()
        .filter_map(|kind| kind.decode(payload).ok())
        .any(|inner| udp_port(&inner.headers, inner.frame).is_some_and(is_tunnel))
}

/// The framings with a header of their own. Without one, anything would pass for a tunnel's datagram.
#[inline]
fn with_header() -> impl Iterator<Item = FramingKind> {
    FramingKind::ALL.into_iter().filter(|kind| kind.has_vni())
}

#[inline]
fn udp_port(headers: &Headers, frame: &[u8]) -> Option<u16> {
    (headers.transport == Transport::Udp).then(|| u16_at(frame, usize::from(headers.l4) + udp::field::DST_PORT))
}

fn destination(headers: &Headers, frame: &[u8]) -> Option<IpAddr> {
    let addresses = headers.addresses(frame);
    match headers.network {
        Network::Ipv4 => addresses.last_chunk::<4>().map(|address| Ipv4Addr::from(*address).into()),
        Network::Ipv6 => addresses.last_chunk::<16>().map(|address| Ipv6Addr::from(*address).into()),
        Network::Other => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::framing::vxlan;
    use crate::vni::Vni;
    use packet::ipv4::Ipv4Header;
    use packet::ipv6::Ipv6Header;

    const OWN: [u8; 4] = [192, 0, 2, 1];
    const OTHER: [u8; 4] = [192, 0, 2, 9];

    fn udp(port: u16, payload: &[u8]) -> Vec<u8> {
        [&50_000u16.to_be_bytes()[..], &port.to_be_bytes(), &((8 + payload.len()) as u16).to_be_bytes(), &[0, 0], payload]
            .concat()
    }

    fn over_ipv4(dst: [u8; 4], protocol: u8, payload: &[u8]) -> Vec<u8> {
        let total_len = (20 + payload.len()) as u16;
        let (src, dst) = ([10, 0, 0, 1].into(), dst.into());
        let ip = Ipv4Header { tos: 0, total_len, id: 1, dont_fragment: false, ttl: 64, protocol, src, dst };
        [&[2; 12][..], &[8, 0], &ip.to_bytes(), payload].concat()
    }

    fn over_ipv6(dst: [u16; 8], payload: &[u8]) -> Vec<u8> {
        let (src, dst) = (Ipv6Addr::LOCALHOST, dst.into());
        let ip = Ipv6Header { traffic_class: 0, payload_len: payload.len() as u16, next_header: 17, hop_limit: 64, src, dst };
        [&[2; 12][..], &[0x86, 0xdd], &ip.to_bytes(), payload].concat()
    }

    fn wrapped(port: u16, frame: &[u8]) -> Vec<u8> {
        over_ipv4(OTHER, 17, &udp(port, &[&vxlan::encode(Vni::new(9).unwrap())[..], frame].concat()))
    }

    fn nested(frame: &[u8]) -> bool {
        let locals = Locals::new(8472, [OWN.into(), IpAddr::from([0xfd00u16, 0, 0, 0, 0, 0, 0, 1])]);
        is_nested(&Headers::parse(frame).unwrap(), frame, &locals)
    }

    #[test]
    fn a_datagram_to_our_own_socket_is_nested() {
        assert!(nested(&over_ipv4(OWN, 17, &udp(8472, &[]))));
        assert!(nested(&over_ipv6([0xfd00, 0, 0, 0, 0, 0, 0, 1], &udp(8472, &[]))));
        for other in [
            over_ipv4(OWN, 17, &udp(4789, &[])),
            over_ipv4(OTHER, 17, &udp(8472, &[])),
            over_ipv4(OWN, 6, &udp(8472, &[])),
            over_ipv6([0xfd00, 0, 0, 0, 0, 0, 0, 2], &udp(8472, &[])),
        ] {
            assert!(!nested(&other));
        }
    }

    #[test]
    fn one_level_is_forwarded_and_two_are_not() {
        let plain = over_ipv4(OTHER, 17, &udp(53, &[1; 30]));
        for (outer, inner) in [(4789, 4789), (4789, 8472), (8472, 4789), (8472, 8472)] {
            let one = wrapped(inner, &plain);
            assert!(!nested(&one), "one level");
            assert!(nested(&wrapped(outer, &one)), "two levels, {outer} {inner}");
        }
        assert!(!nested(&wrapped(4790, &wrapped(4789, &plain))), "not a tunnel port");
        assert!(!nested(&wrapped(4789, &[])) && !nested(&over_ipv4(OTHER, 17, &udp(4789, &[0; 60]))), "no VXLAN");
    }
}
