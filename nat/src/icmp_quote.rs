//! The packet that an ICMP error quotes: read, and written as its sender knows it.

use packet::checksum::Delta;
use packet::ethernet::{put_u16, u16_at, u32_at};
use packet::icmpv4::ICMP_LEN;
use packet::ipv4::{Ipv4Mut, Ipv4View};
use packet::{tcp, udp};

use crate::Refused;
use crate::rewrite::{self, ICMP_CHECKSUM};
use crate::tuple::{Endpoint, Protocol, Tuple};
use crate::view::{ports, query};

/// The least that an error quotes of a transport header (RFC 792).
const LEAST_QUOTE: usize = 8;

/// The flow of a quoted packet.
pub(crate) struct Quote {
    pub(crate) protocol: Protocol,
    pub(crate) src: Endpoint,
    pub(crate) dst: Endpoint,
    /// The sequence number of a TCP segment, else 0.
    pub(crate) sequence: u32,
}

impl Quote {
    /// Reads the quote of an ICMP error, which is at least [`ICMP_LEN`] bytes long.
    pub(crate) fn read(icmp: &[u8]) -> Result<Quote, Refused> {
        let packet = Ipv4View::quoted(&icmp[ICMP_LEN..]).ok_or(Refused::Malformed)?;
        let protocol = Protocol(packet.protocol());
        let transport = packet.payload();
        if protocol.has_ports() && transport.len() < LEAST_QUOTE {
            return Err(Refused::Malformed);
        }
        if packet.fragment_offset() != 0 {
            return Err(Refused::IcmpUnrelated);
        }
        let (src, dst) = match protocol {
            Protocol::TCP | Protocol::UDP => ports(transport),
            Protocol::ICMP => query(transport)?,
            _ => (0, 0),
        };
        let sequence = if protocol == Protocol::TCP { u32_at(transport, tcp::field::SEQUENCE) } else { 0 };
        Ok(Quote { protocol, src: Endpoint::new(packet.src(), src), dst: Endpoint::new(packet.dst(), dst), sequence })
    }
}

/// Writes other endpoints into the quote of an ICMP error that [`Quote::read`] has accepted, and patches the error's
/// checksum.
pub(crate) fn write(icmp: &mut [u8], new: &Tuple) {
    let Some(mut packet) = Ipv4Mut::quoted(&mut icmp[ICMP_LEN..]) else { return };
    let delta = write_packet(&mut packet, new);
    let check = delta.apply(u16_at(icmp, ICMP_CHECKSUM));
    put_u16(icmp, ICMP_CHECKSUM, check);
}

/// Writes endpoints into a quoted packet, which may be cut off behind the first eight bytes of its transport header.
/// Returns the difference, changed checksums included. What is quoted of the transport checksum is patched, not
/// verified: it covers bytes that are not there.
fn write_packet(packet: &mut Ipv4Mut<'_>, new: &Tuple) -> Delta {
    let old_check = packet.view().checksum();
    let of_addresses = packet.set_addresses(new.src.address, new.dst.address);
    let outer = of_addresses.and(Delta::of_word(old_check, packet.view().checksum()));
    let transport = packet.payload_mut();
    let (changed, covered, at) = match new.protocol {
        Protocol::TCP => {
            let of_ports = rewrite::ports(transport, new.src.port, new.dst.port);
            (of_ports, of_addresses.and(of_ports), tcp::field::CHECKSUM)
        }
        Protocol::UDP => {
            let of_ports = rewrite::ports(transport, new.src.port, new.dst.port);
            (of_ports, of_addresses.and(of_ports), udp::field::CHECKSUM)
        }
        Protocol::ICMP => {
            let of_id = rewrite::query_id(transport, new.src.port, new.dst.port);
            (of_id, of_id, ICMP_CHECKSUM)
        }
        _ => return outer,
    };
    let is_absent = transport.len() < at + 2 || new.protocol == Protocol::UDP && u16_at(transport, at) == 0;
    if is_absent {
        return outer.and(changed);
    }
    let old = u16_at(transport, at);
    let patched = if new.protocol == Protocol::UDP { covered.apply_to_udp(old) } else { covered.apply(old) };
    put_u16(transport, at, patched);
    outer.and(changed).and(Delta::of_word(old, patched))
}
