//! ICMP for IPv4 (RFC 792, RFC 1191, RFC 1812 section 4.3).
//!
//! ```text
//!  0     1     2       4       6       8
//! +-----+-----+-------+-------+-------+-------------------------------
//! | 8/0 | 0   | check | ident | seq   | data                            echo and its reply
//! +-----+-----+-------+-------+-------+-------------------------------
//! | 3   | 4   | check | 0     | mtu   | IPv4 header and its payload ... fragmentation needed
//! +-----+-----+-------+-------+-------+-------------------------------
//! ```
//!
//! An error quotes the packet that caused it, up to 576 bytes in all. It is written around that packet: the frame's
//! start moves 28 bytes to the front ([`Batch::move_start`](crate::Batch::move_start)), and the packet becomes the quote.
//!
//! ```text
//!             | Ethernet | IPv4 | TCP | payload ...            as it came
//!  | Ethernet | IPv4 | ICMP     | IPv4 | TCP | payload |       as it goes back
//!             0      20         28                            576
//! ```
//!
//! The quote is the packet as it was received, so a partial transport checksum is quoted as it is; receivers must not
//! validate it (RFC 5508 section 4.1). RFC 4884's length and extensions are not read: the quoted packet's own header
//! states its length.

use std::fmt;
use std::net::Ipv4Addr;

use crate::checksum::{self, Delta};
use crate::ethernet::{put_u16, u16_at};
use crate::ipv4::{IPV4_LEN, Ipv4Header, Ipv4View};

/// Length of the header of every supported message, in bytes.
pub const ICMP_LEN: usize = 8;

/// IP protocol number.
pub const PROTOCOL: u8 = 1;

/// Length of an error's IPv4 and ICMP headers before the quoted packet, in bytes.
pub const ERROR_HEADERS_LEN: usize = IPV4_LEN + ICMP_LEN;

/// Maximum length of an error with its IPv4 header, in bytes (RFC 1812 section 4.3.2.3).
pub const MAX_ERROR_LEN: usize = 576;

/// A router's messages carry precedence 6, internetwork control (RFC 1812 section 4.3.2.5).
const ERROR_TOS: u8 = 0xc0;

/// Time to live of errors: the default of RFC 1700.
const ERROR_TTL: u8 = 64;

/// Message types (RFC 792, RFC 950, RFC 1256).
pub mod kind {
    /// Answer to an echo request.
    pub const ECHO_REPLY: u8 = 0;
    /// Error: the packet could not be delivered.
    pub const UNREACHABLE: u8 = 3;
    /// Error: sent too fast; deprecated by RFC 6633.
    pub const SOURCE_QUENCH: u8 = 4;
    /// Error: there is a better next hop.
    pub const REDIRECT: u8 = 5;
    /// Ping.
    pub const ECHO_REQUEST: u8 = 8;
    /// Error: the time to live ran out, or the reassembly of fragments timed out.
    pub const TIME_EXCEEDED: u8 = 11;
    /// Error: a header field is invalid.
    pub const PARAMETER_PROBLEM: u8 = 12;
    /// Query for the receiver's time.
    pub const TIMESTAMP_REQUEST: u8 = 13;
    /// Reply to a timestamp request.
    pub const TIMESTAMP_REPLY: u8 = 14;
    /// Query for the network's number. Deprecated by RFC 6918.
    pub const INFORMATION_REQUEST: u8 = 15;
    /// Reply to an information request. Deprecated by RFC 6918.
    pub const INFORMATION_REPLY: u8 = 16;
    /// Query for the network's address mask. Deprecated by RFC 6918.
    pub const MASK_REQUEST: u8 = 17;
    /// Reply to an address mask request. Deprecated by RFC 6918.
    pub const MASK_REPLY: u8 = 18;
}

/// Codes of [`kind::UNREACHABLE`] (RFC 792, RFC 1812 section 5.2.7.1).
pub mod unreachable {
    /// No route.
    pub const NETWORK: u8 = 0;
    /// The last hop does not answer, or there is no room for the flow.
    pub const HOST: u8 = 1;
    /// The host does not support the protocol.
    pub const PROTOCOL: u8 = 2;
    /// No process listens on the port.
    pub const PORT: u8 = 3;
    /// Too long for the next hop, and must not be fragmented (RFC 1191).
    pub const FRAGMENTATION_NEEDED: u8 = 4;
    /// A source route failed.
    pub const SOURCE_ROUTE_FAILED: u8 = 5;
    /// A filter forbids it.
    pub const PROHIBITED: u8 = 13;
}

/// Offsets within the message.
pub mod field {
    /// Message type, 8 bits.
    pub const KIND: usize = 0;
    /// Code, which details the type, 8 bits.
    pub const CODE: usize = 1;
    /// Checksum of the whole message, 16 bits; there is no pseudo-header.
    pub const CHECKSUM: usize = 2;
    /// Identifier of a query, 16 bits.
    pub const IDENTIFIER: usize = 4;
    /// Sequence number of a query, 16 bits.
    pub const SEQUENCE: usize = 6;
    /// The next hop's MTU in "fragmentation needed", 16 bits.
    pub const MTU: usize = 6;
}

/// Whether a message of this type reports an error. Errors are never answered with an error.
#[inline]
#[must_use]
pub fn is_error(kind: u8) -> bool {
    matches!(kind, kind::UNREACHABLE | kind::SOURCE_QUENCH | kind::REDIRECT | kind::TIME_EXCEEDED | kind::PARAMETER_PROBLEM)
}

/// Whether a message of this type is a query with an identifier, or the reply to one (RFC 5508 section 2).
#[inline]
#[must_use]
pub fn is_query(kind: u8) -> bool {
    matches!(kind, kind::ECHO_REPLY | kind::ECHO_REQUEST | kind::TIMESTAMP_REQUEST..=kind::MASK_REPLY)
}

/// A message with a complete header.
#[derive(Clone, Copy)]
pub struct IcmpView<'a> {
    bytes: &'a [u8],
}

impl<'a> IcmpView<'a> {
    /// The payload of an IPv4 packet, which must not be a fragment; `None` if it is shorter than a
    /// header.
    #[inline]
    #[must_use]
    pub fn new(bytes: &'a [u8]) -> Option<IcmpView<'a>> {
        (bytes.len() >= ICMP_LEN).then_some(IcmpView { bytes })
    }

    /// Message type, of [`kind`].
    #[inline]
    #[must_use]
    pub fn kind(self) -> u8 {
        self.bytes[field::KIND]
    }

    /// The code; for [`kind::UNREACHABLE`], one of [`mod@unreachable`].
    #[inline]
    #[must_use]
    pub fn code(self) -> u8 {
        self.bytes[field::CODE]
    }

    /// Whether the checksum is correct. For a message that was truncated in a quote the result has no meaning.
    #[inline]
    #[must_use]
    pub fn has_valid_checksum(self) -> bool {
        checksum::sum(self.bytes) == 0xffff
    }

    /// Identifier of a query or its reply.
    #[inline]
    #[must_use]
    pub fn identifier(self) -> u16 {
        u16_at(self.bytes, field::IDENTIFIER)
    }

    /// Sequence number of a query or its reply.
    #[inline]
    #[must_use]
    pub fn sequence(self) -> u16 {
        u16_at(self.bytes, field::SEQUENCE)
    }

    /// The next hop's MTU in "fragmentation needed", in bytes; 0 from routers older than RFC 1191. `None` for other
    /// messages.
    #[inline]
    #[must_use]
    pub fn next_hop_mtu(self) -> Option<u16> {
        let is_needed = (self.kind(), self.code()) == (kind::UNREACHABLE, unreachable::FRAGMENTATION_NEEDED);
        is_needed.then(|| u16_at(self.bytes, field::MTU))
    }

    /// The quoted packet of an error, for [`Ipv4View::quoted`]; empty if the message is not an error.
    #[inline]
    #[must_use]
    pub fn quote(self) -> &'a [u8] {
        if is_error(self.kind()) { &self.bytes[ICMP_LEN..] } else { &[] }
    }
}

/// Turns an echo request into its reply in place: the type changes, the checksum is patched, and the data stays (RFC 1812
/// section 4.3.3.6). The caller exchanges the addresses. Returns false, and changes nothing, if it is not an echo request.
#[must_use]
pub fn answer_echo(message: &mut [u8]) -> bool {
    if message.len() < ICMP_LEN || message[..field::CHECKSUM] != [kind::ECHO_REQUEST, 0] {
        return false;
    }
    message[field::KIND] = kind::ECHO_REPLY;
    patch(message, Delta::of(&[kind::ECHO_REQUEST, 0], &[kind::ECHO_REPLY, 0]));
    true
}

/// Replaces the identifier of a query. `message` has a complete header; in a quote, it may be truncated behind that.
#[inline]
pub fn set_identifier(message: &mut [u8], identifier: u16) {
    let delta = Delta::of_word(u16_at(message, field::IDENTIFIER), identifier);
    put_u16(message, field::IDENTIFIER, identifier);
    patch(message, delta);
}

/// Patches the checksum for a change elsewhere in the message, such as in the quoted packet. `message` has a complete
/// header.
#[inline]
pub fn patch(message: &mut [u8], delta: Delta) {
    let check = delta.apply(u16_at(message, field::CHECKSUM));
    put_u16(message, field::CHECKSUM, check);
}

/// An ICMP error to be sent to the sender of a packet.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct IcmpError {
    kind: u8,
    code: u8,
    mtu: u16,
}

impl fmt::Display for IcmpError {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        match (self.kind, self.code) {
            (kind::TIME_EXCEEDED, _) => out.write_str("time exceeded"),
            (_, unreachable::FRAGMENTATION_NEEDED) => write!(out, "fragmentation needed, MTU {}", self.mtu),
            (_, unreachable::NETWORK) => out.write_str("network unreachable"),
            (_, unreachable::HOST) => out.write_str("host unreachable"),
            (_, unreachable::PROTOCOL) => out.write_str("protocol unreachable"),
            (_, unreachable::PORT) => out.write_str("port unreachable"),
            (_, unreachable::PROHIBITED) => out.write_str("communication prohibited"),
            (_, code) => write!(out, "unreachable, code {code}"),
        }
    }
}

impl IcmpError {
    /// The time to live ran out on the way.
    pub const TIME_EXCEEDED: IcmpError = IcmpError { kind: kind::TIME_EXCEEDED, code: 0, mtu: 0 };

    /// The packet could not be delivered; `code` is one of [`mod@unreachable`].
    #[must_use]
    pub const fn unreachable(code: u8) -> IcmpError {
        IcmpError { kind: kind::UNREACHABLE, code, mtu: 0 }
    }

    /// The next hop takes packets of at most `mtu` bytes, and this one must not be fragmented.
    #[must_use]
    pub const fn fragmentation_needed(mtu: u16) -> IcmpError {
        IcmpError { kind: kind::UNREACHABLE, code: unreachable::FRAGMENTATION_NEEDED, mtu }
    }

    /// Whether no error may be sent about this packet (RFC 1812 section 4.3.2.7), so that errors cause no further errors
    /// and no host can be flooded with them. This checks what the packet itself shows; the caller checks for Ethernet
    /// broadcasts and for the broadcast addresses of networks.
    #[must_use]
    pub fn is_forbidden_about(packet: Ipv4View<'_>) -> bool {
        let (src, dst) = (packet.src(), packet.dst());
        // 240/4 with its broadcast address belongs to no host (RFC 1112 section 4), and 0/8 is not a source address.
        let is_one_host = |address: Ipv4Addr| (1..224).contains(&address.octets()[0]);
        let is_query = || packet.payload().first().is_some_and(|kind| is_query(*kind));
        packet.fragment_offset() != 0
            || !is_one_host(src)
            || src.is_loopback()
            || !is_one_host(dst)
            || packet.protocol() == PROTOCOL && !is_query()
    }

    /// Writes IPv4 and ICMP headers with their checksums into the first [`ERROR_HEADERS_LEN`] bytes of `packet`, whose
    /// other bytes are the quote. Returns false, and writes nothing, if `packet` is shorter than the headers or longer
    /// than [`MAX_ERROR_LEN`].
    ///
    /// `id` is the identification from the sender's counter, because the error may be fragmented on its path.
    #[must_use]
    pub fn write_headers(self, packet: &mut [u8], src: Ipv4Addr, dst: Ipv4Addr, id: u16) -> bool {
        if !(ERROR_HEADERS_LEN..=MAX_ERROR_LEN).contains(&packet.len()) {
            return false;
        }
        let ip = Ipv4Header {
            tos: ERROR_TOS,
            total_len: packet.len() as u16,
            id,
            dont_fragment: false,
            ttl: ERROR_TTL,
            protocol: PROTOCOL,
            src,
            dst,
        };
        packet[..IPV4_LEN].copy_from_slice(&ip.to_bytes());
        let message = &mut packet[IPV4_LEN..];
        message[..ICMP_LEN].fill(0);
        message[field::KIND] = self.kind;
        message[field::CODE] = self.code;
        put_u16(message, field::MTU, self.mtu);
        let check = !checksum::sum(message);
        put_u16(message, field::CHECKSUM, check);
        true
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const ECHO: [u8; 12] = [8, 0, 0xa3, 0x5d, 0x12, 0x34, 0, 7, 0x41, 0x42, 1, 0x25];
    const ROUTER: Ipv4Addr = Ipv4Addr::new(192, 0, 2, 1);
    const HOST: Ipv4Addr = Ipv4Addr::new(10, 0, 0, 1);

    fn packet(protocol: u8, src: [u8; 4], dst: [u8; 4], payload: &[u8]) -> Vec<u8> {
        let header = Ipv4Header {
            tos: 0,
            total_len: (IPV4_LEN + payload.len()) as u16,
            id: 0,
            dont_fragment: true,
            ttl: 1,
            protocol,
            src: src.into(),
            dst: dst.into(),
        };
        [&header.to_bytes()[..], payload].concat()
    }

    #[test]
    fn an_echo_request_and_its_answer() {
        let mut echo = ECHO;
        let view = IcmpView::new(&echo).unwrap();
        assert_eq!((view.kind(), view.code(), view.identifier(), view.sequence()), (8, 0, 0x1234, 7));
        assert!(view.has_valid_checksum() && view.quote().is_empty() && view.next_hop_mtu().is_none());
        assert!(answer_echo(&mut echo));
        assert_eq!(echo, [0, 0, 0xab, 0x5d, 0x12, 0x34, 0, 7, 0x41, 0x42, 1, 0x25]);
        assert!(!answer_echo(&mut echo), "an answer is not answered");
        set_identifier(&mut echo, 0xfffe);
        assert_eq!(IcmpView::new(&echo).map(|view| (view.identifier(), view.has_valid_checksum())), Some((0xfffe, true)));
        for len in 0..ICMP_LEN {
            let mut echo = ECHO;
            assert!(IcmpView::new(&echo[..len]).is_none() && !answer_echo(&mut echo[..len]), "{len} bytes");
        }
    }

    #[test]
    fn an_error_is_written_before_what_it_quotes() {
        let mut error = vec![0xee; ERROR_HEADERS_LEN];
        error.extend(packet(17, [10, 0, 0, 1], [198, 51, 100, 7], &[0, 1, 0, 2, 0, 8, 0, 0]));
        let quote = error[28..].to_vec();
        assert!(IcmpError::fragmentation_needed(1400).write_headers(&mut error, ROUTER, HOST, 5));
        assert_eq!(error[..12], [0x45, 0xc0, 0, 56, 0, 5, 0, 0, 64, 1, 0xad, 0xfe]);
        assert_eq!(error[12..20], [192, 0, 2, 1, 10, 0, 0, 1]);
        assert_eq!((error[20..22].to_vec(), error[24..28].to_vec()), (vec![3, 4], vec![0, 0, 5, 0x78]));
        let ip = Ipv4View::new(&error).unwrap();
        let message = IcmpView::new(ip.payload()).unwrap();
        assert!(ip.has_valid_checksum() && message.has_valid_checksum());
        assert_eq!((message.next_hop_mtu(), message.quote()), (Some(1400), &quote[..]));
        assert!(IcmpError::TIME_EXCEEDED.write_headers(&mut error, ROUTER, HOST, 6));
        assert_eq!(error[20..22], [11, 0]);
        assert!(!IcmpError::TIME_EXCEEDED.write_headers(&mut error[..27], ROUTER, HOST, 6));
        assert!(!IcmpError::TIME_EXCEEDED.write_headers(&mut [0; 577], ROUTER, HOST, 6));
    }

    #[test]
    fn errors_do_not_breed_errors() {
        let (host, far) = ([10, 0, 0, 1], [198, 51, 100, 7]);
        let forbidden = |protocol, src, dst, payload: &[u8]| {
            IcmpError::is_forbidden_about(Ipv4View::new(&packet(protocol, src, dst, payload)).unwrap())
        };
        assert!(!forbidden(17, host, far, &[]));
        assert!(!forbidden(PROTOCOL, host, far, &ECHO));
        for kind in [3, 4, 5, 11, 12, 9, 42, 255] {
            assert!(forbidden(PROTOCOL, host, far, &[kind, 0, 0, 0, 0, 0, 0, 0]), "type {kind}");
        }
        assert!(forbidden(PROTOCOL, host, far, &[]));
        for nobody in [[0, 0, 0, 0], [127, 0, 0, 1], [224, 0, 0, 1], [240, 0, 0, 1], [255; 4]] {
            assert!(forbidden(17, nobody, far, &[]), "from {nobody:?}");
        }
        for many in [[224, 0, 0, 251], [255; 4]] {
            assert!(forbidden(17, host, many, &[]), "to {many:?}");
        }
        let mut fragment = packet(17, host, far, &[]);
        fragment[6..8].copy_from_slice(&[0, 1]);
        assert!(IcmpError::is_forbidden_about(Ipv4View::new(&fragment).unwrap()));
        fragment[6..8].copy_from_slice(&[0x20, 0]);
        assert!(!IcmpError::is_forbidden_about(Ipv4View::new(&fragment).unwrap()), "the first fragment");
    }
}
