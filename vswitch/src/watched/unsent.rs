//! Frames whose datagrams are in trains that have not left yet, for the observer.
//!
//! A train records the number of frames that end in it, not which ones: trains with one outer header leave in the order in
//! which their frames were added. A frame that left is marked and keeps its place, so that each train takes one pass over
//! the list.

use tunnel::OuterHeader;
use tunnel::train::MAX_BATCH_DATAGRAMS;

use crate::egress::Queued;

/// The maximum number of datagrams in trains, and one frame that is being added.
const MAX_UNSENT: usize = MAX_BATCH_DATAGRAMS + 1;

#[derive(Debug)]
pub(crate) struct UnsentFrames {
    /// `None` for a frame that left.
    frames: Vec<(OuterHeader, Option<Queued>)>,
    /// Number of frames that have not left.
    waiting: usize,
}

impl Default for UnsentFrames {
    /// An empty list, with all the memory that it will ever use.
    fn default() -> UnsentFrames {
        UnsentFrames { frames: Vec::with_capacity(MAX_UNSENT), waiting: 0 }
    }
}

impl UnsentFrames {
    /// Forgets all frames.
    #[inline]
    pub(crate) fn clear(&mut self) {
        self.frames.clear();
        self.waiting = 0;
    }

    /// Adds a frame that is in trains with this outer header. False if the list is full.
    pub(crate) fn add(&mut self, outer: OuterHeader, frame: Queued) -> bool {
        if self.waiting == 0 {
            self.frames.clear();
        }
        if self.frames.len() == MAX_UNSENT {
            return false;
        }
        self.frames.push((outer, Some(frame)));
        self.waiting += 1;
        true
    }

    /// Takes the next frame with this outer header, at `from` or behind it; `from` is moved behind the frame.
    pub(crate) fn take(&mut self, outer: OuterHeader, from: &mut usize) -> Option<Queued> {
        let rest = self.frames.get_mut(*from..)?;
        let (at, frame) = rest.iter_mut().enumerate().find(|(_, (of, frame))| *of == outer && frame.is_some())?;
        *from += at + 1;
        self.waiting -= 1;
        frame.1.take()
    }
}
