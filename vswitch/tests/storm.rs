//! Storm control in the pipeline: which frames count, and which are never lost to it.

use std::net::SocketAddrV4;
use std::time::Duration;

use packet::MacAddr;
use packet::vlan::VlanId;
use testkit::bridge::{Bridge, port};
use testkit::frames::{Spec, noise};
use testkit::lab::{GATEWAY, GATEWAY_MAC, Lab, PEER, UPLINK_PORT, ethernet, guest, mac, request};
use testkit::packets::{self, put};
use vswitch::{DropReason, Port, PortId, PortKind, PortVlan, StormLimits};

const LIMITS: StormLimits = StormLimits { broadcast: Some(1000), multicast: Some(10_000), unknown: Some(10_000) };
const GROUP: MacAddr = MacAddr([1, 0, 0x5e, 0, 0, 1]);

/// Four ports, of which this many have limits.
fn bridge(limited: usize) -> Bridge {
    let limits = |at: usize| if at < limited { LIMITS } else { StormLimits::NONE };
    Bridge::new((0..4).map(|at| Port { limits: limits(at), ..port(PortVlan::default()) }))
}

fn frame(dst: MacAddr) -> Vec<u8> {
    ethernet(dst, mac(1), &[0; 46])
}

/// Sends this number of frames into port 0 evenly within a second. Returns the number of writes.
fn send(bridge: &mut Bridge, frames: u64, dst: MacAddr) -> usize {
    let began = bridge.now;
    let mut writes = 0;
    for at in 0..frames {
        bridge.now = began.after(Duration::from_micros(1_000_000 * at / frames));
        writes += bridge.run(0, &[frame(dst)]).len();
    }
    bridge.now = began.after(Duration::from_secs(1));
    writes
}

#[test]
fn each_class_has_its_limit_before_it_is_copied() {
    for (dst, rate, reason) in [
        (MacAddr::BROADCAST, 1000, DropReason::StormBroadcast),
        (GROUP, 10_000, DropReason::StormMulticast),
        (mac(9), 10_000, DropReason::StormUnknown),
    ] {
        let mut bridge = bridge(1);
        // The burst is gone.
        send(&mut bridge, 3 * rate, dst);
        let (copies, dropped) = (bridge.counts(0).copies.load(), bridge.dropped(reason));
        assert_eq!(send(&mut bridge, 2 * rate, dst) as u64, 3 * rate, "{reason:?}");
        assert_eq!((bridge.counts(0).copies.load() - copies, bridge.dropped(reason) - dropped), (2 * rate, rate));
        assert_eq!(bridge.counts(0).dropped(reason), bridge.dropped(reason), "counted at the ingress port");
    }
}

/// A guest on a socket could reconnect 64 times a second.
#[test]
fn a_guest_that_reconnects_gets_no_new_burst() {
    let mut bridge = bridge(1);
    while !bridge.run(0, &[frame(MacAddr::BROADCAST)]).is_empty() {}
    for _ in 0..64 {
        let guest = bridge.port(0).clone();
        bridge.pipeline.set_port(PortId(0), None);
        bridge.pipeline.set_port(PortId(0), Some(guest));
        assert_eq!(bridge.run(0, &[frame(MacAddr::BROADCAST)]).len(), 0);
    }
}

#[test]
fn honest_guests_lose_nothing() {
    let mut bridge = bridge(4);
    for _ in 0..3 {
        assert_eq!(send(&mut bridge, 500, MacAddr::BROADCAST), 1500);
        assert_eq!(send(&mut bridge, 5000, GROUP), 15_000);
    }
    assert_eq!(bridge.drops(), []);
}

#[test]
fn known_stations_and_ports_without_limits_have_none() {
    let mut bridge = bridge(1);
    bridge.table.learn(VlanId::NONE, mac(9), PortId(3), bridge.now);
    let frames = vec![frame(mac(9)); 50];
    assert_eq!((0..1000).map(|_| bridge.run(0, &frames).len()).sum::<usize>(), 50_000);
    let mut bridge = self::bridge(0);
    let frames = vec![frame(MacAddr::BROADCAST); 50];
    assert_eq!((0..1000).map(|_| bridge.run(0, &frames).len()).sum::<usize>(), 150_000);
}

#[test]
fn a_super_frame_counts_as_its_segments() {
    let mut bridge = bridge(1);
    let spec = Spec { src: mac(1).0, dst: GROUP.0, payload: noise(1, 50_000), ..Spec::default() };
    let frames = [spec.super_frame(1000)];
    let sent: usize = (0..1000).map(|_| bridge.run_with(0, &frames, |_, _, _| Ok(())).len()).sum();
    assert_eq!(sent, 2000 / 50 * 3);
    assert_eq!(bridge.dropped(DropReason::StormMulticast), 960);
}

#[test]
fn limits_change_while_frames_flow() {
    let mut bridge = bridge(1);
    let passes = |bridge: &mut Bridge| !bridge.run(0, &[frame(MacAddr::BROADCAST)]).is_empty();
    while passes(&mut bridge) {}
    let with = |limits| Some(Port { limits, ..port(PortVlan::default()) });
    bridge.pipeline.set_port(PortId(0), with(LIMITS));
    assert!(!passes(&mut bridge), "a change of something else");
    bridge.pipeline.set_port(PortId(0), with(StormLimits { broadcast: None, ..LIMITS }));
    assert!(passes(&mut bridge));
}

/// The router takes ARP for its address before anything is flooded, and asks without a limit.
#[test]
fn the_gateway_has_no_limit() {
    let mut lab = Lab::ready();
    let none = StormLimits { broadcast: Some(0), multicast: Some(0), unknown: Some(0) };
    for id in [0, 1] {
        lab.bridge.pipeline.set_port(PortId(id), Some(Port { limits: none, ..port(PortVlan::default()) }));
    }
    assert_eq!(lab.run(0, &[request(mac(2), guest(2), GATEWAY)]).len(), 1);
    let unknown = packets::udp(SocketAddrV4::new(guest(2), 4000), SocketAddrV4::new(guest(77), 53), b"abc");
    let asked = lab.run(0, &[ethernet(GATEWAY_MAC, mac(2), &unknown)]);
    assert!(!asked.is_empty() && asked.iter().all(|(.., frame)| frame[12..14] == [8, 6]), "{asked:x?}");
    assert_eq!(lab.run(0, &[request(mac(2), guest(2), guest(77))]), []);
    assert_eq!(lab.bridge.drops(), [(DropReason::StormBroadcast, 1)]);
}

/// A packet whose last hop is flooded costs as much as any other flood.
#[test]
fn a_routed_packet_that_is_flooded_counts() {
    let mut lab = Lab::ready();
    let limits = StormLimits { unknown: Some(10), ..StormLimits::NONE };
    lab.bridge.pipeline.set_port(PortId(0), Some(Port { limits, ..port(PortVlan::default()) }));
    lab.bridge.table.flush(None, None);
    let packet = packets::udp(SocketAddrV4::new(guest(2), 4000), SocketAddrV4::new(guest(3), 53), b"abc");
    let frame = ethernet(GATEWAY_MAC, mac(2), &packet);
    let sent = (0..100).filter(|_| !lab.run(0, std::slice::from_ref(&frame)).is_empty()).count();
    assert_eq!((sent, lab.bridge.dropped(DropReason::StormUnknown)), (20, 80));
}

/// One super-frame must not become thousands of writes; ports that take it whole get it.
#[test]
fn a_flooded_super_frame_has_a_maximum_of_segments() {
    let plain = Port { features: packet::Features::NONE, ..port(PortVlan::default()) };
    let whole = port(PortVlan::default());
    let mut bridge = Bridge::new([whole.clone(), plain.clone(), plain.clone(), whole]);
    let spec = |len| Spec { src: mac(1).0, dst: GROUP.0, payload: noise(1, len), ..Spec::default() };
    let send = |bridge: &mut Bridge, len| bridge.run_with(0, &[spec(len).super_frame(250)], |_, _, _| Ok(())).len();
    assert_eq!(send(&mut bridge, 64 * 250), 64 + 64 + 1);
    assert_eq!(bridge.drops(), []);
    assert_eq!(send(&mut bridge, 64 * 250 + 1), 1);
    assert_eq!(bridge.drops(), [(DropReason::TooManySegments, 2)]);
    // To one station it is no flood.
    bridge.table.learn(VlanId::NONE, mac(9), PortId(1), bridge.now);
    let known = Spec { dst: mac(9).0, ..spec(256 * 250) };
    assert_eq!(bridge.run_with(0, &[known.super_frame(250)], |_, _, _| Ok(())).len(), 256);
    let mut bridge = Bridge::new([plain.clone(), plain]);
    assert_eq!(send(&mut bridge, 64 * 250 + 1), 0);
    assert_eq!(bridge.drops(), [(DropReason::TooManySegments, 1)]);
}

/// The work that a batch is charged for.
#[test]
fn transmitting_tells_its_work() {
    let plain = Port { features: packet::Features::NONE, ..port(PortVlan::default()) };
    let mut bridge = Bridge::new([plain.clone(), plain.clone(), plain]);
    let frame = Spec { src: mac(1).0, dst: GROUP.0, payload: noise(1, 10_000), ..Spec::default() }.super_frame(1000);
    let len = frame.1.len() as u64;
    bridge.run_with(0, &[frame], |_, _, _| Ok(()));
    assert_eq!((bridge.work.writes, bridge.work.bytes), (20, 2 * len));
    bridge.run_with(0, &[(packet::VnetHeader::default(), self::frame(GROUP))], |_, _, _| {
        Err(vswitch::SendError::Drop(DropReason::QueueFull))
    });
    assert_eq!(bridge.work.writes, 2, "a write that fails costs as much");
}

/// All ports together have a maximum, too.
#[test]
fn a_flooded_super_frame_has_a_maximum_of_copies() {
    let plain = Port { features: packet::Features::NONE, ..port(PortVlan::default()) };
    let send = |ports: usize, segments: usize| {
        let mut bridge = Bridge::new(std::iter::repeat_n(plain.clone(), ports + 1));
        let spec = Spec { src: mac(1).0, dst: GROUP.0, payload: noise(1, segments * 250), ..Spec::default() };
        let sent = bridge.run_with(0, &[spec.super_frame(250)], |_, _, _| Ok(())).len();
        (sent, bridge.dropped(DropReason::TooManySegments))
    };
    assert_eq!(send(32, 64), (2048, 0));
    assert_eq!((send(33, 64), send(33, 62)), ((0, 1), (33 * 62, 0)));
}

/// A batch stops when it would take too long, and goes on where it stopped.
#[test]
fn a_batch_of_floods_is_processed_in_parts() {
    let mut bridge = Bridge::new(std::iter::repeat_n(port(PortVlan::default()), 101));
    let (mut batch, mut egress) = (packet::Batch::new(), vswitch::Egress::new(101));
    for _ in 0..64 {
        assert!(batch.push(packet::VnetHeader::default(), &frame(GROUP)));
    }
    let (mut places, mut written) = (vec![0], 0);
    while places.last().is_some_and(|place| *place < 64) {
        let first = places.last().copied().unwrap_or(0);
        places.push(bridge.pipeline.process_part(PortId(0), &mut batch, first, bridge.now, &mut egress));
        bridge.pipeline.transmit(&batch, &mut egress, |_: PortId, _: &[std::io::IoSlice<'_>]| {
            written += 1;
            Ok(())
        });
    }
    assert_eq!((places, written), (vec![0, 11, 22, 33, 44, 55, 64], 6400));
    assert_eq!(bridge.pipeline.process_part(PortId(0), &mut batch, 64, bridge.now, &mut egress), 64);
}

/// So do super-frames to one station without offload.
#[test]
fn a_batch_of_super_frames_is_processed_in_parts() {
    let plain = Port { features: packet::Features::NONE, ..port(PortVlan::default()) };
    let mut bridge = Bridge::new([plain.clone(), plain]);
    bridge.table.learn(VlanId::NONE, mac(9), PortId(1), bridge.now);
    let (mut batch, mut egress) = (packet::Batch::new(), vswitch::Egress::new(2));
    let spec = Spec { src: mac(1).0, dst: mac(9).0, payload: noise(1, 256 * 8), ..Spec::default() };
    for _ in 0..64 {
        let (vnet, frame) = spec.super_frame(8);
        assert!(batch.push(vnet, &frame));
    }
    let done = bridge.pipeline.process_part(PortId(0), &mut batch, 0, bridge.now, &mut egress);
    // One for each frame is not counted.
    assert_eq!(done, (vswitch::MAX_WRITES as usize).div_ceil(256 - 1));
}

/// What the router sends in fragments or in segments counts by the piece.
#[test]
fn a_batch_of_routed_packets_in_pieces_is_processed_in_parts() {
    let datagram = packets::udp(SocketAddrV4::new(guest(2), 4000), SocketAddrV4::new(PEER, 53), &noise(1, 24_000));
    let may_be_cut = |mut packet: Vec<u8>| {
        put(&mut packet, 6, 0);
        packets::set_ip_checksum(&mut packet);
        packet
    };
    let whole = packet::VnetHeader::default();
    let mut partial = datagram.clone();
    packets::set_partial_checksum(&mut partial);
    let in_segments = packet::VnetHeader { flags: 1, gso_type: 5, gso_size: 200, hdr_len: 42, csum_start: 34, csum_offset: 6 };
    for (mtu, vnet, packet, pieces) in [(116, whole, may_be_cut(datagram), 251), (1500, in_segments, partial, 120)] {
        let mut bridge = Lab::ready_with(nat::NatConfig::default(), mtu).bridge;
        let plain = Port { features: packet::Features::NONE, kind: PortKind::Uplink, ..port(PortVlan::default()) };
        bridge.pipeline.set_port(PortId(UPLINK_PORT), Some(plain));
        let (mut batch, mut egress) = (packet::Batch::new(), vswitch::Egress::new(5));
        while batch.push(vnet, &ethernet(GATEWAY_MAC, mac(2), &packet)) {}
        let done = bridge.pipeline.process_part(PortId(0), &mut batch, 0, bridge.now, &mut egress);
        let work = bridge.pipeline.transmit(&batch, &mut egress, |_: PortId, _: &[std::io::IoSlice<'_>]| Ok(()));
        assert_eq!(
            (done as u64, work.writes),
            (1024_u64.div_ceil(pieces), 1024_u64.div_ceil(pieces) * pieces),
            "{:?}",
            bridge.drops()
        );
    }
}
