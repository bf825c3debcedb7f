//! The VLANs of a port, in the words of Open vSwitch; of any kind of port.

use packet::vlan::VlanId;
use vswitch::{PortVlan, VlanMode, VlanSet};

use super::ConfigError;
use super::words::{parse_vlan, unknown};

const MODES: [(&str, VlanMode); 4] = [
    ("access", VlanMode::Access),
    ("trunk", VlanMode::Trunk),
    ("native-tagged", VlanMode::NativeTagged),
    ("native-untagged", VlanMode::NativeUntagged),
];

/// The keys as they were given.
#[derive(Debug, Default)]
pub(super) struct VlanKeys {
    vlan: Option<VlanId>,
    trunks: Option<Vec<VlanId>>,
    mode: Option<VlanMode>,
}

impl VlanKeys {
    /// Was it given before? `None` if it is a key of something else.
    pub(super) fn read(&mut self, place: &str, key: &str, value: &str) -> Result<Option<bool>, ConfigError> {
        Ok(Some(match key {
            "vlan" => self.vlan.replace(parse_vlan(place, value, 1..=4094)?).is_some(),
            "trunks" => {
                let trunks: Result<_, _> = value.split('+').map(|vlan| parse_vlan(place, vlan, 0..=4094)).collect();
                self.trunks.replace(trunks?).is_some()
            }
            "vlan-mode" => self.mode.replace(parse_mode(place, value)?).is_some(),
            _ => return Ok(None),
        }))
    }

    /// What they mean together, and that in words.
    ///
    /// Open vSwitch's rules: a VLAN alone makes an access port, nothing or trunks alone a trunk.
    pub(super) fn setting(&self, place: &str) -> Result<(PortVlan, String), ConfigError> {
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
