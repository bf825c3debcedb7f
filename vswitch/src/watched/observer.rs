//! The one observer of a pipeline: each event of a frame is reported to it once, and it passes it on to traces and captures.
//!
//! | event    | when                                             | trace                 | capture               |
//! |----------|--------------------------------------------------|-----------------------|-----------------------|
//! | received | a frame begins its walk                          | begins, if it matches | the frame as it came  |
//! | verdict  | its walk ended                                   | outcome               | verdict of that frame |
//! | queued   | it is queued for a port ([`Walk::push`])         | step                  |                       |
//! | written  | frames of a port's queue were written or dropped | step                  | the frame as it left  |
//! | encapsulated | it is in datagrams for a tunnel's peer           | step                  |                       |
//! | train_sent | the train with those datagrams was sent or not   | step                  | the frame as it left  |
//!
//! While nothing is traced or captured, an event costs one branch, and a frame received from a port not even that.
//!
//! *Frames that nobody wants* are to cost next to nothing. At the end of the walk it is known whether a frame is traced or a capture's
//! filter matched it; the frame carries the answer ([`Frame::is_unwatched`]), and its other events are not looked at. If it is the
//! same for all frames of a batch, writing them costs what it costs while nothing is captured.

use capture::{Direction, Probe};
use packet::{Batch, Headers};
use tunnel::{OuterHeader, Train};

use super::capture::{Arrived, Captures};
use super::live::Watch;
use super::seen::headers_of;
use super::story::Story;
use super::unsent::UnsentFrames;
use crate::drop_reason::DropReason;
use crate::egress::{Frame, Queued, SendError, Written};
use crate::port::{Encapsulation, PortId};
use crate::walk::{Bridges, Walk};

/// Traces and captures of one worker.
#[derive(Debug, Default)]
pub(crate) struct Observer {
    /// There is a watch or a capture.
    is_active: bool,
    /// A frame of this batch is traced, or may match a capture as it leaves.
    is_wanted: bool,
    watch: Option<Box<Watch>>,
    captures: Option<Box<Captures>>,
    unsent: UnsentFrames,
}

impl Observer {
    /// Replaces the requests for traces; returns those before.
    pub(crate) fn set_watch(&mut self, watch: Option<Box<Watch>>) -> Option<Box<Watch>> {
        let before = std::mem::replace(&mut self.watch, watch);
        self.update();
        before
    }

    /// Adds a capture; returns it if there are too many.
    pub(crate) fn add_capture(&mut self, probe: Box<Probe>) -> Result<(), Box<Probe>> {
        let added = self.captures.get_or_insert_with(Box::default).add(probe);
        self.update();
        added
    }

    /// Ends the capture with this number.
    pub(crate) fn remove_capture(&mut self, id: u64) -> Option<Probe> {
        let captures = self.captures.as_mut()?;
        let ended = captures.remove(id);
        if captures.is_empty() {
            self.captures = None;
        }
        self.update();
        ended
    }

    fn update(&mut self) {
        self.is_active = self.watch.is_some() || self.captures.is_some();
    }

    /// Whether there is a watch or a capture.
    #[inline]
    pub(crate) fn is_active(&self) -> bool {
        self.is_active
    }

    /// The time of the frames to come, in nanoseconds.
    pub(crate) fn set_time(&mut self, nanoseconds: u64) {
        if let Some(captures) = &mut self.captures {
            captures.set_time(nanoseconds);
        }
        if let Some(watch) = &mut self.watch {
            watch.set_time(nanoseconds);
        }
    }

    /// The story that ended last.
    pub(crate) fn last_story(&self) -> Option<&Story> {
        self.watch.as_ref()?.last()
    }

    /// A batch begins. Clears what is left of one before that ended in a panic.
    #[inline(always)]
    pub(crate) fn begin_batch(&mut self) {
        self.is_wanted = false;
        if self.is_active {
            self.unsent.clear();
            if let Some(watch) = &mut self.watch {
                watch.begin_batch();
            }
        }
    }

    /// A frame begins its walk; its headers are in `frame`, if it is parsed. The result goes to [`Observer::verdict`].
    #[inline(always)]
    pub(crate) fn received(
        &mut self,
        walk: &mut Walk<'_>,
        frame: &mut Frame,
        is_parsed: bool,
        direction: Direction,
    ) -> Option<Arrived> {
        if self.is_active { self.see_received(walk, frame, is_parsed, direction) } else { None }
    }

    #[cold]
    #[inline(never)]
    fn see_received(&mut self, walk: &mut Walk<'_>, frame: &mut Frame, is_parsed: bool, direction: Direction) -> Option<Arrived> {
        if is_parsed && direction == Direction::Received {
            return self.begin(walk, frame, true);
        }
        frame.is_unwatched = false;
        let headers = headers_of(walk.bridges, walk.ingress, walk.rx.frame(walk.rx.spans()[walk.at]));
        self.trace(walk, headers.as_ref());
        let captures = self.captures.as_mut()?;
        Some(captures.offer(walk.bridges, walk.ingress, headers.as_ref(), direction, walk.rx, walk.at))
    }

    /// A frame that was received begins its walk while there is a watch or a capture. Its headers are in `frame`, unless it is
    /// malformed.
    #[inline(always)]
    pub(crate) fn begin(&mut self, walk: &mut Walk<'_>, frame: &mut Frame, is_parsed: bool) -> Option<Arrived> {
        let headers = is_parsed.then_some(&frame.headers);
        self.trace(walk, headers);
        let captures = self.captures.as_mut()?;
        if captures.refuse(headers, walk.rx.frame(frame.span)) {
            frame.is_unwatched = true;
            return Some(Arrived::untaken(frame.span));
        }
        Some(captures.offer(walk.bridges, walk.ingress, headers, Direction::Received, walk.rx, walk.at))
    }

    #[inline(always)]
    fn trace(&mut self, walk: &mut Walk<'_>, headers: Option<&Headers>) {
        if let Some(watch) = &mut self.watch {
            let bytes = walk.rx.frame(walk.rx.spans()[walk.at]);
            walk.story = watch.begin(walk.bridges, walk.ingress, headers, bytes, walk.now);
        }
    }

    /// The walk of a frame ended while there is a watch or a capture. `arrived` is `None` for a frame that the router made.
    #[inline]
    pub(crate) fn verdict(
        &mut self,
        walk: &mut Walk<'_>,
        frame: &mut Frame,
        arrived: Option<Arrived>,
        outcome: Result<(), DropReason>,
    ) {
        let is_uncaptured = self.captures.is_none() || frame.is_unwatched && walk.is_lossless();
        frame.is_unwatched = is_uncaptured && walk.story.is_none();
        if !frame.is_unwatched {
            self.is_wanted = true;
            self.see_verdict(walk, arrived, outcome);
        }
    }

    #[inline(never)]
    fn see_verdict(&mut self, walk: &mut Walk<'_>, arrived: Option<Arrived>, outcome: Result<(), DropReason>) {
        if let Some(watch) = &mut self.watch {
            watch.end(walk.story.take(), outcome);
        }
        let Some(captures) = &mut self.captures else { return };
        match (arrived, outcome) {
            (Some(arrived), _) => captures.judge(walk, arrived, outcome),
            // A frame that the router made, and that was dropped at once.
            (None, Err(reason)) => captures.made_and_dropped(walk, reason),
            (None, Ok(())) => {}
        }
    }

    /// All frames of a receiving socket's datagrams are dropped before their walk.
    #[cold]
    pub(crate) fn dropped_on_arrival(&mut self, bridges: &Bridges, id: PortId, rx: &Batch, first: usize, reason: DropReason) {
        let Some(captures) = &mut self.captures else { return };
        for at in first..rx.spans().len() {
            let headers = headers_of(bridges, id, rx.frame(rx.spans()[at]));
            let arrived = captures.offer(bridges, id, headers.as_ref(), Direction::Received, rx, at);
            captures.dropped(rx, arrived, reason);
        }
    }

    /// Frames of a port's queue, the `members`, were written or dropped.
    #[inline(always)]
    pub(crate) fn written(
        &mut self,
        bridges: &Bridges,
        rx: &Batch,
        id: PortId,
        frames: &[Frame],
        members: &[Queued],
        written: &Written,
    ) {
        if self.is_wanted {
            self.see_written(bridges, rx, id, frames, members, written);
        }
    }

    #[cold]
    #[inline(never)]
    fn see_written(
        &mut self,
        bridges: &Bridges,
        rx: &Batch,
        id: PortId,
        frames: &[Frame],
        members: &[Queued],
        written: &Written,
    ) {
        if let Some(watch) = &mut self.watch {
            watch.note_written(id, members, written);
        }
        if let Some(captures) = &mut self.captures {
            let outcome = written.result.map_err(SendError::reason);
            for queued in members {
                let frame = &frames[usize::from(queued.frame)];
                if !frame.is_unwatched {
                    captures.leaves(bridges, id, rx, *queued, frame, outcome);
                }
            }
        }
    }

    /// A frame of a queue is in datagrams with this outer header, or could not be put into any.
    #[inline(always)]
    pub(crate) fn encapsulated(
        &mut self,
        bridges: &Bridges,
        rx: &Batch,
        outer: OuterHeader,
        encapsulation: &Encapsulation,
        (queued, frame): (Queued, &Frame),
        outcome: Result<(), DropReason>,
    ) {
        if self.is_wanted {
            self.see_encapsulated(bridges, rx, outer, encapsulation, (queued, frame), outcome);
        }
    }

    #[cold]
    #[inline(never)]
    fn see_encapsulated(
        &mut self,
        bridges: &Bridges,
        rx: &Batch,
        outer: OuterHeader,
        encapsulation: &Encapsulation,
        (queued, frame): (Queued, &Frame),
        outcome: Result<(), DropReason>,
    ) {
        if let Some(watch) = &mut self.watch {
            watch.note_encapsulated(queued.frame, outer, encapsulation, outcome);
        }
        match (&mut self.captures, outcome) {
            (Some(captures), Err(_)) => captures.leaves(bridges, PortId(outer.port), rx, queued, frame, outcome),
            (captures, Ok(())) => {
                if !self.unsent.add(outer, queued)
                    && let Some(captures) = captures
                {
                    captures.forget(PortId(outer.port));
                }
            }
            (None, Err(_)) => {}
        }
    }

    /// A train was sent, or was not.
    #[inline(always)]
    pub(crate) fn train_sent(
        &mut self,
        bridges: &Bridges,
        rx: &Batch,
        frames: &[Frame],
        train: &Train,
        result: Result<(), SendError>,
    ) {
        if self.is_wanted {
            self.see_train_sent(bridges, rx, frames, train, result);
        }
    }

    #[cold]
    #[inline(never)]
    fn see_train_sent(&mut self, bridges: &Bridges, rx: &Batch, frames: &[Frame], train: &Train, result: Result<(), SendError>) {
        let mut from = 0;
        for _ in 0..train.frames {
            let Some(queued) = self.unsent.take(train.outer, &mut from) else { return };
            if let Some(watch) = &mut self.watch {
                watch.note_train_sent(queued.frame, train, result);
            }
            let frame = &frames[usize::from(queued.frame)];
            if let Some(captures) = &mut self.captures
                && !frame.is_unwatched
            {
                let outcome = result.map_err(SendError::reason);
                captures.leaves(bridges, PortId(train.outer.port), rx, queued, frame, outcome);
            }
        }
    }

    /// All queues of the batch are written.
    #[inline(always)]
    pub(crate) fn end_batch(&mut self) {
        if self.is_active {
            self.hand_over();
        }
    }

    #[cold]
    #[inline(never)]
    fn hand_over(&mut self) {
        if let Some(watch) = &mut self.watch {
            watch.hand_over();
        }
        if let Some(captures) = &mut self.captures {
            captures.end_batch();
        }
    }
}
