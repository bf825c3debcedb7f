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

/// Parses and judges the frame of the batch that is processed now.
#[inline(always)]
pub(crate) fn admit(walk: &mut Walk<'_>, frame: &mut Frame) -> Result<(), DropReason> {
    begin(walk, frame)?;
    judge_frame(walk, frame)
}

/// Parses the frame of the batch that is processed now. [`judge_frame`] is next.
#[inline(always)]
pub(crate) fn begin(walk: &Walk<'_>, frame: &mut Frame) -> Result<(), DropReason> {
    frame.begin(walk.rx.spans()[walk.at]);
    parse(frame, walk.rx)
}

/// Judges the frame that was parsed.
#[inline(always)]
pub(crate) fn judge_frame(walk: &mut Walk<'_>, frame: &mut Frame) -> Result<(), DropReason> {
    // Finishing a checksum may have overwritten a field that was parsed. Addresses and tags are not
    // among those, so that what was an Ethernet header is one still.
    judge(frame, walk.rx, |bytes, headers| Headers::parse(bytes).unwrap_or(headers))
}

/// Parses and judges an IP packet of the batch that has no Ethernet header.
#[inline(always)]
pub(crate) fn admit_packet(walk: &mut Walk<'_>, frame: &mut Frame) -> Result<(), DropReason> {
    begin_packet(walk, frame);
    judge_packet(walk, frame)
}

/// Parses an IP packet of the batch that has no Ethernet header. [`judge_packet`] is next.
#[inline(always)]
pub(crate) fn begin_packet(walk: &Walk<'_>, frame: &mut Frame) {
    frame.begin(walk.rx.spans()[walk.at]);
    frame.headers = Headers::of_packet(walk.rx.frame(frame.span));
}

/// Judges the packet that was parsed.
#[inline(always)]
pub(crate) fn judge_packet(walk: &mut Walk<'_>, frame: &mut Frame) -> Result<(), DropReason> {
    judge(frame, walk.rx, |bytes, _| Headers::of_packet(bytes))
}

/// Begins a frame out of a tunnel, whose headers were parsed when it was found in its datagram. [`arrive`] is next.
#[inline(always)]
pub(crate) fn begin_parsed(walk: &Walk<'_>, frame: &mut Frame, headers: &Headers) {
    frame.begin(walk.rx.spans()[walk.at]);
    frame.headers = *headers;
}

/// Judges that frame. `tos` is the datagram's type of service or traffic class.
#[inline(always)]
pub(crate) fn arrive(socket: &ReceivingSocket, walk: &mut Walk<'_>, frame: &mut Frame, tos: u8) -> Result<(), DropReason> {
    judge(frame, walk.rx, |_, headers| headers)?;
    let_in(socket, walk.rx, frame, tos)?;
    // The super-frame of a kernel on this machine, whose segment size is lost.
    frame.is_size_free = frame.headers.transport == Transport::Tcp && frame.offload.checksum == Checksum::Partial;
    Ok(())
}

/// The frame becomes what the router wrote into the batch: complete, with nothing left to offload. Counted as made.
pub(crate) fn made(walk: &mut Walk<'_>, frame: &mut Frame, span: Span) -> Result<(), DropReason> {
    frame.begin(span);
    parse(frame, walk.rx)?;
    walk.rx.set_vnet(span, Offload::default().to_vnet(&frame.headers, 0));
    walk.counters.made.add(1);
    Ok(())
}

/// Reads the headers of a frame.
#[inline(always)]
pub(crate) fn parse(frame: &mut Frame, rx: &Batch) -> Result<(), DropReason> {
    match frame.headers.read(rx.frame(frame.span)) {
        Ok(()) => Ok(()),
        Err(Malformed::Runt) => Err(DropReason::Runt),
        Err(Malformed::TruncatedTag) => Err(DropReason::TruncatedTag),
    }
}

/// Believes the virtio-net header or not, finishes a checksum that no port could, and writes the header that
/// may be passed on before the frame. `parse_again` parses a frame whose bytes were changed.
#[inline(always)]
fn judge(frame: &mut Frame, rx: &mut Batch, parse_again: fn(&[u8], Headers) -> Headers) -> Result<(), DropReason> {
    if rx.is_plain(frame.span) { Ok(()) } else { judge_offloads(frame, rx, parse_again) }
}

/// The same for a header that is not all zeros.
#[inline(never)]
fn judge_offloads(frame: &mut Frame, rx: &mut Batch, parse_again: fn(&[u8], Headers) -> Headers) -> Result<(), DropReason> {
    let span = frame.span;
    match Offload::judge(rx.vnet(span), &frame.headers, span.len()).map_err(|_| DropReason::BadVnetHeader)? {
        Judged::Accept(offload) => frame.offload = offload,
        Judged::Finish { start, at } => {
            finish_checksum(rx.frame_mut(span), start, at);
            frame.headers = parse_again(rx.frame(span), frame.headers);
            frame.is_unwatched = false;
        }
    }
    rx.set_vnet(span, frame.offload.to_vnet(&frame.headers, 0));
    Ok(())
}
