//! Counters: frames and bytes by port, and drops by port and reason.
//!
//! Each worker has counters of its own that only it writes; whatever shows them adds the workers
//! up. The unit is a frame as the ingress port delivered it: a super-frame counts as one, whether it leaves
//! whole or in segments, and frames that leave coalesced still count each. So over all ports
//!
//! ```text
//! received + copied + made = sent + dropped + taken
//! ```
//!
//! where a flood to n ports makes n - 1 copies, and the router makes frames (ARP, ICMP, packets that
//! waited) and takes frames in (those it answers, packets that wait).

use std::alloc::{Layout, handle_alloc_error};
use std::sync::atomic::{AtomicU64, Ordering};

use zerocopy::FromZeros;

use crate::drop_reason::DropReason;
use crate::port::PortId;

/// A number that one worker writes and any thread reads.
#[derive(Debug, Default, FromZeros)]
pub struct Counter(AtomicU64);

impl Counter {
    /// Adds `n`. Only one thread may call this: a load and a store are cheaper than an atomic addition.
    #[inline]
    pub fn add(&self, n: u64) {
        self.0.store(self.0.load(Ordering::Relaxed).wrapping_add(n), Ordering::Relaxed);
    }

    /// The number now.
    #[inline]
    #[must_use]
    pub fn load(&self) -> u64 {
        self.0.load(Ordering::Relaxed)
    }
}

/// Declares the counters of a port, and their sums.
macro_rules! port_counters {
    ($($(#[doc = $doc:literal])+ $counter:ident)*) => {
        /// One worker's counters of one port.
        #[derive(Debug, Default, FromZeros)]
        pub struct PortCounters {
            $($(#[doc = $doc])+ pub $counter: Counter,)*
            drops: Drops,
        }

        /// Sums of the counters of one port.
        #[derive(Clone, PartialEq, Eq, Debug)]
        pub struct PortTotals {
            $($(#[doc = $doc])+ pub $counter: u64,)*
            /// Dropped frames, in the order of [`DropReason::ALL`].
            pub drops: [u64; DropReason::ALL.len()],
        }

        impl Default for PortTotals {
            fn default() -> PortTotals {
                PortTotals { $($counter: 0,)* drops: [0; DropReason::ALL.len()] }
            }
        }

        impl PortTotals {
            /// Adds the counters of a worker.
            pub fn add(&mut self, counters: &PortCounters) {
                $(self.$counter += counters.$counter.load();)*
                for (sum, counter) in self.drops.iter_mut().zip(&counters.drops.0) {
                    *sum += counter.load();
                }
            }

            /// Combines each number with that of `other`.
            pub fn each(&mut self, other: &PortTotals, change: fn(u64, u64) -> u64) {
                $(self.$counter = change(self.$counter, other.$counter);)*
                for (number, by) in self.drops.iter_mut().zip(other.drops) {
                    *number = change(*number, by);
                }
            }
        }
    };
}

port_counters! {
    /// Frames received.
    rx_frames
    /// Bytes received, without virtio-net headers.
    rx_bytes
    /// Frames sent.
    tx_frames
    /// Bytes sent, in frames as they were received.
    tx_bytes
    /// Successful writes: fewer than frames where frames were coalesced, more where they were
    /// segmented.
    tx_writes
    /// Copies made of frames received here, beyond the first.
    copies
    /// Frames that the router made.
    made
    /// Frames that the router took in.
    taken
    /// Super-frames that the kernel refused and that were sent in segments.
    offload_refused
}

impl PortTotals {
    /// All dropped frames.
    #[must_use]
    pub fn dropped(&self) -> u64 {
        self.drops.iter().sum()
    }

    /// Reasons for which frames were dropped, with their number.
    pub fn drops(&self) -> impl Iterator<Item = (DropReason, u64)> {
        DropReason::ALL.into_iter().zip(self.drops).filter(|(_, frames)| *frames > 0)
    }
}

#[derive(Debug, FromZeros)]
struct Drops([Counter; DropReason::ALL.len()]);

impl Default for Drops {
    fn default() -> Drops {
        Drops(std::array::from_fn(|_| Counter::default()))
    }
}

impl PortCounters {
    /// Counts dropped frames.
    #[inline]
    pub fn drop(&self, reason: DropReason, frames: u64) {
        self.drops.0[reason as usize].add(frames);
    }

    /// Number of frames dropped for this reason.
    #[must_use]
    pub fn dropped(&self, reason: DropReason) -> u64 {
        self.drops.0[reason as usize].load()
    }

    /// Frames dropped for any reason.
    #[must_use]
    pub fn all_dropped(&self) -> u64 {
        self.drops.0.iter().map(Counter::load).sum()
    }
}

/// One worker's counters of all ports. Those of a port have no cache lines of their own, because only this worker writes them all. A
/// larger alignment than that of numbers would also make the allocator clear, and thereby touch, the memory.
#[derive(Debug)]
pub struct Counters(Box<[PortCounters]>);

impl Counters {
    /// Counters of this number of ports, all zero. The memory for those of a port is used with the first frame that they count.
    #[must_use]
    pub fn new(ports: usize) -> Counters {
        let counters = <[PortCounters]>::new_box_zeroed_with_elems(ports);
        Counters(counters.unwrap_or_else(|_| handle_alloc_error(Layout::new::<PortCounters>())))
    }

    /// A port's counters; `None` for a number beyond the last port.
    #[inline]
    #[must_use]
    pub fn port(&self, port: PortId) -> Option<&PortCounters> {
        self.0.get(port.index())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_reason_has_its_own_counter() {
        let counters = PortCounters::default();
        for (n, reason) in (1..).zip(DropReason::ALL) {
            counters.drop(reason, n);
        }
        let mut totals = PortTotals::default();
        totals.add(&counters);
        assert!(totals.drops().zip(1..).all(|((reason, frames), n)| frames == n && counters.dropped(reason) == n));
        assert_eq!(totals.dropped(), (1..=DropReason::ALL.len() as u64).sum());
        let twice = totals.clone();
        totals.each(&twice, u64::wrapping_sub);
        assert_eq!(totals, PortTotals::default());
    }
}
