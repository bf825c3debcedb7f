//! Bridges that verbs add to the running switch, change and remove: `bridge add`, `bridge set`, `bridge del`.
//!
//! A bridge that a verb has added has an owner besides the configuration file: the origin of its name is the verb. Its gateways,
//! ports, tunnels and routes are the owner's as well. A file that is applied, by a verb or by SIGHUP, [takes them over](Document::take_over)
//! unchanged; one that names such a bridge itself is refused.

use crate::bridge::{BridgeKeys, DEFAULT_BRIDGE, DEFAULT_MAC_AGING_TIME, DEFAULT_MAC_TABLE_SIZE, unknown_bridge};
use crate::desired::{Desired, EditError, named};
use crate::document::Document;
use crate::flags;
use crate::keys::{Keys, Named, list_of};
use crate::problem::{At, Origin, Problem, Problems};
use crate::raw::Entry;
use crate::route::RouteKeys;
use crate::tunnel::TunnelKeys;

/// The value of a key in `bridge set` that takes the key away.
const NOTHING: &str = "none";

impl Desired {
    /// This configuration with one more bridge: `NAME[:KEY=VALUE...]`.
    pub fn with_bridge(&self, word: &str) -> Result<Desired, EditError> {
        let origin = Origin::Verb(format!("bridge add {}", word.escape_debug()).into());
        let mut problems = Problems::default();
        let Some((name, entries)) = words(word, &origin, &mut problems) else { return Err(problems.into()) };
        let keys = BridgeKeys::of(&entries, &mut problems);
        keys.check_gateways(&mut problems);
        if !problems.is_empty() {
            return Err(problems.into());
        }
        if self.config.bridges.iter().any(|bridge| bridge.name == name) {
            let problem =
                format!("there is a bridge {name} already: change it with 'bridge set {name}:KEY=VALUE', or use another name");
            return Err(EditError::taken(&origin.to_string(), problem, name));
        }
        let mut document = self.document.clone();
        document.push_bridge(At::new(name, &origin), keys);
        self.of_document(document)
    }

    /// This configuration with other values for keys of a bridge: `NAME:KEY=VALUE...`. The value `none` takes a key away.
    pub fn with_bridge_set(&self, word: &str) -> Result<Desired, EditError> {
        let origin = Origin::Verb(format!("bridge set {}", word.escape_debug()).into());
        let mut problems = Problems::default();
        let Some((name, entries)) = words(word, &origin, &mut problems) else { return Err(problems.into()) };
        let mut document = self.document.clone();
        let Some(keys) = document.bridge_named(&name) else { return Err(self.no_such_bridge(&name)) };
        if entries.is_empty() {
            problems.add(
                &origin,
                format!("which keys? write bridge set {name}:KEY=VALUE; keys are {}", BridgeKeys::names(false).join(", ")),
            );
        }
        for entry in &entries {
            keys.set_again(entry, &mut problems);
        }
        if !problems.is_empty() {
            return Err(problems.into());
        }
        self.of_document(document)
    }

    /// This configuration without a bridge, which must have no port, tunnel or uplink.
    pub fn without_bridge(&self, name: &str) -> Result<Desired, EditError> {
        let Some(bridge) = self.config.bridges.iter().find(|bridge| bridge.name == name) else {
            return Err(self.no_such_bridge(name));
        };
        let of_it: Vec<String> = self.config.on_bridge(bridge.number).collect();
        if !of_it.is_empty() {
            let problem = format!("bridge {name} has {}: remove them first", of_it.join(", "));
            return Err(EditError::taken(name, problem, of_it.first().cloned().unwrap_or_default()));
        }
        let mut document = self.document.clone();
        document.remove_bridge(name);
        if !document.has_own_bridge() {
            let problem =
                format!("{name} is the last bridge besides those that 'bridge add' made, and a switch has one at least");
            return Err(EditError::refused(name, problem));
        }
        self.of_document(document)
    }

    fn no_such_bridge(&self, name: &str) -> EditError {
        let known = self.config.bridges.iter().map(|bridge| bridge.name.as_str());
        EditError::NoSuch(Problem::new(&named(name), unknown_bridge(name, known)))
    }
}

/// The name and the keys of a bridge in the words of a verb.
fn words(word: &str, origin: &Origin, problems: &mut Problems) -> Option<(String, Vec<Entry>)> {
    let (mut name, entries) = flags::bridge(word, origin, problems)?;
    if let Some((before, rest)) = name.split_once(':') {
        if !rest.is_empty() {
            problems.add(origin, flags::not_a_pair(rest));
            return None;
        }
        name = before.to_owned();
    }
    if entries.iter().any(|entry| entry.key == "port") {
        problems.add(origin, format!("ports are added by themselves: port add NAME:bridge={name}"));
        return None;
    }
    Some((name, entries))
}

impl BridgeKeys {
    /// Sets a key in place of its former value.
    fn set_again(&mut self, entry: &Entry, problems: &mut Problems) {
        match entry.key.as_str() {
            "mac-table-size" => self.mac_table_size = None,
            "mac-aging-time" => self.mac_aging_time = None,
            "routing" => self.routing = None,
            "host" => self.host = None,
            "isolated" => self.isolated = None,
            "mtu" => self.mtu = None,
            "guard" => self.guard = None,
            // Two ways to say one thing: the last one holds.
            "gateway" | "gateways" => (self.gateway, self.gateways) = (None, None),
            _ => {}
        }
        // Where the running value would stay, the default is written. NOTHING is a value of routing.
        let default = match (entry.raw.text(), entry.key.as_str()) {
            (Some(NOTHING), "gateway" | "gateways" | "host" | "isolated" | "mtu" | "guard") => return,
            (Some(NOTHING), "mac-table-size") => Some(DEFAULT_MAC_TABLE_SIZE.to_string()),
            (Some(NOTHING), "mac-aging-time") => Some(DEFAULT_MAC_AGING_TIME.to_string()),
            _ => None,
        };
        let default = default.map(|text| Entry::word(&entry.key, text, &entry.raw.origin));
        let read = BridgeKeys::of(std::slice::from_ref(default.as_ref().unwrap_or(entry)), problems);
        self.mac_table_size = read.mac_table_size.or(self.mac_table_size.take());
        self.mac_aging_time = read.mac_aging_time.or(self.mac_aging_time.take());
        self.routing = read.routing.or(self.routing.take());
        self.host = read.host.or(self.host.take());
        self.isolated = read.isolated.or(self.isolated.take());
        self.mtu = read.mtu.or(self.mtu.take());
        self.guard = read.guard.or(self.guard.take());
        self.gateway = read.gateway.or(self.gateway.take());
        self.gateways = read.gateways.or(self.gateways.take());
    }
}

impl Document {
    /// Takes over the bridges that verbs added to the running configuration, with their ports, tunnels and routes.
    pub(crate) fn take_over(&mut self, running: &Document, problems: &mut Problems) {
        let own: Vec<At<String>> = self.bridges().map(|(name, _)| name.clone()).collect();
        for (name, keys) in running.bridges().filter(|(name, _)| name.origin.is_verb()) {
            if let Some(clash) = own.iter().find(|own| own.value == name.value) {
                let problem = format!(
                    "bridge {name} is there already, and is not the file's, but made by '{verb}': use another name, or remove it first \
                     with 'bridge del {name}', or use apply --prune",
                    name = name.value,
                    verb = name.origin
                );
                problems.add_clash(&clash.origin, problem, name.value.clone());
                continue;
            }
            self.push_bridge(name.clone(), keys.clone());
            let of_it = |tunnel: &&At<TunnelKeys>| {
                let keys = &tunnel.value;
                keys.is_bridged() && keys.bridge().map_or(DEFAULT_BRIDGE, |bridge| bridge.value.as_str()) == name.value
            };
            for tunnel in self.tunnels().iter().filter(of_it) {
                let problem = format!(
                    "bridge {} is not the file's, but made by '{}': give the tunnel a bridge of the file, or add it by 'tunnel add'",
                    name.value, name.origin
                );
                problems.add_clash(&tunnel.origin, problem, name.value.clone());
            }
            let made = running.tunnels().iter().filter(of_it).filter(|tunnel| !tunnel.origin.is_file());
            list_of(&mut self.tunnels).extend(made.cloned());
            let by_it = |route: &&At<RouteKeys>| route.value.bridge_name() == name.value;
            for route in self.routes().iter().filter(by_it) {
                let problem = format!(
                    "bridge {} is not the file's, but made by '{}': name a guest on a bridge of the file, or add the route by 'route add'",
                    name.value, name.origin
                );
                problems.add_clash(&route.origin, problem, name.value.clone());
            }
            let made = running.routes().iter().filter(by_it).filter(|route| !route.origin.is_file());
            list_of(&mut self.routes).extend(made.cloned());
        }
    }

    fn push_bridge(&mut self, name: At<String>, keys: BridgeKeys) {
        self.bridges.get_or_insert_with(|| At::new(Named(Vec::new()), &Origin::Default)).value.0.push((name, keys));
    }

    fn remove_bridge(&mut self, name: &str) {
        if let Some(bridges) = &mut self.bridges {
            bridges.value.0.retain(|(bridge, _)| bridge.value != name);
        }
    }
}

#[cfg(test)]
mod tests;
