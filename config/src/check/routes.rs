//! Checks of the routes to networks behind guests.

use std::collections::HashMap;

use packet::Ipv4Prefix;

use super::Check;
use crate::address::not_a_host;
use crate::bridge::Bridge;
use crate::problem::{At, Origin};
use crate::route::{MAX_ROUTES, StaticRoute};
use crate::router::Gateway;
use crate::uplink::NatUplink;

impl Check<'_> {
    /// The routes whose guests are in networks of gateways, and that are not in the way of each other or of networks.
    pub(super) fn routes(&mut self, bridges: &[Bridge], gateways: &[Gateway], uplink: Option<&NatUplink>) -> Vec<StaticRoute> {
        let document = self.document;
        let mut routes: Vec<StaticRoute> = Vec::new();
        let mut known: HashMap<Ipv4Prefix, usize> = HashMap::new();
        // The networks of an invalid gateway are unknown.
        let knows_networks = document.bridges().all(|(_, keys)| !keys.is_faulty);
        for At { value: keys, origin, .. } in document.routes() {
            let bridge = self.find_bridge(keys.bridge.as_ref(), bridges, "which bridge is the guest on?", origin);
            let (Some(route), Some(bridge)) = (keys.route(origin, self.problems), bridge) else { continue };
            let route = StaticRoute { bridge, ..route };
            let (to, via) = (key_origin(keys.to.as_ref(), origin), key_origin(keys.via.as_ref(), origin));
            if let Some(problem) = next_hop_problem(&route, bridges, gateways).filter(|_| knows_networks) {
                self.problems.add(via, problem);
            } else if let Some((problem, in_the_way)) = network_problem(&route, bridges, gateways) {
                self.problems.add_clash(to, problem, in_the_way);
            } else if let Some(other) = known.get(&route.to).and_then(|at| routes.get(*at)) {
                let on = on_bridge(bridges, other.bridge);
                let problem = format!("there is a route {other}{on} already: leave one of both out");
                self.problems.add_clash(to, problem, format!("{other}{on}"));
            } else if let Some(problem) = no_nat_problem(&route, uplink) {
                self.problems.add(key_origin(keys.no_nat.as_ref(), origin), problem);
            } else {
                known.insert(route.to, routes.len());
                routes.push(route);
            }
        }
        if routes.len() > MAX_ROUTES {
            let count = routes.len();
            self.problems.add(self.whole, format!("{count} routes, but there are at most {MAX_ROUTES}: leave some out"));
        }
        routes
    }
}

fn key_origin<'a, T>(key: Option<&'a At<T>>, table: &'a Origin) -> &'a Origin {
    key.map_or(table, |key| &key.origin)
}

fn on_bridge(bridges: &[Bridge], number: usize) -> String {
    bridges.get(number).map_or_else(String::new, |bridge| format!(" on {}", bridge.name))
}

/// Why a guest cannot be the next hop, if it cannot.
fn next_hop_problem(route: &StaticRoute, bridges: &[Bridge], gateways: &[Gateway]) -> Option<String> {
    let via = route.via;
    let name = bridges.get(route.bridge).map_or("", |bridge| bridge.name.as_str());
    let on_it = || gateways.iter().filter(|gateway| gateway.bridge == route.bridge).map(|gateway| gateway.address);
    let Some(home) = on_it().find(|gateway| gateway.network().contains(via)) else {
        let networks: Vec<String> = on_it().map(|gateway| gateway.network().to_string()).collect();
        return Some(match networks.as_slice() {
            [] => format!("bridge {name} has no gateway, so no guest of it is a next hop: add one, or name another bridge"),
            _ => format!(
                "{via} is in no gateway's network of bridge {name} ({}): name a guest there, or its bridge",
                networks.join(", ")
            ),
        });
    };
    let what = if via == home.address { Some("the gateway itself") } else { not_a_host(home.network(), via) };
    what.map(|what| format!("{via} is {what} of {}: name the guest that the network is behind", home.network()))
}

/// The network of a gateway that a route's network overlaps with, if there is one.
fn network_problem(route: &StaticRoute, bridges: &[Bridge], gateways: &[Gateway]) -> Option<(String, String)> {
    let gateway = gateways.iter().find(|gateway| gateway.address.network().overlaps(route.to))?;
    let (network, to) = (gateway.address.network(), route.to);
    let on = on_bridge(bridges, gateway.bridge);
    Some((
        format!("{to} overlaps with {network} of gateway {gateway}{on}: route other addresses to the guest"),
        gateway.to_string(),
    ))
}

/// Why packets of a network cannot keep their addresses, if they cannot.
fn no_nat_problem(route: &StaticRoute, uplink: Option<&NatUplink>) -> Option<String> {
    let uplink = uplink.filter(|uplink| route.no_nat && uplink.addresses.is_empty())?;
    let cure = route.origin.say("address to [uplink]", "--uplink-address");
    Some(format!(
        "no-nat needs an own address on {}: the host would take the answers, which come to its MAC address, and may forward them; add \
         {cure}",
        uplink.interface
    ))
}
