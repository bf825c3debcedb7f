//! Routes to networks behind guests.
//!
//! ```text
//!   10.9.0.0/16 --- guest 10.71.0.9 --- network inside, 10.71.0.0/24 --- router
//! ```
//!
//! An address is found among the [`places`](super::places) like any other, and the next hop is the guest. What its network inside reaches
//! holds for the network behind the guest, too.

use std::net::Ipv4Addr;
use std::ops::RangeInclusive;

use packet::Ipv4Prefix;

use super::neighbour::InterfaceId;
use super::places::Place;
use super::routing::{Reach, Routing};

/// Maximum number of routes to networks behind guests.
pub const MAX_GUEST_ROUTES: usize = 1 << 16;

/// A route to a network behind a guest, which forwards what is for it.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct GuestRoute {
    /// The network.
    pub to: Ipv4Prefix,
    /// The guest's address, in the network inside `interface`.
    pub via: Ipv4Addr,
    /// The network inside that the guest is in. What it reaches holds for the network behind the guest, too.
    pub interface: InterfaceId,
    /// Whether its packets are translated on their way outside.
    pub is_translated: bool,
}

impl Routing {
    /// The route to a network behind a guest by its number.
    #[inline(always)]
    pub(crate) fn guest_route(&self, number: u16) -> Option<&GuestRoute> {
        self.of_guests.get(usize::from(number))
    }

    /// The route by which an address is behind a guest.
    #[inline]
    #[must_use]
    pub fn behind(&self, address: Ipv4Addr) -> Option<&GuestRoute> {
        let Place::Behind(_, number) = self.place(address) else { return None };
        self.guest_route(number)
    }

    /// The network behind a guest, not translated on its way outside, that an address is in.
    #[cold]
    pub(crate) fn untranslated(&self, address: Ipv4Addr) -> Option<&GuestRoute> {
        self.behind(address).filter(|route| !route.is_translated)
    }

    /// The addresses that were behind guests in an earlier snapshot, and had connections with the outside, and are now reached by
    /// another network inside, or not at all.
    #[must_use]
    pub fn lost_since(&self, before: &Routing) -> Vec<RangeInclusive<Ipv4Addr>> {
        if before.of_guests.is_empty() {
            return Vec::new();
        }
        let mut firsts = [before.places.firsts(), self.places.firsts()].concat();
        firsts.sort_unstable();
        firsts.dedup();
        let domain = |routing: &Routing, id| {
            let interface = routing.interface(id).filter(|interface| interface.reach != Reach::Nothing);
            interface.map(|interface| interface.domain)
        };
        let lasts = firsts.iter().skip(1).map(|next| next - 1).chain([u32::MAX]);
        let ranges = firsts.iter().zip(lasts).map(|(first, last)| Ipv4Addr::from(*first)..=Ipv4Addr::from(last));
        ranges
            .filter(|range| {
                let Place::Behind(id, _) = before.place(*range.start()) else { return false };
                let then = domain(before, id);
                then.is_some() && self.to_inside(*range.start()).and_then(|id| domain(self, id)) != then
            })
            .collect()
    }
}
