//! The switch: MAC table, VLANs, forwarding, and the one [`Pipeline`] that composes them.
//!
//! A function of bytes and time: no sockets, clocks or threads. A batch goes in, queues come out. Start reading at
//! [`Pipeline::process`].
#![forbid(unsafe_code)]

pub mod counters;
pub mod domain;
pub mod drop_reason;
pub mod egress;
mod fit;
mod flows;
mod guard;
mod icmp_error;
mod intake;
mod limit;
pub mod mac_table;
mod payload_sums;
pub mod pipeline;
pub mod port;
pub mod routed;
pub mod storm;
mod switch;
mod transmit;
pub mod tunnels;
pub mod vlan;
mod walk;
pub mod watched;

pub use counters::{Counter, Counters, PortCounters, PortTotals};
pub use domain::{BridgeId, Domain};
pub use drop_reason::DropReason;
pub use egress::{Egress, SendError, Transmit, Work};
pub use guard::Guard;
pub use mac_table::{Learned, MacEntry, MacMemo, MacMove, MacTable, MacTableConfig};
pub use pipeline::{MAX_WRITES, Pipeline};
pub use port::{Coalesce, Encapsulation, Port, PortId, PortKind};
pub use routed::guest_routes::{GuestRoute, MAX_GUEST_ROUTES};
pub use routed::neighbour::{self, InterfaceId, NeighbourConfig, NeighbourEntry, NeighbourStats, Neighbours};
pub use routed::routing::{self, HostPort, Interface, MssClamp, Reach, Route, Routing, RoutingSettings, Uplink};
pub use routed::{Router, UPLINK};
pub use storm::StormLimits;
pub use tunnels::arrive::{Inbox, NewSource, ReceivingSocket};
pub use tunnels::ip_routes::IpTunnel;
pub use vlan::{PortVlan, VlanMode, VlanSet};
pub use watched::capture::MAX_CAPTURES;
pub use watched::live::{Live, MAX_LIVE, Watch};
pub use watched::rehearsal::Rehearsal;
pub use watched::step::Step;
pub use watched::story::{Story, Verdict};
