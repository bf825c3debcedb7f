//! The numbers in Prometheus' text form (OpenMetrics 1.0).

use std::fmt;
use std::sync::atomic::AtomicU64;

use prometheus_client::encoding::text::encode;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::registry::Registry;

use super::views::{BridgeStats, MacTableStats, PortStats, Stats, Tunnel};

/// What tells one number of a family from the others.
type Labels = Vec<(&'static str, String)>;

type Counters = Family<Labels, Counter>;
type Gauges = Family<Labels, Gauge<u64, AtomicU64>>;

/// Name, help, and which of a port's numbers it is.
type PortNumber = (&'static str, &'static str, fn(&PortStats) -> u64);

/// The same of a bridge's MAC table.
type TableNumber = (&'static str, &'static str, fn(&MacTableStats) -> u64);

/// The type of what [`text`] makes.
pub(super) const CONTENT_TYPE: &str = "application/openmetrics-text; version=1.0.0; charset=utf-8";

/// All numbers at one moment.
pub(super) fn text(stats: &Stats, tunnels: &[Tunnel]) -> Result<String, fmt::Error> {
    let mut registry = Registry::with_prefix("vswitchd");
    add_ports(&mut registry, &stats.ports);
    add_bridges(&mut registry, &stats.bridges);
    if let Some(nat) = &stats.nat {
        add_gauge(&mut registry, "nat_connections", "Connections", nat.connections as u64);
        add_gauge(&mut registry, "nat_mappings", "Mappings, published ports among them", nat.mappings as u64);
        add_counter(&mut registry, "nat_connections_opened", "Connections opened", nat.opened);
        add_counter(&mut registry, "nat_connections_expired", "Connections whose time was over", nat.expired);
        add_counter(&mut registry, "nat_connections_flushed", "Connections whose rule or address went", nat.flushed);
    }
    add_peers(&mut registry, tunnels);
    add_counter(&mut registry, "tunnel_kernel_dropped", "Datagrams dropped before they were read", stats.datagrams_dropped);
    add_counter(&mut registry, "worker_panics", "Panics of workers", stats.worker_panics);
    let mut text = String::new();
    encode(&mut text, &registry)?;
    Ok(text)
}

fn add_bridges(registry: &mut Registry, bridges: &[BridgeStats]) {
    let (entries, statics) = (Gauges::default(), Gauges::default());
    for bridge in bridges {
        let labels = vec![("bridge", bridge.name.clone())];
        entries.get_or_create(&labels).set(bridge.mac_table.entries as u64);
        statics.get_or_create(&labels).set(bridge.mac_table.statics as u64);
    }
    registry.register("mac_table_entries", "Learned addresses", entries);
    registry.register("mac_table_static_entries", "Addresses set by hand", statics);
    let numbers: [TableNumber; 4] = [
        ("mac_table_learned", "Addresses learned", |table| table.learned),
        ("mac_table_moved", "Addresses that moved to another port", |table| table.moved),
        ("mac_table_evicted", "Addresses that made room for others", |table| table.evicted),
        ("mac_table_expired", "Addresses that grew too old", |table| table.expired),
    ];
    for (name, help, number) in numbers {
        let family = Counters::default();
        for bridge in bridges {
            family.get_or_create(&vec![("bridge", bridge.name.clone())]).inc_by(number(&bridge.mac_table));
        }
        registry.register(name, help, family);
    }
}

/// A port, and its bridge if it is of one.
fn labels_of(port: &PortStats) -> Labels {
    let bridge = port.bridge.iter().map(|bridge| ("bridge", bridge.clone()));
    [("port", port.name.clone())].into_iter().chain(bridge).collect()
}

fn add_ports(registry: &mut Registry, ports: &[PortStats]) {
    let numbers: [PortNumber; 8] = [
        ("port_receive_frames", "Frames received", |port| port.rx_frames),
        ("port_receive_bytes", "Bytes received", |port| port.rx_bytes),
        ("port_transmit_frames", "Frames sent", |port| port.tx_frames),
        ("port_transmit_bytes", "Bytes sent", |port| port.tx_bytes),
        ("port_transmit_writes", "Writes that sent frames", |port| port.tx_writes),
        ("port_copies", "Copies of frames received here, beyond the first", |port| port.copies),
        ("port_offload_refused", "Super-frames that the kernel refused", |port| port.offload_refused),
        ("port_kernel_dropped", "Frames dropped before they were read", |port| port.kernel_dropped),
    ];
    for (name, help, number) in numbers {
        let family = Counters::default();
        for port in ports {
            family.get_or_create(&labels_of(port)).inc_by(number(port));
        }
        registry.register(name, help, family);
    }
    let drops = Counters::default();
    for port in ports {
        for (reason, frames) in &port.drops {
            let reason = [("reason", reason.clone())];
            drops.get_or_create(&labels_of(port).into_iter().chain(reason).collect()).inc_by(*frames);
        }
    }
    registry.register("port_drops", "Frames dropped, by reason", drops);
}

fn add_peers(registry: &mut Registry, tunnels: &[Tunnel]) {
    let (mtu, reachable) = (Gauges::default(), Gauges::default());
    for tunnel in tunnels {
        for peer in &tunnel.peers {
            let labels = vec![("tunnel", tunnel.name.clone()), ("peer", peer.address.clone())];
            mtu.get_or_create(&labels).set(peer.mtu.into());
            reachable.get_or_create(&labels).set(peer.problem.is_none().into());
        }
    }
    registry.register("tunnel_peer_mtu_bytes", "The longest packet that a frame to the peer may hold", mtu);
    registry.register("tunnel_peer_reachable", "Is there a way to the peer?", reachable);
}

fn add_counter(registry: &mut Registry, name: &str, help: &str, value: u64) {
    let counter: Counter = Counter::default();
    counter.inc_by(value);
    registry.register(name, help, counter);
}

fn add_gauge(registry: &mut Registry, name: &str, help: &str, value: u64) {
    let gauge: Gauge<u64, AtomicU64> = Gauge::default();
    gauge.set(value);
    registry.register(name, help, gauge);
}
