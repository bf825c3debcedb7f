//! Writing of queues: each frame in the form that its egress port accepts.
//!
//! ```text
//!  rearrange    frames of one flow are put side by side
//!  coalesce     neighbouring frames of one flow leave as one super-frame
//!  as it is     one write straight from the arena; several in one call if the port supports it
//!  segment      a super-frame for a port without that offload
//!  fragment     an IPv4 packet that is longer than the path MTU
//!  complete     a checksum that the port does not complete
//! ```
//!
//! Changed headers are written into one small buffer; payloads are slices of the arena.

use std::io::IoSlice;

use packet::batch::USUAL_FRAMES;
use packet::coalesce::{MAX_COALESCED, Run};
use packet::fragment::Fragments;
use packet::head::Head;
use packet::segment::{self, Segments};
use packet::vlan::TagAction;
use packet::{Batch, Features, Transport};
use tunnel::Trains;
use tunnel::entropy::flow_hash;

use crate::counters::Counter;
use crate::drop_reason::DropReason;
use crate::egress::{Egress, Frame, Queue, Queued, SendError, Transmit, Work, Written};
use crate::payload_sums::PayloadSums;
use crate::port::{Coalesce, Encapsulation, PortId};
use crate::tunnels::encap::{Encapsulated, encapsulate};
use crate::walk::Bridges;
use crate::watched::observer::Observer;

/// Number of super-frames that a port's kernel may refuse as invalid before the port is sent no more of them.
const MAX_REFUSALS: u32 = 16;

/// Writes out all queues of a batch. Trains leave once all ports had their turn. `refusals` counts refused super-frames
/// by port. Returns the work that it was.
pub(crate) fn transmit(
    bridges: &mut Bridges,
    refusals: &mut [u32],
    observer: &mut Observer,
    rx: &Batch,
    tx: &mut Egress,
    out: &mut impl Transmit,
) -> Work {
    let mut work = Work::default();
    while let Some((id, queue)) = tx.next() {
        let Some(counters) = bridges.counters.port(id) else { continue };
        let Some(port) = bridges.port(id) else {
            let frames = queue.len() as u64;
            counters.drop(DropReason::PortGone, frames);
            let result = Err(SendError::Drop(DropReason::PortGone));
            let written = Written { frames, bytes: 0, writes: 0, result, refused: false };
            observer.written(bridges, rx, id, queue.frames, queue.queued, &written);
            continue;
        };
        if let Some(encapsulation) = port.encapsulation() {
            work += write_datagrams(queue, id, encapsulation, bridges, observer, rx, out);
            continue;
        }
        let refusals = &mut refusals[id.index()];
        let mode = PortMode { id, features: port.features, coalesce: port.coalesce, bursts: port.bursts };
        let frames = queue.frames;
        let waiting = queue.len() as u64;
        let [writes, sent, bytes] = [&counters.tx_writes, &counters.tx_frames, &counters.tx_bytes].map(Counter::load);
        write_queue(queue, rx, mode, out, |written, members| {
            counters.tx_writes.add(written.writes);
            match written.result {
                Ok(()) => {
                    counters.tx_frames.add(written.frames);
                    counters.tx_bytes.add(written.bytes);
                }
                Err(error) => counters.drop(error.reason(), written.frames),
            }
            if written.refused {
                counters.offload_refused.add(1);
                *refusals += 1;
            }
            observer.written(bridges, rx, id, frames, members, &written);
        });
        // A frame that is refused has cost a write, too.
        let refused = waiting.saturating_sub(counters.tx_frames.load().wrapping_sub(sent));
        work.writes += counters.tx_writes.load().wrapping_sub(writes) + refused;
        work.bytes += counters.tx_bytes.load().wrapping_sub(bytes);
        if *refusals >= MAX_REFUSALS
            && let Some(port) = &mut bridges.ports[id.index()]
        {
            port.features = port.features.without_segmentation();
        }
    }
    if !tx.trains.is_empty() {
        work += send_trains(&tx.trains, tx.frames(), bridges, observer, rx, out);
        tx.trains.clear();
    }
    work
}

/// Puts the frames of a queue into datagrams for a tunnel's peer. Trains leave early if they are full. Returns the work of that.
fn write_datagrams(
    queue: Queue<'_>,
    id: PortId,
    encapsulation: &Encapsulation,
    bridges: &Bridges,
    observer: &mut Observer,
    rx: &Batch,
    out: &mut impl Transmit,
) -> Work {
    let frames = queue.frames;
    let mut work = Work::default();
    encapsulate(queue, rx, id, encapsulation, |report| match report {
        Encapsulated::Full(trains) => work += send_trains(trains, frames, bridges, observer, rx, out),
        Encapsulated::Frame(queued, outer, outcome) => {
            if let Err(reason) = outcome
                && let Some(counters) = bridges.counters.port(id)
            {
                counters.drop(reason, 1);
            }
            observer.encapsulated(bridges, rx, outer, encapsulation, (queued, &frames[usize::from(queued.frame)]), outcome);
        }
    });
    work
}

/// Sends trains, and counts their frames at the ports of the peers that they go to. Returns the work that it was.
fn send_trains(
    trains: &Trains,
    frames: &[Frame],
    bridges: &Bridges,
    observer: &mut Observer,
    rx: &Batch,
    out: &mut impl Transmit,
) -> Work {
    let mut work = Work::default();
    out.send_trains(trains, rx.arena(), |train, result| {
        // The kernel makes a packet of each datagram.
        work += Work { writes: train.datagrams.into(), bytes: train.frame_bytes };
        let Some(counters) = bridges.counters.port(PortId(train.outer.port)) else { return };
        match result {
            Ok(()) => {
                counters.tx_writes.add(1);
                counters.tx_frames.add(train.frames.into());
                counters.tx_bytes.add(train.frame_bytes);
            }
            Err(error) => counters.drop(error.reason(), train.frames.into()),
        }
        observer.train_sent(bridges, rx, frames, train, result);
    });
    work
}

/// The forms that a port accepts.
#[derive(Clone, Copy, Debug)]
struct PortMode {
    id: PortId,
    features: Features,
    coalesce: Coalesce,
    /// Frames that leave as they are may be written many in one call.
    bursts: bool,
}

/// Writes a queue out. `written` is called with the result of each frame or run of frames, and its members.
#[inline]
fn write_queue(
    mut queue: Queue<'_>,
    batch: &Batch,
    mode: PortMode,
    transmit: &mut impl Transmit,
    mut written: impl FnMut(Written, &[Queued]),
) {
    let PortMode { id, features, coalesce, bursts } = mode;
    let mut is_rearranged = coalesce != Coalesce::Flows;
    let mut at = 0;
    while at < queue.len() {
        if coalesce != Coalesce::Off {
            let count = write_coalesced(&mut queue, at, &mut is_rearranged, batch, mode, transmit, &mut written);
            at += count;
            if count > 0 {
                continue;
            }
        }
        if bursts {
            let count = write_burst(&queue, at, batch, mode, transmit, &mut written);
            at += count;
            if count > 0 {
                continue;
            }
        }
        let queued = &queue.queued[at];
        let frame = &queue.frames[usize::from(queued.frame)];
        let mut send = |pieces: &[IoSlice<'_>]| transmit.send(id, pieces);
        written(
            write_frame(frame, queued.action, batch, features, (queue.head, queue.sums), &mut send),
            std::slice::from_ref(queued),
        );
        at += 1;
    }
}

/// Writes the run of frames that begins at `at` as one super-frame. Where a run ends first before the queue does, the rest of the
/// queue is rearranged by flow. Returns the number of frames that were written; 0 if none continues the first one.
fn write_coalesced(
    queue: &mut Queue<'_>,
    at: usize,
    is_rearranged: &mut bool,
    batch: &Batch,
    mode: PortMode,
    transmit: &mut impl Transmit,
    written: &mut impl FnMut(Written, &[Queued]),
) -> usize {
    let PortMode { id, features, .. } = mode;
    let Queued { frame, action } = queue.queued[at];
    let frame = &queue.frames[usize::from(frame)];
    if frame.cut_to.is_some() {
        return 0;
    }
    let Some(mut run) = Run::start(batch.frame(frame.span), &frame.headers, frame.offload, features) else { return 0 };
    extend(&mut run, queue, at, batch);
    // With a further frame behind it, the one that ended the run may stand between two of its flow.
    if !*is_rearranged && queue.len() > at + run.frames() + 1 {
        *is_rearranged = true;
        let frames = queue.frames;
        queue.flows.bring_together(&mut queue.queued[at..], |queued| flow_of(&frames[usize::from(queued.frame)], batch));
        extend(&mut run, queue, at, batch);
    }
    if run.frames() == 1 || !run.write_head(action, queue.head) {
        return 0;
    }
    let members = &queue.queued[at..at + run.frames()];
    let mut send = |pieces: &[IoSlice<'_>]| transmit.send(id, pieces);
    let outcome = write_run(members, queue.frames, batch, queue.head, &mut send);
    if outcome.result != Err(SendError::Invalid) {
        written(outcome, members);
        return members.len();
    }
    // The kernel refuses the super-frame: its frames are written one by one.
    written(Written { frames: 0, bytes: 0, writes: 0, result: Ok(()), refused: true }, &[]);
    for queued in members {
        let frame = &queue.frames[usize::from(queued.frame)];
        written(write_frame(frame, action, batch, features, (queue.head, queue.sums), &mut send), std::slice::from_ref(queued));
    }
    members.len()
}

/// Adds to the run that begins at `at` the frames of the queue that continue it.
#[inline]
fn extend<'a>(run: &mut Run<'a>, queue: &Queue<'a>, at: usize, batch: &'a Batch) {
    let action = queue.queued[at].action;
    while let Some(next) = queue.queued.get(at + run.frames())
        && next.action == action
        && let next = &queue.frames[usize::from(next.frame)]
        && next.cut_to.is_none()
        && run.extend(batch.frame(next.span), &next.headers, next.offload)
    {}
}

/// The hash of the flow that a frame belongs to; `None` for frames that keep their place among those of all flows.
#[inline]
fn flow_of(frame: &Frame, batch: &Batch) -> Option<u16> {
    (frame.headers.transport != Transport::Other).then(|| flow_hash(&frame.headers, batch.frame(frame.span)))
}

/// Whether the frame can leave unchanged, in one call with others. Super-frames cannot, because a kernel may refuse one and
/// accept its segments.
#[inline]
fn is_whole(frame: &Frame, action: TagAction, features: Features) -> bool {
    action == TagAction::Keep && frame.cut_to.is_none() && frame.offload.segmentation.is_none() && features.take(frame.offload)
}

/// Writes the frames from `first` on that leave as they are, up to one that might be coalesced with its
/// neighbour, in one call. Returns their number; 0 if there is only one, which is then left to the caller.
fn write_burst(
    queue: &Queue<'_>,
    first: usize,
    batch: &Batch,
    mode: PortMode,
    transmit: &mut impl Transmit,
    written: &mut impl FnMut(Written, &[Queued]),
) -> usize {
    let PortMode { id, features, coalesce, .. } = mode;
    let mut pieces = [IoSlice::new(&[]); USUAL_FRAMES];
    let mut count = 0;
    for (piece, queued) in pieces.iter_mut().zip(&queue.queued[first..]) {
        let frame = &queue.frames[usize::from(queued.frame)];
        let begins_run = || {
            let next = queue.queued.get(first + count + 1).map(|next| &queue.frames[usize::from(next.frame)]);
            let run = Run::start(batch.frame(frame.span), &frame.headers, frame.offload, features);
            run.zip(next).is_some_and(|(mut run, next)| run.extend(batch.frame(next.span), &next.headers, next.offload))
        };
        // The first one was found not to begin a run.
        if !is_whole(frame, queued.action, features) || coalesce != Coalesce::Off && count > 0 && begins_run() {
            break;
        }
        *piece = IoSlice::new(&batch.arena()[frame.span.range_with_vnet()]);
        count += 1;
    }
    if count < 2 {
        return 0;
    }
    let mut members = queue.queued[first..first + count].iter();
    transmit.send_many(id, &pieces[..count], |result| {
        let member = members.as_slice().get(..1).unwrap_or_default();
        let bytes = members.next().map_or(0, |queued| queue.frames[usize::from(queued.frame)].span.len() as u64);
        written(Written { frames: 1, bytes, writes: u64::from(result.is_ok()), result, refused: false }, member);
    });
    count
}

/// Writes a run of frames as one super-frame, whose headers are in `head`.
#[inline]
fn write_run(
    members: &[Queued],
    frames: &[Frame],
    batch: &Batch,
    head: &Head,
    send: &mut impl FnMut(&[IoSlice<'_>]) -> Result<(), SendError>,
) -> Written {
    let mut pieces = [IoSlice::new(&[]); MAX_COALESCED + 1];
    pieces[0] = IoSlice::new(head.as_bytes());
    let mut bytes = 0;
    for (piece, queued) in pieces[1..].iter_mut().zip(members) {
        let Frame { span, headers, .. } = &frames[usize::from(queued.frame)];
        *piece = IoSlice::new(&batch.frame(*span)[usize::from(headers.payload)..]);
        bytes += span.len() as u64;
    }
    let result = send(&pieces[..=members.len()]);
    Written { frames: members.len() as u64, bytes, writes: u64::from(result.is_ok()), result, refused: false }
}

/// Writes one frame, as the port can take it.
#[inline]
fn write_frame(
    frame: &Frame,
    action: TagAction,
    batch: &Batch,
    features: Features,
    (head, sums): (&mut Head, &mut PayloadSums),
    send: &mut impl FnMut(&[IoSlice<'_>]) -> Result<(), SendError>,
) -> Written {
    let Frame { span, headers, offload, cut_to, .. } = frame;
    let outcome = |writes, result, refused| Written { frames: 1, bytes: span.len() as u64, writes, result, refused };
    if let Some(mtu) = cut_to {
        let (writes, result) = write_fragments(frame, *mtu, action, batch, head, send);
        return outcome(writes, result, false);
    }
    if features.take(*offload) {
        let result = write_whole(frame, action, batch, head, send);
        if result != Err(SendError::Invalid) || offload.segmentation.is_none() {
            return outcome(u64::from(result.is_ok()), result, false);
        }
        let (writes, result) = write_segments(frame, action, batch, (head, sums), send);
        return outcome(writes, result, true);
    }
    if offload.segmentation.is_some() {
        let (writes, result) = write_segments(frame, action, batch, (head, sums), send);
        return outcome(writes, result, false);
    }
    let bytes = batch.frame(*span);
    let result = if segment::complete(bytes, headers, action, head) {
        send(&[IoSlice::new(head.as_bytes()), IoSlice::new(&bytes[usize::from(headers.payload)..])])
    } else {
        Err(SendError::Drop(DropReason::BadVnetHeader))
    };
    outcome(u64::from(result.is_ok()), result, false)
}

/// Writes a frame with its offloads, at most its VLAN tag changed.
#[inline]
fn write_whole(
    frame: &Frame,
    action: TagAction,
    batch: &Batch,
    head: &mut Head,
    send: &mut impl FnMut(&[IoSlice<'_>]) -> Result<(), SendError>,
) -> Result<(), SendError> {
    let Frame { span, headers, offload, .. } = frame;
    if action == TagAction::Keep {
        // `Pipeline::process` has put the judged header before the frame.
        return send(&[IoSlice::new(&batch.arena()[span.range_with_vnet()])]);
    }
    let bytes = batch.frame(*span);
    let front = usize::from(headers.l3);
    if !head.copy(bytes, front, action) {
        return Err(SendError::Drop(DropReason::TruncatedTag));
    }
    head.set_vnet(offload.to_vnet(headers, head.growth()));
    send(&[IoSlice::new(head.as_bytes()), IoSlice::new(&bytes[front..])])
}

/// Writes a super-frame in segments. The first error ends it; TCP resends what is missing.
#[cold]
fn write_segments(
    frame: &Frame,
    action: TagAction,
    batch: &Batch,
    (head, sums): (&mut Head, &mut PayloadSums),
    send: &mut impl FnMut(&[IoSlice<'_>]) -> Result<(), SendError>,
) -> (u64, Result<(), SendError>) {
    let Some(segmentation) = frame.offload.segmentation else { return (0, Ok(())) };
    let bytes = batch.frame(frame.span);
    let Some(mut segments) = Segments::new(bytes, &frame.headers, segmentation, action, head) else {
        return (0, Err(SendError::Drop(DropReason::BadVnetHeader)));
    };
    let mut writes = 0;
    let mut sums = sums.of(frame.span.range().start, frame.segments() as usize);
    while let Some(payload) = segments.next_with(head, |payload| sums.next(|| packet::checksum::sum(payload))) {
        if let Err(error) = send(&[IoSlice::new(head.as_bytes()), IoSlice::new(payload)]) {
            return (writes, Err(error));
        }
        writes += 1;
    }
    (writes, Ok(()))
}

/// Writes a packet that is too long in fragments. The first error ends it, because the rest is useless without that
/// fragment.
#[cold]
fn write_fragments(
    frame: &Frame,
    mtu: u16,
    action: TagAction,
    batch: &Batch,
    head: &mut Head,
    send: &mut impl FnMut(&[IoSlice<'_>]) -> Result<(), SendError>,
) -> (u64, Result<(), SendError>) {
    let bytes = batch.frame(frame.span);
    let Some(mut fragments) = Fragments::new(bytes, &frame.headers, usize::from(mtu), action, head) else {
        return (0, Err(SendError::Drop(DropReason::TooLong)));
    };
    let mut writes = 0;
    while let Some(payload) = fragments.next(head) {
        if let Err(error) = send(&[IoSlice::new(head.as_bytes()), IoSlice::new(payload)]) {
            return (writes, Err(error));
        }
        writes += 1;
    }
    (writes, Ok(()))
}
