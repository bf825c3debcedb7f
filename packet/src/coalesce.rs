//! Coalescing: consecutive frames of one flow become one super-frame (software GRO).
//!
//! A write to a TAP costs about a microsecond whatever its size, and the receiver's network stack runs
//! once per write. So neighbouring frames of a batch that continue one another leave as one: TCP by the
//! rules of the kernel's `tcp_gro_receive`, UDP datagrams of equal length by those of
//! `udp_gro_receive_segment`. The checksum is left partial.
//!
//! *Exact.* Segmented again by the rules of [`segment`](crate::segment), the super-frame yields the original
//! frames, byte for byte. Frames for which it would not are not merged: differences in other header fields
//! than those that segmentation changes, Ethernet padding, checksums that are wrong or use the unusual
//! one of two encodings of zero, PSH or FIN in the middle.
//!
//! *The one exception* is an IPv4 identification of 0 in all frames. Their sender leaves the field unset
//! (RFC 6864 section 4.1 allows that for packets that cannot be fragmented), so its value carries no
//! information: the frames are merged, and segmentation counts up from 0. The kernel's GRO merges such frames
//! where DF is set.
//!
//! Where a partial checksum completes to 0, [`segment`](crate::segment) writes 0 for TCP, and a kernel that
//! completes a single frame writes 0xffff, which is equivalent.
//!
//! *Order.* Only neighbours are merged: no frame overtakes another, unless the caller has put frames of one flow side by side before.
//! No frame waits for a later batch.

use crate::checksum::{self, Checksum};
use crate::ethernet::{put_u16, u16_at};
use crate::head::Head;
use crate::headers::{Headers, Network, Transport};
use crate::ipv4;
use crate::ipv6;
use crate::offload::{Features, Offload, Segmentation, SegmentationKind};
use crate::tcp::{self, TcpView, flag};
use crate::udp;
use crate::vlan::TagAction;

/// Maximum number of frames that become one super-frame: a full batch, and no more than the kernel segments.
pub const MAX_COALESCED: usize = 64;

const MAX_IP_LEN: usize = 65_535;

/// A run of frames that continue one another.
#[derive(Debug)]
pub struct Run<'a> {
    frame: &'a [u8],
    headers: &'a Headers,
    kind: SegmentationKind,
    checksum: Checksum,
    /// Payload bytes of the first frame, and of every other but the last.
    size: usize,
    /// Payload bytes of all frames.
    payload: usize,
    frames: usize,
    /// TCP flags of the last frame.
    flags: u8,
    unset_id: bool,
    verified: bool,
    closed: bool,
}

impl<'a> Run<'a> {
    /// A run of this one frame; `None` if the frame cannot be continued, or the port does not take
    /// super-frames of its kind.
    #[inline]
    #[must_use]
    pub fn start(frame: &'a [u8], headers: &'a Headers, offload: Offload, features: Features) -> Option<Run<'a>> {
        let kind = match (headers.network, headers.transport) {
            (Network::Ipv4, Transport::Tcp) => SegmentationKind::TcpV4,
            (Network::Ipv6, Transport::Tcp) => SegmentationKind::TcpV6,
            (Network::Ipv4, Transport::Udp) => SegmentationKind::UdpV4,
            (Network::Ipv6, Transport::Udp) => SegmentationKind::UdpV6,
            (Network::Other, _) | (_, Transport::Other) => return None,
        };
        if !features.segment(kind) || !features.checksum || !is_plain(frame, headers, offload) {
            return None;
        }
        let is_tcp = headers.transport == Transport::Tcp;
        let flags = tcp_flags(frame, headers);
        if is_tcp && !is_bulk(frame, headers, flags) {
            return None;
        }
        Some(Run {
            frame,
            headers,
            kind,
            checksum: offload.checksum,
            size: headers.payload_len(),
            payload: headers.payload_len(),
            frames: 1,
            flags,
            unset_id: false,
            verified: false,
            closed: is_tcp && flags & (flag::PSH | flag::FIN) != 0,
        })
    }

    /// How many frames the run holds.
    #[inline]
    #[must_use]
    pub fn frames(&self) -> usize {
        self.frames
    }

    /// Adds the frame if it continues the run; otherwise returns false and leaves the run as it is.
    #[inline]
    #[must_use]
    pub fn extend(&mut self, frame: &[u8], headers: &Headers, offload: Offload) -> bool {
        let len = headers.payload_len();
        if self.closed
            || !self.is_same_flow(frame, headers)
            || !is_plain(frame, headers, offload)
            || len > self.size
            || self.frames == MAX_COALESCED
            || usize::from(headers.payload - headers.l3) + self.payload + len > MAX_IP_LEN
        {
            return false;
        }
        let Some(unset_id) = self.is_next_id(frame, headers) else { return false };
        let is_tcp = headers.transport == Transport::Tcp;
        let flags = tcp_flags(frame, headers);
        if is_tcp && !(is_bulk(frame, headers, flags) && self.is_next_segment(frame, headers, flags)) {
            return false;
        }
        if !self.verified && !is_checksum_exact(self.frame, self.headers, self.checksum) {
            self.closed = true;
            return false;
        }
        self.verified = true;
        if !is_checksum_exact(frame, headers, offload.checksum) {
            return false;
        }
        self.frames += 1;
        self.payload += len;
        self.flags = flags;
        self.unset_id = unset_id;
        self.closed = len < self.size || is_tcp && flags & (flag::PSH | flag::FIN) != 0;
        true
    }

    /// Whether Ethernet headers, ports, addresses and everything else that segments share are equal. The cheapest and
    /// most selective comparisons come first.
    #[inline]
    fn is_same_flow(&self, frame: &[u8], headers: &Headers) -> bool {
        let (a, b) = (self.frame, frame);
        let (l3, l4) = (usize::from(headers.l3), usize::from(headers.l4));
        if (headers.l3, headers.l4, headers.payload) != (self.headers.l3, self.headers.l4, self.headers.payload)
            || headers.network != self.headers.network
            || headers.transport != self.headers.transport
            || a[l4..l4 + 4] != b[l4..l4 + 4]
            || a[..l3] != b[..l3]
        {
            return false;
        }
        let shared: &[(usize, usize)] = match headers.network {
            Network::Ipv4 => {
                &[(0, ipv4::field::TOTAL_LEN), (ipv4::field::FRAGMENT, ipv4::field::CHECKSUM), (ipv4::field::SRC, ipv4::IPV4_LEN)]
            }
            Network::Ipv6 => &[(0, ipv6::field::PAYLOAD_LEN), (ipv6::field::NEXT_HEADER, ipv6::IPV6_LEN)],
            Network::Other => return false,
        };
        shared.iter().all(|&(from, to)| a[l3 + from..l3 + to] == b[l3 + from..l3 + to])
    }

    /// Checks that the frame has the identification that segmentation would give it; `None` if it does not, and
    /// `Some(true)` if all frames leave it unset.
    #[inline]
    fn is_next_id(&self, frame: &[u8], headers: &Headers) -> Option<bool> {
        if headers.network != Network::Ipv4 {
            return Some(false);
        }
        let at = usize::from(headers.l3) + ipv4::field::ID;
        let (first, id) = (u16_at(self.frame, at), u16_at(frame, at));
        if (self.frames == 1 || self.unset_id) && first == 0 && id == 0 {
            return Some(true);
        }
        (!self.unset_id && id == first.wrapping_add(self.frames as u16)).then_some(false)
    }

    /// Whether a TCP segment has the next bytes of the stream and the same acknowledgment, window and options.
    #[inline]
    fn is_next_segment(&self, frame: &[u8], headers: &Headers, flags: u8) -> bool {
        let (l4, payload) = (usize::from(headers.l4), usize::from(headers.payload));
        let (a, b) = (&self.frame[l4..payload], &frame[l4..payload]);
        let sequence = |header| TcpView::new(header).map(TcpView::sequence);
        let (Some(first), Some(this)) = (sequence(a), sequence(b)) else { return false };
        let free = flag::PSH | flag::FIN;
        this == first.wrapping_add(self.payload as u32)
            && a[tcp::field::ACKNOWLEDGMENT..tcp::field::FLAGS] == b[tcp::field::ACKNOWLEDGMENT..tcp::field::FLAGS]
            && self.flags & !free == flags & !free
            && a[tcp::field::WINDOW..tcp::field::CHECKSUM] == b[tcp::field::WINDOW..tcp::field::CHECKSUM]
            && a[tcp::TCP_LEN..] == b[tcp::TCP_LEN..]
    }

    /// Writes the super-frame's headers into `head`; its payload is that of all frames, in order. Returns false if
    /// the headers do not fit, which cannot happen for headers that [`Run::start`] accepted.
    #[must_use]
    pub fn write_head(&self, action: TagAction, head: &mut Head) -> bool {
        if !head.copy(self.frame, usize::from(self.headers.payload), action) {
            return false;
        }
        let id = match self.headers.network {
            Network::Ipv4 => u16_at(self.frame, usize::from(self.headers.l3) + ipv4::field::ID),
            _ => 0,
        };
        let l4_len = head.set_ip(self.headers, self.payload, id);
        let protocol = self.headers.transport.protocol().unwrap_or(0);
        let pseudo = checksum::pseudo_header(self.headers.addresses(self.frame), protocol, l4_len);
        let transport = head.headers_from(self.headers.l4);
        if self.headers.transport == Transport::Tcp {
            transport[tcp::field::FLAGS] = self.flags;
            put_u16(transport, tcp::field::CHECKSUM, pseudo);
        } else {
            put_u16(transport, udp::field::LENGTH, l4_len as u16);
            put_u16(transport, udp::field::CHECKSUM, pseudo);
        }
        let offload = Offload {
            checksum: Checksum::Partial,
            segmentation: Some(Segmentation { kind: self.kind, ecn: false, size: self.size as u16 }),
        };
        let vnet = offload.to_vnet(self.headers, head.growth());
        head.set_vnet(vnet);
        true
    }
}

/// Whether segmentation could have made this frame: it is no super-frame itself, has no IP options or extension
/// headers and no padding, but some payload.
#[inline]
fn is_plain(frame: &[u8], headers: &Headers, offload: Offload) -> bool {
    let ip_len = match headers.network {
        Network::Ipv4 => ipv4::IPV4_LEN,
        Network::Ipv6 => ipv6::IPV6_LEN,
        Network::Other => return false,
    };
    offload.segmentation.is_none()
        && headers.end as usize == frame.len()
        && usize::from(headers.l4 - headers.l3) == ip_len
        && headers.payload_len() > 0
}

/// The TCP flags; 0 for UDP.
#[inline]
fn tcp_flags(frame: &[u8], headers: &Headers) -> u8 {
    match headers.transport {
        Transport::Tcp => frame[usize::from(headers.l4) + tcp::field::FLAGS],
        Transport::Udp | Transport::Other => 0,
    }
}

/// Whether this is TCP in the middle of a transfer: ACK, and no flags beyond those that the last segment may have.
/// Every segment may have ECE; CWR is excluded, because segmentation keeps it on the first segment only.
#[inline]
fn is_bulk(frame: &[u8], headers: &Headers, flags: u8) -> bool {
    const ECE: u8 = 0x40;
    let urgent = usize::from(headers.l4) + tcp::field::URGENT;
    flags & flag::ACK != 0 && flags & !(flag::ACK | flag::PSH | flag::FIN | ECE) == 0 && u16_at(frame, urgent) == 0
}

/// Whether segmentation would write the same checksums. The IPv4 checksum must be correct. A partial transport checksum
/// must be the sum of the pseudo-header. A complete one must be correct, with 0 in the encoding of its protocol. A frame
/// without a UDP checksum is excluded, because segmentation writes one.
#[inline]
fn is_checksum_exact(frame: &[u8], headers: &Headers, checksum: Checksum) -> bool {
    if headers.network == Network::Ipv4 {
        // An IPv4 header is never all zero, so 0xffff is never a computed checksum.
        let ip = &frame[usize::from(headers.l3)..usize::from(headers.l4)];
        if u16_at(ip, ipv4::field::CHECKSUM) == 0xffff || checksum::sum(ip) != 0xffff {
            return false;
        }
    }
    let Some(offset) = headers.transport.checksum_offset() else { return false };
    let (l4, end) = (usize::from(headers.l4), headers.end as usize);
    let check = u16_at(frame, l4 + offset);
    let protocol = headers.transport.protocol().unwrap_or(0);
    let pseudo = checksum::pseudo_header(headers.addresses(frame), protocol, end - l4);
    if checksum == Checksum::Partial {
        return check == pseudo;
    }
    let unusual = if headers.transport == Transport::Udp { 0 } else { 0xffff };
    check != unusual && checksum::add(pseudo, checksum::sum(&frame[l4..end])) == 0xffff
}
