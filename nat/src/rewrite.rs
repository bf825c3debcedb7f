//! Writing new endpoints into a packet, in place, with all checksums kept exact.
//!
//! Checksums are patched by what changed (RFC 1624), never summed anew: a wrong one stays wrong, and
//! the receiver finds it. A partial checksum holds the sum of the pseudo-header only, which knows
//! addresses and no ports; so it is patched by the addresses alone, and the payload of a super-frame
//! is not touched at all.

use packet::checksum::Delta;

use crate::tuple::{Endpoint, Protocol};
use crate::view::{put_u16, u16_at, u32_at};

const IP_CHECKSUM: usize = 10;
const ADDRESSES: usize = 12;
const TCP_CHECKSUM: usize = 16;
const UDP_CHECKSUM: usize = 6;
const ICMP_CHECKSUM: usize = 2;
const ICMP_ID: usize = 4;

/// Writes both addresses into the IPv4 header and patches its checksum. Returns what changed.
#[inline]
pub(crate) fn addresses(packet: &mut [u8], src: Endpoint, dst: Endpoint) -> Delta {
    let (old_src, old_dst) = (u32_at(packet, ADDRESSES), u32_at(packet, ADDRESSES + 4));
    let (new_src, new_dst) = (src.address.to_bits(), dst.address.to_bits());
    let delta = Delta::of_u32(old_src, new_src).and(Delta::of_u32(old_dst, new_dst));
    packet[ADDRESSES..ADDRESSES + 4].copy_from_slice(&new_src.to_be_bytes());
    packet[ADDRESSES + 4..ADDRESSES + 8].copy_from_slice(&new_dst.to_be_bytes());
    let check = delta.apply(u16_at(packet, IP_CHECKSUM));
    put_u16(packet, IP_CHECKSUM, check);
    delta
}

/// Writes both endpoints into a packet that begins with a transport header at `l4`.
#[inline]
pub(crate) fn endpoints(packet: &mut [u8], l4: usize, protocol: Protocol, src: Endpoint, dst: Endpoint, partial: bool) {
    let of_addresses = addresses(packet, src, dst);
    let transport = &mut packet[l4..];
    match protocol {
        Protocol::TCP => {
            let of_ports = ports(transport, src.port, dst.port);
            let field = u16_at(transport, TCP_CHECKSUM);
            let patched = if partial { of_addresses.apply_to_sum(field) } else { of_addresses.and(of_ports).apply(field) };
            put_u16(transport, TCP_CHECKSUM, patched);
        }
        Protocol::UDP => {
            let of_ports = ports(transport, src.port, dst.port);
            let field = u16_at(transport, UDP_CHECKSUM);
            let patched = if partial { of_addresses.apply_to_sum(field) } else { of_addresses.and(of_ports).apply_to_udp(field) };
            put_u16(transport, UDP_CHECKSUM, patched);
        }
        Protocol::ICMP => {
            let of_id = query_id(transport, src.port, dst.port);
            let check = of_id.apply(u16_at(transport, ICMP_CHECKSUM));
            put_u16(transport, ICMP_CHECKSUM, check);
        }
        _ => {}
    }
}

/// Writes both ports. Returns what changed.
#[inline]
pub(crate) fn ports(transport: &mut [u8], src: u16, dst: u16) -> Delta {
    let old = u32_at(transport, 0);
    let new = u32::from(src) << 16 | u32::from(dst);
    transport[..4].copy_from_slice(&new.to_be_bytes());
    Delta::of_u32(old, new)
}

/// Writes an ICMP query's identifier, which stands in the source's port for a request and in the
/// destination's for a reply. ICMP's checksum covers no addresses.
#[inline]
pub(crate) fn query_id(icmp: &mut [u8], src: u16, dst: u16) -> Delta {
    let is_reply = matches!(icmp[0], packet::icmpv4::kind::ECHO_REPLY | packet::icmpv4::kind::TIMESTAMP_REPLY);
    let (old, new) = (u16_at(icmp, ICMP_ID), if is_reply { dst } else { src });
    put_u16(icmp, ICMP_ID, new);
    Delta::of_word(old, new)
}
