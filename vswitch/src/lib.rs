//! The switch: MAC table, VLANs, forwarding, and the one [`Pipeline`] that composes them.
//!
//! A function of bytes and time: no sockets, clocks or threads. A batch goes in, queues come out;
//! who knows [`Pipeline::process`] knows the switch.
#![forbid(unsafe_code)]

mod answer;
mod boarded;
mod bridge;
pub mod capture;
pub mod counters;
pub mod decap;
pub mod domain;
pub mod egress;
mod encap;
mod fit;
pub mod forward;
pub mod ip_tunnel;
pub mod limit;
pub mod mac_table;
pub mod neighbour;
pub mod pipeline;
pub mod port;
mod rehearsal;
mod resume;
pub mod router;
pub mod routing;
pub mod trace;
pub mod vlan;

pub use counters::{Counter, Counters, DropReason, PortCounters};
pub use decap::{Endpoint, Inbox, NewSource};
pub use domain::{BridgeId, Domain};
pub use egress::{Egress, SendError, Transmit};
pub use forward::Forward;
pub use ip_tunnel::IpTunnel;
pub use mac_table::{Learned, MacEntry, MacMove, MacTable, MacTableConfig};
pub use neighbour::{InterfaceId, NeighbourEntry, NeighbourStats, Neighbours};
pub use pipeline::Pipeline;
pub use port::{Encapsulation, Port, PortId, PortKind};
pub use rehearsal::Rehearsal;
pub use router::Router;
pub use routing::{Interface, Network, Route, Routing, Uplink};
pub use trace::{Live, Step, Story, Verdict, Watch};
pub use vlan::{PortVlan, VlanMode, VlanSet};
