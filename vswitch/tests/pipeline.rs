//! The pipeline from batch to writes: flooding, drops, offloads. The books balance after every batch.

use std::sync::Arc;

use packet::vlan::VlanId;
use packet::{Features, VNET_LEN, VnetHeader};
use proptest::prelude::*;
use testkit::bridge;
use testkit::bridge::{Bridge, port};
use testkit::frames::{Spec, noise};
use testkit::packets::{ACK, PSH};
use testkit::wire::on_the_wire;
use vswitch::{Coalesce, DropReason, Live, PortId, PortVlan, SendError, VlanSet, Watch};

fn mac(n: u8) -> [u8; 6] {
    [2, 0, 0, 0, 0, n]
}

/// A frame between two stations.
fn between(src: u8, dst: u8) -> Spec {
    Spec { src: mac(src), dst: mac(dst), ..Spec::default() }
}

fn vlan(id: u16) -> VlanId {
    VlanId::new(id).unwrap()
}

/// Makes station n known behind port n.
fn introduce(bridge: &mut Bridge, stations: std::ops::Range<u8>) {
    for n in stations {
        bridge.table.learn(VlanId::NONE, packet::MacAddr(mac(n)), PortId(u16::from(n)), bridge.now);
    }
}

fn wire(vnet: VnetHeader, frame: &[u8]) -> Vec<Vec<u8>> {
    on_the_wire(&[&vnet.to_bytes()[..], frame].concat())
}

/// Frames of one TCP stream from station 0 to station 1.
fn stream(count: usize) -> Vec<Vec<u8>> {
    let next = |n: usize| Spec { id: n as u16 + 1, sequence: n as u32 * 1000, payload: noise(n as u64, 1000), ..between(0, 1) };
    (0..count).map(|n| next(n).bytes()).collect()
}

#[test]
fn the_unknown_is_flooded_and_the_answer_is_not() {
    let mut bridge = Bridge::open(4);
    let frame = between(1, 2).bytes();
    let ports = |writes: Vec<bridge::Write>| writes.into_iter().map(|(port, ..)| port.0).collect::<Vec<_>>();
    assert_eq!(ports(bridge.run(1, std::slice::from_ref(&frame))), [0, 2, 3]);
    assert_eq!(bridge.counts(1).copies.load(), 2);
    assert_eq!(ports(bridge.run(2, &[between(2, 1).bytes()])), [1]);
    assert_eq!(ports(bridge.run(1, &[frame])), [2]);
    assert_eq!(bridge.counts(1).copies.load(), 2);
}

proptest! {
    /// Nothing goes back, nothing goes out twice, and what goes out is what came in.
    #[test]
    fn frames_never_go_back(hosts in prop::collection::vec((0u8..8, 0u8..8, 0u16..4), 1..64)) {
        let mut bridge = Bridge::open(4);
        for (src, dst, ingress) in hosts {
            let frame = between(src, dst).bytes();
            let writes = bridge.run(ingress, std::slice::from_ref(&frame));
            let mut ports: Vec<u16> = writes.iter().map(|(port, ..)| port.0).collect();
            ports.dedup();
            prop_assert_eq!(ports.len(), writes.len());
            prop_assert!(!ports.contains(&ingress));
            prop_assert!(writes.iter().all(|(_, _, written)| *written == frame));
        }
    }
}

#[test]
fn link_local_groups_are_not_forwarded() {
    for last in 0..=0x10 {
        let mut bridge = Bridge::open(3);
        let frame = Spec { dst: [0x01, 0x80, 0xc2, 0, 0, last], ..Spec::default() }.bytes();
        let forwarded = bridge.run(0, &[frame]).len();
        assert_eq!(forwarded, if last < 0x10 { 0 } else { 2 });
        assert_eq!(bridge.dropped(DropReason::LinkLocal), u64::from(last < 0x10));
    }
}

#[test]
fn each_reason_to_drop() {
    let plain = |frame: Vec<u8>| (VnetHeader::default(), frame);
    let tagged = |id| plain(Spec { tags: vec![(0x8100, id)], ..between(0, 1) }.bytes());
    let (vnet, super_frame) = Spec { payload: noise(1, 3000), ..between(0, 1) }.super_frame(1000);
    let cases = [
        (DropReason::Runt, 0, plain(vec![2; 13])),
        (DropReason::Runt, 0, plain(vec![])),
        (DropReason::TruncatedTag, 0, plain([&[2; 12][..], &[0x81, 0, 0]].concat())),
        (DropReason::BadVnetHeader, 0, (VnetHeader { gso_type: 4, ..vnet }, super_frame.clone())),
        (DropReason::BadVnetHeader, 0, (VnetHeader { gso_size: 0, ..vnet }, super_frame.clone())),
        (DropReason::BadVnetHeader, 0, (VnetHeader { flags: 1, csum_start: 4000, ..VnetHeader::default() }, super_frame.clone())),
        (DropReason::LinkLocal, 0, plain(Spec { dst: [1, 0x80, 0xc2, 0, 0, 2], ..between(0, 1) }.bytes())),
        (DropReason::VlanNotAllowed, 2, tagged(10)),
        (DropReason::SamePort, 1, plain(between(3, 1).bytes())),
        (DropReason::NoDestination, 0, tagged(99)),
        (DropReason::VlanNotCarried, 0, tagged(20)),
        (DropReason::TooLong, 0, plain(Spec { payload: noise(1, 1600), ..between(0, 1) }.bytes())),
        (DropReason::TooLong, 0, (VnetHeader { gso_size: 1480, ..vnet }, super_frame)),
        (DropReason::PortGone, 4, plain(between(4, 1).bytes())),
        (DropReason::PortGone, 0, plain(between(0, 4).bytes())),
    ];
    for (reason, ingress, (vnet, frame)) in cases {
        let trunk = || port(PortVlan::trunk(VlanSet::from_iter([VlanId::NONE, vlan(10)])));
        let mut bridge = Bridge::new([port(PortVlan::default()), trunk(), port(PortVlan::access(vlan(10))), trunk(), trunk()]);
        introduce(&mut bridge, 1..2);
        introduce(&mut bridge, 4..5);
        bridge.pipeline.set_port(PortId(4), None);
        // In VLAN 20 the station is where no port carries the VLAN any more.
        bridge.table.learn(vlan(20), packet::MacAddr(mac(1)), PortId(1), bridge.now);
        let writes = bridge.run_with(ingress, &[(vnet, frame)], |_, _, _| Ok(()));
        assert_eq!((writes.len(), bridge.dropped(reason)), (0, 1), "{}", reason.name());
        assert_eq!(bridge.counts(ingress).dropped(reason), 1, "{}: on the port it came from", reason.name());
        assert_eq!((bridge.counts(ingress).rx_frames.load(), bridge.counts(ingress).copies.load()), (1, 0));
    }
}

#[test]
fn the_longest_frames_pass() {
    let mut bridge = Bridge::open(2);
    introduce(&mut bridge, 1..2);
    let payload = 1500 - 20 - 32;
    let of = |tags: Vec<(u16, u16)>, more: usize| Spec { tags, payload: noise(1, payload + more), ..between(0, 1) }.bytes();
    assert_eq!(bridge.run(0, &[of(vec![], 0)]).len(), 1);
    assert_eq!(bridge.run(0, &[of(vec![], 1)]).len(), 0);
    bridge.table.learn(vlan(5), packet::MacAddr(mac(1)), PortId(1), bridge.now);
    for tags in 1..=2 {
        assert_eq!(bridge.run(0, &[of(vec![(0x8100, 5); tags], 0)]).len(), 1, "tags do not count");
        assert_eq!(bridge.run(0, &[of(vec![(0x8100, 5); tags], 1)]).len(), 0);
    }
    let (vnet, frame) = Spec { payload: noise(1, 10_000), ..between(0, 1) }.super_frame(payload as u16);
    assert_eq!(bridge.run_with(0, &[(vnet, frame)], |_, _, _| Ok(())).len(), 1, "segments count, not super-frames");
    assert_eq!(bridge.dropped(DropReason::TooLong), 3);
}

#[test]
fn too_long_for_some_ports_of_a_flood() {
    let mut bridge = Bridge::open(4);
    bridge.port(2).mtu = 576;
    let writes = bridge.run(0, &[Spec { payload: noise(1, 1000), ..between(0, 9) }.bytes()]);
    assert_eq!(writes.iter().map(|(port, ..)| port.0).collect::<Vec<_>>(), [1, 3]);
    assert_eq!((bridge.dropped(DropReason::TooLong), bridge.counts(0).copies.load()), (1, 2));
}

#[test]
fn super_frames_pass_whole_with_their_header() {
    for (v6, tcp) in [(false, true), (true, true), (false, false), (true, false)] {
        for flags in [ACK, ACK | PSH | 0x80] {
            let mut bridge = Bridge::open(2);
            introduce(&mut bridge, 1..2);
            let (vnet, frame) = Spec { v6, tcp, flags, payload: noise(1, 40_000), ..between(0, 1) }.super_frame(1400);
            let writes = bridge.run_with(0, &[(vnet, frame.clone())], |_, _, _| Ok(()));
            assert_eq!(writes, [(PortId(1), vnet, frame)]);
            assert_eq!((bridge.counts(1).tx_frames.load(), bridge.counts(1).tx_writes.load()), (1, 1));
        }
    }
}

#[test]
fn super_frames_are_cut_where_the_port_takes_none() {
    for (v6, tcp) in [(false, true), (true, true), (false, false), (true, false)] {
        let mut bridge = Bridge::open(2);
        introduce(&mut bridge, 1..2);
        bridge.port(1).features = Features::NONE;
        let (vnet, frame) = Spec { v6, tcp, payload: noise(1, 40_000), ..between(0, 1) }.super_frame(1400);
        let writes = bridge.run_with(0, &[(vnet, frame.clone())], |_, _, _| Ok(()));
        let written: Vec<Vec<u8>> = writes
            .into_iter()
            .map(|(_, vnet, frame)| {
                assert_eq!(vnet, VnetHeader::default());
                frame
            })
            .collect();
        assert_eq!(written, wire(vnet, &frame));
        let counts = bridge.counts(1);
        assert_eq!((counts.tx_frames.load(), counts.tx_writes.load(), counts.offload_refused.load()), (1, 29, 0));
    }
}

#[test]
fn a_missing_feature_cuts_its_kind_only() {
    let kinds = [(false, true, 0), (true, true, 1), (false, false, 2), (true, false, 2)];
    for missing in 0..3 {
        let mut features = Features::ALL;
        *[&mut features.tso4, &mut features.tso6, &mut features.uso][missing] = false;
        for (v6, tcp, feature) in kinds {
            let mut bridge = Bridge::open(2);
            introduce(&mut bridge, 1..2);
            bridge.port(1).features = features;
            let (vnet, frame) = Spec { v6, tcp, payload: noise(1, 4000), ..between(0, 1) }.super_frame(1000);
            let writes = bridge.run_with(0, &[(vnet, frame)], |_, _, _| Ok(()));
            assert_eq!(writes.len(), if feature == missing { 4 } else { 1 });
        }
    }
    let mut bridge = Bridge::open(2);
    introduce(&mut bridge, 1..2);
    bridge.port(1).features.tso_ecn = false;
    let (vnet, frame) = Spec { flags: ACK | 0x80, payload: noise(1, 4000), ..between(0, 1) }.super_frame(1000);
    assert_eq!(bridge.run_with(0, &[(vnet, frame)], |_, _, _| Ok(())).len(), 4);
}

#[test]
fn a_partial_checksum_is_finished_where_the_port_takes_none() {
    for (checksum, tags) in [(true, 0), (false, 0), (true, 1), (false, 1)] {
        let native = || port(PortVlan::native_untagged(vlan(7), VlanSet::all()));
        let mut bridge = Bridge::new([native(), port(PortVlan::trunk(VlanSet::all()))]);
        bridge.port(1).features.checksum = checksum;
        let mut spec = between(0, 1);
        let (vnet, frame) = spec.partial();
        let mut pushed = vnet;
        if tags == 1 {
            pushed.csum_start += 4;
            spec.tags = vec![(0x8100, 7)];
        } else {
            bridge.port(0).vlan = PortVlan::default();
        }
        let writes = bridge.run_with(0, &[(vnet, frame)], |_, _, _| Ok(()));
        let expected = if checksum { (pushed, spec.partial().1) } else { (VnetHeader::default(), spec.bytes()) };
        assert_eq!(writes, [(PortId(1), expected.0, expected.1)]);
    }
}

/// Stale bytes of a stranger's header do not get through (reliability 3.1 row 5).
#[test]
fn what_a_header_does_not_say_is_zero() {
    let mut bridge = Bridge::open(2);
    let vnet =
        VnetHeader { flags: 0xf8, hdr_len: 0xa5a5, gso_size: 0xa5a5, csum_start: 0xa5a5, csum_offset: 0xa5a5, gso_type: 0 };
    let writes = bridge.run_with(0, &[(vnet, between(0, 1).bytes())], |_, _, _| Ok(()));
    assert_eq!(writes[0].1.to_bytes(), [0; VNET_LEN]);
}

#[test]
fn coalescing_is_up_to_the_port() {
    let mut bridge = Bridge::open(3);
    bridge.port(1).coalesce = Coalesce::Flows;
    bridge.port(2).coalesce = Coalesce::Off;
    let frames = stream(10);
    let writes = bridge.run(0, &frames);
    let (merged, plain): (Vec<_>, Vec<_>) = writes.into_iter().partition(|(port, ..)| port.0 == 1);
    assert_eq!(merged.len(), 1);
    assert_eq!((merged[0].1.gso_type, merged[0].1.gso_size), (1, 1000));
    assert_eq!(wire(merged[0].1, &merged[0].2), frames);
    assert_eq!(plain.into_iter().map(|(_, _, frame)| frame).collect::<Vec<_>>(), frames);
    assert_eq!((bridge.counts(1).tx_frames.load(), bridge.counts(1).tx_writes.load()), (10, 1));
    assert_eq!((bridge.counts(2).tx_frames.load(), bridge.counts(2).tx_writes.load()), (10, 10));
    assert_eq!(bridge.counts(1).tx_bytes.load(), bridge.counts(2).tx_bytes.load());
}

#[test]
fn a_coalesced_run_gets_its_tag() {
    let mut bridge = Bridge::new([port(PortVlan::access(vlan(7))), port(PortVlan::trunk(VlanSet::all()))]);
    bridge.port(1).coalesce = Coalesce::Flows;
    let writes = bridge.run(0, &stream(5));
    assert_eq!(writes.len(), 1);
    let tagged = |frame: &Vec<u8>| [&frame[..12], &[0x81, 0, 0, 7], &frame[12..]].concat();
    assert_eq!(wire(writes[0].1, &writes[0].2), stream(5).iter().map(tagged).collect::<Vec<_>>());
}

/// Refuses super-frames as some kernels do.
fn refuse(_: PortId, vnet: VnetHeader, _: &[u8]) -> Result<(), SendError> {
    if vnet.gso_type == 0 { Ok(()) } else { Err(SendError::Invalid) }
}

#[test]
fn a_refused_super_frame_leaves_in_segments_and_after_16_none_is_tried() {
    let mut bridge = Bridge::open(2);
    introduce(&mut bridge, 1..2);
    let super_frame = Spec { payload: noise(1, 4000), ..between(0, 1) }.super_frame(1000);
    for n in 1..=20u64 {
        let mut tried = 0;
        let writes = bridge.run_with(0, std::slice::from_ref(&super_frame), |port, vnet, frame| {
            tried += u64::from(vnet.gso_type != 0);
            refuse(port, vnet, frame)
        });
        assert_eq!(writes.into_iter().map(|(_, _, frame)| frame).collect::<Vec<_>>(), wire(super_frame.0, &super_frame.1));
        assert_eq!(tried, u64::from(n <= 16));
        assert_eq!(bridge.counts(1).offload_refused.load(), n.min(16));
    }
    assert!(bridge.port(1).features.checksum, "checksums it did take");
    assert_eq!(bridge.counts(1).tx_frames.load(), 20);
}

#[test]
fn a_refused_run_leaves_frame_by_frame_and_counts_once() {
    let mut bridge = Bridge::open(2);
    introduce(&mut bridge, 1..2);
    bridge.port(1).coalesce = Coalesce::Flows;
    for n in 1..=20u64 {
        let frames: Vec<_> = stream(40).into_iter().map(|frame| (VnetHeader::default(), frame)).collect();
        let mut tried = 0;
        let writes = bridge.run_with(0, &frames, |port, vnet, frame| {
            tried += u64::from(vnet.gso_type != 0);
            refuse(port, vnet, frame)
        });
        assert_eq!(writes.into_iter().map(|(_, _, frame)| frame).collect::<Vec<_>>(), stream(40));
        assert_eq!(tried, u64::from(n <= 16), "round {n}");
        assert_eq!(bridge.counts(1).offload_refused.load(), n.min(16), "one super-frame was refused");
    }
    assert_eq!(bridge.counts(1).tx_frames.load(), 20 * 40);
}

#[test]
fn a_port_that_is_set_anew_is_tried_anew() {
    let mut bridge = Bridge::open(2);
    introduce(&mut bridge, 1..2);
    let super_frame = Spec { payload: noise(1, 4000), ..between(0, 1) }.super_frame(1000);
    for _ in 0..16 {
        bridge.run_with(0, std::slice::from_ref(&super_frame), refuse);
    }
    assert!(!bridge.port(1).features.tso4);
    bridge.pipeline.set_port(PortId(1), Some(port(PortVlan::default())));
    bridge.run_with(0, std::slice::from_ref(&super_frame), refuse);
    assert!(bridge.port(1).features.tso4);
}

#[test]
fn what_the_kernel_does_not_take_is_counted_on_the_port_out() {
    let reasons = [DropReason::PortDown, DropReason::PortGone, DropReason::QueueFull, DropReason::WriteFailed];
    for (coalesce, reason) in reasons.into_iter().flat_map(|reason| [(Coalesce::Off, reason), (Coalesce::Flows, reason)]) {
        let mut bridge = Bridge::open(3);
        bridge.port(1).coalesce = coalesce;
        let frames: Vec<_> = stream(8).into_iter().map(|frame| (VnetHeader::default(), frame)).collect();
        let writes = bridge.run_with(0, &frames, |port, _, _| if port.0 == 1 { Err(SendError::Drop(reason)) } else { Ok(()) });
        assert_eq!((writes.len(), bridge.counts(1).dropped(reason), bridge.counts(1).tx_frames.load()), (8, 8, 0));
    }
}

/// Plain frames that the kernel calls invalid are lost, and nothing else is tried.
#[test]
fn an_invalid_plain_frame_is_dropped() {
    let mut bridge = Bridge::open(2);
    let mut tries = 0;
    bridge.run_with(0, &[(VnetHeader::default(), between(0, 1).bytes())], |_, _, _| {
        tries += 1;
        Err(SendError::Invalid)
    });
    assert_eq!((tries, bridge.dropped(DropReason::WriteFailed), bridge.counts(1).offload_refused.load()), (1, 1, 0));
}

/// A trace's filter sees the VLAN that the port puts an untagged frame in, as a capture's does.
#[test]
fn the_filter_of_a_trace_sees_the_vlan_of_the_port() {
    let mut bridge = Bridge::new([port(PortVlan::access(vlan(10))), port(PortVlan::access(vlan(20)))]);
    let live = Arc::new(Live::new(10, None, "vlan 10".parse().ok()));
    bridge.pipeline.set_watch(Some(Box::new(Watch::new([Arc::clone(&live)]))));
    bridge.run(0, &[between(0, 1).bytes()]);
    bridge.run(1, &[between(1, 0).bytes()]);
    assert_eq!(live.remaining(), 9);
}
