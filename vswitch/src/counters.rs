//! What is counted: frames and bytes by port, and every drop by its reason.
//!
//! Each worker counts for itself, into numbers that only it writes; who shows them adds the workers
//! up. The unit is a frame as the ingress port delivered it: a super-frame is one, whether it leaves
//! whole or in segments, and frames that leave as one super-frame still count each. So over all ports
//!
//! ```text
//! received + copied = sent + dropped
//! ```
//!
//! where a flood to n ports has made n - 1 copies.

use std::sync::atomic::{AtomicU64, Ordering};

use crate::port::PortId;

/// Why a frame went no further. Each has one counter, by the port that it came from (first part) or
/// the one that it should have left through (second part).
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[repr(u8)]
pub enum DropReason {
    /// Shorter than an Ethernet header.
    Runt,
    /// Ends within a VLAN tag.
    TruncatedTag,
    /// Its virtio-net header contradicts the frame or itself, or is of a kind not negotiated.
    BadVnetHeader,
    /// To 01:80:c2:00:00:0x, which bridges do not forward.
    LinkLocal,
    /// The ingress port does not carry its VLAN.
    VlanNotAllowed,
    /// Its destination is behind the port that it came from.
    SamePort,
    /// No other port carries its VLAN.
    NoDestination,
    /// Its destination's port does not carry its VLAN.
    VlanNotCarried,
    /// Longer than the egress port's MTU.
    TooLong,
    /// The egress port's link is down.
    PortDown,
    /// The egress port's device is gone.
    PortGone,
    /// The egress port's queue is full.
    QueueFull,
    /// The kernel refused the write for another reason.
    WriteFailed,
}

impl DropReason {
    /// All reasons, in the order of their counters.
    pub const ALL: [DropReason; 13] = [
        DropReason::Runt,
        DropReason::TruncatedTag,
        DropReason::BadVnetHeader,
        DropReason::LinkLocal,
        DropReason::VlanNotAllowed,
        DropReason::SamePort,
        DropReason::NoDestination,
        DropReason::VlanNotCarried,
        DropReason::TooLong,
        DropReason::PortDown,
        DropReason::PortGone,
        DropReason::QueueFull,
        DropReason::WriteFailed,
    ];

    /// The reason's name for people and programs.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            DropReason::Runt => "runt",
            DropReason::TruncatedTag => "truncated_tag",
            DropReason::BadVnetHeader => "bad_vnet_hdr",
            DropReason::LinkLocal => "link_local",
            DropReason::VlanNotAllowed => "vlan_not_allowed",
            DropReason::SamePort => "same_port",
            DropReason::NoDestination => "no_destination",
            DropReason::VlanNotCarried => "vlan_not_carried",
            DropReason::TooLong => "too_long",
            DropReason::PortDown => "port_down",
            DropReason::PortGone => "port_gone",
            DropReason::QueueFull => "queue_full",
            DropReason::WriteFailed => "write_failed",
        }
    }
}

/// A number that one worker writes and anybody reads.
#[derive(Debug, Default)]
pub struct Counter(AtomicU64);

impl Counter {
    /// Adds. Only one thread may: a load and a store are cheaper than an atomic addition.
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

/// One worker's numbers of one port.
#[derive(Debug, Default)]
#[repr(align(64))]
pub struct PortCounters {
    /// Frames received.
    pub rx_frames: Counter,
    /// Their bytes, without virtio-net headers.
    pub rx_bytes: Counter,
    /// Frames sent.
    pub tx_frames: Counter,
    /// Their bytes, as they were received.
    pub tx_bytes: Counter,
    /// Writes that succeeded: fewer than frames where frames were coalesced, more where they were
    /// segmented.
    pub tx_writes: Counter,
    /// Copies made of frames received here, beyond the first.
    pub copies: Counter,
    /// Super-frames that the kernel refused and that went out in segments.
    pub offload_refused: Counter,
    drops: [Counter; DropReason::ALL.len()],
}

impl PortCounters {
    /// Counts dropped frames.
    #[inline]
    pub fn drop(&self, reason: DropReason, frames: u64) {
        self.drops[reason as usize].add(frames);
    }

    /// How many frames were dropped for this reason.
    #[must_use]
    pub fn dropped(&self, reason: DropReason) -> u64 {
        self.drops[reason as usize].load()
    }
}

/// One worker's numbers of all ports of a bridge.
#[derive(Debug)]
pub struct Counters(Box<[PortCounters]>);

impl Counters {
    /// All zero.
    #[must_use]
    pub fn new(ports: usize) -> Counters {
        Counters(std::iter::repeat_with(PortCounters::default).take(ports).collect())
    }

    /// A port's numbers; `None` if there are none of this port.
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
    fn each_reason_has_its_own_counter_and_name() {
        let counters = PortCounters::default();
        for (n, reason) in DropReason::ALL.into_iter().enumerate() {
            assert_eq!(reason as usize, n);
            counters.drop(reason, n as u64 + 1);
        }
        let mut names: Vec<&str> = DropReason::ALL.iter().map(|reason| reason.name()).collect();
        names.sort_unstable();
        names.dedup();
        assert_eq!(names.len(), DropReason::ALL.len());
        assert!(DropReason::ALL.into_iter().all(|reason| counters.dropped(reason) == reason as u64 + 1));
    }
}
