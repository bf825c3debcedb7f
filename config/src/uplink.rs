//! The uplink: the host's interface that leads outside, and its role for the bridges.

use std::fmt;
use std::net::Ipv4Addr;

use packet::Ipv4Prefix;

#[cfg(test)]
use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};

use crate::address::{Cidr, HostAddress, HostNetwork, not_a_host};
use crate::keys::keys;
use crate::name::InterfaceName;
use crate::problem::{At, Problems};
use crate::raw::{Raw, RawValue};
use crate::value::{Value, words};

/// The host's interface that leads outside.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) enum Uplink {
    /// The interface is a port of a bridge.
    Bridge(BridgeUplink),
    /// The router translates, and sends through the interface.
    Nat(NatUplink),
}

/// An uplink in `bridge` mode: a host's interface that is a port of a bridge.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct BridgeUplink {
    /// The host's interface.
    pub interface: String,
    /// Its bridge, by its place among all.
    pub bridge: usize,
}

/// An uplink in `nat` mode.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct NatUplink {
    /// The host's interface.
    pub interface: String,
    /// The router's own addresses, with a MAC address of their own; empty if the host's address is shared.
    pub addresses: Vec<Ipv4Addr>,
    /// Of the own addresses, 1 to 32; 0 if there are none.
    pub prefix_len: u8,
    /// The next hop beyond the uplink's network; `None` leaves it to the host's routes.
    pub gateway: Option<Ipv4Addr>,
    /// What keeps the host silent about guests' packets to an address that is shared.
    pub gate: GateMode,
}

words! {
    /// The role of the uplink for the bridges.
    pub(crate) enum UplinkMode {
        Nat = "nat",
        Bridge = "bridge",
    }
}

words! {
    /// What keeps the host's network stack silent about guests' packets to its own address.
    #[derive(Default)]
    pub enum GateMode {
        /// The first of the others that the kernel grants.
        #[default]
        Auto = "auto",
        /// A BPF program on the interface drops packets to the ports of guests (Linux 6.6).
        Tcx = "tcx",
        /// A classic BPF filter on the interface drops packets to a fixed set of ports.
        Filter = "filter",
        /// Sockets are bound to the ports of guests.
        Sockets = "sockets",
    }
}

/// The first own address with its network, and further ones: a string or a list; in a flag with commas between.
#[derive(Clone, PartialEq, Debug)]
pub(crate) struct OwnAddresses(At<HostNetwork>, Vec<At<HostAddress>>);

keys! {
    /// The way out.
    struct UplinkKeys {
        /// The host's interface that leads outside.
        "interface" => interface: InterfaceName,
        /// nat: route and translate; bridge: a plain port of a bridge. Default: nat.
        "mode" => mode: UplinkMode,
        /// Which bridge it is a port of in bridge mode. Default: br0.
        "bridge" => bridge: String,
        /// An own address with its prefix length, or a list with further ones behind it. Default: share the host's.
        "address" => address: OwnAddresses,
        /// The next hop beyond the uplink's network. Default: as the host's routes say.
        "gateway" => gateway: HostAddress,
        /// What keeps the host silent about guests' packets to its own address: tcx, filter or sockets. Default: auto, the first
        /// of these that the kernel grants.
        "gate" => gate: GateMode,
    }
}

impl NatUplink {
    /// The network of the own addresses; `None` if the host's address is shared.
    #[must_use]
    pub fn network(&self) -> Option<Cidr> {
        self.addresses.first().map(|address| Cidr::new(*address, self.prefix_len))
    }
}

/// `eth0: nat by 198.51.100.3/24 and 1 more`.
impl fmt::Display for NatUplink {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(out, "{}: nat by ", self.interface)?;
        match self.network() {
            Some(first) => write!(out, "{first}")?,
            None => out.write_str("the host's own address")?,
        }
        if let more @ 1.. = self.addresses.len().saturating_sub(1) {
            write!(out, " and {more} more")?;
        }
        if let Some(gateway) = self.gateway {
            write!(out, ", gateway {gateway}")?;
        }
        match self.gate {
            GateMode::Auto => Ok(()),
            gate => write!(out, ", gate {}", gate.name()),
        }
    }
}

impl UplinkKeys {
    /// The uplink in `nat` mode; `None` if something is wrong with its addresses.
    pub(crate) fn nat(&self, interface: &str, problems: &mut Problems) -> Option<NatUplink> {
        let mut uplink = NatUplink {
            interface: interface.to_owned(),
            addresses: Vec::new(),
            prefix_len: 0,
            gateway: None,
            gate: GateMode::Auto,
        };
        if let Some(gate) = &self.gate {
            uplink.gate = gate.value;
            if self.address.is_some() {
                problems.add(&gate.origin, "an own address is not the host's, which so needs no gate: leave one of both out");
            }
        }
        if let Some(own) = &self.address {
            let OwnAddresses(first, others) = &own.value;
            uplink.addresses.push(first.value.0.address);
            uplink.prefix_len = first.value.0.prefix_len;
            for other in others {
                let address = other.value.0;
                if let Some(problem) = off_link(address, first.value.0.network()) {
                    problems.add(&other.origin, problem);
                } else if uplink.addresses.contains(&address) {
                    problems.add(&other.origin, format!("{address} is named twice: leave one of both out"));
                } else {
                    uplink.addresses.push(address);
                }
            }
        }
        if let Some(At { value: HostAddress(gateway), origin, .. }) = &self.gateway {
            // A single address has no neighbours in its network, so its gateway is outside of it.
            let network = uplink.network().map(Cidr::network).filter(|network| network.prefix_len() < 32);
            if uplink.addresses.contains(gateway) {
                problems.add(origin, format!("{gateway} is an own address: use that of the next router"));
                return None;
            }
            if let Some(problem) = network.and_then(|network| off_link(*gateway, network)) {
                problems.add(origin, problem);
                return None;
            }
            uplink.gateway = Some(*gateway);
        }
        Some(uplink)
    }
}

/// Why no host of the uplink's network has this address, if that is so.
fn off_link(address: Ipv4Addr, network: Ipv4Prefix) -> Option<String> {
    let problem = match not_a_host(network, address) {
        _ if !network.contains(address) => format!("{address} is not in {network}, the uplink's network"),
        Some(what) => format!("{address} is {what} of {network}"),
        None => return None,
    };
    Some(format!("{problem}: use one that a host can have there"))
}

impl Value for OwnAddresses {
    fn read(raw: &Raw, key: &str, problems: &mut Problems) -> Option<OwnAddresses> {
        let items: Vec<Raw> = match &raw.value {
            RawValue::Word(text) => text.split(',').map(|item| Raw::word(item, &raw.origin)).collect(),
            RawValue::Text(_) => vec![raw.clone()],
            RawValue::List(items) => items.clone(),
            _ => {
                problems.add(&raw.origin, raw.is_not(key, "text in quotes, or a list of them"));
                return None;
            }
        };
        let Some((first, others)) = items.split_first() else {
            problems.add(&raw.origin, format!("{key} is empty: name at least one address, or leave it out"));
            return None;
        };
        let first = HostNetwork::read(first, key, problems).map(|address| At::new(address, &first.origin));
        let other = |item: &Raw| {
            if let Some((address, _)) = item.text().and_then(|text| text.split_once('/')) {
                let address = address.escape_debug();
                let problem = format!("only the first address has a prefix length, and it holds for all: write {address}");
                problems.add(&item.origin, problem);
                return None;
            }
            HostAddress::read(item, key, problems).map(|address| At::new(address, &item.origin))
        };
        let others: Vec<Option<At<HostAddress>>> = others.iter().map(other).collect();
        Some(OwnAddresses(first?, others.into_iter().collect::<Option<Vec<_>>>()?))
    }
}

#[cfg(test)]
impl JsonSchema for OwnAddresses {
    fn inline_schema() -> bool {
        true
    }

    fn schema_name() -> std::borrow::Cow<'static, str> {
        "OwnAddresses".into()
    }

    fn json_schema(_: &mut SchemaGenerator) -> Schema {
        json_schema!({ "anyOf": [{ "type": "string" }, { "type": "array", "items": { "type": "string" }, "minItems": 1 }] })
    }
}
