//! Tunnels: other hosts that a bridge reaches in UDP datagrams, as `--vxlan` and `--udp` say.
//!
//! Each other host of a tunnel is a port of the bridge of its own. A tunnel names them (`remote=`), or it
//! finds them as they speak in a multicast group (`group=`); then it believes those in `peers=` alone,
//! because whoever sends there may be anybody.

mod apart;
pub(crate) mod ip;
mod outer;
mod underlay;

use std::fmt;
use std::net::IpAddr;

use packet::MacAddr;
use tunnel::Vni;
use vswitch::{BridgeId, PortVlan};

use super::ConfigError;
use super::port::MTU_RANGE;
use super::vlan::VlanKeys;
use super::words::{check_name, check_once, parse_number, parse_switch, split_pair, unknown};
use crate::cli::BridgeWords;
pub(super) use apart::{check_against_gateways, check_ip_against_others};
pub(crate) use outer::Outer;
use outer::OuterKeys;
pub(crate) use outer::{Checksum, DontFragment};
pub(crate) use underlay::Prefix;
use underlay::{is_of_one_link, parse_group, parse_host, parse_prefix};

/// Of VXLAN (RFC 7348 section 5, IANA).
const VXLAN_PORT: u16 = 4789;

/// Ports of the bridge that are kept for hosts that a tunnel finds in its multicast group.
pub(crate) const GROUP_PORTS: usize = 64;

const VXLAN_KEYS: [&str; 17] = [
    "vni",
    "remote",
    "local",
    "port",
    "vlan",
    "trunks",
    "vlan-mode",
    "mtu",
    "mac",
    "learning",
    "group",
    "peers",
    "dev",
    "ttl",
    "tos",
    "df",
    "csum",
];

const UDP_KEYS: [&str; 14] =
    ["remote", "port", "local", "vlan", "trunks", "vlan-mode", "mtu", "mac", "learning", "dev", "ttl", "tos", "df", "csum"];

/// One tunnel of a bridge: with VXLAN headers, or bare Ethernet in UDP.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) struct TunnelConfig {
    pub(crate) bridge: BridgeId,
    /// `vxlan42` or `udp7000`, as no other tunnel or TAP is named; for people and counters.
    pub(crate) name: String,
    /// `None` for Ethernet in UDP.
    pub(crate) vni: Option<Vni>,
    /// Where datagrams are sent from and received; `None` for any address of the host.
    pub(crate) local: Option<IpAddr>,
    /// The UDP port that is received on, here and there.
    pub(crate) port: u16,
    /// The host's interface that they go through; `None` leaves it to the host's routes.
    pub(crate) device: Option<String>,
    /// The other hosts, each once and all of one family; none if there is a group.
    pub(crate) remotes: Vec<IpAddr>,
    /// `None` if the other hosts are named.
    pub(crate) group: Option<Group>,
    pub(crate) outer: Outer,
    /// Stations that are known to be behind one of `remotes`.
    pub(crate) statics: Vec<(MacAddr, IpAddr)>,
    /// Are stations' addresses learned from the frames that come in?
    pub(crate) learning: bool,
    pub(crate) vlan: PortVlan,
    /// The VLAN setting in words.
    pub(crate) vlan_text: String,
    /// Of the frames inside, if not what the way to the other hosts leaves.
    pub(crate) mtu: Option<u32>,
}

/// Where a tunnel floods to if its hosts are not named.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) struct Group {
    /// A multicast address.
    pub(crate) address: IpAddr,
    /// Who is believed to be one of the tunnel's hosts; one block at least.
    pub(crate) peers: Vec<Prefix>,
}

impl TunnelConfig {
    /// Does the host carry it over IPv6?
    pub(crate) fn is_ipv6(&self) -> bool {
        self.remotes.first().copied().or(self.group.as_ref().map(|group| group.address)).is_some_and(|address| address.is_ipv6())
    }

    /// What it is called where no other is called so.
    pub(crate) fn usual_name(&self) -> String {
        self.vni.map_or_else(|| format!("udp{}", self.port), |vni| format!("vxlan{vni}"))
    }

    /// All but its name, for people.
    pub(crate) fn keys_text(&self) -> String {
        let text = self.to_string();
        text.split_once(": ").map_or_else(|| text.clone(), |(_, keys)| keys.to_owned())
    }

    fn flag(&self) -> &'static str {
        Kind::of(self.vni).flag()
    }
}

/// `tunnel vxlan42: VNI 42, port 4789, local 192.0.2.1, 2 remotes: 192.0.2.2 192.0.2.3, trunk all`.
impl fmt::Display for TunnelConfig {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.vni {
            Some(vni) => write!(out, "tunnel {}: VNI {vni}, port {}", self.name, self.port)?,
            None => write!(out, "tunnel {}: Ethernet in UDP, port {}", self.name, self.port)?,
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
        write!(out, ", {}{}", self.vlan_text, self.outer)?;
        if let Some(mtu) = self.mtu {
            write!(out, ", mtu {mtu}")?;
        }
        if !self.learning {
            out.write_str(", no learning")?;
        }
        match self.statics.len() {
            0 => Ok(()),
            1 => out.write_str(", 1 static address"),
            more => write!(out, ", {more} static addresses"),
        }
    }
}

/// Which flag a tunnel comes from.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Kind {
    Vxlan,
    Udp,
}

impl Kind {
    fn of(vni: Option<Vni>) -> Kind {
        if vni.is_some() { Kind::Vxlan } else { Kind::Udp }
    }

    fn flag(self) -> &'static str {
        match self {
            Kind::Vxlan => "--vxlan",
            Kind::Udp => "--udp",
        }
    }

    fn keys(self) -> &'static [&'static str] {
        match self {
            Kind::Vxlan => &VXLAN_KEYS,
            Kind::Udp => &UDP_KEYS,
        }
    }
}

/// `--vxlan` and `--udp` of all bridges, as often as they are given, checked against each other. `names` are taken already.
pub(super) fn parse_tunnels(
    words: &[BridgeWords],
    names: &[&str],
    warnings: &mut Vec<String>,
) -> Result<Vec<TunnelConfig>, ConfigError> {
    let texts = words.iter().enumerate().flat_map(|(number, bridge)| {
        let vxlan = bridge.vxlan.iter().map(|text| (Kind::Vxlan, text));
        let all = vxlan.chain(bridge.udp.iter().map(|text| (Kind::Udp, text)));
        all.map(move |(kind, text)| (BridgeId(number as u8), kind, text))
    });
    let mut tunnels: Vec<TunnelConfig> = Vec::new();
    for (bridge, kind, text) in texts {
        let place = format!("{} {text}", kind.flag());
        let mut tunnel = parse_tunnel(kind, &place, text, warnings)?;
        tunnel.bridge = bridge;
        for other in &tunnels {
            apart::check_apart(&place, &tunnel, other)?;
        }
        let is_taken = |name: &str| names.contains(&name) || tunnels.iter().any(|other| other.name == name);
        if is_taken(&tunnel.name) {
            let more = (2..).map(|number: u32| format!("{}-{number}", tunnel.name)).find(|name| !is_taken(name));
            tunnel.name = more.unwrap_or_default();
        }
        tunnels.push(tunnel);
    }
    Ok(tunnels)
}

/// `KEY=VALUE,...`.
fn parse_tunnel(kind: Kind, place: &str, text: &str, warnings: &mut Vec<String>) -> Result<TunnelConfig, ConfigError> {
    let mut settings = Settings::default();
    for pair in text.split(',') {
        settings.read(kind, place, pair)?;
    }
    settings.finish(kind, place, warnings)
}

/// What tunnels of each kind say of the socket that carries them.
#[derive(Debug, Default)]
struct SocketKeys {
    local: Option<IpAddr>,
    port: Option<u16>,
    device: Option<String>,
    mtu: Option<u32>,
    outer: OuterKeys,
}

impl SocketKeys {
    /// Was it given before? `None` if it is a key of something else.
    fn read(&mut self, place: &str, key: &str, value: &str) -> Result<Option<bool>, ConfigError> {
        Ok(Some(match key {
            "local" => self.local.replace(parse_host(place, key, value)?).is_some(),
            "port" => self.port.replace(parse_number(place, key, value, 1..=u16::MAX)?).is_some(),
            "mtu" => self.mtu.replace(parse_number(place, key, value, MTU_RANGE)?).is_some(),
            "dev" => {
                check_name(place, "dev", value)?;
                self.device.replace(value.to_owned()).is_some()
            }
            _ => return self.outer.read(place, key, value),
        }))
    }
}

/// The keys of one tunnel as they were given.
#[derive(Debug, Default)]
struct Settings {
    vni: Option<Vni>,
    remotes: Option<Vec<IpAddr>>,
    group: Option<IpAddr>,
    peers: Option<Vec<Prefix>>,
    statics: Option<Vec<(MacAddr, IpAddr)>>,
    learning: Option<bool>,
    vlan: VlanKeys,
    socket: SocketKeys,
}

impl Settings {
    fn read(&mut self, kind: Kind, place: &str, pair: &str) -> Result<(), ConfigError> {
        let (key, value) = split_pair(place, pair)?;
        if !kind.keys().contains(&key) {
            return Err(ConfigError::new(place, unknown("key", key, kind.keys())));
        }
        let twice = match key {
            "vni" => self.vni.replace(parse_vni(place, value)?).is_some(),
            "remote" => self.remotes.replace(parse_remotes(place, value)?).is_some(),
            "group" => self.group.replace(parse_group(place, value)?).is_some(),
            "peers" => {
                let peers: Result<_, _> = value.split('+').map(|text| parse_prefix(place, text)).collect();
                self.peers.replace(peers?).is_some()
            }
            "mac" => self.statics.replace(parse_statics(place, value)?).is_some(),
            "learning" => self.learning.replace(parse_switch(place, key, value)?).is_some(),
            _ => match self.vlan.read(place, key, value)? {
                Some(twice) => twice,
                None => self.socket.read(place, key, value)?.unwrap_or_default(),
            },
        };
        check_once(place, key, twice)
    }

    fn finish(self, kind: Kind, place: &str, warnings: &mut Vec<String>) -> Result<TunnelConfig, ConfigError> {
        self.check_given(kind, place)?;
        let group = self.group.map(|address| Group { address, peers: self.peers.unwrap_or_default() });
        let remotes = self.remotes.unwrap_or_default();
        let port = self.socket.port.unwrap_or(VXLAN_PORT);
        let (vlan, vlan_text) = self.vlan.setting(place)?;
        let mut tunnel = TunnelConfig {
            bridge: BridgeId::default(),
            name: self.vni.map_or_else(|| format!("udp{port}"), |vni| format!("vxlan{vni}")),
            vni: self.vni,
            local: self.socket.local,
            port,
            device: self.socket.device,
            remotes,
            group,
            outer: Outer::default(),
            statics: self.statics.unwrap_or_default(),
            learning: self.learning.unwrap_or(true),
            vlan,
            vlan_text,
            mtu: self.socket.mtu,
        };
        tunnel.outer = self.socket.outer.setting(place, tunnel.is_ipv6(), warnings);
        check_family(place, &tunnel)?;
        check_addresses(place, tunnel.local, tunnel.device.as_deref(), &tunnel.remotes, tunnel.group.as_ref())?;
        check_statics(place, &tunnel)?;
        Ok(tunnel)
    }

    /// Is all there that a tunnel needs, and nothing that another kind would?
    fn check_given(&self, kind: Kind, place: &str) -> Result<(), ConfigError> {
        let problem = match (&self.remotes, self.group) {
            _ if kind == Kind::Vxlan && self.vni.is_none() => "which network? Add vni=, a number from 0 to 16777215",
            _ if kind == Kind::Udp && self.socket.port.is_none() => "on which port? Add port=, the same at both ends",
            (None, None) if kind == Kind::Udp => "where to? Add remote=, the address of the other host",
            (None, None) => "where to? Add remote=, the address of the other host, or group= with peers=",
            (Some(_), Some(_)) => "either the other hosts are named or they are found: leave out remote= or group=",
            (None, Some(_)) if self.peers.is_none() => {
                "anybody can send to a group: add peers=, where the tunnel's hosts are, such as peers=192.0.2.0/24"
            }
            (None, Some(_)) if self.statics.is_some() => "a static entry is for a named host: leave out mac=, or use remote=",
            (Some(_), None) if self.peers.is_some() => "only the named hosts are believed: leave out peers=, or use group=",
            _ => return Ok(()),
        };
        Err(ConfigError::new(place, problem))
    }
}

fn parse_vni(place: &str, text: &str) -> Result<Vni, ConfigError> {
    let number = parse_number(place, "vni", text, 0..=Vni::MAX)?;
    Vni::new(number).ok_or_else(|| ConfigError::new(place, format!("no VNI {number}")))
}

/// `ADDR[+ADDR...]`, no one twice.
fn parse_remotes(place: &str, list: &str) -> Result<Vec<IpAddr>, ConfigError> {
    let mut remotes = Vec::new();
    for text in list.split('+') {
        let remote = parse_host(place, "remote", text)?;
        if remotes.contains(&remote) {
            return Err(ConfigError::new(place, format!("remote {remote} is named twice: leave one of both out")));
        }
        remotes.push(remote);
    }
    Ok(remotes)
}

/// `MAC@ADDR[+MAC@ADDR...]`, no station twice.
fn parse_statics(place: &str, list: &str) -> Result<Vec<(MacAddr, IpAddr)>, ConfigError> {
    let mut statics: Vec<(MacAddr, IpAddr)> = Vec::new();
    for text in list.split('+') {
        let Some((mac, remote)) = text.split_once('@') else {
            return Err(ConfigError::new(place, format!("'{text}' is not MAC@ADDR, such as mac=52:54:00:12:34:56@192.0.2.2")));
        };
        let mac: MacAddr = mac.parse().map_err(|error| ConfigError::new(place, format!("'{mac}' is {error}")))?;
        let problem = if mac.is_multicast() {
            format!("{mac} is a group's address: what is for many goes to all remotes, leave it out")
        } else if mac.is_zero() {
            format!("{mac} is no station's address: what nobody is known for goes to all remotes, leave it out")
        } else if statics.iter().any(|(other, _)| *other == mac) {
            format!("{mac} is named twice: a station is behind one host")
        } else {
            statics.push((mac, parse_host(place, "remote", remote)?));
            continue;
        };
        return Err(ConfigError::new(place, problem));
    }
    Ok(statics)
}

/// One socket carries one family.
fn check_family(place: &str, tunnel: &TunnelConfig) -> Result<(), ConfigError> {
    let group = tunnel.group.as_ref();
    let others = group.into_iter().flat_map(|group| &group.peers).map(|peers| peers.address);
    let all = tunnel.remotes.iter().copied().chain(group.map(|group| group.address)).chain(others).chain(tunnel.local);
    match all.clone().next().and_then(|first| Some((first, all.clone().find(|other| other.is_ipv6() != first.is_ipv6())?))) {
        Some((one, other)) => {
            let problem = format!("{one} and {other} are of two families: give each a tunnel of its own");
            Err(ConfigError::new(place, problem))
        }
        None => Ok(()),
    }
}

/// No host is its own remote, and an address of one link says which link.
fn check_addresses(
    place: &str,
    local: Option<IpAddr>,
    device: Option<&str>,
    remotes: &[IpAddr],
    group: Option<&Group>,
) -> Result<(), ConfigError> {
    if let Some(local) = local.filter(|local| remotes.contains(local)) {
        let problem = format!("{local} is this host and the other one: name the other host's address as remote=");
        return Err(ConfigError::new(place, problem));
    }
    let mut all = remotes.iter().copied().chain(local).chain(group.map(|group| group.address));
    match all.find(|address| device.is_none() && is_of_one_link(*address)) {
        Some(address) => Err(ConfigError::new(place, format!("{address} is of one link: say of which, such as dev=eth0"))),
        None => Ok(()),
    }
}

fn check_statics(place: &str, tunnel: &TunnelConfig) -> Result<(), ConfigError> {
    match tunnel.statics.iter().find(|(_, remote)| !tunnel.remotes.contains(remote)) {
        Some((mac, remote)) => {
            let problem = format!("{mac} is behind {remote}, which is no remote of this tunnel: add it, or name one that is");
            Err(ConfigError::new(place, problem))
        }
        None => Ok(()),
    }
}

/// ` 192.0.2.2 192.0.2.3`.
fn spaced(list: &[impl fmt::Display]) -> String {
    list.iter().map(|item| format!(" {item}")).collect()
}

#[cfg(test)]
mod tests;
