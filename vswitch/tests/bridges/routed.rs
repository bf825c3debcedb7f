//! Two bridges with one router: packets go from one to the other through their gateways, frames do not.
//!
//! ```text
//!  guest 2 --- port 0 -+- br0 --- 10.0.0.1 -+
//!          --- port 1 -+                    +- router --- port 4, uplink
//!  guest 2 --- port 2 -+- br1 --- 10.1.0.1 -+
//!          --- port 3 -+
//! ```
//!
//! On both bridges the guests have the same MAC addresses and the same VLAN.

use std::net::Ipv4Addr;
use std::sync::Arc;

use nat::{Endpoint, External, ExternalKind, Nat, NatConfig};
use packet::arp::ArpOperation;
use packet::vlan::VlanId;
use packet::{MacAddr, Timestamp};
use proptest::prelude::*;
use vswitch::routing::mac_of;
use vswitch::{
    BridgeId, Domain, DropReason, Interface, MacTable, MacTableConfig, NeighbourConfig, Neighbours, Port, PortId, PortKind,
    PortVlan, Router, Routing, RoutingSettings, Uplink,
};

use testkit::bridge::{Bridge, Write, port};
use testkit::lab::{NEXT_HOP, NEXT_HOP_MAC, OUTSIDE, PEER, UPLINK_MAC, answer, arp_of, ethernet, mac, only, request, uplink};
use testkit::packets;

const UPLINK: u16 = 4;
const GATEWAYS: [Ipv4Addr; 2] = [Ipv4Addr::new(10, 0, 0, 1), Ipv4Addr::new(10, 1, 0, 1)];

fn guest(bridge: u8, last: u8) -> Ipv4Addr {
    Ipv4Addr::new(10, bridge, 0, last)
}

struct Site {
    bridge: Bridge,
    tables: [Arc<MacTable>; 2],
}

impl Site {
    fn new() -> Site {
        let on = |bridge| Port { bridge: BridgeId(bridge), ..port(PortVlan::default()) };
        let outside = Port { kind: PortKind::Uplink, ..port(PortVlan::default()) };
        let mut bridge = Bridge::new([on(0), on(0), on(1), on(1), outside]);
        let second = Arc::new(MacTable::new(MacTableConfig { ports: 5, ..MacTableConfig::default() }));
        bridge.pipeline.set_bridge(BridgeId(1), Some(Arc::clone(&second)));
        let nat = Arc::new(Nat::new(NatConfig::default(), [1, 2]).unwrap());
        nat.set_externals(&[External { address: OUTSIDE, kind: ExternalKind::Own }], Timestamp::default()).unwrap();
        let domain = |bridge| Domain { bridge: BridgeId(bridge), vlan: VlanId::NONE };
        let interfaces = [0, 1].map(|number| Some(Interface::new(domain(number), GATEWAYS[usize::from(number)], 24))).to_vec();
        let routing = Routing::new(interfaces, Some(Uplink { port: PortId(UPLINK), ..uplink(1500) }), RoutingSettings::default());
        bridge.pipeline.set_router(Router::new(
            routing,
            Some(nat),
            Arc::new(Neighbours::new(NeighbourConfig::default(), [3, 4]).unwrap()),
        ));
        let tables = [Arc::clone(&bridge.table), second];
        Site { bridge, tables }
    }

    /// Guest 2 of each bridge, and the next hop, have asked for who the router is.
    fn ready() -> Site {
        let mut site = Site::new();
        for bridge in 0..2u8 {
            let asked = request(mac(2), guest(bridge, 2), GATEWAYS[usize::from(bridge)]);
            assert_eq!(site.bridge.run(u16::from(bridge) * 2, &[asked]).len(), 1);
        }
        assert_eq!(site.bridge.run(UPLINK, &[request(NEXT_HOP_MAC, NEXT_HOP, OUTSIDE)]).len(), 1);
        site
    }

    fn run(&mut self, ingress: u16, frame: Vec<u8>) -> Vec<Write> {
        self.bridge.run(ingress, &[frame])
    }
}

fn udp(src: Ipv4Addr, dst: Ipv4Addr) -> Vec<u8> {
    packets::udp(Endpoint::new(src, 5000), Endpoint::new(dst, 53), b"hello")
}

fn macs(frame: &[u8]) -> (MacAddr, MacAddr) {
    (MacAddr(frame[..6].try_into().unwrap()), MacAddr(frame[6..12].try_into().unwrap()))
}

#[test]
fn guests_of_two_bridges_reach_each_other_through_their_gateways() {
    let mut site = Site::ready();
    for (from, to) in [(0u8, 1u8), (1, 0)] {
        let packet = udp(guest(from, 2), guest(to, 2));
        let frame = ethernet(mac_of(GATEWAYS[usize::from(from)]), mac(2), &packet);
        let (out, _, written) = only(site.run(u16::from(from) * 2, frame));
        assert_eq!(out, PortId(u16::from(to) * 2));
        assert_eq!(macs(&written), (mac(2), mac_of(GATEWAYS[usize::from(to)])));
        assert_eq!(packets::address(&written[14..], 16), guest(to, 2));
        assert_eq!(written[14 + 8], packet[8] - 1, "one hop");
    }
}

/// The one who is not known yet is asked for on his own bridge.
#[test]
fn a_neighbour_is_asked_for_on_its_bridge_only() {
    let mut site = Site::ready();
    let frame = ethernet(mac_of(GATEWAYS[0]), mac(2), &udp(guest(0, 2), guest(1, 9)));
    let asked = site.run(0, frame);
    assert_eq!(asked.iter().map(|(port, ..)| port.0).collect::<Vec<_>>(), [2, 3]);
    let from = (ArpOperation::Request, mac_of(GATEWAYS[1]), GATEWAYS[1], guest(1, 9));
    assert!(asked.iter().all(|(_, _, frame)| arp_of(frame) == from));
    // Whoever claims the address on the other bridge is not believed.
    assert!(site.run(1, answer(mac_of(GATEWAYS[1]), mac(66), guest(1, 9), GATEWAYS[1])).iter().all(|(port, ..)| port.0 < 2));
    let answered = site.run(3, answer(mac_of(GATEWAYS[1]), mac(9), guest(1, 9), GATEWAYS[1]));
    let (out, _, written) = only(answered);
    assert_eq!((out, macs(&written)), (PortId(3), (mac(9), mac_of(GATEWAYS[1]))));
}

#[test]
fn a_gateway_is_not_there_on_another_bridge() {
    let mut site = Site::ready();
    // Its ARP is a stranger's, flooded on the bridge and answered by nobody.
    let asked = site.run(0, request(mac(2), guest(0, 2), GATEWAYS[1]));
    assert_eq!(asked.iter().map(|(port, ..)| port.0).collect::<Vec<_>>(), [1]);
    assert_eq!(arp_of(&asked[0].2).0, ArpOperation::Request);
    // Its MAC address is that of anybody who is not known.
    let frame = ethernet(mac_of(GATEWAYS[1]), mac(2), &udp(guest(0, 2), guest(1, 2)));
    let (out, _, written) = only(site.run(0, frame.clone()));
    assert_eq!((out, written), (PortId(1), frame));
    // Who is of one network is a stranger on the other.
    let spoofed = ethernet(mac_of(GATEWAYS[1]), mac(2), &udp(guest(0, 2), guest(1, 2)));
    assert!(site.run(2, spoofed).is_empty());
    assert_eq!(site.bridge.dropped(DropReason::MartianSource), 1);
    // But a guest may ping any of the router's addresses by its own gateway.
    let ping = packets::query(8, 7, guest(0, 2), GATEWAYS[1], b"ping");
    let (out, _, written) = only(site.run(0, ethernet(mac_of(GATEWAYS[0]), mac(2), &ping)));
    assert_eq!((out, packets::address(&written[14..], 12)), (PortId(0), GATEWAYS[1]));
}

#[test]
fn both_bridges_share_the_way_out() {
    let mut site = Site::ready();
    for bridge in 0..2u8 {
        let frame = ethernet(mac_of(GATEWAYS[usize::from(bridge)]), mac(2), &udp(guest(bridge, 2), PEER));
        let (out, _, written) = only(site.run(u16::from(bridge) * 2, frame));
        let packet = &written[14..];
        assert_eq!((out, packets::address(packet, 12)), (PortId(UPLINK), OUTSIDE));
        let outside = Endpoint::new(OUTSIDE, packets::word(packet, 20));
        let reply = packets::udp(Endpoint::new(PEER, 53), outside, b"there");
        let (back, _, written) = only(site.run(UPLINK, ethernet(UPLINK_MAC, NEXT_HOP_MAC, &reply)));
        assert_eq!((back, packets::address(&written[14..], 16)), (PortId(u16::from(bridge) * 2), guest(bridge, 2)));
    }
}

/// Which frame comes in: by which port, from and to whom, about which addresses.
type Random = (u16, u8, u8, u8, (u8, u8), (u8, u8), bool);

fn any_frame() -> impl Strategy<Value = Random> {
    (0..=UPLINK, 0..6u8, 0..8u8, 0..4u8, (0..3u8, 1..5u8), (0..3u8, 1..5u8), any::<bool>())
}

fn random_frame((_, src, dst, kind, from, to, is_tagged): Random) -> Vec<u8> {
    let addresses = |n: u8| match n {
        5 => mac_of(GATEWAYS[0]),
        6 => mac_of(GATEWAYS[1]),
        7 => MacAddr::BROADCAST,
        station => mac(station),
    };
    let host = |(network, last): (u8, u8)| if network == 2 { PEER } else { guest(network, last) };
    let (src, dst, from, to) = (addresses(src), addresses(dst), host(from), host(to));
    let mut frame = match kind {
        0 => request(src, from, to),
        1 => answer(dst, src, to, from),
        2 => ethernet(dst, src, &udp(from, to)),
        _ => ethernet(dst, src, &packets::query(8, 7, from, to, b"ping")),
    };
    if is_tagged {
        frame.splice(12..12, [0x81, 0, 0, 10]);
    }
    frame
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(testkit::cases(64)))]

    /// What leaves by a port of another bridge comes from that bridge's gateway, or it is none of the guests' frames. What
    /// one bridge's guests say of addresses is not learned on the other.
    #[test]
    fn only_the_router_leads_to_another_bridge(frames in prop::collection::vec(any_frame(), 1..80)) {
        let mut site = Site::ready();
        for random in frames {
            let ingress = random.0;
            let before = site.tables.clone().map(|table| table.entries(site.bridge.now));
            let bridge_of = |port: u16| (port < UPLINK).then_some(usize::from(port / 2));
            for (out, _, written) in site.run(ingress, random_frame(random)) {
                let Some(to) = bridge_of(out.0) else { continue };
                if bridge_of(ingress) != Some(to) {
                    prop_assert_eq!(macs(&written).1, mac_of(GATEWAYS[to]), "a frame crossed from port {} to {}", ingress, out.0);
                }
            }
            for (number, table) in site.tables.iter().enumerate().filter(|(number, _)| bridge_of(ingress) != Some(*number)) {
                prop_assert_eq!(&table.entries(site.bridge.now), &before[number]);
            }
        }
    }
}
