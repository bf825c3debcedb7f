//! A bridge with a router and NAT: two guests, a network on VLAN 10, and an uplink.
//!
//! ```text
//!  guest 2 --- port 0 -+            +- port 2 --- 203.0.113.254 --- Internet
//!  guest 3 --- port 1 -+-- 10.0.0.1 |
//!                      +------------+ 203.0.113.1
//!  guest 5 --- port 3 -+-- 10.0.10.1
//!   tagged --- port 4 -+
//! ```

use std::net::Ipv4Addr;
use std::sync::Arc;

use nat::{External, ExternalKind, Nat, NatConfig};
use packet::arp::{ARP_LEN, Arp, ArpOperation};
use packet::vlan::VlanId;
use packet::{Ipv4Prefix, MacAddr, Timestamp};
use vswitch::{
    BridgeId, Domain, HostPort, Interface, NeighbourConfig, Neighbours, Port, PortId, PortKind, PortVlan, Reach, Route, Router,
    Routing, RoutingSettings, Uplink,
};

use crate::bridge::{Bridge, Write, port};

/// Gateway of the untagged network, 10.0.0.0/24.
pub const GATEWAY: Ipv4Addr = Ipv4Addr::new(10, 0, 0, 1);
/// Gateway of the network on VLAN 10, 10.0.10.0/24.
pub const VLAN_GATEWAY: Ipv4Addr = Ipv4Addr::new(10, 0, 10, 1);
/// Address of the uplink.
pub const OUTSIDE: Ipv4Addr = Ipv4Addr::new(203, 0, 113, 1);
/// The uplink's default gateway.
pub const NEXT_HOP: Ipv4Addr = Ipv4Addr::new(203, 0, 113, 254);
/// A host on the Internet.
pub const PEER: Ipv4Addr = Ipv4Addr::new(198, 51, 100, 7);

/// Port number of the uplink.
pub const UPLINK_PORT: u16 = 2;
/// MAC address of [`GATEWAY`].
pub const GATEWAY_MAC: MacAddr = MacAddr([0x02, 0x76, 10, 0, 0, 1]);
/// MAC address of [`VLAN_GATEWAY`].
pub const VLAN_GATEWAY_MAC: MacAddr = MacAddr([0x02, 0x76, 10, 0, 10, 1]);
/// MAC address of the uplink.
pub const UPLINK_MAC: MacAddr = MacAddr([2, 0, 0, 9, 9, 9]);
/// MAC address of [`NEXT_HOP`].
pub const NEXT_HOP_MAC: MacAddr = MacAddr([2, 0, 0, 0, 0, 254]);

/// MAC address of guest `last`.
pub fn mac(last: u8) -> MacAddr {
    MacAddr([2, 0, 0, 0, 0, last])
}

/// IP address of guest `last` in the untagged network.
pub fn guest(last: u8) -> Ipv4Addr {
    Ipv4Addr::new(10, 0, 0, last)
}

/// VLAN 10.
pub fn ten() -> VlanId {
    VlanId::new(10).unwrap()
}

/// An uplink with a default route and this MTU.
pub fn uplink(mtu: u32) -> Uplink {
    let routes = vec![
        Route::new(Ipv4Prefix::new(OUTSIDE, 24), None, 0),
        Route::new(Ipv4Prefix::new(Ipv4Addr::UNSPECIFIED, 0), Some(NEXT_HOP), 100),
    ];
    Uplink { port: PortId(UPLINK_PORT), mac: UPLINK_MAC, address: OUTSIDE, own: vec![OUTSIDE], mtu, routes }
}

/// Both gateways, and the uplink if there is one.
pub fn routing(uplink: Option<Uplink>) -> Arc<Routing> {
    routing_with(uplink, RoutingSettings::default())
}

/// The same where guests behind [`GATEWAY`] and those behind [`VLAN_GATEWAY`] reach what is said.
pub fn routing_of(uplink: Option<Uplink>, reach: [Reach; 2]) -> Arc<Routing> {
    let [untagged, tagged] = interfaces();
    let interfaces = [Interface { reach: reach[0], ..untagged }, Interface { reach: reach[1], ..tagged }];
    Routing::new(interfaces.map(Some).to_vec(), uplink, RoutingSettings::default())
}

/// The host's port in [`routing_with_host`], instead of the tagged one.
pub const HOST_PORT: u16 = 4;

/// The host as a port.
pub fn host_port() -> Port {
    Port { kind: PortKind::Host, ..port(PortVlan::default()) }
}

/// Both gateways, and the host as a neighbour of the guests behind [`GATEWAY`], with that address and [`OUTSIDE`].
pub fn routing_with_host(uplink: Option<Uplink>) -> Arc<Routing> {
    let [untagged, tagged] = interfaces();
    let interfaces = vec![Some(Interface { has_host: true, ..untagged }), Some(tagged)];
    let addresses = Arc::new([GATEWAY, OUTSIDE]);
    let host = HostPort { port: PortId(HOST_PORT), addresses, shared: Some(OUTSIDE) };
    Routing::new(interfaces, uplink, RoutingSettings::default()).with_host(host)
}

fn interfaces() -> [Interface; 2] {
    let on = |vlan| Domain { bridge: BridgeId::default(), vlan };
    [Interface::new(on(VlanId::NONE), GATEWAY, 24), Interface::new(on(ten()), VLAN_GATEWAY, 24)]
}

/// The same with these settings.
pub fn routing_with(uplink: Option<Uplink>, settings: RoutingSettings) -> Arc<Routing> {
    Routing::new(interfaces().map(Some).to_vec(), uplink, settings)
}

/// The bridge and the tables that it shares with other workers.
pub struct Lab {
    /// The bridge.
    pub bridge: Bridge,
    /// Its connections.
    pub nat: Arc<Nat>,
    /// Its neighbours.
    pub neighbours: Arc<Neighbours>,
}

impl Lab {
    /// A lab whose router knows no neighbours yet, with an uplink of this MTU.
    pub fn new(config: NatConfig, mtu: u32) -> Lab {
        let nat = Arc::new(Nat::new(config, [1, 2]).unwrap());
        nat.set_externals(&[External { address: OUTSIDE, kind: ExternalKind::Own }], Timestamp::default()).unwrap();
        let neighbours = Arc::new(Neighbours::new(NeighbourConfig::default(), [3, 4]).unwrap());
        let mut bridge = Bridge::new([
            port(PortVlan::default()),
            port(PortVlan::default()),
            Port { kind: PortKind::Uplink, ..port(PortVlan::default()) },
            port(PortVlan::access(ten())),
            port(PortVlan::default()),
        ]);
        bridge.pipeline.set_router(Router::new(routing(Some(uplink(mtu))), Some(Arc::clone(&nat)), Arc::clone(&neighbours)));
        Lab { bridge, nat, neighbours }
    }

    /// A lab whose router knows the guests and the next hop from their ARP requests.
    pub fn ready() -> Lab {
        Lab::ready_with(NatConfig::default(), 1500)
    }

    /// Like [`Lab::ready`], with these limits of the translation and this MTU of the uplink.
    pub fn ready_with(config: NatConfig, mtu: u32) -> Lab {
        let mut lab = Lab::new(config, mtu);
        for last in [2, 3] {
            assert_eq!(lab.run(u16::from(last) - 2, &[request(mac(last), guest(last), GATEWAY)]).len(), 1);
        }
        assert_eq!(lab.run(3, &[request(mac(5), Ipv4Addr::new(10, 0, 10, 5), VLAN_GATEWAY)]).len(), 1);
        assert_eq!(lab.run(UPLINK_PORT, &[request(NEXT_HOP_MAC, NEXT_HOP, OUTSIDE)]).len(), 1);
        lab
    }

    /// Frames into one port. Returns the writes.
    pub fn run(&mut self, ingress: u16, frames: &[Vec<u8>]) -> Vec<Write> {
        self.bridge.run(ingress, frames)
    }

    /// Sends one packet from guest 10.0.0.`last` to the gateway. Returns the one write that it becomes.
    pub fn out(&mut self, last: u8, packet: &[u8]) -> Write {
        let frame = ethernet(GATEWAY_MAC, mac(last), packet);
        only(self.run(u16::from(last) - 2, &[frame]))
    }

    /// Sends one packet from the next hop to the uplink. Returns the one write that it becomes.
    pub fn back(&mut self, packet: &[u8]) -> Write {
        only(self.run(UPLINK_PORT, &[ethernet(UPLINK_MAC, NEXT_HOP_MAC, packet)]))
    }

    /// The frame with a tag of VLAN 10.
    pub fn tag(frame: &[u8]) -> Vec<u8> {
        [&frame[..12], &[0x81, 0, 0, 10], &frame[12..]].concat()
    }

    /// Advances the clock.
    pub fn wait(&mut self, secs: u64) {
        self.bridge.now = self.bridge.now.after(std::time::Duration::from_secs(secs));
    }
}

/// The only write.
#[track_caller]
pub fn only(mut writes: Vec<Write>) -> Write {
    assert_eq!(writes.len(), 1, "{writes:x?}");
    writes.remove(0)
}

/// An IPv4 packet in an Ethernet frame.
pub fn ethernet(dst: MacAddr, src: MacAddr, packet: &[u8]) -> Vec<u8> {
    [&dst.0[..], &src.0, &[8, 0], packet].concat()
}

/// An IPv4 packet in an Ethernet frame with an 802.1Q tag.
pub fn tagged(dst: MacAddr, src: MacAddr, vlan: u16, packet: &[u8]) -> Vec<u8> {
    [&dst.0[..], &src.0, &[0x81, 0], &vlan.to_be_bytes(), &[8, 0], packet].concat()
}

/// A broadcast ARP request.
pub fn request(mac: MacAddr, from: Ipv4Addr, target: Ipv4Addr) -> Vec<u8> {
    let arp = Arp::request(mac, from, target).to_bytes();
    [&[0xff; 6][..], &mac.0, &[8, 6], &arp].concat()
}

/// An ARP reply.
pub fn answer(to: MacAddr, mac: MacAddr, from: Ipv4Addr, target: Ipv4Addr) -> Vec<u8> {
    let arp = Arp::request(to, target, from).reply(mac).to_bytes();
    [&to.0[..], &mac.0, &[8, 6], &arp].concat()
}

/// The ARP message in a frame: operation, sender MAC and IP address, target IP address.
#[track_caller]
pub fn arp_of(frame: &[u8]) -> (ArpOperation, MacAddr, Ipv4Addr, Ipv4Addr) {
    let at = if frame[12..14] == [0x81, 0] { 18 } else { 14 };
    assert_eq!(frame[at - 2..at], [8, 6], "{frame:x?}");
    let arp = Arp::parse(&frame[at..at + ARP_LEN]).unwrap();
    (arp.operation, arp.sender_mac, arp.sender_ip, arp.target_ip)
}
