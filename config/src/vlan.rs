//! The VLANs of a port or tunnel, in the words of Open vSwitch.

use std::fmt;

use packet::vlan::VlanId;

use crate::keys::keys;
use crate::problem::{Origin, Problems};
use crate::raw::{Raw, RawValue};
use crate::value::{List, Number, Value, words};

/// The VLANs that frames of a port are in.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Vlans {
    /// One VLAN, untagged.
    Access(VlanId),
    /// Several VLANs, tagged.
    Trunk(Trunks),
    /// Several VLANs, tagged; frames that come untagged are in the native VLAN.
    NativeTagged(VlanId, Trunks),
    /// Several VLANs, tagged, but the native VLAN untagged.
    NativeUntagged(VlanId, Trunks),
}

/// The VLANs that a trunk carries.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Trunks {
    /// Every VLAN.
    All,
    /// These VLANs only; VLAN 0 stands for untagged frames.
    Listed(Vec<VlanId>),
}

words! {
    /// The VLAN mode of a port.
    pub(crate) enum VlanMode {
        Access = "access",
        Trunk = "trunk",
        NativeTagged = "native-tagged",
        NativeUntagged = "native-untagged",
    }
}

/// The number of one VLAN. Several are the trunks of a port.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct OneVlan(Number<1, 4094>);

impl Value for OneVlan {
    fn read(raw: &Raw, key: &str, problems: &mut Problems) -> Option<OneVlan> {
        let numbers: Vec<String> = match &raw.value {
            RawValue::Word(text) => text.split(['+', ',']).map(str::to_owned).collect(),
            RawValue::List(items) => {
                let number =
                    |item: &Raw| if let RawValue::Number(number) = item.value { number.to_string() } else { String::new() };
                items.iter().map(number).collect()
            }
            _ => Vec::new(),
        };
        let are_numbers = numbers.iter().all(|text| !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit()));
        if numbers.len() > 1 && are_numbers {
            let (in_file, as_flag) = (format!("trunks = [{}]", numbers.join(", ")), format!("trunks={}", numbers.join("+")));
            let cure = raw.origin.say(&in_file, &as_flag);
            problems.add(&raw.origin, format!("{key} is one VLAN, that of an access port: for several write {cure}"));
            return None;
        }
        Number::read(raw, key, problems).map(OneVlan)
    }
}

#[cfg(test)]
impl schemars::JsonSchema for OneVlan {
    fn inline_schema() -> bool {
        true
    }

    fn schema_name() -> std::borrow::Cow<'static, str> {
        "OneVlan".into()
    }

    fn json_schema(generator: &mut schemars::SchemaGenerator) -> schemars::Schema {
        Number::<1, 4094>::json_schema(generator)
    }
}

keys! {
    /// The VLAN keys of a port or tunnel.
    struct VlanKeys {
        /// The VLAN of an access or native port, 1 to 4094.
        "vlan" => vlan: OneVlan,
        /// The VLANs that a trunk carries, 0 to 4094. Default: all.
        "trunks" => trunks: List<Number<0, 4094>>,
        /// access, trunk, native-tagged or native-untagged. Default: access with a vlan, else trunk.
        "vlan-mode" => mode: VlanMode,
    }
}

impl Vlans {
    /// Whether frames of this VLAN pass; VLAN 0 stands for untagged frames.
    #[must_use]
    pub fn carries(&self, vlan: VlanId) -> bool {
        let on_trunk = |trunks: &Trunks| match trunks {
            Trunks::All => true,
            Trunks::Listed(vlans) => vlans.contains(&vlan),
        };
        match self {
            Vlans::Access(own) => *own == vlan,
            Vlans::Trunk(trunks) => on_trunk(trunks),
            Vlans::NativeTagged(own, trunks) | Vlans::NativeUntagged(own, trunks) => *own == vlan || on_trunk(trunks),
        }
    }
}

impl VlanKeys {
    /// The meaning of the keys together, by Open vSwitch's rules: a VLAN alone makes an access port, no key or trunks alone a trunk.
    pub(crate) fn vlans(&self, table: &Origin, problems: &mut Problems) -> Option<Vlans> {
        let vlan = self.vlan.as_ref().and_then(|vlan| VlanId::new(vlan.value.0.get()));
        let trunks = match &self.trunks {
            None => Trunks::All,
            Some(trunks) => Trunks::Listed(trunks.value.0.iter().filter_map(|vlan| VlanId::new(vlan.value.get())).collect()),
        };
        let mode = match &self.mode {
            Some(mode) => mode.value,
            None if vlan.is_some() => VlanMode::Access,
            None => VlanMode::Trunk,
        };
        let problem = match (mode, vlan) {
            (VlanMode::Access, Some(_)) if self.trunks.is_some() => {
                "an access port has no trunks: leave trunks out, or set vlan-mode to native-tagged or native-untagged"
            }
            (VlanMode::Access, Some(vlan)) => return Some(Vlans::Access(vlan)),
            (VlanMode::Trunk, None) => return Some(Vlans::Trunk(trunks)),
            (VlanMode::Trunk, Some(_)) => {
                "a trunk has no VLAN of its own: leave vlan out, or set vlan-mode to native-tagged or native-untagged"
            }
            (VlanMode::NativeTagged, Some(vlan)) => return Some(Vlans::NativeTagged(vlan, trunks)),
            (VlanMode::NativeUntagged, Some(vlan)) => return Some(Vlans::NativeUntagged(vlan, trunks)),
            (_, None) => table.say("this vlan-mode needs a VLAN: add vlan = 10", "this vlan-mode needs a VLAN: add vlan=10"),
        };
        problems.add(table, problem);
        None
    }
}

/// `access VLAN 10`.
impl fmt::Display for Vlans {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Vlans::Access(vlan) => write!(out, "access VLAN {vlan}"),
            Vlans::Trunk(Trunks::All) => out.write_str("all VLANs"),
            Vlans::Trunk(trunks) => write!(out, "trunk VLANs {trunks}"),
            Vlans::NativeTagged(vlan, trunks) => write!(out, "native VLAN {vlan} tagged, trunk VLANs {trunks}"),
            Vlans::NativeUntagged(vlan, trunks) => write!(out, "native VLAN {vlan} untagged, trunk VLANs {trunks}"),
        }
    }
}

/// `10+20`, or `all`.
impl fmt::Display for Trunks {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Trunks::All => out.write_str("all"),
            Trunks::Listed(vlans) => out.write_str(&vlans.iter().map(ToString::to_string).collect::<Vec<_>>().join("+")),
        }
    }
}
