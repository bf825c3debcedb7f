//! Random worlds of several bridges against a pipeline for each bridge that has its ports alone. What the ports of a
//! bridge write, learn and drop is the same in both, whatever the other bridges carry.

use std::sync::Arc;
use std::time::Duration;

use packet::MacAddr;
use packet::vlan::VlanId;
use proptest::prelude::*;
use tunnel::Vni;
use vswitch::{BridgeId, DropReason, Encapsulation, MacTable, MacTableConfig, Port, PortId, PortKind, PortVlan};

use testkit::bridge::{Bridge, Sent, Write, port};
use testkit::frames::{Spec, noise};

const BRIDGES: u16 = 3;
const PORTS: u16 = 9;

/// What happens to the world.
#[derive(Clone, Debug)]
enum Step {
    /// A frame comes in, with a tag of this VLAN if it is not 0.
    Frame {
        ingress: u16,
        src: u8,
        dst: u8,
        vlan: u16,
        len: usize,
    },
    /// A port is another bridge's from now on; what was learned behind it is still there.
    Move {
        port: u16,
        to: u16,
    },
    /// What was learned behind a port of a bridge is forgotten.
    Flush {
        port: u16,
    },
    Wait {
        secs: u64,
    },
}

fn any_step() -> impl Strategy<Value = Step> {
    let frame =
        (0..PORTS, 0..6u8, 0..8u8, prop::sample::select(vec![0u16, 0, 10, 20]), prop::sample::select(vec![40usize, 1480]));
    prop_oneof![
        20 => frame.prop_map(|(ingress, src, dst, vlan, len)| Step::Frame { ingress, src, dst, vlan, len }),
        2 => (0..PORTS, 0..BRIDGES).prop_map(|(port, to)| Step::Move { port, to }),
        1 => (0..PORTS).prop_map(|port| Step::Flush { port }),
        1 => (1..400u64).prop_map(|secs| Step::Wait { secs }),
    ]
}

fn any_port() -> impl Strategy<Value = Port> {
    let vlan = |id| VlanId::new(id).unwrap();
    let vlans = prop::sample::select(vec![
        PortVlan::default(),
        PortVlan::default(),
        PortVlan::access(vlan(10)),
        PortVlan::trunk([vlan(10), vlan(20)].into_iter().collect()),
    ]);
    let peer = PortKind::Peer(Encapsulation::vxlan(Vni::new(7).unwrap()));
    let kinds = prop::sample::select(vec![(PortKind::Link, 1500), (PortKind::Link, 1000), (peer, 1450)]);
    (vlans, kinds, 0..BRIDGES).prop_map(|(vlan, (kind, mtu), bridge)| Port { kind, mtu, bridge: BridgeId(bridge), ..port(vlan) })
}

/// Stations, a group, everybody, and a link-local group; the same addresses on all bridges.
fn address(n: u8) -> [u8; 6] {
    match n {
        5 => [0x01, 0, 0x5e, 0, 0, 1],
        6 => [0xff; 6],
        7 => [0x01, 0x80, 0xc2, 0, 0, 0],
        station => [2, 0, 0, 0, 0, station],
    }
}

/// The network's number keeps apart what a limit for each sender would count together, and IPv6 what a counter in IPv4's
/// headers would tell.
fn frame(network: u16, src: u8, dst: u8, vlan: u16, len: usize) -> Vec<u8> {
    let network = 16 * network as u8;
    let hosts = (network + src, network + dst);
    let payload = noise(1, len - 40);
    let mut frame = Spec { src: address(src % 5), dst: address(dst), v6: true, hosts, payload, ..Spec::default() }.bytes();
    if vlan != 0 {
        frame.splice(12..12, [0x81, 0, (vlan >> 8) as u8, vlan as u8]);
    }
    frame
}

/// One pipeline for all bridges, and one for each.
struct World {
    ports: Vec<Port>,
    together: Bridge,
    tables: Vec<Arc<MacTable>>,
    alone: Vec<Bridge>,
}

impl World {
    fn new(ports: Vec<Port>) -> World {
        let mut together = Bridge::new(ports.clone());
        let table = || Arc::new(MacTable::new(MacTableConfig { ports: ports.len(), ..MacTableConfig::default() }));
        let mut tables = vec![Arc::clone(&together.table)];
        for bridge in 1..BRIDGES {
            tables.push(table());
            together.pipeline.set_bridge(BridgeId(bridge), tables.last().cloned());
        }
        let mut alone = Vec::new();
        for bridge in 0..BRIDGES {
            let mut only = Bridge::new(ports.iter().map(|port| Port { bridge: BridgeId(0), ..port.clone() }));
            for (id, _) in ports.iter().enumerate().filter(|(_, port)| port.bridge.0 != bridge) {
                only.pipeline.set_port(PortId(id as u16), None);
            }
            alone.push(only);
        }
        World { ports, together, tables, alone }
    }

    fn home(&mut self, port: u16) -> &mut Bridge {
        let bridge = self.ports[usize::from(port)].bridge;
        &mut self.alone[bridge.index()]
    }

    fn carry(&mut self, ingress: u16, frame: &[u8]) -> (Outcome, Outcome) {
        let together = Outcome::of(&mut self.together, ingress, frame);
        (together, Outcome::of(self.home(ingress), ingress, frame))
    }

    fn relocate(&mut self, id: u16, to: u16) {
        self.home(id).pipeline.set_port(PortId(id), None);
        self.ports[usize::from(id)].bridge = BridgeId(to);
        let port = self.ports[usize::from(id)].clone();
        self.together.pipeline.set_port(PortId(id), Some(port.clone()));
        self.home(id).pipeline.set_port(PortId(id), Some(Port { bridge: BridgeId(0), ..port }));
    }

    fn flush(&mut self, id: u16) {
        let bridge = self.ports[usize::from(id)].bridge;
        self.tables[bridge.index()].flush(Some(PortId(id)), None);
        self.home(id).table.flush(Some(PortId(id)), None);
    }

    fn wait(&mut self, secs: u64) {
        for bridge in self.alone.iter_mut().chain([&mut self.together]) {
            bridge.now = bridge.now.after(Duration::from_secs(secs));
        }
    }
}

/// What a frame became.
#[derive(PartialEq, Debug)]
struct Outcome {
    writes: Vec<Write>,
    /// Into tunnels, by port.
    sent: Vec<(u16, Vec<Vec<u8>>)>,
}

impl Outcome {
    fn of(bridge: &mut Bridge, ingress: u16, frame: &[u8]) -> Outcome {
        let mut writes = bridge.run(ingress, &[frame.to_vec()]);
        writes.sort_by_key(|(port, ..)| port.0);
        let mut sent: Vec<_> = bridge.sent.drain(..).map(|Sent { outer, datagrams }| (outer.port, datagrams)).collect();
        sent.sort();
        Outcome { writes, sent }
    }

    fn ports(&self) -> impl Iterator<Item = u16> {
        self.writes.iter().map(|(port, ..)| port.0).chain(self.sent.iter().map(|(port, _)| *port))
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(testkit::cases(64)))]

    #[test]
    fn each_bridge_is_as_if_alone(
        ports in prop::collection::vec(any_port(), usize::from(PORTS)..=usize::from(PORTS)),
        steps in prop::collection::vec(any_step(), 1..60),
    ) {
        let mut world = World::new(ports);
        for step in steps {
            match step {
                Step::Frame { ingress, src, dst, vlan, len } => {
                    let bridge = world.ports[usize::from(ingress)].bridge;
                    let (together, alone) = world.carry(ingress, &frame(bridge.0, src, dst, vlan, len));
                    for port in together.ports() {
                        prop_assert_eq!(world.ports[usize::from(port)].bridge, bridge, "out of another bridge's port {}", port);
                    }
                    prop_assert_eq!(together, alone);
                }
                Step::Move { port, to } => world.relocate(port, to),
                Step::Flush { port } => world.flush(port),
                Step::Wait { secs } => world.wait(secs),
            }
        }
        let now = world.together.now;
        for (table, alone) in world.tables.iter().zip(&world.alone) {
            prop_assert_eq!(table.entries(now), alone.table.entries(now));
        }
        for port in 0..PORTS {
            for reason in DropReason::ALL {
                let alone: u64 = world.alone.iter().map(|bridge| bridge.counts(port).dropped(reason)).sum();
                prop_assert_eq!(world.together.counts(port).dropped(reason), alone, "{:?} at {}", reason, port);
            }
        }
    }
}

/// A port's number may become another bridge's before the table has forgotten it.
#[test]
fn a_stale_entry_leads_nowhere() {
    let mut bridge = Bridge::open(3);
    let table = Arc::new(MacTable::new(MacTableConfig { ports: 3, ..MacTableConfig::default() }));
    bridge.pipeline.set_bridge(BridgeId(1), Some(table));
    let station = frame(0, 1, 6, 0, 100);
    assert_eq!(bridge.run(1, &[station]).len(), 2);
    bridge.port(1).bridge = BridgeId(1);
    assert!(bridge.run(0, &[frame(0, 0, 1, 0, 100)]).is_empty());
    assert_eq!(bridge.counts(0).dropped(DropReason::PortGone), 1);
}

/// What was known of a bridge's stations is forgotten with its table, however recent.
#[test]
fn a_bridge_with_another_table_knows_nobody() {
    let mut bridge = Bridge::open(3);
    let there_and_back = [frame(0, 0, 1, 0, 100)];
    assert_eq!(bridge.run(1, &[frame(0, 1, 0, 0, 100)]).len(), 2);
    for _ in 0..2 {
        assert_eq!(bridge.run(0, &there_and_back).len(), 1);
    }
    let table = Arc::new(MacTable::new(MacTableConfig { ports: 3, ..MacTableConfig::default() }));
    // The same number of changes as the former table saw.
    table.learn(VlanId::NONE, MacAddr([2, 0, 0, 0, 0, 99]), PortId(2), bridge.now);
    table.learn(VlanId::NONE, MacAddr([2, 0, 0, 0, 0, 98]), PortId(2), bridge.now);
    bridge.pipeline.set_bridge(BridgeId::default(), Some(table));
    assert_eq!(bridge.run(0, &there_and_back).len(), 2);
}

#[test]
fn a_port_of_no_bridge_carries_nothing() {
    let mut bridge = Bridge::open(2);
    for number in [1, 15, 16, 255] {
        bridge.port(0).bridge = BridgeId(number);
        assert!(bridge.run(0, &[frame(0, 0, 6, 0, 100)]).is_empty());
    }
    assert_eq!(bridge.counts(0).dropped(DropReason::PortGone), 4);
    // There is none beyond the last, and to say so does no harm.
    bridge.pipeline.set_bridge(BridgeId(9999), None);
}
