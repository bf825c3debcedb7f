//! Segments of super-frames and finished checksums, checked by etherparse and smoltcp.

use std::net::{Ipv4Addr, Ipv6Addr};

use etherparse::{SlicedPacket, TransportSlice};
use packet::head::Head;
use packet::segment::{self, Segments};
use packet::vlan::TagAction;
use packet::{EtherType, Headers, Tag, Transport, VNET_LEN, VlanId};
use proptest::prelude::*;
use smoltcp::wire::{IpAddress, Ipv4Packet, Ipv6Packet, TcpPacket, UdpPacket};
use testkit::frames::{MAX_PAYLOAD, Spec, noise};
use testkit::packets::{ACK, CWR, FIN, PSH};
use testkit::strategies::specs;
use testkit::wire::{judged, on_the_wire};

/// Checks all checksums. Offsets come from the specification of the frame, not from the parser under test.
fn verify(frame: &[u8], l3: usize, spec: &Spec) {
    let l4 = l3 + spec.l4() - spec.l3();
    let (src, dst) = if spec.v6 {
        let ip = Ipv6Packet::new_checked(&frame[l3..]).unwrap();
        assert_eq!(ip.total_len(), frame.len() - l3);
        (IpAddress::Ipv6(Ipv6Addr::from(ip.src_addr().octets())), IpAddress::Ipv6(Ipv6Addr::from(ip.dst_addr().octets())))
    } else {
        let ip = Ipv4Packet::new_checked(&frame[l3..]).unwrap();
        assert!(ip.verify_checksum(), "IPv4 checksum");
        assert_eq!(usize::from(ip.total_len()), frame.len() - l3);
        (IpAddress::Ipv4(Ipv4Addr::from(ip.src_addr().octets())), IpAddress::Ipv4(Ipv4Addr::from(ip.dst_addr().octets())))
    };
    if spec.tcp {
        assert!(TcpPacket::new_checked(&frame[l4..]).unwrap().verify_checksum(&src, &dst), "TCP checksum");
    } else {
        let udp = UdpPacket::new_checked(&frame[l4..]).unwrap();
        assert_ne!(udp.checksum(), 0, "0 would say that there is none");
        assert!(udp.verify_checksum(&src, &dst), "UDP checksum");
        assert_eq!(usize::from(udp.len()), frame.len() - l4);
    }
}

/// The tags of a frame after the action, outermost first.
fn tags_after(tags: &[(u16, u16)], action: TagAction) -> Vec<(u16, u16)> {
    let parts = |tag: Tag| {
        let [a, b, c, d] = tag.to_bytes();
        (u16::from_be_bytes([a, b]), u16::from_be_bytes([c, d]))
    };
    match action {
        TagAction::Keep => tags.to_vec(),
        TagAction::Push(tag) => [&[parts(tag)], tags].concat(),
        TagAction::Pop => tags[1..].to_vec(),
        TagAction::Replace(tag) => [&[parts(tag)], &tags[1..]].concat(),
    }
}

fn actions() -> impl Strategy<Value = TagAction> {
    let tag = (any::<u16>(), any::<bool>())
        .prop_map(|(tci, service)| Tag::new(if service { EtherType::SERVICE_VLAN } else { EtherType::VLAN }, tci));
    prop_oneof![
        Just(TagAction::Keep),
        tag.clone().prop_map(TagAction::Push),
        Just(TagAction::Pop),
        tag.prop_map(TagAction::Replace)
    ]
}

/// Super-frames of at least two segments, and the segment size.
fn super_frames() -> impl Strategy<Value = (Spec, u16)> {
    (specs(0), 1u16..=2000, 2usize..=40, any::<prop::sample::Index>(), any::<u64>()).prop_map(
        |(spec, size, count, last, seed)| {
            let size = size.min((60_000 / count) as u16);
            let last = 1 + last.index(usize::from(size));
            let payload = noise(seed, usize::from(size) * (count - 1) + last);
            (Spec { payload, ..spec }, size)
        },
    )
}

fn fits(spec: &Spec, action: TagAction) -> bool {
    !(spec.tags.is_empty() && matches!(action, TagAction::Pop | TagAction::Replace(_)))
}

/// Checks one segment against the rules in the documentation of the module.
fn check_segment(spec: &Spec, size: u16, tags: &[(u16, u16)], index: usize, is_last: bool, segment: &[u8]) {
    let size = usize::from(size);
    let l3 = 14 + 4 * tags.len();
    verify(segment, l3, spec);
    let expected = Spec {
        tags: tags.to_vec(),
        id: spec.id.wrapping_add(index as u16),
        sequence: spec.sequence.wrapping_add((index * size) as u32),
        flags: {
            let first = if index > 0 { !CWR } else { 0xff };
            let middle = if is_last { 0xff } else { !(FIN | PSH) };
            spec.flags & first & middle
        },
        payload: spec.payload[index * size..spec.payload.len().min((index + 1) * size)].to_vec(),
        ..spec.clone()
    };
    assert_eq!(segment, expected.bytes(), "segment {index}");
    if tags.len() <= 2 {
        let sliced = SlicedPacket::from_ethernet(segment).unwrap();
        let payload = match sliced.transport.unwrap() {
            TransportSlice::Tcp(tcp) => {
                assert_eq!(
                    (tcp.sequence_number(), tcp.fin(), tcp.psh()),
                    (expected.sequence, expected.flags & FIN != 0, expected.flags & PSH != 0)
                );
                tcp.payload()
            }
            TransportSlice::Udp(udp) => {
                assert_eq!(usize::from(udp.length()), 8 + expected.payload.len());
                udp.payload()
            }
            other => panic!("{other:?}"),
        };
        assert_eq!(payload, expected.payload);
    }
}

proptest! {
    #[test]
    fn segments_follow_the_rules((spec, size) in super_frames(), action in actions()) {
        prop_assume!(fits(&spec, action));
        let (vnet, frame) = spec.super_frame(size);
        let (headers, offload) = judged(vnet, &frame);
        let segmentation = offload.segmentation.unwrap();
        let tags = tags_after(&spec.tags, action);
        let mut head = Head::default();
        let mut segments = Segments::new(&frame, &headers, segmentation, action, &mut head).unwrap();
        let count = spec.payload.len().div_ceil(usize::from(size));
        let mut payload: Vec<u8> = Vec::new();
        for index in 0..count {
            let part = segments.next(&mut head).unwrap();
            payload.extend(part);
            let written = [head.as_bytes(), part].concat();
            prop_assert_eq!(&written[..VNET_LEN], &[0; VNET_LEN], "nothing is owed");
            check_segment(&spec, size, &tags, index, index + 1 == count, &written[VNET_LEN..]);
        }
        prop_assert!(segments.next(&mut head).is_none());
        prop_assert_eq!(payload, spec.payload);
    }

    #[test]
    fn a_completed_checksum_verifies(spec in specs(1500), action in actions()) {
        prop_assume!(fits(&spec, action));
        let (vnet, frame) = spec.partial();
        let (headers, _) = judged(vnet, &frame);
        let mut head = Head::default();
        prop_assert!(segment::complete(&frame, &headers, action, &mut head));
        prop_assert_eq!(&head.as_bytes()[..VNET_LEN], &[0; VNET_LEN]);
        let completed = [&head.as_bytes()[VNET_LEN..], &frame[usize::from(headers.payload)..]].concat();
        let tags = tags_after(&spec.tags, action);
        verify(&completed, 14 + 4 * tags.len(), &spec);
        let at = 14 + 4 * tags.len() + spec.l4() - spec.l3() + spec.checksum_offset();
        let mut expected = Spec { tags, ..spec }.bytes();
        if expected[at..at + 2] == [0, 0] {
            expected[at..at + 2].fill(0xff);
        }
        prop_assert_eq!(completed, expected);
    }

    /// Refused super-frames do not panic here either, and an invalid header makes no segments.
    #[test]
    fn frames_without_transport_make_no_segments(spec in specs(100), size in 10u16..100) {
        let (vnet, mut frame) = Spec { payload: vec![1; 200], ..spec.clone() }.super_frame(size);
        let (_, offload) = judged(vnet, &frame);
        frame[spec.l3()] = 0;
        let headers = Headers::parse(&frame).unwrap();
        prop_assert_eq!(headers.transport, Transport::Other);
        let mut head = Head::default();
        prop_assert!(Segments::new(&frame, &headers, offload.segmentation.unwrap(), TagAction::Keep, &mut head).is_none());
        prop_assert!(!segment::complete(&frame, &headers, TagAction::Keep, &mut head));
    }
}

/// A checksum of zero: TCP sends it unchanged, UDP as 0xffff (RFC 768).
#[test]
fn a_checksum_of_zero_in_a_segment() {
    for tcp in [true, false] {
        let spec = Spec { tcp, payload: vec![0; 60], flags: ACK, ..Spec::default() };
        // The first payload word of the last segment cancels everything else in its checksum.
        let last = Spec { payload: vec![0; 20], id: 3, sequence: spec.sequence.wrapping_add(40), ..spec.clone() };
        let bytes = last.bytes();
        let at = last.l4() + last.checksum_offset();
        let mut payload = spec.payload.clone();
        payload[40..42].copy_from_slice(&bytes[at..at + 2]);
        let (vnet, frame) = Spec { payload, ..spec }.super_frame(20);
        let segments = on_the_wire(&[&vnet.to_bytes()[..], &frame].concat());
        assert_eq!(segments.len(), 3);
        assert_eq!(segments[2][at..at + 2], if tcp { [0, 0] } else { [0xff, 0xff] });
        verify(&segments[2], 14, &last);
    }
}

#[test]
fn the_largest_super_frame() {
    for (v6, tcp) in [(false, true), (true, true), (false, false), (true, false)] {
        let spec = Spec { v6, tcp, payload: noise(7, MAX_PAYLOAD), flags: ACK | PSH | FIN | CWR, ..Spec::default() };
        let (vnet, frame) = spec.super_frame(1400);
        let segments = on_the_wire(&[&vnet.to_bytes()[..], &frame].concat());
        assert_eq!(segments.len(), MAX_PAYLOAD.div_ceil(1400));
        for (index, segment) in segments.iter().enumerate() {
            check_segment(&spec, 1400, &[], index, index + 1 == segments.len(), segment);
        }
    }
}

#[test]
fn a_vlan_tag_is_pushed_on_every_segment() {
    let spec = Spec { payload: noise(1, 3000), ..Spec::default() };
    let (vnet, frame) = spec.super_frame(1000);
    let (headers, offload) = judged(vnet, &frame);
    let mut head = Head::default();
    let action = TagAction::Push(Tag::of(VlanId::new(10).unwrap()));
    let mut segments = Segments::new(&frame, &headers, offload.segmentation.unwrap(), action, &mut head).unwrap();
    for _ in 0..3 {
        assert_eq!(segments.next(&mut head).unwrap().len(), 1000);
        assert_eq!(head.as_bytes()[VNET_LEN + 12..][..4], [0x81, 0, 0, 10]);
    }
}
