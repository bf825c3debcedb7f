//! Checks of the ports and guests.

use std::collections::HashMap;
use std::net::Ipv4Addr;

use super::Check;
use crate::bridge::{Bridge, BridgeKeys};
use crate::guest::{Guest, Neighbourhood};
use crate::port::{CommonKeys, Port, PortKeys, PortKind, PortPlaces};
use crate::problem::{At, Origin};
use crate::router::Gateway;
use crate::station::Station;

impl<'a> Check<'a> {
    /// The ports of all bridges. Two ports with the same interface, path or address are a problem.
    pub(super) fn ports(&mut self, guests: &[(usize, Guest)]) -> Vec<Port> {
        let mut ports: Vec<Port> = Vec::new();
        let (mut ids, mut places) = (HashMap::new(), PortPlaces::default());
        for (number, (_, bridge_keys)) in self.document.bridges().enumerate() {
            for keys in bridge_keys.ports.iter().flat_map(|ports| &ports.value.0) {
                if !self.note_id(keys, &mut ids) {
                    continue;
                }
                let made = keys.value.ports(&keys.origin, self.problems);
                let clash = made.iter().find_map(|port| Some((port, places.clashing(&ports, port)?)));
                if let Some((port, other)) = clash {
                    self.same_place(port, other);
                    continue;
                }
                self.warnings.extend(made.iter().filter_map(Port::warning));
                let made = made.into_iter().map(|port| Port { bridge: number, ..port });
                for port in made.map(|port| with_defaults(port, bridge_keys, keys.value.common())) {
                    places.note(ports.len(), &port);
                    ports.push(port);
                }
            }
        }
        let bridges: Vec<&BridgeKeys> = self.document.bridges().map(|(_, keys)| keys).collect();
        for (bridge, guest) in guests {
            let mut port = guest.port(*bridge);
            if let Some(keys) = bridges.get(*bridge) {
                port = with_defaults(port, keys, None);
            }
            port.station.isolated = guest.isolated.unwrap_or(port.station.isolated);
            if let Some(other) = ids.get(guest.id.as_str()) {
                let problem = format!("id {} is that of a port, '{}': use another id", guest.id, other.port);
                self.problems.add_clash(&guest.origin, problem, &guest.id);
            } else if let Some(other) = places.clashing(&ports, &port) {
                let problem = format!("{} is the interface of another port: use another one", port.full_name());
                self.problems.add_clash(&guest.origin, problem, other.full_name());
            } else {
                places.note(ports.len(), &port);
                ports.push(port);
            }
        }
        // In each bridge, TAPs come first.
        ports.sort_by_key(|port| (port.bridge, !matches!(port.kind, PortKind::Tap(_))));
        ports
    }

    /// Remembers the id of a port, if it has one. Returns false if it is that of another port, which is a problem.
    fn note_id(&mut self, keys: &'a At<PortKeys>, ids: &mut HashMap<&'a str, PortId<'a>>) -> bool {
        let Some(id) = keys.value.id() else { return true };
        let text = id.value.0.as_str();
        let Some(other) = ids.get(text) else {
            ids.insert(text, PortId { port: &keys.origin, id: &id.origin });
            return true;
        };
        let what = format!("id {text}");
        let (at, problem) = match (keys.origin.is_verb(), other.port.is_verb()) {
            (true, _) => (other.id, of_a_verb(&what, &keys.origin, text)),
            (false, true) => (&id.origin, of_a_verb(&what, other.port, text)),
            (false, false) => (&id.origin, format!("{what} is that of another port, '{}': use another id", other.port)),
        };
        self.problems.add_clash(at, problem, text);
        false
    }

    /// Reports two ports with the same interface, path or address.
    fn same_place(&mut self, port: &Port, other: &Port) {
        let place = port.where_it_is();
        let (of_verb, of_other) = if port.origin.is_verb() { (port, other) } else { (other, port) };
        let (problem, at) = match (of_verb.origin.is_verb(), &of_verb.identity.id) {
            (true, Some(id)) => (of_a_verb(&place, &of_verb.origin, id), &of_other.origin),
            _ => (format!("{place} is named twice: leave one of both out"), &port.origin),
        };
        let netns = other.link().and_then(|(_, netns)| netns).map_or_else(String::new, |netns| format!("@{netns}"));
        self.problems.add_clash(at, problem, other.where_it_is() + &netns);
    }

    /// The guests, each with the number of its bridge.
    pub(super) fn guests(&mut self, bridges: &[Bridge]) -> Vec<(usize, Guest)> {
        let mut guests: Vec<(usize, Guest)> = Vec::new();
        let mut ids: HashMap<String, &Origin> = HashMap::new();
        let document = self.document;
        for At { value: keys, origin, .. } in document.guests() {
            let bridge = self.find_bridge(keys.network.as_ref(), bridges, "which network is the guest in?", origin);
            let (Some(guest), Some(bridge)) = (keys.guest(origin, self.problems), bridge) else { continue };
            if let Some(other) = ids.insert(guest.id.clone(), origin) {
                let problem = format!("guest {} is there twice, the first time by '{other}': leave one of both out", guest.id);
                self.problems.add_clash(origin, problem, &guest.id);
                continue;
            }
            guests.push((bridge, guest));
        }
        guests
    }

    /// Checks the addresses of guests against their networks and each other, and gives their ports a way out.
    pub(super) fn settle(&mut self, guests: &[(usize, Guest)], gateways: &[Gateway], ports: &mut [Port]) {
        let mut taken = Neighbourhood::default();
        let mut next_hops: HashMap<&str, Ipv4Addr> = HashMap::new();
        for (bridge, guest) in guests {
            if let Some((problem, in_the_way)) = guest.conflict(*bridge, gateways).or_else(|| taken.add(*bridge, guest)) {
                self.problems.add_clash(&guest.origin, problem, in_the_way);
            }
            let gateway = guest.netns.as_ref().and_then(|_| guest.gateway(*bridge, gateways));
            next_hops.extend(gateway.map(|gateway| (guest.id.as_str(), gateway)));
        }
        for Port { kind, identity, .. } in ports {
            if let (PortKind::Tap(tap), Some(id)) = (kind, &identity.id) {
                tap.setup.gateway = next_hops.get(id.as_str()).copied();
            }
        }
    }
}

/// The port with what the keys of its bridge say where its own do not.
fn with_defaults(port: Port, bridge: &BridgeKeys, own: Option<&CommonKeys>) -> Port {
    let switch = |key: &Option<At<bool>>| key.as_ref().map(|key| key.value);
    let isolated = own.and_then(|own| switch(&own.station.isolated)).or_else(|| switch(&bridge.isolated));
    let is_guarded = own.is_some_and(|own| own.station.guard.is_some()) || switch(&bridge.guard) != Some(false);
    let mtu = bridge.mtu.as_ref().map(|mtu| mtu.value.get()).filter(|_| matches!(port.kind, PortKind::Tap(_)));
    let station = Station { isolated: isolated.unwrap_or(false), guard: port.station.guard && is_guarded, ..port.station };
    Port { station, mtu: port.mtu.or(mtu), ..port }
}

/// Where the id of a port was written, and the port itself.
struct PortId<'a> {
    port: &'a Origin,
    id: &'a Origin,
}

/// The problem with a port of a file that claims what a port has that a verb owns.
fn of_a_verb(what: &str, verb: &Origin, id: &str) -> String {
    format!(
        "{what} is there already, and is not the file's, but made by '{verb}': use another one, or remove the port first with 'port del \
         --id {id}', or use apply --prune"
    )
}
