//! Traces of real frames: requests for them, and how finished stories are handed over.

use std::sync::Arc;
use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};

use crossbeam_queue::ArrayQueue;
use filter::{Filter, Subject};
use packet::batch::MAX_FRAMES;
use packet::{Headers, Timestamp};
use tunnel::{OuterHeader, Train};

use super::seen::subject;
use super::step::Step;
use super::story::Story;
use crate::drop_reason::DropReason;
use crate::egress::{Queued, SendError, Written};
use crate::port::{Encapsulation, PortId};
use crate::walk::Bridges;

/// Maximum number of trace requests at a time.
pub const MAX_LIVE: usize = 4;

/// Maximum number of finished stories that wait to be taken, per request.
pub const MAX_WAITING: usize = 256;

/// A request for the stories of the next frames of some kind, shared by all workers.
#[derive(Debug)]
pub struct Live {
    /// Only frames that arrive at this port.
    port: Option<PortId>,
    /// Of these, only frames that match the filter.
    filter: Option<Filter>,
    /// Number of stories that are still to begin.
    remaining: AtomicU32,
    stories: ArrayQueue<Story>,
    lost: AtomicU64,
}

impl Live {
    /// A request for `count` stories of frames that arrive at this port, or at any, and that the filter matches.
    #[must_use]
    pub fn new(count: u32, port: Option<PortId>, filter: Option<Filter>) -> Live {
        let stories = ArrayQueue::new(MAX_WAITING.min(count.max(1) as usize));
        Live { port, filter, remaining: AtomicU32::new(count), stories, lost: AtomicU64::new(0) }
    }

    /// Takes the next finished story, if there is one.
    #[must_use]
    pub fn next_story(&self) -> Option<Story> {
        self.stories.pop()
    }

    /// Number of stories that found no room in the queue.
    #[must_use]
    pub fn lost(&self) -> u64 {
        self.lost.load(Ordering::Relaxed)
    }

    /// Number of stories that are still to begin.
    #[must_use]
    pub fn remaining(&self) -> u32 {
        self.remaining.load(Ordering::Relaxed)
    }

    /// Ends the request: no further story begins.
    pub fn end(&self) {
        self.remaining.store(0, Ordering::Relaxed);
    }

    /// Counts down and returns true if this frame is wanted and stories are still to begin.
    #[inline]
    fn takes(&self, ingress: PortId, subject: &Subject<'_>) -> bool {
        self.remaining() > 0
            && self.port.is_none_or(|port| port == ingress)
            && self.filter.as_ref().is_none_or(|filter| filter.matches(subject))
            && self.remaining.fetch_update(Ordering::Relaxed, Ordering::Relaxed, |left| left.checked_sub(1)).is_ok()
    }

    fn give(&self, story: &Story) {
        if self.stories.push(story.clone()).is_err() {
            self.lose();
        }
    }

    fn lose(&self) {
        self.lost.fetch_add(1, Ordering::Relaxed);
    }
}

/// One worker's trace requests and stories, with all the memory that they will ever use.
#[derive(Debug)]
pub struct Watch {
    live: Vec<Arc<Live>>,
    /// Some filter has to know the VLAN or the tunnel of a frame.
    looks_at_port: bool,
    rehearses: bool,
    /// Time of the frames to come, in nanoseconds.
    time: u64,
    #[expect(clippy::vec_box, reason = "a walk carries its story: it is handed over as a pointer")]
    blank: Vec<Box<Story>>,
    /// Stories of this batch whose frames may still be queued.
    #[expect(clippy::vec_box, reason = "as above")]
    begun: Vec<Box<Story>>,
}

impl Watch {
    /// A watch for these requests, at most [`MAX_LIVE`].
    #[must_use]
    pub fn new(live: impl IntoIterator<Item = Arc<Live>>) -> Watch {
        Watch::with(live.into_iter().take(MAX_LIVE).collect(), false, MAX_FRAMES)
    }

    /// A watch that traces each frame as a rehearsal; one frame a batch.
    pub(crate) fn rehearsal() -> Watch {
        Watch::with(Vec::new(), true, 1)
    }

    fn with(live: Vec<Arc<Live>>, rehearses: bool, stories: usize) -> Watch {
        Watch {
            looks_at_port: live.iter().any(|live| live.filter.as_ref().is_some_and(Filter::looks_at_port)),
            live,
            rehearses,
            time: 0,
            blank: std::iter::repeat_with(|| Box::new(Story::blank())).take(stories).collect(),
            begun: Vec::with_capacity(stories),
        }
    }

    /// Sets the time of the frames to come, in nanoseconds.
    pub(crate) fn set_time(&mut self, nanoseconds: u64) {
        self.time = nanoseconds;
    }

    /// A batch begins. After a panic, stories of the batch before are left over and count as lost; the story of the frame
    /// that caused it is gone and replaced.
    pub(crate) fn begin_batch(&mut self) {
        let Watch { live, blank, begun, .. } = self;
        for story in begun.drain(..) {
            of(live, story.wanted).for_each(Live::lose);
            blank.push(story);
        }
        if blank.len() < begun.capacity() {
            blank.push(Box::new(Story::blank()));
        }
    }

    /// Begins a story, if a request wants the frame.
    #[inline]
    pub(crate) fn begin(
        &mut self,
        bridges: &Bridges,
        ingress: PortId,
        headers: Option<&Headers>,
        frame: &[u8],
        now: Timestamp,
    ) -> Option<Box<Story>> {
        let subject = if self.looks_at_port { subject(bridges, ingress, headers, frame) } else { Subject::plain(headers, frame) };
        let wanted = self.live.iter().enumerate().filter(|(_, live)| live.takes(ingress, &subject));
        let wanted = wanted.fold(0, |wanted, (at, _)| wanted | 1 << at);
        if wanted == 0 && !self.rehearses { None } else { self.tell(bridges, ingress, frame, now, wanted) }
    }

    /// Begins a story for these requests.
    #[inline(never)]
    fn tell(&mut self, bridges: &Bridges, ingress: PortId, frame: &[u8], now: Timestamp, wanted: u8) -> Option<Box<Story>> {
        let Some(mut story) = self.blank.pop() else {
            of(&self.live, wanted).for_each(Live::lose);
            return None;
        };
        story.begin(ingress, frame, now, self.time);
        (story.wanted, story.is_rehearsal) = (wanted, self.rehearses);
        story.is_packet = bridges.carries_packets(ingress);
        Some(story)
    }

    /// The walk of a frame ended.
    pub(crate) fn end(&mut self, story: Option<Box<Story>>, outcome: Result<(), DropReason>) {
        let Some(mut story) = story else { return };
        story.end(outcome);
        self.begun.push(story);
    }

    /// Frames of a queue, the `members`, were written or dropped.
    pub(crate) fn note_written(&mut self, port: PortId, members: &[Queued], written: &Written) {
        let step = match written.result {
            Ok(()) => Step::Sent { port, writes: saturating(written.writes), frames: saturating(written.frames) },
            Err(error) => Step::Dropped { reason: error.reason(), port: Some(port) },
        };
        for member in members {
            self.note(member.frame, step);
        }
    }

    /// A frame was put into datagrams, or could not be.
    pub(crate) fn note_encapsulated(
        &mut self,
        frame: u16,
        outer: OuterHeader,
        encapsulation: &Encapsulation,
        outcome: Result<(), DropReason>,
    ) {
        let port = PortId(outer.port);
        let step = match outcome {
            Ok(()) => Step::Encapsulated { port, framing: encapsulation.framing, source: outer.source },
            Err(reason) => Step::Dropped { reason, port: Some(port) },
        };
        self.note(frame, step);
    }

    /// The train in which a frame ended was sent, or was not.
    pub(crate) fn note_train_sent(&mut self, frame: u16, train: &Train, result: Result<(), SendError>) {
        let port = PortId(train.outer.port);
        let step = match result {
            Ok(()) => Step::Sent { port, writes: train.datagrams, frames: train.frames },
            Err(error) => Step::Dropped { reason: error.reason(), port: Some(port) },
        };
        self.note(frame, step);
    }

    /// Adds a step to the story of a queued frame, if it has one.
    fn note(&mut self, frame: u16, step: Step) {
        if let Some(story) = self.begun.iter_mut().find(|story| story.frame == Some(frame)) {
            story.note(step);
        }
    }

    /// Hands the stories of the batch over to the requests that want them.
    pub(crate) fn hand_over(&mut self) {
        let Watch { live, blank, begun, .. } = self;
        for story in begun.drain(..) {
            of(live, story.wanted).for_each(|live| live.give(&story));
            blank.push(story);
        }
    }

    /// The story that ended last: that of a rehearsal.
    pub(crate) fn last(&self) -> Option<&Story> {
        self.blank.last().map(|story| &**story)
    }
}

/// The requests whose bits are set.
fn of(live: &[Arc<Live>], wanted: u8) -> impl Iterator<Item = &Live> {
    live.iter().enumerate().filter(move |(at, _)| wanted >> at & 1 != 0).map(|(_, live)| &**live)
}

fn saturating(count: u64) -> u16 {
    u16::try_from(count).unwrap_or(u16::MAX)
}
