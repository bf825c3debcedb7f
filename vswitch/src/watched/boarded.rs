//! Frames that are in trains and whose datagrams have not left yet, with what somebody wants to remember of each.
//!
//! A train says how many frames end in it, not which: trains of one way leave in the order in which their frames boarded.
//! What left is marked and stays where it is, so that each train is one look through the list.

use tunnel::Way;
use tunnel::train::MAX_CARS;

/// As many as there can be datagrams, and one that is just added.
const MAX_BOARDED: usize = MAX_CARS + 1;

#[derive(Debug)]
pub(crate) struct Boarded<T> {
    /// `None` for what left.
    frames: Vec<(Way, Option<T>)>,
    /// So many have not left.
    waiting: usize,
}

impl<T: Copy> Boarded<T> {
    /// None, with all the memory that it will ever use.
    pub(crate) fn new() -> Boarded<T> {
        Boarded { frames: Vec::with_capacity(MAX_BOARDED), waiting: 0 }
    }

    /// Forgets all: trains of another batch are to leave.
    #[inline]
    pub(crate) fn clear(&mut self) {
        self.frames.clear();
        self.waiting = 0;
    }

    /// A frame is in trains of this way. False if nobody can remember it.
    pub(crate) fn board(&mut self, way: Way, frame: T) -> bool {
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

    /// The next frame that went this way, at `from` or behind it; `from` is moved behind the frame.
    pub(crate) fn take(&mut self, way: Way, from: &mut usize) -> Option<T> {
        let rest = self.frames.get_mut(*from..)?;
        let (at, frame) = rest.iter_mut().enumerate().find(|(_, (of, frame))| *of == way && frame.is_some())?;
        *from += at + 1;
        self.waiting -= 1;
        frame.1.take()
    }
}
