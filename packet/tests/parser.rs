//! The parser never panics, stays within the frame, and agrees with etherparse.

use etherparse::{LinkExtSlice, NetSlice, SlicedPacket, TransportSlice};
use packet::{EtherType, Headers, Malformed, Network, Transport};
use proptest::prelude::*;
use testkit::frames::Spec;
use testkit::strategies::specs;

/// Checks that all offsets lie within the frame and in order.
fn check_offsets(frame: &[u8]) -> Result<(), TestCaseError> {
    let headers = match Headers::parse(frame) {
        Ok(headers) => headers,
        Err(Malformed::Runt) => {
            prop_assert!(frame.len() < 14);
            return Ok(());
        }
        Err(Malformed::TruncatedTag) => {
            prop_assert!((14..22).contains(&frame.len()));
            return Ok(());
        }
    };
    let (l3, l4, payload, end) =
        (usize::from(headers.l3), usize::from(headers.l4), usize::from(headers.payload), headers.end as usize);
    prop_assert!(14 <= l3 && l3 <= l4 && l4 <= payload && payload <= end && end <= frame.len(), "{headers:?}");
    prop_assert_eq!(headers.payload_len(), end - payload);
    match (headers.network, headers.transport) {
        (Network::Other, transport) => prop_assert_eq!((transport, l4, end), (Transport::Other, l3, frame.len())),
        (_, Transport::Other) => prop_assert_eq!((l4, payload), (l3, l3)),
        (_, Transport::Tcp) => prop_assert!((20..=60).contains(&(payload - l4))),
        (_, Transport::Udp) => prop_assert_eq!(payload - l4, 8),
    }
    match headers.network {
        Network::Ipv4 => prop_assert_eq!((headers.ether_type, headers.addresses(frame).len()), (EtherType::IPV4, 8)),
        Network::Ipv6 => prop_assert_eq!((headers.ether_type, headers.addresses(frame).len()), (EtherType::IPV6, 32)),
        Network::Other => prop_assert!(headers.addresses(frame).is_empty()),
    }
    prop_assert_eq!(headers.tag.is_some(), l3 > 14);
    Ok(())
}

/// Offset of a slice within the frame.
fn position(frame: &[u8], part: &[u8]) -> usize {
    part.as_ptr() as usize - frame.as_ptr() as usize
}

fn check_against_etherparse(spec: &Spec, frame: &[u8]) -> Result<(), TestCaseError> {
    let headers = Headers::parse(frame).unwrap();
    let sliced = SlicedPacket::from_ethernet(frame).unwrap();
    let outermost = sliced.link_exts.first().map(|ext| match ext {
        LinkExtSlice::Vlan(vlan) => (vlan.vlan_identifier().value(), vlan.priority_code_point().value()),
        other => panic!("{other:?}"),
    });
    prop_assert_eq!(headers.tag.map(|tag| (tag.vlan().get(), tag.priority())), outermost);
    let (network, l3) = match sliced.net.as_ref().unwrap() {
        NetSlice::Ipv4(ip) => (Network::Ipv4, position(frame, ip.header().slice())),
        NetSlice::Ipv6(ip) => (Network::Ipv6, position(frame, ip.header().slice())),
        other => panic!("{other:?}"),
    };
    prop_assert_eq!((headers.network, usize::from(headers.l3)), (network, l3));
    let (transport, l4, payload) = match sliced.transport.as_ref().unwrap() {
        TransportSlice::Tcp(tcp) => (Transport::Tcp, position(frame, tcp.slice()), tcp.payload()),
        TransportSlice::Udp(udp) => (Transport::Udp, position(frame, udp.slice()), udp.payload()),
        other => panic!("{other:?}"),
    };
    prop_assert_eq!((headers.transport, usize::from(headers.l4)), (transport, l4));
    prop_assert_eq!((usize::from(headers.payload), headers.payload_len()), (position(frame, payload), payload.len()));
    prop_assert_eq!((l3, l4, payload), (spec.l3(), spec.l4(), &spec.payload[..]));
    Ok(())
}

proptest! {
    #[test]
    fn arbitrary_bytes_stay_within_bounds(frame in prop::collection::vec(any::<u8>(), 0..300)) {
        check_offsets(&frame)?;
    }

    #[test]
    fn arbitrary_bytes_behind_known_types(
        ether_type in prop_oneof![Just(0x0800u16), Just(0x86dd), Just(0x8100), Just(0x88a8)],
        version in prop_oneof![Just(0x45u8), Just(0x46), Just(0x60)],
        rest in prop::collection::vec(any::<u8>(), 0..200),
    ) {
        check_offsets(&[&[2; 12][..], &ether_type.to_be_bytes(), &[version], &rest].concat())?;
    }

    #[test]
    fn mutated_frames_stay_within_bounds(
        spec in specs(80),
        changes in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 1..6),
        cut in any::<prop::sample::Index>(),
        padding in 0usize..20,
    ) {
        let mut frame = spec.bytes();
        frame.resize(frame.len() + padding, 0);
        for (index, value) in changes {
            // Most changes are in the headers, where they matter.
            let at = index.index(frame.len().min(2 * spec.payload_at()));
            let at = at % frame.len();
            frame[at] = value;
        }
        check_offsets(&frame)?;
        check_offsets(&frame[..cut.index(frame.len())])?;
    }

    #[test]
    fn chains_of_extension_headers_stay_within_bounds(
        chain in prop::collection::vec((prop_oneof![Just(0u8), Just(43), Just(44), Just(51), Just(60), Just(6), Just(17)], 0u8..4), 0..12),
        rest in prop::collection::vec(any::<u8>(), 0..60),
    ) {
        let mut payload = Vec::new();
        for (next, len) in &chain {
            payload.extend([*next, *len]);
            payload.resize(payload.len() + 6 + 8 * usize::from(*len), 0);
        }
        payload.extend(&rest);
        let mut frame = [&[2u8; 12][..], &[0x86, 0xdd, 0x60, 0, 0, 0], &(payload.len() as u16).to_be_bytes(), &[60, 64], &[1; 32]].concat();
        frame.extend(&payload);
        check_offsets(&frame)?;
    }

    #[test]
    fn agrees_with_etherparse(spec in specs(200), padding in 0usize..20) {
        let mut frame = spec.bytes();
        check_against_etherparse(&spec, &frame)?;
        frame.resize(frame.len() + padding, 0xee);
        check_against_etherparse(&spec, &frame)?;
        prop_assert_eq!(Headers::parse(&frame).unwrap().end as usize, frame.len() - padding);
    }

    #[test]
    fn every_prefix_is_refused_or_opaque(spec in specs(20)) {
        let mut spec = spec;
        // Without a payload, the prefix up to it is the whole frame.
        spec.payload.push(0);
        let frame = spec.bytes();
        for len in 0..frame.len() {
            match Headers::parse(&frame[..len]) {
                Err(Malformed::Runt) => prop_assert!(len < 14),
                Err(Malformed::TruncatedTag) => prop_assert!(len >= 14 && len < spec.l3()),
                Ok(headers) => {
                    prop_assert!(len >= spec.l3());
                    prop_assert_eq!((headers.network, headers.transport), (Network::Other, Transport::Other));
                    prop_assert_eq!(headers.end as usize, len);
                }
            }
        }
        prop_assert!(Headers::parse(&frame).unwrap().transport != Transport::Other);
    }

    /// A wrong length field makes the header invalid, and never moves an offset out of the frame.
    #[test]
    fn lying_lengths_are_opaque(spec in specs(60), len: u16) {
        let mut frame = spec.bytes();
        let at = spec.l3() + if spec.v6 { 4 } else { 2 };
        frame[at..at + 2].copy_from_slice(&len.to_be_bytes());
        check_offsets(&frame)?;
        let packet = usize::from(len) + if spec.v6 { 40 } else { 0 };
        let headers = Headers::parse(&frame).unwrap();
        if packet > frame.len() - spec.l3() {
            prop_assert_eq!(headers.network, Network::Other);
        } else if headers.network != Network::Other {
            prop_assert_eq!(headers.end as usize, spec.l3() + packet);
        }
    }
}

#[test]
fn source_and_destination_are_read() {
    let frame = Spec { dst: [0xff; 6], src: [2, 1, 2, 3, 4, 5], ..Spec::default() }.bytes();
    let headers = Headers::parse(&frame).unwrap();
    assert_eq!((headers.dst.to_string(), headers.src.to_string()), ("ff:ff:ff:ff:ff:ff".into(), "02:01:02:03:04:05".into()));
}
