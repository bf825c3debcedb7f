//! Who waits for real frames' stories, and how they get there.

use std::sync::Arc;
use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};

use crossbeam_queue::ArrayQueue;
use packet::Timestamp;
use packet::batch::MAX_FRAMES;
use tunnel::{Train, Way};

use super::step::Step;
use super::story::Story;
use crate::counters::DropReason;
use crate::egress::{Queue, SendError, Written};
use crate::port::{Encapsulation, PortId};
use crate::walk::Bridges;
use crate::watched::boarded::Boarded;

/// So many may wait for stories at a time.
pub const MAX_LIVE: usize = 4;

/// So many stories wait for who is slow to take them.
pub const MAX_WAITING: usize = 256;

/// Says which frames are wanted, by the port that they came in through and their bytes.
type Wanted = Box<dyn Fn(PortId, &[u8]) -> bool + Send + Sync>;

/// Somebody who waits for the stories of the next frames of some kind, from all workers.
pub struct Live {
    wanted: Wanted,
    /// So many more are wanted.
    remaining: AtomicU32,
    stories: ArrayQueue<Story>,
    lost: AtomicU64,
}

impl Live {
    /// Somebody who wants so many stories, of frames for which `wanted` says yes.
    #[must_use]
    pub fn new(count: u32, wanted: impl Fn(PortId, &[u8]) -> bool + Send + Sync + 'static) -> Live {
        let stories = ArrayQueue::new(MAX_WAITING.min(count.max(1) as usize));
        Live { wanted: Box::new(wanted), remaining: AtomicU32::new(count), stories, lost: AtomicU64::new(0) }
    }

    /// The next story, if one is there.
    #[must_use]
    pub fn next_story(&self) -> Option<Story> {
        self.stories.pop()
    }

    /// How many stories found no room.
    #[must_use]
    pub fn lost(&self) -> u64 {
        self.lost.load(Ordering::Relaxed)
    }

    /// How many are still to begin.
    #[must_use]
    pub fn remaining(&self) -> u32 {
        self.remaining.load(Ordering::Relaxed)
    }

    /// Wants no more.
    pub fn end(&self) {
        self.remaining.store(0, Ordering::Relaxed);
    }

    /// Takes one of those that are still wanted, if the frame is wanted.
    fn takes(&self, ingress: PortId, frame: &[u8]) -> bool {
        self.remaining() > 0
            && (self.wanted)(ingress, frame)
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

impl std::fmt::Debug for Live {
    fn fmt(&self, out: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        out.debug_struct("Live").field("remaining", &self.remaining()).field("lost", &self.lost()).finish_non_exhaustive()
    }
}

/// One worker's stories, with all the memory that they will ever use.
#[derive(Debug)]
pub struct Watch {
    live: Vec<Arc<Live>>,
    rehearses: bool,
    #[expect(clippy::vec_box, reason = "a walk carries its story: it is handed over as a pointer")]
    blank: Vec<Box<Story>>,
    /// Of this batch, whose frames may still have to be written.
    #[expect(clippy::vec_box, reason = "as above")]
    begun: Vec<Box<Story>>,
    /// The frames of the queue that is just written, and how many of them were.
    queued: Vec<u16>,
    written: usize,
    /// Frames that went into trains.
    boarded: Boarded<u16>,
}

impl Watch {
    /// For those who wait, at most [`MAX_LIVE`].
    #[must_use]
    pub fn new(live: impl IntoIterator<Item = Arc<Live>>) -> Watch {
        Watch::with(live.into_iter().take(MAX_LIVE).collect(), false, MAX_FRAMES)
    }

    /// For one imagined frame at a time.
    pub(crate) fn rehearsal() -> Watch {
        Watch::with(Vec::new(), true, 1)
    }

    fn with(live: Vec<Arc<Live>>, rehearses: bool, stories: usize) -> Watch {
        Watch {
            live,
            rehearses,
            blank: std::iter::repeat_with(|| Box::new(Story::blank())).take(stories).collect(),
            begun: Vec::with_capacity(stories),
            queued: Vec::with_capacity(2 * MAX_FRAMES),
            written: 0,
            boarded: Boarded::new(),
        }
    }

    /// A batch begins. One before that ended in a panic may have left stories of its frames, and lost the one at hand.
    #[cold]
    pub(crate) fn begin_batch(&mut self) {
        self.boarded.clear();
        let Watch { live, blank, begun, .. } = self;
        for story in begun.drain(..) {
            of(live, story.wanted).for_each(Live::lose);
            blank.push(story);
        }
        if blank.len() < begun.capacity() {
            blank.push(Box::new(Story::blank()));
        }
    }

    /// A story for a frame that somebody wants.
    #[cold]
    pub(crate) fn begin(&mut self, bridges: &Bridges, ingress: PortId, frame: &[u8], now: Timestamp) -> Option<Box<Story>> {
        let wanted = self.live.iter().enumerate().filter(|(_, live)| live.takes(ingress, frame));
        let wanted = wanted.fold(0, |wanted, (at, _)| wanted | 1 << at);
        if wanted == 0 && !self.rehearses {
            return None;
        }
        let Some(mut story) = self.blank.pop() else {
            of(&self.live, wanted).for_each(Live::lose);
            return None;
        };
        story.begin(ingress, frame, now);
        (story.wanted, story.is_rehearsal) = (wanted, self.rehearses);
        story.is_packet = bridges.ip_tunnel(ingress).is_some();
        Some(story)
    }

    /// The walk of a frame ended.
    #[cold]
    pub(crate) fn end(&mut self, story: Option<Box<Story>>, outcome: Result<(), DropReason>) {
        let Some(mut story) = story else { return };
        story.end(outcome);
        self.begun.push(story);
    }

    /// A queue is about to be written.
    #[cold]
    pub(crate) fn begin_queue(&mut self, queue: &Queue<'_>) {
        self.queued.clear();
        self.queued.extend(queue.queued.iter().map(|queued| queued.frame));
        self.written = 0;
    }

    /// All frames of a queue were dropped.
    #[cold]
    pub(crate) fn drop_queue(&mut self, queue: &Queue<'_>, port: PortId, reason: DropReason) {
        for queued in queue.queued.iter() {
            self.note(queued.frame, Step::Dropped { reason, port: Some(port) });
        }
    }

    /// The next frames of the queue that is just written left, or did not.
    #[cold]
    pub(crate) fn note_written(&mut self, port: PortId, written: &Written) {
        let frames = written.frames as usize;
        let step = match written.result {
            Ok(()) => Step::Sent { port, writes: short(written.writes), frames: short(written.frames) },
            Err(error) => Step::Dropped { reason: error.reason(), port: Some(port) },
        };
        for at in self.written..(self.written + frames).min(self.queued.len()) {
            self.note(self.queued[at], step);
        }
        self.written += frames;
    }

    /// A frame was put into trains, or could not be.
    #[cold]
    pub(crate) fn note_coupled(&mut self, frame: u16, way: Way, encapsulation: &Encapsulation, result: Result<(), DropReason>) {
        let port = PortId(way.port);
        match result {
            Ok(()) => {
                self.note(frame, Step::Encapsulated { port, framing: encapsulation.framing, flow: way.flow });
                self.boarded.board(way, frame);
            }
            Err(reason) => self.note(frame, Step::Dropped { reason, port: Some(port) }),
        }
    }

    /// A train left, or did not: the next frames that go its way ended in it.
    #[cold]
    pub(crate) fn note_departed(&mut self, train: &Train, result: Result<(), SendError>) {
        let port = PortId(train.way.port);
        let step = match result {
            Ok(()) => Step::Sent { port, writes: train.datagrams, frames: train.frames },
            Err(error) => Step::Dropped { reason: error.reason(), port: Some(port) },
        };
        let mut from = 0;
        for _ in 0..train.frames {
            let Some(frame) = self.boarded.take(train.way, &mut from) else { return };
            self.note(frame, step);
        }
    }

    /// A step of the story whose frame this is, if it has one.
    fn note(&mut self, frame: u16, step: Step) {
        if let Some(story) = self.begun.iter_mut().find(|story| story.frame == Some(frame)) {
            story.note(step);
        }
    }

    /// All was written: stories go to who waits for them.
    #[cold]
    pub(crate) fn hand_over(&mut self) {
        let Watch { live, blank, begun, .. } = self;
        for story in begun.drain(..) {
            of(live, story.wanted).for_each(|live| live.give(&story));
            blank.push(story);
        }
    }

    /// The story that was told last, which nobody waited for.
    pub(crate) fn last(&self) -> Option<&Story> {
        self.blank.last().map(|story| &**story)
    }
}

/// Those of whom there is a bit.
fn of(live: &[Arc<Live>], wanted: u8) -> impl Iterator<Item = &Live> {
    live.iter().enumerate().filter(move |(at, _)| wanted >> at & 1 != 0).map(|(_, live)| &**live)
}

fn short(count: u64) -> u16 {
    u16::try_from(count).unwrap_or(u16::MAX)
}
