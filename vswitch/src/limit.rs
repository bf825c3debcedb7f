//! Rate limits: token buckets, single ones and one per address.

use std::net::IpAddr;

use packet::Timestamp;

/// A token bucket: a rate per second, and a burst after a pause.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Bucket {
    per_sec: u32,
    burst: u32,
    /// Tokens, in thousandths; negative in debt.
    tokens: i64,
    filled: Timestamp,
}

impl Bucket {
    /// A full bucket.
    #[must_use]
    pub(crate) fn new(per_sec: u32, burst: u32) -> Bucket {
        Bucket { per_sec, burst, tokens: i64::from(burst) * 1000, filled: Timestamp::from_millis(0) }
    }

    /// Whether there is a token.
    pub(crate) fn has_token(&mut self, now: Timestamp) -> bool {
        self.fill(now);
        self.tokens >= 1000
    }

    /// Takes a token if there is one. Returns whether it did.
    pub(crate) fn take(&mut self, now: Timestamp) -> bool {
        self.spend(1, now)
    }

    /// Takes this number of tokens if there is one; the bucket is in debt if there were fewer. Returns whether it did.
    #[inline]
    pub(crate) fn spend(&mut self, tokens: u32, now: Timestamp) -> bool {
        self.fill(now);
        if self.tokens < 1000 {
            return false;
        }
        self.tokens -= i64::from(tokens) * 1000;
        true
    }

    /// Forgives what is owed beyond one burst.
    pub(crate) fn bound_debt(&mut self) {
        self.tokens = self.tokens.max(-i64::from(self.burst) * 1000);
    }

    /// From `now` until `until` the bucket gains at most this number of tokens per second. It has them at once.
    pub(crate) fn slow_down(&mut self, per_sec: u32, now: Timestamp, until: Timestamp) {
        self.fill(now);
        let rate = self.per_sec;
        self.per_sec = rate.min(per_sec);
        self.fill(until);
        self.per_sec = rate;
    }

    #[inline]
    fn fill(&mut self, now: Timestamp) {
        // Workers share some buckets, and one of them may have an earlier time.
        if now <= self.filled {
            return;
        }
        let millis = (now.as_millis() - self.filled.as_millis()).min(u64::from(u32::MAX)) as i64;
        let added = millis.saturating_mul(i64::from(self.per_sec));
        self.tokens = self.tokens.saturating_add(added).min(i64::from(self.burst) * 1000);
        self.filled = now;
    }
}

/// The rate limit for ICMP errors of one worker: 100 per second, of which one address gets at most 10 (RFC 1812 section
/// 4.3.2.8). Addresses share 256 buckets, so an address may be limited because of another one's errors.
#[derive(Clone, Debug)]
pub(crate) struct ErrorLimit {
    all: Bucket,
    by_address: Box<[Bucket]>,
}

/// Number of buckets that addresses share.
const BY_ADDRESS: usize = 256;

/// The state that one worker needs to send ICMP errors.
#[derive(Clone, Debug, Default)]
pub(crate) struct Errors {
    pub(crate) limit: ErrorLimit,
    id: u16,
}

impl Errors {
    /// Identification of the next packet that the router makes.
    pub(crate) fn next_id(&mut self) -> u16 {
        self.id = self.id.wrapping_add(1);
        self.id
    }
}

impl Default for ErrorLimit {
    fn default() -> ErrorLimit {
        ErrorLimit { all: Bucket::new(100, 100), by_address: vec![Bucket::new(10, 10); BY_ADDRESS].into_boxed_slice() }
    }
}

impl ErrorLimit {
    /// Takes a token if an error may be sent to this address now. Returns whether it may.
    pub(crate) fn take(&mut self, to: IpAddr, now: Timestamp) -> bool {
        let bits = match to {
            IpAddr::V4(to) => to.to_bits(),
            IpAddr::V6(to) => {
                let bits = to.to_bits();
                (bits >> 96 ^ bits >> 64 ^ bits >> 32 ^ bits) as u32
            }
        };
        let hash = bits.wrapping_mul(0x9e37_79b1) >> 24;
        self.by_address[hash as usize].take(now) && self.all.take(now)
    }
}

#[cfg(test)]
mod tests {
    use std::net::Ipv4Addr;

    use super::*;

    fn allowed(limit: &mut ErrorLimit, to: Ipv4Addr, millis: std::ops::Range<u64>) -> usize {
        millis.filter(|millis| limit.take(to.into(), Timestamp::from_millis(*millis))).count()
    }

    #[test]
    fn ten_a_second_for_one_and_a_hundred_for_all() {
        let mut limit = ErrorLimit::default();
        let one = Ipv4Addr::new(10, 0, 0, 1);
        assert_eq!(allowed(&mut limit, one, 0..1000), 19, "ten at once and ten in the second that follows");
        assert_eq!(allowed(&mut limit, one, 1000..2000), 10);
        let mut all = 0;
        for millis in 10_000..11_000u64 {
            let to = Ipv4Addr::from_bits(0x0a00_0000 + millis as u32 * 7);
            all += usize::from(limit.take(to.into(), Timestamp::from_millis(millis)));
        }
        assert!((150..=200).contains(&all), "{all}");
    }
}
