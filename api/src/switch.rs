//! The switch as a whole.

use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use crate::{Port, State, Tunnel, words};

/// The switch as a whole.
#[derive(Clone, Debug, Serialize, Deserialize, ToSchema)]
pub struct Show {
    /// Version of the daemon.
    pub version: String,
    /// Process ID of the daemon.
    pub pid: u32,
    /// Seconds since the daemon started.
    pub uptime: u64,
    /// The first of `bridges`.
    pub bridge: Bridge,
    /// All bridges.
    pub bridges: Vec<Bridge>,
    /// All ports.
    pub ports: Vec<Port>,
    /// Gateways of all bridges.
    pub gateways: Vec<Gateway>,
    /// Routes to networks behind guests.
    #[serde(default)]
    pub routes: Vec<Route>,
    /// The uplink; `null` if none is configured.
    pub uplink: Option<Uplink>,
    /// All tunnels.
    pub tunnels: Vec<Tunnel>,
    /// Time that the pipeline takes for a batch.
    pub latency: Latency,
    /// Problems, one sentence each; empty if the switch is healthy.
    pub problems: Vec<String>,
}

/// A bridge.
#[derive(Clone, Debug, Serialize, Deserialize, ToSchema)]
pub struct Bridge {
    /// Its name.
    pub name: String,
    /// Number of worker threads, which all bridges share.
    pub workers: usize,
    /// Number of its ports. Free places for guests, and tunnels, do not count.
    pub ports: usize,
    /// Learned addresses in its MAC table.
    pub mac_entries: usize,
    /// Maximum number of learned addresses.
    pub mac_table_size: usize,
    /// Seconds until an address that was not seen again is removed.
    pub mac_aging_time: u32,
    /// Its gateways, at most one per VLAN.
    pub gateways: Vec<Gateway>,
}

/// The router's address on a VLAN of a bridge.
#[derive(Clone, Debug, Serialize, Deserialize, ToSchema)]
pub struct Gateway {
    /// Name of the bridge.
    pub bridge: String,
    /// What is routed for its guests: all, outside or none.
    pub routing: Reach,
    /// VLAN; 0 for untagged frames.
    pub vlan: u16,
    /// IPv4 address.
    pub address: String,
    /// Prefix length of its network.
    pub prefix_len: u8,
    /// MAC address.
    pub mac: String,
    /// True if the host is a neighbour of its guests.
    pub host: bool,
}

/// A route to a network behind a guest.
#[derive(Clone, Debug, Serialize, Deserialize, ToSchema)]
pub struct Route {
    /// The network, with the length of its prefix.
    pub to: String,
    /// IPv4 address of the guest.
    pub via: String,
    /// Name of the guest's bridge.
    pub bridge: String,
    /// The guest's VLAN; 0 for untagged frames.
    pub vlan: u16,
    /// True if packets of the network keep their source addresses on their way outside.
    pub no_nat: bool,
}

/// The interface that connects the switch to the network outside.
#[derive(Clone, Debug, Serialize, Deserialize, ToSchema)]
pub struct Uplink {
    /// Name of the interface.
    pub interface: String,
    /// How it is used.
    pub mode: UplinkMode,
    /// State of its link.
    pub state: State,
    /// MTU of the interface; `null` while it is gone.
    pub mtu: Option<u32>,
    /// Outside address of guests without an address of their own; `null` if no such address exists.
    pub outside: Option<String>,
    /// What keeps the host's network stack silent about guests' packets; `null` if guests do not leave from the host's address.
    pub gate: Option<Gate>,
}

words! {
    /// What the router forwards between a network inside and others.
    Reach {
        /// Everything: to and from other such networks, and the outside.
        All = "all",
        /// To and from the outside; guests of other networks are reached only where their ports are published.
        Outside = "outside",
        /// Nothing.
        Nothing = "none",
    }
}

words! {
    /// What keeps the host's network stack silent about guests' packets to its own address.
    Gate {
        /// A BPF program on the interface drops packets to the ports of guests.
        Tcx = "tcx",
        /// A classic BPF filter on the interface drops packets to a fixed set of ports.
        Filter = "filter",
        /// Sockets are bound to the ports of guests.
        Sockets = "sockets",
    }
}

words! {
    /// How the uplink is used.
    UplinkMode {
        /// Guests are routed and translated.
        Nat = "nat",
        /// The interface is a port of a bridge.
        Bridge = "bridge",
    }
}

/// Time that the pipeline takes for a batch, from receiving to writing, of batches sampled at random.
#[derive(Clone, Debug, Default, Serialize, Deserialize, ToSchema)]
pub struct Latency {
    /// Number of batches measured.
    pub samples: u64,
    /// 50th percentile, in nanoseconds.
    pub p50_ns: u64,
    /// 99th percentile, in nanoseconds.
    pub p99_ns: u64,
    /// 99.9th percentile, in nanoseconds.
    pub p999_ns: u64,
    /// Maximum, in nanoseconds.
    pub max_ns: u64,
}

/// The answer to a request to stop.
#[derive(Clone, Copy, Debug, Serialize, Deserialize, ToSchema)]
pub struct Stopping {
    /// The daemon's process, by its number in its own PID namespace.
    pub pid: u32,
}
