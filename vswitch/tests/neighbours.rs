//! Next hops: packets that wait for them, answers of virtual routers, and guests that come back with another MAC address.

use nat::{Endpoint, NatConfig, Protocol, Published};
use packet::MacAddr;
use packet::arp::{Arp, ArpOperation};
use testkit::lab::{
    GATEWAY, GATEWAY_MAC, Lab, NEXT_HOP, NEXT_HOP_MAC, OUTSIDE, PEER, UPLINK_MAC, UPLINK_PORT, answer, arp_of, ethernet, guest,
    mac, only, request,
};
use testkit::packets::{self, word};
use vswitch::{DropReason, PortId};

/// MAC address of a virtual router (RFC 5798 section 7.3).
const VIRTUAL: MacAddr = MacAddr([0, 0, 0x5e, 0, 1, 7]);

fn udp(last: u8, port: u16) -> Vec<u8> {
    packets::udp(Endpoint::new(guest(last), port), Endpoint::new(PEER, 53), b"burst")
}

/// An ARP reply about `claimed`, in a frame from another MAC address.
fn foreign_answer(
    to: MacAddr,
    from: MacAddr,
    claimed: MacAddr,
    target: std::net::Ipv4Addr,
    asker: std::net::Ipv4Addr,
) -> Vec<u8> {
    let arp = Arp::request(to, asker, target).reply(claimed).to_bytes();
    [&to.0[..], &from.0, &[8, 6], &arp].concat()
}

#[test]
fn a_burst_waits_for_its_next_hop() {
    for count in [20, 128] {
        let mut lab = Lab::new(NatConfig::default(), 1500);
        lab.run(0, &[request(mac(2), guest(2), GATEWAY)]);
        let frames: Vec<Vec<u8>> = (0..count).map(|n| ethernet(GATEWAY_MAC, mac(2), &udp(2, 4000 + n))).collect();
        for batch in frames.chunks(64) {
            lab.run(0, batch);
        }
        let writes = lab.run(UPLINK_PORT, &[answer(UPLINK_MAC, NEXT_HOP_MAC, NEXT_HOP, OUTSIDE)]);
        let ports: Vec<u16> = writes.iter().map(|(_, _, frame)| word(frame, 34)).collect();
        assert_eq!(ports, (4000..4000 + count).collect::<Vec<_>>(), "all, and in their order");
        assert!(lab.bridge.most_resumed <= 8, "a few at a time, as they may be flooded");
        assert_eq!(lab.bridge.dropped(DropReason::NeighbourQueueFull), 0);
        assert_eq!((lab.neighbours.stats().incomplete, lab.neighbours.stats().kept), (0, 0));
    }
}

#[test]
fn an_answer_counts_by_the_sender_that_it_names() {
    // Outside.
    let mut lab = Lab::new(NatConfig::default(), 1500);
    lab.run(0, &[request(mac(2), guest(2), GATEWAY)]);
    lab.out(2, &udp(2, 4000));
    let group = MacAddr([3, 0xbf, 0, 0, 0, 1]);
    for never in [group, MacAddr::BROADCAST, MacAddr::default(), UPLINK_MAC] {
        assert!(
            lab.run(UPLINK_PORT, &[foreign_answer(UPLINK_MAC, NEXT_HOP_MAC, never, NEXT_HOP, OUTSIDE)]).is_empty(),
            "{never}"
        );
    }
    let writes = lab.run(UPLINK_PORT, &[foreign_answer(UPLINK_MAC, NEXT_HOP_MAC, VIRTUAL, NEXT_HOP, OUTSIDE)]);
    assert_eq!(only(writes).2[..6], VIRTUAL.0);
    // Inside: the frames of the virtual router have its MAC address.
    let mut lab = Lab::ready();
    let packet = packets::udp(Endpoint::new(guest(2), 4000), Endpoint::new(guest(7), 53), b"?");
    let rule = Published { protocol: Protocol::UDP, address: OUTSIDE, port: 53, guest: Endpoint::new(guest(7), 53) };
    lab.nat.publish(&rule, lab.bridge.now).unwrap();
    let ask = packets::udp(Endpoint::new(PEER, 9), Endpoint::new(OUTSIDE, 53), b"?");
    lab.run(UPLINK_PORT, &[ethernet(UPLINK_MAC, NEXT_HOP_MAC, &ask)]);
    lab.bridge.table.learn(packet::vlan::VlanId::NONE, VIRTUAL, PortId(1), lab.bridge.now);
    let writes = lab.run(1, &[foreign_answer(GATEWAY_MAC, mac(7), VIRTUAL, guest(7), GATEWAY)]);
    assert_eq!((only(writes.clone()).0.0, &writes[0].2[..6]), (1, &VIRTUAL.0[..]), "{packet:x?}");
}

/// A lab with a published port of guest 2, which has answered a moment ago.
fn published() -> (Lab, Vec<u8>) {
    let mut lab = Lab::ready();
    let rule = Published { protocol: Protocol::UDP, address: OUTSIDE, port: 53, guest: Endpoint::new(guest(2), 53) };
    lab.nat.publish(&rule, lab.bridge.now).unwrap();
    let ask = packets::udp(Endpoint::new(PEER, 9), Endpoint::new(OUTSIDE, 53), b"?");
    let ask = ethernet(UPLINK_MAC, NEXT_HOP_MAC, &ask);
    lab.wait(5);
    assert_eq!(only(lab.run(UPLINK_PORT, std::slice::from_ref(&ask))).2[..6], mac(2).0);
    (lab, ask)
}

/// A restarted guest: another MAC address, and another port. The next packet finds it.
#[test]
fn a_guest_that_comes_back_with_another_mac_address_is_found_at_once() {
    let (mut lab, ask) = published();
    lab.bridge.table.flush(Some(PortId(0)), None);
    let writes = lab.run(UPLINK_PORT, std::slice::from_ref(&ask));
    let requests = writes.iter().filter(|(_, _, frame)| frame[12..14] == [8, 6]);
    assert!(requests.clone().all(|(_, _, frame)| arp_of(frame) == (ArpOperation::Request, GATEWAY_MAC, GATEWAY, guest(2))));
    assert_eq!(requests.count(), 3, "to ports 0, 1 and 4: {writes:x?}");
    lab.run(4, &[answer(GATEWAY_MAC, mac(22), guest(2), GATEWAY)]);
    let (port, _, frame) = only(lab.run(UPLINK_PORT, std::slice::from_ref(&ask)));
    assert_eq!((port.0, &frame[..6]), (4, &mac(22).0[..]));
}

/// It sends from another MAC address while the old one is still in the MAC table.
#[test]
fn a_packet_from_another_mac_address_makes_the_router_ask() {
    let (mut lab, ask) = published();
    let there = ethernet(GATEWAY_MAC, mac(22), &udp(2, 4000));
    let writes = lab.run(4, std::slice::from_ref(&there));
    assert_eq!(writes.iter().filter(|(_, _, frame)| frame[12..14] == [8, 6]).count(), 3, "{writes:x?}");
    assert_eq!(only(lab.run(4, std::slice::from_ref(&there))).0.0, UPLINK_PORT, "once a second");
    lab.run(4, &[answer(GATEWAY_MAC, mac(22), guest(2), GATEWAY)]);
    let (port, _, frame) = only(lab.run(UPLINK_PORT, &[ask]));
    assert_eq!((port.0, &frame[..6]), (4, &mac(22).0[..]));
    // One that answers with the address that is known is trusted for a while.
    lab.wait(5);
    let forged = ethernet(GATEWAY_MAC, mac(3), &udp(2, 4001));
    lab.run(
        UPLINK_PORT,
        &[ethernet(UPLINK_MAC, NEXT_HOP_MAC, &packets::udp(Endpoint::new(PEER, 9), Endpoint::new(OUTSIDE, 53), b"?"))],
    );
    assert_eq!(lab.run(1, std::slice::from_ref(&forged)).len(), 4);
    lab.run(4, &[answer(GATEWAY_MAC, mac(22), guest(2), GATEWAY)]);
    lab.wait(5);
    assert_eq!(lab.run(1, std::slice::from_ref(&forged)).len(), 1);
}

/// A neighbour that does not answer in doubt is forgotten, and one whose port was removed at once.
#[test]
fn neighbours_go_with_their_port() {
    let (mut lab, ask) = published();
    lab.bridge.table.flush(Some(PortId(0)), None);
    for _ in 0..4 {
        lab.run(UPLINK_PORT, std::slice::from_ref(&ask));
        lab.wait(1);
        lab.bridge.poll();
    }
    assert!(lab.neighbours.entries(lab.bridge.now).iter().all(|entry| entry.address != guest(2) || entry.mac.is_none()));
    let (lab, _) = published();
    lab.neighbours.disown(&[PortId(0)]);
    assert!(lab.neighbours.entries(lab.bridge.now).iter().all(|entry| entry.address != guest(2)));
}
