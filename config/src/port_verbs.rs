//! Ports that verbs add to the running switch, find by their ids, change and remove.
//!
//! *Owners.* A port with an id that a verb has added is its maker's, not the configuration file's: the origin of its table is the verb.
//! A file that is applied, by a verb or by SIGHUP, [takes it over](Document::take_over_ports) unchanged, and is refused if it names
//! the port's device or id itself, or leaves its bridge out. A port without an id is the configuration's, whoever added it.

use crate::bridge::{BridgeKeys, DEFAULT_BRIDGE};
use crate::desired::{Desired, EditError, no_such};
use crate::document::Document;
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
