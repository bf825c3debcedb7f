//! One port of a bridge: what `--tap` and `--port` say of it.
//!
//! What all kinds have in common is here, and what tells them apart in a file of its own.

mod packet;
mod socket;
mod tap;
#[cfg(test)]
mod tests;

use std::ops::RangeInclusive;
use std::path::{Path, PathBuf};

use netio::Netns;
use netio::guest::Address;
use netio::tap::{Layer, TapSpec};
use vswitch::{BridgeId, PortVlan};

use super::ConfigError;
use super::address::Cidr;
use super::tunnel::ip::IpTunnelConfig;
use super::vlan::VlanKeys;
use super::words::{check_once, parse_number, parse_switch, split_pair, unknown};
pub(super) use tap::parse_tap;

/// From the least that IPv4 allows (RFC 791) to the most that a TAP allows.
pub(super) const MTU_RANGE: RangeInclusive<u32> = 68..=65_521;

const KINDS: [&str; 3] = ["packet", "stream", "dgram"];

/// One port.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) struct PortConfig {
    /// Of no meaning for a TUN device.
    pub(crate) bridge: BridgeId,
    /// For people and counters.
    pub(crate) name: String,
    pub(crate) device: DeviceConfig,
    pub(crate) vlan: PortVlan,
    /// The VLAN setting in words.
    pub(crate) vlan_text: String,
    pub(crate) coalesce: bool,
    /// Of a TUN device, which is no port of the bridge but has the number of one.
    pub(crate) address: Option<Cidr>,
}

/// What its frames come from and go to.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) enum DeviceConfig {
    /// The user side of a TAP, or of a TUN.
    Tap {
        spec: TapSpec,
        /// Where another process holds it: join it from its network side.
        attach: bool,
    },
    /// The network side of an interface of our own namespace.
    Packet(PacketConfig),
    /// A guest's connection.
    Stream(StreamConfig),
    /// A socket with a path, and a frame a datagram.
    Dgram(DgramConfig),
}

/// A guest that comes by a connection.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) struct StreamConfig {
    /// Where it listens, or we do.
    pub(crate) address: Address,
    /// The longest packet that is sent there, in bytes.
    pub(crate) mtu: u32,
    /// One of those that connect to us; `None`: we connect.
    pub(crate) slot: Option<Slot>,
}

/// Where several guests connect to, each has a port of its own.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct Slot {
    /// From 1.
    pub(crate) number: u16,
    pub(crate) count: u16,
}

/// A guest that sends and receives datagrams.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) struct DgramConfig {
    pub(crate) path: PathBuf,
    /// The guest's socket; `None` is whichever sent last.
    pub(crate) remote: Option<PathBuf>,
    /// The longest packet that is sent there, in bytes.
    pub(crate) mtu: u32,
}

/// What only one port can have.
#[derive(PartialEq, Eq)]
enum Place<'a> {
    Link(&'a str, Option<&'a Netns>),
    Path(&'a Path),
    Address(&'a Address),
}

/// An interface that another process or the host uses too.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) struct PacketConfig {
    pub(crate) interface: String,
    /// How many workers read it.
    pub(crate) queues: usize,
    /// The longest packet that is sent there, in bytes, if not as long as the interface takes.
    pub(crate) mtu: Option<u32>,
    /// False: plain frames with complete checksums only.
    pub(crate) offload: bool,
}

impl DeviceConfig {
    /// What a device need not be made anew for, and how many read it.
    fn forget_what_can_change(&mut self) {
        match self {
            DeviceConfig::Tap { spec, .. } => (spec.mtu, spec.queues) = (None, 1),
            DeviceConfig::Packet(packet) => (packet.mtu, packet.queues) = (None, 1),
            DeviceConfig::Stream(stream) => {
                stream.mtu = 0;
                if let Some(slot) = &mut stream.slot {
                    slot.count = 0;
                }
            }
            DeviceConfig::Dgram(dgram) => dgram.mtu = 0,
        }
    }
}

impl PortConfig {
    /// The TUN device of a tunnel of IP packets.
    pub(super) fn tun(tunnel: &IpTunnelConfig) -> PortConfig {
        PortConfig {
            bridge: BridgeId::default(),
            name: tunnel.name.clone(),
            device: DeviceConfig::Tap {
                spec: tap::spec(&tunnel.name, tunnel.netns.clone(), Layer::Ip, tunnel.mtu, true),
                attach: false,
            },
            vlan: PortVlan::default(),
            vlan_text: "IP in UDP".to_owned(),
            coalesce: true,
            address: tunnel.address,
        }
    }

    /// Is it a port of the bridge?
    pub(crate) fn is_bridged(&self) -> bool {
        !matches!(&self.device, DeviceConfig::Tap { spec, .. } if spec.layer == Layer::Ip)
    }

    /// The link that it is, and the namespace of that link.
    pub(crate) fn link(&self) -> Option<(&str, Option<&Netns>)> {
        match &self.device {
            DeviceConfig::Tap { spec, .. } => Some((&spec.name, spec.netns.as_ref())),
            DeviceConfig::Packet(packet) => Some((&packet.interface, None)),
            DeviceConfig::Stream(_) | DeviceConfig::Dgram(_) => None,
        }
    }

    /// The host's interface that it shares with the host.
    pub(crate) fn shared_interface(&self) -> Option<&str> {
        match &self.device {
            DeviceConfig::Packet(packet) => Some(&packet.interface),
            DeviceConfig::Tap { .. } | DeviceConfig::Stream(_) | DeviceConfig::Dgram(_) => None,
        }
    }

    /// The longest packet that is sent there, in bytes, as far as it was said.
    pub(crate) fn mtu(&self) -> Option<u32> {
        match &self.device {
            DeviceConfig::Tap { spec, .. } => spec.mtu,
            DeviceConfig::Packet(packet) => packet.mtu,
            DeviceConfig::Stream(stream) => Some(stream.mtu),
            DeviceConfig::Dgram(dgram) => Some(dgram.mtu),
        }
    }

    /// A device that is ours to set gets this MTU, if none was said.
    pub(crate) fn propose_mtu(&mut self, mtu: Option<u32>) {
        if let DeviceConfig::Tap { spec, .. } = &mut self.device {
            spec.mtu = spec.mtu.or(mtu);
        }
    }

    /// Is read by so many workers, as far as it can be.
    pub(crate) fn set_queues(&mut self, queues: usize) {
        match &mut self.device {
            DeviceConfig::Tap { spec, .. } => spec.queues = queues,
            DeviceConfig::Packet(packet) => packet.queues = queues,
            // One worker reads a socket.
            DeviceConfig::Stream(_) | DeviceConfig::Dgram(_) => {}
        }
    }

    /// The guest's place where several connect to one path or address.
    pub(crate) fn slot(&self) -> Option<(&Address, Slot)> {
        match &self.device {
            DeviceConfig::Stream(StreamConfig { address, slot: Some(slot), .. }) => Some((address, *slot)),
            _ => None,
        }
    }

    /// Its name; of several guests' places those of all, at the first, and nothing at the others.
    pub(crate) fn title(&self) -> Option<String> {
        match self.slot() {
            None | Some((_, Slot { count: 1, .. })) => Some(self.name.clone()),
            Some((_, Slot { number: 1, count })) => Some(format!("{}..{count}", self.name)),
            Some(_) => None,
        }
    }

    /// Is it the same port, perhaps with other keys?
    pub(crate) fn is_same_port(&self, other: &PortConfig) -> bool {
        let number = |port: &PortConfig| port.slot().map(|(_, slot)| slot.number);
        self.place() == other.place() && number(self) == number(other)
    }

    /// Can the port become the other one with the device that it has?
    pub(crate) fn keeps_device(&self, other: &PortConfig) -> bool {
        let device = |port: &PortConfig| {
            let mut device = port.device.clone();
            device.forget_what_can_change();
            device
        };
        self.is_same_port(other) && device(self) == device(other) && self.address == other.address
    }

    /// Takes over those keys of the other one for which no other device is needed.
    pub(crate) fn adopt(&mut self, other: &PortConfig) {
        self.bridge = other.bridge;
        self.vlan = other.vlan.clone();
        self.vlan_text.clone_from(&other.vlan_text);
        self.coalesce = other.coalesce;
        match &mut self.device {
            DeviceConfig::Tap { spec, .. } => spec.mtu = other.mtu(),
            DeviceConfig::Packet(packet) => packet.mtu = other.mtu(),
            DeviceConfig::Stream(stream) => {
                stream.mtu = other.mtu().unwrap_or(stream.mtu);
                stream.slot = other.slot().map(|(_, slot)| slot);
            }
            DeviceConfig::Dgram(dgram) => dgram.mtu = other.mtu().unwrap_or(dgram.mtu),
        }
    }

    /// Its keys, for people: `access VLAN 10, mtu 1400`.
    pub(crate) fn keys_text(&self) -> String {
        let mut text = self.vlan_text.clone();
        if let Some(mtu) = self.mtu() {
            text += &format!(", mtu {mtu}");
        }
        if let Some((_, slot)) = self.slot() {
            text += &format!(", {} guests", slot.count);
        }
        if !self.coalesce {
            text += ", no gro";
        }
        match &self.device {
            DeviceConfig::Tap { spec, attach } => {
                text += if spec.offload { "" } else { ", no offload" };
                text += if *attach { ", or joined from its network side" } else { "" };
            }
            DeviceConfig::Packet(packet) => text += if packet.offload { "" } else { ", no offload" },
            DeviceConfig::Stream(stream) => text += if stream.slot.is_some() { "" } else { ", client" },
            DeviceConfig::Dgram(dgram) => {
                if let Some(remote) = &dgram.remote {
                    text += &format!(", remote {}", remote.display());
                }
            }
        }
        text
    }

    /// What nobody else can have.
    pub(crate) fn where_it_is(&self) -> String {
        self.slot().map_or_else(|| self.name.clone(), |(address, _)| address.to_string())
    }

    /// Do both want the same for themselves?
    pub(crate) fn clashes_with(&self, other: &PortConfig) -> bool {
        self.place() == other.place()
    }

    fn place(&self) -> Place<'_> {
        match &self.device {
            DeviceConfig::Tap { spec, .. } => Place::Link(&spec.name, spec.netns.as_ref()),
            DeviceConfig::Packet(packet) => Place::Link(&packet.interface, None),
            DeviceConfig::Stream(StreamConfig { address: Address::Unix(path), .. }) => Place::Path(path),
            DeviceConfig::Stream(stream) => Place::Address(&stream.address),
            DeviceConfig::Dgram(dgram) => Place::Path(&dgram.path),
        }
    }

    /// What is allowed but should be thought over.
    pub(super) fn warning(&self) -> Option<String> {
        match self.slot() {
            Some((Address::Tcp(address), Slot { number: 1, .. })) if !address.ip().is_loopback() => Some(format!(
                "--port stream:{address}: whoever reaches this address is a host of the bridge, and frames pass in the clear: \
                 let nobody else reach it, or use a path"
            )),
            _ => None,
        }
    }
}

/// `KIND:WHERE[:KEY=VALUE...]`; one text may be several ports.
pub(super) fn parse_port(text: &str) -> Result<Vec<PortConfig>, ConfigError> {
    let place = format!("--port {text}");
    let Some((kind, rest)) = text.split_once(':') else {
        let problem = match KINDS.contains(&text) {
            true => format!("{text} of what? write {text}:WHERE"),
            false => format!("a port is KIND:WHERE; kinds are {}, and a TAP of the switch's own is --tap", KINDS.join(", ")),
        };
        return Err(ConfigError::new(place, problem));
    };
    match kind {
        "packet" => packet::parse(&place, rest).map(|port| vec![port]),
        "stream" => socket::parse_stream(&place, rest),
        "dgram" => socket::parse_dgram(&place, rest).map(|port| vec![port]),
        "tap" => Err(ConfigError::new(place, format!("a TAP of the switch's own is --tap {rest}"))),
        _ => Err(ConfigError::new(place, unknown("kind of port", kind, &KINDS))),
    }
}

/// The keys that ports of all kinds have, as they were given.
#[derive(Debug, Default)]
struct Settings {
    vlan: VlanKeys,
    mtu: Option<u32>,
    offload: Option<bool>,
    gro: Option<bool>,
}

impl Settings {
    /// Reads the pairs, which may have these keys. Those that not all kinds have are `other`'s, which says
    /// whether one was given before.
    fn read<'a>(
        place: &str,
        pairs: impl Iterator<Item = &'a str>,
        keys: &[&str],
        mut other: impl FnMut(&str, &str) -> Result<bool, ConfigError>,
    ) -> Result<Settings, ConfigError> {
        let mut settings = Settings::default();
        for pair in pairs {
            let (key, value) = split_pair(place, pair)?;
            if !keys.contains(&key) {
                return Err(ConfigError::new(place, unknown("key", key, keys)));
            }
            let twice = match key {
                "mtu" => settings.mtu.replace(parse_number(place, key, value, MTU_RANGE)?).is_some(),
                "offload" => settings.offload.replace(parse_switch(place, key, value)?).is_some(),
                "gro" => settings.gro.replace(parse_switch(place, key, value)?).is_some(),
                _ => match settings.vlan.read(place, key, value)? {
                    Some(twice) => twice,
                    None => other(key, value)?,
                },
            };
            check_once(place, key, twice)?;
        }
        Ok(settings)
    }

    /// A port of this device.
    fn port(&self, place: &str, name: &str, device: DeviceConfig) -> Result<PortConfig, ConfigError> {
        let (vlan, vlan_text) = self.vlan.setting(place)?;
        let bridge = BridgeId::default();
        Ok(PortConfig {
            bridge,
            name: name.to_owned(),
            device,
            vlan,
            vlan_text,
            coalesce: self.gro.unwrap_or(true),
            address: None,
        })
    }
}
