//! Polling for frames for a while before sleeping.
//!
//! Waking a thread, and a processor that has gone to sleep, takes most of the time of a request and its answer on a quiet
//! network. So a worker whose next frames are likely to arrive soon polls for them a little longer, and yields the processor
//! between two polls (sched_yield(2)).
//!
//! How long follows the rule of KVM's halt polling (`Documentation/virt/kvm/halt-polling.rst`). A worker polls within a *window*,
//! then sleeps:
//!
//! ```text
//!  pause of the worker                        window
//!  shorter than the window                    stays: the poll found the frames
//!  longer than the window, within the limit   doubles, from 10 us up to the limit: a longer poll would have found them
//!  longer than the limit                      halves, below 10 us none: the poll was in vain
//! ```
//!
//! So a worker with little to do sleeps at once, and an idle one takes no time at all.

use std::time::{Duration, Instant};

/// The shortest window.
const FIRST_WINDOW: Duration = Duration::from_micros(10);

/// How one worker waits.
#[derive(Clone, Copy, Debug)]
pub(crate) struct BusyPoll {
    limit: Duration,
    /// For how long the next pause is polled; zero: not at all.
    window: Duration,
}

impl BusyPoll {
    /// Polls for at most this long; zero turns polling off.
    pub(crate) fn new(limit: Duration) -> BusyPoll {
        BusyPoll { limit, window: Duration::ZERO }
    }

    /// Whether another poll is worth it, in a pause that began then.
    #[inline]
    pub(crate) fn goes_on(&self, began: Instant) -> bool {
        !self.window.is_zero() && began.elapsed() < self.window
    }

    /// Adapts the window to a pause that began then and is over.
    #[inline]
    pub(crate) fn note(&mut self, began: Instant) {
        self.adapt(began.elapsed());
    }

    fn adapt(&mut self, pause: Duration) {
        if pause > self.limit {
            let half = self.window / 2;
            self.window = if half < FIRST_WINDOW { Duration::ZERO } else { half };
        } else if pause > self.window {
            self.window = (self.window * 2).max(FIRST_WINDOW).min(self.limit);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const LIMIT: Duration = Duration::from_micros(200);

    fn after(pauses: &[u64]) -> BusyPoll {
        let mut poll = BusyPoll::new(LIMIT);
        pauses.iter().for_each(|pause| poll.adapt(Duration::from_micros(*pause)));
        poll
    }

    #[test]
    fn the_window_grows_while_a_longer_one_would_find_frames() {
        let windows = [0, 1, 2, 3, 4, 5, 6, 9].map(|pauses| after(&vec![180; pauses]).window.as_micros());
        assert_eq!(windows, [0, 10, 20, 40, 80, 160, 200, 200]);
        assert_eq!(after(&[180, 180, 15, 15, 15]).window.as_micros(), 20, "it is long enough");
    }

    #[test]
    fn the_window_shrinks_while_polling_is_in_vain() {
        let windows = [0, 1, 2, 4, 5].map(|long| after(&[vec![180; 9], vec![50_000; long]].concat()).window.as_micros());
        assert_eq!(windows, [200, 100, 50, 12, 0]);
    }

    #[test]
    fn polling_ends_with_the_window() {
        let ago = |micros| Instant::now().checked_sub(Duration::from_micros(micros)).unwrap();
        assert!(!after(&[]).goes_on(Instant::now()), "nothing is known yet");
        let mut poll = BusyPoll::new(Duration::from_secs(1000));
        (0..40).for_each(|_| poll.adapt(Duration::from_secs(999)));
        assert!(poll.goes_on(Instant::now()) && !poll.goes_on(ago(2_000_000_000)));
    }

    #[test]
    fn zero_is_never() {
        let mut poll = BusyPoll::new(Duration::ZERO);
        poll.adapt(Duration::ZERO);
        poll.adapt(Duration::from_micros(5));
        assert!(!poll.goes_on(Instant::now()));
    }
}
