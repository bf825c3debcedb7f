//! What a received datagram holds: inner frames, and what they still owe.
//!
//! From a wire come plain frames with complete checksums, one in each datagram; several datagrams may come
//! in one buffer. From a peer on the same machine, another network namespace behind a veth, comes what
//! its kernel never finished, as it counts on a tunnel device at the other end to be told. A UDP socket is
//! not told; but the bytes tell it:
//!
//! *An unfinished checksum.* The TCP or UDP checksum field holds the sum of the pseudo-header, exactly as
//! `CHECKSUM_PARTIAL` leaves it. Let `P` be that sum and `R` the sum of all else that is covered. Finishing
//! the checksum gives `-(P + R)`. If the field was complete all the same, `P + field + R = 0` with `field = P`;
//! then `-(P + R)` is `P` again, so what is finished is what was there. Only a damaged packet whose field
//! comes to be `P` is made whole, which of all damaged packets is one in 65536: as many as a checksum misses
//! anyway.
//!
//! *A TCP super-frame.* A device's `SKB_GSO_UDP_TUNNEL` frame reaches a socket as one datagram, as long as
//! the super-frame in it (`udp_unexpected_gso` in `include/linux/udp.h` does not expect it to be cut). Its
//! inner length is that of the datagram, more than the tunnel's MTU, and its checksum is unfinished. The
//! segment size is lost; it is that of full segments here.
//!
//! *A UDP super-frame.* The same, but its segment size is told, as if it were that of datagrams in a train
//! (`udp_cmsg_recv`). Told apart by the first inner packet: it is as long as the whole buffer, while a train's
//! would end with the first datagram.
//!
//! A sender that lies about any of this hurts nobody but the receivers of its own frames: what is claimed
//! here is judged by the pipeline as any virtio-net header is.
//!
//! *Cost.* A frame is parsed once, and its pseudo-header summed once; a train costs one parse more.

use packet::checksum;
use packet::ethernet::u16_at;
use packet::tcp::{self, TcpView};
use packet::{Checksum, Datagram, Headers, Network, Offload, Segmentation, SegmentationKind, Transport, VnetHeader};

use crate::framing::{Framing, FramingKind, Inner};
use crate::malformed::Malformed;

/// One inner frame, or packet.
#[derive(Clone, Copy, Debug)]
pub struct Arrival<'a> {
    /// The framing, with the network identifier from the tunnel header.
    pub framing: Framing,
    /// What the frame owes, to be judged.
    pub vnet: VnetHeader,
    /// What stands where in the frame.
    pub headers: Headers,
    /// The frame, without the padding behind a packet with an unfinished checksum, which must not be
    /// summed.
    pub frame: &'a [u8],
}

/// The frames of what one receive brought, in their order.
#[derive(Debug)]
pub struct Arrivals<'a> {
    kind: FramingKind,
    mtu: u32,
    /// Length of each datagram but the last; never 0.
    size: usize,
    /// Payload bytes of each segment, if all is one UDP super-frame.
    segment: Option<u16>,
    rest: Option<&'a [u8]>,
}

impl<'a> Arrivals<'a> {
    /// `mtu` is the longest packet that the tunnel carries uncut.
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

    fn open(&self, datagram: &'a [u8]) -> Result<Arrival<'a>, Malformed> {
        let Inner { framing, headers, frame } = self.kind.decode(datagram)?;
        if !is_unfinished(&headers, frame) {
            return Ok(Arrival { framing, vnet: VnetHeader::default(), headers, frame });
        }
        let offload = Offload { checksum: Checksum::Partial, segmentation: self.segmentation(&headers, frame) };
        Ok(Arrival { framing, vnet: offload.to_vnet(&headers, 0), headers, frame: &frame[..headers.end as usize] })
    }

    /// How a packet with an unfinished checksum is to be cut.
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

/// Does the checksum field hold the sum of the pseudo-header?
#[inline]
fn is_unfinished(headers: &Headers, frame: &[u8]) -> bool {
    let (Some(offset), Some(protocol)) = (headers.transport.checksum_offset(), headers.transport.protocol()) else {
        return false;
    };
    let l4 = usize::from(headers.l4);
    let len = headers.end as usize - l4;
    u16_at(frame, l4 + offset) == checksum::pseudo_header(headers.addresses(frame), protocol, len)
}

/// Is what looks like a train one datagram, with a UDP super-frame in it?
fn is_one_packet(payload: &[u8], kind: FramingKind) -> bool {
    let Ok(Inner { headers, frame, .. }) = kind.decode(payload) else { return false };
    headers.transport == Transport::Udp && headers.end as usize == frame.len() && is_unfinished(&headers, frame)
}
