//! Writing new endpoints into a packet, in place, with all checksums kept exact.
//!
//! Checksums are patched by the difference (RFC 1624), never summed anew: a wrong one stays wrong, and the receiver
//! finds it. A partial checksum holds the sum of the pseudo-header only, which covers the addresses and no ports. It is
//! patched by the addresses alone, and the payload of a super-frame is not touched.

use std::net::Ipv4Addr;

use packet::checksum::{Checksum, Delta};
use packet::ethernet::{put_u16, u16_at, u32_at};
use packet::icmpv4::kind;
use packet::ipv4::Ipv4Mut;
use packet::{tcp, udp};

use crate::tuple::{Endpoint, Protocol, Tuple};
use crate::view::ICMP_ID;

/// Offset of the checksum in an ICMP message.
pub(crate) const ICMP_CHECKSUM: usize = 2;

/// What is written into each TCP segment or UDP datagram of one flow.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct Rewrite {
    /// The new source and destination address, as they stand in the header.
    addresses: [u8; 8],
    /// The new ports, as they stand in the header.
    ports: [u8; 4],
    protocol: Protocol,
    of_addresses: Delta,
    of_endpoints: Delta,
}

impl Rewrite {
    /// The packets of this tuple get these endpoints.
    pub(crate) fn new(tuple: &Tuple, src: Endpoint, dst: Endpoint) -> Rewrite {
        let addresses = |src: Endpoint, dst: Endpoint| [src.address.to_bits(), dst.address.to_bits()];
        let ports = |src: Endpoint, dst: Endpoint| u32::from(src.port) << 16 | u32::from(dst.port);
        let of_addresses = Delta::of_words(addresses(tuple.src, tuple.dst), addresses(src, dst));
        let of_ports = Delta::of_u32(ports(tuple.src, tuple.dst), ports(src, dst));
        let ([a, b, c, d], [e, f, g, h]) = (src.address.octets(), dst.address.octets());
        Rewrite {
            addresses: [a, b, c, d, e, f, g, h],
            ports: ports(src, dst).to_be_bytes(),
            protocol: tuple.protocol,
            of_addresses,
            of_endpoints: of_addresses.and(of_ports),
        }
    }

    /// The new destination address.
    #[inline(always)]
    pub(crate) fn dst(&self) -> Ipv4Addr {
        let [.., a, b, c, d] = self.addresses;
        Ipv4Addr::new(a, b, c, d)
    }

    /// Writes the new endpoints into a packet of the flow. The result is that of [`endpoints`].
    #[inline(always)]
    pub(crate) fn apply(&self, packet: &mut Ipv4Mut<'_>, checksum: Checksum) {
        packet.replace_addresses(self.addresses, self.of_addresses);
        let transport = packet.payload_mut();
        transport[..4].copy_from_slice(&self.ports);
        let at = if self.protocol == Protocol::TCP { tcp::field::CHECKSUM } else { udp::field::CHECKSUM };
        let field = u16_at(transport, at);
        let patched = match (checksum, self.protocol) {
            (Checksum::Partial, _) => self.of_addresses.apply_to_sum(field),
            (_, Protocol::UDP) => self.of_endpoints.apply_to_udp(field),
            _ => self.of_endpoints.apply(field),
        };
        put_u16(transport, at, patched);
    }
}

/// Writes both endpoints into a packet that holds its transport header.
#[inline(always)]
pub(crate) fn endpoints(packet: &mut Ipv4Mut<'_>, protocol: Protocol, src: Endpoint, dst: Endpoint, checksum: Checksum) {
    let is_partial = checksum == Checksum::Partial;
    let of_addresses = packet.set_addresses(src.address, dst.address);
    let transport = packet.payload_mut();
    match protocol {
        Protocol::TCP => {
            let of_ports = ports(transport, src.port, dst.port);
            let field = u16_at(transport, tcp::field::CHECKSUM);
            let patched = if is_partial { of_addresses.apply_to_sum(field) } else { of_addresses.and(of_ports).apply(field) };
            put_u16(transport, tcp::field::CHECKSUM, patched);
        }
        Protocol::UDP => {
            let of_ports = ports(transport, src.port, dst.port);
            let field = u16_at(transport, udp::field::CHECKSUM);
            let patched =
                if is_partial { of_addresses.apply_to_sum(field) } else { of_addresses.and(of_ports).apply_to_udp(field) };
            put_u16(transport, udp::field::CHECKSUM, patched);
        }
        Protocol::ICMP => {
            let of_id = query_id(transport, src.port, dst.port);
            let check = of_id.apply(u16_at(transport, ICMP_CHECKSUM));
            put_u16(transport, ICMP_CHECKSUM, check);
        }
        _ => {}
    }
}

/// Writes both ports of a TCP or UDP header. Returns the difference.
#[inline(always)]
pub(crate) fn ports(transport: &mut [u8], src: u16, dst: u16) -> Delta {
    let old = u32_at(transport, 0);
    let new = u32::from(src) << 16 | u32::from(dst);
    transport[..4].copy_from_slice(&new.to_be_bytes());
    Delta::of_u32(old, new)
}

/// Writes an ICMP query's identifier, which is the source's port of a request and the destination's of a reply. Returns
/// the difference. ICMP's checksum covers no addresses.
#[inline]
pub(crate) fn query_id(icmp: &mut [u8], src: u16, dst: u16) -> Delta {
    let is_reply = matches!(icmp[0], kind::ECHO_REPLY | kind::TIMESTAMP_REPLY);
    let (old, new) = (u16_at(icmp, ICMP_ID), if is_reply { dst } else { src });
    put_u16(icmp, ICMP_ID, new);
    Delta::of_word(old, new)
}
