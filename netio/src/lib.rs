//! The kernel's edge: TAP devices, links, network namespaces and waiting.
//!
//! The only room with `unsafe`: a few ioctls that no crate wraps, each in a block that says why it is
//! sound. Facilities are tried and a refusal is kept as data; `io::Error` ends here.

pub mod link;
pub mod netns;
pub mod poll;
pub mod tap;

pub use netns::Netns;
pub use poll::{Poller, Waker};
pub use tap::{LinkState, Queue, Received, Tap, TapError, TapSpec};
