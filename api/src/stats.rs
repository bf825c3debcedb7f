//! All counters at one moment.

use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use crate::{Latency, PortStats, Protocol};

/// All counters at one moment.
#[derive(Clone, Debug, Serialize, Deserialize, ToSchema)]
pub struct Stats {
    /// Counters of each port.
    pub ports: Vec<PortStats>,
    /// The MAC tables of all bridges together.
    pub mac_table: MacTableStats,
    /// Counters of each bridge.
    pub bridges: Vec<BridgeStats>,
    /// Address translation; `null` without an uplink in NAT mode.
    pub nat: Option<NatStats>,
    /// Datagrams of tunnels that the kernel dropped before they were read.
    pub datagrams_dropped: u64,
    /// Panics of workers, which each lose one batch.
    pub worker_panics: u64,
    /// Lines of the log that were lost because standard error was not read.
    #[serde(default)]
    pub log_lines_lost: u64,
    /// Start of the daemon, in seconds since 1970.
    pub start_time: f64,
    /// Version of the daemon.
    pub version: String,
    /// Neighbours; `null` without a router.
    pub neighbours: Option<NeighbourStats>,
    /// Counters of each worker.
    pub workers: Vec<WorkerStats>,
    /// Latency of all workers together.
    pub latency: Latency,
}

/// Counters of a worker.
#[derive(Clone, Debug, Serialize, Deserialize, ToSchema)]
pub struct WorkerStats {
    /// Batches of frames.
    pub batches: u64,
    /// Frames in them.
    pub frames: u64,
    /// Panics.
    pub panics: u64,
    /// Histogram of the latency of sampled batches: the counts below 2^10, 2^11, .. 2^30 nanoseconds, each without those
    /// of the bucket before, and last the count of longer ones.
    pub latency: Vec<u64>,
    /// Sum of these latencies, in nanoseconds.
    pub latency_sum_ns: u64,
}

/// Counters of the neighbour table.
#[derive(Clone, Debug, Serialize, Deserialize, ToSchema)]
pub struct NeighbourStats {
    /// Entries.
    pub known: usize,
    /// Maximum number of entries.
    pub max: usize,
    /// Entries without a MAC address yet.
    pub incomplete: usize,
    /// Packets that wait for the MAC address of their next hop.
    pub held_packets: usize,
}

/// Counters of a bridge.
#[derive(Clone, Debug, Serialize, Deserialize, ToSchema)]
pub struct BridgeStats {
    /// Name of the bridge.
    pub name: String,
    /// Its MAC table.
    pub mac_table: MacTableStats,
}

/// Counters of a MAC table.
#[derive(Clone, Debug, Serialize, Deserialize, ToSchema)]
pub struct MacTableStats {
    /// Learned entries now.
    pub entries: usize,
    /// Static entries now.
    pub statics: usize,
    /// Maximum number of learned entries.
    pub size: usize,
    /// Entries learned.
    pub learned: u64,
    /// Entries moved to another port.
    pub moved: u64,
    /// Entries removed to make room for others.
    pub evicted: u64,
    /// Entries removed because of their age.
    pub expired: u64,
}

/// Counters of the address translation.
#[derive(Clone, Debug, Serialize, Deserialize, ToSchema)]
pub struct NatStats {
    /// Connections now.
    pub connections: usize,
    /// Mappings now, including those of published ports.
    pub mappings: usize,
    /// Connections opened.
    pub opened: u64,
    /// Connections ended by a timeout.
    pub expired: u64,
    /// Connections ended because their rule or address was removed.
    pub flushed: u64,
    /// Half-open connections that gave their place to new ones.
    pub evicted: u64,
    /// Maximum number of connections.
    pub max_connections: usize,
    /// Ports of outside addresses.
    pub ports: Vec<NatPorts>,
    /// IPv4 fragments.
    pub fragments: FragmentStats,
}

/// Ports of an outside address and protocol; identifiers for ICMP.
#[derive(Clone, Debug, Serialize, Deserialize, ToSchema)]
pub struct NatPorts {
    /// The outside address.
    pub address: String,
    /// The protocol: tcp, udp or icmp.
    pub protocol: Protocol,
    /// Ports in use by mappings.
    pub used: u32,
    /// Ports that a new mapping could get now; of an address shared with the host, those that none of its programs has; without a gate, those reserved.
    pub free: u32,
}

/// Counters of IPv4 fragments.
#[derive(Clone, Debug, Serialize, Deserialize, ToSchema)]
pub struct FragmentStats {
    /// Fragmented datagrams tracked now.
    pub datagrams: usize,
    /// Maximum number of them.
    pub max_datagrams: usize,
    /// Fragments that wait for the first fragment of their datagram.
    pub held_frames: usize,
}
