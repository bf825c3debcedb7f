//! The outside ports of one address and one protocol: which ones may be used, which ones are taken, and the choice for a
//! new mapping.
//!
//! A new mapping gets its inside port if that is free (and has rested, if any sender is accepted). Otherwise it gets a
//! random port of the same class and parity (RFC 4787 REQ-3a, REQ-4; RFC 6056), or of the same class, or any port. A freed
//! port rests for two minutes as long as others are free (RFC 6888 REQ-8), so that late packets for its last mapping do
//! not reach the next.
//!
//! Ports can be *shunned*: random choices take them last. On an address that is shared with the host these are the ports
//! that the host's own programs get.
//!
//! Each port is one bit, so a search looks at 64 ports at once, and at all ports at most five times.

use std::ops::RangeInclusive;

use packet::PortSet;
use packet::port_set::PORT_WORDS as WORDS;

/// Time that a freed port rests, in seconds (RFC 6888 REQ-8).
const REST_SECS: u32 = 120;

/// Maximum number of resting ports that a search passes over before it takes one.
const MOST_PASSED: usize = 64;

const EVEN: u64 = 0x5555_5555_5555_5555;

/// The ports of one address and protocol. All memory is reserved at the start, but touched only when it is used.
#[derive(Debug)]
pub(crate) struct Ports {
    usable: Vec<u64>,
    taken: Vec<u64>,
    /// Ports that mappings have given back.
    was_taken: Vec<u64>,
    /// Second in which a port was last given back.
    freed: Vec<u32>,
    /// The mapping of each taken port.
    mapping: Vec<u32>,
    /// Number of ports that mappings have.
    held: u32,
    /// Number of ports that are allowed and free.
    free: u32,
    /// A mapping has or had a port.
    was_used: bool,
    has_classes: bool,
    /// Ports that random choices take last.
    shunned: Option<PortSet>,
}

impl Ports {
    /// No port may be used yet. `has_classes` is false for ICMP identifiers.
    pub(crate) fn new(has_classes: bool) -> Ports {
        Ports {
            usable: vec![0; WORDS],
            taken: vec![0; WORDS],
            was_taken: vec![0; WORDS],
            freed: vec![0; 65_536],
            mapping: vec![0; 65_536],
            held: 0,
            free: 0,
            was_used: false,
            has_classes,
            shunned: None,
        }
    }

    /// As [`Ports::new`], in the same memory. Times and mappings stay where they are: without its bit none counts.
    pub(crate) fn reset(&mut self) {
        self.usable.fill(0);
        if std::mem::take(&mut self.was_used) {
            self.taken.fill(0);
            self.was_taken.fill(0);
        }
        (self.held, self.free, self.shunned) = (0, 0, None);
    }

    /// Allows these ports for new mappings, and no others. A mapping that has another keeps it.
    pub(crate) fn allow_only(&mut self, ports: &PortSet) {
        self.usable.copy_from_slice(ports.words());
        self.free = self.usable.iter().zip(&self.taken).map(|(usable, taken)| (usable & !taken).count_ones()).sum();
    }

    /// Allows all ports for new mappings.
    pub(crate) fn allow_all(&mut self) {
        self.usable.fill(u64::MAX);
        self.free = 0x1_0000 - self.held;
    }

    /// Random choices take these ports last.
    pub(crate) fn shun(&mut self, ports: PortSet) {
        self.shunned = (!ports.is_empty()).then_some(ports);
    }

    /// Allows these ports for new mappings.
    pub(crate) fn allow(&mut self, ports: impl IntoIterator<Item = u16>) {
        for port in ports {
            let (word, bit) = place(port);
            self.free += u32::from(self.usable[word] & bit == 0 && self.taken[word] & bit == 0);
            self.usable[word] |= bit;
        }
    }

    /// Excludes a port from new mappings. A mapping that has it keeps it.
    pub(crate) fn forbid(&mut self, port: u16) {
        let (word, bit) = place(port);
        self.free -= u32::from(self.usable[word] & bit != 0 && self.taken[word] & bit == 0);
        self.usable[word] &= !bit;
    }

    /// Number of ports that are allowed and free.
    pub(crate) fn free(&self) -> u32 {
        self.free
    }

    /// Number of ports that mappings have, including those that new mappings may not use.
    pub(crate) fn taken(&self) -> u32 {
        self.held
    }

    /// Whether new mappings may use this port.
    pub(crate) fn is_usable(&self, port: u16) -> bool {
        let (word, bit) = place(port);
        self.usable[word] & bit != 0
    }

    /// Whether this port is allowed and free.
    pub(crate) fn is_free(&self, port: u16) -> bool {
        let (word, bit) = place(port);
        self.usable[word] & !self.taken[word] & bit != 0
    }

    /// The mapping that has this port.
    pub(crate) fn mapping(&self, port: u16) -> Option<u32> {
        let (word, bit) = place(port);
        (self.taken[word] & bit != 0).then(|| self.mapping[usize::from(port)])
    }

    /// The mappings that have ports, in the order of the ports.
    pub(crate) fn mappings(&self) -> impl Iterator<Item = (u16, u32)> {
        self.taken
            .iter()
            .zip(0u16..)
            .flat_map(|(word, at)| {
                let mut left = *word;
                std::iter::from_fn(move || {
                    let bit = left.trailing_zeros() as u16;
                    left &= left.wrapping_sub(1);
                    (bit < 64).then(|| at * 64 + bit)
                })
            })
            .map(|port| (port, self.mapping[usize::from(port)]))
    }

    /// Gives a port to a mapping, even if new mappings may not use it.
    pub(crate) fn take(&mut self, port: u16, mapping: u32) {
        let (word, bit) = place(port);
        self.free -= u32::from(self.usable[word] & !self.taken[word] & bit != 0);
        self.held += u32::from(self.taken[word] & bit == 0);
        self.taken[word] |= bit;
        self.was_used = true;
        self.mapping[usize::from(port)] = mapping;
    }

    /// Frees the port of a mapping.
    pub(crate) fn give_back(&mut self, port: u16, secs: u32) {
        let (word, bit) = place(port);
        self.free += u32::from(self.usable[word] & self.taken[word] & bit != 0);
        self.held -= u32::from(self.taken[word] & bit != 0);
        self.taken[word] &= !bit;
        self.was_taken[word] |= bit;
        self.freed[usize::from(port)] = secs;
    }

    /// The port for a new mapping of this inside port; `None` if no port is free. With `keeps`, the inside port itself
    /// need not have rested, which is safe if only hosts that the guest has sent to may reply (RFC 6888 REQ-8 exception
    /// C).
    pub(crate) fn choose(&self, inside: u16, keeps: bool, secs: u32, random: u64) -> Option<u16> {
        if self.free == 0 {
            return None;
        }
        if self.is_free(inside) && (keeps || self.has_rested(inside, secs)) {
            return Some(inside);
        }
        let class = if self.has_classes { class_of(inside) } else { 0..=u16::MAX };
        let parity = if inside.is_multiple_of(2) { EVEN } else { !EVEN };
        let shunned = self.shunned.as_ref();
        let preferred = shunned.and_then(|shunned| {
            self.search(&class, parity, Some(shunned), secs, random)
                .or_else(|| self.search(&class, u64::MAX, Some(shunned), secs, random))
        });
        preferred
            .or_else(|| self.search(&class, parity, None, secs, random))
            .or_else(|| self.search(&class, u64::MAX, None, secs, random))
            .or_else(|| self.search(&(0..=u16::MAX), u64::MAX, None, secs, random))
    }

    fn has_rested(&self, port: u16, secs: u32) -> bool {
        let (word, bit) = place(port);
        self.was_taken[word] & bit == 0 || secs.saturating_sub(self.freed[usize::from(port)]) > REST_SECS
    }

    /// A free port of a range and parity but for `shunned`, searched from a random place on; a rested one if one is near.
    fn search(&self, range: &RangeInclusive<u16>, parity: u64, shunned: Option<&PortSet>, secs: u32, random: u64) -> Option<u16> {
        let (first, last) = (usize::from(*range.start()) / 64, usize::from(*range.end()) / 64);
        let words = last - first + 1;
        let start = (random as usize >> 6) % words;
        let turn = (random & 63) as u32;
        let (mut passed, mut resting) = (0, None);
        for step in 0..words {
            let word = first + (start + step) % words;
            let shunned = shunned.map_or(0, |shunned| shunned.words()[word]);
            let mut left = (self.usable[word] & !self.taken[word] & parity & !shunned).rotate_right(turn);
            while left != 0 {
                let bit = (left.trailing_zeros() + turn) % 64;
                left &= left - 1;
                let port = (word * 64) as u16 + bit as u16;
                if !range.contains(&port) {
                    continue;
                }
                if self.has_rested(port, secs) {
                    return Some(port);
                }
                resting = resting.or(Some(port));
                passed += 1;
                if passed == MOST_PASSED {
                    return resting;
                }
            }
        }
        resting
    }
}

fn place(port: u16) -> (usize, u64) {
    (usize::from(port) / 64, 1 << (port % 64))
}

/// The classes of Linux and Open vSwitch, which are finer than RFC 4787's two.
fn class_of(port: u16) -> RangeInclusive<u16> {
    match port {
        0..=511 => 1..=511,
        512..=1023 => 512..=1023,
        _ => 1024..=65_535,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_free_inside_port_is_kept() {
        let mut ports = Ports::new(true);
        ports.allow(1024..=65_535);
        assert_eq!(ports.choose(40_000, true, 0, 7), Some(40_000));
        ports.take(40_000, 1);
        let other = ports.choose(40_000, true, 0, 7).unwrap();
        assert!(other >= 1024 && other != 40_000 && other.is_multiple_of(2));
        assert_eq!((ports.mapping(40_000), ports.mapping(other)), (Some(1), None));
    }

    #[test]
    fn class_and_parity_as_long_as_there_are_some() {
        let mut ports = Ports::new(true);
        ports.allow([600, 601, 2000, 2001]);
        ports.take(601, 1);
        assert_eq!(ports.choose(601, true, 0, 99), Some(600), "the class goes before parity");
        ports.take(600, 2);
        assert!(ports.choose(601, true, 0, 99).unwrap() >= 2000);
        ports.take(2001, 3);
        ports.take(2000, 4);
        assert_eq!((ports.choose(601, true, 0, 99), ports.free(), ports.taken()), (None, 0, 4));
        ports.give_back(2000, 0);
        assert_eq!((ports.choose(601, true, 0, 99), ports.free()), (Some(2000), 1));
    }

    #[test]
    fn a_port_rests_while_others_are_free() {
        let mut ports = Ports::new(true);
        ports.allow([5000, 5002]);
        ports.take(5000, 1);
        ports.give_back(5000, 10);
        for random in 0..200 {
            assert_eq!(ports.choose(6000, true, 100, random * 77), Some(5002));
        }
        ports.take(5002, 2);
        assert_eq!(ports.choose(6000, true, 100, 3), Some(5000), "rather than none");
        assert!((0..200).any(|random| ports.choose(6000, true, 131, random).is_some()));
    }

    #[test]
    fn every_free_port_is_found_from_everywhere() {
        for port in [1, 63, 64, 511, 512, 1023, 1024, 65_535] {
            let mut ports = Ports::new(true);
            ports.allow([port]);
            for random in [0, 63, 64 * 1000 + 17, u64::MAX] {
                assert_eq!(ports.choose(30_000, true, 0, random), Some(port));
            }
        }
    }

    #[test]
    fn shunned_ports_come_last() {
        let mut ports = Ports::new(true);
        ports.allow([2000, 2001, 40_000, 40_001]);
        ports.shun(PortSet::from(32_768..=60_999));
        assert_eq!(ports.choose(40_000, true, 0, 5), Some(40_000), "the inside port is kept");
        ports.take(40_000, 1);
        assert_eq!(ports.choose(40_000, true, 0, 5), Some(2000));
        ports.take(2000, 2);
        assert_eq!(ports.choose(40_000, true, 0, 5), Some(2001), "rather than the parity");
        ports.take(2001, 3);
        assert_eq!(ports.choose(40_000, true, 0, 5), Some(40_001), "rather than none");
        ports.take(40_001, 4);
        assert_eq!(ports.choose(40_000, true, 0, 5), None);
    }

    #[test]
    fn only_some_ports_are_allowed() {
        let mut ports = Ports::new(true);
        ports.allow(1024..=65_535);
        ports.take(5000, 1);
        ports.take(5001, 2);
        ports.allow_only(&PortSet::from(5000..=5003));
        assert_eq!((ports.free(), ports.taken(), ports.mapping(5000)), (2, 2, Some(1)));
        ports.allow_only(&PortSet::from(5002..=5002));
        assert_eq!(ports.free(), 1);
        ports.give_back(5000, 0);
        assert_eq!((ports.free(), ports.is_free(5000)), (1, false), "it is not allowed any more");
        assert_eq!(ports.choose(5000, true, 0, 9), Some(5002));
    }

    #[test]
    fn random_ports_are_spread_out() {
        let mut ports = Ports::new(true);
        ports.allow(1024..=65_535);
        ports.take(30_000, 1);
        let mut quarter = [0u32; 4];
        let mut random = 1u64;
        for _ in 0..4000 {
            random = random.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
            quarter[usize::from(ports.choose(30_000, true, 0, random >> 20).unwrap()) / 16_384] += 1;
        }
        assert!(quarter.iter().all(|count| *count > 800), "{quarter:?}");
    }
}
