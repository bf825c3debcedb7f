//! Decapsulation of datagrams: a super-frame that crosses a tunnel, in a train or whole, arrives unchanged.

use std::net::IpAddr;

use packet::coalesce::Run;
use packet::head::Head;
use packet::vlan::TagAction;
use packet::{Checksum, Datagram, Features, Headers, Offload, Segmentation, SegmentationKind, VnetHeader};
use proptest::prelude::*;
use testkit::frames::{Spec, noise};
use testkit::packets::{ACK, CWR, PSH};
use testkit::strategies::specs;
use testkit::wire::{judged, on_the_wire};
use tunnel::{Arrival, Arrivals, Framing, FramingKind, Malformed, Vni, vxlan};

const MTU: u32 = 1450;
const VNI: Vni = Vni::new(0x12_3456).unwrap();

fn vxlan(frame: &[u8]) -> Vec<u8> {
    [&vxlan::encode(VNI)[..], frame].concat()
}

fn arrivals(payload: &[u8], segment_size: u16, kind: FramingKind) -> Vec<Result<Arrival<'_>, Malformed>> {
    let datagram = Datagram { from: IpAddr::from([192, 0, 2, 1]), tos: 0, segment_size, payload };
    Arrivals::new(datagram, kind, MTU).collect()
}

/// The only frame of a datagram, and its offload state after the pipeline's check.
fn only(payload: &[u8], segment_size: u16) -> (Vec<u8>, Offload) {
    let arrived = arrivals(payload, segment_size, FramingKind::Vxlan);
    let [Ok(arrival)] = arrived[..] else { panic!("{arrived:?}") };
    assert_eq!(arrival.framing, Framing::Vxlan(VNI));
    (arrival.frame.to_vec(), judged(arrival.vnet, arrival.frame).1)
}

fn partial(segmentation: Option<Segmentation>) -> Offload {
    Offload { checksum: Checksum::Partial, segmentation }
}

#[test]
fn plain_frames_have_no_offload_state() {
    for spec in [Spec::default(), Spec { v6: true, tcp: false, ..Spec::default() }] {
        assert_eq!(only(&vxlan(&spec.bytes()), 0), (spec.bytes(), Offload::default()));
    }
    let no_checksum = Spec { tcp: false, ..Spec::default() }.unchecked();
    assert_eq!(only(&vxlan(&no_checksum), 0), (no_checksum, Offload::default()));
    let arp = [&[0xff; 6][..], &[2, 0, 0, 0, 0, 1, 8, 6], &[7; 28]].concat();
    assert_eq!(only(&vxlan(&arp), 0), (arp, Offload::default()));
}

#[test]
fn a_partial_checksum_is_detected_and_padding_removed() {
    for (v6, tcp) in [(false, true), (true, true), (false, false), (true, false)] {
        for tags in [vec![], vec![(0x8100, 10)]] {
            let spec = Spec { v6, tcp, tags, ..Spec::default() };
            let unfinished = spec.partial().1;
            assert_eq!(only(&vxlan(&unfinished), 0), (unfinished.clone(), partial(None)));
            let padded = [&unfinished[..], &[0xee; 9]].concat();
            assert_eq!(only(&vxlan(&padded), 0), (unfinished, partial(None)));
            let padded = [&spec.bytes()[..], &[0xee; 9]].concat();
            assert_eq!(only(&vxlan(&padded), 0), (padded, Offload::default()), "not touched without need");
        }
    }
}

#[test]
fn a_tcp_super_frame_has_full_segments() {
    for (v6, kind, size) in [(false, SegmentationKind::TcpV4, 1398), (true, SegmentationKind::TcpV6, 1378)] {
        for (flags, ecn) in [(ACK, false), (ACK | CWR, true)] {
            let spec = Spec { v6, flags, payload: noise(1, 9000), ..Spec::default() };
            let (frame, offload) = only(&vxlan(&spec.partial().1), 0);
            assert_eq!(frame, spec.partial().1);
            assert_eq!(offload, partial(Some(Segmentation { kind, ecn, size })));
        }
        let full = Spec { v6, payload: noise(1, size.into()), ..Spec::default() };
        assert_eq!(only(&vxlan(&full.partial().1), 0).1, partial(None), "fits");
        let finished = Spec { v6, payload: noise(1, 9000), ..Spec::default() };
        assert_eq!(only(&vxlan(&finished.bytes()), 0).1, Offload::default(), "a jumbo frame");
    }
}

#[test]
fn a_udp_super_frame_is_not_a_train() {
    for (v6, kind) in [(false, SegmentationKind::UdpV4), (true, SegmentationKind::UdpV6)] {
        let spec = Spec { v6, tcp: false, payload: noise(1, 9000), ..Spec::default() };
        let (frame, offload) = only(&vxlan(&spec.partial().1), 1200);
        assert_eq!(frame, spec.partial().1);
        assert_eq!(offload, partial(Some(Segmentation { kind, ecn: false, size: 1200 })));
        let first = arrivals(&vxlan(&spec.bytes()), 1200, FramingKind::Vxlan)[0].unwrap().vnet;
        assert_eq!(first, VnetHeader::default(), "a finished checksum is that of no super-frame");
    }
}

#[test]
fn a_train_is_split_into_frames() {
    let datagrams: Vec<Vec<u8>> = (0..3u16)
        .map(|n| {
            let spec = Spec { id: n, tcp: false, payload: noise(n.into(), if n == 2 { 50 } else { 400 }), ..Spec::default() };
            vxlan(&if n == 1 { spec.partial().1 } else { spec.bytes() })
        })
        .collect();
    let train = datagrams.concat();
    let arrived = arrivals(&train, datagrams[0].len() as u16, FramingKind::Vxlan);
    assert_eq!(arrived.len(), 3);
    for (n, (arrival, datagram)) in arrived.iter().zip(&datagrams).enumerate() {
        let arrival = arrival.unwrap();
        assert_eq!(arrival.frame, &datagram[8..]);
        assert_eq!(judged(arrival.vnet, arrival.frame).1, if n == 1 { partial(None) } else { Offload::default() });
    }
    let mut broken = train;
    broken[datagrams[0].len()] = 0;
    let kinds: Vec<Option<Malformed>> =
        arrivals(&broken, datagrams[0].len() as u16, FramingKind::Vxlan).iter().map(|arrival| arrival.err()).collect();
    assert_eq!(kinds, [None, Some(Malformed::BadFlags), None]);
}

#[test]
fn framings_without_a_header() {
    let spec = Spec { payload: noise(1, 9000), ..Spec::default() };
    let frame = spec.partial().1;
    let arrived = arrivals(&frame, 0, FramingKind::Ethernet);
    let [Ok(arrival)] = arrived[..] else { panic!("{arrived:?}") };
    assert_eq!((arrival.framing, arrival.frame, arrival.vnet.gso_size), (Framing::Ethernet, &frame[..], 1398));
    let arrived = arrivals(&frame[14..], 0, FramingKind::Ip);
    let [Ok(arrival)] = arrived[..] else { panic!("{arrived:?}") };
    assert_eq!((arrival.framing, arrival.frame, arrival.headers.l3), (Framing::Ip, &frame[14..], 0));
    assert_eq!((arrival.vnet.csum_start, arrival.vnet.gso_size), (20, 1398));
    for (payload, kind, malformed) in [
        (&[][..], FramingKind::Vxlan, Malformed::Truncated),
        (&[], FramingKind::Ethernet, Malformed::Truncated),
        (&[], FramingKind::Ip, Malformed::NotIp),
        (&frame[..13], FramingKind::Ethernet, Malformed::Truncated),
        (&frame, FramingKind::Ip, Malformed::NotIp),
        (&frame, FramingKind::Vxlan, Malformed::BadFlags),
    ] {
        assert_eq!(arrivals(payload, 0, kind).iter().map(|arrival| arrival.err()).collect::<Vec<_>>(), [Some(malformed)]);
    }
}

/// Frames as an egress queue writes them, with consecutive segments coalesced.
fn coupled(frames: &[(VnetHeader, Vec<u8>)]) -> Vec<Vec<u8>> {
    let parsed: Vec<(Headers, Offload)> = frames.iter().map(|(vnet, frame)| judged(*vnet, frame)).collect();
    let (mut writes, mut at) = (Vec::new(), 0);
    while at < frames.len() {
        let mut taken = 1;
        let mut write = None;
        if let Some(mut run) = Run::start(&frames[at].1, &parsed[at].0, parsed[at].1, Features::ALL) {
            while at + taken < frames.len() && run.extend(&frames[at + taken].1, &parsed[at + taken].0, parsed[at + taken].1) {
                taken += 1;
            }
            if taken > 1 {
                let mut head = Head::default();
                assert!(run.write_head(TagAction::Keep, &mut head));
                let mut bytes = head.as_bytes().to_vec();
                for ((_, frame), (headers, _)) in frames[at..at + taken].iter().zip(&parsed[at..]) {
                    bytes.extend(&frame[usize::from(headers.payload)..headers.end as usize]);
                }
                write = Some(bytes);
            }
        }
        writes.push(write.unwrap_or_else(|| [&frames[at].0.to_bytes()[..], &frames[at].1].concat()));
        at += taken;
    }
    writes
}

fn taken(payload: &[u8], segment_size: u16) -> Vec<(VnetHeader, Vec<u8>)> {
    let arrived = arrivals(payload, segment_size, FramingKind::Vxlan);
    arrived.into_iter().map(|arrival| arrival.map(|arrival| (arrival.vnet, arrival.frame.to_vec())).unwrap()).collect()
}

proptest! {
    /// A super-frame that is segmented at one end, sent as a train and coalesced at the other end is unchanged.
    #[test]
    fn a_super_frame_in_a_train(v6: bool, tcp: bool, id in 1..1000u16, sequence: u32, seed: u64, size in 60..1378usize, count in 2..30usize, odd in 0..1378usize) {
        let payload = noise(seed, size * (count - 1) + 1 + odd % size);
        let spec = Spec { v6, tcp, id, sequence, flags: ACK | PSH, payload, ..Spec::default() };
        let (vnet, bytes) = spec.super_frame(size as u16);
        let sent = [&vnet.to_bytes()[..], &bytes].concat();
        let datagrams: Vec<Vec<u8>> = on_the_wire(&sent).iter().map(|frame| vxlan(frame)).collect();
        let arrived = taken(&datagrams.concat(), datagrams[0].len() as u16);
        prop_assert_eq!(arrived.len(), count);
        let writes = coupled(&arrived);
        prop_assert_eq!(writes.len(), 1);
        prop_assert_eq!(&writes[0], &sent);
    }

    /// A super-frame in one datagram, as a local kernel sends it: after the tunnel it is segmented into the same frames as
    /// without the tunnel.
    #[test]
    fn a_super_frame_in_one_datagram(v6: bool, tcp: bool, id: u16, sequence: u32, seed: u64, size in 600..1378u16, len in 0..40_000usize) {
        // The segment size of TCP is lost, so full segments are assumed.
        let size = if tcp { 1450 - if v6 { 72 } else { 52 } } else { size };
        let payload = noise(seed, usize::from(size) + 1 + len);
        let spec = Spec { v6, tcp, id, sequence, flags: ACK | PSH, payload, ..Spec::default() };
        let (vnet, bytes) = spec.super_frame(size);
        let sent = [&vnet.to_bytes()[..], &bytes].concat();
        let arrived = taken(&vxlan(&bytes), if tcp { 0 } else { size });
        prop_assert_eq!(arrived.len(), 1);
        let write = [&arrived[0].0.to_bytes()[..], &arrived[0].1].concat();
        prop_assert_eq!(on_the_wire(&write), on_the_wire(&sent));
    }

    /// Any frame, with a partial or complete checksum, is the same on the wire with and without the tunnel.
    #[test]
    fn a_frame_is_what_it_was(spec in specs(1200), unfinished: bool) {
        let (vnet, bytes) = if unfinished { spec.partial() } else { (VnetHeader::default(), spec.bytes()) };
        let arrived = taken(&vxlan(&bytes), 0);
        let write = [&arrived[0].0.to_bytes()[..], &arrived[0].1].concat();
        prop_assert_eq!(on_the_wire(&write), on_the_wire(&[&vnet.to_bytes()[..], &bytes].concat()));
    }

    /// Any bytes are decapsulated within bounds, without duplicates, and with an offload state that can be checked.
    #[test]
    fn any_bytes(spec in specs(3000), cut in 0..3400usize, change in prop::collection::vec((0..200usize, any::<u8>()), 0..6), segment_size: u16, mtu: u32) {
        let mut payload = vxlan(&spec.partial().1);
        for (at, byte) in change {
            if let Some(there) = payload.get_mut(at) {
                *there = byte;
            }
        }
        payload.truncate(cut);
        for kind in [FramingKind::Vxlan, FramingKind::Ethernet, FramingKind::Ip] {
            for segment_size in [0, segment_size, segment_size % 300] {
                let datagram = Datagram { from: IpAddr::from([0; 4]), tos: 0, segment_size, payload: &payload };
                let mut bytes = 0;
                for arrival in Arrivals::new(datagram, kind, mtu % 3000) {
                    let Ok(arrival) = arrival else { continue };
                    bytes += arrival.frame.len();
                    let _ = Offload::judge(arrival.vnet, &arrival.headers, arrival.frame.len());
                }
                prop_assert!(bytes <= payload.len());
            }
        }
    }
}

#[test]
fn every_prefix_of_a_datagram() {
    let spec = Spec { payload: noise(1, 2000), ..Spec::default() };
    let payload = vxlan(&spec.partial().1);
    for len in 0..=payload.len() {
        for segment_size in [0, 1, 7, 1000] {
            for arrival in arrivals(&payload[..len], segment_size, FramingKind::Vxlan) {
                let owes = arrival.is_ok_and(|arrival| arrival.vnet != VnetHeader::default());
                assert_eq!(owes, len == payload.len() && segment_size == 0, "{len} bytes");
            }
        }
    }
}
