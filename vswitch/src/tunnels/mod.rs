//! Tunnels: what comes out of datagrams, what goes into them, and tunnels of IP packets.

pub mod arrive;
pub(crate) mod encap;
pub mod ip;
