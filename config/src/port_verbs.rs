//! Ports that verbs add to the running switch, find by their ids, change and remove.
//!
//! *Owners.* A port with an id that a verb has added is its maker's, not the configuration file's: the origin of its table is the verb.
//! A file that is applied, by a verb or by SIGHUP, [takes it over](Document::take_over_ports) unchanged, and is refused if it names
//! the port's device or id itself, or leaves its bridge out. A port without an id belongs to the configuration, even if a verb
//! added it.

use crate::bridge::{BridgeKeys, DEFAULT_BRIDGE, unknown_bridge};
use crate::desired::{Desired, EditError, is_named, no_such, ports_of};
use crate::document::Document;
use crate::flags;
use crate::keys::list_of;
use crate::port::{Port, PortKeys};
use crate::problem::{At, Origin, Problems};

impl Desired {
    /// The ports with this id: one, or all places for guests of one socket.
    pub(crate) fn with_id<'a>(&'a self, id: &'a str) -> impl Iterator<Item = &'a Port> {
        self.config.ports.iter().filter(move |port| port.identity.id.as_deref() == Some(id))
    }

    /// This configuration without the port of this id.
    pub fn without_port_of_id(&self, id: &str) -> Result<Desired, EditError> {
        if self.with_id(id).next().is_none() {
            return Err(self.no_such_id(id));
        }
        self.refuse_part(id, |guest| guest.id == id)?;
        let mut document = self.document.clone();
        for bridge in document.bridges_mut() {
            if let Some(ports) = &mut bridge.ports {
                ports.value.0.retain(|keys| !has_id(keys, id));
            }
        }
        self.of_document(document)
    }

    /// This configuration without the port of this name. `NAME@NETNS` selects the one in that namespace, if several have the
    /// name.
    pub fn without_port(&self, name: &str) -> Result<Desired, EditError> {
        let mut document = self.document.clone();
        let (number, at) = self.place_of(name)?;
        if let Some(ports) = document.bridges_mut().nth(number).and_then(|bridge| bridge.ports.as_mut()) {
            ports.value.0.remove(at);
        }
        self.of_document(document)
    }

    /// This configuration without these ports, whose devices are gone.
    pub fn without_ports(&self, gone: &[&Port]) -> Result<Desired, EditError> {
        let mut document = self.document.clone();
        for bridge in document.bridges_mut() {
            let mut of_tables = ports_of(bridge).into_iter();
            if let Some(ports) = &mut bridge.ports {
                let is_gone = |ports: &[Port]| ports.iter().any(|port| gone.iter().any(|gone| gone.is_same_port(port)));
                ports.value.0.retain(|_| !of_tables.next().is_some_and(|ports| is_gone(&ports)));
            }
        }
        self.of_document(document)
    }

    /// The place of the table with the port of this name: the number of its bridge in the document, and its place there.
    fn place_of(&self, name: &str) -> Result<(usize, usize), EditError> {
        let of_guest = |port: &&Port| is_named(port, name) && port.identity.id.is_some();
        for port in self.config.ports.iter().filter(of_guest) {
            self.refuse_part(name, |guest| port.identity.id.as_ref() == Some(&guest.id))?;
        }
        let there = self.config.ports.iter().any(|port| is_named(port, name));
        let added =
            || self.ports_of_word(name).into_iter().find_map(|new| self.config.ports.iter().find(|port| port.clashes_with(&new)));
        if !there && let Some(port) = added() {
            // In the syntax of `port add`.
            return self.place_of(&port.where_it_is());
        }
        let mut document = self.document.clone();
        let mut found: Vec<(usize, usize, Vec<Port>)> = Vec::new();
        for (number, bridge) in document.bridges_mut().enumerate() {
            for (at, ports) in ports_of(bridge).into_iter().enumerate() {
                if ports.iter().any(|port| is_named(port, name)) {
                    found.push((number, at, ports));
                }
            }
        }
        // A port in vswitchd's own namespace has no other name.
        if found.len() > 1 {
            let is_exact = |ports: &[Port]| ports.iter().any(|port| port.full_name() == name);
            if found.iter().filter(|(.., ports)| is_exact(ports)).count() == 1 {
                found.retain(|(.., ports)| is_exact(ports));
            }
        }
        let (number, at, ports) = match found.as_slice() {
            [] if self.config.uplink_interface() == Some(name) => {
                let problem = "the uplink is there from start to end: change it in the file, and restart";
                return Err(EditError::refused(name, problem));
            }
            [] if self.config.ip_tunnels.iter().any(|tunnel| tunnel.name == name) => {
                return Err(EditError::refused(
                    name,
                    "it is the device of a tunnel of IP packets, which is there from start to end: change it in the file, and restart",
                ));
            }
            [] => return Err(no_such("port", name, self.config.ports.iter().filter_map(Port::title))),
            [one] => one,
            several => {
                let names: Vec<String> = several.iter().flat_map(|(.., ports)| ports.first().map(Port::full_name)).collect();
                return Err(EditError::refused(name, format!("several ports have this name: say which of {}", names.join(", "))));
            }
        };
        let is_of_all = |port: &Port| port.where_it_is() == name || port.title().as_deref() == Some(name);
        if let Some(first) = ports.first().filter(|first| ports.len() > 1 && !is_of_all(first)) {
            let all = first.where_it_is();
            let problem = format!("it is one of several places for guests: all of them are {all}, and guests= is their number");
            return Err(EditError::refused(name, problem));
        }
        Ok((*number, *at))
    }

    /// This configuration with other values for keys of the port of this name: `KEY=VALUE[:KEY=VALUE...]`. The value `none` takes a key
    /// away, and `bridge=` moves the port.
    pub fn with_port_set(&self, name: &str, keys: &str) -> Result<Desired, EditError> {
        let place = self.place_of(name)?;
        self.with_table_set(place, &format!("port set {} {}", name.escape_debug(), keys.escape_debug()), keys)
    }

    /// The same for the port of this id.
    pub fn with_port_of_id_set(&self, id: &str, keys: &str) -> Result<Desired, EditError> {
        self.refuse_part(id, |guest| guest.id == id)?;
        let mut document = self.document.clone();
        let mut tables = document.bridges_mut().enumerate().flat_map(|(number, bridge)| {
            let ports = bridge.ports.iter().flat_map(|ports| &ports.value.0).enumerate();
            ports.map(move |(at, keys)| (number, at, has_id(keys, id)))
        });
        let (number, at, _) = tables.find(|(.., is_it)| *is_it).ok_or_else(|| self.no_such_id(id))?;
        self.with_table_set((number, at), &format!("port set --id {} {}", id.escape_debug(), keys.escape_debug()), keys)
    }

    fn with_table_set(&self, (number, at): (usize, usize), verb: &str, keys: &str) -> Result<Desired, EditError> {
        let (origin, mut problems) = (Origin::Verb(verb.into()), Problems::default());
        let mut entries = flags::port_keys(keys, &origin, &mut problems);
        let bridge = entries.iter().position(|entry| entry.key == "bridge").map(|at| entries.remove(at));
        let mut document = self.document.clone();
        let Some(ports) = document.bridges_mut().nth(number).and_then(|bridge| bridge.ports.as_mut()) else {
            return Err(problems.into());
        };
        if entries.is_empty() && bridge.is_none() && problems.is_empty() {
            problems.add(&origin, "which keys? Write KEY=VALUE, such as vlan=10 or guard=off");
        }
        let Some(table) = ports.value.0.get_mut(at) else { return Err(problems.into()) };
        entries.iter().for_each(|entry| table.value.set_again(entry, &mut problems));
        if let Some(name) = bridge.as_ref().and_then(|entry| entry.raw.text()) {
            let table = ports.value.0.remove(at);
            match document.bridge_named(name) {
                Some(bridge) => list_of(&mut bridge.ports).push(table),
                None => {
                    let known = self.config.bridges.iter().map(|bridge| bridge.name.as_str());
                    problems.add(&origin, unknown_bridge(name, known));
                }
            }
        }
        if !problems.is_empty() {
            return Err(problems.into());
        }
        self.of_document(document)
    }

    fn no_such_id(&self, id: &str) -> EditError {
        no_such("port with this id", id, self.config.ports.iter().filter_map(|port| port.identity.id.clone()))
    }
}

fn has_id(keys: &At<PortKeys>, id: &str) -> bool {
    keys.value.id().is_some_and(|own| own.value.0 == id)
}

impl Document {
    /// Makes the verb the owner of those ports with an id that it has appended to this document.
    pub(crate) fn give_to_verb(&mut self, verb: &str, before: &Document) {
        let count = |keys: &BridgeKeys| keys.ports.as_ref().map_or(0, |ports| ports.value.0.len());
        for (name, bridge) in self.bridges.iter_mut().flat_map(|bridges| &mut bridges.value.0) {
            let former = before.bridges().find(|(other, _)| other.value == name.value).map_or(0, |(_, keys)| count(keys));
            let tables = bridge.ports.iter_mut().flat_map(|ports| &mut ports.value.0).skip(former);
            for keys in tables.filter(|keys| keys.value.id().is_some()) {
                keys.origin = Origin::Verb(verb.into());
            }
        }
    }

    /// Takes over the ports that verbs added to bridges of the running configuration that are not verbs' themselves.
    pub(crate) fn take_over_ports(&mut self, running: &Document, whole: &Origin, problems: &mut Problems) {
        for (name, keys) in running.bridges().filter(|(name, _)| !name.origin.is_verb()) {
            let made: Vec<At<PortKeys>> = made_by_verbs(keys).cloned().collect();
            let Some(first) = made.first() else { continue };
            if name.value == DEFAULT_BRIDGE && !self.has_own_bridge() {
                self.default_bridge();
            }
            match self.bridge_named(&name.value) {
                Some(bridge) => list_of(&mut bridge.ports).extend(made),
                None => {
                    let id = first.value.id().map_or("", |id| id.value.0.as_str());
                    let problem = format!(
                        "bridge {name} is not there, but has the port with the id {id}, which is not the file's, but made by '{verb}': \
                         keep the bridge, or remove the port first with 'port del --id {id}', or use apply --prune",
                        name = name.value,
                        verb = first.origin
                    );
                    problems.add_clash(whole, problem, id);
                }
            }
        }
    }
}

/// The tables of a bridge's ports that verbs own.
fn made_by_verbs(bridge: &BridgeKeys) -> impl Iterator<Item = &At<PortKeys>> {
    bridge.ports.iter().flat_map(|ports| &ports.value.0).filter(|keys| keys.origin.is_verb())
}

#[cfg(test)]
mod tests;
