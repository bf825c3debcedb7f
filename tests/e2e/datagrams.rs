//! IPv4 packets field by field, built and parsed independently of the code under test.

use std::net::{Ipv4Addr, SocketAddrV4};

use packet::MacAddr;

/// IP protocol numbers.
pub(crate) const ICMP: u8 = 1;
pub(crate) const TCP: u8 = 6;
pub(crate) const UDP: u8 = 17;

/// TCP flags.
pub(crate) const FIN: u8 = 1;
pub(crate) const SYN: u8 = 2;
pub(crate) const RST: u8 = 4;
pub(crate) const ACK: u8 = 16;

/// ICMP types.
pub(crate) const ECHO_REPLY: u8 = 0;
pub(crate) const UNREACHABLE: u8 = 3;
pub(crate) const ECHO_REQUEST: u8 = 8;
pub(crate) const TIME_EXCEEDED: u8 = 11;

/// An IPv4 packet. The payload includes the transport header, whose checksum is right unless a test breaks it.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) struct Datagram {
    pub(crate) src: Ipv4Addr,
    pub(crate) dst: Ipv4Addr,
    pub(crate) protocol: u8,
    pub(crate) tos: u8,
    pub(crate) ttl: u8,
    pub(crate) id: u16,
    pub(crate) dont_fragment: bool,
    pub(crate) more_fragments: bool,
    /// Length in bytes.
    pub(crate) offset: usize,
    /// Length is a multiple of four bytes.
    pub(crate) options: Vec<u8>,
    pub(crate) payload: Vec<u8>,
}

/// The checksum of RFC 1071.
pub(crate) fn checksum(pieces: &[&[u8]]) -> u16 {
    let bytes = pieces.concat();
    let words = bytes.chunks(2).map(|pair| u32::from(pair[0]) << 8 | u32::from(pair.get(1).copied().unwrap_or(0)));
    let mut sum: u32 = words.sum();
    while sum > 0xffff {
        sum = (sum & 0xffff) + (sum >> 16);
    }
    !(sum as u16)
}

/// Sum of the pseudo-header of TCP and UDP.
fn pseudo(src: Ipv4Addr, dst: Ipv4Addr, protocol: u8, len: usize) -> Vec<u8> {
    [&src.octets()[..], &dst.octets(), &[0, protocol], &(len as u16).to_be_bytes()].concat()
}

impl Datagram {
    /// A packet of any protocol.
    pub(crate) fn new(src: Ipv4Addr, dst: Ipv4Addr, protocol: u8, payload: Vec<u8>) -> Datagram {
        Datagram {
            src,
            dst,
            protocol,
            tos: 0,
            ttl: 64,
            id: 0x1234,
            dont_fragment: false,
            more_fragments: false,
            offset: 0,
            options: Vec::new(),
            payload,
        }
    }

    pub(crate) fn udp(src: SocketAddrV4, dst: SocketAddrV4, data: &[u8]) -> Datagram {
        let len = ((8 + data.len()) as u16).to_be_bytes();
        let payload = [&src.port().to_be_bytes()[..], &dst.port().to_be_bytes(), &len, &[0, 0], data].concat();
        Datagram::new(*src.ip(), *dst.ip(), UDP, payload).with_checksum()
    }

    /// `numbers` are the sequence and acknowledgment numbers.
    pub(crate) fn tcp(src: SocketAddrV4, dst: SocketAddrV4, flags: u8, numbers: [u32; 2], data: &[u8]) -> Datagram {
        Datagram::tcp_with_options(src, dst, flags, numbers, &[], data)
    }

    /// The length of `options` is a multiple of four bytes.
    pub(crate) fn tcp_with_options(
        src: SocketAddrV4,
        dst: SocketAddrV4,
        flags: u8,
        numbers: [u32; 2],
        options: &[u8],
        data: &[u8],
    ) -> Datagram {
        let mut payload = [src.port().to_be_bytes(), dst.port().to_be_bytes()].concat();
        payload.extend(numbers.iter().flat_map(|number| number.to_be_bytes()));
        payload.extend([(((20 + options.len()) / 4) << 4) as u8, flags, 0xfa, 0xf0, 0, 0, 0, 0]);
        payload.extend(options);
        payload.extend(data);
        Datagram { dont_fragment: true, ..Datagram::new(*src.ip(), *dst.ip(), TCP, payload) }.with_checksum()
    }

    /// An echo request with this identifier and sequence number 1.
    pub(crate) fn echo(src: Ipv4Addr, dst: Ipv4Addr, kind: u8, id: u16, data: &[u8]) -> Datagram {
        let payload = [&[kind, 0, 0, 0][..], &id.to_be_bytes(), &[0, 1], data].concat();
        Datagram::new(src, dst, ICMP, payload).with_checksum()
    }

    /// An ICMP error about a packet; `rest` are the four bytes between the checksum and the quote.
    pub(crate) fn error(src: Ipv4Addr, dst: Ipv4Addr, [kind, code]: [u8; 2], rest: u32, quote: &[u8]) -> Datagram {
        let payload = [&[kind, code, 0, 0][..], &rest.to_be_bytes(), quote].concat();
        Datagram::new(src, dst, ICMP, payload).with_checksum()
    }

    /// The packet with a correct transport checksum.
    pub(crate) fn with_checksum(mut self) -> Datagram {
        let Some(at) = self.checksum_at() else { return self };
        self.payload[at..at + 2].fill(0);
        let pseudo = self.pseudo_header();
        let mut check = checksum(&[&pseudo, &self.payload]);
        if self.protocol == UDP && check == 0 {
            check = 0xffff;
        }
        self.payload[at..at + 2].copy_from_slice(&check.to_be_bytes());
        self
    }

    fn pseudo_header(&self) -> Vec<u8> {
        if self.protocol == ICMP { Vec::new() } else { pseudo(self.src, self.dst, self.protocol, self.payload.len()) }
    }

    fn checksum_at(&self) -> Option<usize> {
        let at = match self.protocol {
            ICMP => 2,
            TCP => 16,
            UDP => 6,
            _ => return None,
        };
        (self.payload.len() >= at + 2).then_some(at)
    }

    /// Whether the transport checksum is right, if the packet has one and is whole.
    pub(crate) fn is_sound(&self) -> bool {
        let Some(at) = self.checksum_at() else { return true };
        self.is_fragment()
            || self.protocol == UDP && self.payload[at..at + 2] == [0, 0]
            || checksum(&[&self.pseudo_header(), &self.payload]) == 0
    }

    pub(crate) fn is_fragment(&self) -> bool {
        self.more_fragments || self.offset != 0
    }

    /// The packet's bytes.
    pub(crate) fn bytes(&self) -> Vec<u8> {
        let header = 20 + self.options.len();
        let mut bytes = vec![0x40 | (header / 4) as u8, self.tos];
        bytes.extend(((header + self.payload.len()) as u16).to_be_bytes());
        bytes.extend(self.id.to_be_bytes());
        let flags = u16::from(self.dont_fragment) << 14 | u16::from(self.more_fragments) << 13;
        bytes.extend((flags | (self.offset / 8) as u16).to_be_bytes());
        bytes.extend([self.ttl, self.protocol, 0, 0]);
        bytes.extend(self.src.octets());
        bytes.extend(self.dst.octets());
        bytes.extend(&self.options);
        let check = checksum(&[&bytes]);
        bytes[10..12].copy_from_slice(&check.to_be_bytes());
        bytes.extend(&self.payload);
        bytes
    }

    /// The packet in an Ethernet frame.
    pub(crate) fn frame(&self, dst: MacAddr, src: MacAddr) -> Vec<u8> {
        [&dst.0[..], &src.0, &[8, 0], &self.bytes()].concat()
    }

    /// Parses a packet, whose header checksum must be right; bytes after the total length are padding. `None` if it is
    /// not IPv4 or is truncated, as the quotes of ICMP errors are.
    pub(crate) fn read(bytes: &[u8]) -> Option<Datagram> {
        let header = usize::from(*bytes.first()? & 15) * 4;
        if bytes[0] >> 4 != 4 || header < 20 || bytes.len() < header || checksum(&[&bytes[..header]]) != 0 {
            return None;
        }
        let total = usize::from(u16_at(bytes, 2));
        let flags = u16_at(bytes, 6);
        Some(Datagram {
            src: Ipv4Addr::from_octets(*bytes[12..].first_chunk()?),
            dst: Ipv4Addr::from_octets(*bytes[16..].first_chunk()?),
            protocol: bytes[9],
            tos: bytes[1],
            ttl: bytes[8],
            id: u16_at(bytes, 4),
            dont_fragment: flags & 0x4000 != 0,
            more_fragments: flags & 0x2000 != 0,
            offset: usize::from(flags & 0x1fff) * 8,
            options: bytes[20..header].to_vec(),
            payload: bytes.get(header..total.min(bytes.len()))?.to_vec(),
        })
    }

    /// Parses the packet in an untagged frame. Panics on a bad header.
    pub(crate) fn of_frame(frame: &[u8]) -> Option<Datagram> {
        if frame.get(12..14)? != [8, 0] {
            return None;
        }
        Some(Datagram::read(&frame[14..]).unwrap_or_else(|| panic!("a broken packet: {frame:02x?}")))
    }

    /// Source and destination port; for an ICMP query the identifier twice.
    pub(crate) fn ports(&self) -> [u16; 2] {
        let id = |at| self.payload.get(at..at + 2).map_or(0, |bytes| u16_at(bytes, 0));
        if self.protocol == ICMP { [id(4), id(4)] } else { [id(0), id(2)] }
    }

    pub(crate) fn from(&self) -> SocketAddrV4 {
        SocketAddrV4::new(self.src, self.ports()[0])
    }

    pub(crate) fn to(&self) -> SocketAddrV4 {
        SocketAddrV4::new(self.dst, self.ports()[1])
    }

    /// The payload after the transport header (eight bytes for UDP and ICMP).
    pub(crate) fn data(&self) -> &[u8] {
        let header = match self.protocol {
            TCP => self.payload.get(12).map_or(20, |offset| usize::from(offset >> 4) * 4),
            _ => 8,
        };
        self.payload.get(header..).unwrap_or(&[])
    }

    /// TCP flags.
    pub(crate) fn flags(&self) -> u8 {
        self.payload.get(13).copied().unwrap_or(0)
    }

    /// TCP sequence and acknowledgment numbers.
    pub(crate) fn numbers(&self) -> [u32; 2] {
        [4, 8].map(|at| u32::from_be_bytes(*self.payload[at..].first_chunk().expect("a TCP header")))
    }

    /// ICMP type and code.
    pub(crate) fn kind(&self) -> [u8; 2] {
        [self.payload[0], self.payload[1]]
    }

    /// Whether it is an ICMP message of this type and code.
    pub(crate) fn is_icmp(&self, kind: u8, code: u8) -> bool {
        self.protocol == ICMP && self.kind() == [kind, code]
    }

    /// Whether it is an ICMP error.
    pub(crate) fn is_error(&self) -> bool {
        self.protocol == ICMP && matches!(self.payload[0], 3 | 4 | 5 | 11 | 12)
    }

    /// The packet that an ICMP error quotes, which may be truncated.
    pub(crate) fn quote(&self) -> Datagram {
        Datagram::read(&self.payload[8..]).unwrap_or_else(|| panic!("a broken quote: {self:?}"))
    }

    /// The next-hop MTU of a "fragmentation needed" error.
    pub(crate) fn next_hop_mtu(&self) -> u16 {
        u16_at(&self.payload, 6)
    }

    /// The packet in fragments with at most `size` bytes of payload, a multiple of eight.
    pub(crate) fn fragments(&self, size: usize) -> Vec<Datagram> {
        let count = self.payload.len().div_ceil(size);
        let pieces = self.payload.chunks(size).enumerate();
        let fragment = |(n, piece): (usize, &[u8])| Datagram {
            payload: piece.to_vec(),
            offset: n * size,
            more_fragments: n + 1 < count,
            ..self.clone()
        };
        pieces.map(fragment).collect()
    }
}

fn u16_at(bytes: &[u8], at: usize) -> u16 {
    u16::from_be_bytes([bytes[at], bytes[at + 1]])
}
