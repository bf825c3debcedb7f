//! The router's routes: its networks inside, those behind guests, and the way out.
//!
//! A snapshot: the control thread makes it, each worker gets it between two batches, and no packet sees half a change.

use std::net::Ipv4Addr;
use std::sync::Arc;

use packet::vlan::VlanId;
use packet::{Ipv4Prefix, MacAddr};

use crate::domain::Domain;
use crate::port::PortId;
use crate::routed::guest_routes::{GuestRoute, MAX_GUEST_ROUTES};
use crate::routed::neighbour::InterfaceId;
use crate::routed::places::{Place, Places};

/// Number of networks inside that are looked at one by one, which is faster than a search.
const FEW_INTERFACES: usize = 4;

/// The first 16 bits of a link-local address (RFC 3927).
const LINK_LOCAL: u32 = 169 << 8 | 254;

/// Maximum number of networks inside, those that come and go at one time included.
pub const MAX_INTERFACES: usize = 8192;

/// What the router forwards between a network inside and others.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub enum Reach {
    /// Everything: to and from other such networks, and the outside.
    #[default]
    All,
    /// To and from the outside; a guest of another network is reached only where its port is published.
    Outside,
    /// Nothing. Guests have their own network and the gateway.
    Nothing,
}

/// A network inside, and the router's addresses in it.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Interface {
    /// Its bridge and VLAN.
    pub domain: Domain,
    /// The gateway's address.
    pub address: Ipv4Addr,
    /// Its network.
    pub network: Ipv4Prefix,
    /// The gateway's MAC address.
    pub mac: MacAddr,
    /// What its guests reach.
    pub reach: Reach,
    /// The host is a neighbour of its guests.
    pub has_host: bool,
}

impl Interface {
    /// The gateway of a network. Its MAC address is derived from its IP address, so that guests need not resolve it again
    /// after a restart.
    #[must_use]
    pub fn new(domain: Domain, address: Ipv4Addr, prefix_len: u8) -> Interface {
        let network = Ipv4Prefix::new(address, prefix_len);
        Interface { domain, address, network, mac: mac_of(address), reach: Reach::All, has_host: false }
    }
}

/// The router's MAC address for one of its own IPv4 addresses: locally administered (IEEE 802 section 8.3).
#[must_use]
pub fn mac_of(address: Ipv4Addr) -> MacAddr {
    let [a, b, c, d] = address.octets();
    MacAddr([0x02, 0x76, a, b, c, d])
}

/// A route to the outside.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Route {
    /// Destinations.
    pub to: Ipv4Prefix,
    /// The next hop; `None` if destinations are on the link.
    pub via: Option<Ipv4Addr>,
    /// Metric: among equal prefixes, the route with the smallest one is used.
    pub metric: u32,
    /// MTU, in bytes; that of the uplink if it is smaller.
    pub mtu: u32,
    /// The largest TCP segment that a SYN may announce, in bytes; less if the MTU has no room for it.
    pub max_segment_size: u16,
}

impl Route {
    /// A route with the limits of the uplink.
    #[must_use]
    pub fn new(to: Ipv4Prefix, via: Option<Ipv4Addr>, metric: u32) -> Route {
        Route { to, via, metric, mtu: u32::MAX, max_segment_size: u16::MAX }
    }

    /// The next hop for an address that this is the route of.
    #[inline(always)]
    pub(crate) fn hop(&self, to: Ipv4Addr) -> Ipv4Addr {
        self.via.unwrap_or(to)
    }
}

/// The interface that leads outside.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Uplink {
    /// Its port.
    pub port: PortId,
    /// The router's MAC address on it.
    pub mac: MacAddr,
    /// Source address of the router's ARP requests.
    pub address: Ipv4Addr,
    /// The router's own addresses, for which it answers ARP and ping.
    pub own: Vec<Ipv4Addr>,
    /// MTU, in bytes.
    pub mtu: u32,
    /// Routes, the longest prefix first.
    pub routes: Vec<Route>,
}

/// The port by which the host is a neighbour of its guests.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct HostPort {
    /// Its number.
    pub port: PortId,
    /// The addresses of the host, the only ones that it may send from, sorted.
    pub addresses: Arc<[Ipv4Addr]>,
    /// The address that guests share with the host outside, if they do.
    pub shared: Option<Ipv4Addr>,
}

impl HostPort {
    /// Whether this is an address of the host.
    #[inline]
    pub(crate) fn is_own(&self, address: Ipv4Addr) -> bool {
        self.addresses.binary_search(&address).is_ok()
    }
}

/// What happens to the segment size that TCP announces in a SYN through the uplink.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum MssClamp {
    /// It stays.
    Off,
    /// It is lowered to what fits through the route.
    Fit,
    /// It is lowered to this number of bytes, and to what fits through the route.
    To(u16),
}

impl MssClamp {
    /// The largest segment that may be announced for a route.
    fn limit(self, route: &Route) -> u16 {
        /// Length of IPv4 and TCP headers without options, in bytes.
        const HEADERS: u32 = 40;
        let fits = u16::try_from(route.mtu.saturating_sub(HEADERS)).unwrap_or(u16::MAX).min(route.max_segment_size);
        match self {
            MssClamp::Off => u16::MAX,
            MssClamp::Fit => fits,
            MssClamp::To(most) => fits.min(most),
        }
    }
}

/// Settings that hold for all networks and routes.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct RoutingSettings {
    /// What happens to the segment size in SYNs.
    pub mss_clamp: MssClamp,
    /// Whether packets from and to 169.254.0.0/16 are forwarded. RFC 3927 section 2.7 forbids it: behind the uplink, such an
    /// address belongs to the host's own link, where a cloud keeps the host's credentials.
    pub forwards_link_local: bool,
}

impl Default for RoutingSettings {
    fn default() -> RoutingSettings {
        RoutingSettings { mss_clamp: MssClamp::Fit, forwards_link_local: false }
    }
}

/// The numbers of the networks of one bridge, each plus one; 0 where the router has no address.
#[derive(Clone, Debug, Default)]
struct BridgeGateways {
    untagged: u16,
    /// By VLAN; `None` without a gateway of a VLAN, so that a bridge with one network costs a few bytes.
    tagged: Option<Box<[u16; VlanId::COUNT]>>,
}

impl BridgeGateways {
    fn number_of(&mut self, vlan: VlanId) -> &mut u16 {
        match vlan {
            VlanId::NONE => &mut self.untagged,
            vlan => &mut self.tagged.get_or_insert_with(|| Box::new([0; VlanId::COUNT]))[usize::from(vlan.get())],
        }
    }
}

/// A snapshot of all networks and routes.
#[derive(Clone, Debug)]
pub struct Routing {
    /// By number; `None` for numbers that are free.
    interfaces: Vec<Option<Interface>>,
    /// By number of the bridge, up to the last one with a gateway.
    by_bridge: Vec<BridgeGateways>,
    pub(super) of_guests: Vec<GuestRoute>,
    uplink: Option<Uplink>,
    pub(super) places: Places,
    /// Networks inside are searched among `places`, and not one by one.
    is_searched: bool,
    settings: RoutingSettings,
    /// The largest TCP segment that a SYN may announce, if that is the same for all routes.
    max_segment_size: Option<u16>,
    host: Option<HostPort>,
}

impl Routing {
    /// A snapshot of the networks inside by their numbers, at most [`MAX_INTERFACES`] and one per domain, and of the uplink if
    /// it can be used. `None` in place of a network is a number that is free.
    #[must_use]
    pub fn new(interfaces: Vec<Option<Interface>>, uplink: Option<Uplink>, settings: RoutingSettings) -> Arc<Routing> {
        Routing::with_guest_routes(interfaces, Vec::new(), uplink, settings)
    }

    /// The same with routes to networks behind guests, at most [`MAX_GUEST_ROUTES`]. None of their prefixes is another one's.
    #[must_use]
    pub fn with_guest_routes(
        interfaces: Vec<Option<Interface>>,
        mut of_guests: Vec<GuestRoute>,
        mut uplink: Option<Uplink>,
        settings: RoutingSettings,
    ) -> Arc<Routing> {
        of_guests.truncate(MAX_GUEST_ROUTES);
        let bridges = interfaces.iter().flatten().map(|interface| interface.domain.bridge.index() + 1).max().unwrap_or(0);
        let mut by_bridge = vec![BridgeGateways::default(); bridges];
        for (number, interface) in interfaces.iter().enumerate().take(MAX_INTERFACES) {
            let Some(Interface { domain, .. }) = interface else { continue };
            *by_bridge[domain.bridge.index()].number_of(domain.vlan) = number as u16 + 1;
        }
        let mut limit = u16::MAX;
        if let Some(uplink) = &mut uplink {
            uplink.routes.sort_by_key(|route| (std::cmp::Reverse(route.to.prefix_len()), route.metric));
            for route in &mut uplink.routes {
                route.mtu = route.mtu.min(uplink.mtu);
                route.max_segment_size = settings.mss_clamp.limit(route);
            }
            let whole_link = Route { mtu: uplink.mtu, ..Route::new(Ipv4Prefix::new(Ipv4Addr::UNSPECIFIED, 0), None, 0) };
            limit = settings.mss_clamp.limit(&whole_link);
        }
        let is_limit_of_all = uplink.iter().flat_map(|uplink| &uplink.routes).all(|route| route.max_segment_size == limit);
        let max_segment_size = is_limit_of_all.then_some(limit);
        let places = Places::new(&interfaces, &of_guests, uplink.as_ref().map_or(&[], |uplink| &uplink.routes));
        let is_searched = interfaces.len() > FEW_INTERFACES || !of_guests.is_empty();
        Arc::new(Routing {
            interfaces,
            by_bridge,
            of_guests,
            uplink,
            places,
            is_searched,
            settings,
            max_segment_size,
            host: None,
        })
    }

    /// The same with the host as a neighbour of the guests whose networks have it.
    #[must_use]
    pub fn with_host(self: Arc<Routing>, host: HostPort) -> Arc<Routing> {
        Arc::new(Routing { host: Some(host), ..Arc::unwrap_or_clone(self) })
    }

    /// The port by which the host is a neighbour of guests of this network.
    #[inline]
    pub(crate) fn host_of(&self, interface: &Interface) -> Option<&HostPort> {
        self.host.as_ref().filter(|_| interface.has_host)
    }

    /// The port of the host.
    #[inline]
    pub(crate) fn host(&self) -> Option<&HostPort> {
        self.host.as_ref()
    }

    /// The number of a domain's network, if the router has an address there.
    #[inline(always)]
    #[must_use]
    pub fn of_domain(&self, domain: Domain) -> Option<InterfaceId> {
        let bridge = self.by_bridge.get(domain.bridge.index())?;
        let number = match domain.vlan {
            VlanId::NONE => bridge.untagged,
            vlan => *bridge.tagged.as_ref()?.get(usize::from(vlan.get()))?,
        };
        number.checked_sub(1).map(InterfaceId)
    }

    /// A network inside by its number.
    #[inline(always)]
    #[must_use]
    pub fn interface(&self, id: InterfaceId) -> Option<&Interface> {
        self.interfaces.get(usize::from(id.0))?.as_ref()
    }

    /// The network inside with the lowest number.
    #[must_use]
    pub fn first_interface(&self) -> Option<&Interface> {
        self.interfaces.iter().flatten().next()
    }

    /// The network inside whose gateway has this MAC address.
    #[must_use]
    pub fn by_mac(&self, mac: MacAddr) -> Option<&Interface> {
        self.interfaces.iter().flatten().find(|interface| interface.mac == mac)
    }

    /// The network inside that contains an address, or by a guest of which it is reached.
    #[inline(always)]
    #[must_use]
    pub fn to_inside(&self, address: Ipv4Addr) -> Option<InterfaceId> {
        if self.is_searched {
            return self.places.inside(address);
        }
        self.by_scan(address)
    }

    /// The network inside by which an address is reached, and the next hop there: the guest itself, or the one that it is behind.
    #[inline(always)]
    #[must_use]
    pub fn to_guest(&self, address: Ipv4Addr) -> Option<(InterfaceId, Ipv4Addr)> {
        if self.is_searched {
            return match self.places.of(address) {
                Place::Gateway(id) | Place::Inside(id) => Some((id, address)),
                Place::Behind(id, number) => Some((id, self.guest_route(number)?.via)),
                Place::Route(_) | Place::Nowhere => None,
            };
        }
        self.by_scan(address).map(|id| (id, address))
    }

    /// The network inside that contains an address, by a look at each of them.
    #[inline(always)]
    fn by_scan(&self, address: Ipv4Addr) -> Option<InterfaceId> {
        for (number, interface) in self.interfaces.iter().enumerate() {
            if let Some(interface) = interface
                && interface.network.contains(address)
            {
                return Some(InterfaceId(number as u16));
            }
        }
        None
    }

    /// Where an address is.
    #[inline(always)]
    pub(crate) fn place(&self, address: Ipv4Addr) -> Place {
        self.places.of(address)
    }

    /// The route of the uplink that a place is behind.
    #[inline(always)]
    pub(crate) fn route_at(&self, place: Place) -> Option<&Route> {
        let Place::Route(number) = place else { return None };
        self.uplink.as_ref()?.routes.get(number as usize)
    }

    /// The route of the uplink to an address that is not inside.
    #[inline(always)]
    pub(crate) fn route(&self, to: Ipv4Addr) -> Option<&Route> {
        self.route_at(self.place(to))
    }

    /// The next hop through the uplink for an address that is not inside.
    #[inline]
    #[must_use]
    pub fn next_hop(&self, to: Ipv4Addr) -> Option<Ipv4Addr> {
        Some(self.route(to)?.hop(to))
    }

    /// Whether this is an address of the router's on the uplink.
    fn is_uplinks(&self, address: Ipv4Addr) -> bool {
        self.uplink.as_ref().is_some_and(|uplink| uplink.address == address || uplink.own.contains(&address))
    }

    /// Whether a packet to this address outside leaves through the uplink or is for the uplink itself.
    pub(crate) fn reaches(&self, to: Ipv4Addr) -> bool {
        self.is_uplinks(to) || self.route(to).is_some()
    }

    /// Whether this is an address of the router on any side.
    pub(crate) fn is_own(&self, address: Ipv4Addr) -> bool {
        matches!(self.place(address), Place::Gateway(_)) || self.is_uplinks(address)
    }

    /// Whether a packet from this network inside may go to that one other than by a published port.
    #[inline]
    #[must_use]
    pub fn routes_between(&self, from: &Interface, to: InterfaceId) -> bool {
        self.interface(to).is_some_and(|to| from.domain == to.domain || (from.reach, to.reach) == (Reach::All, Reach::All))
    }

    /// Whether packets of connections with the outside, and to published ports, may go to this network inside.
    #[inline]
    #[must_use]
    pub fn is_reached_from_outside(&self, to: InterfaceId) -> bool {
        self.interface(to).is_some_and(|to| to.reach != Reach::Nothing)
    }

    /// The uplink, if it can be used.
    #[inline(always)]
    #[must_use]
    pub fn uplink(&self) -> Option<&Uplink> {
        self.uplink.as_ref()
    }

    /// Whether a packet with these addresses may be forwarded, as far as link-local ones are concerned.
    #[inline(always)]
    #[must_use]
    pub fn forwards<const N: usize>(&self, addresses: [Ipv4Addr; N]) -> bool {
        let is_link_local = addresses.into_iter().fold(false, |is, address| is | (address.to_bits() >> 16 == LINK_LOCAL));
        !is_link_local || self.settings.forwards_link_local
    }

    /// The largest TCP segment that a SYN from or to this address outside may announce.
    #[inline]
    #[must_use]
    pub fn max_segment_size(&self, outside: Ipv4Addr) -> u16 {
        self.max_segment_size.unwrap_or_else(|| self.route(outside).map_or(u16::MAX, |route| route.max_segment_size))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_longest_prefix_wins_then_the_smallest_metric() {
        let to = |a: [u8; 4], len| Ipv4Prefix::new(Ipv4Addr::from(a), len);
        let via = |last| Some(Ipv4Addr::new(192, 0, 2, last));
        let routes = vec![
            Route::new(to([0; 4], 0), via(2), 200),
            Route::new(to([0; 4], 0), via(1), 100),
            Route::new(to([192, 0, 2, 0], 24), None, 0),
            Route::new(to([10, 0, 0, 0], 8), via(3), 500),
        ];
        let uplink = Uplink {
            port: PortId(1),
            mac: MacAddr::default(),
            address: Ipv4Addr::new(192, 0, 2, 9),
            own: Vec::new(),
            mtu: 1500,
            routes,
        };
        let routing = Routing::new(Vec::new(), Some(uplink), RoutingSettings::default());
        let hop = |a: [u8; 4]| routing.next_hop(Ipv4Addr::from(a));
        assert_eq!((hop([8, 8, 8, 8]), hop([10, 9, 9, 9])), (via(1), via(3)));
        assert_eq!(hop([192, 0, 2, 7]), Some(Ipv4Addr::new(192, 0, 2, 7)));
    }

    #[test]
    fn a_route_is_as_wide_as_the_narrower_of_it_and_the_uplink() {
        let to = |last| Ipv4Prefix::new(Ipv4Addr::new(10, 0, 0, last), 32);
        let route = |last, mtu, max_segment_size| Route { mtu, max_segment_size, ..Route::new(to(last), None, 0) };
        let routes = vec![
            route(1, 1400, u16::MAX),
            route(2, 9000, u16::MAX),
            route(3, u32::MAX, 1300),
            route(4, 1280, 1300),
            route(5, 30, 9),
        ];
        let uplink = Uplink {
            port: PortId(1),
            mac: MacAddr::default(),
            address: Ipv4Addr::new(192, 0, 2, 9),
            own: Vec::new(),
            mtu: 1500,
            routes,
        };
        let sizes = |mss_clamp| {
            let settings = RoutingSettings { mss_clamp, ..RoutingSettings::default() };
            let routing = Routing::new(Vec::new(), Some(uplink.clone()), settings);
            [1, 2, 3, 4, 5].map(|last| routing.max_segment_size(Ipv4Addr::new(10, 0, 0, last)))
        };
        assert_eq!(sizes(MssClamp::Fit), [1360, 1460, 1300, 1240, 0]);
        assert_eq!(sizes(MssClamp::To(1350)), [1350, 1350, 1300, 1240, 0]);
        assert_eq!(sizes(MssClamp::Off), [u16::MAX; 5]);
    }
}
