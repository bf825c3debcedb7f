//! Packets that waited for a neighbour or for a first fragment, and continue after the batch that it came in.
//!
//! They are the work of the port that the batch came from, and it is bounded as that of its own frames: a guest that answers for many
//! addresses at once, with MAC addresses that nobody has, causes as many floods as packets wait. So a turn ends once it has made
//! [`MAX_WRITES`] writes of them, and the rest continues in the next rounds, once in each, whether or not the port has further frames.

use packet::Timestamp;
use packet::batch::MAX_FRAMES;
use vswitch::{MAX_WRITES, PortId, Work};

use super::{Worker, mark};

/// What earlier turns have left to be resumed.
#[derive(Clone, Copy, Debug)]
pub(super) struct Backlog {
    /// Number of things that are left; those of the current turn are resumed before them.
    left: usize,
    /// The port whose turn has left the last of them.
    of: PortId,
}

impl Backlog {
    pub(super) const NONE: Backlog = Backlog { left: 0, of: PortId::NOWHERE };
}

impl Worker {
    /// Whether the batch at hand has left something to be resumed.
    #[inline]
    pub(super) fn has_new_backlog(&self) -> bool {
        self.pipeline.deferred() > self.backlog.left
    }

    /// Whether anything is left to be resumed, for which no poller wakes the worker.
    #[inline]
    pub(super) fn has_backlog(&self) -> bool {
        self.pipeline.deferred() > 0
    }

    /// Resumes what the batch at hand of this port has left, as far as a turn goes.
    pub(super) fn resume(&mut self, of: PortId, now: Timestamp) -> Work {
        let work = self.resume_down_to(self.backlog.left, now);
        if self.has_new_backlog() {
            self.backlog = Backlog { left: self.pipeline.deferred(), of };
        }
        work
    }

    /// Goes on with what earlier turns have left.
    #[cold]
    pub(super) fn resume_backlog(&mut self) {
        mark(&mut self.pipeline, self.clock);
        let work = self.resume_down_to(0, self.clock.now());
        // What the router's timers have left is nobody's work.
        if self.backlog.of != PortId::NOWHERE {
            self.turns.charge(self.backlog.of, 1, work);
        }
        let left = self.pipeline.deferred();
        self.backlog = if left > 0 { Backlog { left, ..self.backlog } } else { Backlog::NONE };
    }

    fn resume_down_to(&mut self, left: usize, now: Timestamp) -> Work {
        let mut work = Work::default();
        // What makes no writes is bounded, too.
        for _ in 0..4 * MAX_FRAMES {
            if self.pipeline.deferred() <= left || work.writes >= u64::from(MAX_WRITES) {
                break;
            }
            self.pipeline.resume(&mut self.buffers.batch, now, &mut self.egress);
            work += self.pipeline.transmit(&self.buffers.batch, &mut self.egress, &mut self.outputs);
        }
        work
    }
}
