//! Storm control: maximum rates of the frames of a port that are flooded.
//!
//! A flood costs as many writes as the VLAN has ports, so a station that sends frames to everybody as fast as it can would take
//! the switch's time from all others. Each port has a token bucket per class of such frames: broadcast, multicast, and unicast to
//! a station that the MAC table does not know. A frame takes a token before it is copied.
//!
//! *The burst* is twice the rate, but at rates above 1,000 only 2,000 frames or a fifth of the rate, whichever is more: 20,000
//! frames to 32 ports at once would be 640,000 writes, half a second in which others wait.
//!
//! *The unit is a frame received*, whatever the number of ports that it would leave through: what a port may send does not depend
//! on the number of its neighbours. A super-frame takes as many tokens as it has segments; one token is enough to let it pass, and
//! the bucket is in debt afterwards.
//!
//! *Far beyond the limits* a port gets less than they allow. A station that sends ten times of what is let through has no use for
//! the tenth, but the copies cost the others as much as those of an honest one. While it goes on, which is for the worker to say, its
//! buckets gain at most 100 tokens per second.
//!
//! *Frames of the router* (its ARP requests, its answers) take no token, and neither do frames that it takes in: ARP to the
//! gateway is answered before. A routed packet whose last hop is flooded takes one of the port that it came in through.
//!
//! *A guest that reconnects* gets no new burst: the buckets of a number outlive its port, and keep their tokens as long as the
//! limits are the same. But the number says nothing about who has it, so that a debt beyond one burst (of a super-frame that had more
//! segments) is not handed on: the next guest at a place waits for no longer than two seconds.
//!
//! *Threads.* The buckets are each worker's own, because a port is read by one worker. Where a port has several queues, each
//! of them has the whole rate.

use packet::Timestamp;

use crate::drop_reason::DropReason;
use crate::limit::Bucket;
use crate::port::PortId;

/// The burst of rates from 1,000 to 10,000, in frames.
const BURST: u32 = 2000;

/// Maximum number of tokens that a port gains per second while it floods far beyond its limits.
const SLOW: u32 = 100;

/// Maximum rates of the frames of a port that are flooded, in frames per second; `None` is no limit.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct StormLimits {
    /// Frames to all stations.
    pub broadcast: Option<u32>,
    /// Frames to other group addresses.
    pub multicast: Option<u32>,
    /// Frames to stations that the MAC table does not know.
    pub unknown: Option<u32>,
}

impl StormLimits {
    /// No limits.
    pub const NONE: StormLimits = StormLimits { broadcast: None, multicast: None, unknown: None };
}

/// The class of a frame that is flooded.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum FloodClass {
    Broadcast,
    Multicast,
    Unknown,
}

/// One worker's buckets of all ports.
#[derive(Debug, Default)]
pub(crate) struct StormControl {
    /// Up to the highest number of a port that has had limits.
    ports: Vec<PortBuckets>,
    refused: usize,
}

#[derive(Clone, Debug)]
struct PortBuckets {
    limits: StormLimits,
    /// By [`FloodClass`]; `None` is no limit.
    buckets: [Option<Bucket>; 3],
}

impl StormControl {
    /// Sets a port's limits. Buckets keep their tokens if the limits are the same, and owe no more than a burst.
    pub(crate) fn set(&mut self, port: PortId, limits: StormLimits) {
        if port.index() >= self.ports.len() {
            if limits == StormLimits::NONE {
                return;
            }
            self.ports.resize(port.index() + 1, PortBuckets::new(StormLimits::NONE));
        }
        let port = &mut self.ports[port.index()];
        if port.limits != limits {
            *port = PortBuckets::new(limits);
        }
        port.buckets.iter_mut().flatten().for_each(Bucket::bound_debt);
    }

    /// A new batch begins.
    #[inline]
    pub(crate) fn begin_batch(&mut self) {
        self.refused = 0;
    }

    /// Number of frames of this batch that were refused.
    #[inline]
    pub(crate) fn refused(&self) -> usize {
        self.refused
    }

    /// From `now` until `calm` the port's buckets gain at most 100 tokens per second.
    #[cold]
    pub(crate) fn withhold(&mut self, port: PortId, now: Timestamp, calm: Timestamp) {
        let Some(PortBuckets { buckets, .. }) = self.ports.get_mut(port.index()) else { return };
        buckets.iter_mut().flatten().for_each(|bucket| bucket.slow_down(SLOW, now, calm));
    }

    /// Takes tokens for a frame of this number of segments that would be flooded.
    #[inline]
    pub(crate) fn admit(&mut self, port: PortId, class: FloodClass, segments: u32, now: Timestamp) -> Result<(), DropReason> {
        let Some(PortBuckets { buckets, .. }) = self.ports.get_mut(port.index()) else { return Ok(()) };
        let Some(bucket) = &mut buckets[class as usize] else { return Ok(()) };
        if bucket.spend(segments, now) {
            return Ok(());
        }
        self.refused += 1;
        Err(match class {
            FloodClass::Broadcast => DropReason::StormBroadcast,
            FloodClass::Multicast => DropReason::StormMulticast,
            FloodClass::Unknown => DropReason::StormUnknown,
        })
    }
}

impl PortBuckets {
    fn new(limits: StormLimits) -> PortBuckets {
        let StormLimits { broadcast, multicast, unknown } = limits;
        let burst = |rate: u32| rate.saturating_mul(2).min(BURST.max(rate / 5));
        let bucket = |rate: Option<u32>| rate.map(|rate| Bucket::new(rate, burst(rate)));
        PortBuckets { limits, buckets: [broadcast, multicast, unknown].map(bucket) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const PORT: PortId = PortId(1);

    fn control(broadcast: Option<u32>) -> StormControl {
        let mut control = StormControl::default();
        control.set(PORT, StormLimits { broadcast, ..StormLimits::NONE });
        control
    }

    /// Frames that pass, of a number that come evenly within a second.
    fn passed(control: &mut StormControl, second: u64, frames: u64, segments: u32) -> usize {
        let at = |frame| Timestamp::from_millis(second * 1000 + frame * 1000 / frames);
        (0..frames).filter(|frame| control.admit(PORT, FloodClass::Broadcast, segments, at(*frame)).is_ok()).count()
    }

    #[test]
    fn a_burst_of_twice_the_rate_and_then_the_rate() {
        let mut control = control(Some(1000));
        assert_eq!(passed(&mut control, 1, 10_000, 1), 2999);
        assert_eq!(passed(&mut control, 2, 10_000, 1), 1000);
        assert_eq!(passed(&mut control, 3, 500, 1), 500);
        assert_eq!(passed(&mut control, 10, 10_000, 1), 2999, "after a pause");
    }

    #[test]
    fn bursts_of_high_rates_are_short() {
        let burst = |rate| {
            (0..1_000_000).take_while({
                let mut control = control(Some(rate));
                move |_| control.admit(PORT, FloodClass::Broadcast, 1, Timestamp::from_millis(0)).is_ok()
            })
        };
        assert_eq!([10, 1000, 10_000, 100_000].map(|rate| burst(rate).count()), [20, 2000, 2000, 20_000]);
    }

    #[test]
    fn a_super_frame_counts_as_its_segments() {
        let mut control = control(Some(1000));
        let mut passed = |second| passed(&mut control, second, 1000, 50);
        assert_eq!((passed(1), passed(2), passed(3)), (60, 20, 20));
        let mut control = StormControl::default();
        control.set(PORT, StormLimits { unknown: Some(10), ..StormLimits::NONE });
        let mut admit = |millis| control.admit(PORT, FloodClass::Unknown, 100, Timestamp::from_millis(millis)).is_ok();
        assert!(admit(0), "more segments than the burst");
        assert_eq!((8000..9000).find(|millis| admit(*millis)), Some(8100));
    }

    #[test]
    fn a_port_far_beyond_its_limits_gains_few_tokens() {
        let mut control = control(Some(1000));
        let at = Timestamp::from_millis;
        let passed = |control: &mut StormControl, now| {
            (0..100_000).take_while(|_| control.admit(PORT, FloodClass::Broadcast, 1, at(now)).is_ok()).count()
        };
        assert_eq!(passed(&mut control, 1000), 2000);
        control.withhold(PORT, at(1000), at(1030));
        assert_eq!((passed(&mut control, 1000), passed(&mut control, 1030)), (3, 0));
        control.withhold(PORT, at(1020), at(1060));
        assert_eq!((passed(&mut control, 1060), passed(&mut control, 1064)), (3, 4), "the rest of the time, and then the rate");
        control.withhold(PortId(77), at(1000), at(1016));
    }

    #[test]
    fn a_debt_beyond_a_burst_is_not_handed_on() {
        let limits = StormLimits { broadcast: Some(10), ..StormLimits::NONE };
        let mut control = StormControl::default();
        control.set(PORT, limits);
        let admit = |control: &mut StormControl, millis| {
            control.admit(PORT, FloodClass::Broadcast, 256, Timestamp::from_millis(millis)).is_ok()
        };
        assert!(admit(&mut control, 1000));
        control.set(PORT, limits);
        assert_eq!(
            (1000..9000).find(|millis| admit(&mut control, *millis)),
            Some(3100),
            "two seconds for the burst, and one token"
        );
    }

    #[test]
    fn off_is_no_limit_and_zero_is_none_at_all() {
        assert_eq!(passed(&mut control(None), 1, 1_000_000, 1), 1_000_000);
        assert_eq!(passed(&mut control(Some(0)), 1, 1000, 1), 0);
    }

    #[test]
    fn classes_and_ports_have_buckets_of_their_own() {
        let mut control = control(Some(1));
        let now = Timestamp::from_secs(1);
        while control.admit(PORT, FloodClass::Broadcast, 1, now).is_ok() {}
        assert!(control.admit(PORT, FloodClass::Multicast, 1, now).is_ok());
        assert!(control.admit(PortId(0), FloodClass::Broadcast, 1, now).is_ok());
        assert!(control.admit(PortId::NOWHERE, FloodClass::Broadcast, 1, now).is_ok());
        control.set(PORT, StormLimits { broadcast: Some(1), ..StormLimits::NONE });
        assert!(control.admit(PORT, FloodClass::Broadcast, 1, now).is_err(), "the same limits");
        control.set(PORT, StormLimits::NONE);
        assert!(control.admit(PORT, FloodClass::Broadcast, 1, now).is_ok());
    }
}
