//! Tunnels of a bridge, which carry Ethernet in any framing: their model, and the keys that all of them have. The keys of each
//! framing are in a file of its own.
//!
//! Each other host of a tunnel is a port of the bridge. A tunnel names them (`remotes`), or it finds them as they send to a multicast
//! group (`group`); then it accepts datagrams from addresses in `peers` alone, because any host may send to a group.

use std::fmt;
use std::net::IpAddr;

use packet::{MacAddr, Prefix};
use tunnel::Framing;

use super::address::Remote;
use super::outer::Outer;
use super::{Position, SocketKeys};
use crate::keys::keys;
use crate::problem::{At, Origin, Problem, Problems};
#[cfg(test)]
use crate::value::string_schema;
use crate::value::{List, PairKey, Pairs, Text};
use crate::vlan::{VlanKeys, Vlans};

/// One tunnel of a bridge.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Tunnel {
    /// Where it was written.
    pub origin: Origin,
    pub(crate) place: Position,
    /// Its bridge, by its place among all.
    pub bridge: usize,
    /// `vxlan42` or `udp7000`, as no other tunnel or port is named.
    pub name: String,
    /// A framing of Ethernet, with its VNI if it has one.
    pub framing: Framing,
    /// Where datagrams are sent from and received; `None` for any address of the host.
    pub local: Option<IpAddr>,
    /// The UDP port that datagrams are received on, here and there.
    pub port: u16,
    /// The host's interface that datagrams go through; `None` leaves it to the host's routes.
    pub device: Option<String>,
    /// The other hosts, each once and all of one family; empty if there is a group.
    pub remotes: Vec<IpAddr>,
    /// `None` if the other hosts are named.
    pub group: Option<Group>,
    /// The headers around a datagram.
    pub outer: Outer,
    /// Stations that are known to be behind one of `remotes`.
    pub statics: Vec<(MacAddr, IpAddr)>,
    /// Whether stations' addresses are learned from the frames that come in.
    pub learning: bool,
    /// Whether isolated ports of the bridge do not reach it.
    pub isolated: bool,
    /// The VLANs of its frames.
    pub vlans: Vlans,
    /// The longest packet inside, in bytes; `None` for the path MTU minus the tunnel's headers.
    pub mtu: Option<u32>,
}

/// Where a tunnel floods to if its hosts are not named.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Group {
    /// A multicast address.
    pub address: IpAddr,
    /// The addresses that the tunnel's hosts may have; at least one block.
    pub peers: Vec<Prefix>,
}

/// The MAC address of one station.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct Station(MacAddr);

keys! {
    /// The keys of all tunnels of a bridge.
    struct BridgedKeys {
        /// Which bridge it is a port of; not of udp-ip. Default: br0.
        "bridge" => bridge: String,
        /// The other hosts' addresses.
        "remotes" / "remote" => remotes: List<Remote>,
        /// Stations that are known to be behind a remote: MAC address to remote.
        "mac" => statics: Pairs<Station, Remote>,
        /// Other stations are learned. Default: true.
        "learning" => learning: bool,
        /// Isolated ports of the bridge do not reach it. Default: true.
        "isolated" => isolated: bool,
        ..vlan: VlanKeys,
        ..socket: SocketKeys,
    }
}

impl BridgedKeys {
    /// The tunnel, on the port that is written or the default one of the framing; `None` without either.
    pub(super) fn tunnel(
        &self,
        table: &Origin,
        framing: Framing,
        group: Option<At<Group>>,
        problems: &mut Problems,
    ) -> Option<Tunnel> {
        let port = self.socket.port().or(framing.kind().default_port())?;
        let remotes = self.remotes(problems)?;
        if !self.is_of_one_family(&remotes, group.as_ref(), problems) {
            return None;
        }
        for At { value: address, origin, .. } in remotes.iter().chain(self.local().iter()).chain(&group_address(group.as_ref())) {
            if !self.socket.has_device_for(*address, origin, problems) {
                return None;
            }
        }
        let remotes: Vec<IpAddr> = remotes.iter().map(|remote| remote.value).collect();
        Some(Tunnel {
            origin: table.clone(),
            place: Position::default(),
            bridge: 0,
            name: usual_name(framing, port),
            framing,
            local: self.socket.local(),
            port,
            device: self.socket.device(),
            statics: self.statics(&remotes, problems)?,
            remotes,
            group: group.map(|group| group.value),
            outer: self.socket.outer.outer(),
            learning: self.learning.as_ref().is_none_or(|learning| learning.value),
            isolated: self.isolated.as_ref().is_none_or(|isolated| isolated.value),
            vlans: self.vlan.vlans(table, problems)?,
            mtu: self.socket.mtu(),
        })
    }

    /// The other hosts, each once, without this one.
    fn remotes(&self, problems: &mut Problems) -> Option<Vec<At<IpAddr>>> {
        let mut remotes: Vec<At<IpAddr>> = Vec::new();
        for At { value: Remote(address), origin, .. } in self.remotes.iter().flat_map(|remotes| &remotes.value.0) {
            let problem = if remotes.iter().any(|other| other.value == *address) {
                format!("remote {address} is named twice: leave one of both out")
            } else if self.socket.local() == Some(*address) {
                format!("{address} is both this host and the other one: name the other host's address")
            } else {
                remotes.push(At::new(*address, origin));
                continue;
            };
            problems.add(origin, problem);
            return None;
        }
        Some(remotes)
    }

    /// One socket carries one family.
    fn is_of_one_family(&self, remotes: &[At<IpAddr>], group: Option<&At<Group>>, problems: &mut Problems) -> bool {
        let peers = group.iter().flat_map(|group| group.value.peers.iter().map(|peer| At::new(peer.network(), &group.origin)));
        let all: Vec<At<IpAddr>> = remotes.iter().cloned().chain(group_address(group)).chain(peers).chain(self.local()).collect();
        let Some(first) = all.first() else { return true };
        let Some(other) = all.iter().find(|other| other.value.is_ipv6() != first.value.is_ipv6()) else { return true };
        let (one, another) = (first.value, other.value);
        problems.add(&other.origin, format!("{one} and {another} are of two families: give each a tunnel of its own"));
        false
    }

    fn local(&self) -> Option<At<IpAddr>> {
        self.socket.local.as_ref().map(|local| At::new(local.value.0, &local.origin))
    }

    /// Stations behind one of the remotes, each once.
    fn statics(&self, remotes: &[IpAddr], problems: &mut Problems) -> Option<Vec<(MacAddr, IpAddr)>> {
        let mut statics: Vec<(MacAddr, IpAddr)> = Vec::new();
        for (At { value: Station(mac), origin, .. }, remote) in self.statics.iter().flat_map(|statics| &statics.value.0) {
            let remote = remote.value.0;
            let problem = if statics.iter().any(|(other, _)| other == mac) {
                format!("{mac} is named twice: a station is behind one host")
            } else if !remotes.contains(&remote) {
                format!("{mac} is behind {remote}, which is no remote of this tunnel: add it there, or name one that is")
            } else {
                statics.push((*mac, remote));
                continue;
            };
            problems.add(origin, problem);
            return None;
        }
        Some(statics)
    }
}

fn group_address(group: Option<&At<Group>>) -> Option<At<IpAddr>> {
    group.map(|group| At::new(group.value.address, &group.origin))
}

impl Tunnel {
    /// Whether the host carries it over IPv6.
    #[must_use]
    pub fn is_ipv6(&self) -> bool {
        self.remotes.first().copied().or(self.group.as_ref().map(|group| group.address)).is_some_and(|address| address.is_ipv6())
    }

    /// The name that it has if no other tunnel or port has it.
    pub(crate) fn usual_name(&self) -> String {
        usual_name(self.framing, self.port)
    }

    /// All but its name.
    pub(crate) fn keys_text(&self) -> String {
        let text = self.to_string();
        text.split_once(": ").map_or_else(|| text.clone(), |(_, keys)| keys.to_owned())
    }

    /// Ports of the bridge that it needs at most.
    #[must_use]
    pub fn port_count(&self) -> usize {
        self.remotes.len() + self.group.as_ref().map_or(0, |_| 1 + super::GROUP_PORTS)
    }

    pub(crate) fn warning(&self) -> Option<Problem> {
        self.outer.warning(self.is_ipv6()).map(|text| Problem::new(&self.origin, text))
    }
}

/// `tunnel vxlan42: VNI 42, port 4789, local 192.0.2.1, 2 remotes: 192.0.2.2 192.0.2.3, trunk all`.
impl fmt::Display for Tunnel {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.framing.vni() {
            Some(vni) => write!(out, "tunnel {}: VNI {vni}, port {}", self.name, self.port)?,
            None => write!(out, "tunnel {}: {}, port {}", self.name, self.framing.kind().title(), self.port)?,
        }
        if let Some(local) = self.local {
            write!(out, ", local {local}")?;
        }
        if let Some(device) = &self.device {
            write!(out, ", device {device}")?;
        }
        match &self.group {
            Some(group) => write!(out, ", group {}, peers{}", group.address, spaced(&group.peers))?,
            None if self.remotes.len() == 1 => write!(out, ", remote{}", spaced(&self.remotes))?,
            None => write!(out, ", {} remotes:{}", self.remotes.len(), spaced(&self.remotes))?,
        }
        write!(out, ", {}{}", self.vlans, self.outer)?;
        if let Some(mtu) = self.mtu {
            write!(out, ", mtu {mtu}")?;
        }
        if !self.learning {
            out.write_str(", no learning")?;
        }
        if !self.isolated {
            out.write_str(", not isolated")?;
        }
        match self.statics.len() {
            0 => Ok(()),
            1 => out.write_str(", 1 static address"),
            more => write!(out, ", {more} static addresses"),
        }
    }
}

fn usual_name(framing: Framing, port: u16) -> String {
    let name = framing.kind().name();
    framing.vni().map_or_else(|| format!("{name}{port}"), |vni| format!("{name}{vni}"))
}

/// ` 192.0.2.2 192.0.2.3`.
fn spaced(list: &[impl fmt::Display]) -> String {
    list.iter().map(|item| format!(" {item}")).collect()
}

impl Text for Station {
    fn parse(text: &str, _: &str, _: &Origin) -> Result<Station, String> {
        let mac: MacAddr = text.parse().map_err(|error| format!("'{}' is {error}", text.escape_debug()))?;
        if mac.is_multicast() {
            return Err(format!("{mac} is a group address: frames to groups go to all remotes, leave it out"));
        }
        if mac.is_zero() {
            return Err(format!(
                "{mac} is not the address of a station: frames to unknown stations go to all remotes, leave it out"
            ));
        }
        Ok(Station(mac))
    }
}

impl PairKey for Station {
    const SHAPE: &str = "MAC@ADDR, such as mac=52:54:00:12:34:56@192.0.2.2";
}

#[cfg(test)]
string_schema!(Station);
