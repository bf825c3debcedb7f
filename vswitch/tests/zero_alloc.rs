//! No allocation per packet: a million frames of all kinds behind a counting allocator.

use std::alloc::{GlobalAlloc, Layout, System};
use std::cell::Cell;
use std::io::IoSlice;
use std::sync::Arc;

use nat::{Endpoint, Protocol, Published};
use packet::batch::USUAL_FRAMES;
use packet::vlan::VlanId;
use packet::{Batch, Datagram, Features, MacAddr, Timestamp, VnetHeader};
use testkit::bridge;
use testkit::frames::{Spec, noise};
use testkit::lab::{
    GATEWAY, GATEWAY_MAC, Lab, NEXT_HOP, NEXT_HOP_MAC, OUTSIDE, PEER, UPLINK_MAC, UPLINK_PORT, ethernet, guest, mac, request,
};
use testkit::overlay;
use testkit::overlay::{ENDPOINT, MTU, datagram, host_with, plain_peer, vni};
use testkit::packets;
use vswitch::{
    BridgeId, Coalesce, Counters, DropReason, Egress, Live, MacTable, MacTableConfig, Pipeline, Port, PortId, PortKind, PortVlan,
    StormLimits, VlanSet, Watch,
};

thread_local! {
    static ALLOCATIONS: Cell<u64> = const { Cell::new(0) };
}

struct Counting;

// SAFETY: every call is passed to the system's allocator as it came; counting touches a number of
// this thread that needs no allocation and no destructor.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        count();
        // SAFETY: the caller's promises are the ones that are asked for.
        unsafe { System.alloc(layout) }
    }

    unsafe fn dealloc(&self, pointer: *mut u8, layout: Layout) {
        // SAFETY: as above; the pointer came from `System`.
        unsafe { System.dealloc(pointer, layout) }
    }

    unsafe fn realloc(&self, pointer: *mut u8, layout: Layout, size: usize) -> *mut u8 {
        count();
        // SAFETY: as above; the pointer came from `System`.
        unsafe { System.realloc(pointer, layout, size) }
    }
}

fn count() {
    let _ = ALLOCATIONS.try_with(|allocations| allocations.set(allocations.get() + 1));
}

#[global_allocator]
static ALLOCATOR: Counting = Counting;

fn allocations() -> u64 {
    ALLOCATIONS.with(Cell::get)
}

fn between(src: u8, dst: u8) -> Spec {
    Spec { src: [2, 0, 0, 0, 0, src], dst: [2, 0, 0, 0, 0, dst], ..Spec::default() }
}

/// 64 frames of one flow.
fn run(spec: &Spec, payload: usize) -> Vec<(VnetHeader, Vec<u8>)> {
    let next =
        |n: usize| Spec { id: n as u16 + 1, sequence: (n * payload) as u32, payload: noise(n as u64, payload), ..spec.clone() };
    (0..USUAL_FRAMES).map(|n| (VnetHeader::default(), next(n).bytes())).collect()
}

struct Kind {
    name: &'static str,
    ingress: PortId,
    frames: Vec<(VnetHeader, Vec<u8>)>,
    /// How many frames at least.
    total: usize,
    /// Writes that a batch becomes.
    writes: usize,
}

/// Ports 0 to 3 take everything, 4 nothing, 5 is an access port, 6 coalesces.
fn kinds() -> Vec<Kind> {
    let udp = Spec { tcp: false, ..between(0, 6) };
    let super_frames =
        |dst, payload, size, count| vec![Spec { payload: noise(1, payload), ..between(0, dst) }.super_frame(size); count];
    let tagged = Spec { tags: vec![(0x8100, 7)], ..between(0, 5) };
    let kind = |name, ingress, frames, total, writes| Kind { name, ingress: PortId(ingress), frames, total, writes };
    vec![
        kind("known unicast", 0, run(&between(0, 1), 6), 250_000, 64),
        // Ports 1 to 4, and 6; 5 does not carry VLAN 0.
        kind("flood", 0, run(&between(0, 99), 6), 100_000, 64 * 4 + 1),
        kind("TSO super-frame", 0, super_frames(1, 60_000, 1448, 4), 100_000, 4),
        kind("coalesced TCP run", 0, run(&between(0, 6), 100), 150_000, 1),
        kind("coalesced UDP run", 0, run(&udp, 100), 150_000, 1),
        kind("software-segmented", 0, super_frames(4, 4000, 1000, 16), 20_000, 64),
        kind("VLAN push", 5, run(&between(5, 1), 6), 100_000, 64),
        kind("VLAN pop", 0, run(&tagged, 6), 100_000, 64),
        kind("drop", 0, run(&Spec { dst: [1, 0x80, 0xc2, 0, 0, 0], ..between(0, 0) }, 6), 100_000, 0),
    ]
}

fn bridge() -> (Pipeline, Arc<Counters>) {
    let seven = VlanId::new(7).unwrap();
    let table = Arc::new(MacTable::new(MacTableConfig { ports: 7, ..MacTableConfig::default() }));
    for station in 0..7u8 {
        let port = PortId(u16::from(station));
        for vlan in [VlanId::NONE, seven] {
            table.learn(vlan, MacAddr([2, 0, 0, 0, 0, station]), port, Timestamp::default());
        }
    }
    let counters = Arc::new(Counters::new(7));
    let mut pipeline = Pipeline::new(table, 7, Arc::clone(&counters));
    for id in 0..7 {
        let features = if id == 4 { Features::NONE } else { Features::ALL };
        let vlan = if id == 5 { PortVlan::access(seven) } else { PortVlan::trunk(VlanSet::all()) };
        pipeline.set_port(
            PortId(id),
            Some(Port {
                bridge: BridgeId::default(),
                vlan,
                mtu: 1500,
                features,
                coalesce: if id == 6 { Coalesce::Flows } else { Coalesce::Off },
                bursts: false,
                kind: PortKind::Link,
                limits: StormLimits::NONE,
                guard: None,
                isolated: false,
            }),
        );
    }
    (pipeline, counters)
}

#[test]
fn a_million_frames_without_an_allocation() {
    let before = allocations();
    let probe = std::hint::black_box(vec![0u8; 100]);
    assert_eq!(allocations(), before + 1, "the allocator counts");
    drop(probe);

    let (mut pipeline, counters) = bridge();
    let mut egress = Egress::new(7);
    let mut batch = Batch::new();
    let mut frames = 0;
    for Kind { name, ingress, frames: kind, total, writes: expected } in kinds() {
        let mut round = |secs| {
            batch.clear();
            for (vnet, frame) in &kind {
                assert!(batch.push(*vnet, frame), "{name}: the batch is full");
            }
            let (mut writes, mut bytes) = (0, 0);
            pipeline.process(ingress, &mut batch, Timestamp::from_secs(secs), &mut egress);
            pipeline.transmit(&batch, &mut egress, |_, pieces: &[IoSlice<'_>]| {
                writes += 1;
                bytes += pieces.iter().map(|piece| piece.len()).sum::<usize>();
                Ok(())
            });
            assert_eq!(writes, expected, "{name}");
            assert_eq!(bytes > 0, expected > 0, "{name}");
        };
        round(1);
        let before = allocations();
        let rounds = total.div_ceil(kind.len());
        // Time goes on, so that entries are renewed.
        (0..rounds).for_each(|n| round(1 + n as u64 / 1000));
        assert_eq!(allocations() - before, 0, "{name}");
        frames += rounds * kind.len();
    }
    assert!(frames >= 1_000_000);
    let received = counters.port(PortId(0)).unwrap().rx_frames.load() + counters.port(PortId(5)).unwrap().rx_frames.load();
    assert!(received >= frames as u64);
    let drops = DropReason::ALL.into_iter().filter(|reason| counters.port(PortId(0)).unwrap().dropped(*reason) > 0);
    assert_eq!(drops.collect::<Vec<_>>(), [DropReason::LinkLocal]);
}

/// A kind of frames for the router; `next` makes the n-th of the frames that stand there.
struct Routed {
    name: &'static str,
    ingress: u16,
    frames: Vec<(VnetHeader, Vec<u8>)>,
    next: fn(u32, &mut [u8]),
    /// Writes of all rounds, at least.
    writes: usize,
}

const ROUNDS: usize = 300;

fn inside(port: u16) -> Endpoint {
    Endpoint::new(guest(2), port)
}

fn peer() -> Endpoint {
    Endpoint::new(PEER, 53)
}

/// Other source port and destination address; nobody sums the checksum, which the kernel has verified.
fn another_flow(n: u32, frame: &mut [u8]) {
    frame[30..34].copy_from_slice(&(0x0800_0000 + n).to_be_bytes());
    frame[34..36].copy_from_slice(&(1024 + n as u16 % 1000).to_be_bytes());
    packets::set_ip_checksum(&mut frame[14..]);
}

/// A neighbour on the uplink's network that nobody has heard of.
fn another_neighbour(n: u32, frame: &mut [u8]) {
    frame[30..34].copy_from_slice(&[203, 0, 113, 10 + (n % 200) as u8]);
    packets::set_ip_checksum(&mut frame[14..]);
}

/// Three frames are a datagram.
fn another_datagram(n: u32, frame: &mut [u8]) {
    frame[18..20].copy_from_slice(&((n / 3) as u16).to_be_bytes());
    packets::set_ip_checksum(&mut frame[14..]);
}

fn routed() -> Vec<Routed> {
    let verified = VnetHeader { flags: 2, ..VnetHeader::default() };
    let many = |frame: Vec<u8>| vec![(VnetHeader::default(), frame); USUAL_FRAMES];
    let out = |packet: &[u8]| many(ethernet(GATEWAY_MAC, mac(2), packet));
    let back = |packet: &[u8]| many(ethernet(UPLINK_MAC, NEXT_HOP_MAC, packet));
    let udp = |src, dst| packets::udp(src, dst, b"payload");
    let kind = |name, ingress, frames, next: fn(u32, &mut [u8]), writes| Routed { name, ingress, frames, next, writes };
    let same: fn(u32, &mut [u8]) = |_, _| {};
    let new_flows: Vec<_> = out(&udp(inside(1), peer())).into_iter().map(|(_, frame)| (verified, frame)).collect();
    let mut far = udp(inside(4000), peer());
    far[8] = 1;
    packets::set_ip_checksum(&mut far);
    let in_pieces = |whole: &[u8]| -> Vec<(VnetHeader, Vec<u8>)> {
        [(80, 108, false), (40, 80, true), (0, 40, true)]
            .map(|(start, end, more)| ethernet(GATEWAY_MAC, mac(2), &packets::fragment(whole, start..end, 0, more)))
            .into_iter()
            .cycle()
            .take(63)
            .map(|frame| (VnetHeader::default(), frame))
            .collect()
    };
    let pieces = in_pieces(&packets::udp(inside(4000), peer(), &[1; 100]));
    let ping = |to| packets::query(8, 1, guest(2), to, &[1; 100]);
    let recorded = packets::ip_with(&[7, 7, 4, 0, 0, 0, 0, 0], packets::ICMP, guest(2), PEER, &ping(PEER)[20..]);
    let long = packets::udp(inside(4000), peer(), &[1; 1472]);
    let error = packets::error([3, 4], 1400, PEER, OUTSIDE, &udp(Endpoint::new(OUTSIDE, 4000), peer()));
    let outside = |port| Endpoint::new(OUTSIDE, port);
    let all = ROUNDS * USUAL_FRAMES;
    vec![
        kind("source translated", 0, out(&udp(inside(4000), peer())), same, all),
        kind("its answers", UPLINK_PORT, back(&udp(peer(), outside(4000))), same, all),
        kind("destination translated", UPLINK_PORT, back(&udp(peer(), outside(80))), same, all),
        kind("hairpin", 0, out(&udp(inside(4000), outside(80))), same, all),
        kind("errors from outside", UPLINK_PORT, back(&error), same, all),
        kind("first packets", 0, new_flows.clone(), another_flow, all),
        kind("strangers", UPLINK_PORT, back(&udp(peer(), outside(9))), same, 0),
        // As many as one port may have kept at a time, and the first ones.
        kind("fragments that waited", 0, pieces, another_datagram, ROUNDS * (21 + 16)),
        kind("cut on the way out", 0, out(&long), same, 0),
        kind("ARP", 0, many(request(mac(2), guest(2), GATEWAY)), same, all),
        kind("ping", 0, out(&packets::query(8, 1, guest(2), GATEWAY, b"data")), same, all),
        // As many as one port may have at a time.
        kind("ping in fragments", 0, in_pieces(&ping(GATEWAY)), another_datagram, ROUNDS * 4),
        kind("recorded route", 0, out(&recorded), same, all),
        kind("errors made", 0, out(&far), same, ROUNDS),
        kind("unknown next hops", 0, new_flows, another_neighbour, ROUNDS),
    ]
}

#[test]
fn the_router_allocates_nothing() {
    let mut lab = Lab::ready();
    let rule = Published { protocol: Protocol::UDP, address: OUTSIDE, port: 80, guest: Endpoint::new(guest(3), 8080) };
    lab.nat.publish(&rule, lab.bridge.now).unwrap();
    let introductions =
        [(0, mac(2), guest(2), GATEWAY), (1, mac(3), guest(3), GATEWAY), (UPLINK_PORT, NEXT_HOP_MAC, NEXT_HOP, OUTSIDE)]
            .map(|(port, mac, address, router)| (port, vec![(VnetHeader::default(), request(mac, address, router))]));
    for Routed { name, ingress, mut frames, next, writes: expected } in routed() {
        let (mut n, mut writes, mut before) = (0, 0, 0);
        for round in 0..=ROUNDS {
            if round == 1 {
                (before, writes) = (allocations(), 0);
            }
            for (_, frame) in &mut frames {
                next(n, frame);
                n += 1;
            }
            lab.bridge.now = lab.bridge.now.after(std::time::Duration::from_millis(200));
            for (port, request) in &introductions {
                assert!(lab.bridge.count(*port, request) > 0, "{name}");
            }
            writes += lab.bridge.count(ingress, &frames);
            writes += lab.bridge.count_due();
            lab.nat.expire(lab.bridge.now, 100);
        }
        assert_eq!(allocations() - before, 0, "{name}");
        assert!(writes >= expected, "{name}: {writes} writes of {expected}");
    }
    assert!(lab.nat.stats().opened > (ROUNDS * USUAL_FRAMES) as u64);
}

/// Without "don't fragment".
fn may_be_cut(mut frame: Vec<u8>) -> Vec<u8> {
    frame[20] = 0;
    packets::set_ip_checksum(&mut frame[14..]);
    frame
}

/// A name, frames with their headers, and how many writes they become, at least.
type Into = (&'static str, Vec<(VnetHeader, Vec<u8>)>, usize);

/// A name, datagrams, their segment size, and how many writes they become.
type OutOf = (&'static str, Vec<Vec<u8>>, u16, usize);

/// What stations 1 and 2 on links and 7 and 8 behind two peers send.
fn into_tunnels() -> Vec<Into> {
    let many = |frame: Vec<u8>| vec![(VnetHeader::default(), frame); USUAL_FRAMES];
    let flows = |n: usize| Spec { ports: (1024 + n as u16, 53), tcp: false, ..between(1, 7) }.bytes();
    let long = |v6| Spec { v6, tcp: false, payload: noise(1, 1440), ..between(1, 7) }.bytes();
    let super_frame = |tcp, size, payload| Spec { tcp, payload: noise(1, payload), ..between(1, 7) }.super_frame(size);
    let syn = Spec { flags: 2, options: vec![2, 4, 5, 0xb4], payload: vec![], ..between(1, 7) };
    vec![
        ("one flow", run(&between(1, 7), 6), 64),
        ("64 flows", (0..USUAL_FRAMES).map(|n| (VnetHeader::default(), flows(n))).collect(), 64),
        ("flood", run(&between(1, 99), 6), 3 * 64),
        ("TCP super-frames", vec![super_frame(true, 1398, 60_000); 4], 4 * 43),
        ("UDP super-frames", vec![super_frame(false, 1000, 60_000); 4], 4 * 60),
        ("more datagrams than at once", vec![super_frame(true, 300, 60_000); 4], 4 * 200),
        ("unfinished checksums", vec![between(1, 7).partial(); USUAL_FRAMES], 64),
        ("SYNs", many(syn.bytes()), 64),
        ("fragments", many(may_be_cut(long(false))), 2 * 64),
        ("fragmentation needed", many(long(false)), 1),
        ("packet too big", many(long(true)), 1),
    ]
}

fn out_of_tunnels() -> Vec<OutOf> {
    let many = |spec: &Spec, payload| run(spec, payload).iter().map(|(_, frame)| datagram(vni(), frame)).collect::<Vec<_>>();
    let marked = Spec { traffic_class: 2, ..between(7, 1) };
    let train: Vec<u8> = many(&between(7, 1), 100).concat();
    let whole = datagram(vni(), &Spec { payload: noise(1, 60_000), ..between(7, 1) }.partial().1);
    let size = (train.len() / USUAL_FRAMES) as u16;
    vec![
        ("datagrams", many(&between(7, 1), 6), 0, 64),
        ("marked ones", many(&marked, 6), 0, 64),
        ("a merged train", vec![train], size, 64),
        ("whole super-frames", vec![whole; 4], 0, 4),
        ("floods", many(&between(7, 99), 6), 0, 2 * 64),
        ("split horizon", many(&between(7, 8), 6), 0, 0),
        ("no VXLAN", vec![vec![0; 60]; USUAL_FRAMES], 0, 0),
        ("another network", vec![datagram(tunnel::Vni::new(1).unwrap(), &between(7, 1).bytes()); USUAL_FRAMES], 0, 0),
    ]
}

#[test]
fn tunnels_allocate_nothing() {
    let link = || bridge::port(PortVlan::default());
    let peers = (1..3).map(|host| (plain_peer(), overlay::address(host))).collect();
    let mut host = host_with([link(), link()], peers, overlay::address(0));
    let introduce = |host: &bridge::Bridge| {
        for (station, port) in [(1, 0), (2, 1), (7, 3), (8, 4)] {
            host.table.learn(VlanId::NONE, mac(station), PortId(port), host.now);
        }
    };
    for (name, frames, expected) in into_tunnels() {
        let mut before = 0;
        for round in 0..=ROUNDS {
            if round == 1 {
                before = allocations();
            }
            host.now = host.now.after(std::time::Duration::from_millis(200));
            introduce(&host);
            let writes = host.count(0, &frames);
            assert!(writes >= expected, "{name}: {writes} writes of {expected}");
        }
        assert_eq!(allocations() - before, 0, "{name}");
    }
    for (name, payloads, segment_size, expected) in out_of_tunnels() {
        let datagram =
            |payload| Datagram { from: overlay::address(1), tos: 3 * u8::from(name == "marked ones"), segment_size, payload };
        let datagrams: Vec<Datagram<'_>> = payloads.iter().map(|payload| datagram(payload)).collect();
        let mut before = 0;
        for round in 0..=ROUNDS {
            if round == 1 {
                before = allocations();
            }
            host.now = host.now.after(std::time::Duration::from_millis(200));
            introduce(&host);
            let writes = host.count_received(ENDPOINT, tunnel::FramingKind::Vxlan, MTU, &datagrams);
            assert_eq!(writes, expected, "{name}");
        }
        assert_eq!(allocations() - before, 0, "{name}");
    }
}

/// Stories are told in memory that was there before, whether somebody takes them or not.
#[test]
fn a_live_trace_allocates_nothing() {
    let (mut pipeline, _) = bridge();
    let live = Arc::new(Live::new(u32::MAX, None, None));
    pipeline.set_watch(Some(Box::new(Watch::new([Arc::clone(&live)]))));
    let (mut egress, mut batch) = (Egress::new(7), Batch::new());
    let mut told = 0;
    for Kind { name, ingress, frames: kind, .. } in kinds() {
        let mut round = || {
            batch.clear();
            for (vnet, frame) in &kind {
                assert!(batch.push(*vnet, frame), "{name}: the batch is full");
            }
            pipeline.process(ingress, &mut batch, Timestamp::from_secs(1), &mut egress);
            pipeline.transmit(&batch, &mut egress, |_, _: &[IoSlice<'_>]| Ok(()));
        };
        round();
        let before = allocations();
        (0..20).for_each(|_| round());
        while live.next_story().is_some() {
            told += 1;
        }
        assert_eq!(allocations() - before, 0, "{name}");
    }
    assert!(told > 1000 && live.lost() > 1000, "{told} told, {} lost", live.lost());
}
