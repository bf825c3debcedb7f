//! A configuration as it was written: typed keys with their origins, from a file, from flags, or from both.
//!
//! This is what the verbs of the control socket change: they add a port or remove a rule. Its meaning as a whole is the
//! [`Config`](crate::Config).

use crate::bridge::{BridgeKeys, DEFAULT_BRIDGE};
use crate::control::ControlKeys;
use crate::docker::DockerKeys;
use crate::guest::GuestKeys;
use crate::keys::{Named, Tables, keys};
use crate::metrics::MetricsKeys;
use crate::nat::NatKeys;
use crate::problem::{At, Origin};
use crate::publish::PublishKeys;
use crate::route::RouteKeys;
use crate::state::StateKeys;
use crate::tunnel::TunnelKeys;
use crate::uplink::UplinkKeys;
use crate::value::Number;

keys! {
    /// The configuration of vswitchd.
    struct Document {
        /// Threads that carry frames, 1 to 256. Default: one per core, at most one per port and uplink.
        "workers" => workers: Number<1, 256>,
        /// Microseconds that a busy worker looks for more frames before it sleeps, 0 to 1,000; 0 is never. Default: 200.
        "busy-poll" => busy_poll: Number<0, 1000>,
        /// Maximum number of ports, 1 to 16,384: those of all bridges, the uplink, and the hosts of tunnels. Default: 1024.
        "max-ports" => max_ports: Number<1, 16_384>,
        /// The control socket.
        "control" => control: ControlKeys,
        /// What outlives the process.
        "state" => state: StateKeys,
        /// The counters for Prometheus, over TCP.
        "metrics" => metrics: MetricsKeys,
        /// The network driver for Docker; without this table there is none.
        "docker" => docker: DockerKeys,
        /// Bridges by their names, at most 1024. Flags add to br0.
        "bridge" => bridges: Named<BridgeKeys>,
        /// The way out.
        "uplink" => uplink: UplinkKeys,
        /// How guests' packets are translated.
        "nat" => nat: NatKeys,
        /// Guests' ports that can be reached from outside.
        "publish" => publish: Tables<PublishKeys>,
        /// Routes to networks behind guests.
        "route" => routes: Tables<RouteKeys>,
        /// Ports with their addresses, names and published ports.
        "guest" => guests: Tables<GuestKeys>,
        /// The ways to other hosts.
        "tunnel" => tunnels: Tables<TunnelKeys>,
    }
}

impl Document {
    /// The bridges in the order of their numbers: `br0` first, the others by their names, those of verbs last.
    pub(crate) fn bridges(&self) -> impl Iterator<Item = &(At<String>, BridgeKeys)> + Clone {
        let place = |(name, _): &(At<String>, BridgeKeys)| match (name.origin.is_verb(), name.value == DEFAULT_BRIDGE) {
            (true, _) => 2,
            (false, false) => 1,
            (false, true) => 0,
        };
        let all = self.bridges.iter().flat_map(|bridges| &bridges.value.0);
        (0..=2).flat_map(move |wanted| all.clone().filter(move |bridge| place(bridge) == wanted))
    }

    /// What bounds the ports stays as it is in the running configuration, if it is left out here.
    pub(crate) fn keep_limits_of(&mut self, running: &Document) {
        if self.max_ports.is_none() {
            self.max_ports.clone_from(&running.max_ports);
        }
    }

    /// Whether a bridge is written that no verb has added.
    pub(crate) fn has_own_bridge(&self) -> bool {
        self.bridges().any(|(name, _)| !name.origin.is_verb())
    }

    /// A switch has a bridge of its own, br0 unless another one is written.
    pub(crate) fn ensure_own_bridge(&mut self) {
        if !self.has_own_bridge() {
            self.default_bridge();
        }
    }

    /// The bridge of this name.
    pub(crate) fn bridge_named(&mut self, name: &str) -> Option<&mut BridgeKeys> {
        let mut all = self.bridges.iter_mut().flat_map(|bridges| &mut bridges.value.0);
        all.find(|(bridge, _)| bridge.value == name).map(|(_, keys)| keys)
    }

    pub(crate) fn bridges_mut(&mut self) -> impl Iterator<Item = &mut BridgeKeys> {
        self.bridges.iter_mut().flat_map(|bridges| &mut bridges.value.0).map(|(_, keys)| keys)
    }

    /// The bridge that flags speak of, which is there from now on.
    pub(crate) fn default_bridge(&mut self) -> &mut BridgeKeys {
        let bridges = &mut self.bridges.get_or_insert_with(|| At::new(Named(Vec::new()), &Origin::Default)).value.0;
        let at = bridges.iter().position(|(name, _)| name.value == DEFAULT_BRIDGE).unwrap_or_else(|| {
            bridges.insert(0, (At::new(DEFAULT_BRIDGE.to_owned(), &Origin::Default), BridgeKeys::default()));
            0
        });
        &mut bridges[at].1
    }

    /// The tunnels in the order in which they are named.
    pub(crate) fn tunnels(&self) -> &[At<TunnelKeys>] {
        self.tunnels.as_ref().map_or(&[], |tunnels| &tunnels.value.0)
    }

    pub(crate) fn guests(&self) -> &[At<GuestKeys>] {
        self.guests.as_ref().map_or(&[], |guests| &guests.value.0)
    }

    pub(crate) fn publish(&self) -> &[At<PublishKeys>] {
        self.publish.as_ref().map_or(&[], |rules| &rules.value.0)
    }
}

/// One schema with the properties of several, of which a table has those of one.
#[cfg(test)]
pub(crate) fn merged(description: &str, schemas: &[schemars::Schema]) -> schemars::Schema {
    let mut properties = serde_json::Map::new();
    for schema in schemas {
        let Some(serde_json::Value::Object(more)) = schema.get("properties") else { continue };
        for (key, value) in more {
            properties.entry(key).or_insert_with(|| value.clone());
        }
    }
    schemars::json_schema!({
        "description": description,
        "type": "object",
        "properties": properties,
        "additionalProperties": false,
    })
}
