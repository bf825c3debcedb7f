//! A bridge with a router and a translation: two guests, a network on VLAN 10, and an uplink.
//!
//! ```text
//!  guest 2 --- port 0 -+            +- port 2 --- 203.0.113.254, and all the world
//!  guest 3 --- port 1 -+-- 10.0.0.1 |
//!                      +------------+ 203.0.113.1
//!  guest 5 --- port 3 -+-- 10.0.10.1
//!   tagged --- port 4 -+
//! ```
#![allow(dead_code, reason = "each test uses some of it")]

use std::net::Ipv4Addr;
use std::sync::Arc;

use nat::{External, ExternalKind, Nat, NatConfig};
use packet::arp::{ARP_LEN, Arp, ArpOperation};
use packet::vlan::VlanId;
use packet::{MacAddr, Timestamp};
use vswitch::{
    BridgeId, Domain, Interface, Neighbours, Network, Port, PortId, PortKind, PortVlan, Route, Router, Routing, Uplink,
};

use crate::bridge::{Bridge, Write, port};

pub(crate) const GATEWAY: Ipv4Addr = Ipv4Addr::new(10, 0, 0, 1);
pub(crate) const VLAN_GATEWAY: Ipv4Addr = Ipv4Addr::new(10, 0, 10, 1);
pub(crate) const OUTSIDE: Ipv4Addr = Ipv4Addr::new(203, 0, 113, 1);
pub(crate) const NEXT_HOP: Ipv4Addr = Ipv4Addr::new(203, 0, 113, 254);
pub(crate) const PEER: Ipv4Addr = Ipv4Addr::new(198, 51, 100, 7);

pub(crate) const UPLINK_PORT: u16 = 2;
pub(crate) const GATEWAY_MAC: MacAddr = MacAddr([0x02, 0x76, 10, 0, 0, 1]);
pub(crate) const VLAN_GATEWAY_MAC: MacAddr = MacAddr([0x02, 0x76, 10, 0, 10, 1]);
pub(crate) const UPLINK_MAC: MacAddr = MacAddr([2, 0, 0, 9, 9, 9]);
pub(crate) const NEXT_HOP_MAC: MacAddr = MacAddr([2, 0, 0, 0, 0, 254]);

pub(crate) fn mac(last: u8) -> MacAddr {
    MacAddr([2, 0, 0, 0, 0, last])
}

pub(crate) fn guest(last: u8) -> Ipv4Addr {
    Ipv4Addr::new(10, 0, 0, last)
}

pub(crate) fn ten() -> VlanId {
    VlanId::new(10).unwrap()
}

pub(crate) fn uplink(mtu: u32) -> Uplink {
    let routes = vec![
        Route { to: Network::new(OUTSIDE, 24), via: None, metric: 0 },
        Route { to: Network::new(Ipv4Addr::UNSPECIFIED, 0), via: Some(NEXT_HOP), metric: 100 },
    ];
    Uplink { port: PortId(UPLINK_PORT), mac: UPLINK_MAC, address: OUTSIDE, own: vec![OUTSIDE], mtu, routes }
}

pub(crate) fn routing(uplink: Option<Uplink>) -> Arc<Routing> {
    let on = |vlan| Domain { bridge: BridgeId::default(), vlan };
    let interfaces = vec![Interface::new(on(VlanId::NONE), GATEWAY, 24), Interface::new(on(ten()), VLAN_GATEWAY, 24)];
    Routing::new(interfaces, uplink, true)
}

pub(crate) struct Lab {
    pub(crate) bridge: Bridge,
    pub(crate) nat: Arc<Nat>,
    pub(crate) neighbours: Arc<Neighbours>,
}

impl Lab {
    /// Nobody is known to anybody yet.
    pub(crate) fn new(config: NatConfig, mtu: u32) -> Lab {
        let nat = Arc::new(Nat::new(config, [1, 2]).unwrap());
        nat.set_externals(&[External { address: OUTSIDE, kind: ExternalKind::Own }], Timestamp::default()).unwrap();
        let neighbours = Arc::new(Neighbours::new([3, 4]));
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

    /// Guests and next hop have asked for who the router is, and so are known.
    pub(crate) fn ready() -> Lab {
        Lab::ready_with(NatConfig::default(), 1500)
    }

    pub(crate) fn ready_with(config: NatConfig, mtu: u32) -> Lab {
        let mut lab = Lab::new(config, mtu);
        for last in [2, 3] {
            assert_eq!(lab.run(u16::from(last) - 2, &[request(mac(last), guest(last), GATEWAY)]).len(), 1);
        }
        assert_eq!(lab.run(3, &[request(mac(5), Ipv4Addr::new(10, 0, 10, 5), VLAN_GATEWAY)]).len(), 1);
        assert_eq!(lab.run(UPLINK_PORT, &[request(NEXT_HOP_MAC, NEXT_HOP, OUTSIDE)]).len(), 1);
        lab
    }

    pub(crate) fn run(&mut self, ingress: u16, frames: &[Vec<u8>]) -> Vec<Write> {
        self.bridge.run(ingress, frames)
    }

    /// One packet of a guest to the gateway's MAC address, and the one write that it becomes.
    pub(crate) fn out(&mut self, last: u8, packet: &[u8]) -> Write {
        let frame = ethernet(GATEWAY_MAC, mac(last), packet);
        only(self.run(u16::from(last) - 2, &[frame]))
    }

    /// One packet from the next hop.
    pub(crate) fn back(&mut self, packet: &[u8]) -> Write {
        only(self.run(UPLINK_PORT, &[ethernet(UPLINK_MAC, NEXT_HOP_MAC, packet)]))
    }

    /// A frame with the tag of VLAN 10.
    pub(crate) fn tag(frame: &[u8]) -> Vec<u8> {
        [&frame[..12], &[0x81, 0, 0, 10], &frame[12..]].concat()
    }

    pub(crate) fn wait(&mut self, secs: u64) {
        self.bridge.now = self.bridge.now.after(std::time::Duration::from_secs(secs));
    }
}

#[track_caller]
pub(crate) fn only(mut writes: Vec<Write>) -> Write {
    assert_eq!(writes.len(), 1, "{writes:x?}");
    writes.remove(0)
}

pub(crate) fn ethernet(dst: MacAddr, src: MacAddr, packet: &[u8]) -> Vec<u8> {
    [&dst.0[..], &src.0, &[8, 0], packet].concat()
}

pub(crate) fn tagged(dst: MacAddr, src: MacAddr, vlan: u16, packet: &[u8]) -> Vec<u8> {
    [&dst.0[..], &src.0, &[0x81, 0], &vlan.to_be_bytes(), &[8, 0], packet].concat()
}

/// An ARP request to everybody.
pub(crate) fn request(mac: MacAddr, from: Ipv4Addr, target: Ipv4Addr) -> Vec<u8> {
    let arp = Arp::request(mac, from, target).to_bytes();
    [&[0xff; 6][..], &mac.0, &[8, 6], &arp].concat()
}

/// The answer to one.
pub(crate) fn answer(to: MacAddr, mac: MacAddr, from: Ipv4Addr, target: Ipv4Addr) -> Vec<u8> {
    let arp = Arp::request(to, target, from).reply(mac).to_bytes();
    [&to.0[..], &mac.0, &[8, 6], &arp].concat()
}

/// An ARP message in a write.
#[track_caller]
pub(crate) fn arp_of(frame: &[u8]) -> (ArpOperation, MacAddr, Ipv4Addr, Ipv4Addr) {
    let at = if frame[12..14] == [0x81, 0] { 18 } else { 14 };
    assert_eq!(frame[at - 2..at], [8, 6], "{frame:x?}");
    let arp = Arp::parse(&frame[at..at + ARP_LEN]).unwrap();
    (arp.operation, arp.sender_mac, arp.sender_ip, arp.target_ip)
}
