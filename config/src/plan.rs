//! The difference of two configurations: the changes, and the settings that need a restart.
//!
//! *Identity.* A port is identified by whatever only one port can have: the link's name and namespace, or the socket's path or
//! address (and the guest's place there). If other keys of it differ, the port changes; if that needs a different device, the port is
//! removed and added. Rules and tunnels are identified by all their keys.
//!
//! A bridge is identified by its name; a gateway by all it consists of.
//!
//! *Fixed settings.* Threads, sockets of the control API, the uplink and tables of the translation are created at the start. A
//! configuration with other values for them needs a restart, and is refused before anything is touched. One that leaves out
//! `workers`, `busy-poll`, `max-ports`, `mac-table-size`, `mac-aging-time`, `control`, `metrics` or `docker` keeps the running values. The set of bridges,
//! the uplink, the gateways and the settings of the translation have no such rule: leaving them out means none, or the default.

use std::collections::HashMap;
use std::fmt;
use std::net::Ipv4Addr;

use packet::VlanId;

use crate::bridge::{Bridge, BridgeKeys};
use crate::check::free_name;
use crate::desired::Desired;
use crate::guest::Guest;
use crate::model::Config;
use crate::nat::Nat;
use crate::port::{Port, PortPlaces};
use crate::publish::Publish;
use crate::route::StaticRoute;
use crate::router::Gateway;
use crate::tunnel::Tunnel;

/// The changes from one configuration to another.
#[derive(Debug, Default)]
pub struct Plan {
    /// Bridges to be removed; their ports are removed too, or move.
    pub removed_bridges: Vec<Bridge>,
    /// Bridges to be added.
    pub added_bridges: Vec<Bridge>,
    /// Bridges whose MAC table gets another size or ageing time, with the new values.
    pub altered_bridges: Vec<Bridge>,
    /// The gateways to be removed.
    pub removed_gateways: Vec<Gateway>,
    /// The gateways to be added.
    pub added_gateways: Vec<Gateway>,
    /// Whether routes to networks behind guests come, go or change.
    pub reroutes: bool,
    /// Addresses in networks with a gateway that guests have no more. Each may be another guest's from now on.
    pub lost_addresses: Vec<Ipv4Addr>,
    /// Ports to be removed, with their present keys.
    pub removed_ports: Vec<Port>,
    /// Ports to be added, in the order in which they are written.
    pub added_ports: Vec<Port>,
    /// Ports to be altered, with their new keys.
    pub altered_ports: Vec<Port>,
    /// Places among the altered ports of those whose `mtu` changes.
    new_mtus: Vec<usize>,
    /// Ports whose names alone change, because a port of the same name comes or goes, with their new names.
    pub renamed_ports: Vec<Port>,
    /// Names of the tunnels to be removed.
    pub removed_tunnels: Vec<String>,
    /// Tunnels to be added.
    pub added_tunnels: Vec<Tunnel>,
    /// Rules to be withdrawn.
    pub withdrawn: Vec<Publish>,
    /// Rules to be published.
    pub published: Vec<Publish>,
    /// New settings of the translation, if timeouts or the MSS clamp change.
    pub nat: Option<Nat>,
    /// All changes as lines of text.
    pub changes: Vec<Change>,
}

/// One line of a plan.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Change {
    /// Whether the object is added, removed or changed.
    pub action: Action,
    /// The kind of the object: `bridge`, `gateway`, `guest`, `port`, `route`, `rule`, `tunnel` or `setting`.
    pub kind: &'static str,
    /// The object's name.
    pub name: String,
    /// Description of the object, or of its old and new state.
    pub text: String,
}

/// The kind of a change.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Action {
    /// The object is added.
    Add,
    /// The object is removed.
    Remove,
    /// The object is changed in place.
    Alter,
    /// The object is removed and added again.
    Replace,
}

/// Writes the change as a line: `+ port tap3: access VLAN 10`.
impl fmt::Display for Change {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        let sign = match self.action {
            Action::Add => '+',
            Action::Remove => '-',
            Action::Alter => '~',
            Action::Replace => '!',
        };
        write!(out, "{sign} {} {}", self.kind, self.name)?;
        if self.text.is_empty() { Ok(()) } else { write!(out, ": {}", self.text) }
    }
}

/// Settings that cannot be changed while the switch runs, each with its key.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct NeedsRestart(Vec<(String, String)>);

impl NeedsRestart {
    /// Key of the first of them.
    #[must_use]
    pub fn first(&self) -> &str {
        self.0.first().map_or("", |(key, _)| key)
    }
}

impl fmt::Display for NeedsRestart {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        let settings: Vec<&str> = self.0.iter().map(|(_, text)| text.as_str()).collect();
        write!(out, "this needs a restart: {}", settings.join("; "))
    }
}

impl std::error::Error for NeedsRestart {}

impl Desired {
    /// Sizes and ageing times of MAC tables that are not written stay as they are.
    fn keep_tables_of(&mut self, now: &Desired) {
        let running = by_number(&now.config.bridges);
        let written: HashMap<&str, &BridgeKeys> =
            self.document.bridges().map(|(name, keys)| (name.value.as_str(), keys)).collect();
        for bridge in &mut self.config.bridges {
            let Some(before) = running.get(&bridge.number) else { continue };
            let keys = written.get(bridge.name.as_str());
            if keys.is_none_or(|keys| keys.mac_table_size.is_none()) {
                bridge.mac_table_size = before.mac_table_size;
            }
            if keys.is_none_or(|keys| keys.mac_aging_time.is_none()) {
                bridge.mac_aging_time = before.mac_aging_time;
            }
        }
    }

    /// Compares the running configuration with this one, which takes over fixed settings that are not written.
    pub fn plan_from(&mut self, now: &Desired) -> Result<Plan, NeedsRestart> {
        Plan::between(now, self)
    }
}

impl Plan {
    /// Compares the running configuration with the desired one, which takes over fixed settings that it leaves out.
    pub(crate) fn between(now: &Desired, desired: &mut Desired) -> Result<Plan, NeedsRestart> {
        desired.config.number_like(&now.config);
        desired.keep_tables_of(now);
        check_fixed(now, desired)?;
        let (old, new) = (&now.config, &mut desired.config);
        new.workers = old.workers;
        new.busy_poll = old.busy_poll;
        new.max_ports = old.max_ports;
        new.control.clone_from(&old.control);
        new.state.clone_from(&old.state);
        new.metrics.clone_from(&old.metrics);
        new.docker.clone_from(&old.docker);
        let mut plan = Plan::default();
        plan.bridges(old, new);
        plan.gateways(old, new);
        plan.routes(old, new);
        plan.guests(old, new);
        plan.ports(old, new);
        plan.tunnels(old, new);
        plan.rules(old, new);
        if let (Some(old), Some(new)) = (&old.router, &new.router)
            && old.nat != new.nat
        {
            plan.note(Action::Alter, "setting", "nat", format!("{} -> {}", old.nat, new.nat));
            plan.nat = Some(new.nat.clone());
        }
        Ok(plan)
    }

    /// Whether the `mtu` of an altered port is another, or is written no more.
    #[must_use]
    pub fn has_new_mtu(&self, port: &Port) -> bool {
        self.new_mtus.iter().filter_map(|at| self.altered_ports.get(*at)).any(|altered| altered.is_same_port(port))
    }

    /// Guests that get or lose a whole own address of the uplink, 1:1.
    #[must_use]
    pub fn one_to_one_guests(&self) -> Vec<Ipv4Addr> {
        let rules = self.withdrawn.iter().chain(&self.published);
        rules.filter(|rule| rule.is_whole_address()).map(Publish::guest).collect()
    }

    /// Whether nothing changes.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.changes.is_empty()
    }

    fn note(&mut self, action: Action, kind: &'static str, name: impl ToString, text: impl Into<String>) {
        self.changes.push(Change { action, kind, name: name.to_string(), text: text.into() });
    }

    fn bridges(&mut self, old: &Config, new: &Config) {
        let (before, after) = (by_number(&old.bridges), by_number(&new.bridges));
        for bridge in &old.bridges {
            if !after.contains_key(&bridge.number) {
                self.note(Action::Remove, "bridge", &bridge.name, "");
                self.removed_bridges.push(bridge.clone());
            }
        }
        for bridge in &new.bridges {
            match before.get(&bridge.number) {
                None => {
                    self.note(Action::Add, "bridge", &bridge.name, "");
                    self.added_bridges.push(bridge.clone());
                }
                Some(before) if *before == bridge => {}
                Some(before) => {
                    self.note(Action::Alter, "bridge", &bridge.name, bridge.differences_from(before));
                    self.altered_bridges.push(bridge.clone());
                }
            }
        }
    }

    /// Compares the gateways. One that stays on its bridge and VLAN with another address is a line of its own.
    fn gateways(&mut self, old: &Config, new: &Config) {
        let of = |config: &Config| config.router.as_ref().map_or(&[][..], |router| &router.gateways).to_vec();
        let (before, after) = (of(old), of(new));
        let (old_places, new_places) = (by_place(&before), by_place(&after));
        let is_in = |places: &Places, gateway: &Gateway| places.get(&gateway.place()) == Some(&gateway);
        for gateway in before.iter().filter(|gateway| !is_in(&new_places, gateway)) {
            if !new_places.contains_key(&gateway.place()) {
                self.note(Action::Remove, "gateway", gateway.on(old.name_among_several(gateway.bridge)), "");
            }
            self.removed_gateways.push(gateway.clone());
        }
        for gateway in after.iter().filter(|gateway| !is_in(&old_places, gateway)) {
            let name = gateway.on(new.name_among_several(gateway.bridge));
            match old_places.get(&gateway.place()) {
                None => self.note(Action::Add, "gateway", name, gateway.reach_text()),
                Some(other) if other.is_same_network(gateway) => {
                    self.note(Action::Alter, "gateway", name, gateway.differences_from(other));
                }
                Some(other) => self.note(Action::Replace, "gateway", name, format!("in place of {}", other.address)),
            }
            self.added_gateways.push(gateway.clone());
        }
    }

    /// Compares the routes to networks behind guests, each of which is known by its network.
    fn routes(&mut self, old: &Config, new: &Config) {
        let of = |config: &Config| config.router.as_ref().map_or(&[][..], |router| &router.routes).to_vec();
        let (before, after) = (of(old), of(new));
        let by_network = |routes: &[StaticRoute]| routes.iter().map(|route| (route.to, route.clone())).collect::<HashMap<_, _>>();
        let (then, now) = (by_network(&before), by_network(&after));
        let way = |config: &Config, route: &StaticRoute| route.way() + &config.on(route.bridge);
        for route in before.iter().filter(|route| !now.contains_key(&route.to)) {
            self.note(Action::Remove, "route", route.to, way(old, route));
        }
        for route in &after {
            match then.get(&route.to) {
                None => self.note(Action::Add, "route", route.to, way(new, route)),
                Some(other) if other.is_same(route) => continue,
                Some(other) => {
                    let text = format!("{} -> {}", way(old, other), way(new, route));
                    self.note(Action::Alter, "route", route.to, text);
                }
            }
            self.reroutes = true;
        }
        self.reroutes |= before.len() != after.len();
    }

    /// Compares the guests; their ports and rules are compared with the others. A guest that moves to another network loses all of its
    /// addresses.
    fn guests(&mut self, old: &Config, new: &Config) {
        let before: HashMap<&str, &Guest> = old.guests.iter().map(|guest| (guest.id.as_str(), guest)).collect();
        let after: HashMap<&str, &Guest> = new.guests.iter().map(|guest| (guest.id.as_str(), guest)).collect();
        for guest in old.guests.iter().filter(|guest| !after.contains_key(guest.id.as_str())) {
            self.note(Action::Remove, "guest", &guest.id, guest.text());
        }
        for guest in &new.guests {
            match before.get(guest.id.as_str()) {
                None => self.note(Action::Add, "guest", &guest.id, guest.text()),
                Some(other) if *other == guest => {}
                Some(other) => self.note(Action::Alter, "guest", &guest.id, format!("{} -> {}", other.text(), guest.text())),
            }
        }
        for guest in &old.guests {
            let now = after.get(guest.id.as_str()).filter(|now| now.network == guest.network);
            let is_kept = |address: &Ipv4Addr| now.is_some_and(|now| now.ipv4().any(|other| other == *address));
            self.lost_addresses.extend(guest.ipv4().filter(|address| !is_kept(address) && old.is_routed(guest, *address)));
        }
    }

    fn ports(&mut self, old: &Config, new: &Config) {
        let on = |port: &Port| if new.bridge(port.bridge).is_some() { new.on(port.bridge) } else { old.on(port.bridge) };
        let text_of = |port: &Port| port.keys_text() + &on(port);
        let of = |config: &Config| config.ports.iter().filter(|port| port.is_bridged()).cloned().collect::<Vec<_>>();
        let (old, new) = (of(old), of(new));
        let (before, after) = (PortPlaces::of(&old), PortPlaces::of(&new));
        for port in &old {
            if after.same(&new, port).is_none() {
                self.note_port(Action::Remove, port, text_of(port));
                self.removed_ports.push(port.clone());
            }
        }
        for port in new {
            match before.same(&old, &port) {
                None => {
                    self.note_port(Action::Add, &port, text_of(&port));
                    self.added_ports.push(port);
                }
                Some(before) if *before == port => {}
                Some(before) if (Port { name: port.name.clone(), ..before.clone() }) == port => self.renamed_ports.push(port),
                Some(before) => {
                    let text = format!("{} -> {}", text_of(before), text_of(&port));
                    if before.keeps_device(&port) {
                        self.note_port(Action::Alter, &port, text);
                        if before.mtu != port.mtu {
                            self.new_mtus.push(self.altered_ports.len());
                        }
                        self.altered_ports.push(port);
                    } else {
                        self.note_port(Action::Replace, &port, text);
                        self.removed_ports.push(before.clone());
                        self.added_ports.push(port);
                    }
                }
            }
        }
    }

    /// Adds a line for a port. The places for guests of one path or address share one line.
    fn note_port(&mut self, action: Action, port: &Port, text: String) {
        if let Some(title) = port.title() {
            self.note(action, "port", if port.slot().is_some() { title } else { port.full_name() }, text);
        }
    }

    /// Compares the tunnels. A tunnel that stays keeps its name, even if a new configuration would name it differently.
    fn tunnels(&mut self, old: &Config, new: &mut Config) {
        let names_of = new.clone();
        let on = |tunnel: &Tunnel| {
            if names_of.bridge(tunnel.bridge).is_some() { names_of.on(tunnel.bridge) } else { old.on(tunnel.bridge) }
        };
        let mut left = old.tunnels.clone();
        let mut names: Vec<String> = new.ports.iter().map(|port| port.name.clone()).collect();
        let mut added = Vec::new();
        for (at, tunnel) in new.tunnels.iter_mut().enumerate() {
            let renamed = |other: &Tunnel| Tunnel { name: tunnel.name.clone(), ..other.clone() };
            match left.iter().position(|other| renamed(other) == *tunnel) {
                Some(stays) => {
                    tunnel.name = left.remove(stays).name;
                    names.push(tunnel.name.clone());
                }
                None => added.push(at),
            }
        }
        for tunnel in left {
            self.note(Action::Remove, "tunnel", &tunnel.name, tunnel.keys_text() + &on(&tunnel));
            self.removed_tunnels.push(tunnel.name);
        }
        for at in added {
            let tunnel = &mut new.tunnels[at];
            tunnel.name = free_name(&tunnel.usual_name(), &names);
            names.push(tunnel.name.clone());
            self.note(Action::Add, "tunnel", &tunnel.name, tunnel.keys_text() + &on(tunnel));
            self.added_tunnels.push(tunnel.clone());
        }
    }

    fn rules(&mut self, old: &Config, new: &Config) {
        let of = |config: &Config| config.router.as_ref().map_or_else(Vec::new, |router| router.publish.clone());
        let (old, new) = (of(old), of(new));
        for rule in old.iter().filter(|rule| !new.contains(rule)) {
            self.note(Action::Remove, "rule", rule, "");
            self.withdrawn.push(rule.clone());
        }
        for rule in new.iter().filter(|rule| !old.contains(rule)) {
            self.note(Action::Add, "rule", rule, "");
            self.published.push(rule.clone());
        }
    }
}

/// Gateways by bridge and VLAN, of which each has one at most.
type Places<'a> = HashMap<(usize, VlanId), &'a Gateway>;

fn by_place(gateways: &[Gateway]) -> Places<'_> {
    gateways.iter().map(|gateway| (gateway.place(), gateway)).collect()
}

fn by_number(bridges: &[Bridge]) -> HashMap<usize, &Bridge> {
    bridges.iter().map(|bridge| (bridge.number, bridge)).collect()
}

/// `settings` with the values of `other` for everything that can change while packets flow.
fn with_live_of(settings: &Nat, other: &Nat) -> Nat {
    let &Nat { timeouts, mss_clamp, forward_link_local, .. } = other;
    Nat { timeouts, mss_clamp, forward_link_local, ..settings.clone() }
}

/// Differences in fixed settings.
#[derive(Default)]
struct Fixed(Vec<(String, String)>);

impl Fixed {
    fn compare(&mut self, key: &str, is_other: bool, old: impl fmt::Display, new: impl fmt::Display) {
        if is_other {
            self.0.push((key.to_owned(), format!("{key} is {old}, not {new}")));
        }
    }
}

fn check_fixed(now: &Desired, desired: &Desired) -> Result<(), NeedsRestart> {
    let (old, new, written) = (&now.config, &desired.config, &desired.document);
    let mut fixed = Fixed::default();
    fixed.compare("workers", written.workers.is_some() && new.workers != old.workers, old.workers, new.workers);
    fixed.compare("busy-poll", written.busy_poll.is_some() && new.busy_poll != old.busy_poll, old.busy_poll, new.busy_poll);
    fixed.compare("max-ports", written.max_ports.is_some() && new.max_ports != old.max_ports, old.max_ports, new.max_ports);
    let control = new.control.completed_by(&old.control, written.control.as_ref());
    fixed.compare("control", control != old.control, &old.control, &control);
    fixed.compare("state", written.state.is_some() && new.state.path() != old.state.path(), &old.state, &new.state);
    let metrics = |config: &Config| config.metrics.as_ref().map_or_else(|| "none".to_owned(), ToString::to_string);
    fixed.compare("metrics", written.metrics.is_some() && old.metrics != new.metrics, metrics(old), metrics(new));
    let docker = |config: &Config| config.docker.as_ref().map_or_else(|| "none".to_owned(), ToString::to_string);
    fixed.compare("docker", written.docker.is_some() && old.docker != new.docker, docker(old), docker(new));
    fixed.compare("uplink", !is_same_uplink(old, new), uplink_text(old), uplink_text(new));
    if let (Some(old), Some(new)) = (&old.router, &new.router) {
        fixed.compare("nat", with_live_of(&old.nat, &new.nat) != new.nat, &old.nat, &new.nat);
    }
    let of_packets = |config: &Config| {
        let tunnels: Vec<String> = config.ip_tunnels.iter().map(ToString::to_string).collect();
        if tunnels.is_empty() { "none".to_owned() } else { tunnels.join("; ") }
    };
    fixed.compare("udp-ip", old.ip_tunnels != new.ip_tunnels, of_packets(old), of_packets(new));
    if fixed.0.is_empty() { Ok(()) } else { Err(NeedsRestart(fixed.0)) }
}

/// Whether both have the same uplink; in bridge mode, on the bridge of the same name.
fn is_same_uplink(old: &Config, new: &Config) -> bool {
    let bridged = |config: &Config| {
        let uplink = config.bridge_uplink.as_ref()?;
        Some((uplink.interface.clone(), config.bridge(uplink.bridge).map(|bridge| bridge.name.clone())))
    };
    let routed = |config: &Config| config.router.as_ref().and_then(|router| router.uplink.clone());
    bridged(old) == bridged(new) && routed(old) == routed(new)
}

fn uplink_text(config: &Config) -> String {
    let bridged = config.bridge_uplink.as_ref().map(|uplink| {
        let on = config.name_among_several(uplink.bridge).map_or_else(String::new, |name| format!(" on {name}"));
        format!("{}, bridged{on}", uplink.interface)
    });
    let routed = config.router.as_ref().and_then(|router| router.uplink.as_ref()).map(ToString::to_string);
    bridged.or(routed).unwrap_or_else(|| "none".to_owned())
}

#[cfg(test)]
mod tests;
