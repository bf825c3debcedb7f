//! Polling for frames for a while before sleeping.
//!
//! Waking a thread, and a processor that has gone to sleep, takes most of the time of a request and its answer on a quiet
//! network. So a worker whose next frames are likely to arrive soon polls for them a little longer, and yields the processor
//! between two polls (sched_yield(2)). Whether they are likely is judged by the mean of its last pauses: a worker with little
//! to do sleeps at once, and an idle one takes no time at all. KVM's halt polling works in the same way.

use std::time::{Duration, Instant};

/// Mean pause above which a worker sleeps at once, in microseconds.
const SHORT_PAUSE: u32 = 200;

/// Longest pause that is counted, in microseconds, so that a few short ones are enough to start polling again.
const LONGEST_COUNTED: u32 = 1000;

/// How one worker waits.
#[derive(Clone, Copy, Debug)]
pub(crate) struct BusyPoll {
    limit: Duration,
    /// The mean of the last pauses, in microseconds.
    mean: u32,
}

impl BusyPoll {
    /// Polls for at most this long; zero turns polling off.
    pub(crate) fn new(limit: Duration) -> BusyPoll {
        BusyPoll { limit, mean: LONGEST_COUNTED }
    }

    /// Is another poll worth it, in a pause that began then?
    #[inline]
    pub(crate) fn goes_on(&self, began: Instant) -> bool {
        self.mean <= SHORT_PAUSE && began.elapsed() < self.limit
    }

    /// Counts a pause that began then and is over.
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
