//! Tunnels: frames of the bridge in UDP datagrams, to other hosts and back.
//!
//! A function of bytes: no sockets, clocks or threads, and nothing of the bridge. The kernel's UDP sockets
//! add and take off what is outside of the datagram; what is inside is told here.
#![forbid(unsafe_code)]

pub mod arrival;
pub mod ecn;
pub mod entropy;
pub mod ethernet;
pub mod framing;
pub mod ip;
pub mod malformed;
pub mod mtu;
pub mod nesting;
pub mod peers;
pub mod train;
pub mod vni;
pub mod vxlan;

pub use arrival::{Arrival, Arrivals};
pub use framing::{Framing, FramingKind};
pub use malformed::Malformed;
pub use mtu::Underlay;
pub use peers::{Found, Locals, Peers, Unknown};
pub use train::{Train, Trains, Way};
pub use vni::Vni;
