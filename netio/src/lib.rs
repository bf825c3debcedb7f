//! The kernel edge: TAP devices, packet sockets, UDP, guest sockets, links, routes, network namespaces and epoll.
//!
//! This is the only crate with `unsafe`: a few system calls that no other crate wraps, each in a block that says why
//! it is sound. Optional kernel features are tried when a socket or device is opened; a refusal is kept as data, not
//! reported as an error. Functions return the error types of this crate, which name the device, the reason and the fix.

pub mod backlog;
pub mod gate;
pub mod guest;
pub mod host_link;
pub mod host_sockets;
pub mod inherited;
pub mod link;
pub mod local_datagrams;
pub mod memory;
pub mod merging;
pub mod netns;
mod option;
pub mod packet_socket;
pub mod peer;
pub mod poll;
pub mod port;
mod random;
mod receive_buffer;
pub mod reservation;
pub mod route;
mod shared_memory;
pub mod silence;
pub mod tap;
pub mod udp;

pub use gate::Gate;
pub use local_datagrams::{LocalDatagrams, LocalFlow};
pub use netns::Netns;
pub use packet_socket::{PacketError, PacketSocket, PacketSpec};
pub use poll::{Poller, Waker, Writable};
pub use port::{PortReader, PortWriter, RxBuffers};
pub use reservation::Reservation;
pub use route::UplinkState;
pub use shared_memory::SharedMemory;
pub use silence::Silence;
pub use tap::{Layer, LinkState, Queue, Received, Tap, TapError, TapSpec};
