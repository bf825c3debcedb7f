//! The translation: connection tracking, source and destination NAT, ICMP errors, fragments.
//!
//! A function of bytes and time: no sockets, no clocks, no threads of its own. [`Nat::translate_by`] takes
//! a packet from one side of the router and makes it one of the other, in place; `docs/nat.md` tells the
//! theory. All workers share one [`Nat`].
#![forbid(unsafe_code)]

mod addresses;
mod book;
pub mod config;
mod decision;
mod demand;
mod flow_cache;
pub mod fragments;
mod guests;
mod icmp_error;
mod icmp_quote;
mod index;
mod mappings;
mod nat;
mod open_ports;
mod pending;
mod ports;
mod rewrite;
mod rules;
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
pub use nat::{FirstFragment, Nat, Translated};
pub use show::{Connection, PortMapping};
pub use tuple::{Endpoint, Protocol, Side, Tuple};
pub use view::endpoints;

/// Why a packet was not translated.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Refused {
    /// Its transport header is not whole.
    Malformed,
    /// Its transport or ICMP checksum is wrong, and it would have opened a connection or is an ICMP
    /// error.
    BadChecksum,
    /// TCP that opens no connection and belongs to none.
    NotOpening,
    /// TCP outside of its connection's window, or with flags that make no sense.
    OutOfWindow,
    /// From outside, and nobody asked for it.
    NoMapping,
    /// An ICMP message that is not passed on: redirects, deprecated kinds, answers that nobody waits
    /// for.
    IcmpIgnored,
    /// An ICMP error about a packet of no connection.
    IcmpUnrelated,
    /// As many connections as there may be.
    TableFull,
    /// As many connections, or outside ports, as the port that it came from may have; or as many
    /// strangers as one published endpoint may.
    PortShare,
    /// As many outside ports as its guest may have.
    GuestShare,
    /// No outside port is free.
    PortsExhausted,
    /// There is no outside address.
    NoAddress,
    /// Its protocol has no ports, and somebody else talks to the same peer with it.
    Clash,
    /// Its protocol has no ports to tell its packets from the host's own, whose address it would share.
    NotShared,
    /// A fragment whose datagram's first fragment has not come; it may be kept with [`Nat::hold`].
    FragmentEarly,
    /// A fragment that overlaps others or is of no legal size, or too many datagrams in pieces.
    FragmentRefused,
}
