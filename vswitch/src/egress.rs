//! What leaves: a batch's frames, queued by port until they are written.
//!
//! A queue holds which frame and what to do with its VLAN tag, not bytes; so a flood of one frame to
//! ten ports is ten small entries, and each port writes from the same arena. `write_queue` turns a
//! queue into writes that the port's far side can take: as they are, coalesced, segmented, or with
//! the checksum finished.

use std::io::IoSlice;

use packet::batch::MAX_FRAMES;
use packet::coalesce::{MAX_COALESCED, Run};
use packet::fragment::Fragments;
use packet::head::Head;
use packet::segment::{self, Segments};
use packet::vlan::TagAction;
use packet::{Batch, Features, Headers, Offload, Span};

use crate::counters::DropReason;
use crate::port::PortId;

/// A frame of the batch at hand, parsed and judged.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Frame {
    pub(crate) span: Span,
    pub(crate) headers: Headers,
    pub(crate) offload: Offload,
    /// An IPv4 packet that is to leave in fragments of at most so many bytes.
    pub(crate) cut_to: Option<u16>,
}

/// One frame on its way out of one port.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Queued {
    frame: u16,
    action: TagAction,
}

/// The queues of one worker; empty between batches.
#[derive(Debug)]
pub struct Egress {
    frames: Vec<Frame>,
    queues: Box<[Vec<Queued>]>,
    /// Ports whose queue is not empty.
    waiting: Vec<PortId>,
    head: Head,
}

impl Egress {
    /// Queues for so many ports, each with room for a whole batch: all the memory they will use.
    #[must_use]
    pub fn new(ports: usize) -> Egress {
        Egress {
            frames: Vec::with_capacity(MAX_FRAMES),
            queues: std::iter::repeat_with(|| Vec::with_capacity(MAX_FRAMES)).take(ports).collect(),
            waiting: Vec::with_capacity(ports),
            head: Head::default(),
        }
    }

    /// A new batch begins.
    pub(crate) fn clear(&mut self) {
        self.frames.clear();
        while let Some(port) = self.waiting.pop() {
            self.queues[port.index()].clear();
        }
    }

    /// Adds a frame of the batch; its number is for [`Egress::push`].
    #[inline]
    pub(crate) fn add(&mut self, frame: Frame) -> u16 {
        self.frames.push(frame);
        (self.frames.len() - 1) as u16
    }

    /// Queues a frame for a port. A queue has room for each frame of the batch once.
    #[inline]
    pub(crate) fn push(&mut self, port: PortId, frame: u16, action: TagAction) {
        let queue = &mut self.queues[port.index()];
        if queue.is_empty() {
            self.waiting.push(port);
        }
        queue.push(Queued { frame, action });
    }

    /// The next port with something to write, and the means to do so.
    pub(crate) fn next(&mut self) -> Option<(PortId, Queue<'_>)> {
        let port = self.waiting.pop()?;
        let queue = Queue { frames: &self.frames, queued: &mut self.queues[port.index()], head: &mut self.head };
        Some((port, queue))
    }
}

/// One port's queue; empty once dropped.
pub(crate) struct Queue<'a> {
    frames: &'a [Frame],
    queued: &'a mut Vec<Queued>,
    head: &'a mut Head,
}

impl Queue<'_> {
    /// How many frames wait.
    pub(crate) fn len(&self) -> usize {
        self.queued.len()
    }
}

impl Drop for Queue<'_> {
    fn drop(&mut self) {
        self.queued.clear();
    }
}

/// What became of some frames that left, or did not, with one or more writes.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Written {
    pub(crate) frames: u64,
    pub(crate) bytes: u64,
    pub(crate) writes: u64,
    pub(crate) result: Result<(), SendError>,
    pub(crate) refused: bool,
}

/// Why a write did not happen.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum SendError {
    /// The kernel calls the frame or its header invalid; a super-frame is worth a try in segments.
    Invalid,
    /// Anything else, by its reason.
    Drop(DropReason),
}

impl SendError {
    /// The counter for a frame that this stopped.
    pub(crate) fn reason(self) -> DropReason {
        match self {
            SendError::Invalid => DropReason::WriteFailed,
            SendError::Drop(reason) => reason,
        }
    }
}

/// Writes a queue out. `send` gets the pieces of one write, a virtio-net header first; `written` is
/// told of each frame or run of frames.
#[inline]
pub(crate) fn write_queue(
    queue: Queue<'_>,
    batch: &Batch,
    features: Features,
    coalesce: bool,
    mut send: impl FnMut(&[IoSlice<'_>]) -> Result<(), SendError>,
    mut written: impl FnMut(Written),
) {
    let mut at = 0;
    while let Some(&Queued { frame, action }) = queue.queued.get(at) {
        let frame = &queue.frames[usize::from(frame)];
        if coalesce
            && frame.cut_to.is_none()
            && let Some(mut run) = Run::start(batch.frame(frame.span), &frame.headers, frame.offload, features)
        {
            while let Some(next) = queue.queued.get(at + run.frames())
                && next.action == action
                && queue.frames[usize::from(next.frame)].cut_to.is_none()
                && let next = &queue.frames[usize::from(next.frame)]
                && run.extend(batch.frame(next.span), &next.headers, next.offload)
            {}
            if run.frames() > 1 && run.write_head(action, queue.head) {
                let members = &queue.queued[at..at + run.frames()];
                let outcome = write_run(members, queue.frames, batch, queue.head, &mut send);
                at += run.frames();
                if outcome.result != Err(SendError::Invalid) {
                    written(outcome);
                    continue;
                }
                // The kernel will not have the super-frame: its frames one by one.
                written(Written { frames: 0, bytes: 0, writes: 0, result: Ok(()), refused: true });
                for queued in members {
                    let frame = &queue.frames[usize::from(queued.frame)];
                    written(write_frame(frame, action, batch, features, queue.head, &mut send));
                }
                continue;
            }
        }
        written(write_frame(frame, action, batch, features, queue.head, &mut send));
        at += 1;
    }
}

/// A run of frames as one super-frame, whose head is written already.
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

/// One frame, as the port can take it.
#[inline]
fn write_frame(
    frame: &Frame,
    action: TagAction,
    batch: &Batch,
    features: Features,
    head: &mut Head,
    send: &mut impl FnMut(&[IoSlice<'_>]) -> Result<(), SendError>,
) -> Written {
    let Frame { span, headers, offload, cut_to } = frame;
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
        let (writes, result) = write_segments(frame, action, batch, head, send);
        return outcome(writes, result, true);
    }
    if offload.segmentation.is_some() {
        let (writes, result) = write_segments(frame, action, batch, head, send);
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

/// A frame with what it owes, at most its VLAN tag changed.
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

/// A super-frame in segments. The first refusal ends it: TCP and UDP alike make do with the rest.
#[cold]
fn write_segments(
    frame: &Frame,
    action: TagAction,
    batch: &Batch,
    head: &mut Head,
    send: &mut impl FnMut(&[IoSlice<'_>]) -> Result<(), SendError>,
) -> (u64, Result<(), SendError>) {
    let Some(segmentation) = frame.offload.segmentation else { return (0, Ok(())) };
    let bytes = batch.frame(frame.span);
    let Some(mut segments) = Segments::new(bytes, &frame.headers, segmentation, action, head) else {
        return (0, Err(SendError::Drop(DropReason::BadVnetHeader)));
    };
    let mut writes = 0;
    while let Some(payload) = segments.next(head) {
        if let Err(error) = send(&[IoSlice::new(head.as_bytes()), IoSlice::new(payload)]) {
            return (writes, Err(error));
        }
        writes += 1;
    }
    (writes, Ok(()))
}

/// A packet that is too long for its way, in fragments. The first refusal ends it: the rest is of no
/// use.
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
