//! Tunnels: frames out of datagrams, frames into datagrams, and tunnels of IP packets.

pub mod arrive;
pub(crate) mod encap;
pub(crate) mod ip;
pub mod ip_routes;
