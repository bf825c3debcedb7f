//! One port of the bridge: what `--tap` says of it.

use std::ops::RangeInclusive;

use netio::Netns;
use netio::tap::{Layer, TapSpec};
use vswitch::PortVlan;

use super::ConfigError;
use super::address::Cidr;
use super::tunnel::ip::IpTunnelConfig;
use super::vlan::VlanKeys;
use super::words::{check_name, check_once, parse_number, parse_switch, split_pair, unknown};

/// Frames that the kernel keeps for us to read, a queue. Its own default (1000) holds 2 ms of small
/// frames; more only adds delay behind super-frames.
const TX_QUEUE_LEN: u32 = 1000;

/// From the least that IPv4 allows (RFC 791) to the most that a TAP allows.
pub(super) const MTU_RANGE: RangeInclusive<u32> = 68..=65_521;

const KEYS: [&str; 6] = ["vlan", "trunks", "vlan-mode", "mtu", "offload", "gro"];

/// One port.
#[derive(Debug)]
pub(crate) struct PortConfig {
    pub(crate) tap: TapSpec,
    pub(crate) vlan: PortVlan,
    /// The VLAN setting in words.
    pub(crate) vlan_text: String,
    pub(crate) coalesce: bool,
    /// Of a TUN device, which is no port of the bridge but has the number of one.
    pub(crate) address: Option<Cidr>,
}

impl PortConfig {
    /// The TUN device of a tunnel of IP packets.
    pub(super) fn tun(tunnel: &IpTunnelConfig) -> PortConfig {
        PortConfig {
            tap: TapSpec {
                name: tunnel.name.clone(),
                netns: tunnel.netns.clone(),
                layer: Layer::Ip,
                queues: 1,
                mtu: tunnel.mtu,
                tx_queue_len: TX_QUEUE_LEN,
                offload: true,
            },
            vlan: PortVlan::default(),
            vlan_text: "IP in UDP".to_owned(),
            coalesce: true,
            address: tunnel.address,
        }
    }

    /// Is it a port of the bridge?
    pub(crate) fn is_tap(&self) -> bool {
        self.tap.layer == Layer::Ethernet
    }
}

/// `NAME[@NETNS][:KEY=VALUE...]`.
pub(super) fn parse_tap(text: &str) -> Result<PortConfig, ConfigError> {
    let place = format!("--tap {text}");
    let (name, netns, keys) = split_tap(text);
    check_name(&place, "a TAP", name)?;
    if netns.is_some_and(str::is_empty) {
        return Err(ConfigError::new(place, "no namespace after '@': a name under /run/netns, a path, or pid:N"));
    }
    let mut settings = Settings::default();
    for pair in keys {
        settings.read(&place, pair)?;
    }
    let (vlan, vlan_text) = settings.vlan.setting(&place)?;
    Ok(PortConfig {
        tap: TapSpec {
            name: name.to_owned(),
            netns: netns.map(Netns::new),
            layer: Layer::Ethernet,
            queues: 1,
            mtu: settings.mtu,
            tx_queue_len: TX_QUEUE_LEN,
            offload: settings.offload.unwrap_or(true),
        },
        vlan,
        vlan_text,
        coalesce: settings.gro.unwrap_or(true),
        address: None,
    })
}

/// Name, namespace and keys. The colon of `pid:N` is part of the namespace.
fn split_tap(text: &str) -> (&str, Option<&str>, impl Iterator<Item = &str>) {
    let (name, netns, rest) = match text.split_once('@') {
        Some((name, rest)) if !name.contains(':') => {
            let from = if rest.starts_with("pid:") { "pid:".len() } else { 0 };
            let end = rest[from..].find(':').map_or(rest.len(), |at| from + at);
            (name, Some(&rest[..end]), &rest[end..])
        }
        _ => {
            let end = text.find(':').unwrap_or(text.len());
            (&text[..end], None, &text[end..])
        }
    };
    (name, netns, rest.split(':').skip(1))
}

/// The keys of one port as they were given.
#[derive(Debug, Default)]
struct Settings {
    vlan: VlanKeys,
    mtu: Option<u32>,
    offload: Option<bool>,
    gro: Option<bool>,
}

impl Settings {
    fn read(&mut self, place: &str, pair: &str) -> Result<(), ConfigError> {
        let (key, value) = split_pair(place, pair)?;
        let twice = match key {
            "mtu" => self.mtu.replace(parse_number(place, key, value, MTU_RANGE)?).is_some(),
            "offload" => self.offload.replace(parse_switch(place, key, value)?).is_some(),
            "gro" => self.gro.replace(parse_switch(place, key, value)?).is_some(),
            _ => match self.vlan.read(place, key, value)? {
                Some(twice) => twice,
                None => return Err(ConfigError::new(place, unknown("key", key, &KEYS))),
            },
        };
        check_once(place, key, twice)
    }
}
