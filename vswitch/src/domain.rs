//! Broadcast domains: which bridge, and which VLAN of it.
//!
//! Bridges share nothing. Each has ports and a MAC table of its own, and VLAN 10 of one is another network than VLAN 10
//! of the next. A frame belongs to the domain that its ingress port puts it into, and leaves through ports of that
//! domain's bridge alone; only the router takes packets from one domain to another.
//!
//! ```text
//!   port 0 --+- br0: VLAN 0 --- gateway 10.0.0.1 --+
//!   port 1 --+       VLAN 10                       +-- router -- uplink
//!   port 2 --+- br1: VLAN 0 --- gateway 10.1.0.1 --+
//!   port 3 --+       VLAN 10
//! ```
//!
//! *Ports are numbered over all bridges*, and a number may become another bridge's. So what a MAC table or the router says
//! of a port is believed only if the port is of that bridge still: the last look before a frame is queued.

use std::fmt;

use packet::vlan::VlanId;

/// At most so many bridges.
pub const MAX_BRIDGES: usize = 16;

/// A bridge's number, less than [`MAX_BRIDGES`].
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Default)]
pub struct BridgeId(pub u8);

impl BridgeId {
    /// The number as an index.
    #[inline]
    #[must_use]
    pub fn index(self) -> usize {
        usize::from(self.0)
    }
}

impl fmt::Display for BridgeId {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(out)
    }
}

/// One VLAN of one bridge: whom a broadcast reaches.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct Domain {
    /// The bridge.
    pub bridge: BridgeId,
    /// The VLAN; [`VlanId::NONE`] for untagged frames.
    pub vlan: VlanId,
}

impl Domain {
    /// The number among all domains, those of a bridge side by side.
    #[inline]
    pub(crate) fn index(self) -> usize {
        self.bridge.index() * VlanId::COUNT + usize::from(self.vlan.get())
    }
}
