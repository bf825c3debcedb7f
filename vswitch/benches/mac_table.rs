//! The MAC table: look-up and refresh by size, and what sharing it between workers costs.
#![allow(missing_docs, reason = "criterion's macros make functions")]
#![allow(clippy::disallowed_methods, reason = "a bench with its own threads reads the clock itself")]

use std::collections::HashMap;
use std::hint::black_box;
use std::sync::{Barrier, Mutex, RwLock};
use std::time::{Duration, Instant};

use criterion::{Criterion, Throughput, criterion_group, criterion_main};
use packet::vlan::VlanId;
use packet::{MacAddr, Timestamp};
use vswitch::{MacTable, MacTableConfig, PortId};

const NOW: Timestamp = Timestamp::from_secs(1);

/// Look-ups an iteration: so many that all entries of the largest table are met.
const PICKS: usize = 1 << 17;

fn station(n: u64) -> MacAddr {
    MacAddr::from_u64(0x0200_0000_0000 | n)
}

fn random(seed: u64) -> impl FnMut() -> u64 {
    let mut state = seed | 1;
    move || {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        state >> 16
    }
}

fn uniform(stations: u64, seed: u64) -> Vec<MacAddr> {
    let mut next = random(seed);
    (0..PICKS).map(|_| station(next() % stations)).collect()
}

/// Few stations make most of the traffic: the rank's logarithm is uniform, as in Zipf's law with
/// exponent 1.
fn hot(stations: u64, seed: u64) -> Vec<MacAddr> {
    let mut next = random(seed);
    let rank = |pick: u64| ((stations as f64).powf((pick % (1 << 24)) as f64 / f64::from(1 << 24)) - 1.0) as u64;
    (0..PICKS).map(|_| station(rank(next()))).collect()
}

fn table(stations: u64) -> MacTable {
    let table = MacTable::new(MacTableConfig { size: stations as usize, seed: [5, 6], ..MacTableConfig::default() });
    for n in 0..stations {
        table.learn(VlanId::NONE, station(n), port_of(station(n)), NOW);
    }
    table
}

/// What the switch does with the table for one frame: the source renews its entry, the destination
/// is looked up.
fn sizes(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("mac table, learn and look up");
    for stations in [100u64, 10_000, 100_000] {
        let table = table(stations);
        assert!((0..stations).all(|n| table.frame(station(n), station(n), NOW).is_some()), "all are known");
        for (name, picks) in [("uniform", uniform(stations, 1)), ("hot", hot(stations, 1))] {
            group.throughput(Throughput::Elements(64));
            let mut at = 0;
            group.bench_function(format!("{stations} entries, {name}"), |bencher| {
                bencher.iter(|| {
                    let sources = &picks[at..at + 64];
                    at = (at + 64) % PICKS;
                    let destinations = &picks[at..at + 64];
                    for (src, dst) in sources.iter().zip(destinations) {
                        black_box(table.frame(*src, *dst, NOW));
                    }
                });
            });
        }
    }
    group.finish();
}

/// A table that a worker asks for a frame's two stations.
trait Table: Sync {
    fn frame(&self, src: MacAddr, dst: MacAddr, now: Timestamp) -> Option<PortId>;
}

fn port_of(mac: MacAddr) -> PortId {
    PortId((mac.to_u64() % 64) as u16)
}

impl Table for MacTable {
    fn frame(&self, src: MacAddr, dst: MacAddr, now: Timestamp) -> Option<PortId> {
        self.learn(VlanId::NONE, src, port_of(src), now);
        self.lookup(VlanId::NONE, dst, now)
    }
}

type Plain = HashMap<(VlanId, MacAddr), (PortId, u32)>;

impl Table for RwLock<Plain> {
    fn frame(&self, src: MacAddr, dst: MacAddr, now: Timestamp) -> Option<PortId> {
        let entry = (port_of(src), now.secs());
        let known = self.read().is_ok_and(|table| table.get(&(VlanId::NONE, src)) == Some(&entry));
        if !known && let Ok(mut table) = self.write() {
            table.insert((VlanId::NONE, src), entry);
        }
        self.read().ok()?.get(&(VlanId::NONE, dst)).map(|(port, _)| *port)
    }
}

impl Table for Mutex<Plain> {
    fn frame(&self, src: MacAddr, dst: MacAddr, now: Timestamp) -> Option<PortId> {
        let mut table = self.lock().ok()?;
        table.insert((VlanId::NONE, src), (port_of(src), now.secs()));
        table.get(&(VlanId::NONE, dst)).map(|(port, _)| *port)
    }
}

/// Two workers at once, `frames` each; the time of the slower one. Both read one clock, once for 64
/// frames as a worker does for a batch: workers that disagreed about the second would renew each
/// entry over and over, which no two real ones do.
fn race<T: Table>(tables: [&T; 2], picks: &[Vec<MacAddr>; 2], frames: u64, clock: Instant) -> Duration {
    let barrier = Barrier::new(2);
    let work = |table: &T, picks: &[MacAddr]| {
        barrier.wait();
        let start = Instant::now();
        let mut now = NOW;
        for n in 0..frames {
            if n % 64 == 0 {
                now = Timestamp::from_millis(1000 + clock.elapsed().as_millis() as u64);
            }
            let at = n as usize % (PICKS - 1);
            black_box(table.frame(picks[at], picks[at + 1], now));
        }
        start.elapsed()
    };
    std::thread::scope(|scope| {
        let other = scope.spawn(|| work(tables[1], &picks[1]));
        let own = work(tables[0], &picks[0]);
        other.join().map_or(own, |other| own.max(other))
    })
}

/// Which table shall two workers have? One frame of each worker is one element, so that the time is
/// nanoseconds a frame as a worker sees it.
fn sharing(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("mac table, two workers");
    group.throughput(Throughput::Elements(1));
    // One clock for all: entries only ever grow older.
    let clock = Instant::now();
    for stations in [100u64, 10_000] {
        let picks = [uniform(stations, 11), uniform(stations, 12)];
        let plain = || -> Plain { (0..stations).map(|n| ((VlanId::NONE, station(n)), (port_of(station(n)), 1))).collect() };
        let (shared, private) = (table(stations), table(stations));
        let (read_write, mutex) = (RwLock::new(plain()), Mutex::new(plain()));
        let rounds = |frames: u64| frames.max(20_000);
        let scale = |time: Duration, frames: u64| time.mul_f64(frames as f64 / rounds(frames) as f64);
        group.bench_function(format!("{stations} entries, shared MacTable"), |bencher| {
            bencher.iter_custom(|frames| scale(race([&shared, &shared], &picks, rounds(frames), clock), frames));
        });
        group.bench_function(format!("{stations} entries, RwLock<HashMap>"), |bencher| {
            bencher.iter_custom(|frames| scale(race([&read_write, &read_write], &picks, rounds(frames), clock), frames));
        });
        group.bench_function(format!("{stations} entries, Mutex<HashMap>"), |bencher| {
            bencher.iter_custom(|frames| scale(race([&mutex, &mutex], &picks, rounds(frames), clock), frames));
        });
        group.bench_function(format!("{stations} entries, a MacTable each"), |bencher| {
            bencher.iter_custom(|frames| scale(race([&shared, &private], &picks, rounds(frames), clock), frames));
        });
    }
    group.finish();
}

fn short() -> Criterion {
    Criterion::default().warm_up_time(Duration::from_millis(500)).measurement_time(Duration::from_secs(2)).sample_size(30)
}

criterion_group!(name = benches; config = short(); targets = sizes, sharing);
criterion_main!(benches);
