//! Ports that flood far beyond their limits, and are not read for a moment.
//!
//! Storm control drops a frame before it is copied, but the worker has read it by then: a guest that broadcasts as fast as it can
//! would still take the worker's time from the other ports. So a port of which [`REFUSED`] frames were dropped within [`WINDOW`] is
//! left alone. Its frames wait in the kernel's queue, and what does not fit is dropped there, in the context of the sender and at
//! its cost. The port loses little by that: its queue is full of frames that would be dropped anyway.
//!
//! ```text
//!  64 dropped by storm control --> not watched for 2 ms --> watched; 64 dropped --> 4 ms --> .. 64 dropped --> 16 ms
//! ```
//!
//! A pause is twice as long as the one before if the port goes on as it did, and [`SHORTEST`] again once it was calm for as long as
//! its pause or the window, whichever is longer. Until then the port gains few tokens of storm control.

use std::collections::VecDeque;
use std::time::Duration;

use packet::Timestamp;
use vswitch::PortId;

/// Frames that storm control has dropped within [`WINDOW`] if the port is to pause: 16,000 per second beyond its limits.
const REFUSED: usize = 64;

/// The time in which dropped frames are counted.
const WINDOW: Duration = Duration::from_millis(4);

/// How long such a port is not read at first.
const SHORTEST: Duration = Duration::from_millis(2);

/// How long it is not read if it does not stop. To read 64 frames every 16 ms takes less than a hundredth of a core.
const LONGEST: Duration = Duration::from_millis(16);

/// The pauses of a worker's ports.
#[derive(Debug)]
pub(super) struct Pauses {
    /// Ports that pause, in the order of the ends.
    ends: VecDeque<(Timestamp, PortId)>,
    storms: Vec<Storm>,
}

/// How much a port has flooded lately.
#[derive(Clone, Copy, Debug)]
struct Storm {
    /// When counting began.
    since: Timestamp,
    /// Frames dropped since then.
    refused: usize,
    /// The length of the pause that counting began with; 0 if there was none.
    last: Duration,
}

/// A pause of a port.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct Pause {
    pub(super) end: Timestamp,
    /// The port floods within its limits again if it does not pause before this time.
    pub(super) calm: Timestamp,
}

impl Storm {
    const NONE: Storm = Storm { since: Timestamp::from_millis(0), refused: 0, last: Duration::ZERO };
}

impl Pauses {
    /// For port numbers below `ports`.
    pub(super) fn new(ports: usize) -> Pauses {
        let mut pauses = Pauses { ends: VecDeque::new(), storms: Vec::new() };
        pauses.make_room(ports);
        pauses
    }

    /// Makes room for port numbers below `ports`, if there is less.
    pub(super) fn make_room(&mut self, ports: usize) {
        if ports > self.storms.len() {
            self.storms.resize(ports, Storm::NONE);
            self.ends.reserve(ports - self.ends.len().min(ports));
        }
    }

    /// Storm control has dropped this number of frames of a port. Returns its pause, if it is to pause now.
    #[cold]
    pub(super) fn note(&mut self, port: PortId, refused: usize, now: Timestamp) -> Option<Pause> {
        let storm = self.storms.get_mut(port.index())?;
        if now.since(storm.since) > WINDOW.max(storm.last) {
            *storm = Storm { since: now, ..Storm::NONE };
        }
        storm.refused = storm.refused.saturating_add(refused);
        if storm.refused < REFUSED {
            return None;
        }
        let length = (storm.last * 2).clamp(SHORTEST, LONGEST);
        let end = now.after(length);
        *storm = Storm { since: end, refused: 0, last: length };
        Some(Pause { end, calm: end.after(WINDOW.max(length)) })
    }

    /// A port pauses until `end`.
    pub(super) fn begin(&mut self, port: PortId, end: Timestamp) {
        if !self.has(port) {
            let place = self.ends.partition_point(|(other, _)| *other <= end);
            self.ends.insert(place, (end, port));
        }
    }

    /// Whether a port pauses.
    #[inline]
    pub(super) fn has(&self, port: PortId) -> bool {
        self.ends.iter().any(|(_, paused)| *paused == port)
    }

    /// When the first pause ends.
    #[inline]
    pub(super) fn next_end(&self) -> Option<Timestamp> {
        self.ends.front().map(|(end, _)| *end)
    }

    /// A port whose pause is over.
    pub(super) fn take_ended(&mut self, now: Timestamp) -> Option<PortId> {
        let (_, port) = self.ends.pop_front_if(|(end, _)| *end <= now)?;
        Some(port)
    }

    /// A port is not read any more.
    pub(super) fn forget(&mut self, port: PortId) {
        self.ends.retain(|(_, paused)| *paused != port);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const A: PortId = PortId(1);
    const B: PortId = PortId(2);
    const C: PortId = PortId(3);

    fn at(millis: u64) -> Timestamp {
        Timestamp::from_millis(millis)
    }

    #[test]
    fn pauses_end_in_their_order() {
        let mut pauses = Pauses::new(4);
        assert!(pauses.next_end().is_none() && pauses.take_ended(at(100)).is_none());
        pauses.begin(A, at(108));
        pauses.begin(B, at(103));
        pauses.begin(A, at(101));
        pauses.begin(C, at(103));
        pauses.forget(C);
        assert!(pauses.has(A) && pauses.has(B) && !pauses.has(C));
        assert_eq!(pauses.next_end(), Some(at(103)));
        assert_eq!((pauses.take_ended(at(102)), pauses.take_ended(at(103)), pauses.take_ended(at(107))), (None, Some(B), None));
        assert_eq!((pauses.take_ended(at(200)), pauses.take_ended(at(200))), (Some(A), None));
    }

    /// What a port does that floods this number of frames each millisecond, all of them dropped: its pauses, in ms.
    fn pauses_of(pauses: &mut Pauses, from: u64, millis: u64, frames: usize) -> Vec<u128> {
        let (mut lengths, mut now) = (Vec::new(), from);
        while now < from + millis {
            let pause = pauses.note(A, frames, at(now)).map(|pause| pause.end.since(at(now)).as_millis());
            lengths.extend(pause);
            now += pause.map_or(1, |length| length as u64);
        }
        lengths
    }

    #[test]
    fn pauses_grow_while_a_port_does_not_stop() {
        let mut pauses = Pauses::new(4);
        assert_eq!(pauses_of(&mut pauses, 1000, 60, 64), [2, 4, 8, 16, 16, 16]);
        assert_eq!(pauses_of(&mut pauses, 1100, 1, 64), [2], "calm for a while");
    }

    #[test]
    fn some_frames_beyond_the_limits_are_no_reason() {
        let mut pauses = Pauses::new(4);
        assert!(pauses_of(&mut pauses, 1000, 1000, 10).is_empty());
        assert!(!pauses_of(&mut pauses, 3000, 1000, 20).is_empty(), "small batches count as large ones do");
        assert!(pauses.note(B, 63, at(4000)).is_none(), "another port");
        assert!(pauses.note(PortId::NOWHERE, 1000, at(4000)).is_none());
    }
}
