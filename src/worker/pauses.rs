//! Ports that flood far beyond their limits, and are not read for a moment.
//!
//! Storm control drops a frame before it is copied, but the worker has read it by then: a guest that broadcasts as fast as it can
//! would still take the worker's time from the other ports. So a port of whose batch nearly all was dropped is left alone for
//! [`PAUSE`]. Its frames wait in the kernel's queue, and what does not fit is dropped there, in the context of the sender and at
//! its cost. The port loses little by that: its queue is full of frames that would be dropped anyway.
//!
//! ```text
//!  read 64, 60 of them dropped by storm control --> not watched for 2 ms --> watched, read 64 ...
//! ```

use std::collections::VecDeque;
use std::time::Duration;

use packet::Timestamp;
use packet::batch::USUAL_FRAMES;
use vswitch::PortId;

/// How long such a port is not read. With a batch of 64 frames every 2 ms a port can use up limits of 30,000 frames per second.
const PAUSE: Duration = Duration::from_millis(2);

/// Frames of one batch that storm control has dropped if the port is to pause.
const REFUSED: usize = USUAL_FRAMES * 3 / 4;

/// The pauses of a worker's ports, in the order of their ends.
#[derive(Debug)]
pub(super) struct Pauses(VecDeque<(Timestamp, PortId)>);

impl Pauses {
    /// Room for all of this number of ports.
    pub(super) fn new(ports: usize) -> Pauses {
        Pauses(VecDeque::with_capacity(ports))
    }

    /// Whether a port pauses after a batch of which this number of frames was refused.
    #[inline]
    pub(super) fn is_needed(refused: usize) -> bool {
        refused >= REFUSED
    }

    /// A port pauses from now on.
    pub(super) fn begin(&mut self, port: PortId, now: Timestamp) {
        if !self.has(port) {
            self.0.push_back((now.after(PAUSE), port));
        }
    }

    /// Whether a port pauses.
    #[inline]
    pub(super) fn has(&self, port: PortId) -> bool {
        self.0.iter().any(|(_, paused)| *paused == port)
    }

    /// When the first pause ends.
    #[inline]
    pub(super) fn next_end(&self) -> Option<Timestamp> {
        self.0.front().map(|(end, _)| *end)
    }

    /// A port whose pause is over.
    pub(super) fn take_ended(&mut self, now: Timestamp) -> Option<PortId> {
        let (_, port) = self.0.pop_front_if(|(end, _)| *end <= now)?;
        Some(port)
    }

    /// A port is not read any more.
    pub(super) fn forget(&mut self, port: PortId) {
        self.0.retain(|(_, paused)| *paused != port);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pauses_end_in_their_order() {
        let (a, b, c) = (PortId(1), PortId(2), PortId(3));
        let at = Timestamp::from_millis;
        let mut pauses = Pauses::new(4);
        assert!(pauses.next_end().is_none() && pauses.take_ended(at(100)).is_none());
        pauses.begin(a, at(100));
        pauses.begin(b, at(101));
        pauses.begin(a, at(101));
        pauses.begin(c, at(101));
        pauses.forget(c);
        assert!(pauses.has(a) && pauses.has(b) && !pauses.has(c));
        assert_eq!(pauses.next_end(), Some(at(102)));
        assert_eq!((pauses.take_ended(at(101)), pauses.take_ended(at(102)), pauses.take_ended(at(102))), (None, Some(a), None));
        assert_eq!((pauses.take_ended(at(200)), pauses.take_ended(at(200))), (Some(b), None));
    }

    #[test]
    fn a_batch_with_some_refused_frames_is_no_reason() {
        assert!(!Pauses::is_needed(0) && !Pauses::is_needed(USUAL_FRAMES / 2));
        assert!(Pauses::is_needed(USUAL_FRAMES));
    }
}
