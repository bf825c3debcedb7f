//! The router from frame to frame, in simulated time: ARP, ICMP, translation, neighbours, VLANs.
//! The books balance after every batch.

use std::net::Ipv4Addr;

use nat::{Endpoint, NatConfig, Protocol, Published};
use packet::arp::ArpOperation;
use packet::{Ipv4Prefix, MacAddr};
use testkit::checksum::sum;
use testkit::lab::{
    GATEWAY, GATEWAY_MAC, Lab, NEXT_HOP, NEXT_HOP_MAC, OUTSIDE, PEER, UPLINK_MAC, UPLINK_PORT, VLAN_GATEWAY, VLAN_GATEWAY_MAC,
    answer, arp_of, ethernet, guest, mac, only, request, routing, routing_of, routing_with, tagged, uplink,
};
use testkit::packets;
use testkit::packets::{ACK, SYN, Tcp, address, put, set_ip_checksum, word};
use vswitch::{DropReason, Port, PortId, PortVlan, Reach, Route, RoutingSettings, StormLimits};

/// The IPv4 packet in a frame without tags; its checksums are right.
#[track_caller]
fn packet_of(frame: &[u8]) -> &[u8] {
    assert_eq!(frame[12..14], [8, 0], "{frame:x?}");
    let packet = &frame[14..];
    assert_eq!(packet.len(), usize::from(word(packet, 2)), "padded");
    assert_eq!(sum(&packet[..packets::header_len(packet)]), 0xffff, "the header's checksum");
    if word(packet, 6) & 0x3fff == 0
        && let Some(at) = packets::checksum_at(packet[9])
    {
        let field = word(packet, packets::header_len(packet) + at);
        assert_eq!(Some(field), packets::transport_checksum(packet), "the transport's checksum");
    }
    packet
}

fn macs(frame: &[u8]) -> (MacAddr, MacAddr) {
    (MacAddr(frame[..6].try_into().unwrap()), MacAddr(frame[6..12].try_into().unwrap()))
}

fn src(packet: &[u8]) -> Endpoint {
    Endpoint::new(address(packet, 12), word(packet, 20))
}

fn dst(packet: &[u8]) -> Endpoint {
    Endpoint::new(address(packet, 16), word(packet, 22))
}

fn inside(last: u8, port: u16) -> Endpoint {
    Endpoint::new(guest(last), port)
}

fn peer() -> Endpoint {
    Endpoint::new(PEER, 53)
}

/// A packet with another time to live, or with "don't fragment".
fn with(mut packet: Vec<u8>, ttl: u8, dont_fragment: bool) -> Vec<u8> {
    packet[8] = ttl;
    put(&mut packet, 6, if dont_fragment { 0x4000 } else { 0 });
    set_ip_checksum(&mut packet);
    packet
}

/// Type and code of an ICMP error from this address to that guest, and what it quotes.
#[track_caller]
fn error_of(frame: &[u8], from: Ipv4Addr, to: Ipv4Addr) -> ([u8; 2], &[u8]) {
    let packet = packet_of(frame);
    assert_eq!((packet[9], address(packet, 12), address(packet, 16)), (1, from, to));
    assert!(packet.len() <= 576);
    ([packet[20], packet[21]], &packet[28..])
}

#[test]
fn arp_is_answered_where_it_came_from() {
    let mut lab = Lab::new(NatConfig::default(), 1500);
    let (port, _, frame) = only(lab.run(0, &[request(mac(2), guest(2), GATEWAY)]));
    assert_eq!((port.0, macs(&frame)), (0, (mac(2), GATEWAY_MAC)));
    assert_eq!(arp_of(&frame), (ArpOperation::Reply, GATEWAY_MAC, GATEWAY, guest(2)));
    let (port, _, frame) = only(lab.run(UPLINK_PORT, &[request(NEXT_HOP_MAC, NEXT_HOP, OUTSIDE)]));
    assert_eq!((port.0, arp_of(&frame)), (UPLINK_PORT, (ArpOperation::Reply, UPLINK_MAC, OUTSIDE, NEXT_HOP)));
    // Nobody else's address is answered for, inside or outside; among guests the question goes on.
    assert!(lab.run(UPLINK_PORT, &[request(NEXT_HOP_MAC, NEXT_HOP, Ipv4Addr::new(203, 0, 113, 9))]).is_empty());
    assert_eq!(lab.run(0, &[request(mac(2), guest(2), guest(3))]).len(), 2, "ports 1 and 4");
    // Who says that he is the gateway is not heard.
    assert!(lab.run(0, &[request(mac(2), GATEWAY, guest(3))]).is_empty());
    assert!(lab.run(0, &[request(GATEWAY_MAC, guest(2), guest(3))]).is_empty());
    assert_eq!(lab.bridge.dropped(DropReason::GatewaySpoofed), 2);
}

#[test]
fn the_gateway_answers_ping_and_nothing_else() {
    let mut lab = Lab::ready();
    let (port, _, frame) = lab.out(2, &packets::query(8, 77, guest(2), GATEWAY, b"abc"));
    let packet = packet_of(&frame);
    assert_eq!((port.0, macs(&frame)), (0, (mac(2), GATEWAY_MAC)));
    assert_eq!((address(packet, 12), address(packet, 16), packet[8], packet[20]), (GATEWAY, guest(2), 64, 0));
    assert_eq!((word(packet, 24), &packet[28..]), (77, &b"abc"[..]));
    let udp = packets::udp(inside(2, 1000), Endpoint::new(GATEWAY, 53), b"?");
    let (_, _, frame) = lab.out(2, &udp);
    assert_eq!(error_of(&frame, GATEWAY, guest(2)), ([3, 3], &udp[..]), "port unreachable");
    let gre = packets::ip(47, guest(2), GATEWAY, b"?");
    assert_eq!(error_of(&lab.out(2, &gre).2, GATEWAY, guest(2)), ([3, 2], &gre[..]), "protocol unreachable");
    assert_eq!(lab.bridge.dropped(DropReason::NotServed), 2);
    // And from outside, ping only.
    let (port, _, frame) = lab.back(&packets::query(8, 78, PEER, OUTSIDE, b"abc"));
    assert_eq!((port.0, packet_of(&frame)[20], word(packet_of(&frame), 24)), (UPLINK_PORT, 0, 78));
    let udp = packets::udp(peer(), Endpoint::new(OUTSIDE, 53), b"?");
    assert!(lab.run(UPLINK_PORT, &[ethernet(UPLINK_MAC, NEXT_HOP_MAC, &udp)]).is_empty());
    assert_eq!(lab.bridge.dropped(DropReason::NatNoMapping), 1);
}

#[test]
fn a_ping_to_the_gateway_in_fragments_is_answered() {
    let mut lab = Lab::ready();
    let data: Vec<u8> = (0..1600u32).map(|byte| byte as u8).collect();
    for id in 1..=3 {
        let ping = packets::query(8, 77, guest(2), GATEWAY, &data);
        let pieces = [packets::fragment(&ping, 0..1480, id, true), packets::fragment(&ping, 1480..1608, id, false)];
        let frames: Vec<Vec<u8>> = pieces.iter().map(|piece| ethernet(GATEWAY_MAC, mac(2), piece)).collect();
        let writes = lab.run(0, &frames);
        let got: Vec<&[u8]> = writes
            .iter()
            .map(|(port, _, frame)| {
                assert_eq!((port.0, macs(frame)), (0, (mac(2), GATEWAY_MAC)));
                &frame[14..]
            })
            .collect();
        assert_eq!(got.len(), 2);
        assert!(got.iter().all(|piece| piece.len() <= 1500 && sum(&piece[..20]) == 0xffff));
        let message = got.iter().map(|piece| &piece[20..]).collect::<Vec<_>>().concat();
        assert_eq!((message[0], sum(&message), &message[8..]), (0, 0xffff, &data[..]), "an echo reply");
        assert_eq!((address(got[0], 12), address(got[0], 16)), (GATEWAY, guest(2)));
    }
    // Another protocol is not put together.
    let udp = packets::udp(inside(2, 4000), Endpoint::new(GATEWAY, 53), &data);
    assert!(lab.run(0, &[ethernet(GATEWAY_MAC, mac(2), &packets::fragment(&udp, 0..1480, 9, true))]).is_empty());
    assert_eq!(lab.bridge.dropped(DropReason::NotServed), 1);
}

#[test]
fn there_and_back_for_each_protocol() {
    let mut lab = Lab::ready();
    let there = [
        packets::udp(inside(2, 4000), peer(), b"there"),
        packets::tcp(inside(2, 4000), peer(), &Tcp::new(SYN, 1000, 0), &[]),
        packets::query(8, 4000, guest(2), PEER, b"there"),
    ];
    for packet in there {
        let (port, _, frame) = lab.out(2, &packet);
        let translated = packet_of(&frame);
        assert_eq!((port.0, macs(&frame)), (UPLINK_PORT, (NEXT_HOP_MAC, UPLINK_MAC)));
        assert_eq!((address(translated, 12), address(translated, 16), translated[8]), (OUTSIDE, PEER, 63));
        let back = match packet[9] {
            packets::UDP => packets::udp(peer(), src(translated), b"back"),
            packets::TCP => packets::tcp(peer(), src(translated), &Tcp::new(SYN | ACK, 5000, 1001), &[]),
            _ => packets::query(0, word(translated, 24), PEER, OUTSIDE, b"back"),
        };
        let (port, _, frame) = lab.back(&back);
        let translated = packet_of(&frame);
        assert_eq!((port.0, macs(&frame)), (0, (mac(2), GATEWAY_MAC)));
        assert_eq!((address(translated, 12), address(translated, 16), translated[8]), (PEER, guest(2), 63));
        let port = if packet[9] == packets::ICMP { word(translated, 24) } else { dst(translated).port };
        assert_eq!(port, 4000);
    }
}

#[test]
fn who_runs_out_of_hops_is_told() {
    let mut lab = Lab::ready();
    let packet = with(packets::udp(inside(2, 4000), peer(), b"far"), 1, false);
    let (port, _, frame) = lab.out(2, &packet);
    assert_eq!((port.0, macs(&frame)), (0, (mac(2), GATEWAY_MAC)));
    assert_eq!(error_of(&frame, GATEWAY, guest(2)), ([11, 0], &packet[..]));
    // From outside the sender is told by the outside address, with what it sent.
    let (_, _, frame) = lab.out(2, &packets::udp(inside(2, 4000), peer(), b"open"));
    let back = with(packets::udp(peer(), src(packet_of(&frame)), b"back"), 1, false);
    let (port, _, frame) = lab.back(&back);
    assert_eq!((port.0, error_of(&frame, OUTSIDE, PEER)), (UPLINK_PORT, ([11, 0], &back[..])));
    assert_eq!(lab.bridge.dropped(DropReason::TtlExceeded), 2);
}

#[test]
fn no_error_about_an_error_nor_too_many() {
    let mut lab = Lab::ready();
    let error = with(packets::error([3, 3], 0, guest(2), PEER, &packets::udp(peer(), inside(2, 1), b"?")), 1, false);
    assert!(lab.run(0, &[ethernet(GATEWAY_MAC, mac(2), &error)]).is_empty());
    let packet = with(packets::udp(inside(2, 4000), peer(), b"far"), 1, false);
    let writes = lab.run(0, &vec![ethernet(GATEWAY_MAC, mac(2), &packet); 64]);
    assert!((1..=10).contains(&writes.len()), "{} at once", writes.len());
}

#[test]
fn without_an_uplink_the_network_is_unreachable() {
    let mut lab = Lab::ready();
    lab.bridge.pipeline.set_routing(routing(None));
    let packet = packets::udp(inside(2, 4000), peer(), b"far");
    assert_eq!(error_of(&lab.out(2, &packet).2, GATEWAY, guest(2)), ([3, 0], &packet[..]));
    assert_eq!(lab.bridge.dropped(DropReason::NoRoute), 1);
    // Guests of other networks are reached all the same, and the gateway answers.
    let to_ten = packets::udp(inside(2, 4000), Endpoint::new(Ipv4Addr::new(10, 0, 10, 5), 9), b"near");
    assert_eq!(lab.out(2, &to_ten).0.0, 3);
}

#[test]
fn who_has_too_many_connections_is_told() {
    let mut lab = Lab::ready_with(NatConfig { max_connections_per_port: 1, ..NatConfig::default() }, 1500);
    lab.out(2, &packets::udp(inside(2, 4000), peer(), b"one"));
    lab.back(&packets::udp(peer(), Endpoint::new(OUTSIDE, 4000), b"answered"));
    let packet = packets::udp(inside(2, 4001), peer(), b"two");
    assert_eq!(error_of(&lab.out(2, &packet).2, GATEWAY, guest(2)), ([3, 13], &packet[..]));
    assert_eq!(lab.bridge.dropped(DropReason::NatPortShare), 1);
    assert_eq!(lab.out(3, &packets::udp(inside(3, 4000), peer(), b"other")).0.0, UPLINK_PORT);
}

#[test]
fn too_long_and_not_to_be_cut() {
    let mut lab = Lab::ready_with(NatConfig::default(), 1400);
    let packet = with(packets::udp(inside(2, 4000), peer(), &[7; 1400]), 64, true);
    let (port, _, frame) = lab.out(2, &packet);
    let (kind, quote) = error_of(&frame, GATEWAY, guest(2));
    assert_eq!((port.0, kind, word(packet_of(&frame), 26)), (0, [3, 4], 1400));
    assert_eq!(quote, &packet[..548], "as the guest sent it");
    assert_eq!(lab.nat.stats().connections, 0, "nothing was opened for it");
    assert_eq!(lab.bridge.dropped(DropReason::FragmentationNeeded), 1);
}

#[test]
fn too_long_and_cut_on_its_way_out() {
    let mut lab = Lab::ready_with(NatConfig::default(), 700);
    let payload: Vec<u8> = (0..1400u16).map(|n| n as u8).collect();
    let packet = with(packets::udp(inside(2, 4000), peer(), &payload), 64, false);
    let writes = lab.run(0, &[ethernet(GATEWAY_MAC, mac(2), &packet)]);
    assert_eq!(writes.len(), 3);
    let mut whole = Vec::new();
    for (port, _, frame) in &writes {
        let piece = packet_of(frame);
        assert_eq!((port.0, macs(frame), address(piece, 12)), (UPLINK_PORT, (NEXT_HOP_MAC, UPLINK_MAC), OUTSIDE));
        assert!(piece.len() <= 700);
        assert_eq!(usize::from(word(piece, 6) & 0x1fff) * 8, whole.len());
        assert_eq!(word(piece, 6) & 0x2000 != 0, whole.len() + piece.len() - 20 < 1408, "more fragments");
        whole.extend(&piece[20..]);
    }
    let together = packets::ip(packets::UDP, OUTSIDE, PEER, &whole);
    assert_eq!((&whole[8..], &together[20..]), (&payload[..], &whole[..]), "the checksum holds for the whole");
}

#[test]
fn fragments_before_the_first_wait_for_it() {
    let mut lab = Lab::ready();
    let whole = packets::udp(inside(2, 4000), peer(), &[9; 100]);
    let piece = |range: std::ops::Range<usize>, more| packets::fragment(&whole, range, 77, more);
    let frame = |packet: &[u8]| ethernet(GATEWAY_MAC, mac(2), packet);
    assert!(lab.run(0, &[frame(&piece(80..108, false)), frame(&piece(40..80, true))]).is_empty());
    let writes = lab.run(0, &[frame(&piece(0..40, true))]);
    let offsets: Vec<u16> = writes.iter().map(|(_, _, frame)| word(packet_of(frame), 6) & 0x1fff).collect();
    assert_eq!(offsets, [0, 10, 5], "the first, then the others in their order");
    for (port, _, frame) in &writes {
        let packet = packet_of(frame);
        assert_eq!((port.0, address(packet, 12), packet[8]), (UPLINK_PORT, OUTSIDE, 63));
        assert_eq!(macs(frame), (NEXT_HOP_MAC, UPLINK_MAC));
    }
    // From outside, too, and to a guest.
    let outside = src(packet_of(&writes[0].2));
    let whole = packets::udp(peer(), outside, &[8; 100]);
    let piece =
        |range: std::ops::Range<usize>, more| ethernet(UPLINK_MAC, NEXT_HOP_MAC, &packets::fragment(&whole, range, 5, more));
    assert!(lab.run(UPLINK_PORT, &[piece(40..108, false)]).is_empty());
    let writes = lab.run(UPLINK_PORT, &[piece(0..40, true)]);
    let to: Vec<_> = writes.iter().map(|(port, _, frame)| (port.0, address(packet_of(frame), 16), macs(frame).0)).collect();
    assert_eq!(to, [(0, guest(2), mac(2)); 2]);
}

#[test]
fn packets_wait_for_their_next_hop_in_their_order() {
    let mut lab = Lab::new(NatConfig::default(), 1500);
    lab.run(0, &[request(mac(2), guest(2), GATEWAY)]);
    let packets: Vec<Vec<u8>> = (0..4).map(|n| packets::udp(inside(2, 4000 + n), peer(), b"wait")).collect();
    let frames: Vec<Vec<u8>> = packets.iter().map(|packet| ethernet(GATEWAY_MAC, mac(2), packet)).collect();
    let (port, _, question) = only(lab.run(0, &frames));
    assert_eq!((port.0, arp_of(&question)), (UPLINK_PORT, (ArpOperation::Request, UPLINK_MAC, OUTSIDE, NEXT_HOP)));
    assert_eq!(macs(&question), (MacAddr::BROADCAST, UPLINK_MAC));
    let writes = lab.run(UPLINK_PORT, &[answer(UPLINK_MAC, NEXT_HOP_MAC, NEXT_HOP, OUTSIDE)]);
    let ports: Vec<u16> = writes.iter().map(|(_, _, frame)| src(packet_of(frame)).port).collect();
    assert_eq!(ports, [4000, 4001, 4002, 4003]);
    assert!(writes.iter().all(|(port, _, frame)| port.0 == UPLINK_PORT && macs(frame) == (NEXT_HOP_MAC, UPLINK_MAC)));
}

#[test]
fn a_silent_next_hop_is_asked_three_times_and_then_given_up() {
    let mut lab = Lab::new(NatConfig::default(), 1500);
    lab.run(0, &[request(mac(2), guest(2), GATEWAY)]);
    let packet = packets::udp(inside(2, 4000), peer(), b"wait");
    let mut asked = 0;
    let (_, _, frame) = lab.out(2, &packet);
    asked += u32::from(arp_of(&frame).0 == ArpOperation::Request);
    for _ in 0..2 {
        assert!(lab.bridge.poll().is_empty(), "once a second");
        lab.wait(1);
        let (port, _, frame) = only(lab.bridge.poll());
        assert_eq!((port.0, arp_of(&frame)), (UPLINK_PORT, (ArpOperation::Request, UPLINK_MAC, OUTSIDE, NEXT_HOP)));
        asked += 1;
    }
    lab.wait(1);
    let (port, _, frame) = only(lab.bridge.poll());
    let (kind, quote) = error_of(&frame, GATEWAY, guest(2));
    assert_eq!((asked, port.0, kind), (3, 0, [3, 1]), "host unreachable");
    // What went on its way had one hop less, and is quoted with the guest's own address.
    assert_eq!((&quote[12..], macs(&frame)), (&packet[12..], (mac(2), GATEWAY_MAC)));
    assert_eq!(lab.bridge.dropped(DropReason::NeighbourUnresolved), 1);
}

#[test]
fn what_waits_counts_at_the_port_that_it_came_in_through() {
    let mut lab = Lab::ready();
    let packet = packets::udp(inside(3, 4000), inside(77, 53), b"wait");
    lab.run(1, &[ethernet(GATEWAY_MAC, mac(3), &packet)]);
    let made = lab.bridge.counts(1).made.load();
    for _ in 0..4 {
        lab.wait(1);
        lab.bridge.poll();
    }
    let of = |lab: &Lab, port: u16| lab.bridge.counts(port).dropped(DropReason::NeighbourUnresolved);
    assert_eq!((of(&lab, 0), of(&lab, 1)), (0, 1));
    assert_eq!(lab.bridge.counts(1).made.load() - made, 2 + 1 + 1, "requests, the packet, the error");
    // One that comes back as a flood is limited as any other of that port.
    let limits = StormLimits { unknown: Some(0), ..StormLimits::NONE };
    lab.bridge.pipeline.set_port(PortId(1), Some(Port { limits, ..testkit::bridge::port(PortVlan::default()) }));
    lab.run(1, &[ethernet(GATEWAY_MAC, mac(3), &packet)]);
    let other = request(mac(78), guest(77), GATEWAY);
    let from_elsewhere = [&other[..6], &mac(79).0, &other[12..]].concat();
    lab.run(4, &[from_elsewhere]);
    assert_eq!(lab.bridge.counts(1).dropped(DropReason::StormUnknown), 1);
    // What a removed port left is nobody's.
    lab.run(1, &[ethernet(GATEWAY_MAC, mac(3), &packets::udp(inside(3, 4000), inside(80, 53), b"wait"))]);
    lab.neighbours.disown(&[PortId(1)]);
    for _ in 0..4 {
        lab.wait(1);
        lab.bridge.poll();
    }
    assert_eq!((of(&lab, 0), of(&lab, 1)), (1, 1));
}

#[test]
fn an_uplink_that_goes_while_it_is_asked_for() {
    let mut lab = Lab::new(NatConfig::default(), 1500);
    lab.run(0, &[request(mac(2), guest(2), GATEWAY)]);
    lab.out(2, &packets::udp(inside(2, 4000), peer(), b"wait"));
    lab.bridge.pipeline.set_routing(routing(None));
    for _ in 0..4 {
        lab.wait(1);
        assert!(lab.bridge.poll().iter().all(|(port, ..)| port.0 != UPLINK_PORT));
    }
}

#[test]
fn a_known_neighbour_is_asked_again_while_it_is_used() {
    let mut lab = Lab::ready();
    lab.wait(61);
    lab.out(2, &packets::udp(inside(2, 4000), peer(), b"used"));
    let (port, _, frame) = only(lab.bridge.poll());
    assert_eq!((port.0, macs(&frame).0), (UPLINK_PORT, NEXT_HOP_MAC), "itself, not everybody");
    lab.run(UPLINK_PORT, &[answer(UPLINK_MAC, NEXT_HOP_MAC, NEXT_HOP, OUTSIDE)]);
    lab.wait(1);
    assert!(lab.bridge.poll().is_empty());
    // Without an answer it is forgotten, and the next packet asks everybody.
    lab.wait(61);
    for _ in 0..3 {
        lab.out(2, &packets::udp(inside(2, 4000), peer(), b"used"));
        assert_eq!(macs(&only(lab.bridge.poll()).2).0, NEXT_HOP_MAC);
        lab.wait(1);
    }
    assert!(lab.bridge.poll().is_empty());
    let (_, _, frame) = lab.out(2, &packets::udp(inside(2, 4000), peer(), b"used"));
    assert_eq!((arp_of(&frame).0, macs(&frame).0), (ArpOperation::Request, MacAddr::BROADCAST));
}

#[test]
fn a_network_of_its_own_on_a_vlan() {
    let mut lab = Lab::ready();
    let five = Ipv4Addr::new(10, 0, 10, 5);
    let six = Ipv4Addr::new(10, 0, 10, 6);
    // Tagged in, untagged out of the uplink; and back with the tag.
    let arp = Lab::tag(&request(mac(6), six, VLAN_GATEWAY));
    let (port, _, frame) = only(lab.run(4, &[arp]));
    assert_eq!((port.0, &frame[12..18], arp_of(&frame).1), (4, &[0x81, 0, 0, 10, 8, 6][..], VLAN_GATEWAY_MAC));
    let packet = packets::udp(Endpoint::new(six, 4000), peer(), b"tagged");
    let (port, _, frame) = only(lab.run(4, &[tagged(VLAN_GATEWAY_MAC, mac(6), 10, &packet)]));
    assert_eq!((port.0, address(packet_of(&frame), 12)), (UPLINK_PORT, OUTSIDE));
    let back = packets::udp(peer(), src(packet_of(&frame)), b"back");
    let (port, _, frame) = lab.back(&back);
    assert_eq!((port.0, &frame[12..18]), (4, &[0x81, 0, 0, 10, 8, 0][..]));
    assert_eq!((macs(&frame), address(&frame[18..], 16)), ((mac(6), VLAN_GATEWAY_MAC), six));
    // From network to network without translation: out of an access port without a tag.
    let across = packets::udp(inside(2, 4000), Endpoint::new(five, 9), b"across");
    let (port, _, frame) = lab.out(2, &across);
    assert_eq!((port.0, macs(&frame)), (3, (mac(5), VLAN_GATEWAY_MAC)));
    assert_eq!(packet_of(&frame), with(across, 63, false));
    // The other VLAN's gateway is no gateway here.
    let wrong = ethernet(VLAN_GATEWAY_MAC, mac(2), &packets::udp(inside(2, 4000), peer(), b"?"));
    assert!(lab.run(0, &[wrong]).iter().all(|(port, ..)| port.0 != UPLINK_PORT));
}

#[test]
fn a_priority_tagged_arp_request_is_answered_as_its_port_is() {
    let mut lab = Lab::ready();
    let ask = request(mac(5), Ipv4Addr::new(10, 0, 10, 5), VLAN_GATEWAY);
    let with_priority = [&ask[..12], &[0x81, 0, 0xa0, 0], &ask[12..]].concat();
    let (port, _, frame) = only(lab.run(3, &[with_priority]));
    assert_eq!((port.0, &frame[12..14], arp_of(&frame).1), (3, &[8, 6][..], VLAN_GATEWAY_MAC), "untagged on an access port");
}

/// As `ping -R` and `ping -T tsandaddr` ask for it.
#[test]
fn the_router_leaves_its_mark_in_options() {
    let mut lab = Lab::ready();
    let route = [1, 7, 11, 4, 0, 0, 0, 0, 0, 0, 0, 0];
    let ping = |options: &[u8], to| {
        packets::ip_with(options, packets::ICMP, guest(2), to, &packets::query(8, 7, guest(2), to, b"abc")[20..])
    };
    let marked = |address: Ipv4Addr| [&[1, 7, 11, 8][..], &address.octets(), &[0; 4]].concat();
    // By the address on the link that it leaves by: out, and at the gateway itself.
    let (port, _, frame) = lab.out(2, &ping(&route, PEER));
    assert_eq!((port.0, &packet_of(&frame)[20..32]), (UPLINK_PORT, &marked(OUTSIDE)[..]));
    let id = word(packet_of(&frame), 36);
    let (_, _, frame) = lab.out(2, &ping(&route, GATEWAY));
    assert_eq!(packet_of(&frame)[20..32], marked(GATEWAY));
    assert_eq!(lab.out(2, &ping(&route, Ipv4Addr::new(10, 0, 10, 5))).2[34..46], marked(Ipv4Addr::new(10, 0, 10, 1)));
    // The reply from outside, with what was marked before.
    let back = packets::query(0, id, PEER, OUTSIDE, b"abc");
    let (_, _, frame) = lab.back(&packets::ip_with(&marked(OUTSIDE), packets::ICMP, PEER, OUTSIDE, &back[20..]));
    let both = [&[1, 7, 11, 12][..], &OUTSIDE.octets(), &GATEWAY.octets()].concat();
    assert_eq!(packet_of(&frame)[20..32], both);
    let (_, _, frame) = lab.out(2, &ping(&[68, 12, 5, 1, 0, 0, 0, 0, 0, 0, 0, 0], PEER));
    let time = &packet_of(&frame)[20..32];
    assert_eq!((&time[..4], &time[4..8], time[8] >> 7), (&[68, 12, 13, 1][..], &OUTSIDE.octets()[..], 1), "no time of day");
    // Room for a part of an address is an error.
    assert!(lab.run(0, &[ethernet(GATEWAY_MAC, mac(2), &ping(&[7, 7, 5, 0, 0, 0, 0, 0], PEER))]).is_empty());
    assert_eq!(lab.bridge.dropped(DropReason::IpOptions), 1);
}

/// A kernel takes such frames off the wire as if they had no tag.
#[test]
fn a_priority_tag_at_the_uplink_is_no_vlan() {
    let mut lab = Lab::ready();
    let with_tag = |frame: &[u8], tag: u16| [&frame[..12], &[0x81, 0], &tag.to_be_bytes(), &frame[12..]].concat();
    let (_, _, frame) = lab.out(2, &packets::udp(inside(2, 4000), peer(), b"there"));
    let back = ethernet(UPLINK_MAC, NEXT_HOP_MAC, &packets::udp(peer(), src(packet_of(&frame)), b"back"));
    let (port, _, frame) = only(lab.run(UPLINK_PORT, &[with_tag(&back, 0xa000)]));
    assert_eq!((port.0, macs(&frame), dst(packet_of(&frame))), (0, (mac(2), GATEWAY_MAC), inside(2, 4000)));
    let ask = request(NEXT_HOP_MAC, NEXT_HOP, OUTSIDE);
    let (port, _, frame) = only(lab.run(UPLINK_PORT, &[with_tag(&ask, 0xe000)]));
    assert_eq!((port.0, arp_of(&frame)), (UPLINK_PORT, (ArpOperation::Reply, UPLINK_MAC, OUTSIDE, NEXT_HOP)));
    // Another VLAN is another network, also behind a priority tag.
    assert!(lab.run(UPLINK_PORT, &[with_tag(&back, 7), with_tag(&ask, 7)]).is_empty());
    assert_eq!(lab.bridge.dropped(DropReason::VlanNotAllowed), 2);
    assert!(lab.run(UPLINK_PORT, &[with_tag(&with_tag(&back, 7), 0), with_tag(&with_tag(&ask, 7), 0)]).is_empty());
    assert_eq!(lab.bridge.dropped(DropReason::NotRouted), 2);
}

#[test]
fn hairpin_goes_by_the_outside_address() {
    let mut lab = Lab::ready();
    let rule = Published { protocol: Protocol::UDP, address: OUTSIDE, port: 53, guest: inside(3, 5353) };
    lab.nat.publish(&rule, lab.bridge.now).unwrap();
    let (port, _, frame) = lab.out(2, &packets::udp(inside(2, 4000), Endpoint::new(OUTSIDE, 53), b"ask"));
    let packet = packet_of(&frame);
    assert_eq!((port.0, macs(&frame), dst(packet)), (1, (mac(3), GATEWAY_MAC), inside(3, 5353)));
    assert_eq!((src(packet).address, packet[8]), (OUTSIDE, 63));
    let (port, _, frame) = lab.out(3, &packets::udp(inside(3, 5353), src(packet), b"answer"));
    assert_eq!((port.0, src(packet_of(&frame)), dst(packet_of(&frame))), (0, Endpoint::new(OUTSIDE, 53), inside(2, 4000)));
    // Even to oneself.
    let (port, _, frame) = lab.out(3, &packets::udp(inside(3, 4000), Endpoint::new(OUTSIDE, 53), b"me"));
    assert_eq!((port.0, dst(packet_of(&frame))), (1, inside(3, 5353)));
    // What nobody published is nobody's.
    let frame = ethernet(GATEWAY_MAC, mac(2), &packets::udp(inside(2, 4000), Endpoint::new(OUTSIDE, 54), b"?"));
    assert!(lab.run(0, &[frame]).is_empty());
    assert_eq!(lab.bridge.dropped(DropReason::NatNoMapping), 1);
}

#[test]
fn an_error_about_a_hairpinned_packet_reaches_its_sender() {
    let mut lab = Lab::ready();
    // Nobody is 10.0.0.9.
    let rule = Published { protocol: Protocol::UDP, address: OUTSIDE, port: 53, guest: inside(9, 53) };
    lab.nat.publish(&rule, lab.bridge.now).unwrap();
    let packet = packets::udp(inside(2, 4000), Endpoint::new(OUTSIDE, 53), b"ask");
    let questions = lab.run(0, &[ethernet(GATEWAY_MAC, mac(2), &packet)]);
    assert!(!questions.is_empty() && questions.iter().all(|(_, _, frame)| arp_of(frame).3 == guest(9)));
    for _ in 0..2 {
        lab.wait(1);
        lab.bridge.poll();
    }
    lab.wait(1);
    let (port, _, frame) = only(lab.bridge.poll());
    let error = packet_of(&frame);
    assert_eq!((port.0, address(error, 16), &error[20..22]), (0, guest(2), &[3, 1][..]));
    assert_eq!(error[28 + 12..], packet[12..], "as the guest sent it");
}

#[test]
fn a_published_port_lets_strangers_in() {
    let mut lab = Lab::ready();
    let rule = Published { protocol: Protocol::TCP, address: OUTSIDE, port: 80, guest: inside(2, 8080) };
    lab.nat.publish(&rule, lab.bridge.now).unwrap();
    let syn = packets::tcp(peer(), Endpoint::new(OUTSIDE, 80), &Tcp::new(SYN, 1, 0), &[]);
    let (port, _, frame) = lab.back(&syn);
    assert_eq!((port.0, src(packet_of(&frame)), dst(packet_of(&frame))), (0, peer(), inside(2, 8080)));
    let syn_ack = packets::tcp(inside(2, 8080), peer(), &Tcp::new(SYN | ACK, 9, 2), &[]);
    let (port, _, frame) = lab.out(2, &syn_ack);
    assert_eq!((port.0, src(packet_of(&frame))), (UPLINK_PORT, Endpoint::new(OUTSIDE, 80)));
}

#[test]
fn errors_from_outside_reach_the_guest() {
    let mut lab = Lab::ready();
    let packet = packets::udp(inside(2, 4000), peer(), b"probe");
    let (_, _, frame) = lab.out(2, &packet);
    let router = Ipv4Addr::new(192, 0, 2, 99);
    let error = packets::error([11, 0], 0, router, OUTSIDE, packet_of(&frame));
    let (port, _, frame) = lab.back(&error);
    let (kind, quote) = error_of(&frame, router, guest(2));
    assert_eq!((port.0, kind, &quote[12..]), (0, [11, 0], &packet[12..]));
}

/// What each pair of settings lets through, and that the sender is told what is not.
#[test]
fn networks_reach_what_their_routing_says() {
    let other = Ipv4Addr::new(10, 0, 10, 9);
    let is_prohibited = |lab: &mut Lab, dst: Ipv4Addr| {
        let packet = packets::udp(inside(2, 4000), Endpoint::new(dst, 53), b"ask");
        let sent = lab.run(0, &[ethernet(GATEWAY_MAC, mac(2), &packet)]);
        sent.iter().any(|(_, _, frame)| frame.len() > 60 && frame[23] == 1 && frame[34..36] == [3, 13])
    };
    for (reach, own_gateway, other_gateway, network, outside) in [
        ([Reach::All, Reach::All], false, false, false, false),
        ([Reach::All, Reach::Outside], false, true, true, false),
        ([Reach::Outside, Reach::All], false, true, true, false),
        ([Reach::Outside, Reach::Outside], false, true, true, false),
        ([Reach::Nothing, Reach::All], false, true, true, true),
        ([Reach::All, Reach::Nothing], false, true, true, false),
    ] {
        let mut lab = Lab::ready();
        lab.bridge.pipeline.set_routing(routing_of(Some(uplink(1500)), reach));
        let said = [GATEWAY, VLAN_GATEWAY, other, PEER].map(|dst| is_prohibited(&mut lab, dst));
        assert_eq!(said, [own_gateway, other_gateway, network, outside], "{reach:?}");
        let refused = said.into_iter().filter(|is| *is).count() as u64;
        assert_eq!(lab.bridge.dropped(DropReason::NotAllowed), refused);
    }
}

/// A published port leads into networks that the outside reaches, also for guests of networks that do not route to each other.
#[test]
fn published_ports_lead_where_the_outside_does() {
    let rule = Published { protocol: Protocol::UDP, address: OUTSIDE, port: 8080, guest: inside(3, 80) };
    let stranger = packets::udp(Endpoint::new(PEER, 4000), Endpoint::new(OUTSIDE, 8080), b"in");
    for (reach, passes) in [(Reach::All, true), (Reach::Outside, true), (Reach::Nothing, false)] {
        let mut lab = Lab::ready();
        lab.nat.publish(&rule, lab.bridge.now).unwrap();
        lab.bridge.pipeline.set_routing(routing_of(Some(uplink(1500)), [reach, Reach::All]));
        let _ = lab.run(UPLINK_PORT, &[ethernet(UPLINK_MAC, NEXT_HOP_MAC, &stranger)]);
        assert_eq!(lab.bridge.dropped(DropReason::NotAllowed), u64::from(!passes), "{reach:?}");
    }
}

#[test]
fn link_local_addresses_are_not_forwarded() {
    let metadata = Ipv4Addr::new(169, 254, 169, 254);
    let there = packets::tcp(inside(2, 4000), Endpoint::new(metadata, 80), &Tcp::new(SYN, 1000, 0), &[]);
    let stranger = packets::udp(Endpoint::new(metadata, 80), Endpoint::new(OUTSIDE, 8080), b"in");
    let published = |lab: &Lab| {
        let rule = Published { protocol: Protocol::UDP, address: OUTSIDE, port: 8080, guest: inside(3, 80) };
        lab.nat.publish(&rule, lab.bridge.now).unwrap();
    };
    let mut lab = Lab::ready();
    published(&lab);
    assert_eq!(error_of(&lab.out(2, &there).2, GATEWAY, guest(2)), ([3, 13], &there[..]), "prohibited");
    assert!(lab.run(UPLINK_PORT, &[ethernet(UPLINK_MAC, NEXT_HOP_MAC, &stranger)]).is_empty());
    assert_eq!(lab.bridge.dropped(DropReason::LinkLocalAddress), 2);
    // A router on the way may have no other address; its errors are needed.
    let (_, _, frame) = lab.out(2, &packets::udp(inside(2, 4000), peer(), b"probe"));
    let error = packets::error([3, 4], 1300, Ipv4Addr::new(169, 254, 0, 9), OUTSIDE, packet_of(&frame));
    assert_eq!(error_of(&lab.back(&error).2, Ipv4Addr::new(169, 254, 0, 9), guest(2)).0, [3, 4]);
    // Unless the operator wants it.
    let mut lab = Lab::ready();
    published(&lab);
    let settings = RoutingSettings { forwards_link_local: true, ..RoutingSettings::default() };
    lab.bridge.pipeline.set_routing(routing_with(Some(uplink(1500)), settings));
    assert_eq!((lab.out(2, &there).0.0, lab.back(&stranger).0.0), (UPLINK_PORT, 1));
}

#[test]
fn segment_sizes_are_lowered_to_what_fits() {
    let mut lab = Lab::ready_with(NatConfig::default(), 1400);
    let syn = |flags, acknowledgment| Tcp { options: vec![2, 4, 5, 0xb4], ..Tcp::new(flags, 1000, acknowledgment) };
    let (_, _, frame) = lab.out(2, &packets::tcp(inside(2, 4000), peer(), &syn(SYN, 0), &[]));
    assert_eq!(packet_of(&frame)[40..44], [2, 4, 5, 80], "1360");
    let back = packets::tcp(peer(), src(packet_of(&frame)), &syn(SYN | ACK, 1001), &[]);
    assert_eq!(packet_of(&lab.back(&back).2)[40..44], [2, 4, 5, 80]);
}

#[test]
fn a_route_may_be_narrower_than_the_uplink() {
    let mut lab = Lab::ready();
    let mut narrow = uplink(1500);
    narrow.routes.push(Route { mtu: 1400, ..Route::new(Ipv4Prefix::new(PEER, 32), Some(NEXT_HOP), 0) });
    lab.bridge.pipeline.set_routing(routing(Some(narrow)));
    let long = |to| with(packets::udp(inside(2, 4000), Endpoint::new(to, 53), &[0; 1373]), 64, true);
    let frame = lab.out(2, &long(PEER)).2;
    let (kind, _) = error_of(&frame, GATEWAY, guest(2));
    assert_eq!((kind, word(packet_of(&frame), 26)), ([3, 4], 1400));
    assert_eq!(lab.out(2, &long(Ipv4Addr::new(192, 0, 2, 7))).0.0, UPLINK_PORT, "the route to others is as wide as the uplink");
    let syn = |flags, acknowledgment| Tcp { options: vec![2, 4, 5, 0xb4], ..Tcp::new(flags, 1000, acknowledgment) };
    let (_, _, frame) = lab.out(2, &packets::tcp(inside(2, 4001), peer(), &syn(SYN, 0), &[]));
    assert_eq!(packet_of(&frame)[40..44], [2, 4, 5, 80], "1360");
    let back = packets::tcp(peer(), src(packet_of(&frame)), &syn(SYN | ACK, 1001), &[]);
    assert_eq!(packet_of(&lab.back(&back).2)[40..44], [2, 4, 5, 80]);
}

#[test]
fn padding_is_left_behind() {
    let mut lab = Lab::ready();
    let mut frame = ethernet(GATEWAY_MAC, mac(2), &packets::udp(inside(2, 4000), peer(), b"x"));
    frame.resize(60, 0xee);
    let (_, _, frame) = only(lab.run(0, &[frame]));
    assert_eq!(packet_of(&frame)[28..], *b"x");
}

#[test]
fn what_a_router_must_not_pass_on() {
    let mut lab = Lab::ready();
    let udp = |src: Ipv4Addr, dst: Ipv4Addr| packets::udp(Endpoint::new(src, 4000), Endpoint::new(dst, 53), b"?");
    let everybody = Ipv4Addr::BROADCAST;
    let broken = |at: usize, packet: Vec<u8>| {
        let mut packet = packet;
        packet[at] ^= 1;
        packet
    };
    let routed = packets::ip_with(&[131, 7, 4, 10, 0, 0, 9, 0], packets::UDP, guest(2), PEER, &udp(guest(2), PEER)[20..]);
    let inside_cases = [
        (DropReason::MartianSource, udp(PEER, PEER)),
        (DropReason::MartianSource, udp(GATEWAY, PEER)),
        (DropReason::MartianSource, udp(guest(255), PEER)),
        (DropReason::MartianDestination, udp(guest(2), everybody)),
        (DropReason::MartianDestination, udp(guest(2), guest(255))),
        (DropReason::MartianDestination, udp(guest(2), Ipv4Addr::new(224, 0, 0, 1))),
        (DropReason::MartianDestination, udp(guest(2), Ipv4Addr::LOCALHOST)),
        (DropReason::BadIpHeader, broken(10, udp(guest(2), PEER))),
        (DropReason::IpOptions, routed),
        (DropReason::NatBadChecksum, broken(28, udp(guest(2), PEER))),
    ];
    let outside_cases = [
        (DropReason::MartianSource, udp(OUTSIDE, OUTSIDE)),
        (DropReason::MartianSource, udp(guest(3), OUTSIDE)),
        (DropReason::MartianSource, udp(Ipv4Addr::LOCALHOST, OUTSIDE)),
        (DropReason::NotForUs, udp(PEER, guest(2))),
        (DropReason::NatNoMapping, udp(PEER, OUTSIDE)),
    ];
    let frames = |cases: &[(DropReason, Vec<u8>)], dst, src| {
        cases.iter().map(|(reason, packet)| (*reason, ethernet(dst, src, packet))).collect::<Vec<_>>()
    };
    let inside = frames(&inside_cases, GATEWAY_MAC, mac(2)).into_iter().map(|case| (0, case));
    let outside = frames(&outside_cases, UPLINK_MAC, NEXT_HOP_MAC).into_iter().map(|case| (UPLINK_PORT, case));
    for (port, (reason, frame)) in inside.chain(outside) {
        let before = lab.bridge.dropped(reason);
        assert!(lab.run(port, &[frame]).is_empty(), "{}", reason.name());
        assert_eq!(lab.bridge.dropped(reason), before + 1, "{}", reason.name());
    }
    assert_eq!(lab.nat.stats().opened, 0);
}

#[test]
fn what_is_switched_never_meets_the_uplink() {
    let mut lab = Lab::ready();
    let between = ethernet(mac(3), mac(2), &packets::udp(inside(2, 1), inside(3, 1), b"neighbours"));
    assert_eq!(only(lab.run(0, std::slice::from_ref(&between))), (vswitch::PortId(1), Default::default(), between));
    let broadcast = ethernet(MacAddr::BROADCAST, mac(2), &packets::udp(inside(2, 1), inside(255, 1), b"all"));
    assert!(lab.run(0, &[broadcast]).iter().all(|(port, ..)| port.0 != UPLINK_PORT));
    let strange = ethernet(MacAddr::BROADCAST, NEXT_HOP_MAC, &packets::udp(peer(), Endpoint::new(OUTSIDE, 1), b"all"));
    assert!(lab.run(UPLINK_PORT, &[strange]).is_empty());
}
