//! Time as the core sees it: a number that comes in as an argument.

use std::time::Duration;

/// Milliseconds on a monotonic clock since the process started. The daemon reads the clock once per
/// batch; the core only compares.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug, Default)]
pub struct Timestamp {
    millis: u64,
    /// The same in whole seconds, which tables compare for each frame.
    secs: u32,
}

impl Timestamp {
    /// The given number of milliseconds after the start.
    #[must_use]
    pub const fn from_millis(millis: u64) -> Timestamp {
        let secs = millis / 1000;
        Timestamp { millis, secs: if secs > u32::MAX as u64 { u32::MAX } else { secs as u32 } }
    }

    /// The given number of seconds after the start.
    #[must_use]
    pub const fn from_secs(secs: u64) -> Timestamp {
        Timestamp::from_millis(secs * 1000)
    }

    /// Milliseconds since the start.
    #[must_use]
    pub const fn as_millis(self) -> u64 {
        self.millis
    }

    /// Whole seconds since the start, as tables store them; enough for 136 years.
    #[inline]
    #[must_use]
    pub const fn secs(self) -> u32 {
        self.secs
    }

    /// This moment plus `time`.
    #[must_use]
    pub fn after(self, time: Duration) -> Timestamp {
        Timestamp::from_millis(self.millis.saturating_add(u64::try_from(time.as_millis()).unwrap_or(u64::MAX)))
    }

    /// The time from `earlier` to this moment, zero if that is in the future.
    #[must_use]
    pub fn since(self, earlier: Timestamp) -> Duration {
        Duration::from_millis(self.millis.saturating_sub(earlier.millis))
    }
}
