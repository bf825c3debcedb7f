//! The switch with a router: any frames from guests and from outside.

use std::cell::RefCell;
use std::io::IoSlice;
use std::net::Ipv4Addr;
use std::sync::Arc;
use std::time::Duration;

use nat::{Endpoint, External, ExternalKind, Filtering, Nat, NatConfig, NatStats, Protocol, Published};
use packet::arp::{ARP_LEN, Arp};
use packet::vlan::VlanId;
use packet::{Batch, Features, Headers, Ipv4Prefix, MacAddr, Network, Timestamp, VNET_LEN, VnetHeader};
use testkit::checksum::sum;
use testkit::wire::plain_frames;
use vswitch::{
    BridgeId, Counters, Domain, Egress, Interface, MacTable, MacTableConfig, NeighbourConfig, Neighbours, Pipeline, Port,
    PortCounters, PortId, PortKind, PortTotals, PortVlan, Route, Router, Routing, RoutingSettings, StormLimits, Uplink,
};

use crate::Reader;
use crate::frame::make_sound;

/// Multiplier of the hash by Fowler, Noll and Vo, of 64 bits.
const FNV_PRIME: u64 = 0x100_0000_01b3;

const PORTS: u16 = 4;
const UPLINK: PortId = PortId(3);

const GATEWAY: Ipv4Addr = Ipv4Addr::new(10, 0, 0, 1);
const VLAN_GATEWAY: Ipv4Addr = Ipv4Addr::new(10, 0, 10, 1);
const OUTSIDE: Ipv4Addr = Ipv4Addr::new(203, 0, 113, 1);
const ONE_TO_ONE: Ipv4Addr = Ipv4Addr::new(203, 0, 113, 2);
const NEXT_HOP: Ipv4Addr = Ipv4Addr::new(203, 0, 113, 254);
const UPLINK_MAC: MacAddr = MacAddr([2, 0, 0, 9, 9, 9]);

/// Addresses that have a meaning here, for the fuzzer to choose from; it would rarely guess one.
const ADDRESSES: [Ipv4Addr; 16] = [
    GATEWAY,
    Ipv4Addr::new(10, 0, 0, 2),
    Ipv4Addr::new(10, 0, 0, 3),
    Ipv4Addr::new(10, 0, 0, 255),
    VLAN_GATEWAY,
    Ipv4Addr::new(10, 0, 10, 5),
    OUTSIDE,
    ONE_TO_ONE,
    NEXT_HOP,
    Ipv4Addr::new(203, 0, 113, 9),
    Ipv4Addr::new(198, 51, 100, 7),
    Ipv4Addr::new(8, 8, 8, 8),
    Ipv4Addr::new(224, 0, 0, 1),
    Ipv4Addr::BROADCAST,
    Ipv4Addr::LOCALHOST,
    Ipv4Addr::UNSPECIFIED,
];

const MACS: [[u8; 6]; 8] = [
    [2, 0x76, 10, 0, 0, 1],
    [2, 0x76, 10, 0, 10, 1],
    UPLINK_MAC.0,
    [2, 0, 0, 0, 0, 2],
    [2, 0, 0, 0, 0, 3],
    [2, 0, 0, 0, 0, 254],
    [0xff; 6],
    [1, 0, 0x5e, 0, 0, 1],
];

/// What an input leaves to the next one: large memory, whose contents do not matter.
struct Memory {
    router: Router,
    batch: Batch,
    egress: Egress,
    /// The routes without and with an uplink.
    routings: [Arc<Routing>; 2],
}

thread_local! {
    static LAST: RefCell<Option<Memory>> = const { RefCell::new(None) };
}

struct Bench {
    pipeline: Pipeline,
    counters: Arc<Counters>,
    batch: Batch,
    egress: Egress,
    routings: [Arc<Routing>; 2],
    nat: Arc<Nat>,
    now: Timestamp,
    /// Hash of all writes.
    written: u64,
    /// The last frame written, which the fuzzer can reply to.
    last: Vec<u8>,
}

/// Records of a control byte and a frame. Nothing panics, the frame counters balance, no inside address leaves through
/// the uplink, and only packets for guests are routed inside.
pub fn router(data: &[u8]) {
    let _ = run(data);
}

/// What became of an input: the hash of all writes, and the counters of translation and ports.
type Outcome = (u64, NatStats, Vec<PortTotals>);

fn run(data: &[u8]) -> Outcome {
    let mut input = Reader(data);
    let mut bench = bench(LAST.take(), input.u8());
    while !input.is_empty() {
        let control = input.u8();
        match control >> 5 {
            0 => bench.wait(u64::from(input.u16())),
            1 => bench.change(control),
            _ => bench.frames(control, &mut input),
        }
        assert_balance(&bench.counters);
    }
    let totals = (0..PORTS).filter_map(|id| bench.counters.port(PortId(id))).map(|port| {
        let mut totals = PortTotals::default();
        totals.add(port);
        totals
    });
    let totals = totals.collect();
    let outcome = (bench.written, bench.nat.stats(), totals);
    LAST.set(bench.into_memory());
    outcome
}

fn bench(memory: Option<Memory>, flags: u8) -> Bench {
    let filtering = if flags & 1 != 0 { Filtering::EndpointIndependent } else { Filtering::default() };
    let config = NatConfig { max_connections: 64, filtering, ports: 1024..=1100, ..NatConfig::default() };
    let Memory { mut router, batch, egress, routings } = memory.unwrap_or_else(|| Memory::new(&config));
    router.reset(Arc::clone(&routings[1]));
    let Some(nat) = router.nat_mut() else { panic!("no translation") };
    assert_eq!(Arc::get_mut(nat).and_then(|nat| nat.reset(config, [1, 2])), Some(()));
    let nat = Arc::clone(nat);
    let neighbours = router.neighbours_mut();
    assert_eq!(Arc::get_mut(neighbours).map(|neighbours| neighbours.reset([3, 4])), Some(()));
    let neighbours = Arc::clone(neighbours);
    let externals = [
        External { address: OUTSIDE, kind: ExternalKind::Own },
        External { address: ONE_TO_ONE, kind: ExternalKind::OneToOne(ADDRESSES[2]) },
    ];
    let now = Timestamp::from_secs(1);
    assert_eq!(nat.set_externals(&externals, now), Ok(()));
    let rule = |protocol| Published { protocol, address: OUTSIDE, port: 80, guest: Endpoint::new(ADDRESSES[1], 8080) };
    assert_eq!(nat.publish(&rule(Protocol::TCP), now), Ok(()));
    assert_eq!(nat.publish(&rule(Protocol::UDP), now), Ok(()));
    let table = Arc::new(MacTable::new(MacTableConfig { size: 16, ports: usize::from(PORTS), ..MacTableConfig::default() }));
    let counters = Arc::new(Counters::new(usize::from(PORTS)));
    let mut pipeline = Pipeline::new(table, usize::from(PORTS), Arc::clone(&counters));
    for (index, port) in ports().into_iter().enumerate() {
        pipeline.set_port(PortId(index as u16), Some(port));
    }
    if flags & 2 == 0 {
        neighbours.learn(vswitch::UPLINK, NEXT_HOP, MacAddr(MACS[5]), UPLINK.0, true, now);
        neighbours.learn(vswitch::InterfaceId(0), ADDRESSES[1], MacAddr(MACS[3]), 0, true, now);
    }
    pipeline.set_router(router);
    Bench { pipeline, counters, batch, egress, routings, nat, now, written: 0, last: Vec::new() }
}

fn ports() -> [Port; PORTS as usize] {
    let ten = VlanId::new(10).unwrap_or_default();
    let port = |vlan, mtu| Port {
        bridge: BridgeId::default(),
        vlan,
        mtu,
        features: Features::ALL,
        coalesce: vswitch::Coalesce::Flows,
        kind: PortKind::Link,
        limits: StormLimits::NONE,
        guard: None,
        isolated: false,
        bursts: false,
    };
    [
        port(PortVlan::default(), 1500),
        Port { features: Features::NONE, ..port(PortVlan::access(ten), 1500) },
        port(PortVlan::default(), 576),
        Port { kind: PortKind::Uplink, bursts: true, ..port(PortVlan::default(), 1400) },
    ]
}

fn routing(is_up: bool) -> Arc<Routing> {
    let ten = VlanId::new(10).unwrap_or_default();
    let on = |vlan| Domain { bridge: BridgeId::default(), vlan };
    let interfaces = vec![Interface::new(on(VlanId::NONE), GATEWAY, 24), Interface::new(on(ten), VLAN_GATEWAY, 24)];
    let routes = vec![
        Route::new(Ipv4Prefix::new(OUTSIDE, 24), None, 0),
        Route::new(Ipv4Prefix::new(Ipv4Addr::UNSPECIFIED, 0), Some(NEXT_HOP), 0),
    ];
    let own = vec![OUTSIDE, ONE_TO_ONE];
    let uplink = Uplink { port: UPLINK, mac: UPLINK_MAC, address: OUTSIDE, own, mtu: 1400, routes };
    Routing::new(interfaces.into_iter().map(Some).collect(), is_up.then_some(uplink), RoutingSettings::default())
}

impl Memory {
    /// Small tables, so that inputs reach their limits.
    fn new(config: &NatConfig) -> Memory {
        let routings = [routing(false), routing(true)];
        let size = NeighbourConfig { size: 16, ports: usize::from(PORTS) };
        let Some(neighbours) = Neighbours::new(size, [3, 4]).map(Arc::new) else { panic!("no memory") };
        let nat = Nat::new(config.clone(), [1, 2]).map(Arc::new);
        let router = Router::new(Arc::clone(&routings[1]), nat, neighbours);
        Memory { router, batch: Batch::new(), egress: Egress::new(usize::from(PORTS)), routings }
    }
}

impl Bench {
    fn into_memory(mut self) -> Option<Memory> {
        let Bench { batch, egress, routings, .. } = self;
        Some(Memory { router: self.pipeline.take_router()?, batch, egress, routings })
    }

    fn wait(&mut self, millis: u64) {
        self.now = self.now.after(Duration::from_millis(millis));
        self.pipeline.poll(&mut self.batch, self.now, &mut self.egress);
        self.transmit();
        self.nat.expire(self.now, 100);
    }

    fn change(&mut self, control: u8) {
        match control & 3 {
            at @ 0..=1 => self.pipeline.set_routing(Arc::clone(&self.routings[usize::from(at)])),
            2 => drop(self.nat.flush(self.now, |_| true)),
            _ => self.now = self.now.after(Duration::from_secs(200)),
        }
    }

    fn frames(&mut self, control: u8, input: &mut Reader<'_>) {
        self.batch.clear();
        for _ in 0..=control >> 2 & 3 {
            let Some((vnet, frame)) = self.read_frame(input) else { break };
            if !self.batch.push(vnet, &frame) {
                break;
            }
        }
        self.pipeline.process(PortId(u16::from(control & 3)), &mut self.batch, self.now, &mut self.egress);
        self.transmit();
        while self.pipeline.has_deferred() {
            self.pipeline.resume(&mut self.batch, self.now, &mut self.egress);
            self.transmit();
        }
    }

    fn read_frame(&mut self, input: &mut Reader<'_>) -> Option<(VnetHeader, Vec<u8>)> {
        if input.is_empty() {
            return None;
        }
        let control = input.u8();
        let mut vnet = VnetHeader::default();
        let len = usize::from(input.u16()) & 0x7ff;
        let mut frame = if control & 8 != 0 { self.answer() } else { input.bytes(len).to_vec() };
        for _ in 0..control >> 6 {
            if frame.is_empty() {
                break;
            }
            let at = usize::from(input.u8()) % frame.len();
            frame[at] = input.u8();
        }
        if control & 16 != 0 {
            let bytes = input.array::<VNET_LEN>();
            vnet = VnetHeader::from_bytes(&bytes);
        }
        if control & 1 != 0 {
            address(&mut frame, input.u8(), input.u8());
        }
        if control & 2 == 0 {
            let sound = make_sound(&mut frame, control & 4 != 0);
            if control & 16 == 0 {
                vnet = sound;
            }
            make_icmp_sound(&mut frame);
        }
        Some((vnet, frame))
    }

    /// The last frame written, with source and destination exchanged; the reply, if it is an ARP request.
    fn answer(&self) -> Vec<u8> {
        let mut frame = self.last.clone();
        let Ok(headers) = Headers::parse(&frame) else { return frame };
        let (l3, l4) = (usize::from(headers.l3), usize::from(headers.l4));
        frame[..12].rotate_left(6);
        if headers.network == Network::Ipv4 {
            frame[l3 + 12..l3 + 20].rotate_left(4);
            if frame.len() >= l4 + 4 && l4 > l3 {
                frame[l4..l4 + 4].rotate_left(2);
            }
        } else if let Some(arp) = Arp::parse(&frame[l3..]) {
            let mac = MacAddr(if arp.target_ip == NEXT_HOP { MACS[5] } else { MACS[3] });
            frame[l3..l3 + ARP_LEN].copy_from_slice(&arp.reply(mac).to_bytes());
            frame[6..12].copy_from_slice(&mac.0);
        }
        frame
    }

    fn transmit(&mut self) {
        let mut last = None;
        let written = &mut self.written;
        self.pipeline.transmit(&self.batch, &mut self.egress, |port: PortId, pieces: &[IoSlice<'_>]| {
            *written = pieces
                .iter()
                .flat_map(|piece| piece.iter())
                .fold(*written + u64::from(port.0), |hash, byte| (hash ^ u64::from(*byte)).wrapping_mul(FNV_PRIME));
            last = Some(check_write(port, pieces));
            Ok(())
        });
        if let Some(frame) = last.flatten() {
            self.last = frame;
        }
    }
}

/// Writes addresses with a meaning into a frame.
fn address(frame: &mut [u8], macs: u8, ips: u8) {
    if frame.len() < 12 {
        return;
    }
    frame[..6].copy_from_slice(&MACS[usize::from(macs & 7)]);
    frame[6..12].copy_from_slice(&MACS[usize::from(macs >> 3 & 7)]);
    let l3 = if frame.get(12..14) == Some(&[0x81, 0]) { 18 } else { 14 };
    let at = match frame.get(l3 - 2..l3) {
        Some([8, 0]) => [l3 + 12, l3 + 16],
        Some([8, 6]) => [l3 + 14, l3 + 24],
        _ => return,
    };
    for (at, number) in at.into_iter().zip([ips & 15, ips >> 4]) {
        if let Some(place) = frame.get_mut(at..at + 4) {
            place.copy_from_slice(&ADDRESSES[usize::from(number)].octets());
        }
    }
    if at[0] == l3 + 14
        && let Some(place) = frame.get_mut(l3 + 8..l3 + 14)
    {
        place.copy_from_slice(&MACS[usize::from(macs >> 3 & 7)]);
    }
}

/// Corrects an ICMP checksum, which no offload does.
fn make_icmp_sound(frame: &mut [u8]) {
    let Ok(headers) = Headers::parse(frame) else { return };
    let (l3, end) = (usize::from(headers.l3), headers.end as usize);
    if headers.network != Network::Ipv4 || frame[l3 + 9] != 1 {
        return;
    }
    let l4 = l3 + usize::from(frame[l3] & 15) * 4;
    if end >= l4 + 4 {
        frame[l4 + 2..l4 + 4].fill(0);
        let check = !sum(&frame[l4..end]);
        frame[l4 + 2..l4 + 4].copy_from_slice(&check.to_be_bytes());
    }
}

/// Checks a write. Returns its first frame.
fn check_write(port: PortId, pieces: &[IoSlice<'_>]) -> Option<Vec<u8>> {
    let write: Vec<u8> = pieces.iter().flat_map(|piece| piece.iter().copied()).collect();
    let (front, frame) = write.split_first_chunk::<VNET_LEN>()?;
    let Some(frames) = plain_frames(VnetHeader::from_bytes(front), frame) else { panic!("our own header is refused") };
    for frame in &frames {
        let Ok(headers) = Headers::parse(frame) else { panic!("malformed frame written") };
        let l3 = usize::from(headers.l3);
        if port == UPLINK {
            check_outside(frame, &headers);
        } else if headers.network == Network::Ipv4 && is_gateway(port, frame, headers.src) {
            let (header, dst) = (ip_header(frame, l3), address_at(frame, l3 + 16));
            assert_eq!(sum(header), 0xffff, "the IPv4 checksum of a routed packet");
            assert!(is_inside(dst), "{dst} was delivered inside");
        }
    }
    frames.into_iter().next()
}

/// What leaves through the uplink has an outside address as source, and no inside one as destination.
fn check_outside(frame: &[u8], headers: &Headers) {
    let l3 = usize::from(headers.l3);
    assert_eq!(headers.src, UPLINK_MAC, "a switched frame left");
    if frame[l3 - 2..l3] == [8, 6] {
        let arp = Arp::parse(&frame[l3..]);
        return assert!(arp.is_some_and(|arp| [OUTSIDE, ONE_TO_ONE].contains(&arp.sender_ip)), "ARP of others");
    }
    assert_eq!(headers.network, Network::Ipv4, "not IPv4");
    assert_eq!(sum(ip_header(frame, l3)), 0xffff, "the IPv4 checksum of what leaves");
    let (src, dst) = (address_at(frame, l3 + 12), address_at(frame, l3 + 16));
    assert!([OUTSIDE, ONE_TO_ONE].contains(&src), "{src} left");
    assert!(!is_inside(dst), "{dst} was sent outside");
    assert!(frame.len() - l3 <= 1400, "longer than the uplink takes");
}

fn ip_header(frame: &[u8], l3: usize) -> &[u8] {
    &frame[l3..l3 + usize::from(frame[l3] & 15) * 4]
}

fn address_at(frame: &[u8], at: usize) -> Ipv4Addr {
    Ipv4Addr::new(frame[at], frame[at + 1], frame[at + 2], frame[at + 3])
}

/// Whether this is the gateway's MAC address on the VLAN by which the frame left.
fn is_gateway(port: PortId, frame: &[u8], mac: MacAddr) -> bool {
    let vlan = match (port.0, &frame[12..16]) {
        (1, _) => 10,
        (_, [0x81, 0, high, low]) => u16::from_be_bytes([*high, *low]) & 0xfff,
        _ => 0,
    };
    match vlan {
        0 => mac.0 == MACS[0],
        10 => mac.0 == MACS[1],
        _ => false,
    }
}

fn is_inside(address: Ipv4Addr) -> bool {
    matches!(address.octets(), [10, 0, 0 | 10, _])
}

fn assert_balance(counters: &Counters) {
    let sum =
        |count: &dyn Fn(&PortCounters) -> u64| -> u64 { (0..PORTS).filter_map(|id| counters.port(PortId(id))).map(count).sum() };
    let entered = sum(&|port| port.rx_frames.load() + port.copies.load() + port.made.load());
    let dropped = sum(&PortCounters::all_dropped);
    let left = sum(&|port| port.tx_frames.load() + port.taken.load());
    assert_eq!(entered, left + dropped, "frames in + copies + made differ from frames out + drops + taken");
}

#[cfg(test)]
mod tests {
    #[test]
    fn each_input_begins_in_the_same_state() {
        crate::check_state("router", super::run);
    }
}
