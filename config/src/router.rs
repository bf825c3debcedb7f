//! The router: its addresses towards the guests, its way out, and the guests' ports that can be reached from outside.
//!
//! ```text
//!   guests of VLAN 0      10.0.0.0/24  --- gateway 10.0.0.1 --+
//!                                                             +-- router -- uplink eth0 -- outside
//!   guests of VLAN 10    10.0.10.0/24  --- gateway 10.0.10.1 -+     nat, publish
//! ```
//!
//! No two of these networks overlap, so that an address belongs to one network. Without an uplink the router routes between its gateways
//! and translates nothing.

use std::collections::{BTreeMap, HashMap};
use std::fmt::{self, Write as _};
use std::net::Ipv4Addr;

use packet::{Ipv4Prefix, VlanId};

use crate::address::Cidr;
use crate::bridge::Reach;
use crate::nat::Nat;
use crate::problem::{Origin, Problem};
use crate::publish::Publish;
use crate::route::StaticRoute;
use crate::uplink::NatUplink;

/// Maximum number of gateways, over all bridges.
pub const MAX_GATEWAYS: usize = 4096;

/// The gateway of a NAT uplink that has none.
const DEFAULT_GATEWAY: Cidr = Cidr::new(Ipv4Addr::new(10, 77, 0, 1), 24);

/// The configuration of the router.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Router {
    /// One at least, one for each VLAN of each bridge at most; their networks do not overlap.
    pub gateways: Vec<Gateway>,
    /// Routes to networks behind guests, of which no two have the same prefix.
    pub routes: Vec<StaticRoute>,
    /// `None` to route between gateways alone.
    pub uplink: Option<NatUplink>,
    /// Of no meaning without an uplink.
    pub nat: Nat,
    /// Empty without an uplink. No packet matches two of them.
    pub publish: Vec<Publish>,
}

/// The router's own address in one VLAN of one bridge.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Gateway {
    /// Where it was written.
    pub origin: Origin,
    /// Its bridge, by its place among all.
    pub bridge: usize,
    /// [`VlanId::NONE`] for untagged frames.
    pub vlan: VlanId,
    /// With the network of the guests there: 1 to 30 bits.
    pub address: Cidr,
    /// What the router forwards for these guests.
    pub reach: Reach,
    /// The host is a neighbour of these guests.
    pub host: bool,
}

/// `10.0.10.1/24 on VLAN 10`.
impl fmt::Display for Gateway {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.vlan {
            VlanId::NONE => self.address.fmt(out),
            vlan => write!(out, "{} on VLAN {vlan}", self.address),
        }
    }
}

impl Gateway {
    /// That of a NAT uplink for which no gateway was written: on the first bridge.
    pub(crate) fn usual() -> Gateway {
        let (origin, address) = (Origin::Default, DEFAULT_GATEWAY);
        Gateway { origin, bridge: 0, vlan: VlanId::NONE, address, reach: Reach::All, host: false }
    }

    /// Its bridge and its VLAN, where no other one is.
    pub(crate) fn place(&self) -> (usize, VlanId) {
        (self.bridge, self.vlan)
    }

    /// Whether the host is a neighbour of these guests, which it is not where nothing is routed.
    #[must_use]
    pub fn has_host(&self) -> bool {
        self.host && self.reach != Reach::Nothing
    }

    /// Whether the other one is the same but for what it forwards.
    #[must_use]
    pub fn is_same_network(&self, other: &Gateway) -> bool {
        self.place() == other.place() && self.address == other.address
    }

    /// `routing outside, with the host`; empty where everything is routed and the host is no neighbour.
    pub(crate) fn reach_text(&self) -> String {
        let routing = (self.reach != Reach::All).then(|| format!("routing {}", self.reach.name()));
        let host = self.host.then(|| "with the host".to_owned());
        routing.into_iter().chain(host).collect::<Vec<_>>().join(", ")
    }

    /// What is other than before, of the same network: `routing all -> none, host off -> on`.
    pub(crate) fn differences_from(&self, before: &Gateway) -> String {
        let word = |host: bool| if host { "on" } else { "off" };
        let routing = (self.reach != before.reach).then(|| format!("routing {} -> {}", before.reach.name(), self.reach.name()));
        let host = (self.host != before.host).then(|| format!("host {} -> {}", word(before.host), word(self.host)));
        routing.into_iter().chain(host).collect::<Vec<_>>().join(", ")
    }

    /// `10.0.10.1/24 on VLAN 10 of br1`; without a name as it is.
    pub(crate) fn on(&self, bridge: Option<&str>) -> String {
        match (bridge, self.vlan) {
            (None, _) => self.to_string(),
            (Some(name), VlanId::NONE) => format!("{self} on {name}"),
            (Some(name), _) => format!("{self} of {name}"),
        }
    }

    /// Why this one cannot be beside another, if that is so; `bridge` is that of the other one, if it is not the same.
    pub(crate) fn conflict(&self, other: &Gateway, bridge: Option<&str>) -> Option<String> {
        if self.vlan == other.vlan && bridge.is_none() {
            let what = match self.vlan {
                VlanId::NONE => "untagged frames have".to_owned(),
                vlan => format!("VLAN {vlan} has"),
            };
            let vlan = if self.vlan.get() == 10 { 20 } else { 10 };
            let cure = format!("put this one on another VLAN, such as {vlan}={}", self.address);
            return Some(format!("{what} the gateway {} already: {cure}", other.address));
        }
        if self.address.network().overlaps(other.address.network()) {
            let (one, another) = (self.address.network(), other.address.network());
            let on = bridge.map_or_else(String::new, |name| format!(" of bridge {name}"));
            return Some(format!("{one} overlaps with {another} of gateway {other}{on}: give each network addresses of its own"));
        }
        None
    }
}

/// Where to find the gateways that may be in the way of another one: at its place, or with a network that overlaps. The networks of
/// those that are known do not overlap, so only the two next to the other one's can.
#[derive(Default)]
pub(crate) struct Known {
    places: HashMap<(usize, VlanId), usize>,
    networks: BTreeMap<Ipv4Addr, usize>,
}

impl Known {
    /// Adds a gateway, which is the one of this number.
    pub(crate) fn add(&mut self, gateway: &Gateway, number: usize) {
        self.places.insert(gateway.place(), number);
        self.networks.insert(gateway.address.network().network(), number);
    }

    /// The numbers of those that may be in the way of another one.
    pub(crate) fn in_the_way_of(&self, gateway: &Gateway) -> [Option<usize>; 3] {
        let first = gateway.address.network().network();
        let below = self.networks.range(..=first).next_back().map(|(_, number)| *number);
        let above = self.networks.range(first..).next().map(|(_, number)| *number);
        [self.places.get(&gateway.place()).copied(), below, above]
    }
}

impl Router {
    /// Refuses an uplink whose network overlaps with a gateway's or a route's. Own addresses are checked with the configuration; the host's
    /// addresses are to be checked when they are known.
    pub fn check_uplink_network(&self, outside: Ipv4Prefix) -> Result<(), Problem> {
        let Some(gateway) = self.gateways.iter().find(|gateway| gateway.address.network().overlaps(outside)) else {
            let Some(route) = self.routes.iter().find(|route| route.to.overlaps(outside)) else { return Ok(()) };
            let text = format!("route {route} overlaps with {outside}, the uplink's: route other addresses to the guest");
            return Err(Problem::new(&route.origin, text));
        };
        let inside = gateway.address.network();
        let text =
            format!("{inside} of gateway {gateway} overlaps with {outside}, the uplink's: give the guests another network");
        Err(Problem::new(&gateway.origin, text))
    }

    /// A line for each gateway, the uplink, its settings and each rule. `name_of` names a bridge where there are several.
    pub(crate) fn summary<'a>(&self, name_of: impl Fn(usize) -> Option<&'a str>) -> String {
        let mut text = String::new();
        for gateway in &self.gateways {
            let reach = gateway.reach_text();
            let comma = if reach.is_empty() { "" } else { ", " };
            let _ = writeln!(text, "gateway {}{comma}{reach}", gateway.on(name_of(gateway.bridge)));
        }
        for route in &self.routes {
            let on = name_of(route.bridge).map_or_else(String::new, |name| format!(" on {name}"));
            let _ = writeln!(text, "route {route}{on}");
        }
        if let Some(uplink) = &self.uplink {
            let _ = writeln!(text, "uplink {uplink}\nnat {}", self.nat);
        }
        for rule in &self.publish {
            let _ = writeln!(text, "publish {rule}");
        }
        text
    }
}
