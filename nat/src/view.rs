//! How the translation classifies a packet: a packet of a flow, a later fragment, or an ICMP error.

use packet::ethernet::u16_at;
use packet::icmpv4::{ICMP_LEN, kind};
use packet::ipv4::Ipv4View;
use packet::tcp::TCP_LEN;
use packet::udp::UDP_LEN;

use crate::Refused;
use crate::fragments::{Fragment, Key};
use crate::tuple::{Endpoint, Protocol, Side, Tuple};

/// Offset of the identifier in an ICMP query.
pub(crate) const ICMP_ID: usize = 4;

/// A packet by what its translation needs.
#[derive(Clone, Copy, Debug)]
pub(crate) enum View {
    /// It holds its transport header.
    Flow {
        /// The flow and direction.
        tuple: Tuple,
        /// Set for the first fragment of a datagram.
        first: Option<(Key, Fragment)>,
    },
    /// A later fragment: the transport header is in the first one.
    Later {
        /// Its datagram.
        key: Key,
        /// Its place in the datagram.
        fragment: Fragment,
    },
    /// An ICMP error, which quotes another packet.
    Error,
}

/// Classifies any packet.
pub(crate) fn view(packet: Ipv4View<'_>, side: Side) -> Result<View, Refused> {
    let payload = packet.payload();
    let is_error = packet.fragment_offset() == 0
        && Protocol(packet.protocol()) == Protocol::ICMP
        && payload.first().is_some_and(|message| is_error(*message));
    match fragment(packet, side) {
        Some((key, fragment)) if fragment.offset != 0 => Ok(View::Later { key, fragment }),
        // No error quotes so much that it has to be fragmented (RFC 1812 section 4.3.2.3).
        Some(_) if is_error => Err(Refused::Malformed),
        None if is_error => {
            if payload.len() < ICMP_LEN {
                Err(Refused::Malformed)
            } else {
                Ok(View::Error)
            }
        }
        first => Ok(View::Flow { tuple: tuple(packet, side)?, first }),
    }
}

/// The datagram that a fragment belongs to and its place there; `None` for a whole packet.
fn fragment(packet: Ipv4View<'_>, side: Side) -> Option<(Key, Fragment)> {
    packet.is_fragment().then(|| {
        let key = Key { side: side as u8, src: packet.src(), dst: packet.dst(), id: packet.id(), protocol: packet.protocol() };
        let fragment = Fragment { offset: packet.fragment_offset(), len: packet.payload().len(), more: packet.more_fragments() };
        (key, fragment)
    })
}

/// The ICMP errors that are translated. Routers do not forward redirects and source quenches (RFC 5508 section 7,
/// RFC 6633).
fn is_error(message: u8) -> bool {
    matches!(message, kind::UNREACHABLE | kind::TIME_EXCEEDED | kind::PARAMETER_PROBLEM)
}

fn tuple(packet: Ipv4View<'_>, side: Side) -> Result<Tuple, Refused> {
    let protocol = Protocol(packet.protocol());
    let payload = packet.payload();
    let (src, dst) = match protocol {
        Protocol::TCP if payload.len() >= TCP_LEN => ports(payload),
        Protocol::UDP if payload.len() >= UDP_LEN => ports(payload),
        Protocol::ICMP if payload.len() >= ICMP_LEN => query(payload)?,
        Protocol::TCP | Protocol::UDP | Protocol::ICMP => return Err(Refused::Malformed),
        _ => (0, 0),
    };
    Ok(Tuple { side, protocol, src: Endpoint::new(packet.src(), src), dst: Endpoint::new(packet.dst(), dst) })
}

/// Source and destination port of a TCP or UDP header, which both begin with them.
#[inline(always)]
pub(crate) fn ports(transport: &[u8]) -> (u16, u16) {
    (u16_at(transport, 0), u16_at(transport, 2))
}

/// The port numbers that an ICMP query counts with: its identifier on the asking side, the type of the request on the
/// other.
#[inline]
pub(crate) fn query(icmp: &[u8]) -> Result<(u16, u16), Refused> {
    let id = u16_at(icmp, ICMP_ID);
    match icmp[0] {
        request @ (kind::ECHO_REQUEST | kind::TIMESTAMP_REQUEST) => Ok((id, u16::from(request))),
        kind::ECHO_REPLY => Ok((u16::from(kind::ECHO_REQUEST), id)),
        kind::TIMESTAMP_REPLY => Ok((u16::from(kind::TIMESTAMP_REQUEST), id)),
        _ => Err(Refused::IcmpIgnored),
    }
}

/// Source and destination as connections record them; the ports are 0 where the packet has none.
#[must_use]
pub fn endpoints(packet: Ipv4View<'_>) -> (Endpoint, Endpoint) {
    match view(packet, Side::Inside) {
        Ok(View::Flow { tuple, .. }) => (tuple.src, tuple.dst),
        _ => (Endpoint::new(packet.src(), 0), Endpoint::new(packet.dst(), 0)),
    }
}
