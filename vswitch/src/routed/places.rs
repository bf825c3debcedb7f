//! Where addresses are: a gateway, a network inside, behind a guest, behind a route of the uplink, or nowhere.
//!
//! Gateways, networks and routes are prefixes, and each of them may lie within others. Among routes the longest prefix wins, and of two
//! equal ones that of a guest; gateways and networks go before all routes. They are laid over each other once,
//! when the routes change, so that an address is found by one binary search, however many there are:
//!
//! ```text
//!  10.0.0.1        gateway                  +-+
//!  10.0.0.0/24     network             +----------+
//!  10.0.0.0/8      route 1          +----------------------------+
//!  0.0.0.0/0       route 0    +-------------------------------------------+
//!                             | 0  | 1 | net |g| net |     1     |   0    |   ranges, by their first addresses
//! ```
//!
//! Where few ranges begin with the same byte as the address, the search has few steps or none.

use std::collections::BTreeMap;
use std::net::Ipv4Addr;

use packet::Ipv4Prefix;

use super::guest_routes::GuestRoute;
use super::neighbour::InterfaceId;
use super::routing::{Interface, Route};

/// Where an address is.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Place {
    /// It is the gateway's own on this network inside.
    Gateway(InterfaceId),
    /// On this network inside.
    Inside(InterfaceId),
    /// Behind a guest of this network inside, by the guests' route of this number.
    Behind(InterfaceId, u16),
    /// Behind the uplink's route of this number.
    Route(u32),
    /// None of these.
    Nowhere,
}

/// The place of each address, in disjoint ranges.
#[derive(Clone, Debug)]
pub(crate) struct Places {
    /// Number of ranges that begin before the addresses with each first byte.
    before: Box<[u32; 257]>,
    /// First address of each range, ascending; the first is 0.0.0.0.
    firsts: Box<[u32]>,
    places: Box<[Place]>,
    /// The first and the last address of all networks inside, and of those behind their guests.
    inside: (u32, u32),
}

impl Places {
    /// The places by the networks inside, of which a former one goes before a later one, by the routes of guests, at most
    /// [`MAX_GUEST_ROUTES`](super::guest_routes::MAX_GUEST_ROUTES) with different prefixes, and by those of the uplink in the order of their
    /// precedence.
    pub(crate) fn new(interfaces: &[Option<Interface>], of_guests: &[GuestRoute], routes: &[Route]) -> Places {
        let mut ranges = BTreeMap::from([(0, Place::Nowhere)]);
        let outside = routes.iter().enumerate().rev().map(|(number, route)| (route.to, Place::Route(number as u32)));
        let behind = of_guests.iter().enumerate();
        let behind = behind.map(|(number, route)| (route.to, Place::Behind(route.interface, number as u16)));
        let mut all: Vec<(Ipv4Prefix, Place)> = outside.chain(behind).collect();
        all.sort_by_key(|(to, _)| to.prefix_len());
        all.into_iter().for_each(|(to, place)| lay(&mut ranges, to, place));
        let numbered = || interfaces.iter().enumerate().rev().filter_map(|(number, at)| Some((number as u16, at.as_ref()?)));
        for (number, interface) in numbered() {
            lay(&mut ranges, interface.network, Place::Inside(InterfaceId(number)));
        }
        for (number, interface) in numbered() {
            lay(&mut ranges, Ipv4Prefix::new(interface.address, 32), Place::Gateway(InterfaceId(number)));
        }
        let mut ranges: Vec<(u32, Place)> = ranges.into_iter().collect();
        ranges.dedup_by_key(|(_, place)| *place);
        let (firsts, places): (Vec<u32>, Vec<Place>) = ranges.into_iter().unzip();
        let mut before = Box::new([firsts.len() as u32; 257]);
        for (byte, before) in (0u32..256).zip(before.iter_mut()) {
            *before = firsts.partition_point(|first| *first < byte << 24) as u32;
        }
        let networks =
            || interfaces.iter().flatten().map(|interface| interface.network).chain(of_guests.iter().map(|route| route.to));
        let first = networks().map(|network| network.network().to_bits()).min().unwrap_or(u32::MAX);
        let last = networks().map(|network| network.last().to_bits()).max().unwrap_or(0);
        Places { before, firsts: firsts.into(), places: places.into(), inside: (first, last) }
    }

    /// The place of an address.
    #[inline(always)]
    pub(crate) fn of(&self, address: Ipv4Addr) -> Place {
        let address = address.to_bits();
        let byte = (address >> 24) as usize;
        let (from, to) = (self.before[byte] as usize, self.before[byte + 1] as usize);
        let near = self.firsts.get(from..to).unwrap_or(&[]);
        let after = from + near.partition_point(|first| *first <= address);
        self.places.get(after.wrapping_sub(1)).copied().unwrap_or(Place::Nowhere)
    }

    /// The first address of each range, in ascending order.
    pub(crate) fn firsts(&self) -> &[u32] {
        &self.firsts
    }

    /// The network inside that an address is on, or by a guest of which it is reached.
    #[inline(always)]
    pub(crate) fn inside(&self, address: Ipv4Addr) -> Option<InterfaceId> {
        let (first, last) = self.inside;
        if !(first..=last).contains(&address.to_bits()) {
            return None;
        }
        match self.of(address) {
            Place::Gateway(id) | Place::Inside(id) | Place::Behind(id, _) => Some(id),
            Place::Route(_) | Place::Nowhere => None,
        }
    }
}

/// Lays a prefix over what is there.
fn lay(ranges: &mut BTreeMap<u32, Place>, prefix: Ipv4Prefix, place: Place) {
    let (first, last) = (prefix.network().to_bits(), prefix.last().to_bits());
    if let Some(next) = last.checked_add(1)
        && let Some((_, behind)) = ranges.range(..next).next_back()
    {
        let behind = *behind;
        ranges.entry(next).or_insert(behind);
    }
    let covered: Vec<u32> = ranges.range(first..=last).map(|(first, _)| *first).collect();
    for first in covered {
        ranges.remove(&first);
    }
    ranges.insert(first, place);
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::domain::{BridgeId, Domain};
    use packet::vlan::VlanId;

    /// The place of an address by looking at all.
    fn by_scan(interfaces: &[Option<Interface>], of_guests: &[GuestRoute], routes: &[Route], address: Ipv4Addr) -> Place {
        let id = |number: usize| InterfaceId(number as u16);
        let position = |is_it: &dyn Fn(&Interface) -> bool| interfaces.iter().position(|at| at.as_ref().is_some_and(is_it));
        if let Some(number) = position(&|interface| interface.address == address) {
            return Place::Gateway(id(number));
        }
        if let Some(number) = position(&|interface| interface.network.contains(address)) {
            return Place::Inside(id(number));
        }
        let outside = routes.iter().position(|route| route.to.contains(address));
        let behind = of_guests.iter().enumerate().filter(|(_, route)| route.to.contains(address));
        let behind = behind.max_by_key(|(_, route)| route.to.prefix_len());
        match (behind, outside) {
            (Some((number, route)), outside)
                if outside.is_none_or(|outside| routes[outside].to.prefix_len() <= route.to.prefix_len()) =>
            {
                Place::Behind(route.interface, number as u16)
            }
            (_, outside) => outside.map_or(Place::Nowhere, |number| Place::Route(number as u32)),
        }
    }

    /// Few addresses, so that prefixes meet: four values in each byte, the limits among them.
    fn address() -> impl Strategy<Value = Ipv4Addr> {
        let byte = prop_oneof![Just(0u8), Just(1), Just(10), Just(255)];
        [byte.clone(), byte.clone(), byte.clone(), byte].prop_map(Ipv4Addr::from)
    }

    proptest! {
        #[test]
        fn each_address_is_where_a_scan_finds_it(
            networks in prop::collection::vec(prop::option::of((address(), 1u8..=32)), 0..6),
            of_guests in prop::collection::vec((address(), 1u8..=32), 0..8),
            routes in prop::collection::vec((address(), 0u8..=32), 0..12),
            addresses in prop::collection::vec(address(), 64),
        ) {
            let domain = Domain { bridge: BridgeId::default(), vlan: VlanId::NONE };
            let interface = |(address, len)| Interface::new(domain, address, len);
            let interfaces: Vec<Option<Interface>> = networks.into_iter().map(|network| network.map(interface)).collect();
            let mut routes: Vec<Route> =
                routes.into_iter().map(|(to, len)| Route::new(Ipv4Prefix::new(to, len), None, 0)).collect();
            routes.sort_by_key(|route| std::cmp::Reverse(route.to.prefix_len()));
            let mut of_guests: Vec<Ipv4Prefix> = of_guests.into_iter().map(|(to, len)| Ipv4Prefix::new(to, len)).collect();
            of_guests.sort();
            of_guests.dedup();
            let of_guest = |to| GuestRoute { to, via: Ipv4Addr::UNSPECIFIED, interface: InterfaceId(7), is_translated: true };
            let of_guests: Vec<GuestRoute> = of_guests.into_iter().map(of_guest).collect();
            let places = Places::new(&interfaces, &of_guests, &routes);
            for address in addresses {
                let place = by_scan(&interfaces, &of_guests, &routes, address);
                prop_assert_eq!(places.of(address), place);
                let is_inside = matches!(place, Place::Gateway(_) | Place::Inside(_) | Place::Behind(..));
                prop_assert_eq!(places.inside(address).is_some(), is_inside);
            }
        }
    }
}
