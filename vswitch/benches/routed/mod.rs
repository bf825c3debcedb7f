//! The same 64 UDP datagrams of 64 flows, switched to a neighbour or routed and translated to the
//! uplink: what the router costs over the switch.

use std::io::IoSlice;
use std::net::Ipv4Addr;
use std::sync::Arc;

use nat::{External, ExternalKind, Nat, NatConfig};
use packet::{Batch, Features, MacAddr, Timestamp, VnetHeader};
use vswitch::router::UPLINK;
use vswitch::{
    Counters, Egress, Interface, MacTable, MacTableConfig, Neighbours, Network, Pipeline, Port, PortId, PortVlan, Route, Router,
    Routing, Uplink,
};

const GUEST: MacAddr = MacAddr([2, 0, 0, 0, 0, 1]);
const OTHER: MacAddr = MacAddr([2, 0, 0, 0, 0, 2]);
const OUTSIDE: Ipv4Addr = Ipv4Addr::new(198, 51, 100, 2);
const SERVER: Ipv4Addr = Ipv4Addr::new(198, 51, 100, 1);
const NOW: Timestamp = Timestamp::from_secs(10);

/// What becomes of the datagrams.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Way {
    /// To another guest's MAC address.
    Switched,
    /// To the gateway's, and out.
    Routed,
}

/// A switch with a router, and a batch for it.
pub(crate) struct Site {
    pipeline: Pipeline,
    frames: Vec<Vec<u8>>,
    batch: Batch,
    egress: Egress,
}

impl Site {
    pub(crate) fn new(way: Way) -> Site {
        let table = Arc::new(MacTable::new(MacTableConfig { size: 8192, aging_secs: 300, ports: 3, seed: [1, 2] }));
        let mut pipeline = Pipeline::new(Arc::clone(&table), 3, Arc::new(Counters::new(3)));
        for id in 0..3 {
            let vlan = PortVlan::default();
            let port = Port { vlan, mtu: 1500, features: Features::ALL, coalesce: false, bursts: id == 2, is_uplink: id == 2 };
            pipeline.set_port(PortId(id), Some(port));
        }
        let interface = Interface::new(packet::VlanId::NONE, Ipv4Addr::new(10, 0, 0, 1), 24);
        let nat = Arc::new(Nat::new(NatConfig::default(), [3, 4]).expect("there is memory"));
        nat.set_externals(&[External { address: OUTSIDE, kind: ExternalKind::Own }], NOW).expect("there is room");
        let neighbours = Arc::new(Neighbours::new([5, 6]));
        neighbours.learn(UPLINK, SERVER, OTHER, true, NOW);
        let route = Route { to: Network::new(SERVER, 24), via: None, metric: 0 };
        let uplink = Uplink { port: PortId(2), mac: GUEST, address: OUTSIDE, own: vec![OUTSIDE], mtu: 1500, routes: vec![route] };
        pipeline.set_router(Router::new(Routing::new(vec![interface], Some(uplink), true), Some(nat), neighbours));
        let _ = table.learn(packet::VlanId::NONE, OTHER, PortId(1), NOW);
        let dst = if way == Way::Routed { interface.mac } else { OTHER };
        let frames = (0..64).map(|flow| datagram(dst, 5000 + flow)).collect();
        Site { pipeline, frames, batch: Batch::new(), egress: Egress::new(3) }
    }

    /// Fills the batch anew and puts it through. Returns how many frames left.
    pub(crate) fn run(&mut self) -> usize {
        self.batch.clear();
        for frame in &self.frames {
            assert!(self.batch.push(VnetHeader::default(), frame));
        }
        self.pipeline.process(PortId(0), &mut self.batch, NOW, &mut self.egress);
        let mut sent = 0;
        self.pipeline.transmit(&self.batch, &mut self.egress, |_: PortId, _: &[IoSlice<'_>]| {
            sent += 1;
            Ok(())
        });
        sent
    }
}

fn datagram(dst: MacAddr, port: u16) -> Vec<u8> {
    let ip = packet::ipv4::Ipv4Header {
        tos: 0,
        total_len: 46,
        id: 0,
        dont_fragment: true,
        ttl: 64,
        protocol: packet::udp::PROTOCOL,
        src: Ipv4Addr::new(10, 0, 0, 2),
        dst: SERVER,
    };
    let mut udp = [port.to_be_bytes(), 9u16.to_be_bytes(), 26u16.to_be_bytes(), [0, 0]].concat();
    udp.extend_from_slice(&[0x5a; 18]);
    [&dst.0[..], &GUEST.0, &[0x08, 0x00], &ip.to_bytes(), &udp].concat()
}
