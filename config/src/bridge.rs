//! The bridges: `[bridge.NAME]`, `br0` of the flags, and those that a verb adds to the running switch.
//!
//! *Numbers.* Ports, tunnels and gateways name their bridge by number. A configuration that is read numbers its bridges from 0: first
//! `br0`, then the others sorted by name. A bridge of the running switch keeps its number for as long as it exists, so a configuration
//! that takes over is [numbered like the running one](crate::model::Config::number_like); a new bridge gets the lowest free number.
//!
//! *Owners.* A bridge that a verb has added is the operator's or an engine's ([`Origin::Verb`]): a configuration file that is
//! applied neither removes nor changes it.

use crate::address::GatewayAddress;
use crate::keys::{Tables, keys};
use crate::port::PortKeys;
use crate::problem::{At, Origin, Problems, nearest};
use crate::raw::Raw;
use crate::value::{Mtu, Number, PairKey, Pairs, Text, words};

/// The bridge that flags configure.
pub const DEFAULT_BRIDGE: &str = "br0";

/// Maximum number of bridges of a switch.
pub const MAX_BRIDGES: usize = 1024;

pub(crate) const DEFAULT_MAC_TABLE_SIZE: usize = 8192;
pub(crate) const DEFAULT_MAC_AGING_TIME: u32 = 300;

/// One bridge.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Bridge {
    /// Its number, less than twice [`MAX_BRIDGES`].
    pub number: usize,
    /// Its name.
    pub name: String,
    /// Entries of its MAC table.
    pub mac_table_size: usize,
    /// Seconds until an address that is not seen again is removed.
    pub mac_aging_time: u32,
}

words! {
    /// What the router forwards between the networks of a bridge and others.
    pub enum Reach {
        /// Everything: to and from other such networks, and the outside.
        All = "all",
        /// To and from the outside; guests of another network are reached only where their ports are published.
        Outside = "outside",
        /// Nothing.
        Nothing = "none",
    }
}

/// A VLAN that has a gateway; 0 stands for untagged frames.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct GatewayVlan(pub(crate) Number<0, 4094>);

keys! {
    /// A switch with its ports.
    struct BridgeKeys {
        /// Maximum number of addresses that the bridge learns, 10 to 1,000,000. Default: 8192.
        "mac-table-size" => mac_table_size: Number<10, 1_000_000>,
        /// Seconds until an address that is not seen again is removed, 1 to 86,400. Default: 300.
        "mac-aging-time" => mac_aging_time: Number<1, 86_400>,
        /// The router's address for untagged frames, with its prefix length. Default with a NAT uplink and no gateway of any
        /// bridge: 10.77.0.1/24 on br0, or on the first bridge by name.
        "gateway" => gateway: GatewayAddress,
        /// The same by VLAN; 0 is for untagged frames. Instead of gateway.
        "gateways" => gateways: Pairs<GatewayVlan, GatewayAddress>,
        /// What the router forwards for the guests of its gateways. all: between such networks, and to and from the outside; outside:
        /// only the latter, and published ports; none: nothing. Default: all.
        "routing" => routing: Reach,
        /// The host is a neighbour of the guests of its gateways: it reaches them at their addresses, and they reach its services at
        /// the gateway's address. Ignored if routing is none. Default: false.
        "host" => host: bool,
        /// Its ports reach only ports that are not isolated, unless their own keys say otherwise. Default: false.
        "isolated" => isolated: bool,
        /// MTU of its TAPs, in bytes, unless their own keys say otherwise. Default: that of the devices.
        "mtu" => mtu: Mtu,
        /// Its ports with an id are guarded, unless their own keys say otherwise. Default: true.
        "guard" => guard: bool,
        /// Where frames enter and leave.
        "port" => ports: Tables<PortKeys>,
    }
}

impl Bridge {
    /// The settings that are other than before: `mac-aging-time 300 -> 60`.
    pub(crate) fn differences_from(&self, before: &Bridge) -> String {
        let size = (before.mac_table_size != self.mac_table_size)
            .then(|| format!("mac-table-size {} -> {}", before.mac_table_size, self.mac_table_size));
        let time = (before.mac_aging_time != self.mac_aging_time)
            .then(|| format!("mac-aging-time {} -> {}", before.mac_aging_time, self.mac_aging_time));
        size.into_iter().chain(time).collect::<Vec<_>>().join(", ")
    }
}

impl BridgeKeys {
    /// The gateway of untagged frames among those of VLANs, where a file has the one and a flag the others.
    pub(crate) fn join_gateways(&mut self) {
        let Some(gateways) = &mut self.gateways else { return };
        let Some(gateway) = self.gateway.take() else { return };
        if let Ok(vlan) = GatewayVlan::parse("0", "VLAN", &gateway.origin) {
            gateways.value.0.insert(0, (At::of(vlan, &Raw::word("0", &gateway.origin)), gateway));
        }
    }

    /// Reports gateways that are written in both ways.
    pub(crate) fn check_gateways(&self, problems: &mut Problems) {
        if let (Some(gateway), Some(_)) = (&self.gateway, &self.gateways) {
            let problem = "gateway and gateways are two ways to say one thing: leave gateway out, its VLAN in gateways is 0";
            problems.add(&gateway.origin, problem);
        }
    }

    pub(crate) fn bridge(&self, number: usize, name: &str) -> Bridge {
        Bridge {
            number,
            name: name.to_owned(),
            mac_table_size: self.mac_table_size.as_ref().map_or(DEFAULT_MAC_TABLE_SIZE, |size| size.value.get()),
            mac_aging_time: self.mac_aging_time.as_ref().map_or(DEFAULT_MAC_AGING_TIME, |time| time.value.get()),
        }
    }
}

impl Text for GatewayVlan {
    fn parse(text: &str, _: &str, _: &Origin) -> Result<GatewayVlan, String> {
        Number::of_text(text, "VLAN").map(GatewayVlan)
    }
}

impl PairKey for GatewayVlan {
    const SHAPE: &str = "VLAN@CIDR, such as 10@10.0.10.1/24";
}

/// "there is no bridge 'br1': did you mean 'br0'?"
#[must_use]
pub fn unknown_bridge<'a>(name: &str, known: impl Iterator<Item = &'a str> + Clone) -> String {
    let name = name.escape_debug();
    match nearest(&name.to_string(), known.clone()) {
        Some(close) => format!("there is no bridge '{name}': did you mean '{close}'?"),
        None => format!("there is no bridge '{name}'; there are {}", known.collect::<Vec<_>>().join(", ")),
    }
}
