//! Routes to networks behind guests, which come and go while packets flow.

use std::collections::HashMap;

use config::StaticRoute;
use packet::Ipv4Prefix;
use vswitch::{GuestRoute, Interface, InterfaceId, Routing};

use super::RouterControl;
use super::gateways::CutOff;
use crate::edge::UplinkPort;
use crate::model::bridge_id;

/// The routes for workers, each by the network inside that has its guest.
pub(super) fn guest_routes(routes: &[StaticRoute], interfaces: &[Option<Interface>]) -> Vec<GuestRoute> {
    let mut by_bridge: HashMap<_, Vec<(InterfaceId, Ipv4Prefix)>> = HashMap::new();
    for (number, interface) in interfaces.iter().enumerate().filter(|_| !routes.is_empty()) {
        let Some(interface) = interface else { continue };
        by_bridge.entry(interface.domain.bridge).or_default().push((InterfaceId(number as u16), interface.network));
    }
    let route = |route: &StaticRoute| {
        let networks = by_bridge.get(&bridge_id(route.bridge))?;
        let (interface, _) = *networks.iter().find(|(_, network)| network.contains(route.via))?;
        Some(GuestRoute { to: route.to, via: route.via, interface, is_translated: !route.no_nat })
    };
    routes.iter().filter_map(route).collect()
}

impl RouterControl {
    /// The routes for workers.
    pub(crate) fn guest_routes(&self) -> Vec<GuestRoute> {
        guest_routes(&self.config.routes, &self.interfaces)
    }

    /// Checks routes that are to be in force: their networks are not the uplink's.
    pub(crate) fn check_routes(&self, routes: &[StaticRoute]) -> anyhow::Result<()> {
        let new = config::Router { gateways: Vec::new(), routes: routes.to_vec(), ..self.config.clone() };
        for (address, prefix_len) in &self.networks {
            new.check_uplink_network(Ipv4Prefix::new(*address, *prefix_len))?;
        }
        Ok(())
    }

    /// These are the routes from now on; the uplink receives what is for networks that are not translated.
    pub(crate) fn set_routes(&mut self, routes: Vec<StaticRoute>, uplink: Option<&mut UplinkPort>) {
        let keeps_addresses = |routes: &[StaticRoute]| routes.iter().any(|route| route.no_nat);
        let has_filter = keeps_addresses(&self.config.routes) || keeps_addresses(&routes);
        self.config.routes = routes;
        self.reroute();
        if let (true, Some(filter), Some(uplink)) = (has_filter, self.filter(), uplink) {
            uplink.set_filter(filter);
        }
    }

    /// What was behind guests by earlier routes, and is not in the same network any more.
    pub(crate) fn lost_since(&self, before: &Routing) -> CutOff {
        CutOff::of_ranges(self.routing.lost_since(before))
    }
}
