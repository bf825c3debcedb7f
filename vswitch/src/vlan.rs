//! VLAN membership: which VLAN a frame belongs to, and how it leaves each port.
//!
//! The port modes of Open vSwitch (`vlan_mode` in `vswitch.ovsschema`), one line each:
//!
//! | mode            | untagged in | tagged in         | out                                     |
//! |-----------------|-------------|-------------------|-----------------------------------------|
//! | access          | its VLAN    | dropped           | untagged                                |
//! | trunk           | VLAN 0      | if in its set     | tagged; VLAN 0 as it came               |
//! | native-tagged   | native VLAN | if in set, native | tagged                                  |
//! | native-untagged | native VLAN | if in set, native | tagged, but the native VLAN untagged    |
//!
//! A frame tagged for priority only (VID 0) counts as untagged, and keeps its priority where a tag is
//! written (IEEE 802.1Q section 6.9). Without any setting a port is a trunk of all VLANs, so that tags
//! pass untouched; on either tag protocol only the outermost tag is looked at. VLAN 0 is no VLAN: a
//! native port does not carry it. A tag hidden behind one of VID 0 passes only between ports without
//! any setting: elsewhere it would be a way into a VLAN that nobody checked.

use packet::Headers;
use packet::vlan::{Tag, TagAction, VlanId};

/// A set of VLANs.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct VlanSet(Box<[u64; VlanId::COUNT / 64]>);

impl VlanSet {
    /// All VLANs, and VLAN 0.
    #[must_use]
    pub fn all() -> VlanSet {
        VlanSet(Box::new([u64::MAX; VlanId::COUNT / 64]))
    }

    /// Is this VLAN in it?
    #[inline]
    #[must_use]
    pub fn contains(&self, vlan: VlanId) -> bool {
        self.0[usize::from(vlan.get() / 64)] >> (vlan.get() % 64) & 1 != 0
    }
}

impl FromIterator<VlanId> for VlanSet {
    fn from_iter<T: IntoIterator<Item = VlanId>>(vlans: T) -> VlanSet {
        let mut set = VlanSet(Box::new([0; VlanId::COUNT / 64]));
        for vlan in vlans {
            set.0[usize::from(vlan.get() / 64)] |= 1 << (vlan.get() % 64);
        }
        set
    }
}

/// Open vSwitch's port modes.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum VlanMode {
    /// One VLAN, untagged.
    Access,
    /// Several VLANs, tagged.
    Trunk,
    /// Several VLANs, tagged; what comes untagged is of the native VLAN.
    NativeTagged,
    /// Several VLANs, tagged, but the native VLAN untagged.
    NativeUntagged,
}

/// A port's VLAN setting.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct PortVlan {
    mode: VlanMode,
    /// The VLAN of an access port, the native VLAN; VLAN 0 on a trunk.
    native: VlanId,
    trunks: VlanSet,
    /// A trunk of all VLANs, which leaves every tag as it is.
    is_transparent: bool,
}

impl Default for PortVlan {
    fn default() -> PortVlan {
        PortVlan::trunk(VlanSet::all())
    }
}

impl PortVlan {
    fn new(mode: VlanMode, native: VlanId, trunks: VlanSet) -> PortVlan {
        let is_transparent = mode == VlanMode::Trunk && trunks.0.iter().all(|word| *word == u64::MAX);
        PortVlan { mode, native, trunks, is_transparent }
    }

    /// The VLAN of untagged frames: an access port's, the native one, VLAN 0 on a trunk.
    #[must_use]
    pub fn native(&self) -> VlanId {
        self.native
    }

    /// An access port.
    #[must_use]
    pub fn access(vlan: VlanId) -> PortVlan {
        PortVlan::new(VlanMode::Access, vlan, VlanSet::from_iter([vlan]))
    }

    /// A trunk. It carries untagged frames if VLAN 0 is in the set.
    #[must_use]
    pub fn trunk(trunks: VlanSet) -> PortVlan {
        PortVlan::new(VlanMode::Trunk, VlanId::NONE, trunks)
    }

    /// A trunk with a native VLAN that leaves it tagged. The native VLAN is always carried.
    #[must_use]
    pub fn native_tagged(native: VlanId, trunks: VlanSet) -> PortVlan {
        PortVlan::new(VlanMode::NativeTagged, native, trunks)
    }

    /// A trunk with a native VLAN that leaves it untagged. The native VLAN is always carried.
    #[must_use]
    pub fn native_untagged(native: VlanId, trunks: VlanSet) -> PortVlan {
        PortVlan::new(VlanMode::NativeUntagged, native, trunks)
    }

    /// The VLAN of a frame that came in with these headers; `None` if the port does not carry it.
    #[inline(always)]
    #[must_use]
    pub fn classify(&self, headers: &Headers) -> Option<VlanId> {
        if self.is_transparent {
            return Some(headers.tag.map_or(VlanId::NONE, Tag::vlan));
        }
        if headers.hides_tag() {
            return None;
        }
        match headers.tag.map(Tag::vlan) {
            None | Some(VlanId::NONE) => self.carries(self.native).then_some(self.native),
            Some(_) if self.mode == VlanMode::Access => None,
            Some(vlan) => self.carries(vlan).then_some(vlan),
        }
    }

    /// What happens to the tag of a frame of this VLAN on the way out; `None` if the port does not
    /// carry it.
    #[inline(always)]
    #[must_use]
    pub fn leave(&self, vlan: VlanId, headers: &Headers) -> Option<TagAction> {
        if self.is_transparent && vlan == VlanId::NONE {
            return Some(TagAction::Keep);
        }
        if !self.is_transparent && (!self.carries(vlan) || headers.hides_tag()) {
            return None;
        }
        let tagged = match self.mode {
            VlanMode::Access => false,
            VlanMode::Trunk if vlan == VlanId::NONE => return Some(TagAction::Keep),
            VlanMode::Trunk | VlanMode::NativeTagged => true,
            VlanMode::NativeUntagged => vlan != self.native,
        };
        Some(match (tagged, headers.tag) {
            (false, None) => TagAction::Keep,
            (false, Some(_)) => TagAction::Pop,
            (true, None) => TagAction::Push(Tag::of(vlan)),
            (true, Some(tag)) if tag.vlan() == vlan => TagAction::Keep,
            (true, Some(tag)) => TagAction::Replace(tag.with_vlan(vlan)),
        })
    }

    /// Does the port carry this VLAN?
    #[inline]
    #[must_use]
    pub fn carries(&self, vlan: VlanId) -> bool {
        match self.mode {
            VlanMode::Access => vlan == self.native,
            VlanMode::Trunk => self.trunks.contains(vlan),
            VlanMode::NativeTagged | VlanMode::NativeUntagged => {
                vlan == self.native || vlan != VlanId::NONE && self.trunks.contains(vlan)
            }
        }
    }
}
