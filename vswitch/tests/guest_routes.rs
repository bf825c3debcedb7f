//! Networks behind guests, in simulated time: who reaches them, who may send from them, and what is translated.

use std::net::Ipv4Addr;

use nat::{Endpoint, Protocol, Published};
use packet::{Ipv4Prefix, MacAddr};
use testkit::lab::{
    GATEWAY, GATEWAY_MAC, Lab, NEXT_HOP_MAC, OUTSIDE, PEER, UPLINK_MAC, UPLINK_PORT, VLAN_GATEWAY_MAC, ethernet, guest, mac,
    only, request, uplink,
};
use testkit::packets::{self, address, put, set_ip_checksum, word};
use vswitch::{BridgeId, Domain, DropReason, GuestRoute, Interface, InterfaceId, Reach, Routing, RoutingSettings};

/// A host behind guest 3, by 10.9.0.0/16, and one of another network behind guest 5 of VLAN 10, which is not translated.
const BEHIND: Ipv4Addr = Ipv4Addr::new(10, 9, 0, 5);
const PLAIN: Ipv4Addr = Ipv4Addr::new(10, 10, 0, 5);
const VLAN_GUEST: Ipv4Addr = Ipv4Addr::new(10, 0, 10, 5);

fn route(to: Ipv4Addr, len: u8, via: Ipv4Addr, interface: u16, is_translated: bool) -> GuestRoute {
    GuestRoute { to: Ipv4Prefix::new(to, len), via, interface: InterfaceId(interface), is_translated }
}

/// The lab's networks with these routes, where guests behind the two gateways reach what is said.
fn routed(routes: Vec<GuestRoute>, reach: [Reach; 2]) -> std::sync::Arc<Routing> {
    let on = |vlan| Domain { bridge: BridgeId::default(), vlan };
    let untagged = Interface { reach: reach[0], ..Interface::new(on(packet::VlanId::NONE), GATEWAY, 24) };
    let tagged = Interface { reach: reach[1], ..Interface::new(on(testkit::lab::ten()), testkit::lab::VLAN_GATEWAY, 24) };
    let settings = RoutingSettings::default();
    Routing::with_guest_routes(vec![Some(untagged), Some(tagged)], routes, Some(uplink(1500)), settings)
}

fn usual() -> Vec<GuestRoute> {
    vec![route(BEHIND, 16, guest(3), 0, true), route(PLAIN, 16, VLAN_GUEST, 1, false)]
}

fn lab_with(routes: Vec<GuestRoute>, reach: [Reach; 2]) -> Lab {
    let mut lab = Lab::ready();
    lab.bridge.pipeline.set_routing(routed(routes, reach));
    lab
}

fn lab() -> Lab {
    lab_with(usual(), [Reach::All; 2])
}

fn udp(from: Ipv4Addr, to: Ipv4Addr) -> Vec<u8> {
    packets::udp(Endpoint::new(from, 4000), Endpoint::new(to, 53), b"data")
}

/// Destination and source MAC address, and the packet.
fn parts(frame: &[u8]) -> (MacAddr, MacAddr, &[u8]) {
    (MacAddr(frame[..6].try_into().unwrap()), MacAddr(frame[6..12].try_into().unwrap()), &frame[14..])
}

fn ends(packet: &[u8]) -> (Ipv4Addr, Ipv4Addr) {
    (address(packet, 12), address(packet, 16))
}

#[test]
fn a_packet_goes_to_the_guest_that_its_network_is_behind() {
    let mut lab = lab();
    // From the guest's own network, from another one, and from behind another guest.
    for (ingress, frame, src) in [
        (0, ethernet(GATEWAY_MAC, mac(2), &udp(guest(2), BEHIND)), guest(2)),
        (3, ethernet(VLAN_GATEWAY_MAC, mac(5), &udp(VLAN_GUEST, BEHIND)), VLAN_GUEST),
        (3, ethernet(VLAN_GATEWAY_MAC, mac(5), &udp(PLAIN, BEHIND)), PLAIN),
    ] {
        let (port, _, frame) = only(lab.run(ingress, &[frame]));
        let (dst_mac, src_mac, packet) = parts(&frame);
        assert_eq!((port.0, dst_mac, src_mac), (1, mac(3), GATEWAY_MAC));
        assert_eq!((ends(packet), packet[8]), ((src, BEHIND), 63));
    }
    // And back.
    let (port, _, frame) = lab.out(3, &udp(BEHIND, guest(2)));
    assert_eq!((port.0, parts(&frame).0, ends(parts(&frame).2)), (0, mac(2), (BEHIND, guest(2))));
    // An unknown guest is asked for, and not the host behind it.
    let mut routes = usual();
    routes[0].via = guest(9);
    lab.bridge.pipeline.set_routing(routed(routes, [Reach::All; 2]));
    let asked = lab.run(0, &[ethernet(GATEWAY_MAC, mac(2), &udp(guest(2), BEHIND))]);
    assert!(asked.iter().all(|(_, _, frame)| testkit::lab::arp_of(frame).3 == guest(9)) && !asked.is_empty());
    let answer = testkit::lab::answer(GATEWAY_MAC, mac(9), guest(9), GATEWAY);
    let sent = lab.run(1, &[answer]);
    assert_eq!(parts(&sent.last().unwrap().2).0, mac(9));
}

#[test]
fn who_sends_from_a_network_without_being_behind_its_guest() {
    let mut lab = lab();
    for (ingress, gateway, src) in [
        (0, GATEWAY_MAC, PLAIN),
        (3, VLAN_GATEWAY_MAC, BEHIND),
        (0, GATEWAY_MAC, Ipv4Addr::new(10, 11, 0, 1)),
        (0, GATEWAY_MAC, GATEWAY),
    ] {
        let from = if ingress == 0 { mac(2) } else { mac(5) };
        assert!(lab.run(ingress, &[ethernet(gateway, from, &udp(src, PEER))]).is_empty(), "{src}");
    }
    assert!(lab.run(UPLINK_PORT, &[ethernet(UPLINK_MAC, NEXT_HOP_MAC, &udp(BEHIND, OUTSIDE))]).is_empty());
    assert_eq!(lab.bridge.dropped(DropReason::MartianSource), 5);
}

#[test]
fn what_is_behind_a_guest_is_translated_and_published() {
    let mut lab = lab();
    let (port, _, frame) = lab.out(3, &udp(BEHIND, PEER));
    let packet = parts(&frame).2;
    assert_eq!((port.0, ends(packet)), (UPLINK_PORT, (OUTSIDE, PEER)));
    let reply = packets::udp(Endpoint::new(PEER, 53), Endpoint::new(OUTSIDE, word(packet, 20)), b"reply");
    let (port, _, frame) = lab.back(&reply);
    assert_eq!((port.0, parts(&frame).0, ends(parts(&frame).2)), (1, mac(3), (PEER, BEHIND)));
    // An ICMP error about it finds its way too.
    let error = packets::error([3, 3], 0, PEER, OUTSIDE, packet);
    let (_, _, frame) = lab.back(&error);
    assert_eq!((parts(&frame).0, ends(parts(&frame).2)), (mac(3), (PEER, BEHIND)));
    let guest_of_rule = Endpoint::new(BEHIND, 53);
    let rule = Published { protocol: Protocol::UDP, address: OUTSIDE, port: 8080, guest: guest_of_rule };
    lab.nat.publish(&rule, lab.bridge.now).unwrap();
    let stranger = packets::udp(Endpoint::new(PEER, 4000), Endpoint::new(OUTSIDE, 8080), b"in");
    let (_, _, frame) = lab.back(&stranger);
    assert_eq!((parts(&frame).0, ends(parts(&frame).2)), (mac(3), (PEER, BEHIND)));
    // From a guest by the published port, out and in again.
    let hairpin = packets::udp(Endpoint::new(guest(2), 4000), Endpoint::new(OUTSIDE, 8080), b"in");
    let (_, _, frame) = lab.out(2, &hairpin);
    assert_eq!((parts(&frame).0, ends(parts(&frame).2)), (mac(3), (OUTSIDE, BEHIND)));
}

#[test]
fn a_network_without_translation_keeps_its_addresses() {
    let mut lab = lab();
    let from_guest = |packet: &[u8]| ethernet(VLAN_GATEWAY_MAC, mac(5), packet);
    let (port, _, frame) = only(lab.run(3, &[from_guest(&udp(PLAIN, PEER))]));
    let (dst_mac, src_mac, packet) = parts(&frame);
    assert_eq!((port.0, dst_mac, src_mac, ends(packet), packet[8]), (UPLINK_PORT, NEXT_HOP_MAC, UPLINK_MAC, (PLAIN, PEER), 63));
    assert_eq!(lab.nat.stats().connections, 0);
    // The guest itself is translated as ever.
    let (_, _, frame) = only(lab.run(3, &[from_guest(&udp(VLAN_GUEST, PEER))]));
    assert_eq!(ends(parts(&frame).2), (OUTSIDE, PEER));
    // Everybody outside reaches the network; of others that are not translated, nobody does.
    let (port, _, frame) = lab.back(&udp(PEER, PLAIN));
    assert_eq!((port.0, parts(&frame).0, ends(parts(&frame).2), parts(&frame).2[8]), (3, mac(5), (PEER, PLAIN), 63));
    assert!(lab.run(UPLINK_PORT, &[ethernet(UPLINK_MAC, NEXT_HOP_MAC, &udp(PEER, BEHIND))]).is_empty());
    assert_eq!(lab.bridge.dropped(DropReason::NotForUs), 1);
    assert!(lab.run(UPLINK_PORT, &[ethernet(UPLINK_MAC, NEXT_HOP_MAC, &udp(guest(2), PLAIN))]).is_empty());
    assert!(lab.run(UPLINK_PORT, &[ethernet(UPLINK_MAC, NEXT_HOP_MAC, &udp(OUTSIDE, PLAIN))]).is_empty());
    assert_eq!(lab.bridge.dropped(DropReason::MartianSource), 2);
    // Errors about its packets: to both ends, from the router's address on their side.
    let with_ttl = |mut packet: Vec<u8>, ttl: u8| {
        packet[8] = ttl;
        set_ip_checksum(&mut packet);
        packet
    };
    let (port, _, frame) = lab.back(&with_ttl(udp(PEER, PLAIN), 1));
    let packet = parts(&frame).2;
    assert_eq!((port.0, ends(packet), packet[20]), (UPLINK_PORT, (OUTSIDE, PEER), 11));
    let (_, _, frame) = only(lab.run(3, &[from_guest(&with_ttl(udp(PLAIN, PEER), 1))]));
    assert_eq!((ends(parts(&frame).2), parts(&frame).2[20]), ((testkit::lab::VLAN_GATEWAY, PLAIN), 11));
    let mut large = packets::udp(Endpoint::new(PEER, 4000), Endpoint::new(PLAIN, 53), &[0; 1600]);
    put(&mut large, 6, 0x4000);
    set_ip_checksum(&mut large);
    let (port, _, frame) = lab.back(&large);
    let packet = parts(&frame).2;
    assert_eq!((port.0, ends(packet), packet[20], packet[21]), (UPLINK_PORT, (OUTSIDE, PEER), 3, 4));
}

#[test]
fn what_a_network_reaches_holds_behind_its_guests() {
    for (reach, between, outside) in [(Reach::All, true, true), (Reach::Outside, false, true), (Reach::Nothing, false, false)] {
        let mut lab = lab_with(usual(), [reach, Reach::All]);
        let is_sent =
            |writes: Vec<(vswitch::PortId, packet::VnetHeader, Vec<u8>)>| writes.iter().all(|(_, _, frame)| frame[23] == 17);
        assert_eq!(is_sent(lab.run(3, &[ethernet(VLAN_GATEWAY_MAC, mac(5), &udp(VLAN_GUEST, BEHIND))])), between, "{reach:?}");
        assert_eq!(is_sent(lab.run(1, &[ethernet(GATEWAY_MAC, mac(3), &udp(BEHIND, VLAN_GUEST))])), between, "{reach:?}");
        assert_eq!(is_sent(lab.run(1, &[ethernet(GATEWAY_MAC, mac(3), &udp(BEHIND, PEER))])), outside, "{reach:?}");
        assert!(is_sent(lab.run(0, &[ethernet(GATEWAY_MAC, mac(2), &udp(guest(2), BEHIND))])), "{reach:?}: the same network");
        let mut lab = lab_with(usual(), [Reach::All, reach]);
        let inbound = lab.run(UPLINK_PORT, &[ethernet(UPLINK_MAC, NEXT_HOP_MAC, &udp(PEER, PLAIN))]);
        assert_eq!(!inbound.is_empty(), outside, "{reach:?}");
    }
}

#[test]
fn the_longest_prefix_wins() {
    let mut lab = lab_with(
        vec![route(BEHIND, 16, guest(3), 0, true), route(BEHIND, 24, VLAN_GUEST, 1, true), route(BEHIND, 32, guest(3), 0, true)],
        [Reach::All; 2],
    );
    for (last, port) in [([10, 9, 1, 1], 1), ([10, 9, 0, 6], 3), ([10, 9, 0, 5], 1)] {
        let (to, _, _) = only(lab.run(0, &[ethernet(GATEWAY_MAC, mac(2), &udp(guest(2), last.into()))]));
        assert_eq!(to.0, port, "{last:?}");
    }
    assert!(lab.run(1, &[ethernet(GATEWAY_MAC, mac(3), &udp(Ipv4Addr::new(10, 9, 0, 6), PEER))]).is_empty());
    assert_eq!(lab.bridge.dropped(DropReason::MartianSource), 1);
    // Guests behind the router's own MAC address learn nothing of hosts behind others.
    let _ = lab.run(1, &[request(mac(3), BEHIND, GATEWAY)]);
    assert!(lab.neighbours.peek(InterfaceId(0), BEHIND).is_none());
}

#[test]
fn addresses_that_lost_their_network() {
    let all = [Reach::All; 2];
    let before = routed(vec![route(BEHIND, 16, guest(3), 0, true), route(BEHIND, 24, VLAN_GUEST, 1, true)], all);
    let lost = |routes: Vec<GuestRoute>, reach| {
        let lost = routed(routes, reach).lost_since(&before);
        lost.iter().map(|range| format!("{}-{}", range.start(), range.end())).collect::<Vec<_>>()
    };
    let kept = vec![route(BEHIND, 16, guest(9), 0, false), route(BEHIND, 24, VLAN_GUEST, 1, true)];
    assert_eq!(lost(kept.clone(), all), [""; 0], "by another guest of the same network");
    assert_eq!(lost(kept[..1].to_vec(), all), ["10.9.0.0-10.9.0.255"]);
    assert_eq!(lost(kept[1..].to_vec(), all), ["10.9.1.0-10.9.255.255"]);
    assert_eq!(lost(kept, [Reach::Nothing, Reach::All]), ["10.9.1.0-10.9.255.255"]);
    assert_eq!(lost(Vec::new(), all), ["10.9.0.0-10.9.0.255", "10.9.1.0-10.9.255.255"]);
}
