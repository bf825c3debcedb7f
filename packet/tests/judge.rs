//! Validation of virtio-net headers: no header panics, and accepted ones keep to the documented limits.

use packet::head::Head;
use packet::offload::{BadVnetHeader, Judged, MAX_HEADERS_LEN, MAX_TCP_SEGMENTS, MAX_UDP_SEGMENTS, finish_checksum};
use packet::segment::{self, Segments};
use packet::vlan::TagAction;
use packet::{Checksum, Headers, Network, Offload, SegmentationKind, Transport, VNET_LEN, VnetHeader};
use proptest::prelude::*;
use testkit::frames::{Spec, noise};
use testkit::packets::CWR;
use testkit::strategies::specs;

/// Checks everything that the documentation promises of a verdict, and that an accepted frame can be finished.
fn check_verdict(vnet: VnetHeader, frame: &mut [u8]) -> Result<(), TestCaseError> {
    let Ok(headers) = Headers::parse(frame) else { return Ok(()) };
    let offload = match Offload::judge(vnet, &headers, frame.len()) {
        Err(BadVnetHeader) => {
            prop_assert!(vnet.gso_type != 0 || vnet.flags & 1 != 0, "a header that asks for nothing is fine");
            return Ok(());
        }
        Ok(Judged::Finish { start, at }) => {
            prop_assert!(usize::from(headers.l3) <= start && start <= at && at + 2 <= frame.len());
            prop_assert_eq!((vnet.gso_type, vnet.flags & 1), (0, 1));
            let before = frame.to_vec();
            finish_checksum(frame, start, at);
            prop_assert!(before[..at] == frame[..at] && before[at + 2..] == frame[at + 2..]);
            return Ok(());
        }
        Ok(Judged::Accept(offload)) => offload,
    };
    prop_assert_eq!(offload.checksum == Checksum::Partial, vnet.flags & 1 != 0);
    if offload.checksum == Checksum::Partial {
        prop_assert_ne!(headers.transport, Transport::Other);
        prop_assert_eq!(vnet.csum_start, headers.l4);
        let mut head = Head::default();
        prop_assert!(segment::complete(frame, &headers, TagAction::Keep, &mut head));
    }
    let passed_on = offload.to_vnet(&headers, 0);
    prop_assert_eq!(Offload::judge(passed_on, &headers, frame.len()), Ok(Judged::Accept(offload)), "{:?}", passed_on);
    let Some(segmentation) = offload.segmentation else {
        prop_assert_eq!(passed_on.gso_type, 0);
        return Ok(());
    };
    let (network, transport, most) = match segmentation.kind {
        SegmentationKind::TcpV4 => (Network::Ipv4, Transport::Tcp, MAX_TCP_SEGMENTS),
        SegmentationKind::TcpV6 => (Network::Ipv6, Transport::Tcp, MAX_TCP_SEGMENTS),
        SegmentationKind::UdpV4 => (Network::Ipv4, Transport::Udp, MAX_UDP_SEGMENTS),
        SegmentationKind::UdpV6 => (Network::Ipv6, Transport::Udp, MAX_UDP_SEGMENTS),
    };
    prop_assert_eq!((headers.network, headers.transport, offload.checksum), (network, transport, Checksum::Partial));
    prop_assert!(segmentation.size > 0 && headers.payload_len() > usize::from(segmentation.size));
    prop_assert!(usize::from(headers.payload) <= MAX_HEADERS_LEN && headers.end as usize == frame.len());
    prop_assert!(!segmentation.ecn || transport == Transport::Tcp);
    prop_assert_eq!((passed_on.gso_size, passed_on.hdr_len), (segmentation.size, headers.payload));
    let mut head = Head::default();
    let mut segments = Segments::new(frame, &headers, segmentation, TagAction::Keep, &mut head).unwrap();
    let count = std::iter::from_fn(|| segments.next(&mut head)).count();
    prop_assert!(count > 1 && count <= most, "{count} segments");
    Ok(())
}

/// Headers close enough to the frame that some are accepted.
fn vnet_headers(l4: u16, offset: u16) -> impl Strategy<Value = VnetHeader> {
    let gso_type = prop_oneof![Just(0u8), Just(1), Just(3), Just(4), Just(5), Just(0x81), Just(0x84), Just(0x85), any::<u8>()];
    let gso_size = prop_oneof![Just(0u16), 1u16..100, any::<u16>()];
    let start = prop_oneof![6 => Just(l4), 1 => 0..100u16, 1 => any::<u16>()];
    let offset = prop_oneof![6 => Just(offset), 1 => 0..20u16, 1 => any::<u16>()];
    (0u8..4, gso_type, any::<u16>(), gso_size, start, offset).prop_map(
        |(flags, gso_type, hdr_len, gso_size, csum_start, csum_offset)| VnetHeader {
            flags,
            gso_type,
            hdr_len,
            gso_size,
            csum_start,
            csum_offset,
        },
    )
}

proptest! {
    #[test]
    fn arbitrary_headers_and_frames(vnet: [u8; VNET_LEN], mut frame in prop::collection::vec(any::<u8>(), 0..200)) {
        check_verdict(VnetHeader::from_bytes(&vnet), &mut frame)?;
    }

    #[test]
    fn arbitrary_headers_and_valid_frames(vnet: [u8; VNET_LEN], spec in specs(400)) {
        check_verdict(VnetHeader::from_bytes(&vnet), &mut spec.bytes())?;
    }

    #[test]
    fn near_truths_and_valid_frames(
        (spec, vnet) in specs(2000).prop_flat_map(|spec| {
            let vnet = vnet_headers(spec.l4() as u16, spec.checksum_offset() as u16);
            (Just(spec), vnet)
        }),
        padding in prop_oneof![3 => Just(0usize), 1 => 1usize..9],
    ) {
        let (_, mut frame) = spec.partial();
        frame.resize(frame.len() + padding, 0);
        check_verdict(vnet, &mut frame)?;
    }

    #[test]
    fn mutated_super_frames(
        spec in specs(3000),
        size in 1u16..1500,
        changes in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 0..4),
    ) {
        let (vnet, frame) = spec.super_frame(size);
        let mut bytes = [&vnet.to_bytes()[..], &frame].concat();
        let front = bytes.len().min(VNET_LEN + spec.payload_at());
        for (index, value) in changes {
            bytes[index.index(front)] = value;
        }
        let (vnet, frame) = bytes.split_at_mut(VNET_LEN);
        check_verdict(VnetHeader::from_bytes((&*vnet).try_into().unwrap()), frame)?;
    }

    /// Every super-frame as the kernel sends it is accepted as described.
    #[test]
    fn true_super_frames_pass(spec in specs(0), size in 300u16..9000, count in 2usize..8, seed: u64) {
        let spec = Spec { payload: noise(seed, usize::from(size) * (count - 1) + 1), ..spec };
        let (vnet, frame) = spec.super_frame(size);
        let headers = Headers::parse(&frame).unwrap();
        let Ok(Judged::Accept(offload)) = Offload::judge(vnet, &headers, frame.len()) else { panic!("{vnet:?}") };
        prop_assert_eq!(offload.to_vnet(&headers, 0), vnet);
        prop_assert_eq!(offload.segmentation.unwrap().ecn, spec.tcp && spec.flags & CWR != 0);
        let grown = offload.to_vnet(&headers, 4);
        prop_assert_eq!((grown.csum_start, grown.hdr_len), (vnet.csum_start + 4, vnet.hdr_len + 4));
    }

    /// No amplification: a super-frame of many tiny segments is refused.
    #[test]
    fn too_many_segments_are_refused(tcp: bool, v6: bool, size in 1u16..200, extra in 1usize..200) {
        let most = if tcp { MAX_TCP_SEGMENTS } else { MAX_UDP_SEGMENTS };
        let judge = |payload| {
            let (vnet, frame) = Spec { tcp, v6, payload: vec![0; payload], ..Spec::default() }.super_frame(size);
            Offload::judge(vnet, &Headers::parse(&frame).unwrap(), frame.len())
        };
        let limit = most * usize::from(size);
        prop_assert!(matches!(judge(limit), Ok(Judged::Accept(_))));
        prop_assert_eq!(judge(limit + extra), Err(BadVnetHeader));
    }
}

/// A checksum must not overwrite fields that the switch has read already: that would change the destination after the
/// look-up, or add a VLAN tag without a check.
#[test]
fn no_checksum_over_the_ethernet_header() {
    let frame = Spec { tcp: false, ..Spec::default() }.bytes();
    let headers = Headers::parse(&frame).unwrap();
    for start in 0..headers.l3 {
        for csum_offset in 0..20 {
            let vnet = VnetHeader { flags: 1, csum_start: start, csum_offset, ..VnetHeader::default() };
            assert_eq!(Offload::judge(vnet, &headers, frame.len()), Err(BadVnetHeader), "{start} + {csum_offset}");
        }
    }
}

/// The checksum of an inner packet is finished in software, as the kernel does for VXLAN.
#[test]
fn a_checksum_of_bytes_not_understood_is_finished() {
    let inner = Spec { tcp: false, ..Spec::default() };
    let (inner_vnet, inner_frame) = inner.partial();
    let outer = Spec {
        tcp: false,
        ports: (50_000, 4789),
        payload: [&[8, 0, 0, 0, 0, 0, 1, 0], &inner_frame[..]].concat(),
        ..Spec::default()
    };
    let mut frame = outer.unchecked();
    let at = outer.payload_at() + 8;
    let vnet = VnetHeader { csum_start: inner_vnet.csum_start + at as u16, ..inner_vnet };
    let headers = Headers::parse(&frame).unwrap();
    let Ok(Judged::Finish { start, at: check }) = Offload::judge(vnet, &headers, frame.len()) else { panic!("not finished") };
    finish_checksum(&mut frame, start, check);
    assert_eq!(frame[at..], inner.bytes());
}
