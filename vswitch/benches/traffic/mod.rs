//! Batches of 64 frames by kind, and a bridge to put them through.
#![allow(dead_code, reason = "each bench uses some of it")]

use std::io::IoSlice;
use std::net::IpAddr;
use std::sync::Arc;

use capture::probe::Lost;
use capture::ring::{self, Reader};
use capture::{Probe, Want};
use packet::batch::USUAL_FRAMES;
use packet::vlan::VlanId;
use packet::{Batch, Features, MacAddr, Prefix, Timestamp, VnetHeader};
use vswitch::{
    BridgeId, Coalesce, Counters, Egress, Guard, Live, MacTable, MacTableConfig, Pipeline, Port, PortId, PortKind, PortVlan,
    StormLimits, VlanSet, Watch,
};

use testkit::frames::{Spec, noise};

/// Limits that are counted but never reached.
const LIMITS: StormLimits = StormLimits { broadcast: Some(u32::MAX), multicast: Some(u32::MAX), unknown: Some(u32::MAX) };

/// Ports of the bridge: 0 is the way in, 1 a plain one, 2 coalesces, 3 is an access port.
const PORTS: usize = 4;

/// VLAN of the access port.
const VLAN: u16 = 7;

pub(crate) const NOW: Timestamp = Timestamp::from_secs(1);

/// What a batch holds.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Kind {
    Unicast60,
    Unicast1500,
    Flood,
    Tso,
    TcpRun,
    UdpRun,
    VlanPush,
}

impl Kind {
    pub(crate) const ALL: [Kind; 7] =
        [Kind::Unicast60, Kind::Unicast1500, Kind::Flood, Kind::Tso, Kind::TcpRun, Kind::UdpRun, Kind::VlanPush];

    pub(crate) fn name(self) -> &'static str {
        match self {
            Kind::Unicast60 => "known unicast, 60 B",
            Kind::Unicast1500 => "known unicast, 1500 B",
            Kind::Flood => "flood to 2 ports, 60 B",
            Kind::Tso => "TSO pass-through, 60 KB",
            Kind::TcpRun => "TCP run coalesced, 1 KB",
            Kind::UdpRun => "UDP run coalesced, 1 KB",
            Kind::VlanPush => "VLAN push, 60 B",
        }
    }
}

fn station(n: u64) -> MacAddr {
    MacAddr::from_u64(0x0200_0000_0000 | n)
}

/// Frames of one UDP or TCP flow to station `to`.
fn flow(tcp: bool, to: u64, payload: usize, count: usize) -> Vec<(VnetHeader, Vec<u8>)> {
    let spec = Spec { src: station(0).0, dst: station(to).0, tcp, options: vec![], ..Spec::default() };
    let next =
        |n: usize| Spec { id: 1 + n as u16, sequence: (n * payload) as u32, payload: noise(n as u64, payload), ..spec.clone() };
    (0..count).map(|n| (VnetHeader::default(), next(n).bytes())).collect()
}

/// A switch with one batch before it, which can be put through again and again: `process` leaves
/// frames as it wants them.
pub(crate) struct Bench {
    pipeline: Pipeline,
    batch: Batch,
    egress: Egress,
    ingress: PortId,
    /// Where a capture's records would be read.
    captured: Option<Reader>,
}

impl Bench {
    /// A switch that knows so many stations, and an empty batch.
    pub(crate) fn with_stations(count: u64) -> Bench {
        let config = MacTableConfig {
            // Room for all, and one more in the access port's VLAN.
            size: count as usize + 1000,
            ports: PORTS,
            seed: [3, 4],
            ..MacTableConfig::default()
        };
        let table = Arc::new(MacTable::new(config));
        let access = VlanId::new(VLAN).unwrap_or_default();
        for n in 0..count {
            // Stations 1 to 3 are behind the ports of their numbers, 0 behind 0, the others behind 1.
            table.learn(VlanId::NONE, station(n), PortId(if n < 4 { n as u16 } else { 1 }), NOW);
        }
        table.learn(access, station(1), PortId(1), NOW);
        let mut pipeline = Pipeline::new(table, PORTS, Arc::new(Counters::new(PORTS)));
        for id in 0..PORTS as u16 {
            let vlan = if id == 3 { PortVlan::access(access) } else { PortVlan::trunk(VlanSet::all()) };
            pipeline.set_port(
                PortId(id),
                Some(Port {
                    bridge: BridgeId::default(),
                    vlan,
                    mtu: 1500,
                    features: Features::ALL,
                    coalesce: if id == 2 { Coalesce::Flows } else { Coalesce::Off },
                    bursts: false,
                    kind: PortKind::Link,
                    limits: LIMITS,
                    guard: None,
                    isolated: false,
                }),
            );
        }
        Bench { pipeline, batch: Batch::new(), egress: Egress::new(PORTS), ingress: PortId(0), captured: None }
    }

    /// A batch of this kind.
    pub(crate) fn of(kind: Kind) -> Bench {
        let mut bench = Bench::with_stations(100);
        let frames = match kind {
            Kind::Unicast60 => flow(false, 1, 18, USUAL_FRAMES),
            Kind::Unicast1500 => flow(false, 1, 1472, USUAL_FRAMES),
            Kind::Flood => flow(false, 0xffff, 18, USUAL_FRAMES),
            Kind::Tso => {
                let spec = Spec { src: station(0).0, dst: station(1).0, payload: noise(1, 60_000), ..Spec::default() };
                vec![spec.super_frame(1448); 4]
            }
            Kind::TcpRun => flow(true, 2, 1000, USUAL_FRAMES),
            Kind::UdpRun => flow(false, 2, 1000, USUAL_FRAMES),
            Kind::VlanPush => {
                bench.ingress = PortId(3);
                flow(false, 1, 18, USUAL_FRAMES)
            }
        };
        for (vnet, frame) in frames {
            assert!(bench.batch.push(vnet, &frame));
        }
        bench.assert_works(kind);
        bench
    }

    /// A batch of known unicast, 60 bytes, from an isolated port whose guard checks MAC address and both families.
    pub(crate) fn guarded() -> Bench {
        let mut bench = Bench::of(Kind::Unicast60);
        let addresses = [[198, 18, 0, 1], [198, 18, 0, 9]].map(|address| Prefix::new(IpAddr::from(address), 32));
        let v6 = Prefix::new(IpAddr::from([0xfd00, 0, 0, 0, 0, 0, 0, 1]), 128);
        let guard = Guard::new(Some(station(0)), &[addresses[0], addresses[1], v6]);
        if let Some(port) = bench.pipeline.port_mut(bench.ingress) {
            *port = Port { isolated: true, ..port.clone() }.guarded_by(guard);
        }
        bench.assert_works(Kind::Unicast60);
        bench
    }

    /// A batch of known unicast, 60 bytes, that a capture sees whose filter matches all of it (`udp`) or nothing.
    pub(crate) fn captured(filter: &str) -> Bench {
        let mut bench = Bench::of(Kind::Unicast60);
        // Room for the records of two batches.
        let (writer, reader) = ring::ring(4, 256 << 10);
        let want = Want { filter: filter.parse().ok(), ..Want::default() };
        let probe = Probe::new(1, Arc::new(want), writer, Lost::new(PORTS));
        assert!(bench.pipeline.begin_capture(Box::new(probe)).is_ok());
        bench.captured = Some(reader);
        bench.run();
        let records = std::iter::from_fn(|| bench.captured.as_mut()?.take()).map(|chunk| chunk.records().count()).sum::<usize>();
        assert_eq!(records, if filter == "udp" { 2 * USUAL_FRAMES } else { 0 });
        bench
    }

    /// A batch of known unicast, 60 bytes, while a live trace waits for frames of another kind.
    pub(crate) fn traced() -> Bench {
        let mut bench = Bench::of(Kind::Unicast60);
        let live = Arc::new(Live::new(1, None, "tcp".parse().ok()));
        bench.pipeline.set_watch(Some(Box::new(Watch::new([Arc::clone(&live)]))));
        bench.run();
        assert_eq!(live.remaining(), 1);
        bench
    }

    /// The batch does what its kind says.
    fn assert_works(&mut self, kind: Kind) {
        let writes = match kind {
            Kind::Unicast60 | Kind::Unicast1500 | Kind::VlanPush => 64,
            // Two plain ports' copies; the access port carries VLAN 7 only.
            Kind::Flood => 64 + 1,
            Kind::Tso => 4,
            Kind::TcpRun | Kind::UdpRun => 1,
        };
        assert_eq!(self.run().0, writes, "{kind:?}");
    }

    /// How many frames the batch holds.
    pub(crate) fn frames(&self) -> u64 {
        self.batch.spans().len() as u64
    }

    /// Puts 64 frames between the given stations into the batch.
    pub(crate) fn fill(&mut self, stations: impl Iterator<Item = (u64, u64)>) {
        self.batch.clear();
        let spec = Spec { tcp: false, payload: noise(1, 18), ..Spec::default() };
        for (src, dst) in stations.take(USUAL_FRAMES) {
            let frame = Spec { src: station(src).0, dst: station(dst).0, ..spec.clone() }.bytes();
            assert!(self.batch.push(VnetHeader::default(), &frame));
        }
    }

    /// The batch's addresses become others, without touching the rest.
    pub(crate) fn readdress(&mut self, mut next: impl FnMut() -> u64) {
        for at in 0..self.batch.spans().len() {
            let span = self.batch.spans()[at];
            self.batch.frame_mut(span)[..6].copy_from_slice(&station(next()).0);
        }
    }

    /// The batch once through the switch. Returns writes and bytes.
    pub(crate) fn run(&mut self) -> (u64, usize) {
        let (mut writes, mut bytes) = (0, 0);
        self.pipeline.process(self.ingress, &mut self.batch, NOW, &mut self.egress);
        self.pipeline.transmit(&self.batch, &mut self.egress, |_, pieces: &[IoSlice<'_>]| {
            writes += 1;
            bytes += std::hint::black_box(pieces).iter().map(|piece| piece.len()).sum::<usize>();
            Ok(())
        });
        (writes, bytes)
    }
}

/// Pseudo-random numbers below `below`.
pub(crate) fn random(seed: u64, below: u64) -> impl FnMut() -> u64 {
    let mut state = seed | 1;
    move || {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        (state >> 16) % below
    }
}
