//! Captures of frames: probes in the packet path, bounded rings out of it, and the pcapng format.
//!
//! ```text
//!  worker:     frame --> Probe: port? sample? filter? --> record --> ring   (full: counted, never waited for)
//!  elsewhere:  ring --> records --> pcapng --> a file, Wireshark, tcpdump
//! ```
//!
//! No clocks, no sockets, no threads. Ports and drop reasons are plain numbers here; the callers give them their meaning.
#![forbid(unsafe_code)]

pub mod pcapng;
pub mod probe;
pub mod record;
pub mod ring;

pub use probe::{Leaving, Probe, Seen, Want};
pub use record::{Direction, Header, Verdict};
