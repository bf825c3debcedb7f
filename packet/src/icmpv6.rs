//! ICMP for IPv6: "packet too big" (RFC 4443 section 3.2).
//!
//! ```text
//!  0     1     2       4               8
//! +-----+-----+-------+---------------+-------------------------------
//! | 2   | 0   | check | mtu           | IPv6 header and what follows ...
//! +-----+-----+-------+---------------+-------------------------------
//! ```
//!
//! The error quotes as much of the packet as fits into the minimum MTU of every link. Its headers are longer than a
//! frame's headroom, so the quote moves towards the end, where a packet that is too big has room.
//!
//! ```text
//!  | Ethernet | IPv6 | TCP | payload ......................... |   as it came
//!  | Ethernet | IPv6 | ICMP     | IPv6 | TCP | payload |           as it goes back
//!             0      40         48                      1280
//! ```

use std::net::Ipv6Addr;

use crate::checksum;
use crate::ethernet::put_u16;
use crate::ipv6::{IPV6_LEN, Ipv6Header, Ipv6View, MIN_MTU, Upper};

/// Length of the message's header.
pub const ICMP_LEN: usize = 8;

/// IP protocol number.
pub const PROTOCOL: u8 = 58;

/// Length of an error's IPv6 and ICMP headers before the quoted packet, in bytes.
pub const ERROR_HEADERS_LEN: usize = IPV6_LEN + ICMP_LEN;

/// Maximum length of an error with its IPv6 header, in bytes (RFC 4443 section 2.4 (c)).
pub const MAX_ERROR_LEN: usize = MIN_MTU;

/// Hop limit of errors: the default of RFC 1700, which Linux uses too.
const ERROR_HOP_LIMIT: u8 = 64;

/// Message types (RFC 4443 section 2.1, RFC 4861 section 4.5).
pub mod kind {
    /// Error: the packet is longer than the next hop takes.
    pub const PACKET_TOO_BIG: u8 = 2;
    /// The lowest type that is not an error.
    pub const FIRST_QUERY: u8 = 128;
    /// There is a better next hop. Its number is not that of an error, but no error may be sent about it either.
    pub const REDIRECT: u8 = 137;
}

/// Offsets within the message.
pub mod field {
    /// Message type, 8 bits.
    pub const KIND: usize = 0;
    /// Checksum of pseudo-header and message, 16 bits.
    pub const CHECKSUM: usize = 2;
    /// The next hop's MTU, 32 bits.
    pub const MTU: usize = 4;
}

/// The error "packet too big" with the next hop's MTU in bytes. Senders never use less than [`MIN_MTU`], whatever
/// MTU it has (RFC 8201 section 4).
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct PacketTooBig(pub u32);

impl PacketTooBig {
    /// Whether no error may be sent about this packet (RFC 4443 section 2.4 (e)): errors must not cause errors, and
    /// the source must be a single host. The destination does not matter: about multicast packets this is the only error
    /// that is sent, because path MTU discovery needs it for them too. Its source cannot be the packet's destination
    /// then.
    ///
    /// A fragment, whose upper protocol may be hidden, is reported; a packet whose header chain is too long to be walked
    /// is not.
    #[must_use]
    pub fn is_forbidden_about(packet: Ipv6View<'_>) -> bool {
        let src = packet.src();
        if src.is_unspecified() || src.is_multicast() || src.is_loopback() {
            return true;
        }
        match packet.upper() {
            Upper::Protocol(PROTOCOL, at) => match packet.from(at).first() {
                Some(&kind) => kind < kind::FIRST_QUERY || kind == kind::REDIRECT,
                None => true,
            },
            Upper::Protocol(..) | Upper::Fragment(_) => false,
            Upper::Unknown => true,
        }
    }

    /// Writes IPv6 and ICMP headers with the checksum into the first [`ERROR_HEADERS_LEN`] bytes of `packet`, whose
    /// other bytes are the quote. Returns false, and writes nothing, if `packet` is shorter than the headers or longer
    /// than [`MAX_ERROR_LEN`].
    #[must_use]
    pub fn write_headers(self, packet: &mut [u8], src: Ipv6Addr, dst: Ipv6Addr) -> bool {
        if !(ERROR_HEADERS_LEN..=MAX_ERROR_LEN).contains(&packet.len()) {
            return false;
        }
        let (ip, message) = packet.split_at_mut(IPV6_LEN);
        let header = Ipv6Header {
            traffic_class: 0,
            payload_len: message.len() as u16,
            next_header: PROTOCOL,
            hop_limit: ERROR_HOP_LIMIT,
            src,
            dst,
        };
        ip.copy_from_slice(&header.to_bytes());
        message[..ICMP_LEN].fill(0);
        message[field::KIND] = kind::PACKET_TOO_BIG;
        message[field::MTU..field::MTU + 4].copy_from_slice(&self.0.to_be_bytes());
        let pseudo = checksum::pseudo_header(&ip[crate::ipv6::field::SRC..], PROTOCOL, message.len());
        put_u16(message, field::CHECKSUM, !checksum::add(pseudo, checksum::sum(message)));
        true
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const ROUTER: Ipv6Addr = Ipv6Addr::new(0x2001, 0xdb8, 0, 0, 0, 0, 0, 1);
    const HOST: Ipv6Addr = Ipv6Addr::new(0x2001, 0xdb8, 0, 0, 0, 0, 0, 2);

    fn packet(next_header: u8, src: Ipv6Addr, dst: Ipv6Addr, payload: &[u8]) -> Vec<u8> {
        let header = Ipv6Header { traffic_class: 0, payload_len: payload.len() as u16, next_header, hop_limit: 9, src, dst };
        [&header.to_bytes()[..], payload].concat()
    }

    #[test]
    fn an_error_is_written_before_what_it_quotes() {
        let mut error = vec![0xee; ERROR_HEADERS_LEN];
        error.extend([0x60, 0, 0, 1]);
        assert!(PacketTooBig(1430).write_headers(&mut error, ROUTER, HOST));
        let mut expected = vec![0x60, 0, 0, 0, 0, 12, 58, 64];
        expected.extend([ROUTER.octets(), HOST.octets()].concat());
        expected.extend([2, 0, 0x3c, 0xad, 0, 0, 5, 0x96, 0x60, 0, 0, 1]);
        assert_eq!(error, expected);
    }

    #[test]
    fn the_lengths_that_an_error_has() {
        for (len, fits) in [(0, false), (47, false), (48, true), (1279, true), (1280, true), (1281, false)] {
            let mut error = vec![0xee; len];
            assert_eq!(PacketTooBig(1280).write_headers(&mut error, ROUTER, HOST), fits, "{len} bytes");
            assert_eq!(error.iter().all(|byte| *byte == 0xee), !fits, "{len} bytes");
        }
    }

    #[test]
    fn errors_do_not_breed_errors() {
        let group = Ipv6Addr::new(0xff02, 0, 0, 0, 0, 0, 0, 1);
        let forbidden = |next, src, dst, payload: &[u8]| {
            PacketTooBig::is_forbidden_about(Ipv6View::new(&packet(next, src, dst, payload)).unwrap())
        };
        assert!(!forbidden(17, HOST, ROUTER, &[0; 8]));
        assert!(!forbidden(17, HOST, group, &[0; 8]), "path MTU discovery of multicast");
        for nobody in [Ipv6Addr::UNSPECIFIED, Ipv6Addr::LOCALHOST, group] {
            assert!(forbidden(17, nobody, ROUTER, &[0; 8]), "from {nobody}");
        }
        for (kind, is_forbidden) in
            [(0, true), (1, true), (2, true), (127, true), (128, false), (135, false), (137, true), (255, false)]
        {
            assert_eq!(forbidden(PROTOCOL, HOST, ROUTER, &[kind, 0, 0, 0]), is_forbidden, "type {kind}");
            let behind_options = [PROTOCOL, 0, 1, 4, 0, 0, 0, 0, kind, 0, 0, 0];
            assert_eq!(forbidden(60, HOST, ROUTER, &behind_options), is_forbidden, "type {kind} behind options");
        }
        assert!(forbidden(60, HOST, ROUTER, &[PROTOCOL, 0, 1, 4, 0, 0, 0, 0]), "no type");
        assert!(forbidden(60, HOST, ROUTER, &[17, 200, 0, 0, 0, 0, 0, 0]), "a chain that leaves the packet");
        assert!(!forbidden(44, HOST, ROUTER, &[PROTOCOL, 0, 0, 1, 0, 0, 0, 0]), "a fragment");
    }
}
