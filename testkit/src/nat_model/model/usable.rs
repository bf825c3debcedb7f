//! The ports that new mappings may use, by outside address and protocol.

use std::net::Ipv4Addr;
use std::ops::RangeInclusive;

use nat::Protocol;

/// Ports of an outside address and a protocol: a range, but for a few that are not as the others.
#[derive(Debug)]
struct Ports {
    of: (Ipv4Addr, Protocol),
    /// `None` for no port.
    range: Option<RangeInclusive<u16>>,
    /// Ports within the range that may not be used, and ports outside of it that may.
    exceptions: Vec<u16>,
}

impl Ports {
    fn contains(&self, port: u16) -> bool {
        let is_in_range = self.range.as_ref().is_some_and(|range| range.contains(&port));
        is_in_range != self.exceptions.contains(&port)
    }

    fn within(&self, class: &RangeInclusive<u16>) -> impl Iterator<Item = u16> {
        let range = self.range.as_ref().map(|range| *range.start().max(class.start())..=*range.end().min(class.end()));
        let outside = |port: &u16| class.contains(port) && self.range.as_ref().is_none_or(|range| !range.contains(port));
        let in_range = range.into_iter().flatten().filter(|port| !self.exceptions.contains(port));
        in_range.chain(self.exceptions.iter().copied().filter(outside))
    }
}

/// Those of all addresses.
#[derive(Debug, Default)]
pub(super) struct Usable(Vec<Ports>);

impl Usable {
    fn get(&self, address: Ipv4Addr, protocol: Protocol) -> Option<&Ports> {
        self.0.iter().find(|ports| ports.of == (address, protocol))
    }

    /// Adds an address, of which the ports of this range may be used.
    pub(super) fn add(&mut self, address: Ipv4Addr, protocol: Protocol, range: Option<RangeInclusive<u16>>) {
        self.0.push(Ports { of: (address, protocol), range, exceptions: Vec::new() });
    }

    /// Removes an address.
    pub(super) fn remove(&mut self, address: Ipv4Addr) {
        self.0.retain(|ports| ports.of.0 != address);
    }

    /// Whether the port may be used.
    pub(super) fn contains(&self, address: Ipv4Addr, protocol: Protocol, port: u16) -> bool {
        self.get(address, protocol).is_some_and(|ports| ports.contains(port))
    }

    /// The ports within a range that may be used.
    pub(super) fn within(&self, address: Ipv4Addr, protocol: Protocol, class: &RangeInclusive<u16>) -> impl Iterator<Item = u16> {
        self.get(address, protocol).into_iter().flat_map(|ports| ports.within(class))
    }

    /// Allows or forbids a port.
    pub(super) fn set(&mut self, address: Ipv4Addr, protocol: Protocol, port: u16, usable: bool) {
        let Some(ports) = self.0.iter_mut().find(|ports| ports.of == (address, protocol)) else { return };
        if ports.contains(port) == usable {
            return;
        }
        match ports.exceptions.iter().position(|exception| *exception == port) {
            Some(at) => drop(ports.exceptions.swap_remove(at)),
            None => ports.exceptions.push(port),
        }
    }
}
