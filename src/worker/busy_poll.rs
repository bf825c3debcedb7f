//! Looking for frames for a while before sleeping.
//!
//! Who sleeps must be woken, and a processor that slept must be too: where a request waits for its
//! answer, that is most of the time that it takes. So a worker whose next frames are likely to come soon
//! looks for them a little longer, and lets others run between two looks (sched_yield(2)). "Likely" is
//! what was: the mean of its last pauses, so that a worker with little to do sleeps at once and an idle
//! one takes no time at all. KVM's halt polling does the same for the same reason.

use std::time::{Duration, Instant};

/// Pauses longer than this in the mean are slept through.
const SHORT_PAUSE: u32 = 200;

/// A pause counts as no longer than this, so that a few short ones are enough to change one's mind.
const LONGEST_COUNTED: u32 = 1000;

/// How one worker waits.
#[derive(Clone, Copy, Debug)]
pub(crate) struct BusyPoll {
    limit: Duration,
    /// The mean of the last pauses, in microseconds.
    mean: u32,
}

impl BusyPoll {
    /// Looks for at most so long; zero is never.
    pub(crate) fn new(limit: Duration) -> BusyPoll {
        BusyPoll { limit, mean: LONGEST_COUNTED }
    }

    /// Is it worth another look, in a pause that began then?
    #[inline]
    pub(crate) fn goes_on(&self, began: Instant) -> bool {
        self.mean <= SHORT_PAUSE && began.elapsed() < self.limit
    }

    /// A pause is over that began then.
    #[inline]
    pub(crate) fn note(&mut self, began: Instant) {
        let pause = u32::try_from(began.elapsed().as_micros()).map_or(LONGEST_COUNTED, |pause| pause.min(LONGEST_COUNTED));
        self.mean = (self.mean * 3 + pause) / 4;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn short_pauses_are_looked_through_and_long_ones_slept() {
        let ago = |micros| Instant::now().checked_sub(Duration::from_micros(micros)).unwrap();
        let mut poll = BusyPoll::new(Duration::from_secs(1));
        assert!(!poll.goes_on(Instant::now()), "nothing is known yet");
        for _ in 0..10 {
            poll.note(ago(10));
        }
        assert!(poll.goes_on(Instant::now()) && !poll.goes_on(ago(2_000_000)));
        for _ in 0..3 {
            poll.note(ago(50_000));
        }
        assert!(!poll.goes_on(Instant::now()));
    }

    #[test]
    fn zero_is_never() {
        let mut poll = BusyPoll::new(Duration::ZERO);
        for _ in 0..10 {
            poll.note(Instant::now());
        }
        assert!(!poll.goes_on(Instant::now()));
    }
}
