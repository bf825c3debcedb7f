//! A batch on its way into a VXLAN tunnel, and one out of it.
#![allow(dead_code, reason = "each bench uses some of it")]

use std::hint::black_box;
use std::io::IoSlice;
use std::net::{IpAddr, Ipv4Addr};
use std::sync::Arc;

use packet::batch::USUAL_FRAMES;
use packet::{Batch, Datagram, Features, MacAddr, VlanId, VnetHeader};
use tunnel::{Framing, FramingKind, Locals, Peers, Train, Trains, Vni, peers, vxlan};
use vswitch::{
    BridgeId, Coalesce, Counters, Egress, Encapsulation, Inbox, MacTable, MacTableConfig, Pipeline, Port, PortId, PortKind,
    PortVlan, ReceivingSocket, SendError, StormLimits, Transmit,
};

use crate::traffic::NOW;
use testkit::frames::{Spec, noise};

const LINK: PortId = PortId(0);
const ENDPOINT: PortId = PortId(1);
const PEER: PortId = PortId(2);
const PORTS: usize = 3;
const MTU: u32 = 1450;
const VNI: Vni = Vni::new(7).unwrap();
const HERE: IpAddr = IpAddr::V4(Ipv4Addr::new(192, 0, 2, 1));
const THERE: IpAddr = IpAddr::V4(Ipv4Addr::new(192, 0, 2, 2));

/// What a batch holds.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Kind {
    Into60,
    Into60Flows,
    Into1450,
    IntoSuperFrame,
    OutOf60,
    OutOf1450,
    OutOfTrain,
}

impl Kind {
    pub(crate) const ALL: [Kind; 7] =
        [Kind::Into60, Kind::Into60Flows, Kind::Into1450, Kind::IntoSuperFrame, Kind::OutOf60, Kind::OutOf1450, Kind::OutOfTrain];

    pub(crate) fn name(self) -> &'static str {
        match self {
            Kind::Into60 => "encap 64 of one flow, 60 B",
            Kind::Into60Flows => "encap 64 flows, 60 B",
            Kind::Into1450 => "encap 64 of one flow, 1450 B",
            Kind::IntoSuperFrame => "encap TSO super-frame, 64 KB",
            Kind::OutOf60 => "decap 64, 60 B",
            Kind::OutOf1450 => "decap 64, 1450 B",
            Kind::OutOfTrain => "decap one merged train of 44, 1450 B",
        }
    }
}

/// Where frames go: their pieces are looked at as a socket would, and no more.
#[derive(Default)]
struct Nowhere {
    datagrams: usize,
    pieces: usize,
}

impl Transmit for &mut Nowhere {
    fn send(&mut self, _: PortId, pieces: &[IoSlice<'_>]) -> Result<(), SendError> {
        self.datagrams += 1;
        self.pieces += black_box(pieces).len();
        Ok(())
    }

    fn send_trains(&mut self, trains: &Trains, arena: &[u8], mut sent: impl FnMut(&Train, Result<(), SendError>)) {
        for train in trains.trains() {
            self.datagrams += usize::from(train.datagrams);
            self.pieces += trains.pieces(train, arena).map(black_box).count();
            sent(train, Ok(()));
        }
    }
}

/// A switch with a station on its link and one behind its peer, and frames of one to the other. Those on their way
/// in are put into the batch once; datagrams are opened and copied anew for each round, as the worker does it.
pub(crate) struct Overlay {
    pipeline: Pipeline,
    egress: Egress,
    batch: Batch,
    inbox: Inbox,
    datagrams: Vec<Vec<u8>>,
    segment_size: u16,
}

fn station(last: u8) -> MacAddr {
    MacAddr([2, 0, 0, 0, 0, last])
}

fn pipeline() -> Pipeline {
    let table = Arc::new(MacTable::new(MacTableConfig { ports: PORTS, ..MacTableConfig::default() }));
    table.learn(VlanId::NONE, station(1), LINK, NOW);
    table.learn(VlanId::NONE, station(2), PEER, NOW);
    let mut pipeline = Pipeline::new(table, PORTS, Arc::new(Counters::new(PORTS)));
    let link = Port {
        bridge: BridgeId::default(),
        vlan: PortVlan::default(),
        mtu: 1500,
        features: Features::ALL,
        coalesce: Coalesce::Off,
        bursts: false,
        kind: PortKind::Link,
        limits: StormLimits::NONE,
        guard: None,
        isolated: false,
    };
    let peer = Port { mtu: MTU, kind: PortKind::Peer(Encapsulation::vxlan(VNI)), ..link.clone() };
    pipeline.set_port(LINK, Some(link));
    pipeline.set_port(PEER, Some(peer));
    let known = [peers::Peer { framing: Framing::Vxlan(VNI), address: THERE, port: PEER.0 }];
    let peers = Arc::new(Peers::new(&known, &[]).unwrap_or_default());
    let locals = Arc::new(Locals::new(vxlan::PORT, [HERE]));
    let socket = ReceivingSocket { framing: FramingKind::Vxlan, peers, locals, strangers: Arc::default() };
    pipeline.set_receiving_socket(ENDPOINT, Some(socket));
    pipeline
}

impl Overlay {
    pub(crate) fn new(kind: Kind) -> Overlay {
        let (src, dst) = match kind {
            Kind::Into60 | Kind::Into60Flows | Kind::Into1450 | Kind::IntoSuperFrame => (1, 2),
            Kind::OutOf60 | Kind::OutOf1450 | Kind::OutOfTrain => (2, 1),
        };
        let spec = Spec { src: station(src).0, dst: station(dst).0, tcp: false, ..Spec::default() };
        let run = |count: usize, payload: usize, flows: usize| -> Vec<(VnetHeader, Vec<u8>)> {
            let next = |n: usize| Spec {
                id: 1 + n as u16,
                ports: (1024 + (n % flows) as u16, 443),
                payload: noise(n as u64, payload),
                ..spec.clone()
            };
            (0..count).map(|n| (VnetHeader::default(), next(n).bytes())).collect()
        };
        let frames = match kind {
            Kind::Into60 | Kind::OutOf60 => run(USUAL_FRAMES, 18, 1),
            Kind::Into60Flows => run(USUAL_FRAMES, 18, USUAL_FRAMES),
            Kind::Into1450 | Kind::OutOf1450 => run(USUAL_FRAMES, 1422, 1),
            Kind::OutOfTrain => run(44, 1422, 1),
            Kind::IntoSuperFrame => vec![Spec { tcp: true, payload: noise(1, 64_000), ..spec.clone() }.super_frame(1398)],
        };
        let datagrams: Vec<Vec<u8>> = frames.iter().map(|(_, frame)| [&vxlan::encode(VNI)[..], frame].concat()).collect();
        let segment_size = if matches!(kind, Kind::OutOfTrain) { datagrams[0].len() as u16 } else { 0 };
        let mut batch = Batch::new();
        let datagrams = match kind {
            Kind::OutOf60 | Kind::OutOf1450 => datagrams,
            Kind::OutOfTrain => vec![datagrams.concat()],
            _ => {
                assert!(frames.iter().all(|(vnet, frame)| batch.push(*vnet, frame)));
                Vec::new()
            }
        };
        let (egress, inbox) = (Egress::new(PORTS), Inbox::new());
        let mut bench = Overlay { pipeline: pipeline(), egress, batch, inbox, datagrams, segment_size };
        let (expected, pieces) = match kind {
            Kind::Into60 => (64, 1),
            Kind::Into60Flows | Kind::OutOf60 | Kind::OutOf1450 => (64, 64),
            Kind::Into1450 => (64, 2 * 64),
            Kind::IntoSuperFrame => (46, 2 * 46),
            Kind::OutOfTrain => (44, 44),
        };
        assert_eq!(bench.run(), (expected, pieces), "{kind:?}");
        bench
    }

    /// Once through the switch. Returns how many frames, as they are on a wire, and in how many pieces.
    pub(crate) fn run(&mut self) -> (usize, usize) {
        let mut nowhere = Nowhere::default();
        if self.datagrams.is_empty() {
            self.pipeline.process(LINK, &mut self.batch, NOW, &mut self.egress);
            self.pipeline.transmit(&self.batch, &mut self.egress, &mut nowhere);
        } else {
            self.receive();
            self.pipeline.process_tunnel(ENDPOINT, &mut self.inbox, NOW, &mut self.egress);
            self.pipeline.transmit(self.inbox.batch(), &mut self.egress, &mut nowhere);
        }
        (nowhere.datagrams, nowhere.pieces)
    }

    fn receive(&mut self) {
        self.inbox.clear();
        for payload in &self.datagrams {
            let datagram = Datagram { from: THERE, tos: 0, segment_size: self.segment_size, payload };
            self.inbox.decapsulate(datagram, FramingKind::Vxlan, MTU, |full| {
                black_box(full);
            });
        }
    }
}
