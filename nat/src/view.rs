//! A packet as the translation sees it: which flow, and what kind of piece of it.

use std::net::Ipv4Addr;

pub(crate) use packet::ethernet::{put_u16, u16_at, u32_at};
use packet::icmpv4::kind;

use crate::Refused;
use crate::fragments::{Fragment, Key};
use crate::tuple::{Endpoint, Protocol, Side, Tuple};

const FRAGMENT: usize = 6;
const PROTOCOL: usize = 9;
const SRC: usize = 12;
const DST: usize = 16;
const MORE_FRAGMENTS: u16 = 0x2000;

/// Length of UDP's header and of an ICMP query's: the least that tells a flow.
const SHORT_HEADER: usize = 8;
const TCP_HEADER: usize = 20;

/// A sound IPv4 packet, by what is to be done with it.
#[derive(Clone, Copy, Debug)]
pub(crate) enum View {
    /// Its flow stands in it.
    Flow {
        /// The flow's direction.
        tuple: Tuple,
        /// Where the transport header starts.
        l4: usize,
        /// The first of several fragments.
        first: Option<(Key, Fragment)>,
    },
    /// A later fragment: its flow stood in the first.
    Later {
        /// Its datagram.
        key: Key,
        /// Its place there.
        fragment: Fragment,
    },
    /// An ICMP error about another packet.
    Error {
        /// Where the ICMP header starts.
        l4: usize,
    },
}

/// The flow of a whole TCP segment or UDP datagram, and where its transport header starts: what nearly
/// every packet is. `None` for all else, and for what is cut short; see [`view`].
#[inline(always)]
pub(crate) fn plain(packet: &[u8], side: Side) -> Option<(Tuple, usize)> {
    let l4 = usize::from(packet[0] & 0x0f) * 4;
    let protocol = Protocol(packet[PROTOCOL]);
    let header = match protocol {
        Protocol::TCP => TCP_HEADER,
        Protocol::UDP => SHORT_HEADER,
        _ => return None,
    };
    if u16_at(packet, FRAGMENT) & 0x3fff != 0 || packet.len() < l4 + header {
        return None;
    }
    let src = Endpoint::new(address_at(packet, SRC), u16_at(packet, l4));
    let dst = Endpoint::new(address_at(packet, DST), u16_at(packet, l4 + 2));
    Some((Tuple { side, protocol, src, dst }, l4))
}

/// Reads a packet whose IPv4 header was checked: header and total length are those of the slice.
pub(crate) fn view(packet: &[u8], side: Side) -> Result<View, Refused> {
    let l4 = usize::from(packet[0] & 0x0f) * 4;
    let protocol = Protocol(packet[PROTOCOL]);
    let fragment = u16_at(packet, FRAGMENT) & 0x3fff;
    if fragment != 0 {
        return fragmented(packet, side, l4, protocol, fragment);
    }
    if protocol == Protocol::ICMP && packet.len() > l4 && is_error(packet[l4]) {
        return if packet.len() < l4 + SHORT_HEADER { Err(Refused::Malformed) } else { Ok(View::Error { l4 }) };
    }
    Ok(View::Flow { tuple: tuple(packet, side, l4, protocol)?, l4, first: None })
}

#[cold]
fn fragmented(packet: &[u8], side: Side, l4: usize, protocol: Protocol, field: u16) -> Result<View, Refused> {
    let fragment =
        Fragment { offset: usize::from(field & 0x1fff) * 8, len: packet.len() - l4, more: field & MORE_FRAGMENTS != 0 };
    let id = u16_at(packet, 4);
    let key = Key { side: side as u8, src: address_at(packet, SRC), dst: address_at(packet, DST), id, protocol: protocol.0 };
    if fragment.offset != 0 {
        return Ok(View::Later { key, fragment });
    }
    if protocol == Protocol::ICMP && packet.len() > l4 && is_error(packet[l4]) {
        // Nobody quotes so much that an error does not fit into one packet (RFC 1812 section 4.3.2.3).
        return Err(Refused::Malformed);
    }
    Ok(View::Flow { tuple: tuple(packet, side, l4, protocol)?, l4, first: Some((key, fragment)) })
}

/// The errors that are translated; a redirect or a source quench is no router's business to pass on
/// (RFC 5508 section 7, RFC 6633).
fn is_error(message: u8) -> bool {
    matches!(message, kind::UNREACHABLE | kind::TIME_EXCEEDED | kind::PARAMETER_PROBLEM)
}

/// The tuple of a packet that begins with a transport header.
#[inline]
pub(crate) fn tuple(packet: &[u8], side: Side, l4: usize, protocol: Protocol) -> Result<Tuple, Refused> {
    let transport = &packet[l4..];
    let (src, dst) = match protocol {
        Protocol::TCP if transport.len() >= TCP_HEADER => (u16_at(transport, 0), u16_at(transport, 2)),
        Protocol::UDP if transport.len() >= SHORT_HEADER => (u16_at(transport, 0), u16_at(transport, 2)),
        Protocol::ICMP if transport.len() >= SHORT_HEADER => query(transport)?,
        Protocol::TCP | Protocol::UDP | Protocol::ICMP => return Err(Refused::Malformed),
        _ => (0, 0),
    };
    Ok(Tuple {
        side,
        protocol,
        src: Endpoint::new(address_at(packet, SRC), src),
        dst: Endpoint::new(address_at(packet, DST), dst),
    })
}

/// An ICMP query's identifier in the place of the asker's port, its request's type in the place of
/// the other's.
#[inline]
pub(crate) fn query(icmp: &[u8]) -> Result<(u16, u16), Refused> {
    let id = u16_at(icmp, 4);
    match icmp[0] {
        request @ (kind::ECHO_REQUEST | kind::TIMESTAMP_REQUEST) => Ok((id, u16::from(request))),
        kind::ECHO_REPLY => Ok((u16::from(kind::ECHO_REQUEST), id)),
        kind::TIMESTAMP_REPLY => Ok((u16::from(kind::TIMESTAMP_REQUEST), id)),
        _ => Err(Refused::IcmpIgnored),
    }
}

#[inline]
pub(crate) fn address_at(bytes: &[u8], at: usize) -> Ipv4Addr {
    Ipv4Addr::from_bits(u32_at(bytes, at))
}
