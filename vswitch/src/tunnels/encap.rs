//! Encapsulation: a queue's frames become datagrams, packed into trains.
//!
//! A peer accepts only plain frames with complete checksums. So super-frames are segmented here, into new headers and
//! slices of the arena, and checksums completed. The kernel adds UDP and IP.

use packet::fragment::Fragments;
use packet::head::Head;
use packet::segment::{self, Segments};
use packet::vlan::TagAction;
use packet::{Batch, Checksum, Headers, Network, VNET_LEN};
use tunnel::{OuterHeader, Trains, ecn, entropy};

use crate::drop_reason::DropReason;
use crate::egress::{Frame, Queue, Queued};
use crate::port::{Encapsulation, PortId};

/// A report of [`encapsulate`].
pub(crate) enum Encapsulated<'a> {
    /// The trains are full and must be sent.
    Full(&'a Trains),
    /// A frame of the queue is in datagrams with this outer header, or could not be put into any.
    Frame(Queued, OuterHeader, Result<(), DropReason>),
}

/// Puts a queue's frames into trains.
#[inline]
pub(crate) fn encapsulate(
    mut queue: Queue<'_>,
    batch: &Batch,
    id: PortId,
    encapsulation: &Encapsulation,
    mut tell: impl FnMut(Encapsulated<'_>),
) {
    let Queue { frames, queued, head, trains, .. } = &mut queue;
    let header = encapsulation.framing.encode();
    let header = header.as_bytes();
    for waiting in queued.iter() {
        let frame = &frames[usize::from(waiting.frame)];
        let outer = outer(id, encapsulation, &frame.headers, batch.frame(frame.span));
        let mut send = |trains: &Trains| tell(Encapsulated::Full(trains));
        let mut packing = Packing { trains, send: &mut send, batch, outer, header, frame };
        let result = packing.add(waiting.action, head);
        tell(Encapsulated::Frame(*waiting, outer, result));
    }
}

/// The outer header of a frame.
#[inline]
fn outer(id: PortId, encapsulation: &Encapsulation, headers: &Headers, frame: &[u8]) -> OuterHeader {
    let inner = Inner::of(headers, frame);
    let tos = encapsulation.tos.unwrap_or(inner.tos);
    OuterHeader {
        port: id.0,
        source: entropy::source_port(headers, frame),
        tos: ecn::encapsulate(tos, inner.tos),
        ttl: encapsulation.ttl.unwrap_or(inner.ttl).max(1),
        dont_fragment: encapsulation.dont_fragment.unwrap_or(inner.dont_fragment),
    }
}

/// The fields of a packet's header that the outer header can inherit.
struct Inner {
    tos: u8,
    ttl: u8,
    dont_fragment: bool,
}

impl Inner {
    /// The values for frames that are not IP: no class, the default TTL, and no fragmentation.
    const OTHER: Inner = Inner { tos: 0, ttl: 64, dont_fragment: true };

    #[inline]
    fn of(headers: &Headers, frame: &[u8]) -> Inner {
        let packet = &frame[usize::from(headers.l3)..];
        match headers.network {
            Network::Ipv4 => headers.ipv4(frame).map_or(Inner::OTHER, |ip| Inner {
                tos: ip.tos(),
                ttl: ip.ttl(),
                dont_fragment: ip.dont_fragment(),
            }),
            Network::Ipv6 => packet::ipv6::Ipv6View::new(packet).map_or(Inner::OTHER, |ip| Inner {
                tos: ip.traffic_class(),
                ttl: ip.hop_limit(),
                dont_fragment: true,
            }),
            Network::Other => Inner::OTHER,
        }
    }
}

/// One frame on its way into the trains.
struct Packing<'a, F: FnMut(&Trains)> {
    trains: &'a mut Trains,
    send: &'a mut F,
    batch: &'a Batch,
    outer: OuterHeader,
    header: &'a [u8],
    frame: &'a Frame,
}

impl<F: FnMut(&Trains)> Packing<'_, F> {
    /// Adds the frame as its datagrams.
    #[inline]
    fn add(&mut self, action: TagAction, head: &mut Head) -> Result<(), DropReason> {
        let Frame { span, headers, offload, cut_to, .. } = self.frame;
        let bytes = self.batch.frame(*span);
        let start = span.range().start;
        if let Some(mtu) = cut_to {
            return self.add_fragments(bytes, *mtu, action, head);
        }
        if offload.segmentation.is_some() {
            return self.add_segments(bytes, action, head);
        }
        if offload.checksum == Checksum::Partial {
            if !segment::complete(bytes, headers, action, head) {
                return Err(DropReason::BadVnetHeader);
            }
            return self.add_datagram(&head.as_bytes()[VNET_LEN..], start + usize::from(headers.payload)..span.range().end, true);
        }
        if action == TagAction::Keep {
            return self.add_datagram(&[], span.range(), true);
        }
        if !head.copy(bytes, usize::from(headers.l3), action) {
            return Err(DropReason::TruncatedTag);
        }
        self.add_datagram(&head.as_bytes()[VNET_LEN..], start + usize::from(headers.l3)..span.range().end, true)
    }

    fn add_segments(&mut self, bytes: &[u8], action: TagAction, head: &mut Head) -> Result<(), DropReason> {
        let Frame { span, headers, offload, .. } = self.frame;
        let segments = offload.segmentation.and_then(|how| Segments::new(bytes, headers, how, action, head));
        let mut segments = segments.ok_or(DropReason::BadVnetHeader)?;
        let mut at = span.range().start + usize::from(headers.payload);
        let end = span.range().start + headers.end as usize;
        while let Some(payload) = segments.next(head) {
            let body = at..at + payload.len();
            at = body.end;
            self.add_datagram(&head.as_bytes()[VNET_LEN..], body, at == end)?;
        }
        Ok(())
    }

    #[cold]
    fn add_fragments(&mut self, bytes: &[u8], mtu: u16, action: TagAction, head: &mut Head) -> Result<(), DropReason> {
        let Frame { span, headers, .. } = self.frame;
        let fragments = Fragments::new(bytes, headers, usize::from(mtu), action, head);
        let mut fragments = fragments.ok_or(DropReason::TooLong)?;
        let end = span.range().start + headers.end as usize;
        let mut at = end - fragments.payload_len();
        while let Some(payload) = fragments.next(head) {
            let body = at..at + payload.len();
            at = body.end;
            self.add_datagram(&head.as_bytes()[VNET_LEN..], body, at == end)?;
        }
        Ok(())
    }

    /// Adds one datagram. If there is no room, the trains are sent first.
    #[inline]
    fn add_datagram(&mut self, front: &[u8], body: std::ops::Range<usize>, is_last: bool) -> Result<(), DropReason> {
        let ends = is_last.then(|| self.frame.span.len());
        let arena = self.batch.arena();
        if self.trains.add(self.outer, [self.header, front], arena, body.clone(), ends) {
            return Ok(());
        }
        (self.send)(self.trains);
        self.trains.clear();
        let added = self.trains.add(self.outer, [self.header, front], arena, body, ends);
        if added { Ok(()) } else { Err(DropReason::TooLong) }
    }
}
