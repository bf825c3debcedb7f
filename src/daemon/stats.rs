//! The counters of all parts at one moment, for the control socket and for Prometheus.

use std::time::SystemTime;

use api::State;
use hdrhistogram::Histogram;
use netio::backlog::receive_queue;
use vswitch::mac_table::MacTableStats;
use vswitch::{BridgeId, Counters, PortId};

use super::view::{View, nat_stats};
use crate::control_socket::LATENCY_STEPS;
use crate::edge::router::RouterControl;
use crate::edge::{HostDevice, UplinkPort};
use crate::fabric::report::{PortReport, Report};
use crate::ports::device::PortDevice;
use crate::worker::{Latency, WorkerCounters};

/// Significant digits of the histogram, more than workers keep.
const DIGITS: u8 = 3;

/// A port's state besides its counters.
#[derive(Debug, Default)]
struct PortNow {
    bridge: Option<String>,
    namespace: Option<String>,
    state: Option<State>,
    loop_blocked: bool,
    kernel_dropped: u64,
    rx_queue: Option<u64>,
    tx_queue: Option<(u64, u64)>,
}

impl View<'_> {
    /// All counters.
    pub(super) fn stats(&self, report: &Report) -> api::Stats {
        let tables = self.fabric.bridges.iter().map(|bridge| api::BridgeStats {
            name: bridge.config.name.clone(),
            mac_table: table_stats(bridge.table.stats(), bridge.config.mac_table_size),
        });
        let bridges: Vec<api::BridgeStats> = tables.collect();
        let end = self.fabric.slots.end();
        let of_ports = self.bridges_of_ports();
        api::Stats {
            ports: report.shown().map(|(id, port)| port_view(port, self.port_now(id, of_ports[id.index()], report))).collect(),
            mac_table: together(bridges.iter().map(|bridge| &bridge.mac_table)),
            bridges,
            nat: self.edge.nat().map(|nat| nat_stats(nat)),
            datagrams_dropped: report.datagrams_dropped,
            worker_panics: report.panics,
            log_lines_lost: crate::log::lost(),
            start_time: self.started.duration_since(SystemTime::UNIX_EPOCH).map_or(0.0, |since| since.as_secs_f64()),
            version: env!("CARGO_PKG_VERSION").to_owned(),
            neighbours: self.edge.router.as_ref().map(neighbour_stats),
            workers: self.fabric.workers.iter().map(|(counters, own)| worker_stats(counters, own, end)).collect(),
            latency: self.latency(),
        }
    }

    /// The latency of all workers' pipelines.
    pub(super) fn latency(&self) -> api::Latency {
        latency_of(self.fabric.workers.iter().map(|(_, own)| &own.latency))
    }

    fn port_now(&self, id: PortId, bridge: Option<BridgeId>, report: &Report) -> PortNow {
        let table = bridge.and_then(|bridge| self.fabric.bridges.table(bridge));
        let loop_blocked = table.is_some_and(|table| table.is_blocked_anywhere(id, self.fabric.now()));
        let bridge = bridge.map(|bridge| self.fabric.bridges.name(bridge).to_owned());
        if let Some(port) = self.ports.get(id) {
            let device = port.device();
            return PortNow {
                bridge,
                namespace: port.config.link().and_then(|(_, netns)| netns).map(ToString::to_string),
                state: Some(port.state()),
                loop_blocked,
                kernel_dropped: report.dropped_at(id),
                rx_queue: device.and_then(PortDevice::rx_queue),
                tx_queue: device.and_then(PortDevice::tx_queue),
            };
        }
        if let Some(uplink) = self.edge.uplink.as_ref().filter(|uplink| uplink.id == id) {
            return PortNow {
                bridge,
                state: Some(uplink.shown_state()),
                loop_blocked,
                kernel_dropped: report.kernel_dropped,
                rx_queue: rx_queue_of(uplink),
                ..PortNow::default()
            };
        }
        let state = self.edge.host.device().filter(|host| host.id == id).map(HostDevice::state);
        PortNow { bridge, state, loop_blocked, ..PortNow::default() }
    }
}

fn rx_queue_of(uplink: &UplinkPort) -> Option<u64> {
    let queues = uplink.socket()?.queues().iter();
    Some(queues.filter_map(|queue| receive_queue(queue).ok()).map(u64::from).sum())
}

fn port_view(port: &PortReport, now: PortNow) -> api::PortStats {
    let totals = &port.totals;
    api::PortStats {
        name: port.name.clone(),
        bridge: now.bridge,
        namespace: now.namespace,
        state: now.state,
        loop_blocked: now.loop_blocked,
        rx_frames: totals.rx_frames,
        rx_bytes: totals.rx_bytes,
        tx_frames: totals.tx_frames,
        tx_bytes: totals.tx_bytes,
        tx_writes: totals.tx_writes,
        copies: totals.copies,
        made: totals.made,
        taken: totals.taken,
        offload_refused: totals.offload_refused,
        dropped: totals.dropped(),
        drops: totals.drops().map(|(reason, frames)| (reason.name().to_owned(), frames)).collect(),
        kernel_dropped: now.kernel_dropped,
        rx_queue_bytes: now.rx_queue,
        tx_queue_bytes: now.tx_queue.map(|(bytes, _)| bytes),
        tx_queue_limit_bytes: now.tx_queue.map(|(_, limit)| limit),
    }
}

fn table_stats(stats: MacTableStats, size: usize) -> api::MacTableStats {
    let MacTableStats { learned, moved, evicted, expired, entries, statics } = stats;
    api::MacTableStats { entries, statics, size, learned, moved, evicted, expired }
}

/// The counters of all tables added up.
fn together<'a>(tables: impl Iterator<Item = &'a api::MacTableStats>) -> api::MacTableStats {
    tables.fold(table_stats(MacTableStats::default(), 0), |sum, table| api::MacTableStats {
        entries: sum.entries + table.entries,
        statics: sum.statics + table.statics,
        size: sum.size + table.size,
        learned: sum.learned + table.learned,
        moved: sum.moved + table.moved,
        evicted: sum.evicted + table.evicted,
        expired: sum.expired + table.expired,
    })
}

fn neighbour_stats(router: &RouterControl) -> api::NeighbourStats {
    let vswitch::NeighbourStats { known, max, incomplete, kept } = router.neighbours().stats();
    api::NeighbourStats { known, max, incomplete, held_packets: kept }
}

fn worker_stats(counters: &Counters, own: &WorkerCounters, ports: usize) -> api::WorkerStats {
    let frames = (0..ports).filter_map(|port| counters.port(PortId(port as u16)));
    api::WorkerStats {
        batches: own.batches.load(),
        frames: frames.map(|port| port.rx_frames.load()).sum(),
        panics: own.panics.load(),
        latency: in_steps(&own.latency),
        latency_sum_ns: own.latency.sum(),
    }
}

/// The number of times in each of Prometheus' buckets, the last one without an upper bound.
fn in_steps(latency: &Latency) -> Vec<u64> {
    let mut counts = vec![0; LATENCY_STEPS.len() + 1];
    for (longest, count) in latency.counts() {
        counts[LATENCY_STEPS.partition_point(|step| *step <= longest)] += count;
    }
    counts
}

/// The latency over all workers.
fn latency_of<'a>(workers: impl Iterator<Item = &'a Latency> + Clone) -> api::Latency {
    let longest = workers.clone().map(Latency::longest).max().unwrap_or(0);
    // Bounds of which there can be one.
    let Ok(mut all) = Histogram::<u64>::new_with_max(longest.max(2), DIGITS) else { return api::Latency::default() };
    for (nanos, count) in workers.flat_map(Latency::counts) {
        all.saturating_record_n(nanos, count);
    }
    let at = |quantile| all.value_at_quantile(quantile).min(longest);
    api::Latency { samples: all.len(), p50_ns: at(0.5), p99_ns: at(0.99), p999_ns: at(0.999), max_ns: longest }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    fn latency(nanos: impl IntoIterator<Item = u64>) -> Latency {
        let latency = Latency::new();
        nanos.into_iter().for_each(|nanos| latency.record(Duration::from_nanos(nanos)));
        latency
    }

    #[test]
    fn percentiles_of_all_workers() {
        let (one, other) = (latency((1..=990).map(|n| n * 1000)), latency([5_000_000; 10]));
        let all = latency_of([&one, &other].into_iter());
        assert_eq!((all.samples, all.max_ns, all.p999_ns), (1000, 5_000_000, 5_000_000));
        let near = |nanos: u64, wanted: u64| (wanted..=wanted + wanted / 30).contains(&nanos);
        assert!(near(all.p50_ns, 500_000) && near(all.p99_ns, 990_000), "{all:?}");
        let none = latency_of([&latency([])].into_iter());
        assert_eq!((none.samples, none.p99_ns, none.max_ns), (0, 0, 0));
    }

    #[test]
    fn steps_are_exact() {
        let counts = in_steps(&latency([0, 1023, 1024, 2047, 2048, 1 << 30, (1 << 30) - 1]));
        assert_eq!(counts[..3], [2, 2, 1]);
        assert_eq!(counts[LATENCY_STEPS.len() - 1..], [1, 1]);
        assert_eq!(counts.iter().sum::<u64>(), 7);
    }
}
