//! Frames whose datagrams are in trains that have not left yet, for the observer.
//!
//! A train records the number of frames that end in it, not which ones: trains with one outer header leave in the order in
//! which their frames boarded. A frame that left is marked and keeps its place, so that each train takes one pass over
//! the list.

use packet::vlan::TagAction;
use tunnel::Way;
use tunnel::train::MAX_CARS;

use crate::egress::Frame;

/// The maximum number of datagrams in trains, and one frame that is being added.
const MAX_BOARDED: usize = MAX_CARS + 1;

/// A frame whose datagrams are in trains.
#[derive(Clone, Copy, Debug)]
pub(crate) struct BoardedFrame {
    /// Its number in the egress queues.
    pub(crate) number: u16,
    pub(crate) frame: Frame,
    pub(crate) action: TagAction,
}

#[derive(Debug)]
pub(crate) struct Boarded {
    /// `None` for a frame that left.
    frames: Vec<(Way, Option<BoardedFrame>)>,
    /// Number of frames that have not left.
    waiting: usize,
}

impl Default for Boarded {
    /// An empty list, with all the memory that it will ever use.
    fn default() -> Boarded {
        Boarded { frames: Vec::with_capacity(MAX_BOARDED), waiting: 0 }
    }
}

impl Boarded {
    /// Forgets all frames.
    #[inline]
    pub(crate) fn clear(&mut self) {
        self.frames.clear();
        self.waiting = 0;
    }

    /// Adds a frame that is in trains of this way. False if the list is full.
    pub(crate) fn board(&mut self, way: Way, frame: BoardedFrame) -> bool {
        if self.waiting == 0 {
            self.frames.clear();
        }
        if self.frames.len() == MAX_BOARDED {
            return false;
        }
        self.frames.push((way, Some(frame)));
        self.waiting += 1;
        true
    }

    /// Takes the next frame that went this way, at `from` or behind it; `from` is moved behind the frame.
    pub(crate) fn take(&mut self, way: Way, from: &mut usize) -> Option<BoardedFrame> {
        let rest = self.frames.get_mut(*from..)?;
        let (at, frame) = rest.iter_mut().enumerate().find(|(_, (of, frame))| *of == way && frame.is_some())?;
        *from += at + 1;
        self.waiting -= 1;
        frame.1.take()
    }
}
