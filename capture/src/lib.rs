//! What is looked at while frames walk, and how it leaves: a filter, a bounded way out of the packet path, pcapng.
//!
//! ```text
//!  worker:     frame --> Probe: port? sample? filter? --> record --> ring   (full: counted, never waited for)
//!  elsewhere:  ring --> records --> pcapng --> a file, Wireshark, tcpdump
//! ```
//!
//! No clocks, no sockets, no threads; numbers of ports and of drop reasons are what others say they are.
#![forbid(unsafe_code)]

pub mod pcapng;
pub mod probe;
pub mod record;
pub mod ring;

pub use probe::{Leaving, Probe, Seen, Want};
pub use record::{Direction, Header, Verdict};
