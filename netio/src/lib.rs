//! The kernel's edge: TAP devices, uplinks, UDP, guests' sockets, links, routes, network namespaces and waiting.
//!
//! The only room with `unsafe`: a few system calls that no crate wraps, each in a block that says
//! why it is sound. Facilities are tried and a refusal is kept as data; `io::Error` ends here.

pub mod backlog;
pub mod guest;
pub mod link;
pub mod merging;
pub mod netns;
mod option;
pub mod packet_socket;
pub mod peer;
pub mod poll;
pub mod reservation;
pub mod route;
pub mod silence;
pub mod tap;
pub mod udp;

pub use netns::Netns;
pub use packet_socket::{PacketError, PacketSocket, PacketSpec};
pub use poll::{Poller, Waker, Writable};
pub use reservation::Reservation;
pub use route::UplinkState;
pub use silence::Silence;
pub use tap::{Layer, LinkState, Queue, Received, Tap, TapError, TapSpec};
