//! IPv4 packets: builders, field access, and checksums computed independently of `packet`.

use std::net::{Ipv4Addr, SocketAddrV4};

use packet::ipv4::Ipv4Mut;

use crate::checksum::{add, sum};

/// IP protocol number of ICMP.
pub const ICMP: u8 = 1;
/// IP protocol number of TCP.
pub const TCP: u8 = 6;
/// IP protocol number of UDP.
pub const UDP: u8 = 17;

/// TCP flag: no more data from the sender.
pub const FIN: u8 = 0x01;
/// TCP flag: synchronize sequence numbers.
pub const SYN: u8 = 0x02;
/// TCP flag: reset the connection.
pub const RST: u8 = 0x04;
/// TCP flag: push.
pub const PSH: u8 = 0x08;
/// TCP flag: the acknowledgment number is valid.
pub const ACK: u8 = 0x10;
/// TCP flag: congestion window reduced.
pub const CWR: u8 = 0x80;

/// A packet to be changed in place.
///
/// # Panics
///
/// If its header is not valid.
#[must_use]
pub fn ipv4_mut(packet: &mut [u8]) -> Ipv4Mut<'_> {
    match Ipv4Mut::new(packet) {
        Some(packet) => packet,
        None => panic!("not a valid IPv4 header"),
    }
}

/// The 16-bit field at this offset.
#[must_use]
pub fn word(bytes: &[u8], at: usize) -> u16 {
    u16::from_be_bytes([bytes[at], bytes[at + 1]])
}

/// Writes a 16-bit field.
pub fn put(bytes: &mut [u8], at: usize, value: u16) {
    bytes[at..at + 2].copy_from_slice(&value.to_be_bytes());
}

/// The IPv4 address at this offset.
#[must_use]
pub fn address(bytes: &[u8], at: usize) -> Ipv4Addr {
    Ipv4Addr::new(bytes[at], bytes[at + 1], bytes[at + 2], bytes[at + 3])
}

/// Length of a packet's IPv4 header in bytes.
#[must_use]
pub fn header_len(packet: &[u8]) -> usize {
    usize::from(packet[0] & 15) * 4
}

/// Sum of a packet's pseudo-header, for `len` bytes of transport header and payload.
#[must_use]
pub fn pseudo_header(packet: &[u8], len: usize) -> u16 {
    let [a, b] = (len as u16).to_be_bytes();
    add(sum(&packet[12..20]), sum(&[0, packet[9], a, b]))
}

/// Offset of the checksum in the transport header.
#[must_use]
pub fn checksum_at(protocol: u8) -> Option<usize> {
    match protocol {
        ICMP => Some(2),
        TCP => Some(16),
        UDP => Some(6),
        _ => None,
    }
}

/// The correct transport checksum; `None` if the packet has no room for one.
#[must_use]
pub fn transport_checksum(packet: &[u8]) -> Option<u16> {
    let l4 = header_len(packet);
    let at = checksum_at(packet[9])?;
    let transport = &packet[l4..];
    // The checksum's own field counts as zero.
    let behind = transport.get(at + 2..)?;
    let pseudo = if packet[9] == ICMP { 0 } else { pseudo_header(packet, transport.len()) };
    match (!add(add(sum(&transport[..at]), sum(behind)), pseudo), packet[9]) {
        (0, UDP) => Some(0xffff),
        (check, _) => Some(check),
    }
}

/// Corrects the IPv4 header checksum.
pub fn set_ip_checksum(packet: &mut [u8]) {
    put(packet, 10, 0);
    let check = !sum(&packet[..header_len(packet)]);
    put(packet, 10, check);
}

/// Corrects the ICMP, TCP or UDP checksum, if there is room for one.
pub fn set_transport_checksum(packet: &mut [u8]) {
    if let (Some(check), Some(at)) = (transport_checksum(packet), checksum_at(packet[9])) {
        let l4 = header_len(packet);
        put(packet, l4 + at, check);
    }
}

/// Replaces the transport checksum by a partial one (the pseudo-header's sum), as a sender with checksum offload does.
pub fn set_partial_checksum(packet: &mut [u8]) {
    let l4 = header_len(packet);
    let pseudo = pseudo_header(packet, packet.len() - l4);
    put(packet, l4 + checksum_at(packet[9]).unwrap(), pseudo);
}

/// A packet with IPv4 options (a multiple of four bytes); all checksums are right.
#[must_use]
pub fn ip_with(options: &[u8], protocol: u8, src: Ipv4Addr, dst: Ipv4Addr, payload: &[u8]) -> Vec<u8> {
    ip_of(options, protocol, src, dst, &[payload])
}

/// A packet whose payload is these pieces; all checksums are right.
fn ip_of(options: &[u8], protocol: u8, src: Ipv4Addr, dst: Ipv4Addr, payload: &[&[u8]]) -> Vec<u8> {
    let header = 20 + options.len();
    let total = header + payload.iter().map(|piece| piece.len()).sum::<usize>();
    let [a, b] = (total as u16).to_be_bytes();
    let mut packet = Vec::with_capacity(total);
    packet.extend([0x40 | (header / 4) as u8, 0, a, b, 0, 1, 0, 0, 64, protocol, 0, 0]);
    packet.extend(src.octets());
    packet.extend(dst.octets());
    packet.extend(options);
    payload.iter().for_each(|piece| packet.extend(*piece));
    set_ip_checksum(&mut packet);
    set_transport_checksum(&mut packet);
    packet
}

/// A packet without options; all checksums are right.
#[must_use]
pub fn ip(protocol: u8, src: Ipv4Addr, dst: Ipv4Addr, payload: &[u8]) -> Vec<u8> {
    ip_with(&[], protocol, src, dst, payload)
}

/// A UDP datagram.
#[must_use]
pub fn udp(src: impl Into<SocketAddrV4>, dst: impl Into<SocketAddrV4>, payload: &[u8]) -> Vec<u8> {
    let (src, dst, len) = (src.into(), dst.into(), 8 + payload.len() as u16);
    let header = [src.port(), dst.port(), len, 0].map(u16::to_be_bytes);
    ip_of(&[], UDP, *src.ip(), *dst.ip(), &[header.as_flattened(), payload])
}

/// The TCP fields of a segment.
#[derive(Clone, Debug)]
pub struct Tcp {
    /// Sequence number.
    pub sequence: u32,
    /// Acknowledgment number.
    pub acknowledgment: u32,
    /// Flags.
    pub flags: u8,
    /// Window.
    pub window: u16,
    /// Options; their length is a multiple of four bytes.
    pub options: Vec<u8>,
}

impl Tcp {
    /// A segment without options, with a window of 20,000 bytes.
    #[must_use]
    pub fn new(flags: u8, sequence: u32, acknowledgment: u32) -> Tcp {
        Tcp { sequence, acknowledgment, flags, window: 20_000, options: Vec::new() }
    }
}

/// A TCP segment.
#[must_use]
pub fn tcp(src: impl Into<SocketAddrV4>, dst: impl Into<SocketAddrV4>, tcp: &Tcp, payload: &[u8]) -> Vec<u8> {
    let (src, dst) = (src.into(), dst.into());
    let mut header = [0; 20];
    header[..2].copy_from_slice(&src.port().to_be_bytes());
    header[2..4].copy_from_slice(&dst.port().to_be_bytes());
    header[4..8].copy_from_slice(&tcp.sequence.to_be_bytes());
    header[8..12].copy_from_slice(&tcp.acknowledgment.to_be_bytes());
    header[12..14].copy_from_slice(&[(((20 + tcp.options.len()) / 4) << 4) as u8, tcp.flags]);
    header[14..16].copy_from_slice(&tcp.window.to_be_bytes());
    ip_of(&[], TCP, *src.ip(), *dst.ip(), &[&header, &tcp.options, payload])
}

/// An ICMP message with an identifier, sequence number 1 and code 0, as echo request and reply are.
#[must_use]
pub fn query(kind: u8, id: u16, src: Ipv4Addr, dst: Ipv4Addr, data: &[u8]) -> Vec<u8> {
    let [a, b] = id.to_be_bytes();
    ip_of(&[], ICMP, src, dst, &[&[kind, 0, 0, 0, a, b, 0, 1], data])
}

/// An ICMP error of this type and code that quotes `quote`.
#[must_use]
pub fn error(kind: [u8; 2], mtu: u16, src: Ipv4Addr, dst: Ipv4Addr, quote: &[u8]) -> Vec<u8> {
    let [a, b] = mtu.to_be_bytes();
    ip_of(&[], ICMP, src, dst, &[&[kind[0], kind[1], 0, 0, 0, 0, a, b], quote])
}

/// The bytes `range` of a packet's payload as a fragment; `more` fragments follow.
#[must_use]
pub fn fragment(packet: &[u8], range: std::ops::Range<usize>, id: u16, more: bool) -> Vec<u8> {
    let l4 = header_len(packet);
    let mut piece = [&packet[..l4], &packet[l4 + range.start..l4 + range.end]].concat();
    let len = piece.len() as u16;
    put(&mut piece, 2, len);
    put(&mut piece, 4, id);
    put(&mut piece, 6, (range.start / 8) as u16 | if more { 0x2000 } else { 0 });
    set_ip_checksum(&mut piece);
    piece
}
