//! Static routes to networks behind guests: `[[route]]`, `--route`, `route add`.
//!
//! ```text
//!   10.9.0.0/16 --- guest 10.71.0.9 --- bridge blue, gateway 10.71.0.1/24 --- router
//!
//!   [[route]]  to = "10.9.0.0/16"  via = "10.71.0.9"  bridge = "blue"
//! ```
//!
//! The guest is the next hop, in the network of one of the bridge's gateways; the VLAN follows from that. A route's network overlaps with
//! no gateway's and not with the uplink's own. Routes may lie within one another, and the longest prefix wins.
//!
//! *The guard.* The port of the guest lets its guest send from what its routes lead to, without what a longer route leads to another guest.
//!
//! *Owner.* A route on a bridge that `bridge add` made is its owner's, like a tunnel there. Others are the configuration's.

use std::collections::{BTreeMap, HashMap};
use std::fmt;
use std::net::Ipv4Addr;

use packet::{Ipv4Prefix, Prefix};

use crate::address::{HostAddress, Network};
use crate::bridge::DEFAULT_BRIDGE;
use crate::desired::{Desired, EditError, no_such};
use crate::document::Document;
use crate::flags::{self, Flag};
use crate::keys::keys;
use crate::port::Port;
use crate::problem::{At, Origin, Problems};

/// Maximum number of static routes.
pub const MAX_ROUTES: usize = 16_384;

/// A route to a network behind a guest.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct StaticRoute {
    /// Where it was written.
    pub origin: Origin,
    /// The network.
    pub to: Ipv4Prefix,
    /// The guest's address.
    pub via: Ipv4Addr,
    /// The guest's bridge, by its number.
    pub bridge: usize,
    /// Whether packets of the network keep their source addresses on their way outside.
    pub no_nat: bool,
}

keys! {
    /// A route to a network behind a guest.
    struct RouteKeys {
        /// The network, which overlaps with no gateway's and not with the uplink's.
        "to" => to: Network,
        /// The address of the guest that it is behind, in the network of one of the bridge's gateways.
        "via" => via: HostAddress,
        /// The guest's bridge. Default: br0.
        "bridge" => bridge: String,
        /// Its packets keep their source addresses on their way outside. Needs own addresses of the uplink. Default: false.
        "no-nat" => no_nat: bool,
    }
}

/// `10.9.0.0/16 via 10.71.0.9, not translated`.
impl fmt::Display for StaticRoute {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(out, "{} {}", self.to, self.way())
    }
}

impl StaticRoute {
    /// `via 10.71.0.9, not translated`.
    pub(crate) fn way(&self) -> String {
        format!("via {}{}", self.via, if self.no_nat { ", not translated" } else { "" })
    }

    /// Whether the other one is written differently only.
    pub(crate) fn is_same(&self, other: &StaticRoute) -> bool {
        (self.to, self.via, self.bridge, self.no_nat) == (other.to, other.via, other.bridge, other.no_nat)
    }
}

impl RouteKeys {
    /// The route, on a bridge that is not known yet; `None` if its keys are wrong by themselves.
    pub(crate) fn route(&self, table: &Origin, problems: &mut Problems) -> Option<StaticRoute> {
        if self.is_faulty {
            return None;
        }
        let (Some(to), Some(via)) = (&self.to, &self.via) else {
            let in_file = "a route needs to = \"10.9.0.0/16\" and via = \"10.71.0.9\", or whichever network and guest these are";
            problems.add(table, table.say(in_file, "a route is NETWORK:via=ADDRESS, such as 10.9.0.0/16:via=10.71.0.9"));
            return None;
        };
        let no_nat = self.no_nat.as_ref().is_some_and(|no_nat| no_nat.value);
        Some(StaticRoute { origin: table.clone(), to: to.value.0, via: via.value.0, bridge: 0, no_nat })
    }

    /// The name of its bridge.
    pub(crate) fn bridge_name(&self) -> &str {
        self.bridge.as_ref().map_or(DEFAULT_BRIDGE, |bridge| bridge.value.as_str())
    }
}

impl Desired {
    /// This configuration with one more route, in the syntax of `--route`.
    pub fn with_route(&self, word: &str) -> Result<Desired, EditError> {
        self.with(Flag::new("--route", word), "route add")
    }

    /// This configuration without the route to a network, which is given alone or in the syntax of `--route`.
    pub fn without_route(&self, word: &str) -> Result<Desired, EditError> {
        let to = word.split_once(":via=").map_or(word, |(to, _)| to);
        let whole = to != word;
        let mut ignored = Problems::default();
        let wanted = flags::route(word, &mut ignored).value;
        let is_it = |keys: &RouteKeys| {
            let is_same = |one: &RouteKeys, other: &RouteKeys| {
                let of = |keys: &RouteKeys| keys.route(&Origin::Default, &mut Problems::default());
                of(one) == of(other) && one.bridge_name() == other.bridge_name()
            };
            let is_named = keys.to.as_ref().is_some_and(|network| network.value.0.to_string() == to);
            is_named && (!whole || is_same(keys, &wanted))
        };
        if !self.document.routes().iter().any(|keys| is_it(&keys.value)) {
            let routes = self.config.router.iter().flat_map(|router| &router.routes);
            return Err(no_such("route", word, routes.map(|route| route.to.to_string())));
        }
        let mut document = self.document.clone();
        document.routes.iter_mut().for_each(|routes| routes.value.0.retain(|keys| !is_it(&keys.value)));
        self.of_document(document)
    }
}

impl Document {
    pub(crate) fn routes(&self) -> &[At<RouteKeys>] {
        self.routes.as_ref().map_or(&[], |routes| &routes.value.0)
    }
}

/// Lets guests send from what routes lead to by them: the ports that have a next hop among their addresses.
pub(crate) fn open_guards(routes: &[StaticRoute], ports: &mut [Port]) {
    if routes.is_empty() {
        return;
    }
    let mut behind: HashMap<(usize, Ipv4Addr), Vec<Prefix>> = HashMap::new();
    let by_first: BTreeMap<(Ipv4Addr, u8), &StaticRoute> =
        routes.iter().map(|route| ((route.to.network(), route.to.prefix_len()), route)).collect();
    for route in routes {
        let within = by_first.range((route.to.network(), route.to.prefix_len())..=(route.to.last(), Ipv4Prefix::MAX_LEN));
        let is_other = |other: &&StaticRoute| (other.bridge, other.via) != (route.bridge, route.via);
        let holes: Vec<Ipv4Prefix> = within.map(|(_, other)| *other).filter(is_other).map(|other| other.to).collect();
        without(route.to, &holes, behind.entry((route.bridge, route.via)).or_default());
    }
    for port in ports {
        let mut own: Vec<Prefix> = Vec::new();
        for address in &port.station.addresses {
            let Prefix::V4(address) = address else { continue };
            if address.prefix_len() == Ipv4Prefix::MAX_LEN {
                own.extend(behind.get(&(port.bridge, address.network())).into_iter().flatten());
            } else {
                let of_it = behind.iter().filter(|((bridge, via), _)| *bridge == port.bridge && address.contains(*via));
                own.extend(of_it.flat_map(|(_, networks)| networks));
            }
        }
        own.sort_by_key(|network| (network.network(), network.prefix_len()));
        own.dedup();
        port.station.behind = own;
    }
}

/// Adds what is left of a prefix without others.
fn without(prefix: Ipv4Prefix, holes: &[Ipv4Prefix], left: &mut Vec<Prefix>) {
    let in_it: Vec<Ipv4Prefix> = holes.iter().copied().filter(|hole| hole.overlaps(prefix)).collect();
    if in_it.is_empty() {
        left.push(Prefix::V4(prefix));
    } else if in_it.iter().all(|hole| hole.prefix_len() > prefix.prefix_len()) {
        let len = prefix.prefix_len() + 1;
        let upper = prefix.network().to_bits() | 1 << (Ipv4Prefix::MAX_LEN - len);
        for half in [prefix.network(), Ipv4Addr::from_bits(upper)] {
            without(Ipv4Prefix::new(half, len), &in_it, left);
        }
    }
}

#[cfg(test)]
mod tests;
