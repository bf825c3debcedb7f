//! The pipeline by kind of frame, and by how many stations the MAC table holds.
//!
//! A batch is built once and put through again and again, so that only `process` and `transmit` are
//! measured; writes go nowhere.
#![allow(missing_docs, reason = "criterion's macros make functions")]

mod overlay;
mod routed;
mod traffic;

use std::time::Duration;

use criterion::{BatchSize, Criterion, Throughput, criterion_group, criterion_main};
use routed::{Routed, Way};
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

/// Beside each other, as the machine is now: the difference is what routing and translation cost. 64
/// flows are written into the batch for each round, which all three ways pay for.
fn routed(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("switched, or routed and translated");
    group.throughput(Throughput::Elements(64));
    for (name, tcp, payload) in [("UDP, 60 B", false, 18), ("TCP, 60 B", true, 6), ("TCP, 1500 B", true, 1460)] {
        for way in [Way::Switched, Way::Out, Way::In] {
            let mut routed = Routed::new(way, tcp, payload);
            group.bench_function(format!("{name}, {way:?}"), |bencher| bencher.iter(|| routed.run()));
        }
    }
    group.finish();
}

/// Small frames of UDP where the router has many networks inside, or many routes: no more than with one of each.
fn many_routes(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("routed among many");
    group.throughput(Throughput::Elements(64));
    for (name, many) in [("1 network, 2 routes", (1, 0)), ("1000 routes", (1, 1000)), ("250 networks", (250, 0))] {
        for way in [Way::Out, Way::In] {
            let mut routed = Routed::among(many, way, false, 18);
            group.bench_function(format!("{name}, {way:?}"), |bencher| bencher.iter(|| routed.run()));
        }
    }
    group.finish();
}

/// Into a VXLAN tunnel and out of it, by frame as it is on a wire. Into it: parse to trains, without the
/// socket. Out of it: from the datagrams, which are opened and copied, to the link.
fn tunnel(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("tunnel");
    for kind in overlay::Kind::ALL {
        let mut bench = overlay::Overlay::new(kind);
        group.throughput(Throughput::Elements(bench.run().0 as u64));
        group.bench_function(kind.name(), |bencher| bencher.iter(|| bench.run()));
    }
    group.finish();
}

fn short() -> Criterion {
    Criterion::default().warm_up_time(Duration::from_millis(500)).measurement_time(Duration::from_secs(2)).sample_size(30)
}

criterion_group!(name = benches; config = short(); targets = kinds, table_sizes, routed, many_routes, tunnel);
criterion_main!(benches);
