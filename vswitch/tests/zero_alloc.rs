//! No allocation per packet: a million frames of all kinds behind a counting allocator.

#[path = "../../packet/tests/frames/mod.rs"]
mod frames;

use std::alloc::{GlobalAlloc, Layout, System};
use std::cell::Cell;
use std::io::IoSlice;
use std::sync::Arc;

use frames::{Spec, noise};
use packet::batch::MAX_FRAMES;
use packet::vlan::VlanId;
use packet::{Batch, Features, MacAddr, Timestamp, VnetHeader};
use vswitch::{Counters, DropReason, Egress, MacTable, MacTableConfig, Pipeline, Port, PortId, PortVlan, VlanSet};

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
    (0..MAX_FRAMES).map(|n| (VnetHeader::default(), next(n).bytes())).collect()
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
        pipeline
            .set_port(PortId(id), Some(Port { vlan, mtu: 1500, features, coalesce: id == 6, bursts: false, is_uplink: false }));
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
