//! The costs of parsing, checksums, segmentation and coalescing.
#![allow(missing_docs, reason = "criterion's macros make functions")]

use std::hint::black_box;
use std::time::Duration;

use criterion::{Criterion, Throughput, criterion_group, criterion_main};
use packet::coalesce::Run;
use packet::head::Head;
use packet::segment::{self, Segments};
use packet::vlan::TagAction;
use packet::{Features, Headers, Offload, VnetHeader, checksum};
use testkit::frames::{Spec, noise};
use testkit::wire::judged;

fn parse(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("parse");
    group.throughput(Throughput::Elements(1));
    let specs = [
        ("IPv4 TCP", Spec::default()),
        ("IPv6 UDP", Spec { v6: true, tcp: false, ..Spec::default() }),
        ("VLAN IPv4 UDP", Spec { tcp: false, tags: vec![(0x8100, 10)], ..Spec::default() }),
        ("IPv6 TCP behind hop-by-hop", Spec { v6: true, ip_options: 1, ..Spec::default() }),
    ];
    for (name, spec) in specs {
        let frame = spec.bytes();
        group.bench_function(name, |bencher| bencher.iter(|| Headers::parse(black_box(&frame))));
    }
    let (vnet, frame) = Spec { payload: noise(1, 60_000), ..Spec::default() }.super_frame(1448);
    let headers = judged(vnet, &frame).0;
    group.bench_function("judge", |bencher| bencher.iter(|| Offload::judge(black_box(vnet), &headers, frame.len())));
    group.finish();
}

fn sums(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("checksum");
    for len in [20usize, 64, 1448, 65_536] {
        let bytes = noise(1, len);
        group.throughput(Throughput::Bytes(len as u64));
        group.bench_function(format!("sum of {len} B"), |bencher| bencher.iter(|| checksum::sum(black_box(&bytes))));
    }
    group.finish();
}

fn segmentation(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("segmentation");
    let mut head = Head::default();
    for (name, tcp) in [("TCP, 60 KB", true), ("UDP, 60 KB", false)] {
        let (vnet, frame) = Spec { tcp, payload: noise(1, 60_000), ..Spec::default() }.super_frame(1448);
        let (headers, offload) = judged(vnet, &frame);
        let Some(segmentation) = offload.segmentation else { continue };
        group.throughput(Throughput::Bytes(frame.len() as u64));
        group.bench_function(name, |bencher| {
            bencher.iter(|| {
                let mut segments = Segments::new(&frame, &headers, segmentation, TagAction::Keep, &mut head)?;
                while let Some(payload) = segments.next(&mut head) {
                    black_box(payload);
                }
                Some(())
            });
        });
    }
    let (vnet, frame) = Spec { payload: noise(1, 1448), ..Spec::default() }.partial();
    let headers = judged(vnet, &frame).0;
    group.throughput(Throughput::Bytes(frame.len() as u64));
    group.bench_function("complete, 1448 B", |bencher| {
        bencher.iter(|| segment::complete(black_box(&frame), &headers, TagAction::Keep, &mut head));
    });
    group.finish();
}

fn coalescing(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("coalescing");
    group.throughput(Throughput::Elements(40));
    let mut head = Head::default();
    for (name, tcp) in [("TCP, 40 of 1448 B", true), ("UDP, 40 of 1448 B", false)] {
        let next = |n: usize| Spec {
            tcp,
            id: 1 + n as u16,
            sequence: (n * 1448) as u32,
            payload: noise(n as u64, 1448),
            ..Spec::default()
        };
        let frames: Vec<Vec<u8>> = (0..40).map(|n| next(n).bytes()).collect();
        let parsed: Vec<(Headers, Offload)> = frames.iter().map(|frame| judged(VnetHeader::default(), frame)).collect();
        let mut merge = || {
            let mut run = Run::start(&frames[0], &parsed[0].0, parsed[0].1, Features::ALL)?;
            for (frame, (headers, offload)) in frames.iter().zip(&parsed).skip(1) {
                if !run.extend(frame, headers, *offload) {
                    break;
                }
            }
            run.write_head(TagAction::Keep, &mut head).then_some(run.frames())
        };
        assert_eq!(merge(), Some(40));
        group.bench_function(name, |bencher| bencher.iter(&mut merge));
    }
    group.finish();
}

fn short() -> Criterion {
    Criterion::default().warm_up_time(Duration::from_millis(500)).measurement_time(Duration::from_secs(2)).sample_size(30)
}

criterion_group!(name = benches; config = short(); targets = parse, sums, segmentation, coalescing);
criterion_main!(benches);
