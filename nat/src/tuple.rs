//! The identity of a flow: side, protocol, and two endpoints.

use std::fmt;
use std::net::{Ipv4Addr, SocketAddrV4};

/// Which side of the router a packet came from.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
#[repr(u8)]
pub enum Side {
    /// A guest's.
    Inside = 0,
    /// The uplink's.
    Outside = 1,
}

impl Side {
    /// The other one.
    #[inline]
    #[must_use]
    pub fn other(self) -> Side {
        match self {
            Side::Inside => Side::Outside,
            Side::Outside => Side::Inside,
        }
    }
}

/// IP's number of a protocol.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub struct Protocol(pub u8);

impl Protocol {
    /// ICMP; queries are identified by their identifier field.
    pub const ICMP: Protocol = Protocol(1);
    /// TCP.
    pub const TCP: Protocol = Protocol(6);
    /// UDP.
    pub const UDP: Protocol = Protocol(17);

    /// Does the protocol have ports, or something that serves as one?
    #[inline]
    #[must_use]
    pub fn has_ports(self) -> bool {
        matches!(self, Protocol::ICMP | Protocol::TCP | Protocol::UDP)
    }
}

impl fmt::Display for Protocol {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        match *self {
            Protocol::ICMP => out.write_str("icmp"),
            Protocol::TCP => out.write_str("tcp"),
            Protocol::UDP => out.write_str("udp"),
            Protocol(number) => number.fmt(out),
        }
    }
}

/// One end of a flow. An ICMP query's identifier stands for the asker's port and its type for the
/// port of the asked; a protocol without ports has 0.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub struct Endpoint {
    /// The address.
    pub address: Ipv4Addr,
    /// The port.
    pub port: u16,
}

impl Endpoint {
    /// An endpoint.
    #[inline]
    #[must_use]
    pub fn new(address: Ipv4Addr, port: u16) -> Endpoint {
        Endpoint { address, port }
    }
}

impl From<Endpoint> for SocketAddrV4 {
    fn from(endpoint: Endpoint) -> SocketAddrV4 {
        SocketAddrV4::new(endpoint.address, endpoint.port)
    }
}

impl fmt::Display for Endpoint {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(out, "{}:{}", self.address, self.port)
    }
}

impl fmt::Debug for Endpoint {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, out)
    }
}

/// One direction of a flow as one side of the router sees it.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub struct Tuple {
    /// The side on which packets of this direction arrive.
    pub side: Side,
    /// The protocol.
    pub protocol: Protocol,
    /// Their source.
    pub src: Endpoint,
    /// Their destination.
    pub dst: Endpoint,
}

impl Tuple {
    /// Source and destination as a packet of the opposite direction has them.
    #[inline]
    #[must_use]
    pub fn reversed(self) -> (Endpoint, Endpoint) {
        (self.dst, self.src)
    }

    /// The bytes that are hashed.
    #[inline]
    pub(crate) fn to_bytes(self) -> [u8; 14] {
        let (src, dst) = (self.src.address.octets(), self.dst.address.octets());
        let ([a, b], [c, d]) = (self.src.port.to_be_bytes(), self.dst.port.to_be_bytes());
        [src[0], src[1], src[2], src[3], dst[0], dst[1], dst[2], dst[3], a, b, c, d, self.protocol.0, self.side as u8]
    }
}
