//! IPv4 packets, with checksums summed word by word.

use std::net::Ipv4Addr;

use nat::Endpoint;

pub(crate) const ICMP: u8 = 1;
pub(crate) const TCP: u8 = 6;
pub(crate) const UDP: u8 = 17;

pub(crate) const FIN: u8 = 0x01;
pub(crate) const SYN: u8 = 0x02;
pub(crate) const RST: u8 = 0x04;
pub(crate) const ACK: u8 = 0x10;

/// The sum of RFC 1071 by its definition.
pub(crate) fn sum(bytes: &[u8]) -> u16 {
    bytes.chunks(2).fold(0, |sum, pair| add(sum, u16::from_be_bytes([pair[0], pair.get(1).copied().unwrap_or(0)])))
}

pub(crate) fn add(a: u16, b: u16) -> u16 {
    let sum = u32::from(a) + u32::from(b);
    (sum + (sum >> 16)) as u16
}

pub(crate) fn word(bytes: &[u8], at: usize) -> u16 {
    u16::from_be_bytes([bytes[at], bytes[at + 1]])
}

pub(crate) fn put(bytes: &mut [u8], at: usize, value: u16) {
    bytes[at..at + 2].copy_from_slice(&value.to_be_bytes());
}

pub(crate) fn address(bytes: &[u8], at: usize) -> Ipv4Addr {
    Ipv4Addr::new(bytes[at], bytes[at + 1], bytes[at + 2], bytes[at + 3])
}

pub(crate) fn header_len(packet: &[u8]) -> usize {
    usize::from(packet[0] & 15) * 4
}

/// Sum of a packet's pseudo-header, for a transport part of so many bytes.
pub(crate) fn pseudo_header(packet: &[u8], len: usize) -> u16 {
    let (protocol, len) = (packet[9], (len as u16).to_be_bytes());
    sum(&[&packet[12..20], &[0, protocol], &len].concat())
}

/// Where the checksum stands in the transport header.
pub(crate) fn checksum_at(protocol: u8) -> Option<usize> {
    match protocol {
        ICMP => Some(2),
        TCP => Some(16),
        UDP => Some(6),
        _ => None,
    }
}

/// The transport's checksum as it has to be; `None` if there is no room for one.
pub(crate) fn transport_checksum(packet: &[u8]) -> Option<u16> {
    let l4 = header_len(packet);
    let at = checksum_at(packet[9])?;
    let mut transport = packet[l4..].to_vec();
    if transport.len() < at + 2 {
        return None;
    }
    put(&mut transport, at, 0);
    let pseudo = if packet[9] == ICMP { 0 } else { pseudo_header(packet, transport.len()) };
    match (!add(sum(&transport), pseudo), packet[9]) {
        (0, UDP) => Some(0xffff),
        (check, _) => Some(check),
    }
}

pub(crate) fn set_ip_checksum(packet: &mut [u8]) {
    put(packet, 10, 0);
    let check = !sum(&packet[..header_len(packet)]);
    put(packet, 10, check);
}

pub(crate) fn set_transport_checksum(packet: &mut [u8]) {
    if let (Some(check), Some(at)) = (transport_checksum(packet), checksum_at(packet[9])) {
        let l4 = header_len(packet);
        put(packet, l4 + at, check);
    }
}

/// The checksum field as a sender leaves it that has it finished by others.
pub(crate) fn set_partial_checksum(packet: &mut [u8]) {
    let l4 = header_len(packet);
    let pseudo = pseudo_header(packet, packet.len() - l4);
    put(packet, l4 + checksum_at(packet[9]).unwrap(), pseudo);
}

/// A packet with options, a multiple of four bytes; all checksums are right.
pub(crate) fn ip_with(options: &[u8], protocol: u8, src: Ipv4Addr, dst: Ipv4Addr, payload: &[u8]) -> Vec<u8> {
    let header = 20 + options.len();
    let total = ((header + payload.len()) as u16).to_be_bytes();
    let mut packet = vec![0x40 | (header / 4) as u8, 0, total[0], total[1], 0, 1, 0, 0, 64, protocol, 0, 0];
    packet.extend(src.octets());
    packet.extend(dst.octets());
    packet.extend(options);
    packet.extend(payload);
    set_ip_checksum(&mut packet);
    set_transport_checksum(&mut packet);
    packet
}

pub(crate) fn ip(protocol: u8, src: Ipv4Addr, dst: Ipv4Addr, payload: &[u8]) -> Vec<u8> {
    ip_with(&[], protocol, src, dst, payload)
}

pub(crate) fn udp(src: Endpoint, dst: Endpoint, payload: &[u8]) -> Vec<u8> {
    let len = 8 + payload.len() as u16;
    let mut datagram = [src.port, dst.port, len, 0].map(u16::to_be_bytes).concat();
    datagram.extend(payload);
    ip(UDP, src.address, dst.address, &datagram)
}

/// What is special about a segment.
#[derive(Clone, Debug)]
pub(crate) struct Tcp {
    pub(crate) sequence: u32,
    pub(crate) acknowledgment: u32,
    pub(crate) flags: u8,
    pub(crate) window: u16,
    /// A multiple of four bytes.
    pub(crate) options: Vec<u8>,
}

impl Tcp {
    pub(crate) fn new(flags: u8, sequence: u32, acknowledgment: u32) -> Tcp {
        Tcp { sequence, acknowledgment, flags, window: 20_000, options: Vec::new() }
    }
}

pub(crate) fn tcp(src: Endpoint, dst: Endpoint, tcp: &Tcp, payload: &[u8]) -> Vec<u8> {
    let mut segment = [src.port.to_be_bytes(), dst.port.to_be_bytes()].concat();
    segment.extend(tcp.sequence.to_be_bytes());
    segment.extend(tcp.acknowledgment.to_be_bytes());
    segment.extend([(((20 + tcp.options.len()) / 4) << 4) as u8, tcp.flags]);
    segment.extend(tcp.window.to_be_bytes());
    segment.extend([0; 4]);
    segment.extend(&tcp.options);
    segment.extend(payload);
    ip(TCP, src.address, dst.address, &segment)
}

/// Any ICMP message with an identifier.
pub(crate) fn query(kind: u8, id: u16, src: Ipv4Addr, dst: Ipv4Addr, data: &[u8]) -> Vec<u8> {
    let [a, b] = id.to_be_bytes();
    ip(ICMP, src, dst, &[&[kind, 0, 0, 0, a, b, 0, 1], data].concat())
}

/// An error of these first two bytes, about a packet of which a part is quoted.
pub(crate) fn error(kind: [u8; 2], mtu: u16, src: Ipv4Addr, dst: Ipv4Addr, quote: &[u8]) -> Vec<u8> {
    let [a, b] = mtu.to_be_bytes();
    ip(ICMP, src, dst, &[&[kind[0], kind[1], 0, 0, 0, 0, a, b], quote].concat())
}

/// The bytes `range` of a packet's payload as a fragment.
pub(crate) fn fragment(packet: &[u8], range: std::ops::Range<usize>, id: u16, more: bool) -> Vec<u8> {
    let l4 = header_len(packet);
    let mut piece = packet[..l4].to_vec();
    piece.extend(&packet[l4 + range.start..l4 + range.end]);
    let len = piece.len() as u16;
    put(&mut piece, 2, len);
    put(&mut piece, 4, id);
    put(&mut piece, 6, (range.start / 8) as u16 | if more { 0x2000 } else { 0 });
    set_ip_checksum(&mut piece);
    piece
}
