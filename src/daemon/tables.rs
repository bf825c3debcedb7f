//! Tables that are changed over the control socket: MAC entries, neighbours, connections, which are shared with the workers, so that a
//! [`View`] is enough; and the routes to networks behind guests.

use std::net::Ipv4Addr;

use api::Refusal;
use api::query::ConnectionFilter;
use config::unknown_bridge;
use packet::MacAddr;
use packet::vlan::VlanId;
use vswitch::{BridgeId, Domain, MacTable, PortId, PortKind};

use super::view::View;
use crate::control_socket::matches;
use crate::model::{bridge_id, port_vlan};

impl View<'_> {
    /// The routes to networks behind guests.
    pub(super) fn routes(&self) -> Vec<api::Route> {
        let view = |route: &config::StaticRoute| {
            let is_its =
                |found: &&vswitch::Interface| found.domain.bridge == bridge_id(route.bridge) && found.network.contains(route.via);
            let network = self.edge.interfaces().find(is_its);
            api::Route {
                to: route.to.to_string(),
                via: route.via.to_string(),
                bridge: self.fabric.bridges.name(bridge_id(route.bridge)).to_owned(),
                vlan: network.map_or(0, |network| network.domain.vlan.get()),
                no_nat: route.no_nat,
            }
        };
        self.config.router.iter().flat_map(|router| &router.routes).map(view).collect()
    }

    /// Adds a static entry to the MAC table of the port's bridge. Returns the names of the bridge and of the port.
    pub(super) fn add_mac(&self, vlan: VlanId, mac: MacAddr, port: &str) -> Result<(String, String), Refusal> {
        if !mac.is_station() {
            return Err(
                Refusal::unprocessable(format!("{mac} is no station's address: it is a group's, or zero")).of_field("mac")
            );
        }
        let (id, bridge) = self.bridged_port(port)?;
        let table = self.fabric.bridges.table(bridge).ok_or_else(|| no_bridge(port))?;
        if self.edge.interfaces().any(|interface| interface.domain == Domain { bridge, vlan } && interface.mac == mac) {
            let refusal = Refusal::conflict(format!("{mac} is the gateway's own address"));
            return Err(refusal.of_field("mac").in_the_way("gateway"));
        }
        if !self.carries(id, vlan) {
            let what = if vlan == VlanId::NONE { "untagged frames".to_owned() } else { format!("VLAN {vlan}") };
            return Err(Refusal::unprocessable(format!("port {port} does not carry {what}")).of_field("vlan"));
        }
        let full = |_| Refusal::conflict("there is no room for more static entries: raise mac-table-size");
        table.add_static(vlan, mac, id).map_err(full)?;
        let name = self.port_names().into_iter().nth(id.index()).unwrap_or_default();
        Ok((self.fabric.bridges.name(bridge).to_owned(), name))
    }

    /// Takes an entry out of a bridge's MAC table, if it is there. Of several bridges one has to be named.
    pub(super) fn remove_mac(&self, bridge: Option<&str>, vlan: VlanId, mac: MacAddr) -> Result<bool, Refusal> {
        match (self.tables_of(bridge)?.as_slice(), bridge) {
            ([table], _) => Ok(table.remove(vlan, mac)),
            _ => {
                let names: Vec<&str> = self.fabric.bridges.names().collect();
                Err(Refusal::unprocessable(format!("on which bridge? There are {}", names.join(", "))).of_field("bridge"))
            }
        }
    }

    /// The MAC table of this bridge, or all.
    fn tables_of(&self, bridge: Option<&str>) -> Result<Vec<&MacTable>, Refusal> {
        let named = self.fabric.bridges.iter().filter(|one| bridge.is_none_or(|name| one.config.name == name));
        let tables: Vec<&MacTable> = named.map(|bridge| &*bridge.table).collect();
        match bridge {
            Some(name) if tables.is_empty() => {
                Err(Refusal::not_found(unknown_bridge(name, self.fabric.bridges.names())).of_field("bridge"))
            }
            _ => Ok(tables),
        }
    }

    /// Removes learned entries. Returns their number.
    pub(super) fn flush_macs(&self, bridge: Option<&str>, port: Option<&str>, vlan: Option<VlanId>) -> Result<usize, Refusal> {
        let port = port.map(|port| self.bridged_port(port)).transpose()?.map(|(id, _)| id);
        Ok(self.tables_of(bridge)?.into_iter().map(|table| table.flush(port, vlan)).sum())
    }

    /// Forgets neighbours. Returns how many.
    pub(super) fn flush_neighbours(&self, address: Option<Ipv4Addr>) -> usize {
        self.edge.router.as_ref().map_or(0, |router| router.neighbours().forget_known(address))
    }

    /// Ends connections. Returns their number; `None` without NAT.
    pub(super) fn flush_connections(&self, filter: &ConnectionFilter) -> Option<usize> {
        let nat = self.edge.nat()?;
        Some(nat.flush(self.fabric.now(), |connection| matches(filter, connection)))
    }

    /// The port of this name, behind which stations can be, and its bridge.
    fn bridged_port(&self, name: &str) -> Result<(PortId, BridgeId), Refusal> {
        let id = self.find_port(name).map_err(|refusal| refusal.of_field("port"))?;
        Ok((id, self.bridge_of(id).ok_or_else(|| no_bridge(name))?))
    }

    /// Whether a port of the bridge carries this VLAN.
    fn carries(&self, id: PortId, vlan: VlanId) -> bool {
        if let Some(port) = self.ports.get(id) {
            return port_vlan(&port.config.vlans).carries(vlan);
        }
        if self.edge.uplink.as_ref().is_some_and(|uplink| uplink.id == id) {
            return true;
        }
        let peer = self.tunnels.peers().iter().find(|peer| peer.id == id);
        peer.map(|peer| peer.to_pipeline(self.tunnels.spec_of(peer)))
            .is_some_and(|port| matches!(port.kind, PortKind::Peer(_)) && port.vlan.carries(vlan))
    }
}

fn no_bridge(port: &str) -> Refusal {
    Refusal::not_found(format!("port '{}' is no port of a bridge, so it has no stations", port.escape_debug())).of_field("port")
}
