//! Offload metadata: what is left to complete in a frame, and what a port can complete.
//!
//! A sender's kernel hands down super-frames of up to 64 KiB that stand for many segments and whose
//! checksum is only the sum of the pseudo-header. Such a frame crosses the switch unchanged if the
//! egress port accepts it.

use crate::checksum::Checksum;
use crate::headers::{Headers, Network, Transport};
use crate::vnet::{VnetHeader, flag, gso};

/// Maximum number of datagrams in a UDP super-frame (`UDP_MAX_SEGMENTS` in the kernel).
pub const MAX_UDP_SEGMENTS: usize = 128;

/// Maximum number of segments in a TCP super-frame, so that a guest cannot turn one read into 60,000
/// writes. 64 KiB in 256 segments are 256 bytes each, half the smallest segment that IPv4 hosts must
/// accept (RFC 879).
pub const MAX_TCP_SEGMENTS: usize = 256;

/// Maximum length of all headers of a super-frame, in bytes: Ethernet with two VLAN tags, IPv6 with the
/// longest extension headers that are walked, TCP with options.
pub const MAX_HEADERS_LEN: usize = 22 + 40 + 256 + 60;

/// What the segments of a super-frame are.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum SegmentationKind {
    /// TCP over IPv4 (TSO4).
    TcpV4,
    /// TCP over IPv6 (TSO6).
    TcpV6,
    /// UDP over IPv4 (USO4).
    UdpV4,
    /// UDP over IPv6 (USO6).
    UdpV6,
}

/// How a super-frame is segmented.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Segmentation {
    /// What the segments are.
    pub kind: SegmentationKind,
    /// The first TCP segment has CWR set (RFC 3168), and only that one may keep it.
    pub ecn: bool,
    /// Payload bytes of each segment but the last; never 0.
    pub size: u16,
}

/// What is left to complete in a frame.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Offload {
    /// The transport checksum.
    pub checksum: Checksum,
    /// `Some` for a super-frame; its checksum is then [`Checksum::Partial`].
    pub segmentation: Option<Segmentation>,
}

/// The verdict on a virtio-net header.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Judged {
    /// It agrees with the frame.
    Accept(Offload),
    /// It requests a checksum over bytes behind the Ethernet header that were not parsed (an inner packet, an
    /// unusual protocol): complete it with [`finish_checksum`], and discard the header.
    Finish {
        /// Where the coverage begins.
        start: usize,
        /// Where the two bytes of the checksum are.
        at: usize,
    },
}

/// The header contradicts the frame or itself, or has a type that was not negotiated.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct BadVnetHeader;

impl Offload {
    /// Checks an untrusted virtio-net header against the frame behind it. At least as strict as the
    /// kernel's `virtio_net_hdr_to_skb`.
    #[inline]
    pub fn judge(vnet: VnetHeader, headers: &Headers, frame_len: usize) -> Result<Judged, BadVnetHeader> {
        let checksum = if vnet.flags & flag::NEEDS_CSUM != 0 {
            let start = usize::from(vnet.csum_start);
            let at = start + usize::from(vnet.csum_offset);
            // Bytes before the network header are used for classification and must not change.
            if start < usize::from(headers.l3) || at + 2 > frame_len {
                return Err(BadVnetHeader);
            }
            let own = headers.transport.checksum_offset();
            if start != usize::from(headers.l4) || Some(usize::from(vnet.csum_offset)) != own {
                return if vnet.gso_type == gso::NONE { Ok(Judged::Finish { start, at }) } else { Err(BadVnetHeader) };
            }
            Checksum::Partial
        } else if vnet.flags & flag::DATA_VALID != 0 {
            Checksum::Verified
        } else {
            Checksum::Complete
        };
        let segmentation = match vnet.gso_type {
            gso::NONE => None,
            _ => judge_segmentation(vnet, checksum, headers, frame_len)?,
        };
        Ok(Judged::Accept(Offload { checksum, segmentation }))
    }

    /// The virtio-net header for a frame in this state, to which `growth` bytes of VLAN tags are added at the egress port.
    #[inline]
    #[must_use]
    pub fn to_vnet(self, headers: &Headers, growth: isize) -> VnetHeader {
        let mut vnet = VnetHeader::default();
        match (self.checksum, headers.transport.checksum_offset()) {
            (Checksum::Partial, Some(offset)) => {
                vnet.flags = flag::NEEDS_CSUM;
                vnet.csum_start = headers.l4.wrapping_add_signed(growth as i16);
                vnet.csum_offset = offset as u16;
            }
            (Checksum::Verified, _) => vnet.flags = flag::DATA_VALID,
            _ => {}
        }
        if let Some(segmentation) = self.segmentation {
            vnet.gso_type = match segmentation.kind {
                SegmentationKind::TcpV4 => gso::TCPV4,
                SegmentationKind::TcpV6 => gso::TCPV6,
                SegmentationKind::UdpV4 | SegmentationKind::UdpV6 => gso::UDP_L4,
            };
            if segmentation.ecn {
                vnet.gso_type |= gso::ECN;
            }
            vnet.gso_size = segmentation.size;
            vnet.hdr_len = headers.payload.wrapping_add_signed(growth as i16);
        }
        vnet
    }
}

#[inline]
fn judge_segmentation(
    vnet: VnetHeader,
    checksum: Checksum,
    headers: &Headers,
    frame_len: usize,
) -> Result<Option<Segmentation>, BadVnetHeader> {
    let ecn = vnet.gso_type & gso::ECN != 0;
    let (kind, most) = match (vnet.gso_type & !gso::ECN, headers.network, headers.transport) {
        (gso::TCPV4, Network::Ipv4, Transport::Tcp) => (SegmentationKind::TcpV4, MAX_TCP_SEGMENTS),
        (gso::TCPV6, Network::Ipv6, Transport::Tcp) => (SegmentationKind::TcpV6, MAX_TCP_SEGMENTS),
        (gso::UDP_L4, Network::Ipv4, Transport::Udp) if !ecn => (SegmentationKind::UdpV4, MAX_UDP_SEGMENTS),
        (gso::UDP_L4, Network::Ipv6, Transport::Udp) if !ecn => (SegmentationKind::UdpV6, MAX_UDP_SEGMENTS),
        _ => return Err(BadVnetHeader),
    };
    let payload = headers.payload_len();
    let size = usize::from(vnet.gso_size);
    // Bytes behind the packet would become segments of their own.
    let whole = headers.end as usize == frame_len;
    if checksum != Checksum::Partial
        || size == 0
        || !whole
        || usize::from(headers.payload) > MAX_HEADERS_LEN
        || payload.div_ceil(size) > most
    {
        return Err(BadVnetHeader);
    }
    Ok((payload > size).then_some(Segmentation { kind, ecn, size: vnet.gso_size }))
}

/// Completes a checksum: adds the bytes from `start` to the frame's end to the two bytes at `at`, which hold the sum of
/// the pseudo-header. Like the kernel's `skb_checksum_help`, it writes a result of 0 as 0xffff.
pub fn finish_checksum(frame: &mut [u8], start: usize, at: usize) {
    let check = match !crate::checksum::sum(&frame[start..]) {
        0 => 0xffff,
        check => check,
    };
    crate::ethernet::put_u16(frame, at, check);
}

/// The offloads that a port accepts. Refusals of the kernel at the start are recorded here.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Features {
    /// Partial checksums.
    pub checksum: bool,
    /// TCP super-frames over IPv4.
    pub tso4: bool,
    /// TCP super-frames over IPv6.
    pub tso6: bool,
    /// TCP super-frames whose first segment has CWR set.
    pub tso_ecn: bool,
    /// UDP super-frames, over IPv4 and IPv6.
    pub uso: bool,
}

impl Features {
    /// All offloads.
    pub const ALL: Features = Features { checksum: true, tso4: true, tso6: true, tso_ecn: true, uso: true };

    /// No offloads: plain frames with complete checksums.
    pub const NONE: Features = Features { checksum: false, tso4: false, tso6: false, tso_ecn: false, uso: false };

    /// Whether a frame in this state can be handed over unchanged.
    #[inline]
    #[must_use]
    pub fn take(self, offload: Offload) -> bool {
        (self.checksum || offload.checksum != Checksum::Partial)
            && offload
                .segmentation
                .is_none_or(|segmentation| self.segment(segmentation.kind) && (self.tso_ecn || !segmentation.ecn))
    }

    /// Whether super-frames of this kind are accepted.
    #[inline]
    #[must_use]
    pub fn segment(self, kind: SegmentationKind) -> bool {
        match kind {
            SegmentationKind::TcpV4 => self.tso4,
            SegmentationKind::TcpV6 => self.tso6,
            SegmentationKind::UdpV4 | SegmentationKind::UdpV6 => self.uso,
        }
    }

    /// These features without segmentation, for a kernel that refused valid super-frames.
    #[must_use]
    pub fn without_segmentation(self) -> Features {
        Features { checksum: self.checksum, ..Features::NONE }
    }
}
