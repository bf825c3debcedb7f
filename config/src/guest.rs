//! Guests: `[[guest]]`, `guest add`. A guest is a port with its addresses, its names and its published ports, which come and go in one
//! change.
//!
//! ```text
//!   [[guest]] id = "web"               port eth0@pid:7 of bridge blue, id web
//!     network = "blue"           --->    in its namespace: MAC, 10.71.0.2/24, default route by the bridge's gateway
//!     address = ["10.71.0.2/24"]       rule tcp 8080 -> 10.71.0.2:80
//!     publish = ["8080:80"]
//! ```
//!
//! *Parts.* The port and the rules are ordinary ones: a [`Plan`](crate::Plan) adds and removes them, all or none. They are the guest's:
//! `port del` and `nat unpublish` refuse them.

use std::collections::HashMap;
use std::fmt::Write as _;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use packet::{MacAddr, Prefix, VlanId};

use crate::address::{HostNetwork, not_a_host};
use crate::bridge::DEFAULT_BRIDGE;
use crate::gro::Gro;
use crate::identity::{Id, Identity, LabelName, LabelValue, names_and_values};
use crate::keys::{Keys, keys};
use crate::limit::LimitKeys;
use crate::name::{InterfaceName, Netns};
use crate::port::{Absence, Port, PortKind, Setup, Tap};
use crate::problem::{At, Origin, Problems};
use crate::publish::{Publish, PublishKeys, split_rule};
use crate::router::Gateway;
use crate::station::{Mac, Station};
#[cfg(test)]
use crate::value::string_schema;
use crate::value::{List, Pairs, Text};
use crate::vlan::{Trunks, Vlans};

/// The interface of a guest for which none is named begins with this, and goes on with 12 digits of its id's hash.
const INTERFACE: &str = "vsw";

/// One guest.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Guest {
    /// Where it was written.
    pub origin: Origin,
    /// The name that its maker gave it; no other guest or port has it.
    pub id: String,
    /// Its bridge.
    pub network: String,
    /// Its interface, which the switch makes.
    pub interface: String,
    /// Where the interface is, if not in vswitchd's own namespace.
    pub netns: Option<Netns>,
    /// The interface's MAC address; `None` for one that the kernel chooses.
    pub mac: Option<MacAddr>,
    /// The interface's addresses with the lengths of their prefixes.
    pub addresses: Vec<(IpAddr, u8)>,
    /// Its names.
    pub names: Vec<String>,
    /// Its published ports.
    pub publish: Vec<Publish>,
    /// Whether its port reaches only ports that are not isolated; `None` for what its bridge says.
    pub isolated: Option<bool>,
    /// Names and values of its labels.
    pub labels: Vec<(String, String)>,
}

/// An address of a guest with the length of its prefix, of either family.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct GuestAddress(IpAddr, u8);

/// A name of a guest: labels of letters, digits and hyphens, with dots between (RFC 1123 section 2.1), and underscores, which names of
/// containers have.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) struct HostName(String);

/// Ports of the guest that can be reached from outside: `[ADDR:]PORT[-PORT][:PORT[-PORT]][/PROTOCOL]`. In a verb's words a range for one
/// port of the guest leaves the choice, and so does 0.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) struct GuestRule {
    pub(crate) listen: String,
    pub(crate) port: String,
    pub(crate) protocol: Option<String>,
}

keys! {
    /// A guest: its port, and what belongs to it.
    struct GuestKeys {
        /// A name that the maker of the guest gives it, 1 to 255 printable ASCII characters; no other guest or port has it.
        "id" => id: Id,
        /// The bridge that it is on.
        "network" => network: String,
        /// Its interface, which the switch makes. Default: vsw and 12 hexadecimal digits that follow from the id.
        "interface" => interface: InterfaceName,
        /// Where the interface is made: a name under /run/netns, a path, or pid:N. Default: where vswitchd runs.
        "netns" => netns: Netns,
        /// The interface's MAC address. Default: one that the kernel chooses.
        "mac" => mac: Mac,
        /// The interface's addresses, with the lengths of their prefixes. An interface in a namespace gets them, and with an address in
        /// a gateway's network a default route by the gateway.
        "address" => addresses: List<GuestAddress>,
        /// Its names.
        "name" => names: List<HostName>,
        /// Its published ports: `[ADDR:]PORT[-PORT][:PORT[-PORT]][/tcp|udp|tcp+udp]`, first outside, then of the guest.
        "publish" => publish: List<GuestRule>,
        /// Its port reaches only ports that are not isolated, the gateway, and a bridged uplink. Default: that of the bridge.
        "isolated" => isolated: bool,
        /// Notes of the maker of the guest: names with their values.
        "labels" => labels: Pairs<LabelName, LabelValue>,
    }
}

impl Guest {
    /// What it is: `eth0@blue on lab, 10.71.0.2/24`.
    pub(crate) fn text(&self) -> String {
        let mut text = self.interface.clone();
        // Writing to a string cannot fail.
        if let Some(netns) = &self.netns {
            let _ = write!(text, "@{netns}");
        }
        let _ = write!(text, " on {}", self.network);
        if let Some(mac) = self.mac {
            let _ = write!(text, ", {mac}");
        }
        for (address, prefix_len) in &self.addresses {
            let _ = write!(text, ", {address}/{prefix_len}");
        }
        for name in &self.names {
            let _ = write!(text, ", name {name}");
        }
        for rule in &self.publish {
            let _ = write!(text, ", {rule}");
        }
        text += match self.isolated {
            Some(true) => ", isolated",
            Some(false) => ", not isolated",
            None => "",
        };
        for (name, value) in &self.labels {
            let _ = write!(text, ", label {name}={value}");
        }
        text
    }

    /// Its IPv4 addresses.
    pub fn ipv4(&self) -> impl Iterator<Item = Ipv4Addr> {
        self.addresses.iter().filter_map(|(address, _)| match address {
            IpAddr::V4(address) => Some(*address),
            IpAddr::V6(_) => None,
        })
    }

    /// The gateway of its network, if it has an address there.
    pub(crate) fn gateway(&self, bridge: usize, gateways: &[Gateway]) -> Option<Ipv4Addr> {
        let on_it = gateways.iter().filter(|gateway| gateway.bridge == bridge && gateway.vlan == VlanId::NONE);
        let mut on_it = on_it.map(|gateway| gateway.address);
        on_it.find(|gateway| self.ipv4().any(|address| gateway.network().contains(address))).map(|gateway| gateway.address)
    }

    /// Its port on the bridge of this number, which carries untagged frames only.
    pub(crate) fn port(&self, bridge: usize) -> Port {
        // In vswitchd's own namespace it waits for a program that uses it, or takes it elsewhere.
        let own_addresses = self.addresses.iter().filter(|_| self.netns.is_some()).copied();
        let setup = Setup { addresses: own_addresses.collect(), gateway: None, stays_down: self.netns.is_none() };
        let own = |(address, _): &(IpAddr, u8)| Prefix::new(*address, if address.is_ipv4() { 32 } else { 128 });
        let station =
            Station { mac: self.mac, addresses: self.addresses.iter().map(own).collect(), guard: true, ..Station::default() };
        let tap = Tap { name: self.interface.clone(), netns: self.netns.clone(), attach: false, offload: true, setup };
        Port {
            origin: self.origin.clone(),
            bridge,
            name: self.interface.clone(),
            kind: PortKind::Tap(tap),
            vlans: Vlans::Trunk(Trunks::Listed(vec![VlanId::NONE])),
            mtu: None,
            gro: Gro::default(),
            limits: LimitKeys::default().limits(),
            identity: Identity { id: Some(self.id.clone()), labels: self.labels.clone() },
            absence: Absence::default(),
            station,
        }
    }

    /// Why it cannot be in a network with these gateways, and the gateway that is in the way.
    pub(crate) fn conflict(&self, bridge: usize, gateways: &[Gateway]) -> Option<(String, String)> {
        let on_it: Vec<&Gateway> = gateways.iter().filter(|gateway| gateway.bridge == bridge).collect();
        self.ipv4().find_map(|address| {
            let Some(home) = on_it.iter().find(|gateway| gateway.address.network().contains(address)) else {
                return self.in_no_network(address, &on_it);
            };
            let network = home.address.network();
            let what = not_a_host(network, address).map(|what| format!("{what} of {network}"));
            let problem = if home.address.address == address {
                format!("{address} is the gateway's: give the guest another address")
            } else if home.vlan != VlanId::NONE {
                format!("{address} is in {network} of VLAN {}, and a guest sends untagged frames: use another network", home.vlan)
            } else {
                format!("{address} is {}: give the guest another address", what?)
            };
            Some((problem, home.to_string()))
        })
    }

    /// The problem with an address that is in no network of these gateways. Where frames are not routed, there is none.
    fn in_no_network(&self, address: Ipv4Addr, on_it: &[&Gateway]) -> Option<(String, String)> {
        let untagged = || on_it.iter().filter(|gateway| gateway.vlan == VlanId::NONE);
        let networks: Vec<String> = untagged().map(|gateway| gateway.address.network().to_string()).collect();
        let problem = format!(
            "{address} is not in {}, which is the network {}: give the guest an address there",
            networks.join(" or "),
            self.network
        );
        Some((problem, untagged().next()?.to_string()))
    }
}

/// The addresses that guests have, by bridge.
#[derive(Default)]
pub(crate) struct Neighbourhood<'a> {
    addresses: HashMap<(usize, IpAddr), &'a str>,
    macs: HashMap<(usize, MacAddr), &'a str>,
}

impl<'a> Neighbourhood<'a> {
    /// Adds a guest; or returns why not, and the guest that is in the way.
    pub(crate) fn add(&mut self, bridge: usize, guest: &'a Guest) -> Option<(String, String)> {
        let id = guest.id.as_str();
        for (address, _) in &guest.addresses {
            if let Some(other) = self.addresses.insert((bridge, *address), id) {
                return Some((format!("{address} is the address of guest {other}: use another one"), other.to_owned()));
            }
        }
        let other = guest.mac.and_then(|mac| Some((mac, self.macs.insert((bridge, mac), id)?)));
        other.map(|(mac, other)| (format!("{mac} is the MAC address of guest {other}: use another one"), other.to_owned()))
    }
}

impl GuestKeys {
    /// The guest; `None` if its keys are wrong by themselves.
    pub(crate) fn guest(&self, table: &Origin, problems: &mut Problems) -> Option<Guest> {
        if self.is_faulty {
            return None;
        }
        let Some(id) = &self.id else {
            problems.add(table, "which guest is it? Give it an id = \"web\", which no other guest has");
            return None;
        };
        let interface = self.interface.as_ref().map_or_else(|| usual_interface(&id.value.0), |name| name.value.0.clone());
        let guest = Guest {
            origin: table.clone(),
            id: id.value.0.clone(),
            network: self.network.as_ref().map_or(DEFAULT_BRIDGE, |network| network.value.as_str()).to_owned(),
            interface,
            netns: self.netns.as_ref().map(|netns| netns.value.clone()),
            mac: self.mac.as_ref().map(|mac| mac.value.0),
            addresses: values(&self.addresses).map(|GuestAddress(address, prefix_len)| (*address, *prefix_len)).collect(),
            names: values(&self.names).map(|name| name.0.clone()).collect(),
            publish: Vec::new(),
            isolated: self.isolated.as_ref().map(|isolated| isolated.value),
            labels: names_and_values(self.labels.as_ref()),
        };
        let publish = self.publish.iter().flat_map(|rules| &rules.value.0);
        let publish: Vec<Option<Publish>> =
            publish.map(|rule| rule.value.rule(guest.ipv4().next(), &rule.origin, problems)).collect();
        Some(Guest { publish: publish.into_iter().collect::<Option<_>>()?, ..guest })
    }
}

fn values<T>(list: &Option<At<List<T>>>) -> impl Iterator<Item = &T> {
    list.iter().flat_map(|list| &list.value.0).map(|at| &at.value)
}

/// The interface of a guest that names none: the id's hash, 48 bits of FNV-1a, so that it is the same each time.
fn usual_interface(id: &str) -> String {
    let hash = id.bytes().fold(0xcbf2_9ce4_8422_2325_u64, |hash, byte| (hash ^ u64::from(byte)).wrapping_mul(0x100_0000_01b3));
    format!("{INTERFACE}{:012x}", hash >> 16)
}

impl GuestRule {
    /// The rule for a guest with this address.
    fn rule(&self, guest: Option<Ipv4Addr>, origin: &Origin, problems: &mut Problems) -> Option<Publish> {
        let Some(guest) = guest else {
            let cure = origin.say("address = [\"10.71.0.2/24\"]", "--address 10.71.0.2/24");
            problems.add(origin, format!("a published port needs the guest's IPv4 address: add {cure}, or whichever it is"));
            return None;
        };
        let protocol = self.protocol.as_ref().map_or_else(String::new, |protocol| format!("/{protocol}"));
        let text = format!("{}:{guest}:{}{protocol}", self.listen, self.port);
        let entries = split_rule(&text, origin).map_err(|problem| problems.add(origin, problem)).ok()?;
        PublishKeys::of(&entries, problems).rule(origin, problems)
    }
}

impl Text for GuestRule {
    fn parse(text: &str, _: &str, _: &Origin) -> Result<GuestRule, String> {
        const SHAPE: &str = "[ADDR:]PORT[-PORT][:PORT[-PORT]][/tcp|udp|tcp+udp], such as 8080:80";
        let (rule, protocol) = text.split_once('/').map_or((text, None), |(rule, protocol)| (rule, Some(protocol.to_owned())));
        let parts: Vec<&str> = rule.split(':').collect();
        let (listen, port) = match parts[..] {
            [address, port] if address.contains('.') => (format!("{address}:{port}"), port),
            [port] => (port.to_owned(), port),
            [listen, port] => (listen.to_owned(), port),
            [address, listen, port] => (format!("{address}:{listen}"), port),
            _ => return Err(format!("'{}' is not {SHAPE}", text.escape_debug())),
        };
        Ok(GuestRule { listen, port: port.to_owned(), protocol })
    }
}

impl Text for GuestAddress {
    fn parse(text: &str, key: &str, origin: &Origin) -> Result<GuestAddress, String> {
        let Some((address, prefix_len)) = text.split_once('/').filter(|(address, _)| address.contains(':')) else {
            let HostNetwork(cidr) = HostNetwork::parse(text, key, origin)?;
            return Ok(GuestAddress(cidr.address.into(), cidr.prefix_len));
        };
        let shown = text.escape_debug();
        let not_one = || format!("'{shown}' is not an address with the length of its prefix, such as 10.71.0.2/24 or fd00::5/64");
        let address: Ipv6Addr = address.parse().map_err(|_| not_one())?;
        let prefix_len = prefix_len.parse().ok().filter(|len| (1..=128).contains(len)).ok_or_else(not_one)?;
        if address.is_unspecified() || address.is_multicast() || address.is_loopback() {
            return Err(format!("{address} is not the address of a host: use one that a guest can have"));
        }
        Ok(GuestAddress(address.into(), prefix_len))
    }
}

impl Text for HostName {
    fn parse(text: &str, key: &str, _: &Origin) -> Result<HostName, String> {
        let is_label = |label: &str| {
            (1..=63).contains(&label.len())
                && label.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'-' || byte == b'_')
                && !label.starts_with('-')
                && !label.ends_with('-')
        };
        if text.len() <= 253 && text.split('.').all(is_label) {
            Ok(HostName(text.to_owned()))
        } else {
            Err(format!("{key} is a host's name such as web or web.example, not '{}'", text.escape_debug()))
        }
    }
}

#[cfg(test)]
string_schema!(GuestAddress, HostName, GuestRule);

#[cfg(test)]
mod tests;
