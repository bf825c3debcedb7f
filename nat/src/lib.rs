//! The translation: connection tracking, source and destination NAT, ICMP errors, fragments.
//!
//! A function of bytes and time: no sockets, no clocks, no threads of its own. [`Nat::translate_by`] translates a packet
//! from one side of the router to the other, in place; `docs/nat.md` has the theory. All workers share one [`Nat`].
#![forbid(unsafe_code)]

mod addresses;
mod book;
pub mod config;
mod decision;
mod demand;
mod flow_cache;
pub mod fragments;
mod gate;
mod guests;
mod half_open;
mod icmp_error;
mod icmp_quote;
mod index;
mod left;
mod lines;
mod mappings;
mod nat;
mod open_ports;
mod pending;
mod ports;
mod rewrite;
mod rules;
mod shared_address;
mod shares;
mod show;
mod table;
pub mod tcp;
mod transport;
mod tuple;
mod view;
mod wheel;

pub use book::{NatStats, PortUsage};
pub use config::{External, ExternalKind, Filtering, Mapping, NatConfig, Published, Timeouts};
pub use decision::{Basis, Decision};
pub use demand::{BLOCK, Demand, block_of, ports_of_block};
pub use flow_cache::FlowCache;
pub use gate::{PortMarks, PortOwner};
pub use left::{LeftTable, Rest, Restored, TableMemory};
pub use nat::{FirstFragment, Nat, Translated};
pub use show::{Connection, PortMapping};
pub use tuple::{Endpoint, Protocol, Side, Tuple};
pub use view::endpoints;

/// Why a packet was not translated.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Refused {
    /// Its transport header is incomplete.
    Malformed,
    /// Its transport or ICMP checksum is wrong, and it would have opened a connection or is an ICMP
    /// error.
    BadChecksum,
    /// TCP that belongs to no connection and does not open one.
    NotOpening,
    /// TCP outside its connection's window, or with an impossible combination of flags.
    OutOfWindow,
    /// From outside, and no connection or published port expects it.
    NoMapping,
    /// An ICMP message that is not passed on: redirects, deprecated types, unexpected replies.
    IcmpIgnored,
    /// An ICMP error about a packet of no connection.
    IcmpUnrelated,
    /// The limit of connections is reached, and no half-open connection can give way.
    TableFull,
    /// The limit of connections or outside ports of its bridge port is reached, or the limit of connections from outside
    /// to one published endpoint, and no half-open connection that counts against it can give way.
    PortShare,
    /// The limit of outside ports of its guest is reached, and no half-open connection of the guest can give way.
    GuestShare,
    /// No outside port is free, and no half-open connection can give way.
    PortsExhausted,
    /// There is no outside address.
    NoAddress,
    /// Its protocol has no ports, and another guest uses it with the same peer.
    Clash,
    /// Its protocol has no ports, so its packets cannot be told from the host's own on a shared address.
    NotShared,
    /// A fragment that arrived before the first one of its datagram; it may be kept with [`Nat::hold`].
    FragmentEarly,
    /// A fragment that overlaps others, has an illegal size, or exceeds a limit.
    FragmentRefused,
}
