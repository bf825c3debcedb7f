//! The numbers in Prometheus' text form (OpenMetrics 1.0). `docs/metrics.md` says what each of them means.

mod page;
#[cfg(test)]
mod tests;

use std::fmt;

use api::{BridgeStats, MacTableStats, NatStats, NeighbourStats, Peer, PortStats, State, Stats, Tunnel, WorkerStats};
use axum::extract;
use axum::http::header;
use axum::response::{IntoResponse, Response};

use super::answer::busy;
use super::ask::Asker;
use super::query::Query;
use page::{Histogram, Labels, Page};

/// The type of what [`text`] makes.
pub(super) const CONTENT_TYPE: &str = "application/openmetrics-text; version=1.0.0; charset=utf-8";

/// The limits of [`WorkerStats::latency`], in nanoseconds: 1 us to 1 s in powers of two, as those are exact.
pub(crate) const LATENCY_STEPS: [u64; 21] = {
    let mut steps = [1 << 10; 21];
    let mut at = 1;
    while at < steps.len() {
        steps[at] = 2 * steps[at - 1];
        at += 1;
    }
    steps
};

/// Why a connection was not opened: drops by these reasons, of all ports.
const REFUSED: [&str; 7] = [
    "nat_table_full",
    "nat_port_share",
    "nat_guest_share",
    "nat_ports_exhausted",
    "nat_no_address",
    "nat_clash",
    "nat_not_shared",
];

/// Name, help, and which number of a port, worker or host it is.
type Number<T, N = u64> = (&'static str, &'static str, fn(&T) -> N);

/// All numbers for Prometheus
#[utoipa::path(get, path = "/metrics", responses(
    (status = 200, description = "The page, in OpenMetrics 1.0", body = String, content_type = "application/openmetrics-text"),
))]
pub(super) async fn scrape(extract::State(asker): extract::State<Asker>) -> Result<Response, Response> {
    let text = answer(&asker).await.ok_or_else(busy)?;
    Ok(([(header::CONTENT_TYPE, CONTENT_TYPE)], text).into_response())
}

/// The page as it is now; `None` if the control thread does not answer.
pub(super) async fn answer(asker: &Asker) -> Option<String> {
    let (stats, tunnels) = asker.ask(Query::Metrics).await?;
    text(&stats, &tunnels).ok()
}

/// All numbers at one moment.
fn text(stats: &Stats, tunnels: &[Tunnel]) -> Result<String, fmt::Error> {
    let mut page = Page::default();
    add_process(&mut page, stats);
    add_ports(&mut page, &stats.ports);
    add_mac_tables(&mut page, &stats.bridges);
    if let Some(neighbours) = &stats.neighbours {
        add_neighbours(&mut page, neighbours);
    }
    if let Some(nat) = &stats.nat {
        add_nat(&mut page, nat, &stats.ports);
    }
    add_tunnels(&mut page, tunnels);
    counter(
        &mut page,
        "vswitchd_tunnel_kernel_dropped",
        "Datagrams that the kernel dropped before they were read",
        stats.datagrams_dropped,
    );
    add_workers(&mut page, &stats.workers);
    page.text()
}

fn add_process(page: &mut Page, stats: &Stats) {
    page.gauge(
        "process_start_time_seconds",
        "Start time of the daemon, in seconds since 1970",
        [(Labels::new(), stats.start_time)],
    );
    let version = vec![("version", stats.version.clone())];
    page.gauge("vswitchd_build_info", "1, with the daemon's version", [(version, 1.0)]);
    counter(page, "vswitchd_log_lines_lost", "Lines of the log lost because standard error was not read", stats.log_lines_lost);
}

fn add_ports(page: &mut Page, ports: &[PortStats]) {
    let numbers: [Number<PortStats>; 10] = [
        ("vswitchd_port_receive_frames", "Frames received", |port| port.rx_frames),
        ("vswitchd_port_receive_bytes", "Bytes received", |port| port.rx_bytes),
        ("vswitchd_port_transmit_frames", "Frames sent", |port| port.tx_frames),
        ("vswitchd_port_transmit_bytes", "Bytes sent", |port| port.tx_bytes),
        ("vswitchd_port_transmit_writes", "Writes that sent frames", |port| port.tx_writes),
        ("vswitchd_port_copies", "Copies of frames received here, beyond the first", |port| port.copies),
        ("vswitchd_port_made", "Frames that the router made", |port| port.made),
        ("vswitchd_port_taken", "Frames that the router consumed", |port| port.taken),
        ("vswitchd_port_offload_refused", "Super-frames that the kernel refused and that were sent in segments", |port| {
            port.offload_refused
        }),
        ("vswitchd_port_kernel_dropped", "Frames that the kernel dropped before they were read", |port| port.kernel_dropped),
    ];
    for (name, help, number) in numbers {
        page.counter(name, help, ports.iter().map(|port| (labels_of(port), number(port))));
    }
    let drops = ports.iter().flat_map(|port| {
        let labels = |reason: &String| [labels_of(port), vec![("reason", reason.clone())]].concat();
        port.drops.iter().map(move |(reason, frames)| (labels(reason), *frames))
    });
    page.counter("vswitchd_port_drops", "Frames dropped, by reason", drops);
    let up = ports.iter().filter_map(|port| Some((labels_of(port), flag(port.state? == State::Up))));
    page.gauge("vswitchd_port_up", "1 if the device exists and its link is up, else 0", up);
    let blocked = ports.iter().map(|port| (labels_of(port), flag(port.loop_blocked)));
    page.gauge("vswitchd_port_loop_blocked", "1 if the loop guard has blocked the port, else 0", blocked);
    let queues: [Number<PortStats, Option<u64>>; 3] = [
        ("vswitchd_port_receive_queue_bytes", "Bytes waiting in the kernel to be read", |port| port.rx_queue_bytes),
        ("vswitchd_port_transmit_queue_bytes", "Bytes waiting for the guest to read them", |port| port.tx_queue_bytes),
        ("vswitchd_port_transmit_queue_limit_bytes", "Maximum number of bytes waiting for the guest", |port| {
            port.tx_queue_limit_bytes
        }),
    ];
    for (name, help, number) in queues {
        page.gauge(name, help, ports.iter().filter_map(|port| Some((labels_of(port), number(port)? as f64))));
    }
}

fn labels_of(port: &PortStats) -> Labels {
    let words = [("port", Some(&port.name)), ("namespace", port.namespace.as_ref()), ("bridge", port.bridge.as_ref())];
    words.into_iter().map(|(label, word)| (label, word.cloned().unwrap_or_default())).collect()
}

fn add_mac_tables(page: &mut Page, bridges: &[BridgeStats]) {
    let labelled = || bridges.iter().map(|bridge| (vec![("bridge", bridge.name.clone())], &bridge.mac_table));
    let sizes: [Number<MacTableStats, usize>; 3] = [
        ("vswitchd_mac_table_entries", "Learned entries", |table| table.entries),
        ("vswitchd_mac_table_static_entries", "Static entries", |table| table.statics),
        ("vswitchd_mac_table_max_entries", "Maximum number of learned entries", |table| table.size),
    ];
    for (name, help, number) in sizes {
        page.gauge(name, help, labelled().map(|(labels, table)| (labels, number(table) as f64)));
    }
    let numbers: [Number<MacTableStats>; 4] = [
        ("vswitchd_mac_table_learned", "Entries learned", |table| table.learned),
        ("vswitchd_mac_table_moved", "Entries moved to another port", |table| table.moved),
        ("vswitchd_mac_table_evicted", "Entries removed to make room for others", |table| table.evicted),
        ("vswitchd_mac_table_expired", "Entries removed because of their age", |table| table.expired),
    ];
    for (name, help, number) in numbers {
        page.counter(name, help, labelled().map(|(labels, table)| (labels, number(table))));
    }
}

fn add_neighbours(page: &mut Page, neighbours: &NeighbourStats) {
    let states = [("known", neighbours.known), ("incomplete", neighbours.incomplete)];
    let states = states.map(|(state, count)| (vec![("state", state.to_owned())], count as f64));
    page.gauge("vswitchd_neighbours", "Neighbours, by state", states);
    gauge(page, "vswitchd_neighbours_max", "Maximum number of known neighbours", neighbours.max);
    gauge(
        page,
        "vswitchd_neighbour_held_packets",
        "Packets waiting for the MAC address of their next hop",
        neighbours.held_packets,
    );
}

fn add_nat(page: &mut Page, nat: &NatStats, ports: &[PortStats]) {
    gauge(page, "vswitchd_nat_connections", "Connections now", nat.connections);
    gauge(page, "vswitchd_nat_max_connections", "Maximum number of connections", nat.max_connections);
    gauge(page, "vswitchd_nat_mappings", "Mappings now, including those of published ports", nat.mappings);
    counter(page, "vswitchd_nat_connections_opened", "Connections opened", nat.opened);
    counter(page, "vswitchd_nat_connections_expired", "Connections ended by a timeout", nat.expired);
    counter(page, "vswitchd_nat_connections_flushed", "Connections ended because their rule or address was removed", nat.flushed);
    counter(page, "vswitchd_nat_connections_evicted", "Half-open connections that gave their place to new ones", nat.evicted);
    let refused = REFUSED.map(|reason| {
        let frames = ports.iter().filter_map(|port| port.drops.get(reason)).sum();
        (vec![("reason", reason.to_owned())], frames)
    });
    page.counter(
        "vswitchd_nat_connections_refused",
        "First packets dropped because no connection could be opened, by reason",
        refused,
    );
    let labels = |ports: &api::NatPorts| vec![("address", ports.address.clone()), ("protocol", ports.protocol.to_string())];
    let used = nat.ports.iter().map(|ports| (labels(ports), ports.used.into()));
    page.gauge("vswitchd_nat_ports_used", "Outside ports in use by mappings", used);
    let free = nat.ports.iter().map(|ports| (labels(ports), ports.free.into()));
    page.gauge("vswitchd_nat_ports_free", "Outside ports available for new mappings", free);
    let fragments = &nat.fragments;
    gauge(page, "vswitchd_fragment_datagrams", "Fragmented datagrams tracked now", fragments.datagrams);
    gauge(page, "vswitchd_fragment_max_datagrams", "Maximum number of fragmented datagrams", fragments.max_datagrams);
    gauge(
        page,
        "vswitchd_fragment_held_frames",
        "Fragments waiting for the first fragment of their datagram",
        fragments.held_frames,
    );
}

fn add_tunnels(page: &mut Page, tunnels: &[Tunnel]) {
    let peers = tunnels.iter().map(|tunnel| (vec![("tunnel", tunnel.name.clone())], tunnel.peers.len() as f64));
    page.gauge("vswitchd_tunnel_peers", "Peers of the tunnel", peers);
    let labels = |tunnel: &Tunnel, peer: &Peer| vec![("tunnel", tunnel.name.clone()), ("peer", peer.address.clone())];
    let peers = || tunnels.iter().flat_map(|tunnel| tunnel.peers.iter().map(move |peer| (labels(tunnel, peer), peer)));
    let mtu = peers().map(|(labels, peer)| (labels, peer.mtu.into()));
    page.gauge("vswitchd_tunnel_peer_mtu_bytes", "Maximum length of a packet to the peer", mtu);
    let reachable = peers().map(|(labels, peer)| (labels, flag(peer.problem.is_none())));
    page.gauge("vswitchd_tunnel_peer_reachable", "1 if there is a route to the peer, else 0", reachable);
    let numbers: [Number<Peer>; 5] = [
        ("vswitchd_tunnel_peer_receive_frames", "Frames received from the peer", |peer| peer.rx_frames),
        ("vswitchd_tunnel_peer_receive_bytes", "Bytes received from the peer, without the tunnel's headers", |peer| {
            peer.rx_bytes
        }),
        ("vswitchd_tunnel_peer_transmit_frames", "Frames sent to the peer", |peer| peer.tx_frames),
        ("vswitchd_tunnel_peer_transmit_bytes", "Bytes sent to the peer, without the tunnel's headers", |peer| peer.tx_bytes),
        ("vswitchd_tunnel_peer_drops", "Frames from or to the peer that were dropped", |peer| peer.dropped),
    ];
    for (name, help, number) in numbers {
        page.counter(name, help, peers().map(|(labels, peer)| (labels, number(peer))));
    }
}

fn add_workers(page: &mut Page, workers: &[WorkerStats]) {
    let labelled = || workers.iter().enumerate().map(|(at, worker)| (vec![("worker", at.to_string())], worker));
    let numbers: [Number<WorkerStats>; 3] = [
        ("vswitchd_worker_batches", "Batches of frames", |worker| worker.batches),
        ("vswitchd_worker_frames", "Frames in these batches", |worker| worker.frames),
        ("vswitchd_worker_panics", "Panics, each of which lost a batch", |worker| worker.panics),
    ];
    for (name, help, number) in numbers {
        page.counter(name, help, labelled().map(|(labels, worker)| (labels, number(worker))));
    }
    let help = "Time from the receipt of a batch until it is written to all ports, of sampled batches";
    let latency = labelled().map(|(labels, worker)| (labels, histogram(worker)));
    page.histogram("vswitchd_pipeline_latency_seconds", help, latency);
}

fn histogram(worker: &WorkerStats) -> Histogram {
    let bounds = LATENCY_STEPS.iter().map(|nanos| seconds(*nanos)).chain([f64::INFINITY]);
    Histogram { sum: seconds(worker.latency_sum_ns), buckets: bounds.zip(worker.latency.iter().copied()).collect() }
}

fn seconds(nanos: u64) -> f64 {
    nanos as f64 / 1e9
}

fn flag(value: bool) -> f64 {
    f64::from(u8::from(value))
}

fn counter(page: &mut Page, name: &'static str, help: &'static str, value: u64) {
    page.counter(name, help, [(Labels::new(), value)]);
}

fn gauge(page: &mut Page, name: &'static str, help: &'static str, value: usize) {
    page.gauge(name, help, [(Labels::new(), value as f64)]);
}
