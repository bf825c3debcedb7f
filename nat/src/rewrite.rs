//! Writing new endpoints into a packet, in place, with all checksums kept exact.
//!
//! Checksums are patched by the difference (RFC 1624), never summed anew: a wrong one stays wrong, and the receiver
//! finds it. A partial checksum holds the sum of the pseudo-header only, which covers the addresses and no ports. It is
//! patched by the addresses alone, and the payload of a super-frame is not touched.

use packet::checksum::{Checksum, Delta};
use packet::ethernet::{put_u16, u16_at, u32_at};
use packet::icmpv4::kind;
use packet::ipv4::Ipv4Mut;
use packet::{tcp, udp};

use crate::tuple::{Endpoint, Protocol};
use crate::view::ICMP_ID;

/// Offset of the checksum in an ICMP message.
pub(crate) const ICMP_CHECKSUM: usize = 2;

/// Writes both endpoints into a packet that holds its transport header.
#[inline]
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
#[inline]
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
