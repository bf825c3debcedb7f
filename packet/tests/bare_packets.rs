//! IP packets without Ethernet: splitting and merging them again restores every byte.

use packet::coalesce::Run;
use packet::head::Head;
use packet::offload::Judged;
use packet::segment::{self, Segments};
use packet::vlan::TagAction;
use packet::{Checksum, Features, Headers, Offload, Segmentation, SegmentationKind, VNET_LEN, VnetHeader};
use proptest::prelude::*;
use testkit::frames::{Spec, noise};
use testkit::packets::{ACK, PSH};

fn kind(spec: &Spec) -> SegmentationKind {
    match (spec.v6, spec.tcp) {
        (false, true) => SegmentationKind::TcpV4,
        (true, true) => SegmentationKind::TcpV6,
        (false, false) => SegmentationKind::UdpV4,
        (true, false) => SegmentationKind::UdpV6,
    }
}

/// The packet, and its offload metadata by the header that a TUN device would give it.
fn super_packet(spec: &Spec, size: u16) -> (Vec<u8>, Headers, Segmentation) {
    let packet = spec.partial().1[14..].to_vec();
    let headers = Headers::of_packet(&packet);
    let segmentation = Segmentation { kind: kind(spec), ecn: false, size };
    let owed = Offload { checksum: Checksum::Partial, segmentation: Some(segmentation) };
    let vnet = owed.to_vnet(&headers, 0);
    assert_eq!(usize::from(vnet.csum_start), spec.l4() - 14);
    assert_eq!(Offload::judge(vnet, &headers, packet.len()), Ok(Judged::Accept(owed)));
    (packet, headers, segmentation)
}

fn split(packet: &[u8], headers: &Headers, segmentation: Segmentation) -> Vec<Vec<u8>> {
    let mut head = Head::default();
    let mut segments = Segments::new(packet, headers, segmentation, TagAction::Keep, &mut head).unwrap();
    let mut packets = Vec::new();
    while let Some(payload) = segments.next(&mut head) {
        packets.push([&head.as_bytes()[VNET_LEN..], payload].concat());
    }
    packets
}

proptest! {
    #[test]
    fn split_and_merged_again(v6: bool, tcp: bool, id: u16, sequence: u32, seed: u64, size in 1..1400usize, count in 2..40usize, odd in 0..1400usize) {
        let payload = noise(seed, size * (count - 1) + 1 + odd % size);
        let spec = Spec { v6, tcp, id: id.max(1), sequence, flags: ACK | PSH, payload, ..Spec::default() };
        let (packet, headers, segmentation) = super_packet(&spec, size as u16);
        let packets = split(&packet, &headers, segmentation);
        prop_assert_eq!(packets.len(), count);
        let parsed: Vec<Headers> = packets.iter().map(|packet| Headers::of_packet(packet)).collect();
        let mut run = Run::start(&packets[0], &parsed[0], Offload::default(), Features::ALL).unwrap();
        for (packet, headers) in packets.iter().zip(&parsed).skip(1) {
            prop_assert!(run.extend(packet, headers, Offload::default()));
        }
        let mut head = Head::default();
        prop_assert!(run.write_head(TagAction::Keep, &mut head));
        let mut merged = head.as_bytes().to_vec();
        for (packet, headers) in packets.iter().zip(&parsed) {
            merged.extend(&packet[usize::from(headers.payload)..]);
        }
        let vnet = VnetHeader::from_bytes(merged[..VNET_LEN].try_into().unwrap());
        prop_assert_eq!(&merged[VNET_LEN..], &packet[..]);
        let owed = Offload { checksum: Checksum::Partial, segmentation: Some(segmentation) };
        prop_assert_eq!(vnet, owed.to_vnet(&headers, 0));
    }

    #[test]
    fn finished(v6: bool, tcp: bool, seed: u64, len in 0..1400usize) {
        let spec = Spec { v6, tcp, payload: noise(seed, len), ..Spec::default() };
        let (whole, partial) = (spec.bytes()[14..].to_vec(), spec.partial().1[14..].to_vec());
        let headers = Headers::of_packet(&partial);
        let mut head = Head::default();
        prop_assert!(segment::complete(&partial, &headers, TagAction::Keep, &mut head));
        let mut finished = [&head.as_bytes()[VNET_LEN..], &partial[usize::from(headers.payload)..]].concat();
        let at = spec.l4() - 14 + spec.checksum_offset();
        if whole[at..at + 2] == [0, 0] {
            finished[at..at + 2].fill(0);
        }
        prop_assert_eq!(finished, whole);
    }
}
