//! The capture points of a pipeline.
//!
//! ```text
//!  received ----> walk ----> queue ----> write ----> sent
//!     |             |                      |
//!     |  verdict <--+             dropped at egress <--+
//!     v                                    v
//!   as it came                    as it leaves, tag changed
//! ```
//!
//! A frame is captured when it is *received*, as it came and with the verdict of its walk, and when it is *sent*, once for
//! each port, with super-frames whole: before they are coalesced, segmented, fragmented or encapsulated. A frame that the
//! kernel refuses is captured there as dropped. Frames that the router makes are captured when they are sent; packets
//! that waited in the router are captured again only if they are dropped.
//!
//! *Frames that no capture wants.* A frame that no filter matches when it is received is marked (`Frame::is_unwatched`) and not looked
//! at again as it leaves, at most with another tag, unless the mark was cleared: the router clears it when it sets other MAC
//! addresses, as it does with each packet that it forwards, and so does whatever makes another frame of its bytes. Filters with
//! `vlan` or `vni`, samples, and packets without Ethernet header are looked at both times.

use capture::{Direction, Leaving, Probe, Seen, Verdict};
use filter::Subject;
use packet::ethernet::{ADDRESSES_LEN, ETHERNET_LEN};
use packet::vlan::{TAG_LEN, TagAction};
use packet::{Batch, Headers, Span};

use super::seen::{headers_of, subject};
use crate::drop_reason::DropReason;
use crate::egress::{Frame, Queued};
use crate::port::PortId;
use crate::walk::{Bridges, Walk};

/// Maximum number of captures at a time.
pub const MAX_CAPTURES: usize = 4;

/// All captures of one worker.
#[derive(Debug, Default)]
pub(crate) struct Captures {
    probes: Vec<Probe>,
    time: u64,
    /// Some filter has to know the VLAN or the tunnel of a frame.
    looks_at_port: bool,
    /// Each capture has a filter, which knows as a frame is received whether the frame matches it as it leaves.
    is_filtered: bool,
}

/// A frame before its walk.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Arrived {
    /// Its place in the arena.
    span: Span,
    /// Some probe has begun a record.
    is_taken: bool,
}

impl Arrived {
    /// A frame of which no probe has begun a record.
    #[inline]
    pub(crate) fn untaken(span: Span) -> Arrived {
        Arrived { span, is_taken: false }
    }
}

impl Captures {
    /// Adds a capture. Returns it if there are [`MAX_CAPTURES`] already.
    pub(crate) fn add(&mut self, probe: Box<Probe>) -> Result<(), Box<Probe>> {
        if self.probes.len() == MAX_CAPTURES {
            return Err(probe);
        }
        self.probes.push(*probe);
        self.update();
        Ok(())
    }

    pub(crate) fn remove(&mut self, id: u64) -> Option<Probe> {
        let at = self.probes.iter().position(|probe| probe.id() == id)?;
        let probe = self.probes.swap_remove(at);
        self.update();
        Some(probe)
    }

    fn update(&mut self) {
        self.looks_at_port = self.probes.iter().any(Probe::looks_at_port);
        self.is_filtered = self.probes.iter().all(Probe::is_filtered);
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.probes.is_empty()
    }

    pub(crate) fn set_time(&mut self, time: u64) {
        self.time = time;
    }

    /// Whether no filter matches a frame that was received, here and at any other port. It is not offered then.
    #[inline(always)]
    pub(crate) fn refuse(&self, headers: Option<&Headers>, frame: &[u8]) -> bool {
        self.is_filtered && headers.is_some_and(|headers| usize::from(headers.l3) >= ETHERNET_LEN) && {
            let subject = Subject::plain(headers, frame);
            self.probes.iter().all(|probe| probe.refuses(&subject))
        }
    }

    /// Offers a frame that begins its walk to each probe; [`Captures::judge`] takes its verdict. A frame from no port is shown at
    /// port 0, where it is counted.
    #[inline(never)]
    pub(crate) fn offer(
        &mut self,
        bridges: &Bridges,
        id: PortId,
        headers: Option<&Headers>,
        direction: Direction,
        batch: &Batch,
        at: usize,
    ) -> Arrived {
        let id = if id == PortId::NOWHERE { PortId(0) } else { id };
        let span = batch.spans()[at];
        let seen = self.seen(bridges, id, headers, batch.frame(span));
        let mut is_taken = false;
        for probe in &mut self.probes {
            is_taken |= probe.arrives(&seen, direction, || batch.vnet(span).checksum_end());
        }
        Arrived { span, is_taken }
    }

    /// The verdict of the frame that arrived last.
    #[inline]
    pub(crate) fn judge(&mut self, walk: &mut Walk<'_>, arrived: Arrived, outcome: Result<(), DropReason>) {
        let also = walk.also_dropped.take();
        let verdict = match (outcome, also) {
            (Err(reason), _) => Verdict::Dropped(reason as u8),
            (Ok(()), Some(reason @ (DropReason::TooLong | DropReason::TooManySegments))) => Verdict::CopiesDropped(reason as u8),
            (Ok(()), Some(reason)) => Verdict::Dropped(reason as u8),
            (Ok(()), None) => Verdict::Passed,
        };
        if arrived.is_taken {
            let frame = &walk.rx.arena()[arrived.span.range()];
            self.probes.iter_mut().for_each(|probe| probe.judge(verdict, frame));
        }
        if let (Err(_), Some(reason)) = (outcome, also) {
            // The answer to it was dropped too.
            self.made_and_dropped(walk, reason);
        }
        if let Some(reason) = walk.request_dropped.take() {
            self.made_and_dropped(walk, reason);
        }
    }

    /// What the router made of the frame was dropped.
    #[cold]
    pub(crate) fn made_and_dropped(&mut self, walk: &Walk<'_>, reason: DropReason) {
        let headers = headers_of(walk.bridges, walk.ingress, walk.rx.frame(walk.rx.spans()[walk.at]));
        let made = self.offer(walk.bridges, walk.ingress, headers.as_ref(), Direction::Within, walk.rx, walk.at);
        self.dropped(walk.rx, made, reason);
    }

    /// The frame that arrived last was dropped.
    pub(crate) fn dropped(&mut self, batch: &Batch, arrived: Arrived, reason: DropReason) {
        let frame = &batch.arena()[arrived.span.range()];
        self.probes.iter_mut().for_each(|probe| probe.judge(Verdict::Dropped(reason as u8), frame));
    }

    /// A frame that left through this port cannot be reported: there are too many frames in trains.
    #[cold]
    pub(crate) fn forget(&mut self, id: PortId) {
        self.probes.iter_mut().for_each(|probe| probe.forget(id.0));
    }

    /// All queues of the batch are written.
    #[inline]
    pub(crate) fn end_batch(&mut self) {
        self.probes.iter_mut().for_each(Probe::end_batch);
    }

    /// A frame of a queue left through this port, or was dropped there.
    pub(crate) fn leaves(
        &mut self,
        bridges: &Bridges,
        id: PortId,
        batch: &Batch,
        Queued { action, .. }: Queued,
        frame: &Frame,
        outcome: Result<(), DropReason>,
    ) {
        let bytes = batch.frame(frame.span);
        let mut headers = frame.headers;
        let new_tag = match action {
            TagAction::Keep => headers.tag,
            TagAction::Pop => None,
            TagAction::Push(tag) | TagAction::Replace(tag) => Some(tag),
        };
        headers.tag = new_tag;
        let tag = new_tag.map(packet::Tag::to_bytes);
        let pieces = pieces(bytes, action, tag.as_ref());
        let seen = self.seen(bridges, id, Some(&headers), bytes);
        let verdict = outcome.map_or_else(|reason| Verdict::Dropped(reason as u8), |()| Verdict::Passed);
        self.probes.iter_mut().for_each(|probe| probe.leaves(&seen, pieces, verdict));
    }

    #[inline]
    fn seen<'a>(&self, bridges: &Bridges, id: PortId, headers: Option<&'a Headers>, bytes: &'a [u8]) -> Seen<'a> {
        let subject = if self.looks_at_port { subject(bridges, id, headers, bytes) } else { Subject::plain(headers, bytes) };
        Seen { time: self.time, port: id.0, subject }
    }
}

/// The frame as it leaves, in pieces. A frame that is too short for its tag to be removed stays as it is.
fn pieces<'a>(frame: &'a [u8], action: TagAction, tag: Option<&'a [u8; TAG_LEN]>) -> Leaving<'a> {
    let behind = match action {
        TagAction::Keep => return [frame, &[], &[]],
        TagAction::Push(_) => ADDRESSES_LEN,
        TagAction::Pop | TagAction::Replace(_) => ADDRESSES_LEN + TAG_LEN,
    };
    match (frame.get(..ADDRESSES_LEN), frame.get(behind..)) {
        (Some(addresses), Some(rest)) => [addresses, tag.map_or(&[], |tag| &tag[..]), rest],
        _ => [frame, &[], &[]],
    }
}
