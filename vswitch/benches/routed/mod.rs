//! A batch that is routed and translated, and one that is only switched, under the same conditions.

use std::io::IoSlice;
use std::net::Ipv4Addr;
use std::sync::Arc;

use nat::{External, ExternalKind, Nat, NatConfig};
use packet::arp::Arp;
use packet::batch::USUAL_FRAMES;
use packet::{Batch, Features, Ipv4Prefix, MacAddr, VlanId, VnetHeader};
use vswitch::{
    BridgeId, Coalesce, Counters, Domain, Egress, Interface, MacTable, MacTableConfig, NeighbourConfig, Neighbours, Pipeline,
    Port, PortId, PortKind, PortVlan, Route, Router, Routing, RoutingSettings, StormLimits, Uplink,
};

use crate::traffic::NOW;
use testkit::packets::{self, ACK, SYN, Tcp, address, word};

const GATEWAY: Ipv4Addr = Ipv4Addr::new(10, 0, 0, 1);
const GUEST: Ipv4Addr = Ipv4Addr::new(10, 0, 0, 2);
const OUTSIDE: Ipv4Addr = Ipv4Addr::new(203, 0, 113, 1);
const NEXT_HOP: Ipv4Addr = Ipv4Addr::new(203, 0, 113, 254);
const PEER: Ipv4Addr = Ipv4Addr::new(198, 51, 100, 7);
const GATEWAY_MAC: MacAddr = MacAddr([0x02, 0x76, 10, 0, 0, 1]);
const UPLINK_MAC: MacAddr = MacAddr([2, 0, 0, 9, 9, 9]);
const GUEST_MAC: MacAddr = MacAddr([2, 0, 0, 0, 0, 2]);
const OTHER_MAC: MacAddr = MacAddr([2, 0, 0, 0, 0, 3]);
const NEXT_HOP_MAC: MacAddr = MacAddr([2, 0, 0, 0, 0, 254]);

/// What becomes of the frames.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Way {
    /// From port 0 to port 1 by the MAC table.
    Switched,
    /// From port 0 through the translation to the uplink.
    Out,
    /// From the uplink through the translation to port 0.
    In,
}

/// 64 flows, a frame of each, put into the batch anew for each round: routing changes them.
pub(crate) struct Routed {
    pipeline: Pipeline,
    batch: Batch,
    egress: Egress,
    ingress: PortId,
    frames: Vec<Vec<u8>>,
}

fn endpoint(address: Ipv4Addr, port: u16) -> nat::Endpoint {
    nat::Endpoint::new(address, port)
}

fn ethernet(dst: MacAddr, src: MacAddr, packet: &[u8]) -> Vec<u8> {
    [&dst.0[..], &src.0, &[8, 0], packet].concat()
}

/// A pipeline with a router that has this many networks inside, the guests' among them, and this many routes beside the usual
/// ones.
fn pipeline(networks: u16, further_routes: u16) -> Pipeline {
    let table = Arc::new(MacTable::new(MacTableConfig { ports: 3, ..MacTableConfig::default() }));
    table.learn(VlanId::NONE, GUEST_MAC, PortId(0), NOW);
    table.learn(VlanId::NONE, OTHER_MAC, PortId(1), NOW);
    let mut pipeline = Pipeline::new(table, 3, Arc::new(Counters::new(3)));
    for id in 0..3 {
        let port = Port {
            bridge: BridgeId::default(),
            vlan: PortVlan::default(),
            mtu: 1500,
            features: Features::ALL,
            coalesce: Coalesce::Off,
            bursts: false,
            kind: if id == 2 { PortKind::Uplink } else { PortKind::Link },
            limits: StormLimits::NONE,
            guard: None,
            isolated: false,
        };
        pipeline.set_port(PortId(id), Some(port));
    }
    let nat = Arc::new(Nat::new(NatConfig::default(), [1, 2]).unwrap());
    nat.set_externals(&[External { address: OUTSIDE, kind: ExternalKind::Own }], NOW).unwrap();
    let mut routes = vec![
        Route::new(Ipv4Prefix::new(OUTSIDE, 24), None, 0),
        Route::new(Ipv4Prefix::new(Ipv4Addr::UNSPECIFIED, 0), Some(NEXT_HOP), 0),
    ];
    let further = (0..further_routes).map(|n| Ipv4Prefix::new(Ipv4Addr::from_bits(0xac10_0000 | u32::from(n) << 8), 24));
    routes.extend(further.map(|to| Route::new(to, Some(NEXT_HOP), 0)));
    let uplink = Uplink { port: PortId(2), mac: UPLINK_MAC, address: OUTSIDE, own: vec![OUTSIDE], mtu: 1500, routes };
    let on = |vlan| Domain { bridge: BridgeId::default(), vlan };
    let further = (1..networks).filter_map(|n| Some((VlanId::new(n)?, Ipv4Addr::new(10, 1, n as u8, 1))));
    let further = further.map(|(vlan, address)| Interface::new(on(vlan), address, 24));
    let interfaces = further.chain([Interface::new(on(VlanId::NONE), GATEWAY, 24)]).map(Some).collect();
    let routing = Routing::new(interfaces, Some(uplink), RoutingSettings::default());
    pipeline.set_router(Router::new(routing, Some(nat), Arc::new(Neighbours::new(NeighbourConfig::default(), [3, 4]).unwrap())));
    pipeline
}

impl Routed {
    /// Frames with so many bytes of payload, of UDP or of established TCP.
    pub(crate) fn new(way: Way, tcp: bool, payload: usize) -> Routed {
        Routed::among((1, 0), way, tcp, payload)
    }

    /// The same, where the router has this many networks inside and further routes.
    pub(crate) fn among((networks, further_routes): (u16, u16), way: Way, tcp: bool, payload: usize) -> Routed {
        let pipeline = pipeline(networks, further_routes);
        let mut routed = Routed { pipeline, batch: Batch::new(), egress: Egress::new(3), ingress: PortId(0), frames: Vec::new() };
        let arp = |mac: MacAddr, from, to| [&[0xff; 6][..], &mac.0, &[8, 6], &Arp::request(mac, from, to).to_bytes()].concat();
        routed.put(0, vec![arp(GUEST_MAC, GUEST, GATEWAY)]);
        routed.put(2, vec![arp(NEXT_HOP_MAC, NEXT_HOP, OUTSIDE)]);
        let payload = vec![0x5a; payload];
        let frames = (0..USUAL_FRAMES as u16).map(|n| routed.frame(way, tcp, endpoint(GUEST, 4000 + n), &payload)).collect();
        routed.put(if way == Way::In { 2 } else { 0 }, frames);
        assert_eq!(routed.run(), USUAL_FRAMES as u64, "{way:?}");
        routed
    }

    /// One flow's frame; what must come before it has come.
    fn frame(&mut self, way: Way, tcp: bool, guest: nat::Endpoint, payload: &[u8]) -> Vec<u8> {
        let peer = endpoint(PEER, 443);
        let segment = |src, dst, flags, sequence, ack| packets::tcp(src, dst, &Tcp::new(flags, sequence, ack), payload);
        let udp = |src, dst| packets::udp(src, dst, payload);
        if way == Way::Switched {
            let packet = if tcp { segment(guest, peer, ACK, 1001, 5001) } else { udp(guest, peer) };
            return ethernet(OTHER_MAC, GUEST_MAC, &packet);
        }
        let opening = if tcp { packets::tcp(guest, peer, &Tcp::new(SYN, 1000, 0), &[]) } else { udp(guest, peer) };
        let translated = self.put(0, vec![ethernet(GATEWAY_MAC, GUEST_MAC, &opening)]);
        let outside = endpoint(address(&translated, 26), word(&translated, 34));
        if tcp {
            let answer = packets::tcp(peer, outside, &Tcp::new(SYN | ACK, 5000, 1001), &[]);
            self.put(2, vec![ethernet(UPLINK_MAC, NEXT_HOP_MAC, &answer)]);
            self.put(0, vec![ethernet(GATEWAY_MAC, GUEST_MAC, &segment(guest, peer, ACK, 1001, 5001))]);
        }
        match (way, tcp) {
            (Way::Out, true) => ethernet(GATEWAY_MAC, GUEST_MAC, &segment(guest, peer, ACK, 1001, 5001)),
            (Way::Out, false) => ethernet(GATEWAY_MAC, GUEST_MAC, &udp(guest, peer)),
            (_, true) => ethernet(UPLINK_MAC, NEXT_HOP_MAC, &segment(peer, outside, ACK, 5001, 1001)),
            (_, false) => ethernet(UPLINK_MAC, NEXT_HOP_MAC, &udp(peer, outside)),
        }
    }

    /// Other frames are what goes through from now on. Returns the first that is written.
    fn put(&mut self, ingress: u16, frames: Vec<Vec<u8>>) -> Vec<u8> {
        (self.ingress, self.frames) = (PortId(ingress), frames);
        let mut first = Vec::new();
        self.round(|pieces| {
            if first.is_empty() {
                first = pieces.iter().flat_map(|piece| piece.iter().copied()).collect();
            }
        });
        first.split_off(packet::VNET_LEN.min(first.len()))
    }

    fn round(&mut self, mut write: impl FnMut(&[IoSlice<'_>])) {
        self.batch.clear();
        for frame in &self.frames {
            self.batch.push(VnetHeader::default(), frame);
        }
        self.pipeline.process(self.ingress, &mut self.batch, NOW, &mut self.egress);
        self.pipeline.transmit(&self.batch, &mut self.egress, |_: PortId, pieces: &[IoSlice<'_>]| {
            write(pieces);
            Ok(())
        });
    }

    /// The batch filled and put through once. Returns writes.
    pub(crate) fn run(&mut self) -> u64 {
        let mut writes = 0;
        self.round(|pieces| {
            std::hint::black_box(pieces);
            writes += 1;
        });
        writes
    }
}
