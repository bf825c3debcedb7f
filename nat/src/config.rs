//! Configuration of the translation: limits, behaviour, timeouts.

use std::net::Ipv4Addr;
use std::ops::RangeInclusive;
use std::sync::atomic::{AtomicU32, Ordering};

use crate::tcp::Phase;
use crate::tuple::Protocol;

/// Maximum number of outside addresses.
pub const MAX_EXTERNALS: usize = 64;

/// Range of the maximum number of connections.
pub const CONNECTIONS_RANGE: RangeInclusive<usize> = 1024..=4_000_000;

/// Which outside endpoint an inside endpoint gets (RFC 4787 section 4.1).
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub enum Mapping {
    /// One outside endpoint for all flows of the inside endpoint, whatever their destinations.
    #[default]
    EndpointIndependent,
    /// One outside endpoint for each flow.
    AddressAndPortDependent,
}

/// Which outside hosts may send to a mapped endpoint (RFC 4787 section 5).
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub enum Filtering {
    /// Only endpoints that the inside endpoint has sent to.
    #[default]
    AddressAndPortDependent,
    /// Any endpoint.
    EndpointIndependent,
}

/// Seconds without traffic after which a connection ends.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Timeouts {
    /// TCP, after the handshake: at least 2 h 4 min (RFC 5382 REQ-5).
    pub tcp_established: u32,
    /// TCP, before the handshake is complete: at least 4 min (RFC 5382 REQ-5; RFC 7857 section 2.1 allows a value other
    /// than for closing).
    pub tcp_opening: u32,
    /// TCP, after both FINs or an RST: at least 4 min (RFC 5382 REQ-5, RFC 7857 section 2.2).
    pub tcp_transitory: u32,
    /// UDP: at least 2 min, 5 recommended (RFC 4787 REQ-5).
    pub udp: u32,
    /// ICMP queries: at least 60 s (RFC 5508 REQ-2).
    pub icmp: u32,
    /// Any other protocol.
    pub other: u32,
}

impl Default for Timeouts {
    fn default() -> Timeouts {
        Timeouts { tcp_established: 7440, tcp_opening: 240, tcp_transitory: 240, udp: 300, icmp: 60, other: 600 }
    }
}

impl Timeouts {
    /// The timeout of a protocol; for TCP it depends on the phase of the connection.
    #[inline]
    pub(crate) fn of(&self, protocol: Protocol, phase: impl FnOnce() -> Phase) -> u32 {
        match protocol {
            Protocol::TCP => match phase() {
                Phase::Opening => self.tcp_opening,
                Phase::Established => self.tcp_established,
                Phase::Closing | Phase::Reset => self.tcp_transitory,
            },
            Protocol::UDP => self.udp,
            Protocol::ICMP => self.icmp,
            _ => self.other,
        }
    }
}

/// The timeouts in force, which can change while packets flow.
#[derive(Debug)]
pub(crate) struct LiveTimeouts {
    tcp_established: AtomicU32,
    tcp_opening: AtomicU32,
    tcp_transitory: AtomicU32,
    udp: AtomicU32,
    icmp: AtomicU32,
    other: AtomicU32,
}

impl LiveTimeouts {
    pub(crate) fn new(timeouts: Timeouts) -> LiveTimeouts {
        let Timeouts { tcp_established, tcp_opening, tcp_transitory, udp, icmp, other } = timeouts;
        LiveTimeouts {
            tcp_established: tcp_established.into(),
            tcp_opening: tcp_opening.into(),
            tcp_transitory: tcp_transitory.into(),
            udp: udp.into(),
            icmp: icmp.into(),
            other: other.into(),
        }
    }

    pub(crate) fn set(&self, timeouts: Timeouts) {
        for (live, secs) in [
            (&self.tcp_established, timeouts.tcp_established),
            (&self.tcp_opening, timeouts.tcp_opening),
            (&self.tcp_transitory, timeouts.tcp_transitory),
            (&self.udp, timeouts.udp),
            (&self.icmp, timeouts.icmp),
            (&self.other, timeouts.other),
        ] {
            live.store(secs, Ordering::Relaxed);
        }
    }

    /// The timeout of a protocol, as [`Timeouts::of`].
    #[inline]
    pub(crate) fn of(&self, protocol: Protocol, phase: impl FnOnce() -> Phase) -> u32 {
        let live = match protocol {
            Protocol::TCP => match phase() {
                Phase::Opening => &self.tcp_opening,
                Phase::Established => &self.tcp_established,
                Phase::Closing | Phase::Reset => &self.tcp_transitory,
            },
            Protocol::UDP => &self.udp,
            Protocol::ICMP => &self.icmp,
            _ => &self.other,
        };
        live.load(Ordering::Relaxed)
    }
}

/// Limits and behaviour, fixed at the start except for timeouts ([`Nat::set_timeouts`](crate::Nat::set_timeouts)).
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct NatConfig {
    /// Maximum number of connections, 1024 to 4,000,000.
    pub max_connections: usize,
    /// Maximum number of connections opened by packets from one port of the bridge, or from the uplink.
    pub max_connections_per_port: usize,
    /// Maximum number of outside ports of one guest, for each of TCP, UDP and ICMP.
    pub max_ports_per_guest: u32,
    /// Initial number of ports of the bridge, including the uplink; see
    /// [`Nat::set_ports_of_bridge`](crate::Nat::set_ports_of_bridge).
    pub ports_of_bridge: usize,
    /// Upper bound of port numbers, exclusive.
    pub port_numbers: usize,
    /// Outside ports that new mappings may use.
    pub ports: RangeInclusive<u16>,
    /// The mapping behaviour.
    pub mapping: Mapping,
    /// The filtering behaviour.
    pub filtering: Filtering,
    /// Timeouts of connections.
    pub timeouts: Timeouts,
    /// Accept guests' TCP connections whose opening was not seen.
    pub tcp_loose: bool,
    /// Accept TCP segments outside the window, except resets.
    pub tcp_liberal: bool,
}

impl Default for NatConfig {
    fn default() -> NatConfig {
        NatConfig {
            max_connections: 262_144,
            max_connections_per_port: 131_072,
            max_ports_per_guest: 32_768,
            ports_of_bridge: 1025,
            port_numbers: 1025,
            ports: 1024..=65_535,
            mapping: Mapping::default(),
            filtering: Filtering::default(),
            timeouts: Timeouts::default(),
            tcp_loose: true,
            tcp_liberal: false,
        }
    }
}

/// One outside address.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct External {
    /// The address.
    pub address: Ipv4Addr,
    /// Its use.
    pub kind: ExternalKind,
}

/// Use of an outside address.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum ExternalKind {
    /// The router's own: every configured port may be used.
    Own,
    /// Shared with the host: behind a gate ([`Nat::set_gate`](crate::Nat::set_gate)) every configured port may be used that
    /// no program of the host has; otherwise a TCP or UDP port once it was granted with [`Nat::grant`](crate::Nat::grant).
    Shared,
    /// One guest's, with all ports and protocols.
    OneToOne(Ipv4Addr),
}

/// A published port: packets to `port` of an outside address go to `guest`.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Published {
    /// TCP or UDP.
    pub protocol: Protocol,
    /// The outside address.
    pub address: Ipv4Addr,
    /// The outside port.
    pub port: u16,
    /// The guest's endpoint.
    pub guest: crate::tuple::Endpoint,
}
