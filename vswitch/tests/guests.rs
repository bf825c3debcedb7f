//! Guests with a TCP/IP stack of their own through the switch, the router, NAT and tunnels, in simulated time.
//!
//! After every batch the frame counters of each switch balance, and a transfer compares all bytes.

use std::net::{Ipv4Addr, SocketAddrV4};
use std::sync::Arc;
use std::time::Duration;

use nat::{Endpoint, Nat, NatConfig, Protocol, Published};
use testkit::bridge::Bridge;
use testkit::guests::{Attachment, Faults, GuestId, Network, Received, Transfer};
use testkit::lab::{GATEWAY, Lab, NEXT_HOP, NEXT_HOP_MAC, OUTSIDE, UPLINK_PORT, guest, mac};
use testkit::overlay::{Overlay, PEER};
use vswitch::{Coalesce, DropReason};

/// One frame of fifty is lost, one of fifty comes twice, one of twenty late.
const ROUGH: Faults = Faults { lost: 20, duplicated: 20, reordered: 50 };

/// A guest of the untagged network on a port of a switch.
fn place(switch: usize, port: u16, last: u8) -> Attachment {
    Attachment { switch, port, mac: mac(last), address: guest(last), gateway: Some(GATEWAY) }
}

fn to(address: Ipv4Addr, port: u16) -> SocketAddrV4 {
    SocketAddrV4::new(address, port)
}

/// Guests 2 and 3 on one switch.
fn switched(faults: Faults, seed: u64) -> (Network, [GuestId; 2]) {
    let mut network = Network::with_faults(vec![Bridge::open(2)], faults, seed);
    let guests = [place(0, 0, 2), place(0, 1, 3)].map(|place| network.attach(place));
    (network, guests)
}

/// Guests 2 and 3 behind a router with NAT, and the next hop of its uplink.
fn routed(faults: Faults, seed: u64, mtu: u32) -> (Network, Arc<Nat>, [GuestId; 3]) {
    let Lab { bridge, nat, .. } = Lab::new(NatConfig::default(), mtu);
    let mut network = Network::with_faults(vec![bridge], faults, seed);
    let outside = Attachment { switch: 0, port: UPLINK_PORT, mac: NEXT_HOP_MAC, address: NEXT_HOP, gateway: None };
    let guests = [place(0, 0, 2), place(0, 1, 3), outside].map(|place| network.attach(place));
    (network, nat, guests)
}

/// Guests 2 and 3 on two switches with a VXLAN tunnel between them.
fn tunnelled(faults: Faults, seed: u64) -> (Network, [GuestId; 2]) {
    let mut network = Network::with_faults(Overlay::new(2).hosts, faults, seed);
    let guests = [place(0, 0, 2), place(1, 0, 3)].map(|place| network.attach(place));
    (network, guests)
}

/// Publishes TCP port 80 of the uplink's address as port 8080 of guest 3.
fn publish(nat: &Nat, network: &Network) {
    let rule = Published { protocol: Protocol::TCP, address: OUTSIDE, port: 80, guest: Endpoint::new(guest(3), 8080) };
    nat.publish(&rule, network.switches[0].now).unwrap();
}

/// A transfer of 300 kB there and 200 kB back.
fn transfer(client: GuestId, to: SocketAddrV4, server: GuestId, port: u16) -> Transfer {
    Transfer { client, to, server, port, request: 300_000, response: 200_000 }
}

fn drops(network: &Network) -> Vec<(DropReason, u64)> {
    network.switches.iter().flat_map(Bridge::drops).collect()
}

#[test]
fn tcp_through_the_switch() {
    let (mut network, [two, three]) = switched(Faults::default(), 1);
    let received = network.transfer(&[transfer(two, to(guest(3), 80), three, 80)]);
    assert_eq!(received[0].client, to(guest(2), 49_152));
    assert_eq!(drops(&network), []);
}

#[test]
fn tcp_to_a_port_that_coalesces() {
    let (mut network, [two, three]) = switched(Faults::default(), 1);
    network.switches[0].port(1).coalesce = Coalesce::Flows;
    network.transfer(&[transfer(two, to(guest(3), 80), three, 80)]);
    let counts = network.switches[0].counts(1);
    assert!(counts.tx_writes.load() < counts.tx_frames.load() / 2, "{} writes", counts.tx_writes.load());
    assert_eq!(drops(&network), []);
}

#[test]
fn tcp_through_the_switch_in_both_directions_at_once() {
    let (mut network, [two, three]) = switched(Faults::default(), 1);
    network.transfer(&[transfer(two, to(guest(3), 80), three, 80), transfer(three, to(guest(2), 81), two, 81)]);
    assert_eq!(drops(&network), []);
}

#[test]
fn tcp_out_through_nat() {
    let (mut network, nat, [two, three, outside]) = routed(Faults::default(), 1, 1500);
    // Both guests use the same local port; the outside host sees one address and two ports.
    let first = network.transfer(&[transfer(two, to(NEXT_HOP, 443), outside, 443)]);
    let second = network.transfer(&[transfer(three, to(NEXT_HOP, 443), outside, 443)]);
    assert_eq!([first[0].client.ip(), second[0].client.ip()], [&OUTSIDE; 2]);
    assert_ne!(first[0].client.port(), second[0].client.port());
    assert_eq!((nat.stats().connections, drops(&network)), (2, vec![]));
}

#[test]
fn tcp_in_by_a_published_port() {
    let (mut network, nat, [_, three, outside]) = routed(Faults::default(), 1, 1500);
    publish(&nat, &network);
    let received = network.transfer(&[transfer(outside, to(OUTSIDE, 80), three, 8080)]);
    assert_eq!(received[0].client, to(NEXT_HOP, 49_152), "the client's own address");
    assert_eq!(drops(&network), []);
}

/// Hairpin: a guest reaches another guest by the address and port that are published to the outside.
#[test]
fn tcp_to_a_published_port_from_inside() {
    let (mut network, nat, [two, three, _]) = routed(Faults::default(), 1, 1500);
    publish(&nat, &network);
    let received = network.transfer(&[transfer(two, to(OUTSIDE, 80), three, 8080)]);
    assert_eq!(*received[0].client.ip(), OUTSIDE, "RFC 5382 REQ-9: the external address");
    assert_eq!(drops(&network), []);
}

/// The guests' MTU is 1500 and the tunnel's 1450; the switches lower the segment size in SYN segments.
#[test]
fn tcp_through_a_tunnel() {
    let (mut network, [two, three]) = tunnelled(Faults::default(), 1);
    network.transfer(&[transfer(two, to(guest(3), 80), three, 80)]);
    assert_eq!(drops(&network), []);
    let frames = network.switches[0].counts(PEER).tx_frames.load();
    assert!(frames >= 300_000 / 1410, "{frames} frames");
}

#[test]
fn tcp_over_wires_that_lose_duplicate_and_reorder() {
    for seed in 1..=3 {
        let (mut network, [two, three]) = switched(ROUGH, seed);
        network.transfer(&[transfer(two, to(guest(3), 80), three, 80)]);
        assert!(network.lost > 0, "seed {seed}");
        let (mut network, nat, [two, three, outside]) = routed(ROUGH, seed, 1500);
        publish(&nat, &network);
        network.transfer(&[transfer(two, to(NEXT_HOP, 443), outside, 443), transfer(outside, to(OUTSIDE, 80), three, 8080)]);
        assert!(network.lost > 0, "seed {seed}");
        let (mut network, [two, three]) = tunnelled(ROUGH, seed);
        network.transfer(&[transfer(two, to(guest(3), 80), three, 80)]);
        assert!(network.lost > 0, "seed {seed}");
    }
}

#[test]
fn a_run_is_decided_by_its_seed() {
    let run = |seed| {
        let (mut network, [two, three]) = tunnelled(ROUGH, seed);
        let received: Vec<Received> = network.transfer(&[transfer(two, to(guest(3), 80), three, 80)]);
        (received, network.lost, network.switches[0].counts(0).rx_frames.load())
    };
    assert_eq!(run(7), run(7));
    assert_ne!(run(7), run(8));
}

#[test]
fn fragments_of_a_large_ping() {
    let (mut network, [two, _]) = switched(Faults::default(), 1);
    assert!(network.ping(two, guest(3), 6000));
    assert_eq!(network.switches[0].counts(1).tx_frames.load(), 1 + 5, "an ARP request and five fragments");

    let (mut network, nat, [two, _, outside]) = routed(Faults::default(), 1, 1500);
    assert!(network.ping(two, NEXT_HOP, 56), "resolves the next hop, for which only a few packets wait");
    assert!(network.ping(two, NEXT_HOP, 6000));
    assert_eq!((nat.stats().connections, drops(&network)), (1, vec![]));
    assert!(network.ping(outside, OUTSIDE, 56), "the router itself");
}

/// Fragments that overtake the first one wait for it in the router.
#[test]
fn fragments_of_a_large_ping_out_of_order() {
    let faults = Faults { reordered: 500, ..Faults::default() };
    for seed in 1..=10 {
        let (mut network, _, [two, ..]) = routed(faults, seed, 1500);
        assert!(network.ping(two, NEXT_HOP, 56), "seed {seed}");
        assert!(network.ping(two, NEXT_HOP, 6000), "seed {seed}");
        assert_eq!(drops(&network), [], "seed {seed}");
    }
}

/// The router fragments the guest's fragments further; a whole packet has "don't fragment" set.
#[test]
fn a_large_ping_over_an_uplink_with_a_small_mtu() {
    let (mut network, _, [two, ..]) = routed(Faults::default(), 1, 700);
    assert!(network.ping(two, NEXT_HOP, 56));
    assert!(network.ping(two, NEXT_HOP, 2000));
    assert_eq!(drops(&network), []);
    network.send_ping(two, NEXT_HOP, 1400);
    network.run_until(Duration::from_secs(10), |network| !drops(network).is_empty());
    assert_eq!(drops(&network), [(DropReason::FragmentationNeeded, 1)]);
}

#[test]
fn a_ping_to_an_address_without_a_host() {
    let (mut network, nat, [two, ..]) = routed(Faults::default(), 1, 1500);
    let begin = network.now();
    let nobody = Ipv4Addr::new(203, 0, 113, 77);
    network.send_ping(two, nobody, 56);
    network.run_until(Duration::from_secs(10), |network| network.now() >= begin + Duration::from_secs(5));
    assert_eq!(drops(&network), [(DropReason::NeighbourUnresolved, 1)]);
    assert_eq!(nat.stats().connections, 1);
}
