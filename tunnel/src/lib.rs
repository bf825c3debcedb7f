//! Tunnels: encapsulating Ethernet frames and IP packets in UDP datagrams, and decapsulating them.
//!
//! This crate works on bytes alone: it has no sockets, clocks or threads and does not know the bridge. The kernel's UDP
//! sockets add and remove the outer IP and UDP headers; this crate handles what follows them.
#![forbid(unsafe_code)]

pub mod arrival;
pub mod ecn;
pub mod entropy;
pub mod framing;
pub mod malformed;
pub mod mtu;
pub mod nesting;
pub mod peers;
pub mod strangers;
pub mod train;
pub mod vni;

pub use arrival::{Arrival, Arrivals};
pub use framing::{Framing, FramingKind, vxlan};
pub use malformed::Malformed;
pub use mtu::Underlay;
pub use peers::{Found, Locals, Peers, Unknown};
pub use strangers::{Stranger, Strangers};
pub use train::{OuterHeader, Train, Trains};
pub use vni::Vni;
