//! Ports: where frames enter and leave the bridge.

use std::fmt;

use packet::{Features, Headers, Offload};

use crate::vlan::PortVlan;

/// A port's number on its bridge.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct PortId(pub u16);

impl PortId {
    /// The number as an index.
    #[inline]
    #[must_use]
    pub fn index(self) -> usize {
        usize::from(self.0)
    }
}

impl fmt::Display for PortId {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(out)
    }
}

/// What the pipeline knows of a port.
#[derive(Clone, Debug)]
pub struct Port {
    /// Which VLANs it carries and how.
    pub vlan: PortVlan,
    /// The longest packet behind the Ethernet header and VLAN tags, in bytes.
    pub mtu: u32,
    /// What its far side takes without help.
    pub features: Features,
    /// Are consecutive frames of one flow written as one super-frame?
    pub coalesce: bool,
    /// Are frames that leave as they came written many in one call?
    pub bursts: bool,
    /// Leads outside: what comes in is routed, never switched.
    pub is_uplink: bool,
}

impl Port {
    /// Would the packet behind the Ethernet header and tags, or a segment of it, be longer than the MTU?
    #[inline]
    #[must_use]
    pub fn is_too_long(&self, headers: &Headers, offload: Offload, frame_len: usize) -> bool {
        let len = match offload.segmentation {
            Some(segmentation) => usize::from(headers.payload) + usize::from(segmentation.size),
            None => frame_len,
        };
        len > self.mtu as usize + usize::from(headers.l3)
    }
}
