//! Decapsulation: the inner frames of a received datagram, and their offload state.
//!
//! Datagrams from a network carry plain frames with complete checksums, one frame each; several datagrams may be received
//! in one buffer. A peer on the same machine, in another network namespace behind a veth, sends frames that its kernel has
//! not finished, because it expects a tunnel device at the other end, which would get the offload state with the packet. A
//! UDP socket does not get it, but it can be derived from the bytes:
//!
//! *Partial checksum.* The TCP or UDP checksum field contains the sum of the pseudo-header, as `CHECKSUM_PARTIAL` leaves it.
//! Let `P` be that sum and `R` the sum of all other covered bytes. Finishing the checksum gives `-(P + R)`. If the field was
//! complete although it equals `P`, then `P + P + R = 0`, so `-(P + R)` is `P` again and finishing changes nothing. Only a
//! damaged packet whose field happens to equal `P` gets a valid checksum: one damaged packet in 65,536, as many as a
//! checksum fails to detect anyway.
//!
//! *TCP super-frame.* A frame with `SKB_GSO_UDP_TUNNEL` reaches the socket as one datagram that contains the whole
//! super-frame (`udp_unexpected_gso` in `include/linux/udp.h` does not have it segmented). The inner packet fills the
//! datagram, is longer than the tunnel's MTU, and has a partial checksum. The segment size is lost; full segments are
//! assumed.
//!
//! *UDP super-frame.* The same, except that the kernel reports the inner segment size as if it were the length of the
//! datagrams of a train (`udp_cmsg_recv`). The inner packet shows which it is: in a super-frame it is as long as the whole
//! buffer, in a train it ends with the first datagram.
//!
//! A sender that forges this state harms only the receivers of its own frames: the pipeline checks the state like any
//! virtio-net header.
//!
//! *Cost.* Each frame is parsed once and its pseudo-header is summed once; a train takes one further parse.

use packet::checksum;
use packet::ethernet::u16_at;
use packet::tcp::{self, TcpView};
use packet::{Checksum, Datagram, Headers, Network, Offload, Segmentation, SegmentationKind, Transport, VnetHeader};

use crate::framing::{Framing, FramingKind, Inner};
use crate::malformed::Malformed;

/// One inner frame or packet.
#[derive(Clone, Copy, Debug)]
pub struct Arrival<'a> {
    /// The framing, with the network identifier from the tunnel header.
    pub framing: Framing,
    /// The frame's offload state, not yet checked.
    pub vnet: VnetHeader,
    /// The parsed headers of the frame.
    pub headers: Headers,
    /// The frame. If the checksum is partial, without the padding after the packet, which the checksum does not cover.
    pub frame: &'a [u8],
}

/// Iterator over the inner frames of one received message, in order.
#[derive(Debug)]
pub struct Arrivals<'a> {
    kind: FramingKind,
    mtu: u32,
    /// Length of each datagram except the last, in bytes; never 0.
    size: usize,
    /// Segment size in bytes, if the message is one UDP super-frame.
    segment: Option<u16>,
    rest: Option<&'a [u8]>,
}

impl<'a> Arrivals<'a> {
    /// The frames of a message. `mtu` is the MTU of the tunnel, in bytes.
    #[inline]
    #[must_use]
    pub fn new(datagram: Datagram<'a>, kind: FramingKind, mtu: u32) -> Arrivals<'a> {
        let Datagram { payload, segment_size, .. } = datagram;
        let whole = payload.len().max(1);
        let (size, segment) = match usize::from(segment_size) {
            0 => (whole, None),
            size if size >= payload.len() => (whole, None),
            _ if is_one_packet(payload, kind) => (whole, Some(segment_size)),
            size => (size, None),
        };
        Arrivals { kind, mtu, size, segment, rest: Some(payload) }
    }

    /// Leaves out the next `datagrams` of the message.
    #[cold]
    pub fn pass(&mut self, datagrams: usize) {
        self.rest = self.rest.and_then(|rest| rest.get(datagrams.saturating_mul(self.size)..)).filter(|rest| !rest.is_empty());
    }

    fn open(&self, datagram: &'a [u8]) -> Result<Arrival<'a>, Malformed> {
        let Inner { framing, headers, frame } = self.kind.decode(datagram)?;
        if !is_unfinished(&headers, frame) {
            return Ok(Arrival { framing, vnet: VnetHeader::default(), headers, frame });
        }
        let offload = Offload { checksum: Checksum::Partial, segmentation: self.segmentation(&headers, frame) };
        Ok(Arrival { framing, vnet: offload.to_vnet(&headers, 0), headers, frame: &frame[..headers.end as usize] })
    }

    /// The segmentation of a packet with a partial checksum, if it is a super-frame.
    fn segmentation(&self, headers: &Headers, frame: &[u8]) -> Option<Segmentation> {
        let Headers { l3, l4, payload, end, .. } = *headers;
        if end as usize != frame.len() {
            return None;
        }
        match (headers.transport, self.segment) {
            (Transport::Tcp, None) if end - u32::from(l3) > self.mtu => {
                let size = self.mtu.checked_sub(u32::from(payload - l3)).filter(|size| *size > 0)?;
                let flags = TcpView::new(&frame[usize::from(l4)..]).map_or(0, TcpView::flags);
                let kind = if headers.network == Network::Ipv4 { SegmentationKind::TcpV4 } else { SegmentationKind::TcpV6 };
                Some(Segmentation { kind, ecn: flags & tcp::flag::CWR != 0, size: size as u16 })
            }
            (Transport::Udp, Some(size)) => {
                let kind = if headers.network == Network::Ipv4 { SegmentationKind::UdpV4 } else { SegmentationKind::UdpV6 };
                Some(Segmentation { kind, ecn: false, size })
            }
            _ => None,
        }
    }
}

impl<'a> Iterator for Arrivals<'a> {
    type Item = Result<Arrival<'a>, Malformed>;

    #[inline]
    fn next(&mut self) -> Option<Self::Item> {
        let rest = self.rest?;
        let (datagram, behind) = rest.split_at(self.size.min(rest.len()));
        self.rest = (!behind.is_empty()).then_some(behind);
        Some(self.open(datagram))
    }
}

/// True if the checksum is partial: the field contains the sum of the pseudo-header.
#[inline]
fn is_unfinished(headers: &Headers, frame: &[u8]) -> bool {
    let (Some(offset), Some(protocol)) = (headers.transport.checksum_offset(), headers.transport.protocol()) else {
        return false;
    };
    let l4 = usize::from(headers.l4);
    let len = headers.end as usize - l4;
    u16_at(frame, l4 + offset) == checksum::pseudo_header(headers.addresses(frame), protocol, len)
}

/// True if what looks like a train is one datagram that contains a UDP super-frame.
fn is_one_packet(payload: &[u8], kind: FramingKind) -> bool {
    let Ok(Inner { headers, frame, .. }) = kind.decode(payload) else { return false };
    headers.transport == Transport::Udp && headers.end as usize == frame.len() && is_unfinished(&headers, frame)
}
