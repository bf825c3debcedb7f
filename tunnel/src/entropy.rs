//! Which of several source ports a flow's datagrams leave by.
//!
//! Between the hosts only the outer header is looked at: routers with several ways, cards with several
//! queues and kernels with several sockets spread by its ports. So the source port is made of the inner
//! flow (RFC 7348 section 5): packets of one flow stay in order, and flows go apart.
//!
//! *Symmetric.* Both directions of a flow get the same value, so that their processing can meet on one
//! core at both ends.
//!
//! *Cheap, and nothing more.* Who knows the function can make flows that fall together; they then share
//! one way, which one heavy flow would do as well. Nothing grows or is looked up by this value, so it is
//! no SipHash.
//!
//! *Fragments* have no ports but in the first, so none of them counts any: a datagram's fragments all get
//! the same value, made of addresses and protocol.

use packet::ethernet::u32_at;
use packet::{Headers, Network, Transport, ipv4, ipv6};

/// Fractional bits of the golden ratio, an odd number without pattern.
const FACTOR: u64 = 0x9e37_79b9_7f4a_7c15;

/// Fractional bits of pi: a zero must not stay one.
const OFFSET: u64 = 0x243f_6a88_85a3_08d3;

/// Of a frame's addresses, protocol and ports where it is IP, of its MAC addresses where it is not. The
/// upper bits are as good as the lower ones.
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
    // Each end by itself, then a sum, for which both directions are the same.
    let end = |address: u64, port: u32| mix(address ^ u64::from(port) << 48);
    let both = end(src, src_port).wrapping_add(end(dst, dst_port));
    (mix(both ^ u64::from(protocol)) >> 48) as u16
}

/// Every bit of the product's upper half depends on all bits below; both halves together on all.
#[inline]
fn mix(value: u64) -> u64 {
    let product = u128::from(value ^ OFFSET) * u128::from(FACTOR);
    (product >> 64) as u64 ^ product as u64
}

/// An IPv6 address. Network and host are mixed, as they count up in the same few bits.
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
        fn both_directions_are_the_same(
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
    fn fragments_of_a_datagram_stay_together() {
        let (ports, other) = (transport(UDP, 1000, 2000), transport(UDP, 3000, 4000));
        let fragment = |fragment, payload: &[u8]| hash(&ethernet(1, 2, 0x800, &ipv4(UDP, 1, 2, fragment, payload)));
        assert_eq!(fragment(0x2000, &ports), fragment(0x0001, &other));
        assert_ne!(fragment(0, &ports), fragment(0, &other), "whole datagrams go by their ports");
    }

    #[test]
    fn flows_that_count_up_spread_over_the_ports() {
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
