//! A capture of drops has frames as they came, whatever their walk wrote into them.

use std::net::Ipv4Addr;
use std::sync::Arc;
use std::time::Duration;

use capture::probe::Lost;
use capture::ring::{self, Reader};
use capture::{Header, Probe, Verdict, Want};
use nat::Endpoint;
use packet::VnetHeader;
use packet::vlan::VlanId;
use vswitch::{DropReason, PortId, PortVlan};

use testkit::bridge::{Bridge, port};
use testkit::lab::{GATEWAY_MAC, Lab, VLAN_GATEWAY, VLAN_GATEWAY_MAC, ethernet, guest, mac, request};
use testkit::overlay;
use testkit::packets;

/// Of all drops of a bridge.
fn capture_of(bridge: &mut Bridge) -> Reader {
    let (writer, reader) = ring::ring(4, 256 << 10);
    let want = Want { drops_only: true, ..Want::default() };
    bridge.pipeline.begin_capture(Box::new(Probe::new(2, Arc::new(want), writer, Lost::new(8)))).expect("room");
    reader
}

fn drops(reader: &mut Reader) -> Vec<(Verdict, Vec<u8>)> {
    let mut all = Vec::new();
    while let Some(chunk) = reader.take() {
        let records = chunk.records().map(|record| Header::split(record).expect("a record"));
        all.extend(records.map(|(header, frame)| (header.verdict, frame.to_vec())));
        reader.give_back(chunk);
    }
    all
}

fn dropped(reason: DropReason) -> Verdict {
    Verdict::Dropped(reason as u8)
}

/// The error is made of the frame itself, which is moved for it up to its 1294th byte.
#[test]
fn too_long_for_a_tunnel() {
    let links = [port(PortVlan::default()), port(PortVlan::default())];
    let mut bridge = overlay::host_with(links, vec![(overlay::plain_peer(), overlay::address(1))], overlay::address(0));
    let mut reader = capture_of(&mut bridge);
    bridge.table.learn(VlanId::NONE, mac(9), PortId(overlay::PEER), bridge.now);
    let payload: Vec<u8> = (0..1440u32).map(|n| (n / 7) as u8).collect();
    let header = [&[0x60, 0, 0, 0, 5, 160, 59, 64][..], &[0xfd; 16], &[0xfe; 16]].concat();
    let frame = [&mac(9).0[..], &mac(8).0, &[0x86, 0xdd], &header, &payload].concat();
    bridge.run(0, std::slice::from_ref(&frame));
    assert_eq!(bridge.dropped(DropReason::FragmentationNeeded), 1);
    let drops = drops(&mut reader);
    assert_eq!((drops.len(), drops[0].0), (1, dropped(DropReason::FragmentationNeeded)));
    assert!(drops[0].1 == frame, "the bytes are others");
}

/// A checksum is finished where the guest says.
#[test]
fn a_checksum_far_behind() {
    let mut bridge = Bridge::open(1);
    let mut reader = capture_of(&mut bridge);
    let frame = [&mac(9).0[..], &mac(8).0, &[0x88, 0xb5], &[7; 4000]].concat();
    let vnet = VnetHeader { flags: 1, csum_start: 3000, csum_offset: 16, ..VnetHeader::default() };
    bridge.run_with(0, &[(vnet, frame.clone())], |_, _, _| Ok(()));
    let drops = drops(&mut reader);
    assert_eq!((drops.len(), drops[0].0), (1, dropped(DropReason::NoDestination)));
    assert!(drops[0].1 == frame, "the bytes are others");
}

/// Of a flood that no port takes, nothing went on.
#[test]
fn a_flood_that_fits_nowhere() {
    let mut bridge = Bridge::open(4);
    let mut reader = capture_of(&mut bridge);
    (1..4).for_each(|id| bridge.port(id).mtu = 1000);
    let frame = ethernet(mac(9), mac(8), &[0; 1200]);
    bridge.run(0, std::slice::from_ref(&frame));
    assert_eq!(drops(&mut reader), [(dropped(DropReason::TooLong), frame.clone())]);
    assert_eq!((bridge.dropped(DropReason::TooLong), bridge.counts(0).copies.load()), (1, 0));
    bridge.port(2).mtu = 1500;
    bridge.run(0, std::slice::from_ref(&frame));
    assert_eq!(drops(&mut reader), [(Verdict::CopiesDropped(DropReason::TooLong as u8), frame)]);
    assert_eq!((bridge.dropped(DropReason::TooLong), bridge.counts(0).copies.load()), (3, 2));
}

/// The packet waits; it is the request that finds no port, in a VLAN whose ports are all gone, and so is it when it is
/// made again.
#[test]
fn a_request_that_goes_nowhere() {
    let mut bridge = Lab::ready().bridge;
    let mut reader = capture_of(&mut bridge);
    [3, 4].into_iter().for_each(|id| bridge.pipeline.set_port(PortId(id), None));
    [0, 1].into_iter().for_each(|id| bridge.port(id).vlan = PortVlan::access(VlanId::NONE));
    let nobody = Ipv4Addr::new(10, 0, 10, 9);
    let packet = packets::udp(Endpoint::new(guest(2), 4000), Endpoint::new(nobody, 53), b"abc");
    let request = request(VLAN_GATEWAY_MAC, VLAN_GATEWAY, nobody);
    bridge.run(0, &[ethernet(GATEWAY_MAC, mac(2), &packet)]);
    assert_eq!(drops(&mut reader), [(dropped(DropReason::NoDestination), request.clone())]);
    bridge.now = bridge.now.after(Duration::from_secs(1));
    bridge.poll();
    assert_eq!(drops(&mut reader), [(dropped(DropReason::NoDestination), request)]);
}
