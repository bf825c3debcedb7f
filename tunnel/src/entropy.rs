//! The flow hash that selects the outer source port of a datagram.
//!
//! Between the hosts only the outer header is visible: routers with several paths, cards with several queues and kernels
//! with several sockets distribute datagrams by its ports. So the source port is derived from the inner flow (RFC 7348
//! section 5): packets of one flow stay in order, and different flows are spread.
//!
//! *Symmetric.* Both directions of a flow have the same hash, so that one core can process both at each end.
//!
//! *Not keyed.* An attacker who knows the function can create flows with equal hashes. They share one path, as one heavy
//! flow would. No table is indexed by this hash, so SipHash is not needed.
//!
//! *Fragments.* Only the first fragment of a datagram has ports, so no fragment's ports are used: all fragments have the
//! same hash, of addresses and protocol.

use packet::ethernet::u32_at;
use packet::{Headers, Network, Transport, ipv4, ipv6};

/// Multiplier: the fractional bits of the golden ratio, an odd number without a pattern.
const FACTOR: u64 = 0x9e37_79b9_7f4a_7c15;

/// Offset: the fractional bits of pi, so that zero is not mapped to zero.
const OFFSET: u64 = 0x243f_6a88_85a3_08d3;

/// Number of source ports of a tunnel: enough for a network's hash to spread flows over its ways. Flows with one source port share
/// system calls and trains, so many more would cost time: with 100 flows of small frames 2.2 times as much where each had trains of
/// its own.
pub const SOURCE_PORTS: u16 = 64;

/// The index of the source port of a frame's flow, below [`SOURCE_PORTS`].
#[inline]
#[must_use]
pub fn source_port(headers: &Headers, frame: &[u8]) -> u16 {
    flow_hash(headers, frame) % SOURCE_PORTS
}

/// The hash of a frame's flow: of addresses, protocol and ports if it is IP, otherwise of its MAC addresses. All bits are of
/// equal quality.
#[inline]
#[must_use]
pub fn flow_hash(headers: &Headers, frame: &[u8]) -> u16 {
    let (l3, addresses) = (usize::from(headers.l3), headers.addresses(frame));
    let (src, dst, protocol) = match headers.network {
        Network::Ipv4 => (u64::from(u32_at(addresses, 0)), u64::from(u32_at(addresses, 4)), frame[l3 + ipv4::field::PROTOCOL]),
        Network::Ipv6 => (narrowed(&addresses[..16]), narrowed(&addresses[16..]), frame[l3 + ipv6::field::NEXT_HEADER]),
        Network::Other => (headers.src.to_u64(), headers.dst.to_u64(), 0),
    };
    let (src_port, dst_port) = match headers.transport {
        Transport::Tcp | Transport::Udp => {
            let ports = u32_at(frame, usize::from(headers.l4));
            (ports >> 16, ports & 0xffff)
        }
        Transport::Other => (0, 0),
    };
    // Some packets of a flow may have IPv6 extension headers before that of the transport, and others none.
    let protocol = headers.transport.protocol().unwrap_or(protocol);
    // Each end is hashed alone; their sum is the same in both directions.
    let end = |address: u64, port: u32| mix(address ^ u64::from(port) << 48);
    let both = end(src, src_port).wrapping_add(end(dst, dst_port));
    (mix(both ^ u64::from(protocol)) >> 48) as u16
}

/// Each bit of the product's upper half depends on all lower bits of the value, so both halves together depend on all bits.
#[inline]
fn mix(value: u64) -> u64 {
    let product = u128::from(value ^ OFFSET) * u128::from(FACTOR);
    (product >> 64) as u64 ^ product as u64
}

/// Hashes an IPv6 address. Network and interface identifier are mixed, as both often differ only in their last bits.
#[inline]
fn narrowed(address: &[u8]) -> u64 {
    let half = |at| u64::from(u32_at(address, at)) << 32 | u64::from(u32_at(address, at + 4));
    mix(half(0)) ^ half(8)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const UDP: u8 = 17;

    fn ethernet(src: u8, dst: u8, ether_type: u16, payload: &[u8]) -> Vec<u8> {
        [&[2, 0, 0, 0, 0, dst, 2, 0, 0, 0, 0, src], &ether_type.to_be_bytes()[..], payload].concat()
    }

    fn transport(protocol: u8, src: u16, dst: u16) -> Vec<u8> {
        let mut segment = [src.to_be_bytes(), dst.to_be_bytes()].concat();
        segment.extend(if protocol == UDP { vec![0, 8, 0, 0] } else { [vec![0; 8], vec![0x50], vec![0; 7]].concat() });
        segment
    }

    fn ipv4(protocol: u8, src: u32, dst: u32, fragment: u16, payload: &[u8]) -> Vec<u8> {
        let mut packet = vec![0x45, 0, 0, 20 + payload.len() as u8, 0, 1];
        packet.extend([&fragment.to_be_bytes()[..], &[64, protocol, 0, 0]].concat());
        packet.extend([src.to_be_bytes(), dst.to_be_bytes()].concat());
        packet.extend(payload);
        packet
    }

    fn ipv6(protocol: u8, src: u128, dst: u128, payload: &[u8]) -> Vec<u8> {
        let mut packet = vec![0x60, 0, 0, 0, 0, payload.len() as u8, protocol, 64];
        packet.extend([src.to_be_bytes(), dst.to_be_bytes()].concat());
        packet.extend(payload);
        packet
    }

    fn hash(frame: &[u8]) -> u16 {
        flow_hash(&Headers::parse(frame).unwrap(), frame)
    }

    proptest! {
        #[test]
        fn both_directions_have_the_same_hash(
            src: u32, dst: u32, hosts: (u64, u64), ports: (u16, u16), protocol in prop::sample::select(vec![1u8, 6, UDP, 47]),
        ) {
            let (there, back) = (transport(protocol, ports.0, ports.1), transport(protocol, ports.1, ports.0));
            prop_assert_eq!(
                hash(&ethernet(1, 2, 0x800, &ipv4(protocol, src, dst, 0, &there))),
                hash(&ethernet(2, 1, 0x800, &ipv4(protocol, dst, src, 0, &back)))
            );
            let (a, b) = (0xfd << 120 | u128::from(hosts.0), 0xfd << 120 | u128::from(hosts.1));
            prop_assert_eq!(
                hash(&ethernet(1, 2, 0x86dd, &ipv6(protocol, a, b, &there))),
                hash(&ethernet(2, 1, 0x86dd, &ipv6(protocol, b, a, &back)))
            );
            prop_assert_eq!(hash(&ethernet(src as u8, dst as u8, 0x806, &[])), hash(&ethernet(dst as u8, src as u8, 0x806, &[])));
        }
    }

    #[test]
    fn fragments_of_a_datagram_have_the_same_hash() {
        let (ports, other) = (transport(UDP, 1000, 2000), transport(UDP, 3000, 4000));
        let fragment = |fragment, payload: &[u8]| hash(&ethernet(1, 2, 0x800, &ipv4(UDP, 1, 2, fragment, payload)));
        assert_eq!(fragment(0x2000, &ports), fragment(0x0001, &other));
        assert_ne!(fragment(0, &ports), fragment(0, &other), "ports of whole datagrams count");
    }

    #[test]
    fn packets_with_and_without_extension_headers_have_the_same_hash() {
        let udp = transport(UDP, 1000, 2000);
        let padded = [&[UDP, 0, 1, 4, 0, 0, 0, 0], &udp[..]].concat();
        let [with, without] =
            [(0, &padded), (UDP, &udp)].map(|(first, payload)| hash(&ethernet(1, 2, 0x86dd, &ipv6(first, 1, 2, payload))));
        assert_eq!(with, without);
    }

    #[test]
    fn sequential_flows_are_spread_evenly() {
        type Make = fn(u16) -> Vec<u8>;
        let kinds: [(&str, Make); 5] = [
            ("source port", |n| ethernet(1, 2, 0x800, &ipv4(6, 0x0a00_0001, 0x0a00_0002, 0, &transport(6, 32_768 + n, 443)))),
            ("guest", |n| ethernet(1, 2, 0x800, &ipv4(1, 0x0a00_0000 + u32::from(n), 0x0a00_0001, 0, &[0; 8]))),
            ("IPv6 guest", |n| ethernet(1, 2, 0x86dd, &ipv6(58, 0xfd << 120 | u128::from(n), 0xfd << 120, &[0; 8]))),
            ("IPv6 network", |n| ethernet(1, 2, 0x86dd, &ipv6(58, 0xfd << 120 | u128::from(n) << 64, 0xfd << 120, &[0; 8]))),
            ("both ports", |n| ethernet(1, 2, 0x86dd, &ipv6(UDP, 1, 2, &transport(UDP, n, n)))),
        ];
        for (name, make) in kinds {
            let (mut by_low, mut by_high) = ([0u32; 64], [0u32; 64]);
            for n in 0..6400 {
                let hash = hash(&make(n));
                by_low[usize::from(hash % 64)] += 1;
                by_high[usize::from(hash >> 10)] += 1;
            }
            // 100 are expected in each; five standard deviations are 50.
            for buckets in [by_low, by_high] {
                assert!(buckets.iter().all(|count| (50..=150).contains(count)), "{name}: {buckets:?}");
            }
        }
        let macs = (0..=255u8).map(|n| usize::from(hash(&ethernet(n, 1, 0x806, &[])) % 64));
        assert!(macs.collect::<std::collections::BTreeSet<_>>().len() > 55);
    }
}
