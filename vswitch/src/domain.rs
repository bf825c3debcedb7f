//! Broadcast domains: one VLAN of one bridge.
//!
//! Bridges share nothing. Each has its own ports and MAC table, and VLAN 10 of one bridge is a different network than
//! VLAN 10 of another. The ingress port determines a frame's domain, and the frame leaves through ports of that bridge
//! only; only the router takes packets from one domain to another.
//!
//! ```text
//!   port 0 --+- br0: VLAN 0 --- gateway 10.0.0.1 --+
//!   port 1 --+       VLAN 10                       +-- router -- uplink
//!   port 2 --+- br1: VLAN 0 --- gateway 10.1.0.1 --+
//!   port 3 --+       VLAN 10
//! ```
//!
//! *Ports are numbered over all bridges*, and a number may move to another bridge. So before a frame is queued for a port
//! that a MAC table or the router named, the port is checked to belong to the frame's bridge still.

use std::fmt;

use packet::vlan::VlanId;

/// Maximum number of bridges, those that come and go at one time included.
pub const MAX_BRIDGES: usize = 2048;

/// A bridge's number, less than [`MAX_BRIDGES`].
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Default)]
pub struct BridgeId(pub u16);

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

/// One VLAN of one bridge: the set of ports that a broadcast reaches.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct Domain {
    /// The bridge.
    pub bridge: BridgeId,
    /// The VLAN; [`VlanId::NONE`] for untagged frames.
    pub vlan: VlanId,
}
