//! What the translation is to be: limits, behaviour, timeouts.

use std::net::Ipv4Addr;
use std::ops::RangeInclusive;
use std::sync::atomic::{AtomicU32, Ordering};

use crate::tcp::Phase;
use crate::tuple::Protocol;

/// At most so many outside addresses.
pub const MAX_EXTERNALS: usize = 64;

/// How many connections can be asked for.
pub const CONNECTIONS_RANGE: RangeInclusive<usize> = 1024..=4_000_000;

/// Which outside endpoint an inside endpoint gets (RFC 4787 section 4.1).
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub enum Mapping {
    /// One for all its flows, wherever they lead.
    #[default]
    EndpointIndependent,
    /// One for each flow.
    AddressAndPortDependent,
}

/// Whose packets are let in to a mapped endpoint (RFC 4787 section 5).
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub enum Filtering {
    /// Those of endpoints that it sent to.
    #[default]
    AddressAndPortDependent,
    /// Everybody's.
    EndpointIndependent,
}

/// After how many seconds without traffic a connection ends.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Timeouts {
    /// TCP, after the handshake: at least 2 h 4 min (RFC 5382 REQ-5).
    pub tcp_established: u32,
    /// TCP, before the handshake is over: at least 4 min (REQ-5; RFC 7857 section 2.1 lets it differ
    /// from closing).
    pub tcp_opening: u32,
    /// TCP, after both FIN or an RST: at least 4 min (REQ-5, RFC 7857 section 2.2).
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
    /// That of a protocol; for TCP by the phase of the connection.
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

/// Those in force, which an operator may change while packets flow.
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

    /// As [`Timeouts::of`].
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

/// Limits and behaviour, fixed at the start but for timeouts ([`Nat::set_timeouts`](crate::Nat::set_timeouts)).
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct NatConfig {
    /// Most connections, 1024 to 4,000,000.
    pub max_connections: usize,
    /// Most connections that packets of one port of the bridge (or of the uplink) may have opened.
    pub max_connections_per_port: usize,
    /// Most outside ports that one guest may hold, for each of TCP, UDP and ICMP.
    pub max_ports_per_guest: u32,
    /// How many ports the bridge has at first, the uplink among them; see [`Nat::set_ports_of_bridge`](crate::Nat::set_ports_of_bridge).
    pub ports_of_bridge: usize,
    /// The numbers that ports may ever have are below this one.
    pub port_numbers: usize,
    /// From where outside ports are taken.
    pub ports: RangeInclusive<u16>,
    /// Which outside endpoint an inside endpoint gets.
    pub mapping: Mapping,
    /// Whose packets are let in.
    pub filtering: Filtering,
    /// When connections end.
    pub timeouts: Timeouts,
    /// Guests' TCP connections whose start was not seen are taken up in the middle.
    pub tcp_loose: bool,
    /// Only resets are held to the window.
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
    /// Whose it is.
    pub kind: ExternalKind,
}

/// Whose an outside address is.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum ExternalKind {
    /// Ours alone: every configured port may be used.
    Own,
    /// The host's: a TCP or UDP port may be used once it was granted with
    /// [`Nat::grant`](crate::Nat::grant).
    Shared,
    /// One guest's, all ports and protocols of it.
    OneToOne(Ipv4Addr),
}

/// A published port: what arrives at `port` of an outside address goes to `guest`.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Published {
    /// TCP, UDP.
    pub protocol: Protocol,
    /// The outside address.
    pub address: Ipv4Addr,
    /// Its port.
    pub port: u16,
    /// The guest's endpoint.
    pub guest: crate::tuple::Endpoint,
}
