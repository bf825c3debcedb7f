//! What the control socket shows, as it is written in JSON. Fields may be added, and none changes its meaning
//! within a version of the paths.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

/// The switch as a whole.
#[derive(Clone, Debug, Serialize, Deserialize, ToSchema)]
pub(crate) struct Show {
    /// Of the daemon.
    pub(crate) version: String,
    pub(crate) pid: u32,
    /// Seconds since its start.
    pub(crate) uptime: u64,
    /// The first of `bridges`.
    pub(crate) bridge: Bridge,
    pub(crate) bridges: Vec<Bridge>,
    pub(crate) ports: Vec<Port>,
    /// Of all bridges.
    pub(crate) gateways: Vec<Gateway>,
    pub(crate) uplink: Option<Uplink>,
    pub(crate) tunnels: Vec<Tunnel>,
    pub(crate) latency: Latency,
    /// What is not as it should be; empty if all is well.
    pub(crate) problems: Vec<String>,
}

/// A bridge.
#[derive(Clone, Debug, Serialize, Deserialize, ToSchema)]
pub(crate) struct Bridge {
    pub(crate) name: String,
    /// They carry the frames of all bridges.
    pub(crate) workers: usize,
    /// Learned addresses now.
    pub(crate) mac_entries: usize,
    /// Most learned addresses.
    pub(crate) mac_table_size: usize,
    /// Seconds until an address that was not seen again is forgotten.
    pub(crate) mac_aging_time: u32,
    pub(crate) gateways: Vec<Gateway>,
}

/// One port: of the bridge, or a device that is routed to.
#[derive(Clone, Debug, Serialize, Deserialize, ToSchema)]
pub(crate) struct Port {
    pub(crate) name: String,
    /// None of a TUN device.
    pub(crate) bridge: Option<String>,
    /// tap, tun, packet, stream, dgram or uplink.
    pub(crate) kind: String,
    /// The namespace of its device, if not the daemon's.
    pub(crate) namespace: Option<String>,
    /// Which VLANs it carries, in words.
    pub(crate) vlan: String,
    /// up, down, gone, or waiting (for a guest).
    pub(crate) state: String,
    /// The longest packet, in bytes.
    pub(crate) mtu: Option<u32>,
    /// What its device takes, in words.
    pub(crate) device: String,
}

/// The router's address on a bridge.
#[derive(Clone, Debug, Serialize, Deserialize, ToSchema)]
pub(crate) struct Gateway {
    pub(crate) bridge: String,
    /// 0 for untagged frames.
    pub(crate) vlan: u16,
    pub(crate) address: String,
    pub(crate) prefix_len: u8,
    pub(crate) mac: String,
}

/// The way out.
#[derive(Clone, Debug, Serialize, Deserialize, ToSchema)]
pub(crate) struct Uplink {
    pub(crate) interface: String,
    /// nat or bridge.
    pub(crate) mode: String,
    /// up, down or gone.
    pub(crate) state: String,
    pub(crate) mtu: Option<u32>,
    /// The address that guests go out by.
    pub(crate) outside: Option<String>,
}

/// One port's numbers since the start. A super-frame counts as one.
#[derive(Clone, Debug, Serialize, Deserialize, ToSchema)]
pub(crate) struct PortStats {
    pub(crate) name: String,
    /// None of what is routed only.
    pub(crate) bridge: Option<String>,
    /// The namespace of its device, if not the daemon's.
    pub(crate) namespace: Option<String>,
    /// up, down, gone, or waiting (for a guest); none of hosts behind tunnels.
    pub(crate) state: Option<String>,
    pub(crate) rx_frames: u64,
    pub(crate) rx_bytes: u64,
    pub(crate) tx_frames: u64,
    pub(crate) tx_bytes: u64,
    /// Writes that sent them.
    pub(crate) tx_writes: u64,
    /// Copies of frames received here, beyond the first.
    pub(crate) copies: u64,
    /// Frames that the router made.
    pub(crate) made: u64,
    /// Frames that the router took in.
    pub(crate) taken: u64,
    /// Super-frames that the kernel refused and that went out in segments.
    pub(crate) offload_refused: u64,
    /// All of `drops`.
    pub(crate) dropped: u64,
    /// Dropped frames by their reason, where there were some.
    pub(crate) drops: BTreeMap<String, u64>,
    /// Frames that the kernel dropped before we read them.
    pub(crate) kernel_dropped: u64,
    /// Bytes that wait in the kernel for us, with what it needs to keep them; none where it does not tell.
    pub(crate) rx_queue_bytes: Option<u64>,
    /// Bytes that wait with us for a guest to read, and how many there may be; none where nothing ever waits.
    pub(crate) tx_queue_bytes: Option<u64>,
    pub(crate) tx_queue_limit_bytes: Option<u64>,
}

/// All numbers at one moment.
#[derive(Clone, Debug, Serialize, Deserialize, ToSchema)]
pub(crate) struct Stats {
    pub(crate) ports: Vec<PortStats>,
    /// Of all bridges together.
    pub(crate) mac_table: MacTableStats,
    pub(crate) bridges: Vec<BridgeStats>,
    /// If there is a translation.
    pub(crate) nat: Option<NatStats>,
    /// Datagrams of tunnels that the kernel dropped before we read them.
    pub(crate) datagrams_dropped: u64,
    pub(crate) worker_panics: u64,
    /// When the daemon started, in seconds since 1970.
    pub(crate) start_time: f64,
    /// Of the daemon.
    pub(crate) version: String,
    /// If there is a router.
    pub(crate) neighbours: Option<NeighbourStats>,
    pub(crate) workers: Vec<WorkerStats>,
    /// Of all workers.
    pub(crate) latency: Latency,
}

/// What one worker did.
#[derive(Clone, Debug, Serialize, Deserialize, ToSchema)]
pub(crate) struct WorkerStats {
    /// Batches of frames.
    pub(crate) batches: u64,
    /// Frames in them.
    pub(crate) frames: u64,
    pub(crate) panics: u64,
    /// Batches whose time was measured: those that took less than 2^10, 2^11, .. 2^30 nanoseconds, and did not take less
    /// than the number before; and at the end those that took longer.
    pub(crate) latency: Vec<u64>,
    /// All these times added up.
    pub(crate) latency_sum_ns: u64,
}

/// How long the pipeline has a batch, from having received it to having written it; of some that are drawn by lot.
#[derive(Clone, Debug, Default, Serialize, Deserialize, ToSchema)]
pub(crate) struct Latency {
    /// So many were measured.
    pub(crate) samples: u64,
    pub(crate) p50_ns: u64,
    pub(crate) p99_ns: u64,
    pub(crate) p999_ns: u64,
    pub(crate) max_ns: u64,
}

/// The hosts that the router sends to, in numbers.
#[derive(Clone, Debug, Serialize, Deserialize, ToSchema)]
pub(crate) struct NeighbourStats {
    pub(crate) known: usize,
    /// So many may be known.
    pub(crate) max: usize,
    /// Asked for, and not answered yet.
    pub(crate) incomplete: usize,
    /// Packets that wait for their next hop.
    pub(crate) held_packets: usize,
}

/// One bridge's numbers.
#[derive(Clone, Debug, Serialize, Deserialize, ToSchema)]
pub(crate) struct BridgeStats {
    pub(crate) name: String,
    pub(crate) mac_table: MacTableStats,
}

/// What happened to a MAC table.
#[derive(Clone, Debug, Serialize, Deserialize, ToSchema)]
pub(crate) struct MacTableStats {
    /// Learned entries now.
    pub(crate) entries: usize,
    /// Static entries now.
    pub(crate) statics: usize,
    /// So many entries there may be.
    pub(crate) size: usize,
    pub(crate) learned: u64,
    pub(crate) moved: u64,
    pub(crate) evicted: u64,
    pub(crate) expired: u64,
}

/// What happened to the translation.
#[derive(Clone, Debug, Serialize, Deserialize, ToSchema)]
pub(crate) struct NatStats {
    /// Connections now.
    pub(crate) connections: usize,
    /// Mappings now, published ports among them.
    pub(crate) mappings: usize,
    pub(crate) opened: u64,
    pub(crate) expired: u64,
    /// Ended because a rule or an address went.
    pub(crate) flushed: u64,
    /// So many connections there may be.
    pub(crate) max_connections: usize,
    /// Ports of outside addresses.
    pub(crate) ports: Vec<NatPorts>,
    pub(crate) fragments: FragmentStats,
}

/// The ports of one outside address and protocol; of ICMP the identifiers.
#[derive(Clone, Debug, Serialize, Deserialize, ToSchema)]
pub(crate) struct NatPorts {
    pub(crate) address: String,
    /// tcp, udp or icmp.
    pub(crate) protocol: String,
    /// Those of mappings.
    pub(crate) used: u32,
    /// Those that a new mapping could get now; of a shared address, those that are kept from the host's programs.
    pub(crate) free: u32,
}

/// Datagrams that come in pieces.
#[derive(Clone, Debug, Serialize, Deserialize, ToSchema)]
pub(crate) struct FragmentStats {
    /// Remembered now.
    pub(crate) datagrams: usize,
    /// So many may be.
    pub(crate) max_datagrams: usize,
    /// Pieces that wait for the first of their datagram.
    pub(crate) held_frames: usize,
}

/// An address that a bridge knows.
#[derive(Clone, Debug, Serialize, Deserialize, ToSchema)]
pub(crate) struct MacEntry {
    pub(crate) bridge: String,
    /// 0 for untagged frames.
    pub(crate) vlan: u16,
    pub(crate) mac: String,
    /// Behind this port.
    pub(crate) port: String,
    /// Seconds since it was last renewed; none if static.
    pub(crate) age: Option<u32>,
}

/// A host that the router sends to.
#[derive(Clone, Debug, Serialize, Deserialize, ToSchema)]
pub(crate) struct Neighbour {
    /// untagged, vlan N, or uplink; of several bridges the name before it.
    pub(crate) network: String,
    pub(crate) address: String,
    /// None while it is asked for.
    pub(crate) mac: Option<String>,
    /// Seconds since its last ARP.
    pub(crate) age: u32,
}

/// Some of the router's connections.
#[derive(Clone, Debug, Serialize, Deserialize, ToSchema)]
pub(crate) struct Connections {
    /// So many match.
    pub(crate) total: usize,
    /// As many of them as asked for.
    pub(crate) connections: Vec<Connection>,
}

/// A connection that is translated.
#[derive(Clone, Debug, Serialize, Deserialize, ToSchema)]
pub(crate) struct Connection {
    /// tcp, udp, icmp, or IP's number.
    pub(crate) protocol: String,
    pub(crate) protocol_number: u8,
    /// inside or outside: who opened it.
    pub(crate) opened_by: String,
    /// opening, established, closing or reset, of TCP.
    pub(crate) phase: Option<String>,
    /// Seconds until it ends if no packet comes.
    pub(crate) expires_in: u32,
    pub(crate) original: Flow,
    pub(crate) reply: Flow,
}

/// One direction. Of ICMP queries the identifier stands for the asker's port and the type for the other's.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub(crate) struct Flow {
    pub(crate) src: String,
    pub(crate) src_port: u16,
    pub(crate) dst: String,
    pub(crate) dst_port: u16,
}

/// What is translated to what.
#[derive(Clone, Debug, Serialize, Deserialize, ToSchema)]
pub(crate) struct Nat {
    pub(crate) addresses: Vec<OutsideAddress>,
    /// Rules, as they were given.
    pub(crate) published: Vec<String>,
    /// So many mappings there are.
    pub(crate) total: usize,
    /// Endpoints that guests have outside; as many as asked for.
    pub(crate) mappings: Vec<Mapping>,
    pub(crate) stats: NatStats,
}

/// An outside address.
#[derive(Clone, Debug, Serialize, Deserialize, ToSchema)]
pub(crate) struct OutsideAddress {
    pub(crate) address: String,
    /// own, shared (with the host) or one-to-one.
    pub(crate) kind: String,
    /// Whose it is, if it is one guest's.
    pub(crate) guest: Option<String>,
}

/// An inside endpoint and the outside one that it has.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize, ToSchema)]
pub(crate) struct Mapping {
    pub(crate) protocol: String,
    pub(crate) inside: String,
    pub(crate) outside: String,
    pub(crate) connections: usize,
    /// It is a rule's, and stays without connections.
    pub(crate) published: bool,
}

/// One difference between what was and what is, or would be.
#[derive(Clone, Debug, Serialize, Deserialize, ToSchema)]
pub(crate) struct Change {
    /// `add`, `remove`, `alter` (it stays, with other keys) or `replace` (it goes and comes again).
    pub(crate) action: String,
    /// `port`, `rule`, `tunnel` ..
    pub(crate) kind: String,
    /// Of what it is about.
    pub(crate) name: String,
    /// Its keys; where they change, before and after.
    pub(crate) text: String,
    /// All of it, for people.
    pub(crate) line: String,
}

/// What was forgotten, or ended.
#[derive(Clone, Debug, Serialize, Deserialize, ToSchema)]
pub(crate) struct Flushed {
    /// So many.
    pub(crate) flushed: usize,
}

/// A tunnel to other hosts.
#[derive(Clone, Debug, Serialize, Deserialize, ToSchema)]
pub(crate) struct Tunnel {
    pub(crate) name: String,
    /// None of udp-ip.
    pub(crate) bridge: Option<String>,
    /// vxlan, udp (Ethernet) or udp-ip.
    pub(crate) kind: String,
    pub(crate) vni: Option<u32>,
    /// Our address, if one was given.
    pub(crate) local: Option<String>,
    pub(crate) port: u16,
    pub(crate) device: Option<String>,
    pub(crate) peers: Vec<Peer>,
}

/// A host at the other end of a tunnel.
#[derive(Clone, Debug, Serialize, Deserialize, ToSchema)]
pub(crate) struct Peer {
    pub(crate) address: String,
    /// The longest packet that a frame to it may hold, in bytes.
    pub(crate) mtu: u32,
    /// Our address on the way to it.
    pub(crate) source: Option<String>,
    /// Why there is no way to it now.
    pub(crate) problem: Option<String>,
    pub(crate) rx_frames: u64,
    pub(crate) rx_bytes: u64,
    pub(crate) tx_frames: u64,
    pub(crate) tx_bytes: u64,
    pub(crate) dropped: u64,
}

/// Why there is no answer.
#[derive(Clone, Debug, Serialize, Deserialize, ToSchema)]
pub(crate) struct Problem {
    pub(crate) error: String,
}

/// How much is logged.
#[derive(Clone, Debug, Serialize, Deserialize, ToSchema)]
pub(crate) struct Log {
    /// off, error, warn, info, debug or trace.
    pub(crate) level: String,
    /// The parts of the daemon that have a level of their own.
    pub(crate) parts: BTreeMap<String, String>,
    /// All parts that there are.
    pub(crate) known: Vec<String>,
}

/// A level to be set.
#[derive(Clone, Debug, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub(crate) struct LogChange {
    /// Which part; left out: all of them.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) part: Option<String>,
    /// off, error, warn, info, debug or trace.
    pub(crate) level: String,
}
