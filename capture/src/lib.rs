//! Captures of frames: probes in the packet path, bounded rings out of it, and the pcapng format.
//!
//! ```text
//!  worker:     frame --> Probe: port? sample? filter? --> record --> ring   (if full: counted, no waiting)
//!  elsewhere:  ring --> records --> pcapng --> a file, Wireshark, tcpdump
//! ```
//!
//! This crate has no clocks, sockets or threads. Port numbers and drop reasons are opaque numbers to it.
#![forbid(unsafe_code)]

pub mod pcapng;
pub mod probe;
pub mod record;
pub mod ring;

pub use probe::{Leaving, Probe, Seen, Want};
pub use record::{Direction, Header, Verdict};
