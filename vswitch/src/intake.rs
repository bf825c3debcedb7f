//! Intake: how bytes of the batch become a [`Frame`] with checked headers.
//!
//! ```text
//!  parse     Ethernet, VLAN tags, IP and transport headers: offsets inside the frame from here on
//!  judge     the virtio-net header is believed, finished in software, or a reason to drop
//!  arrive    from a tunnel also: outer ECN mark copied in, tunnels in tunnels dropped
//! ```

use packet::offload::{Judged, finish_checksum};
use packet::{Batch, Checksum, Headers, Malformed, Offload, Span, Transport};

use crate::drop_reason::DropReason;
use crate::egress::Frame;
use crate::tunnels::arrive::{ReceivingSocket, let_in};
use crate::walk::Walk;

/// Parses and judges a frame of the batch.
#[inline(always)]
pub(crate) fn admit(walk: &mut Walk<'_>, at: usize) -> Result<Frame, DropReason> {
    let span = walk.rx.spans()[at];
    let headers = parse(span, walk.rx)?;
    // Finishing a checksum may have overwritten a field that was parsed. Addresses and tags are not
    // among those, so that what was an Ethernet header is one still.
    let (headers, offload) = judge(span, headers, walk.rx, |frame| Headers::parse(frame).unwrap_or(headers))?;
    Ok(Frame::new(span, headers, offload))
}

/// Parses and judges an IP packet of the batch that has no Ethernet header.
#[inline]
pub(crate) fn admit_packet(walk: &mut Walk<'_>, at: usize) -> Result<Frame, DropReason> {
    let span = walk.rx.spans()[at];
    let headers = Headers::of_packet(walk.rx.frame(span));
    let (headers, offload) = judge(span, headers, walk.rx, Headers::of_packet)?;
    Ok(Frame::new(span, headers, offload))
}

/// Judges a frame out of a tunnel, whose headers were parsed when it was found in its datagram. `tos` is the
/// datagram's type of service or traffic class.
#[inline]
pub(crate) fn arrive(
    socket: &ReceivingSocket,
    walk: &mut Walk<'_>,
    at: usize,
    headers: Headers,
    tos: u8,
) -> Result<Frame, DropReason> {
    let span = walk.rx.spans()[at];
    let (headers, offload) = judge(span, headers, walk.rx, |_| headers)?;
    let mut frame = Frame::new(span, headers, offload);
    let_in(socket, walk.rx, &frame, tos)?;
    // The super-frame of a kernel on this machine, whose segment size is lost.
    frame.is_size_free = headers.transport == Transport::Tcp && offload.checksum == Checksum::Partial;
    Ok(frame)
}

/// A frame that the router wrote into the batch: complete, with nothing left to offload. Counted as made.
pub(crate) fn made(walk: &mut Walk<'_>, span: Span) -> Result<Frame, DropReason> {
    let headers = parse(span, walk.rx)?;
    walk.rx.set_vnet(span, Offload::default().to_vnet(&headers, 0));
    walk.counters.made.add(1);
    Ok(Frame::new(span, headers, Offload::default()))
}

#[inline(always)]
pub(crate) fn parse(span: Span, rx: &Batch) -> Result<Headers, DropReason> {
    Headers::parse(rx.frame(span)).map_err(|malformed| match malformed {
        Malformed::Runt => DropReason::Runt,
        Malformed::TruncatedTag => DropReason::TruncatedTag,
    })
}

/// Believes the virtio-net header or not, finishes a checksum that no port could, and writes the header that
/// may be passed on before the frame. `parse_again` parses a frame whose bytes were changed.
#[inline(always)]
fn judge(
    span: Span,
    headers: Headers,
    rx: &mut Batch,
    parse_again: impl FnOnce(&[u8]) -> Headers,
) -> Result<(Headers, Offload), DropReason> {
    if rx.is_plain(span) {
        return Ok((headers, Offload::default()));
    }
    let judged = Offload::judge(rx.vnet(span), &headers, span.len()).map_err(|_| DropReason::BadVnetHeader)?;
    let (headers, offload) = match judged {
        Judged::Accept(offload) => (headers, offload),
        Judged::Finish { start, at } => {
            finish_checksum(rx.frame_mut(span), start, at);
            (parse_again(rx.frame(span)), Offload::default())
        }
    };
    rx.set_vnet(span, offload.to_vnet(&headers, 0));
    Ok((headers, offload))
}
