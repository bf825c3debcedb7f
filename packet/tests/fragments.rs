//! Fragments, and fragments of fragments, reassembled; headers checked by smoltcp.

use std::collections::BTreeMap;

use packet::fragment::Fragments;
use packet::head::Head;
use packet::vlan::TagAction;
use packet::{Headers, Network, Tag, VNET_LEN, VlanId};
use proptest::prelude::*;
use smoltcp::wire::Ipv4Packet;
use testkit::checksum::sum;
use testkit::frames::{Spec, noise};
use testkit::strategies::specs;

/// The same frame without "don't fragment".
fn without_dont_fragment(mut frame: Vec<u8>, spec: &Spec) -> Vec<u8> {
    let ip = &mut frame[spec.l3()..spec.l4()];
    ip[6] = 0;
    ip[10..12].fill(0);
    let check = !sum(ip);
    ip[10..12].copy_from_slice(&check.to_be_bytes());
    frame
}

/// All fragments as whole frames, each checked separately.
fn cut(frame: &[u8], mtu: usize, action: TagAction) -> Vec<Vec<u8>> {
    let headers = Headers::parse(frame).unwrap();
    let mut head = Head::default();
    let mut fragments = Fragments::new(frame, &headers, mtu, action, &mut head).unwrap();
    let mut frames = Vec::new();
    while let Some(payload) = fragments.next(&mut head) {
        assert_eq!(&head.as_bytes()[..VNET_LEN], &[0; VNET_LEN], "nothing is owed");
        let frame = [&head.as_bytes()[VNET_LEN..], payload].concat();
        let headers = Headers::parse(&frame).unwrap();
        let ip = Ipv4Packet::new_checked(&frame[usize::from(headers.l3)..]).unwrap();
        assert_eq!((headers.network, headers.end as usize), (Network::Ipv4, frame.len()));
        assert!(ip.verify_checksum() && usize::from(ip.total_len()) <= mtu);
        assert!(!ip.more_frags() || ip.payload().len().is_multiple_of(8));
        frames.push(frame);
    }
    frames
}

/// The datagram's payload from its fragments in any order; panics where they overlap or leave a gap.
fn reassembled(fragments: &[Vec<u8>]) -> Vec<u8> {
    let mut pieces = BTreeMap::new();
    let mut end = None;
    for frame in fragments {
        let headers = Headers::parse(frame).unwrap();
        let ip = Ipv4Packet::new_checked(&frame[usize::from(headers.l3)..]).unwrap();
        let at = usize::from(ip.frag_offset());
        if !ip.more_frags() {
            assert_eq!(end.replace(at + ip.payload().len()), None, "one last fragment");
        }
        assert_eq!(pieces.insert(at, ip.payload().to_vec()), None, "two at {at}");
    }
    let mut payload = Vec::new();
    for (at, piece) in pieces {
        assert_eq!(at, payload.len());
        payload.extend(piece);
    }
    assert_eq!(end, Some(payload.len()));
    payload
}

/// IPv4 frames with up to 60,000 bytes.
fn long_frames() -> impl Strategy<Value = Spec> {
    (specs(0), prop_oneof![0usize..4000, 0usize..60_000], any::<u64>()).prop_map(|(spec, len, seed)| Spec {
        v6: false,
        payload: noise(seed, len),
        ..spec
    })
}

proptest! {
    #[test]
    fn reassembled_is_what_was_cut(
        spec in long_frames(),
        mtus in (68usize..3000, 68usize..3000),
        push in any::<bool>(),
        seed in any::<usize>(),
    ) {
        // With the pushed tag, no more tags than the parser reads.
        let spec = Spec { tags: spec.tags.iter().copied().take(1).collect(), ..spec };
        let frame = without_dont_fragment(spec.bytes(), &spec);
        let action = if push { TagAction::Push(Tag::of(VlanId::new(10).unwrap())) } else { TagAction::Keep };
        let once = cut(&frame, mtus.0, action);
        let mut twice: Vec<Vec<u8>> = once.iter().flat_map(|frame| cut(frame, mtus.1, TagAction::Keep)).collect();
        let l4 = &frame[spec.l4()..];
        let middle = seed % twice.len();
        twice.rotate_left(middle);
        prop_assert_eq!(reassembled(&twice), l4);
    }

    /// Only length, flags, offset and checksum differ from the packet; Ethernet padding is left out.
    #[test]
    fn headers_are_the_packets(spec in long_frames(), mtu in 68usize..3000, padding in 0usize..40) {
        let frame = without_dont_fragment(spec.bytes(), &spec);
        let padded = [&frame[..], &vec![0xee; padding]].concat();
        let fragments = cut(&padded, mtu, TagAction::Keep);
        prop_assert_eq!(reassembled(&fragments), &frame[spec.l4()..]);
        for fragment in fragments {
            let l3 = spec.l3();
            prop_assert_eq!(&fragment[..l3 + 2], &frame[..l3 + 2]);
            prop_assert_eq!(&fragment[l3 + 4..l3 + 6], &frame[l3 + 4..l3 + 6]);
            prop_assert_eq!(&fragment[l3 + 8..l3 + 10], &frame[l3 + 8..l3 + 10]);
            prop_assert_eq!(&fragment[l3 + 12..spec.l4()], &frame[l3 + 12..spec.l4()]);
        }
    }

    /// Arbitrary bytes: no panic, and work bounded by the length.
    #[test]
    fn hostile_headers_are_cut_or_refused(
        ip in prop::collection::vec(any::<u8>(), 20..300),
        ihl in 5u8..=15,
        mtu in 0usize..400,
    ) {
        let mut frame = vec![0; 12];
        frame.extend([8, 0]);
        frame.extend(&ip);
        let total = (ip.len() as u16).to_be_bytes();
        frame[14] = 0x40 | ihl;
        frame[16..18].copy_from_slice(&total);
        let headers = Headers::parse(&frame).unwrap();
        let mut head = Head::default();
        if let Some(mut fragments) = Fragments::new(&frame, &headers, mtu, TagAction::Keep, &mut head) {
            let mut bytes = 0;
            while let Some(payload) = fragments.next(&mut head) {
                bytes += payload.len();
            }
            prop_assert_eq!(bytes, ip.len() - usize::from(ihl) * 4);
        }
    }
}
