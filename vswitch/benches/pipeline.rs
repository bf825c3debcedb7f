//! The pipeline by kind of frame, and by how many stations the MAC table holds.
//!
//! A batch is built once and put through again and again, so that only `process` and `transmit` are
//! measured; writes go nowhere.
#![allow(missing_docs, reason = "criterion's macros make functions")]

#[path = "../../packet/tests/frames/mod.rs"]
mod frames;
mod routed;
mod traffic;

use std::time::Duration;

use criterion::{BatchSize, Criterion, Throughput, criterion_group, criterion_main};
use traffic::{Bench, Kind, random};

fn kinds(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("pipeline");
    for kind in Kind::ALL {
        let mut bench = Bench::of(kind);
        group.throughput(Throughput::Elements(bench.frames()));
        group.bench_function(kind.name(), |bencher| bencher.iter(|| bench.run()));
    }
    group.finish();
}

/// Known unicast where the table holds 100 to 100,000 stations: between 64 of them, which stay in the
/// cache, and to all of them at random, which does not. Addresses are written outside the measurement.
fn table_sizes(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("pipeline by stations");
    group.throughput(Throughput::Elements(64));
    for stations in [100u64, 10_000, 100_000] {
        let mut bench = Bench::with_stations(stations);
        let mut pick = random(1, stations - 4);
        // Every station is known, or floods would be measured.
        bench.fill((0..64).map(|_| (0, 4)));
        for first in (4..stations - 64).step_by(64) {
            let mut next = first..;
            bench.readdress(|| next.next().unwrap_or_default());
            assert_eq!(bench.run().0, 64);
        }
        let working_set: Vec<u64> = (0..64).map(|_| 4 + pick()).collect();
        bench.fill(working_set.iter().map(|dst| (0, *dst)));
        group.bench_function(format!("{stations}, working set of 64"), |bencher| bencher.iter(|| bench.run()));
        // Batches are readdressed in turn, far more of them than any cache keeps apart.
        let cell = std::cell::RefCell::new(bench);
        group.bench_function(format!("{stations}, all at random"), |bencher| {
            bencher.iter_batched(
                || cell.borrow_mut().readdress(|| 4 + pick()),
                |()| cell.borrow_mut().run(),
                BatchSize::PerIteration,
            );
        });
    }
    group.finish();
}

fn short() -> Criterion {
    Criterion::default().warm_up_time(Duration::from_millis(500)).measurement_time(Duration::from_secs(2)).sample_size(30)
}

/// Datagrams of known flows, switched and routed: the difference is what routing and translation cost.
fn ways(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("ways");
    group.throughput(Throughput::Elements(64));
    for way in [routed::Way::Switched, routed::Way::Routed] {
        let mut site = routed::Site::new(way);
        assert_eq!(site.run(), 64);
        group.bench_function(format!("{way:?}"), |bencher| bencher.iter(|| site.run()));
    }
    group.finish();
}

criterion_group!(name = benches; config = short(); targets = kinds, table_sizes, ways);
criterion_main!(benches);
