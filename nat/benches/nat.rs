//! The costs of the translation: a packet of a known connection, the first packet of a new one, and memory.
//!
//! Each packet is written from a template and its header validated before the translation; every figure includes the few
//! nanoseconds for that.
#![allow(missing_docs, reason = "criterion's macros make functions")]
#![allow(clippy::disallowed_methods, reason = "what threads of its own do is timed")]

use std::hint::black_box;
use std::net::Ipv4Addr;
use std::time::{Duration, Instant};

use criterion::{Criterion, Throughput, criterion_group, criterion_main};
use nat::{External, ExternalKind, Nat, NatConfig, Side};
use packet::Timestamp;
use packet::checksum::Checksum;
use testkit::packets::ipv4_mut;

const NOW: Timestamp = Timestamp::from_secs(10);
const MILLION: u32 = 1_000_000;
const ACK: u8 = 0x10;
const SYN: u8 = 0x02;

fn nat() -> Nat {
    let config = NatConfig {
        max_connections: MILLION as usize,
        max_connections_per_port: MILLION as usize,
        max_ports_per_guest: 65_536,
        ..NatConfig::default()
    };
    let nat = Nat::new(config, [1, 2]).unwrap();
    let own = |last| External { address: Ipv4Addr::new(203, 0, 113, last), kind: ExternalKind::Own };
    nat.set_externals(&[own(1), own(2), own(3), own(4)], NOW).unwrap();
    nat
}

/// A packet that a flow's endpoints are written into; its checksums are not maintained.
#[derive(Clone, Copy)]
struct Template {
    bytes: [u8; 60],
    checksum: Checksum,
}

impl Template {
    fn udp() -> Template {
        let mut bytes = [0; 60];
        bytes[..10].copy_from_slice(&[0x45, 0, 0, 60, 0, 0, 0x40, 0, 64, 17]);
        bytes[24..28].copy_from_slice(&[0, 40, 0x12, 0x34]);
        Template { bytes, checksum: Checksum::Verified }
    }

    fn tcp(flags: u8) -> Template {
        let mut udp = Template::udp();
        udp.bytes[9] = 6;
        let (sequence, acknowledgment) = if flags == SYN { (1000u32, 0u32) } else { (1001, 5001) };
        udp.bytes[24..28].copy_from_slice(&sequence.to_be_bytes());
        udp.bytes[28..32].copy_from_slice(&acknowledgment.to_be_bytes());
        udp.bytes[32..36].copy_from_slice(&[0x50, flags, 0x40, 0]);
        udp
    }

    #[inline]
    fn of(mut self, src: (u32, u16), dst: (u32, u16)) -> [u8; 60] {
        self.bytes[12..16].copy_from_slice(&src.0.to_be_bytes());
        self.bytes[16..20].copy_from_slice(&dst.0.to_be_bytes());
        self.bytes[20..22].copy_from_slice(&src.1.to_be_bytes());
        self.bytes[22..24].copy_from_slice(&dst.1.to_be_bytes());
        self.bytes
    }
}

fn send(nat: &Nat, side: Side, template: &Template, src: (u32, u16), dst: (u32, u16)) -> [u8; 60] {
    let mut packet = template.of(src, dst);
    let result = nat.translate(side, &mut ipv4_mut(&mut packet), template.checksum, 0, NOW);
    let _ = black_box(result);
    packet
}

/// Endpoints of the n-th flow: few inside, many outside.
fn few_inside(n: u32) -> ((u32, u16), (u32, u16)) {
    ((0x0a00_0000 | (n % 16), 5000), (0x0800_0000 + n / 16, 443))
}

/// Endpoints of the n-th flow, each with an inside endpoint of its own.
fn own_inside(n: u32) -> ((u32, u16), (u32, u16)) {
    ((0x0a00_0000 | (n % 64), (1024 + n / 64) as u16), (0x0808_0808, 443))
}

fn random(state: &mut u64) -> u32 {
    *state ^= *state << 13;
    *state ^= *state >> 7;
    *state ^= *state << 17;
    (*state >> 24) as u32
}

fn outside_of(packet: &[u8; 60]) -> (u32, u16) {
    (u32::from_be_bytes([packet[12], packet[13], packet[14], packet[15]]), u16::from_be_bytes([packet[20], packet[21]]))
}

/// Checks the number of connections, but for the few whose buckets are full in a nearly full table.
fn is_full(nat: &Nat, count: u32) -> bool {
    nat.stats().connections + 100 > count as usize
}

/// Opens this many connections; TCP connections with their handshake.
fn filled(count: u32, tcp: bool) -> (Nat, [(u32, u16); 16]) {
    let nat = nat();
    let mut outside = [(0, 0); 16];
    for n in 0..count {
        let (src, dst) = few_inside(n);
        if tcp {
            let there = send(&nat, Side::Inside, &Template::tcp(SYN), src, dst);
            let mut answer = Template::tcp(SYN | ACK);
            answer.bytes[24..32].copy_from_slice(&[5000u32.to_be_bytes(), 1001u32.to_be_bytes()].concat());
            send(&nat, Side::Outside, &answer, dst, outside_of(&there));
            send(&nat, Side::Inside, &Template::tcp(ACK), src, dst);
            outside[n as usize % 16] = outside_of(&there);
        } else {
            outside[n as usize % 16] = outside_of(&send(&nat, Side::Inside, &Template::udp(), src, dst));
        }
    }
    assert!(is_full(&nat, count));
    (nat, outside)
}

fn established(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("established");
    group.throughput(Throughput::Elements(64));
    for (protocol, tcp) in [("UDP", false), ("TCP", true)] {
        for count in [1000, MILLION] {
            let (nat, outside) = filled(count, tcp);
            let out = if tcp { Template::tcp(ACK) } else { Template::udp() };
            let mut back = out;
            if tcp {
                back.bytes[24..32].copy_from_slice(&[5001u32.to_be_bytes(), 1001u32.to_be_bytes()].concat());
            }
            let mut state = 99;
            let working_set: Vec<u32> = (0..64).map(|_| random(&mut state) % count).collect();
            let mut pick = |at: usize, all: bool| if all { random(&mut state) % count } else { working_set[at] };
            for (order, all) in [("64 flows in turn", false), ("all at random", true)] {
                group.bench_function(format!("{protocol} out, {count}, {order}"), |bencher| {
                    bencher.iter(|| {
                        for at in 0..64 {
                            let (src, dst) = few_inside(pick(at, all));
                            send(&nat, Side::Inside, &out, src, dst);
                        }
                    });
                });
                group.bench_function(format!("{protocol} in, {count}, {order}"), |bencher| {
                    bencher.iter(|| {
                        for at in 0..64 {
                            let n = pick(at, all);
                            send(&nat, Side::Outside, &back, few_inside(n).1, outside[n as usize % 16]);
                        }
                    });
                });
            }
        }
    }
    group.finish();
}

/// Source and destination of a flow, by its number.
type Flow = fn(u32) -> ((u32, u16), (u32, u16));

/// Time for `threads` threads to open `each` flows each.
fn opening(nat: &Nat, threads: u32, each: std::ops::Range<u32>, flow: Flow) -> Duration {
    let start = Instant::now();
    std::thread::scope(|scope| {
        for thread in 0..threads {
            let each = each.clone();
            scope.spawn(move || {
                for n in each {
                    let (src, dst) = flow(n * threads + thread);
                    send(nat, Side::Inside, &Template::udp(), src, dst);
                }
            });
        }
    });
    start.elapsed()
}

fn insertion(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("first packets");
    group.throughput(Throughput::Elements(1)).sample_size(10).measurement_time(Duration::from_secs(4));
    type Flow = fn(u32) -> ((u32, u16), (u32, u16));
    for (name, threads, flow, most) in [
        ("known mapping, 1 thread", 1u32, few_inside as Flow, MILLION),
        ("known mapping, 2 threads", 2, few_inside, MILLION),
        ("new mapping, 1 thread", 1, own_inside, 120_000),
        ("new mapping, 2 threads", 2, own_inside, 120_000),
    ] {
        group.bench_function(name, |bencher| {
            bencher.iter_custom(|iterations| {
                let (mut left, mut time) = (u32::try_from(iterations).unwrap(), Duration::ZERO);
                while left > 0 {
                    let nat = nat();
                    let now = left.div_ceil(threads).min(most / threads);
                    time += opening(&nat, threads, 0..now, flow);
                    assert!(is_full(&nat, now * threads));
                    left = left.saturating_sub(now * threads);
                }
                time
            });
        });
    }
    group.finish();
}

/// Resident memory of this process, in bytes.
fn resident() -> usize {
    let statm = std::fs::read_to_string("/proc/self/statm").unwrap_or_default();
    statm.split(' ').nth(1).and_then(|pages| pages.parse::<usize>().ok()).unwrap_or(0) * 4096
}

/// Reports memory instead of time: that of a million connections in use.
fn memory(_: &mut Criterion) {
    if std::env::args().any(|arg| arg == "--test") {
        return;
    }
    let before = resident();
    let nat = nat();
    let empty = resident();
    for n in 0..MILLION {
        let (src, dst) = few_inside(n);
        send(&nat, Side::Inside, &Template::udp(), src, dst);
    }
    assert!(is_full(&nat, MILLION));
    let mib = |bytes: usize| bytes as f64 / f64::from(1 << 20);
    println!("memory: {:.1} MiB empty, {:.1} MiB with {MILLION} connections", mib(empty - before), mib(resident() - before));
}

fn short() -> Criterion {
    Criterion::default().warm_up_time(Duration::from_millis(300)).measurement_time(Duration::from_secs(1)).sample_size(20)
}

criterion_group!(name = benches; config = short(); targets = memory, established, insertion);
criterion_main!(benches);
