//! Latency of the pipeline: the time from receiving a batch to having written it.
//!
//! ```text
//!   recv ... | process ... transmit ... resume | recv ...
//!            ^                                 ^
//!            first clock reading               second
//! ```
//!
//! This is the time that the pipeline adds to the last frame of a batch, and nearly so to each: the switch has no queue of its
//! own between the two. Time that a frame waits in the kernel before it is read or after it is written is not included, nor is
//! the wait of frames left for a guest that does not read (see `tx_queue_bytes` of a port).
//!
//! *Cost.* One batch in 16, on average, is measured: two clock readings and three stores. Which one is random,
//! since every sixteenth would always be a batch of the same port of two, four or eight. All others cost a
//! subtraction.
//!
//! *Precision.* A time falls into one of 32 equal parts of a power of two, so it is reported at most 1/32 too long.
//!
//! *Threads.* One worker writes, any thread reads, and neither waits. A reader may see a time that is counted but not yet in the
//! sum.

use std::time::{Duration, Instant};

use vswitch::Counter;

/// Buckets per power of two.
const PARTS: u64 = 1 << PART_BITS;
const PART_BITS: u32 = 5;

/// Longest time that is told apart, in nanoseconds: about a minute.
const LONGEST: u64 = (1 << 36) - 1;

const BUCKETS: usize = bucket_of(LONGEST) + 1;

/// Mask of the random distance between two samples: 1 to 32 batches.
const DISTANCE: u32 = 31;

/// Counters of one worker, written by that worker only.
#[derive(Debug)]
pub(crate) struct WorkerCounters {
    /// Batches that were not empty; for tunnels, calls that received datagrams.
    pub(crate) batches: Counter,
    /// Panics, each of which cost a batch.
    pub(crate) panics: Counter,
    pub(crate) latency: Latency,
}

/// The times of the batches that were measured.
#[derive(Debug)]
pub(crate) struct Latency {
    buckets: Box<[Counter]>,
    sum: Counter,
    longest: Counter,
}

/// Chooses the batches that are measured.
#[derive(Debug)]
pub(super) struct Sampler {
    until: u32,
    state: u32,
}

impl WorkerCounters {
    pub(crate) fn new() -> WorkerCounters {
        WorkerCounters { batches: Counter::default(), panics: Counter::default(), latency: Latency::new() }
    }
}

impl Latency {
    pub(crate) fn new() -> Latency {
        let buckets = std::iter::repeat_with(Counter::default).take(BUCKETS).collect();
        Latency { buckets, sum: Counter::default(), longest: Counter::default() }
    }

    /// Counts a time.
    pub(crate) fn record(&self, time: Duration) {
        let nanos = u64::try_from(time.as_nanos()).unwrap_or(u64::MAX).min(LONGEST);
        self.buckets[bucket_of(nanos)].add(1);
        self.sum.add(nanos);
        self.longest.add(nanos.saturating_sub(self.longest.load()));
    }

    /// The buckets that are not empty: the longest time that falls into each, in nanoseconds, and its count.
    pub(crate) fn counts(&self) -> impl Iterator<Item = (u64, u64)> {
        let counted = self.buckets.iter().enumerate().map(|(bucket, count)| (last_of(bucket), count.load()));
        counted.filter(|(_, count)| *count > 0)
    }

    /// Sum of all times, in nanoseconds.
    pub(crate) fn sum(&self) -> u64 {
        self.sum.load()
    }

    /// The longest time, exactly, in nanoseconds.
    pub(crate) fn longest(&self) -> u64 {
        self.longest.load()
    }
}

impl Sampler {
    /// The first batch is measured; `seed` sets workers apart.
    pub(super) fn new(seed: u32) -> Sampler {
        Sampler { until: 0, state: seed.wrapping_mul(0x9e37_79b9) | 1 }
    }

    /// The time now, if this batch is to be measured.
    #[inline]
    pub(super) fn draw(&mut self) -> Option<Instant> {
        if self.until > 0 {
            self.until -= 1;
            return None;
        }
        // Marsaglia's xorshift: no more is needed of it than to be out of step with the ports.
        self.state ^= self.state << 13;
        self.state ^= self.state >> 17;
        self.state ^= self.state << 5;
        self.until = self.state & DISTANCE;
        Some(Instant::now())
    }
}

const fn bucket_of(nanos: u64) -> usize {
    if nanos < PARTS {
        return nanos as usize;
    }
    let power = 63 - nanos.leading_zeros() - PART_BITS;
    (power as usize + 1) * PARTS as usize + (nanos >> power) as usize - PARTS as usize
}

/// The longest time that falls into a bucket.
const fn last_of(bucket: usize) -> u64 {
    let (power, part) = (bucket as u64 / PARTS, bucket as u64 % PARTS);
    if power == 0 { part } else { ((PARTS + part + 1) << (power - 1)) - 1 }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_bucket_holds_what_is_within_a_part_of_it() {
        assert_eq!((bucket_of(0), bucket_of(31), bucket_of(32), bucket_of(63), bucket_of(64)), (0, 31, 32, 63, 64));
        for bucket in 0..BUCKETS {
            assert_eq!(bucket_of(last_of(bucket)), bucket);
            assert_eq!(bucket_of(last_of(bucket) + 1), bucket + 1);
        }
        assert_eq!(last_of(BUCKETS - 1), LONGEST);
        for nanos in [33, 1000, 123_456_789, 1 << 35] {
            let shown = last_of(bucket_of(nanos));
            assert!((nanos..=nanos + nanos / 32).contains(&shown), "{nanos} is shown as {shown}");
        }
    }

    #[test]
    fn what_was_recorded_is_read() {
        let latency = Latency::new();
        for nanos in [5, 5, 40_000, 1_000] {
            latency.record(Duration::from_nanos(nanos));
        }
        latency.record(Duration::from_hours(1));
        assert_eq!(latency.counts().map(|(_, count)| count).collect::<Vec<u64>>(), [2, 1, 1, 1]);
        assert_eq!(latency.longest(), LONGEST);
        assert_eq!(latency.sum(), 41_010 + LONGEST);
    }

    /// Whatever the number of ports that a worker serves in turn, each is measured.
    #[test]
    fn the_sampler_meets_every_port() {
        for ports in [1, 2, 3, 4, 8, 16, 17, 32] {
            let (mut sampler, mut met, mut drawn) = (Sampler::new(0), vec![0; ports], 0);
            for batch in 0..32_000 {
                if sampler.draw().is_some() {
                    met[batch % ports] += 1;
                    drawn += 1;
                }
            }
            assert!((1600..2600).contains(&drawn), "{drawn} of 32,000");
            assert!(met.iter().all(|met| *met > drawn / ports / 2), "{met:?}");
        }
        assert!(Sampler::new(1).draw().is_some(), "the first");
    }
}
