//! One port of the bridge: what `--tap` says of it.

use std::ops::RangeInclusive;

use netio::Netns;
use netio::tap::TapSpec;
use packet::vlan::VlanId;
use vswitch::{PortVlan, VlanMode, VlanSet};

use super::ConfigError;
use super::words::{check_name, parse_number, parse_switch, parse_vlan, unknown};

/// Frames that the kernel keeps for us to read, a queue. Its own default (1000) holds 2 ms of small
/// frames; more only adds delay behind super-frames.
const TX_QUEUE_LEN: u32 = 1000;

/// From the least that IPv4 allows (RFC 791) to the most that a TAP allows.
const MTU_RANGE: RangeInclusive<u32> = 68..=65_521;

const KEYS: [&str; 6] = ["vlan", "trunks", "vlan-mode", "mtu", "offload", "gro"];
const MODES: [(&str, VlanMode); 4] = [
    ("access", VlanMode::Access),
    ("trunk", VlanMode::Trunk),
    ("native-tagged", VlanMode::NativeTagged),
    ("native-untagged", VlanMode::NativeUntagged),
];

/// One port.
#[derive(Debug)]
pub(crate) struct PortConfig {
    pub(crate) tap: TapSpec,
    pub(crate) vlan: PortVlan,
    /// The VLAN setting in words.
    pub(crate) vlan_text: String,
    pub(crate) coalesce: bool,
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
    let (vlan, vlan_text) = settings.vlan(&place)?;
    Ok(PortConfig {
        tap: TapSpec {
            name: name.to_owned(),
            netns: netns.map(Netns::new),
            queues: 1,
            mtu: settings.mtu,
            tx_queue_len: TX_QUEUE_LEN,
            offload: settings.offload.unwrap_or(true),
        },
        vlan,
        vlan_text,
        coalesce: settings.gro.unwrap_or(true),
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
    vlan: Option<VlanId>,
    trunks: Option<Vec<VlanId>>,
    mode: Option<VlanMode>,
    mtu: Option<u32>,
    offload: Option<bool>,
    gro: Option<bool>,
}

impl Settings {
    fn read(&mut self, place: &str, pair: &str) -> Result<(), ConfigError> {
        let Some((key, value)) = pair.split_once('=') else {
            return Err(ConfigError::new(place, format!("'{pair}' is not KEY=VALUE")));
        };
        let twice = match key {
            "vlan" => self.vlan.replace(parse_vlan(place, value, 1..=4094)?).is_some(),
            "trunks" => {
                let trunks: Result<_, _> = value.split('+').map(|vlan| parse_vlan(place, vlan, 0..=4094)).collect();
                self.trunks.replace(trunks?).is_some()
            }
            "vlan-mode" => self.mode.replace(parse_mode(place, value)?).is_some(),
            "mtu" => self.mtu.replace(parse_number(place, key, value, MTU_RANGE)?).is_some(),
            "offload" => self.offload.replace(parse_switch(place, key, value)?).is_some(),
            "gro" => self.gro.replace(parse_switch(place, key, value)?).is_some(),
            _ => return Err(ConfigError::new(place, unknown("key", key, &KEYS))),
        };
        if twice { Err(ConfigError::new(place, format!("'{key}' is given twice"))) } else { Ok(()) }
    }

    /// Open vSwitch's rules: a VLAN alone makes an access port, nothing or trunks alone a trunk.
    fn vlan(&self, place: &str) -> Result<(PortVlan, String), ConfigError> {
        let mode = self.mode.unwrap_or(if self.vlan.is_some() { VlanMode::Access } else { VlanMode::Trunk });
        let trunks = self.trunks.as_ref().map_or_else(VlanSet::all, |trunks| trunks.iter().copied().collect());
        let listed = match &self.trunks {
            Some(trunks) => trunks.iter().map(ToString::to_string).collect::<Vec<_>>().join("+"),
            None => "all".to_owned(),
        };
        match (mode, self.vlan) {
            (VlanMode::Access, Some(_)) if self.trunks.is_some() => Err(ConfigError::new(
                place,
                "an access port has no trunks: leave out trunks=, or add vlan-mode=native-tagged or native-untagged",
            )),
            (VlanMode::Access, Some(vlan)) => Ok((PortVlan::access(vlan), format!("access VLAN {vlan}"))),
            (VlanMode::Trunk, None) if self.trunks.is_none() => Ok((PortVlan::trunk(trunks), "all VLANs".to_owned())),
            (VlanMode::Trunk, None) => Ok((PortVlan::trunk(trunks), format!("trunk VLANs {listed}"))),
            (VlanMode::Trunk, Some(_)) => Err(ConfigError::new(
                place,
                "a trunk has no VLAN of its own: leave out vlan=, or use vlan-mode=native-tagged or native-untagged",
            )),
            (VlanMode::NativeTagged, Some(vlan)) => {
                Ok((PortVlan::native_tagged(vlan, trunks), format!("native VLAN {vlan} tagged, trunk VLANs {listed}")))
            }
            (VlanMode::NativeUntagged, Some(vlan)) => {
                Ok((PortVlan::native_untagged(vlan, trunks), format!("native VLAN {vlan} untagged, trunk VLANs {listed}")))
            }
            (_, None) => Err(ConfigError::new(place, "this vlan-mode needs a VLAN: add vlan=10 or whichever it is")),
        }
    }
}

fn parse_mode(place: &str, text: &str) -> Result<VlanMode, ConfigError> {
    let known = MODES.iter().find(|(name, _)| *name == text);
    known.map(|(_, mode)| *mode).ok_or_else(|| ConfigError::new(place, unknown("vlan-mode", text, &MODES.map(|(name, _)| name))))
}
