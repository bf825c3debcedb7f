//! Where frames go: flooding and learning, split horizon, VLANs, and drops.

use std::collections::BTreeSet;

use packet::vlan::VlanId;
use packet::{Datagram, Headers};
use proptest::prelude::*;
use tunnel::entropy::{SOURCE_PORTS, source_port};
use tunnel::{FramingKind, Vni};
use vswitch::{DropReason, Encapsulation, PortId, PortVlan, VlanSet};

use crate::{between, mac, vlan};
use testkit::bridge::{Bridge, Write, port};
use testkit::frames::Spec;
use testkit::overlay::{ENDPOINT, MTU, Overlay, PEER, address, datagram, peer_port, places, plain_peer, vni};

/// One datagram in, from host 1 to host 0.
fn arrive(host: &mut Bridge, tos: u8, payload: &[u8]) -> Vec<Write> {
    arrive_from(host, 1, tos, payload)
}

fn arrive_from(host: &mut Bridge, from: usize, tos: u8, payload: &[u8]) -> Vec<Write> {
    let datagram = Datagram { from: address(from), tos, segment_size: 0, payload };
    host.receive(ENDPOINT, FramingKind::Vxlan, MTU, &[datagram])
}

fn broadcast(src: u8) -> Spec {
    Spec { dst: [0xff; 6], ..between(src, 0) }
}

#[test]
fn the_unknown_goes_to_all_and_the_known_to_one() {
    let mut overlay = Overlay::new(3);
    let question = between(1, 2).bytes();
    let writes = overlay.run(0, 0, std::slice::from_ref(&question));
    assert_eq!(places(&writes), [(0, 1), (1, 0), (1, 1), (2, 0), (2, 1)]);
    assert!(writes.iter().all(|(_, (_, _, frame))| *frame == question));
    assert_eq!(overlay.ways(), [(0, 1), (0, 2)]);
    let answer = between(2, 1).bytes();
    assert_eq!(places(&overlay.run(2, 1, std::slice::from_ref(&answer))), [(0, 0)]);
    assert_eq!(overlay.ways(), [(2, 0)]);
    assert_eq!(places(&overlay.run(0, 0, &[question])), [(2, 1)]);
    assert_eq!(overlay.ways(), [(0, 2)]);
    let counts = overlay.hosts[0].counts(PEER + 1);
    assert_eq!((counts.tx_frames.load(), counts.tx_writes.load(), counts.rx_frames.load()), (2, 2, 1));
}

/// As many messages as there are source ports among the flows, however many flows there are.
#[test]
fn flows_of_a_source_port_share_a_train() {
    let mut overlay = Overlay::new(2);
    let frames: Vec<_> = (0..64).map(|from| broadcast(from).bytes()).collect();
    let sources: BTreeSet<_> = frames.iter().map(|frame| source_port(&Headers::parse(frame).expect("a frame"), frame)).collect();
    assert!(sources.len() < frames.len() && sources.iter().all(|source| *source < SOURCE_PORTS));
    assert_eq!(overlay.run(0, 0, &frames).len(), 3 * frames.len());
    let counts = overlay.hosts[0].counts(PEER);
    assert_eq!((counts.tx_frames.load(), counts.tx_writes.load()), (64, sources.len() as u64));
}

#[test]
fn one_broadcast_is_one_copy_at_each_station() {
    for (host, ingress) in [(0, 0), (1, 1), (2, 0)] {
        let mut overlay = Overlay::new(3);
        let writes = overlay.run(host, ingress, &[broadcast(1).bytes()]);
        let everywhere = (0..3).flat_map(|host| [(host, 0), (host, 1)]);
        assert_eq!(places(&writes), everywhere.filter(|place| *place != (host, ingress)).collect::<Vec<_>>());
        let others = (0..3).filter(|other| *other != host).map(|other| (host, other));
        assert_eq!(overlay.ways(), others.collect::<Vec<_>>(), "once to each, and nothing comes back");
    }
}

#[test]
fn from_a_tunnel_never_into_one() {
    let mut overlay = Overlay::new(3);
    let host = &mut overlay.hosts[0];
    host.table.learn(VlanId::NONE, mac(9), PortId(PEER + 1), host.now);
    let known = datagram(vni(), &between(8, 9).bytes());
    assert!(arrive(host, 0, &known).is_empty());
    assert_eq!(host.counts(PEER).dropped(DropReason::SplitHorizon), 1);
    let back = datagram(vni(), &between(9, 8).bytes());
    assert!(arrive(host, 0, &back).is_empty());
    assert_eq!(host.counts(PEER).dropped(DropReason::SamePort), 1);
    for spec in [broadcast(7), between(7, 77)] {
        assert_eq!(arrive(host, 0, &datagram(vni(), &spec.bytes())).len(), 2, "to the links");
    }
    assert!(host.sent.is_empty());
}

#[test]
fn a_flood_from_a_tunnel_with_no_link_to_go_to_ends() {
    let mut overlay = Overlay::new(3);
    let host = &mut overlay.hosts[0];
    host.pipeline.set_port(PortId(0), None);
    host.pipeline.set_port(PortId(1), None);
    assert!(arrive(host, 0, &datagram(vni(), &broadcast(1).bytes())).is_empty());
    assert_eq!(host.counts(PEER).dropped(DropReason::NoDestination), 1);
    assert!(host.sent.is_empty());
}

#[test]
fn stations_are_learned_by_the_outer_source_and_move() {
    let mut overlay = Overlay::new(3);
    let frame = datagram(vni(), &broadcast(5).bytes());
    let find = |host: &Bridge| host.table.lookup(VlanId::NONE, mac(5), host.now);
    let host = &mut overlay.hosts[0];
    for (from, port) in [(1, PEER), (2, PEER + 1), (1, PEER)] {
        host.now = host.now.after(std::time::Duration::from_secs(10));
        arrive_from(host, from, 0, &frame);
        assert_eq!(find(host), Some(PortId(port)));
    }
    host.now = host.now.after(std::time::Duration::from_secs(10));
    host.run(1, &[broadcast(5).bytes()]);
    assert_eq!(find(host), Some(PortId(1)), "to a link of ours");
    assert_eq!(host.run(0, &[between(1, 5).bytes()])[0].0, PortId(1));
}

#[test]
fn without_learning_a_peer_says_nothing_and_static_entries_stay() {
    let mut overlay = Overlay::new(2);
    let host = &mut overlay.hosts[0];
    let quiet = Encapsulation { learns: false, ..Encapsulation::vxlan(vni()) };
    host.pipeline.set_port(PortId(PEER), Some(peer_port(PortVlan::default(), quiet)));
    arrive(host, 0, &datagram(vni(), &broadcast(5).bytes()));
    assert_eq!(host.table.lookup(VlanId::NONE, mac(5), host.now), None);
    host.table.add_static(VlanId::NONE, mac(6), PortId(PEER)).unwrap();
    host.run(0, &[broadcast(6).bytes()]);
    assert_eq!(host.table.lookup(VlanId::NONE, mac(6), host.now), Some(PortId(PEER)));
    host.sent.clear();
    assert!(host.run(1, &[between(1, 6).bytes()]).is_empty());
    assert_eq!(host.sent.len(), 1);
}

#[test]
fn who_is_not_flooded_gets_what_is_for_him_only() {
    let mut overlay = Overlay::new(3);
    let host = &mut overlay.hosts[0];
    let spared = Encapsulation { is_flooded: false, ..Encapsulation::vxlan(vni()) };
    host.pipeline.set_port(PortId(PEER), Some(peer_port(PortVlan::default(), spared)));
    host.table.add_static(VlanId::NONE, mac(6), PortId(PEER)).unwrap();
    for (spec, port) in [(broadcast(1), PEER + 1), (between(1, 6), PEER)] {
        host.run(0, &[spec.bytes()]);
        let ports: Vec<u16> = host.sent.drain(..).map(|sent| sent.outer.port).collect();
        assert_eq!(ports, [port]);
    }
}

/// VXLAN with the frame in it in UDP over IPv4, as a frame.
fn wrapped(frame: &[u8]) -> Vec<u8> {
    Spec { tcp: false, ports: (50_000, 4789), payload: datagram(vni(), frame), ..between(7, 8) }.bytes()
}

#[test]
fn each_drop_is_counted_where_it_belongs() {
    let frame = between(7, 8).bytes();
    let good = datagram(vni(), &frame);
    let stranger = datagram(Vni::new(1).unwrap(), &frame);
    let bad_flags = [&[0x0c], &good[1..]].concat();
    let cut_tag = datagram(vni(), &[&frame[..12], &[0x81, 0, 0]].concat());
    let group = datagram(vni(), &Spec { dst: [1, 0x80, 0xc2, 0, 0, 2], ..between(7, 8) }.bytes());
    let nested = datagram(vni(), &wrapped(&wrapped(&frame)));
    let cases = [
        (DropReason::TunnelTruncated, ENDPOINT, 1, vec![]),
        (DropReason::TunnelTruncated, ENDPOINT, 1, good[..7].to_vec()),
        (DropReason::TunnelTruncated, ENDPOINT, 1, good[..21].to_vec()),
        (DropReason::TunnelTruncated, ENDPOINT, 1, cut_tag),
        (DropReason::TunnelBadFlags, ENDPOINT, 1, bad_flags),
        (DropReason::TunnelUnknownVni, ENDPOINT, 1, stranger),
        (DropReason::TunnelUnknownPeer, ENDPOINT, 2, good.clone()),
        (DropReason::TunnelNested, PEER, 1, nested),
        (DropReason::LinkLocal, PEER, 1, group),
    ];
    for (reason, port, from, payload) in cases {
        let mut overlay = Overlay::new(2);
        let host = &mut overlay.hosts[0];
        assert!(arrive_from(host, from, 0, &payload).is_empty(), "{}", reason.name());
        assert_eq!((host.dropped(reason), host.counts(port).dropped(reason)), (1, 1), "{}", reason.name());
        assert_eq!(host.counts(port).rx_frames.load(), 1, "{}", reason.name());
        let found = host.table.lookup(VlanId::NONE, mac(7), host.now);
        assert_eq!(found.is_some(), reason == DropReason::LinkLocal, "{}: nothing is learned from it", reason.name());
    }
    let mut overlay = Overlay::new(2);
    assert_eq!(arrive(&mut overlay.hosts[0], 0, &datagram(vni(), &wrapped(&frame))).len(), 2, "a guest's own tunnel");
    overlay.hosts[0].pipeline.set_receiving_socket(PortId(ENDPOINT), None);
    assert!(arrive(&mut overlay.hosts[0], 0, &good).is_empty());
    assert_eq!(overlay.hosts[0].counts(ENDPOINT).dropped(DropReason::PortGone), 1);
}

#[test]
fn what_is_for_our_own_socket_does_not_come_out_of_it() {
    let mut overlay = Overlay::new(2);
    let mut inner = wrapped(&between(7, 8).bytes());
    inner[30..34].copy_from_slice(&[192, 0, 2, 1]);
    let host = &mut overlay.hosts[0];
    assert!(arrive(host, 0, &datagram(vni(), &inner)).is_empty());
    assert_eq!(host.counts(PEER).dropped(DropReason::TunnelNested), 1);
}

/// RFC 6040 figure 4.
#[test]
fn congestion_marks_of_all_kinds() {
    const NOT_ECT: u8 = 0;
    const ECT_1: u8 = 1;
    const ECT_0: u8 = 2;
    const CE: u8 = 3;
    let table = [
        (NOT_ECT, [Some(NOT_ECT), Some(NOT_ECT), Some(NOT_ECT), None]),
        (ECT_1, [Some(ECT_1), Some(ECT_1), Some(ECT_1), Some(CE)]),
        (ECT_0, [Some(ECT_0), Some(ECT_1), Some(ECT_0), Some(CE)]),
        (CE, [Some(CE); 4]),
    ];
    for (v6, (inner, expected)) in [false, true].into_iter().flat_map(|v6| table.map(|row| (v6, row))) {
        for (outer, expected) in [NOT_ECT, ECT_1, ECT_0, CE].into_iter().zip(expected) {
            let mut overlay = Overlay::new(2);
            let host = &mut overlay.hosts[0];
            let spec = |mark| Spec { v6, traffic_class: 0xb8 | mark, ..between(7, 8) };
            let writes = arrive(host, 0x20 | outer, &datagram(vni(), &spec(inner).bytes()));
            let frames: Vec<_> = writes.into_iter().map(|(_, _, frame)| frame).collect();
            assert_eq!(frames, expected.map_or(vec![], |mark| vec![spec(mark).bytes(); 2]), "{outer} around {inner}");
            assert_eq!(host.counts(PEER).dropped(DropReason::TunnelEcn), u64::from(expected.is_none()));
        }
        let mut overlay = Overlay::new(2);
        overlay.run(0, 0, &[Spec { v6, traffic_class: 0xb8 | inner, ..between(7, 8) }.bytes()]);
        assert_eq!(overlay.log[0].sent.outer.tos, [NOT_ECT, ECT_1, ECT_0, ECT_0][usize::from(inner)]);
    }
    let mut overlay = Overlay::new(2);
    let arp = [&[0xff; 6][..], &mac(7).0, &[8, 6], &[0; 46]].concat();
    assert_eq!(arrive(&mut overlay.hosts[0], CE, &datagram(vni(), &arp)).len(), 2, "what is not IP hears no marks");
}

#[test]
fn the_outer_header_is_the_configured_or_the_inner_one() {
    let inherit = Encapsulation { tos: None, ttl: None, dont_fragment: None, ..Encapsulation::vxlan(vni()) };
    let fixed = Encapsulation { tos: Some(0x48), ttl: Some(7), dont_fragment: Some(false), ..inherit };
    let spec = |v6| Spec { v6, traffic_class: 0xba, ttl: 33, ..between(1, 9) };
    let mut may_be_cut = spec(false).bytes();
    may_be_cut[20] = 0;
    let arp = [&[0xff; 6][..], &mac(7).0, &[8, 6], &[0; 46]].concat();
    let cases = [
        (inherit, spec(false).bytes(), (0xba, 33, true)),
        (inherit, may_be_cut, (0xba, 33, false)),
        (inherit, spec(true).bytes(), (0xba, 33, true)),
        (inherit, arp.clone(), (0, 64, true)),
        (inherit, Spec { ttl: 0, ..spec(true) }.bytes(), (0xba, 1, true)),
        (fixed, spec(true).bytes(), (0x4a, 7, false)),
        (fixed, arp, (0x48, 7, false)),
    ];
    for (encapsulation, frame, expected) in cases {
        let mut overlay = Overlay::new(2);
        overlay.hosts[0].pipeline.set_port(PortId(PEER), Some(peer_port(PortVlan::default(), encapsulation)));
        overlay.run(0, 0, &[frame]);
        let way = overlay.log[0].sent.outer;
        assert_eq!((way.tos, way.ttl, way.dont_fragment), expected);
    }
}

#[test]
fn an_access_port_maps_a_vlan_to_a_network() {
    let access = || peer_port(PortVlan::access(vlan(10)), Encapsulation::vxlan(vni()));
    let links = |host| match host {
        0 => [port(PortVlan::default()), port(PortVlan::access(vlan(20)))],
        _ => [port(PortVlan::access(vlan(10))), port(PortVlan::access(vlan(20)))],
    };
    let mut overlay = Overlay::with(2, links, |_, _| access());
    let tagged = |id| Spec { tags: vec![(0x8100, id)], ..between(1, 9) }.bytes();
    let writes = overlay.run(0, 0, &[tagged(10)]);
    assert_eq!(places(&writes), [(1, 0)]);
    assert_eq!(writes[0].1.2, between(1, 9).bytes());
    assert_eq!(overlay.log[0].sent.datagrams, [datagram(vni(), &between(1, 9).bytes())], "no tag inside");
    assert_eq!(places(&overlay.run(0, 0, &[tagged(20)])), [(0, 1)], "the other VLAN stays");
    let back = overlay.run(1, 0, &[between(9, 1).bytes()]);
    assert_eq!((places(&back), back[0].1.2.clone()), (vec![(0, 0)], Spec { tags: vec![(0x8100, 10)], ..between(9, 1) }.bytes()));
    let host = &mut overlay.hosts[1];
    let refused = datagram(vni(), &tagged(20));
    assert!(
        host.receive(
            ENDPOINT,
            FramingKind::Vxlan,
            MTU,
            &[Datagram { from: address(0), tos: 0, segment_size: 0, payload: &refused }]
        )
        .is_empty()
    );
    assert_eq!(host.counts(PEER).dropped(DropReason::VlanNotAllowed), 1);
}

#[test]
fn a_trunk_carries_tags_inside() {
    let links = |_| [port(PortVlan::access(vlan(10))), port(PortVlan::access(vlan(20)))];
    let trunk = || peer_port(PortVlan::trunk(VlanSet::from_iter([vlan(10), vlan(20)])), Encapsulation::vxlan(vni()));
    let mut overlay = Overlay::with(2, links, |_, _| trunk());
    for (ingress, id) in [(0, 10), (1, 20)] {
        let writes = overlay.run(0, ingress, &[between(1, 9).bytes()]);
        assert_eq!(places(&writes), [(1, ingress)]);
        assert_eq!(writes[0].1.2, between(1, 9).bytes());
        let inside = Spec { tags: vec![(0x8100, id)], ..between(1, 9) }.bytes();
        assert_eq!(std::mem::take(&mut overlay.log)[0].sent.datagrams, [datagram(vni(), &inside)]);
    }
}

#[test]
fn two_networks_of_one_peer_are_kept_apart() {
    let other = Vni::new(77).unwrap();
    let network = |vlan, vni| peer_port(PortVlan::access(vlan), Encapsulation::vxlan(vni));
    let links = || [port(PortVlan::access(vlan(10))), port(PortVlan::access(vlan(20)))];
    let peers = vec![(network(vlan(10), vni()), address(1)), (network(vlan(20), other), address(1))];
    let mut host = testkit::overlay::host_with(links(), peers, address(0));
    for (vni, port) in [(vni(), 0), (other, 1)] {
        let writes = arrive(&mut host, 0, &datagram(vni, &broadcast(5).bytes()));
        assert_eq!(writes.iter().map(|(port, ..)| port.0).collect::<Vec<_>>(), [port]);
    }
    host.run(1, &[between(1, 5).bytes()]);
    assert_eq!((host.sent.len(), host.sent[0].outer.port), (1, PEER + 1));
    assert_eq!(host.sent[0].datagrams, [datagram(other, &between(1, 5).bytes())]);
}

/// Datagrams of several hosts and networks come in one batch, and each is its own peer's.
#[test]
fn who_sent_what_is_told_apart_within_a_batch() {
    let mut overlay = Overlay::new(3);
    let host = &mut overlay.hosts[0];
    let frame = |n| between(n, 99).bytes();
    let stranger = Vni::new(1).unwrap();
    let arrived = [(1, vni(), 11), (2, vni(), 12), (1, vni(), 13), (1, stranger, 14), (1, vni(), 15), (9, vni(), 16)];
    let payloads = arrived.map(|(from, vni, n)| (from, datagram(vni, &frame(n))));
    let all = payloads.each_ref().map(|(from, payload)| Datagram { from: address(*from), tos: 0, segment_size: 0, payload });
    assert_eq!(host.receive(ENDPOINT, FramingKind::Vxlan, MTU, &all).len(), 2 * 4);
    let learned = (11..=16).map(|n| host.table.lookup(VlanId::NONE, mac(n), host.now).map(|port| port.0));
    assert_eq!(learned.collect::<Vec<_>>(), [Some(PEER), Some(PEER + 1), Some(PEER), None, Some(PEER), None]);
    let counts = host.counts(ENDPOINT);
    assert_eq!((counts.dropped(DropReason::TunnelUnknownVni), counts.dropped(DropReason::TunnelUnknownPeer)), (1, 1));
}

proptest! {
    /// Whoever talks to whoever: nothing goes back, nothing goes out twice, and what goes out is what came in.
    #[test]
    fn frames_go_out_once_and_never_back(hosts in prop::collection::vec((0u8..8, 0u8..8, 0usize..3, 0u16..2), 1..40)) {
        let mut overlay = Overlay::with(3, |_| [port(PortVlan::default()), port(PortVlan::default())], |_, _| plain_peer());
        for (src, dst, host, ingress) in hosts {
            let frame = between(src, dst).bytes();
            let writes = overlay.run(host, ingress, std::slice::from_ref(&frame));
            let mut places = places(&writes);
            places.dedup();
            prop_assert_eq!(places.len(), writes.len());
            prop_assert!(!places.contains(&(host, ingress)));
            prop_assert!(writes.iter().all(|(_, (_, _, written))| *written == frame));
            prop_assert!(overlay.ways().iter().all(|(from, _)| *from == host));
        }
    }
}
