//! TCP and UDP frames as a host with offloads sends them.

use packet::checksum::{pseudo_header, sum};
use packet::offload::finish_checksum;
use packet::vnet::{flag, gso};
use packet::{MacAddr, VnetHeader};

use crate::frames::{DOT1Q, tagged};
use crate::host::{Host, Ip};

/// Pseudo-random numbers that are the same in each run (xorshift64*).
#[derive(Clone, Debug)]
pub(crate) struct Random(u64);

impl Random {
    pub(crate) fn new(seed: u64) -> Random {
        Random(seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1)
    }

    pub(crate) fn next(&mut self) -> u64 {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        self.0.wrapping_mul(0x2545_f491_4f6c_dd1d) >> 16
    }

    /// A number below `end`.
    pub(crate) fn below(&mut self, end: usize) -> usize {
        (self.next() % end as u64) as usize
    }

    pub(crate) fn chance(&mut self, one_in: usize) -> bool {
        self.below(one_in) == 0
    }

    pub(crate) fn bytes(&mut self, len: usize) -> Vec<u8> {
        (0..len).map(|_| self.next() as u8).collect()
    }
}

/// A packet from host 1 to host 2.
#[derive(Clone, Debug)]
pub(crate) struct Packet {
    pub(crate) dst: MacAddr,
    pub(crate) src: MacAddr,
    pub(crate) vlan: Option<u16>,
    pub(crate) ip: Ip,
    /// IPv4 only.
    pub(crate) id: u16,
    /// Source and destination port.
    pub(crate) ports: [u16; 2],
    /// `None` for UDP.
    pub(crate) tcp: Option<TcpFields>,
    pub(crate) payload: Vec<u8>,
}

/// The fields that only TCP has.
#[derive(Clone, Debug)]
pub(crate) struct TcpFields {
    pub(crate) sequence: u32,
    pub(crate) flags: u8,
    /// Length is a multiple of four bytes.
    pub(crate) options: Vec<u8>,
}

impl Packet {
    /// The frame with a partial checksum (the pseudo-header's sum).
    pub(crate) fn with_partial_checksum(&self) -> Vec<u8> {
        let transport = self.transport_header();
        let l4_len = transport.len() + self.payload.len();
        let mut frame = [&self.dst.0[..], &self.src.0].concat();
        let mut addresses = Vec::new();
        for number in [1, 2] {
            match Host::address(self.ip, number) {
                std::net::IpAddr::V4(address) => addresses.extend(address.octets()),
                std::net::IpAddr::V6(address) => addresses.extend(address.octets()),
            }
        }
        let protocol = if self.tcp.is_some() { 6 } else { 17 };
        match self.ip {
            Ip::V4 => {
                frame.extend([0x08, 0x00, 0x45, 0x00]);
                frame.extend(((20 + l4_len) as u16).to_be_bytes());
                frame.extend(self.id.to_be_bytes());
                frame.extend([0x40, 0x00, 64, protocol, 0, 0]);
                frame.extend(&addresses);
                let check = !sum(&frame[14..34]);
                frame[24..26].copy_from_slice(&check.to_be_bytes());
            }
            Ip::V6 => {
                frame.extend([0x86, 0xdd, 0x60, 0, 0, 0]);
                frame.extend((l4_len as u16).to_be_bytes());
                frame.extend([protocol, 64]);
                frame.extend(&addresses);
            }
        }
        let at = frame.len() + self.checksum_offset();
        frame.extend(transport);
        frame.extend(&self.payload);
        frame[at..at + 2].copy_from_slice(&pseudo_header(&addresses, protocol, l4_len).to_be_bytes());
        self.vlan.map_or_else(|| frame.clone(), |vlan| tagged(&frame, DOT1Q, vlan))
    }

    /// The frame with a complete checksum.
    pub(crate) fn complete(&self) -> Vec<u8> {
        let mut frame = self.with_partial_checksum();
        let l4 = self.l4();
        finish_checksum(&mut frame, l4, l4 + self.checksum_offset());
        frame
    }

    /// The virtio-net header for [`Packet::with_partial_checksum`].
    pub(crate) fn vnet(&self, gso_size: usize) -> VnetHeader {
        let gso_type = match (gso_size, &self.tcp, self.ip) {
            (0, _, _) => gso::NONE,
            (_, Some(_), Ip::V4) => gso::TCPV4,
            (_, Some(_), Ip::V6) => gso::TCPV6,
            (_, None, _) => gso::UDP_L4,
        };
        VnetHeader {
            flags: flag::NEEDS_CSUM,
            gso_type,
            hdr_len: self.headers_len() as u16,
            gso_size: gso_size as u16,
            csum_start: self.l4() as u16,
            csum_offset: self.checksum_offset() as u16,
        }
    }

    /// Length of all headers.
    pub(crate) fn headers_len(&self) -> usize {
        self.l4() + self.transport_header().len()
    }

    fn l4(&self) -> usize {
        let tag = if self.vlan.is_some() { 4 } else { 0 };
        14 + tag + if self.ip == Ip::V4 { 20 } else { 40 }
    }

    fn checksum_offset(&self) -> usize {
        if self.tcp.is_some() { 16 } else { 6 }
    }

    fn transport_header(&self) -> Vec<u8> {
        let mut header: Vec<u8> = self.ports.iter().flat_map(|port| port.to_be_bytes()).collect();
        match &self.tcp {
            Some(TcpFields { sequence, flags, options }) => {
                header.extend(sequence.to_be_bytes());
                header.extend([0, 0, 0, 1, (((20 + options.len()) / 4) << 4) as u8, *flags, 0x10, 0x00, 0, 0, 0, 0]);
                header.extend(options);
            }
            None => {
                header.extend(((8 + self.payload.len()) as u16).to_be_bytes());
                header.extend([0, 0]);
            }
        }
        header
    }
}
