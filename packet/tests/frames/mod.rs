//! Frames for tests: described field by field, and written out with checksums made word by word.
//!
//! Nothing here uses the crate's own checksums or segmentation but [`on_the_wire`], which is what
//! the far side makes of a write. Included by path where another crate's tests need frames.
#![allow(dead_code, reason = "each test uses some of the builders")]

use packet::head::Head;
use packet::offload::Judged;
use packet::segment::{self, Segments};
use packet::vlan::TagAction;
use packet::{Checksum, Headers, Offload, VNET_LEN, VnetHeader};
use proptest::prelude::*;

pub(crate) const FIN: u8 = 0x01;
pub(crate) const PSH: u8 = 0x08;
pub(crate) const ACK: u8 = 0x10;
pub(crate) const CWR: u8 = 0x80;

/// The largest payload with which every frame here still is a packet of 64 KiB.
pub(crate) const MAX_PAYLOAD: usize = 65_535 - 200;

/// One TCP or UDP frame.
#[derive(Clone, Debug)]
pub(crate) struct Spec {
    pub(crate) dst: [u8; 6],
    pub(crate) src: [u8; 6],
    /// TPID and TCI of each VLAN tag, outermost first.
    pub(crate) tags: Vec<(u16, u16)>,
    pub(crate) v6: bool,
    pub(crate) tcp: bool,
    /// Last byte of source and destination address.
    pub(crate) hosts: (u8, u8),
    pub(crate) ports: (u16, u16),
    pub(crate) traffic_class: u8,
    pub(crate) ttl: u8,
    pub(crate) id: u16,
    /// IPv4: so many words of options. IPv6: a hop-by-hop header if not 0.
    pub(crate) ip_options: usize,
    pub(crate) sequence: u32,
    pub(crate) acknowledgment: u32,
    pub(crate) flags: u8,
    pub(crate) window: u16,
    /// TCP options, a multiple of four bytes.
    pub(crate) options: Vec<u8>,
    pub(crate) payload: Vec<u8>,
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
    pub(crate) fn l3(&self) -> usize {
        14 + 4 * self.tags.len()
    }

    pub(crate) fn l4(&self) -> usize {
        self.l3() + if self.v6 { 40 + 8 * usize::from(self.ip_options > 0) } else { 20 + 4 * self.ip_options }
    }

    pub(crate) fn payload_at(&self) -> usize {
        self.l4() + if self.tcp { 20 + self.options.len() } else { 8 }
    }

    pub(crate) fn checksum_offset(&self) -> usize {
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
        reference_sum(&[&self.addresses()[..], &len.to_be_bytes(), &[0, 0, 0, protocol]].concat())
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
            let check = !reference_sum(&bytes[self.l3()..]);
            bytes[self.l3() + 10..][..2].copy_from_slice(&check.to_be_bytes());
        }
        bytes.extend(transport);
        bytes
    }

    /// The frame with complete checksums.
    pub(crate) fn bytes(&self) -> Vec<u8> {
        let sum = reference_add(self.pseudo_header(), reference_sum(&self.transport(0)));
        let check = if !sum == 0 && !self.tcp { 0xffff } else { !sum };
        self.with_checksum(check)
    }

    /// The frame without a UDP checksum.
    pub(crate) fn unchecked(&self) -> Vec<u8> {
        self.with_checksum(0)
    }

    /// The frame with only the pseudo-header's sum, and the header that says so.
    pub(crate) fn partial(&self) -> (VnetHeader, Vec<u8>) {
        let vnet = VnetHeader {
            flags: 1,
            csum_start: self.l4() as u16,
            csum_offset: self.checksum_offset() as u16,
            ..VnetHeader::default()
        };
        (vnet, self.with_checksum(self.pseudo_header()))
    }

    /// The same as a super-frame of segments of this size.
    pub(crate) fn super_frame(&self, size: u16) -> (VnetHeader, Vec<u8>) {
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

/// Any frame with up to `payload` bytes.
pub(crate) fn specs(payload: usize) -> impl Strategy<Value = Spec> {
    let tag = (prop_oneof![Just(0x8100u16), Just(0x88a8)], any::<u16>());
    let ethernet = (any::<[u8; 6]>(), any::<[u8; 6]>(), prop::collection::vec(tag, 0..=2));
    let ip =
        (any::<bool>(), any::<(u8, u8)>(), any::<u8>(), any::<u8>(), any::<u16>(), prop_oneof![4 => Just(0), 1 => 1usize..=10]);
    let options = (0usize..=10).prop_flat_map(|words| prop::collection::vec(Just(1u8), 4 * words));
    let transport = (any::<bool>(), any::<(u16, u16)>(), any::<(u32, u32)>(), any::<u8>(), any::<u16>(), options);
    (ethernet, ip, transport, prop::collection::vec(any::<u8>(), 0..=payload)).prop_map(|(ethernet, ip, transport, payload)| {
        let (dst, src, tags) = ethernet;
        let (v6, hosts, traffic_class, ttl, id, ip_options) = ip;
        let (tcp, ports, (sequence, acknowledgment), flags, window, options) = transport;
        Spec {
            dst,
            src,
            tags,
            v6,
            tcp,
            hosts,
            ports,
            traffic_class,
            ttl,
            id,
            ip_options,
            sequence,
            acknowledgment,
            flags,
            window,
            options,
            payload,
        }
    })
}

/// `len` bytes that depend on `seed`.
pub(crate) fn noise(seed: u64, len: usize) -> Vec<u8> {
    let mut state = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1;
    let mut next = || {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        (state >> 32) as u8
    };
    std::iter::repeat_with(&mut next).take(len).collect()
}

/// The sum of RFC 1071 by its definition.
pub(crate) fn reference_sum(bytes: &[u8]) -> u16 {
    bytes.chunks(2).fold(0, |sum, pair| reference_add(sum, u16::from_be_bytes([pair[0], pair.get(1).copied().unwrap_or(0)])))
}

pub(crate) fn reference_add(a: u16, b: u16) -> u16 {
    let sum = u32::from(a) + u32::from(b);
    (sum + (sum >> 16)) as u16
}

/// Parsed and judged, as the pipeline does it.
pub(crate) fn judged(vnet: VnetHeader, frame: &[u8]) -> (Headers, Offload) {
    let headers = Headers::parse(frame).unwrap();
    match Offload::judge(vnet, &headers, frame.len()) {
        Ok(Judged::Accept(offload)) => (headers, offload),
        other => panic!("{vnet:?} was {other:?}"),
    }
}

/// What one write of a virtio-net header and a frame becomes on the wire: plain frames.
pub(crate) fn on_the_wire(write: &[u8]) -> Vec<Vec<u8>> {
    let (vnet, frame) = write.split_at(VNET_LEN);
    let (headers, offload) = judged(VnetHeader::from_bytes(vnet.try_into().unwrap()), frame);
    let mut head = Head::default();
    if let Some(segmentation) = offload.segmentation {
        let mut segments = Segments::new(frame, &headers, segmentation, TagAction::Keep, &mut head).unwrap();
        let next = || segments.next(&mut head).map(|payload| [&head.as_bytes()[VNET_LEN..], payload].concat());
        return std::iter::from_fn(next).collect();
    }
    if offload.checksum == Checksum::Partial {
        assert!(segment::complete(frame, &headers, TagAction::Keep, &mut head));
        return vec![[&head.as_bytes()[VNET_LEN..], &frame[usize::from(headers.payload)..]].concat()];
    }
    vec![frame.to_vec()]
}
