//! Ethernet frames with TCP or UDP over IPv4 or IPv6, described field by field.
//!
//! Written by hand: etherparse and smoltcp are the parsers that `packet` is compared with, and neither writes
//! partial checksums, tags of any TPID or virtio-net headers.

use packet::VnetHeader;

use crate::checksum::{add, sum};
use crate::packets::{ACK, CWR};

/// A payload length with which every [`Spec`] stays below the 64 KiB limit of an IP packet.
pub const MAX_PAYLOAD: usize = 65_535 - 200;

/// The fields of one TCP or UDP frame. `Spec::default()` is an IPv4 TCP segment with 100 bytes of payload.
#[derive(Clone, Debug)]
pub struct Spec {
    /// Destination MAC address.
    pub dst: [u8; 6],
    /// Source MAC address.
    pub src: [u8; 6],
    /// TPID and TCI of each VLAN tag, outermost first.
    pub tags: Vec<(u16, u16)>,
    /// IPv6 rather than IPv4.
    pub v6: bool,
    /// TCP rather than UDP.
    pub tcp: bool,
    /// Last bytes of the source and destination IP addresses, in 198.18.0.0/24 or 2001:db8::/120.
    pub hosts: (u8, u8),
    /// Source and destination port.
    pub ports: (u16, u16),
    /// Traffic class, or type of service.
    pub traffic_class: u8,
    /// Time to live, or hop limit.
    pub ttl: u8,
    /// Identification (IPv4 only).
    pub id: u16,
    /// IPv4: length of the options in 32-bit words. IPv6: a hop-by-hop header if not 0.
    pub ip_options: usize,
    /// TCP sequence number.
    pub sequence: u32,
    /// TCP acknowledgment number.
    pub acknowledgment: u32,
    /// TCP flags.
    pub flags: u8,
    /// TCP window.
    pub window: u16,
    /// TCP options; their length is a multiple of four bytes.
    pub options: Vec<u8>,
    /// Bytes after the TCP or UDP header.
    pub payload: Vec<u8>,
}

impl Default for Spec {
    fn default() -> Spec {
        Spec {
            dst: [2, 0, 0, 0, 0, 2],
            src: [2, 0, 0, 0, 0, 1],
            tags: Vec::new(),
            v6: false,
            tcp: true,
            hosts: (1, 2),
            ports: (40_000, 443),
            traffic_class: 0,
            ttl: 64,
            id: 1,
            ip_options: 0,
            sequence: 1000,
            acknowledgment: 1,
            flags: ACK,
            window: 512,
            options: vec![1, 1, 8, 10, 0, 0, 0, 5, 0, 0, 0, 6],
            payload: vec![0x5a; 100],
        }
    }
}

impl Spec {
    /// Offset of the IP header.
    #[must_use]
    pub fn l3(&self) -> usize {
        14 + 4 * self.tags.len()
    }

    /// Offset of the TCP or UDP header.
    #[must_use]
    pub fn l4(&self) -> usize {
        self.l3() + if self.v6 { 40 + 8 * usize::from(self.ip_options > 0) } else { 20 + 4 * self.ip_options }
    }

    /// Offset of the payload.
    #[must_use]
    pub fn payload_at(&self) -> usize {
        self.l4() + if self.tcp { 20 + self.options.len() } else { 8 }
    }

    /// Offset of the checksum within the TCP or UDP header.
    #[must_use]
    pub fn checksum_offset(&self) -> usize {
        if self.tcp { 16 } else { 6 }
    }

    fn addresses(&self) -> Vec<u8> {
        let (a, b) = self.hosts;
        if self.v6 {
            let address = |host| [0x20, 1, 0x0d, 0xb8, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, host];
            [address(a), address(b)].concat()
        } else {
            vec![198, 18, 0, a, 198, 18, 0, b]
        }
    }

    fn pseudo_header(&self) -> u16 {
        let len = (self.payload_at() - self.l4() + self.payload.len()) as u32;
        let protocol = if self.tcp { 6 } else { 17 };
        sum(&[&self.addresses()[..], &len.to_be_bytes(), &[0, 0, 0, protocol]].concat())
    }

    fn transport(&self, check: u16) -> Vec<u8> {
        let mut bytes = [self.ports.0.to_be_bytes(), self.ports.1.to_be_bytes()].concat();
        if self.tcp {
            bytes.extend(self.sequence.to_be_bytes());
            bytes.extend(self.acknowledgment.to_be_bytes());
            bytes.extend([(((20 + self.options.len()) / 4) << 4) as u8, self.flags]);
            bytes.extend(self.window.to_be_bytes());
            bytes.extend(check.to_be_bytes());
            bytes.extend([0, 0]);
            bytes.extend(&self.options);
        } else {
            bytes.extend(((8 + self.payload.len()) as u16).to_be_bytes());
            bytes.extend(check.to_be_bytes());
        }
        bytes.extend(&self.payload);
        bytes
    }

    fn with_checksum(&self, check: u16) -> Vec<u8> {
        let transport = self.transport(check);
        let protocol = if self.tcp { 6 } else { 17 };
        let mut bytes = [self.dst, self.src].concat();
        for (protocol, tci) in &self.tags {
            bytes.extend(protocol.to_be_bytes());
            bytes.extend(tci.to_be_bytes());
        }
        if self.v6 {
            bytes.extend([0x86, 0xdd, 0x60 | self.traffic_class >> 4, self.traffic_class << 4, 0, 0]);
            bytes.extend(((self.l4() - self.l3() - 40 + transport.len()) as u16).to_be_bytes());
            bytes.extend([if self.ip_options > 0 { 0 } else { protocol }, self.ttl]);
            bytes.extend(self.addresses());
            if self.ip_options > 0 {
                bytes.extend([protocol, 0, 1, 4, 0, 0, 0, 0]);
            }
        } else {
            let header_len = self.l4() - self.l3();
            bytes.extend([0x08, 0x00, 0x40 | (header_len / 4) as u8, self.traffic_class]);
            bytes.extend(((header_len + transport.len()) as u16).to_be_bytes());
            bytes.extend(self.id.to_be_bytes());
            bytes.extend([0x40, 0, self.ttl, protocol, 0, 0]);
            bytes.extend(self.addresses());
            bytes.extend(std::iter::repeat_n(1, 4 * self.ip_options));
            let check = !sum(&bytes[self.l3()..]);
            bytes[self.l3() + 10..][..2].copy_from_slice(&check.to_be_bytes());
        }
        bytes.extend(transport);
        bytes
    }

    /// The frame with complete checksums.
    #[must_use]
    pub fn bytes(&self) -> Vec<u8> {
        let sum = add(self.pseudo_header(), sum(&self.transport(0)));
        let check = if !sum == 0 && !self.tcp { 0xffff } else { !sum };
        self.with_checksum(check)
    }

    /// The frame without a UDP checksum.
    #[must_use]
    pub fn unchecked(&self) -> Vec<u8> {
        self.with_checksum(0)
    }

    /// The frame with a partial checksum (the pseudo-header's sum), and the virtio-net header that declares it.
    #[must_use]
    pub fn partial(&self) -> (VnetHeader, Vec<u8>) {
        let vnet = VnetHeader {
            flags: 1,
            csum_start: self.l4() as u16,
            csum_offset: self.checksum_offset() as u16,
            ..VnetHeader::default()
        };
        (vnet, self.with_checksum(self.pseudo_header()))
    }

    /// The frame as a super-frame, to be segmented into payloads of `size` bytes.
    #[must_use]
    pub fn super_frame(&self, size: u16) -> (VnetHeader, Vec<u8>) {
        let (vnet, bytes) = self.partial();
        let gso_type = match (self.tcp, self.v6) {
            (true, false) => 1,
            (true, true) => 4,
            (false, _) => 5,
        };
        let ecn = if self.tcp && self.flags & CWR != 0 { 0x80 } else { 0 };
        (VnetHeader { gso_type: gso_type | ecn, gso_size: size, hdr_len: self.payload_at() as u16, ..vnet }, bytes)
    }
}

/// `len` pseudo-random bytes derived from `seed`.
#[must_use]
pub fn noise(seed: u64, len: usize) -> Vec<u8> {
    let mut state = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1;
    let mut next = || {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        (state >> 32) as u8
    };
    std::iter::repeat_with(&mut next).take(len).collect()
}
