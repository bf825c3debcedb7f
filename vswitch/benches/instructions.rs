//! Instructions, counted under valgrind: parse, learn and look up, the pipeline by kind of frame, captures, tunnels, and the router.
//! Unlike time they are the same on every machine of one architecture, so that a change shows: a benchmark that takes
//! over 2 % more than its line in `instructions.txt` says fails.
//!
//! Needs valgrind and `cargo install gungraun-runner` in the version of the `gungraun` crate; without
//! the runner this says so and does nothing.
#![allow(missing_docs, reason = "gungraun's macros make functions")]

mod overlay;
mod routed;
mod traffic;

use overlay::Overlay;
use routed::{Routed, Way};
use traffic::{Bench, Kind};

mod counted {
    use std::hint::black_box;

    use gungraun::prelude::*;
    use gungraun::{Callgrind, EventKind};
    use packet::vlan::VlanId;
    use packet::{Headers, MacAddr, Malformed};
    use vswitch::{MacTable, MacTableConfig, PortId};

    use super::overlay::Kind as Tunnelled;
    use super::traffic::NOW;
    use super::{Bench, Kind, Overlay, Routed, Way};
    use testkit::frames::Spec;

    /// Accepted instruction counts, a line a benchmark.
    const ACCEPTED: &str = include_str!("instructions.txt");

    /// Fails a run with over 2 % more instructions than accepted. A benchmark without a line in the file always fails.
    fn at_most(benchmark: &str) -> LibraryBenchmarkConfig {
        let lines = ACCEPTED.lines().filter_map(|line| line.rsplit_once(' '));
        let accepted = lines.filter(|(name, _)| *name == benchmark).find_map(|(_, count)| count.parse::<u64>().ok()).unwrap_or(0);
        let mut callgrind = Callgrind::default();
        callgrind.hard_limits([(EventKind::Ir, accepted + accepted / 50)]);
        let mut config = LibraryBenchmarkConfig::default();
        config.tool(callgrind);
        config
    }

    fn tcp4() -> Vec<u8> {
        Spec::default().bytes()
    }

    fn udp6_tagged() -> Vec<u8> {
        Spec { v6: true, tcp: false, tags: vec![(0x8100, 10)], ..Spec::default() }.bytes()
    }

    #[library_benchmark]
    #[bench::tcp4(args = (tcp4()), config = at_most("parse tcp4"))]
    #[bench::udp6_tagged(args = (udp6_tagged()), config = at_most("parse udp6_tagged"))]
    fn parse(frame: Vec<u8>) -> Result<Headers, Malformed> {
        let headers = black_box(Headers::parse(black_box(&frame)));
        // Not to be freed in the measurement.
        std::mem::forget(frame);
        headers
    }

    fn table() -> MacTable {
        let table = MacTable::new(MacTableConfig::default());
        for n in 0..100 {
            table.learn(VlanId::NONE, MacAddr::from_u64(0x0200_0000_0000 | n), PortId(0), NOW);
        }
        table
    }

    #[library_benchmark]
    #[bench::known(args = (table()), config = at_most("learn_and_look_up known"))]
    fn learn_and_look_up(table: MacTable) -> Option<PortId> {
        let station = |n: u64| black_box(MacAddr::from_u64(0x0200_0000_0000 | n));
        black_box(table.learn(VlanId::NONE, station(1), PortId(0), NOW));
        let port = black_box(table.lookup(VlanId::NONE, station(2), NOW));
        std::mem::forget(table);
        port
    }

    // A batch; divide by its frames: 64, or 4 of TSO.
    #[library_benchmark]
    #[bench::unicast_60(args = (Bench::of(Kind::Unicast60)), config = at_most("batch unicast_60"))]
    #[bench::unicast_1500(args = (Bench::of(Kind::Unicast1500)), config = at_most("batch unicast_1500"))]
    #[bench::flood(args = (Bench::of(Kind::Flood)), config = at_most("batch flood"))]
    #[bench::tso(args = (Bench::of(Kind::Tso)), config = at_most("batch tso"))]
    #[bench::tcp_run(args = (Bench::of(Kind::TcpRun)), config = at_most("batch tcp_run"))]
    #[bench::udp_run(args = (Bench::of(Kind::UdpRun)), config = at_most("batch udp_run"))]
    #[bench::vlan_push(args = (Bench::of(Kind::VlanPush)), config = at_most("batch vlan_push"))]
    #[bench::guarded_60(args = (Bench::guarded()), config = at_most("batch guarded_60"))]
    fn batch(mut bench: Bench) -> (u64, usize) {
        let written = black_box(bench.run());
        std::mem::forget(bench);
        written
    }

    // A batch of known unicast that a capture has recorded twice, on arrival and as it leaves, or has refused, or that a trace has refused.
    #[library_benchmark]
    #[bench::captured_60(args = (Bench::captured("udp")), config = at_most("batch captured_60"))]
    #[bench::unmatched_60(args = (Bench::captured("tcp")), config = at_most("batch unmatched_60"))]
    #[bench::unmatched_host_60(args = (Bench::captured("host 192.0.2.9")), config = at_most("batch unmatched_host_60"))]
    #[bench::untraced_60(args = (Bench::traced()), config = at_most("batch untraced_60"))]
    fn captured_batch(mut bench: Bench) -> (u64, usize) {
        let written = black_box(bench.run());
        std::mem::forget(bench);
        written
    }

    // A batch into a VXLAN tunnel, and one out of it, whose datagrams are opened and copied.
    #[library_benchmark]
    #[bench::vxlan_in_60(args = (Overlay::new(Tunnelled::Into60)), config = at_most("batch vxlan_in_60"))]
    #[bench::vxlan_in_tso(args = (Overlay::new(Tunnelled::IntoSuperFrame)), config = at_most("batch vxlan_in_tso"))]
    #[bench::vxlan_out_60(args = (Overlay::new(Tunnelled::OutOf60)), config = at_most("batch vxlan_out_60"))]
    #[bench::vxlan_out_train(args = (Overlay::new(Tunnelled::OutOfTrain)), config = at_most("batch vxlan_out_train"))]
    fn tunnelled_batch(mut overlay: Overlay) -> (usize, usize) {
        let written = black_box(overlay.run());
        std::mem::forget(overlay);
        written
    }

    // A batch of 64 flows of short packets, and the copy that fills it.
    #[library_benchmark]
    #[bench::routed_udp_out(args = (Routed::new(Way::Out, false, 18)), config = at_most("batch routed_udp_out"))]
    #[bench::routed_udp_in(args = (Routed::new(Way::In, false, 18)), config = at_most("batch routed_udp_in"))]
    #[bench::routed_tcp_out(args = (Routed::new(Way::Out, true, 6)), config = at_most("batch routed_tcp_out"))]
    #[bench::routed_tcp_in(args = (Routed::new(Way::In, true, 6)), config = at_most("batch routed_tcp_in"))]
    fn routed_batch(mut routed: Routed) -> u64 {
        let written = black_box(routed.run());
        std::mem::forget(routed);
        written
    }

    library_benchmark_group!(name = steps, benchmarks = [parse, learn_and_look_up]);
    library_benchmark_group!(name = pipeline, benchmarks = [batch, captured_batch]);
    library_benchmark_group!(name = tunnels, benchmarks = tunnelled_batch);
    library_benchmark_group!(name = router, benchmarks = routed_batch);
    gungraun::main!(library_benchmark_groups = steps, pipeline, tunnels, router);

    pub(super) fn run() {
        main();
    }
}

/// Is the runner where it would be looked for?
fn has_runner() -> bool {
    let paths = std::env::var_os("PATH").unwrap_or_default();
    std::env::split_paths(&paths).any(|path| path.join("gungraun-runner").exists()) || option_env!("GUNGRAUN_RUNNER").is_some()
}

fn main() {
    // The runner starts this program again, for each benchmark and with the environment cleared.
    let is_started_by_runner = std::env::args().any(|arg| arg.starts_with("--gungraun-run"));
    if is_started_by_runner || has_runner() && std::env::args().any(|arg| arg == "--bench") {
        counted::run();
    } else {
        eprintln!("instruction counts are skipped: they need `cargo bench` and gungraun-runner");
    }
}
