//! What holds for any frame and any datagram.

use packet::{Datagram, Headers, VnetHeader};
use proptest::prelude::*;
use tunnel::{FramingKind, train, vxlan};
use vswitch::{Coalesce, PortVlan};

use crate::{between, mac};
use testkit::bridge::{Bridge, Sent, Write, port};
use testkit::frames::{Spec, noise};
use testkit::overlay::{ENDPOINT, MTU, Overlay, PEER, address, datagram, vni};
use testkit::strategies::specs;
use testkit::wire::on_the_wire;

/// Room for an Ethernet header with two tags, IPv6 with options and TCP with options.
const LONGEST_HEADERS: usize = 40 + 60 + 60;

/// Frames and super-frames between two stations, of which nobody is known yet; what fits into the tunnel.
fn fitting() -> impl Strategy<Value = (VnetHeader, Vec<u8>)> {
    let size = 200..=MTU as usize - LONGEST_HEADERS;
    (specs(20_000), size, 0..3u8).prop_map(|(spec, size, kind)| {
        let tags = spec.tags.iter().map(|(protocol, tci)| (*protocol, tci & 0xf0ff)).collect();
        let spec = Spec { dst: mac(2).0, src: mac(1).0, tags, ..spec };
        let whole = Spec { payload: spec.payload[..spec.payload.len().min(size)].to_vec(), ..spec.clone() };
        match kind {
            0 => (VnetHeader::default(), whole.bytes()),
            1 => whole.partial(),
            _ if spec.payload.len() > size && !(spec.tcp && spec.flags & 0x02 != 0) => spec.super_frame(size as u16),
            _ => whole.partial(),
        }
    })
}

fn wire(writes: &[&Write]) -> Vec<Vec<u8>> {
    writes.iter().flat_map(|(_, vnet, frame)| on_the_wire(&[&vnet.to_bytes()[..], frame].concat())).collect()
}

/// In a stable order, as flows may change places in a tunnel and frames of one may not.
fn by_flow(mut frames: Vec<Vec<u8>>) -> Vec<Vec<u8>> {
    frames.sort_by_key(|frame| flow_of(frame));
    frames
}

fn flow_of(frame: &[u8]) -> u16 {
    tunnel::entropy::flow_hash(&Headers::parse(frame).unwrap(), frame)
}

proptest! {
    /// What comes out at the other end is what the link beside ours gets: the same bytes on the wire in the
    /// same order, whether or not the receiving kernel merges datagrams and the link takes merged frames.
    #[test]
    fn there_and_out_again(
        frames in prop::collection::vec(fitting(), 1..5),
        merges: bool,
        coalesce in prop::sample::select(vec![Coalesce::Off, Coalesce::Neighbours, Coalesce::Flows]),
    ) {
        let mut overlay = Overlay::new(2);
        overlay.merges = merges;
        overlay.hosts[1].port(0).coalesce = coalesce;
        let writes = overlay.run_with(0, 0, &frames);
        let at = |place: (usize, u16)| -> Vec<&Write> {
            writes.iter().filter(|(host, (port, ..))| (*host, port.0) == place).map(|(_, write)| write).collect()
        };
        let beside = wire(&at((0, 1)));
        prop_assert!(!beside.is_empty());
        let there = [at((1, 0)), at((1, 1))].map(|writes| wire(&writes));
        for there in there {
            prop_assert_eq!(by_flow(there), by_flow(beside.clone()));
        }
        // Each datagram is one frame of the wire, and its flow is the one by which it went.
        for sent in overlay.log.iter().map(|flying| &flying.sent) {
            for datagram in &sent.datagrams {
                prop_assert_eq!(sent.outer.source, flow_of(&datagram[vxlan::VXLAN_LEN..]) % tunnel::entropy::SOURCE_PORTS);
            }
        }
        let mut carried: Vec<Vec<u8>> = overlay.log.iter().flat_map(|flying| flying.sent.datagrams.clone()).collect();
        let mut expected: Vec<Vec<u8>> = beside.iter().map(|frame| datagram(vni(), frame)).collect();
        carried.sort();
        expected.sort();
        prop_assert_eq!(carried, expected);
    }

    /// A frame of any length, with any header before it, and datagrams of any bytes: nothing panics, the
    /// books balance, and no datagram is longer than the way takes.
    #[test]
    fn any_bytes(
        steps in prop::collection::vec((any::<bool>(), 0..4u16, any::<u8>(), any_vnet(), any_frame(), 0..2000u16), 1..12),
        merges: bool,
    ) {
        let mut overlay = Overlay::new(3);
        overlay.merges = merges;
        for (is_frame, port, tos, vnet, frame, segment_size) in steps {
            if is_frame {
                overlay.run_with(0, port % 2, &[(vnet, frame)]);
                continue;
            }
            let from = address(usize::from(port));
            for payload in [&frame[..], &datagram(vni(), &frame)] {
                let datagram = Datagram { from, tos, segment_size, payload };
                overlay.hosts[0].receive(ENDPOINT, FramingKind::Vxlan, MTU, &[datagram]);
                prop_assert!(overlay.hosts[0].sent.is_empty(), "from a tunnel into one");
            }
        }
    }
}

fn any_vnet() -> impl Strategy<Value = VnetHeader> {
    let kinds = prop::sample::select(vec![0u8, 1, 3, 4, 5, 0x81, 2]);
    let header = (0..4u8, kinds, 0..200u16, 0..3000u16, 0..80u16, prop::sample::select(vec![6u16, 16, 2]));
    header.prop_map(|(flags, gso_type, hdr_len, gso_size, csum_start, csum_offset)| VnetHeader {
        flags,
        gso_type,
        hdr_len,
        gso_size,
        csum_start,
        csum_offset,
    })
}

/// Noise, or a sound frame with a few bytes changed or its end cut off.
fn any_frame() -> impl Strategy<Value = Vec<u8>> {
    let noise = prop::collection::vec(any::<u8>(), 0..3000);
    let changes = prop::collection::vec((0..100usize, any::<u8>()), 0..4);
    let damaged =
        (specs(3000), changes, any::<bool>(), prop::option::of(0..200usize)).prop_map(|(spec, changes, partial, cut)| {
            let mut frame = if partial { spec.partial().1 } else { spec.bytes() };
            for (at, byte) in changes {
                if let Some(place) = frame.get_mut(at) {
                    *place = byte;
                }
            }
            frame.truncate(cut.unwrap_or(usize::MAX));
            frame
        });
    prop_oneof![1 => noise, 3 => damaged]
}

/// Trains of one flow: as few as the kernel's limits allow.
fn trains(frames: &[(VnetHeader, Vec<u8>)]) -> Vec<Sent> {
    let mut overlay = Overlay::new(2);
    overlay.hosts[0].pipeline.set_port(vswitch::PortId(1), None);
    overlay.hosts[0].run_with(0, frames, |_, _, _| Ok(()));
    std::mem::take(&mut overlay.hosts[0].sent)
}

#[test]
fn trains_are_as_long_as_they_may_be() {
    let small: Vec<_> =
        (0..64).map(|n| (VnetHeader::default(), Spec { payload: noise(n, 100), ..between(1, 2) }.bytes())).collect();
    let lens = |sent: &[Sent]| sent.iter().map(|sent| sent.datagrams.len()).collect::<Vec<_>>();
    assert_eq!(lens(&trains(&small)), [train::MAX_DATAGRAMS]);
    let spec = Spec { payload: noise(1, 64_000), ..between(1, 2) };
    let sent = trains(&[spec.super_frame(1398)]);
    assert_eq!(lens(&sent), [44, 2], "65,473 bytes are 44 of 1472 and some");
    let again = trains(&vec![spec.super_frame(1398); 4]);
    assert_eq!(again.iter().map(|sent| sent.datagrams.len()).sum::<usize>(), 4 * 46);
    assert_eq!(again.len(), 8, "a shorter one ends a train");
    // More datagrams than have room at once leave in between.
    let spec = Spec { payload: noise(1, 40_000), ..between(1, 2) };
    let many = trains(&vec![spec.super_frame(160); 4]);
    assert_eq!(many.iter().map(|sent| sent.datagrams.len()).sum::<usize>(), 4 * 250);
    assert!(many.len() <= 4 * 250_usize.div_ceil(train::MAX_DATAGRAMS) + 8, "{}", many.len());
}

/// A frame whose last datagram is refused is dropped once, and its bytes are not counted.
#[test]
fn a_refused_train_counts_the_frames_that_end_in_it() {
    let mut host = Overlay::new(2).hosts.remove(0);
    host.pipeline.set_port(vswitch::PortId(1), None);
    let spec = Spec { payload: noise(1, 64_000), ..between(1, 2) };
    let reason = vswitch::DropReason::PeerUnreachable;
    let mut calls = 0;
    host.run_with(0, &[spec.super_frame(1398)], |_, _, _| {
        calls += 1;
        Err(vswitch::SendError::Drop(reason))
    });
    assert_eq!((calls, host.counts(PEER).dropped(reason), host.counts(PEER).tx_frames.load()), (2, 1, 0));
}

/// As a peer on the same machine hands it over: whole, without the length of its segments.
#[test]
fn a_super_frame_in_one_datagram_comes_out_as_segments_that_fit() {
    for (v6, tcp) in [(false, true), (true, true), (false, false), (true, false)] {
        let spec = Spec { v6, tcp, payload: noise(1, 10_000), ..between(1, 2) };
        let headers = spec.payload_at() - 14;
        let size = if tcp { MTU as usize - headers } else { 1000 };
        let mut host: Bridge = Overlay::new(2).hosts.remove(0);
        host.pipeline.set_port(vswitch::PortId(1), Some(port(PortVlan::default())));
        let payload = datagram(vni(), &spec.partial().1);
        // A UDP super-frame's segment size is told.
        let segment_size = if tcp { 0 } else { size as u16 };
        let datagram = Datagram { from: address(1), tos: 0, segment_size, payload: &payload };
        let writes = host.receive(ENDPOINT, FramingKind::Vxlan, MTU, &[datagram]);
        assert_eq!(writes.len(), 2, "whole to each link");
        let (vnet, frame) = spec.super_frame(size as u16);
        let (_, out, written) = &writes[0];
        assert_eq!(wire(&[&writes[0]]), on_the_wire(&[&vnet.to_bytes()[..], &frame].concat()));
        assert_eq!((out.gso_size, written), (vnet.gso_size, &frame));
    }
}

/// The size of its segments is ours to choose: a link that takes less gets shorter ones, and no drop.
#[test]
fn a_super_frame_of_unknown_segments_fits_every_link() {
    for (v6, is_known) in [(false, true), (true, true), (false, false), (true, false)] {
        let spec = Spec { v6, payload: noise(1, 10_000), ..between(1, 2) };
        let mut host: Bridge = Overlay::new(2).hosts.remove(0);
        host.port(0).mtu = 1000;
        if is_known {
            host.table.learn(packet::VlanId::NONE, mac(2), vswitch::PortId(0), host.now);
        }
        let payload = datagram(vni(), &spec.partial().1);
        let arrived = Datagram { from: address(1), tos: 0, segment_size: 0, payload: &payload };
        let writes = host.receive(ENDPOINT, FramingKind::Vxlan, MTU, &[arrived]);
        assert_eq!(writes.len(), if is_known { 1 } else { 2 });
        let (vnet, frame) = spec.super_frame(1000 - (spec.payload_at() - 14) as u16);
        for write in &writes {
            assert_eq!(wire(&[write]), on_the_wire(&[&vnet.to_bytes()[..], &frame].concat()));
        }
    }
}
