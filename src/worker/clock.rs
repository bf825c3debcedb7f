//! The one clock of the daemon.

use std::time::Instant;

use packet::Timestamp;

/// Monotonic time since the daemon's start, in milliseconds for the core and in nanoseconds for captures and traces.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Clock(Instant);

impl Clock {
    /// A clock that starts now.
    pub(crate) fn start() -> Clock {
        Clock(Instant::now())
    }

    /// Nanoseconds since the start, the time of captured and traced frames.
    #[inline]
    pub(crate) fn nanoseconds(self) -> u64 {
        u64::try_from(self.0.elapsed().as_nanos()).unwrap_or(u64::MAX)
    }

    /// Milliseconds since the start, the time of everything else.
    #[inline]
    pub(crate) fn now(self) -> Timestamp {
        Timestamp::from_millis(u64::try_from(self.0.elapsed().as_millis()).unwrap_or(u64::MAX))
    }
}
