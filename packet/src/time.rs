//! Time as the core sees it: a number that comes in as an argument.

use std::time::Duration;

/// Milliseconds on a monotonic clock since the process started. The daemon reads the clock once per
/// batch; the core only compares.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug, Default)]
pub struct Timestamp(u64);

impl Timestamp {
    /// The given number of milliseconds after the start.
    #[must_use]
    pub const fn from_millis(millis: u64) -> Timestamp {
        Timestamp(millis)
    }

    /// The given number of seconds after the start.
    #[must_use]
    pub const fn from_secs(secs: u64) -> Timestamp {
        Timestamp(secs * 1000)
    }

    /// Milliseconds since the start.
    #[must_use]
    pub const fn as_millis(self) -> u64 {
        self.0
    }

    /// Whole seconds since the start, as tables store them; enough for 136 years.
    #[inline]
    #[must_use]
    pub fn secs(self) -> u32 {
        u32::try_from(self.0 / 1000).unwrap_or(u32::MAX)
    }

    /// This moment plus `time`.
    #[must_use]
    pub fn after(self, time: Duration) -> Timestamp {
        Timestamp(self.0.saturating_add(u64::try_from(time.as_millis()).unwrap_or(u64::MAX)))
    }

    /// The time from `earlier` to this moment, zero if that is in the future.
    #[must_use]
    pub fn since(self, earlier: Timestamp) -> Duration {
        Duration::from_millis(self.0.saturating_sub(earlier.0))
    }
}
